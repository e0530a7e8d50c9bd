"""A run that is told to end: SIGTERM saves a checkpoint at the next step and leaves with a code of its own."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["EXIT_TERMINATED", "RunTerminatedError", "StopRequest", "start_worker", "stop_with_launcher"]

# 128 + SIGTERM, as a shell reports a process that died of it: not success, and not an error of the run.
EXIT_TERMINATED = 143
_PR_SET_PDEATHSIG = 1  # of prctl(2)


class RunTerminatedError(SystemExit):
    """A run ended early because it was told to, with a checkpoint to go on from.

    It is a SystemExit, so that the code reaches the scheduler also from a script that calls `train` itself.
    (transformers' own enable_jit_checkpoint ends training as if it were done: it goes on to select the best epoch,
    deletes the checkpoint that it just wrote where save_total_limit is 1, and exits with 0.)

    Args:
        checkpoint: The checkpoint.
    """

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(EXIT_TERMINATED)
        self.checkpoint = checkpoint


class StopRequest:
    """Listens for SIGTERM while its block lasts; `asked` says whether it came."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.asked = True  # nothing is written here: a handler that prints can meet its own stream half way


def stop_with_launcher() -> None:
    """Have Linux send SIGTERM when the launcher dies.

    `accelerate launch` of one process passes no signal on: it dies of SIGTERM and leaves its process running.
    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ
    if launched and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


def start_worker(before: Callable[[int], None] | None, worker_id: int) -> None:
    """Begin a worker that decodes: it outlives a first SIGTERM.

    Schedulers and torchrun signal every process of a run. torch lets a worker die of that, which ends the training
    process with an error before it has saved; the batches in flight are still wanted, and the training process ends
    its workers itself. A second signal means it.

    Args:
        before: The loader's own worker_init_fn.
        worker_id: Number of the worker.
    """
    if before is not None:
        before(worker_id)
    signals = 0

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            os._exit(EXIT_TERMINATED)

    signal.signal(signal.SIGTERM, hear)
