"""Memory of this process and of the device: what is used at most, and what is free."""

import os
import sys
from pathlib import Path

import psutil
import torch

__all__ = ["free_bytes", "peak_rss_bytes", "reset_peak_rss"]

_STATUS, _CLEAR_REFS, _CGROUP = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/sys/fs/cgroup")


def reset_peak_rss() -> None:
    """Let `peak_rss_bytes` count from here on; without effect where the system cannot."""
    if _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5", encoding="ascii")


def peak_rss_bytes() -> int:
    """Most resident memory of this process since it began, or since `reset_peak_rss` on Linux."""
    if _STATUS.exists():
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        for line in lines:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_bytes(device: torch.device) -> int:
    """What a new process could take: of the machine, within the limit of this container, or of the GPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    limit, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
    if os.access(limit, os.R_OK) and os.access(used, os.R_OK) and (text := limit.read_text().strip()).isdigit():
        free = min(free, max(0, int(text) - int(used.read_text())))
    return free
