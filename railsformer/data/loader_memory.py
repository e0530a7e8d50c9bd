"""What the processes of a loader hold: flat memory means that nothing is kept of the clips."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import torch

__all__ = ["LoaderMemory", "ProcessMemory", "measure_loader_memory"]


@dataclass(frozen=True)
class ProcessMemory:
    """Memory of a process in MiB, by what it counts of the pages that processes share.

    Attributes:
        own_mib: Nothing of them (USS).
        fair_mib: Equal parts (PSS); NaN where the system does not tell.
        resident_mib: All of them (RSS).
    """

    own_mib: float
    fair_mib: float
    resident_mib: float

    @classmethod
    def of(cls, process: psutil.Process) -> "ProcessMemory":
        """Measure a process now."""
        info = process.memory_full_info()
        return cls(*(size / 2**20 for size in (info.uss, getattr(info, "pss", math.nan), info.rss)))


@dataclass(frozen=True)
class LoaderMemory:
    """Memory of a loader's processes at one moment.

    Attributes:
        num_clips: Clips delivered so far.
        main: Of the process that receives them.
        workers: Of each worker.
    """

    num_clips: int
    main: ProcessMemory
    workers: tuple[ProcessMemory, ...]


def measure_loader_memory(loader: torch.utils.data.DataLoader, *, measure_every: int) -> Iterator[LoaderMemory]:
    """Go through a loader once and watch what its processes hold.

    Over the first several hundred clips the heap of a worker grows to a plateau, since glibc keeps freed memory. So
    compare later measurements with each other, or run under MALLOC_MMAP_THRESHOLD_=1048576, which gives it back.

    Args:
        loader: Gives batches with `labels`; long enough, since the workers of another epoch may be new ones, which
            would hide a leak.
        measure_every: Batches between two measurements.

    Yields:
        Measurements in order, the first after `measure_every` batches, the last after the last batch.
    """
    this_process = psutil.Process()
    others = {process.pid for process in this_process.children()}
    workers: list[psutil.Process] | None = None
    num_clips = 0
    for number, batch in enumerate(loader, start=1):
        num_clips += len(batch["labels"])
        if workers is None:
            workers = [process for process in this_process.children() if process.pid not in others]
        if number % measure_every == 0 or number == len(loader):
            yield LoaderMemory(num_clips, ProcessMemory.of(this_process), tuple(map(ProcessMemory.of, workers)))
