"""The processes of a launch: who am I, what did the others find, who writes, and how they part."""

import gc
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
from accelerate import PartialState

from railsformer.data.probe import available_cores

__all__ = ["Process", "end_processes", "gather_values", "on_main_process", "this_process", "use_cores"]

_LAUNCHERS = ("LOCAL_WORLD_SIZE", "ACCELERATE_MIXED_PRECISION")  # what torchrun and `accelerate launch` leave behind

Result = TypeVar("Result")


@dataclass(frozen=True)
class Process:
    """A process of the launch.

    Args:
        index: Its number; 0 reads, decides and writes.
        count: How many there are.
        device: Its accelerator, or the CPU.
    """

    index: int
    count: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether it is the one that writes."""
        return self.index == 0


def this_process() -> Process:
    """This process among those that torchrun or `accelerate launch` started; the only one where neither did.

    Processes with an accelerator talk over its own backend, those on a CPU over gloo.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 and not torch.distributed.is_initialized():
        return Process(0, 1, accelerator or torch.device("cpu"))
    # The others wait while the first one looks for copies, draws and writes: hours where footage is long.
    state = PartialState(cpu=accelerator is None, timeout=timedelta(hours=12))
    return Process(state.process_index, state.num_processes, state.device)


def use_cores(process: Process) -> None:
    """On CPU under a launcher, this process's share of the cores: launchers set OMP_NUM_THREADS to 1 without a word.

    A larger number was chosen by somebody and stays; so does everything where nothing launched this process.
    """
    launched = any(name in os.environ for name in _LAUNCHERS)
    if launched and process.device.type == "cpu" and os.environ.get("OMP_NUM_THREADS") == "1":
        torch.set_num_threads(max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def gather_values(value: Result) -> list[Result]:
    """The value of every process, in their order. Every process must call it."""
    process = this_process()
    if process.count == 1:
        return [value]
    values: list[Result | None] = [None] * process.count
    torch.distributed.all_gather_object(values, value)
    return cast(list[Result], values)


def on_main_process(action: Callable[[], Result]) -> Result:
    """Do something in the first process; all of them have its result, or raise its error. Every process must call it.

    Raises:
        OSError: What the action raises.
        ValueError: What the action raises.
    """
    process = this_process()
    if process.count == 1:
        return action()
    result: Result | None = None
    failed: Exception | None = None
    if process.is_main:
        try:
            result = action()
        except (OSError, ValueError) as error:
            failed = error
    outcome = [result, failed]
    torch.distributed.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise cast(Exception, outcome[1])
    return cast(Result, outcome[0])


def end_processes() -> None:
    """Part from the other processes, once their work is done. Every process must call it.

    gloo's threads must end before the interpreter does: one that lets go of its last tensor while Python finalises
    aborts a process that has finished its work. They end with the last reference to their group, and a wrapped model
    holds one in a cycle, so cycles are collected first.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        gc.collect()
        PartialState().destroy_process_group()
