"""`railsformer train` in processes of their own that need not import everything again: forks of this one (Linux)."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence

import torch
from accelerate.state import AcceleratorState, PartialState

from railsformer.cli import main


class Forked:
    """A process that was started; what it prints waits in a pipe, which no limit on files concerns."""

    def __init__(self, number: int, printed: int) -> None:
        self.number, self._printed = number, printed
        self._code: int | None = None

    def wait(self) -> tuple[int, str]:
        """Exit code, negative after a signal, and what was printed."""
        with os.fdopen(self._printed, encoding="utf-8", errors="replace") as file:
            text = file.read()
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.number, 0)[1])
        return self._code, text

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.number, signal.SIGKILL)
        os.waitpid(self.number, 0)
        os.close(self._printed)

    def runs(self) -> bool:
        """Whether it still does."""
        if self._code is None:
            number, status = os.waitpid(self.number, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if number else None
        return self._code is None


def start(
    arguments: Sequence[object],
    *,
    before: Callable[[], None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Forked:
    """Run the command line in a fork.

    Args:
        arguments: After the program's name.
        before: Called in the new process first.
        environment: Added to this one's.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    number = os.fork()
    if number:
        os.close(writer)
        return Forked(number, reader)
    code = 1
    try:
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        sys.stdout = sys.stderr = os.fdopen(os.dup(writer), "w")
        os.environ.update(environment or {})
        PartialState._reset_state()
        AcceleratorState._reset_state()
        torch.set_num_threads(1)
        if before is not None:
            before()
        code = main([str(argument) for argument in arguments])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def until(condition: Callable[[], bool], *, seconds: float = 120.0) -> None:
    """Wait for something.

    Raises:
        TimeoutError: If it does not come.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"it did not come within {seconds} s")
        time.sleep(0.05)
