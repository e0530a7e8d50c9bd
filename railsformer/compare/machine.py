"""The machine and the libraries at hand, as they stand beside what was measured on them."""

import json
import platform
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from railsformer.data.probe import available_cores
from railsformer.training.memory import free_bytes

__all__ = ["LIBRARIES", "USABLE_SHARE", "distinct", "library_versions", "machine_facts", "memory_limit", "processor"]

LIBRARIES = ("railsformer", "torch", "transformers")
USABLE_SHARE = 0.9
_GIB = 2**30


def machine_facts(*, threads: int | None) -> dict[str, Any]:
    """Processor, cores for this process, threads, memory in GiB and GPUs.

    Args:
        threads: Of a training; all cores if None.
    """
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "processor": processor(),
        "cores": available_cores(),
        "threads": threads or available_cores(),
        "memory_gib": round(psutil.virtual_memory().total / _GIB, 1),
        "gpus": gpus,
    }


def library_versions() -> dict[str, str]:
    """Versions of the libraries that figures depend on."""
    return {name: version(name) for name in LIBRARIES}


def processor() -> str:
    """What the system calls the processor."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def distinct(found: Iterable[Mapping[str, Any]]) -> Any:
    """The one of several equal mappings, or the list of those that differ."""
    different = {json.dumps(one, sort_keys=True, default=str): dict(one) for one in found}
    return list(different.values()) if len(different) > 1 else next(iter(different.values()), {})


def memory_limit(memory_gib: float | None, *, on_gpu: bool) -> int | None:
    """Bytes that a training's process may take of the machine's memory; None where the system limits nobody else.

    Args:
        memory_gib: What was asked for; nine tenths of what is free now if None.
        on_gpu: Whether it computes on a GPU. Then None asks for no limit, and the one that holds for every process is
            given: drivers of GPUs map far more than they use.
    """
    if memory_gib is not None:
        return int(memory_gib * _GIB)
    if not on_gpu:
        return int(free_bytes(torch.device("cpu")) * USABLE_SHARE)
    if sys.platform != "linux":
        return None
    import resource

    return resource.getrlimit(resource.RLIMIT_DATA)[1]
