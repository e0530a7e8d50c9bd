"""3D CNNs in an environment of their own, since their library needs torchvision, and we do not."""

import subprocess
import sys
from pathlib import Path

from railsformer.compare import peer_cost

__all__ = ["PEER_FOLDER", "PEER_LIBRARIES", "cost_command", "why_no_library", "why_no_peer"]

PEER_FOLDER = "peer"  # of a 3D CNN's training, beside its run
PEER_LIBRARIES = ("torch", "torchvision", "pytorchvideo")


def why_no_peer(peer_python: str | Path | None) -> str | None:
    """Why no 3D CNN can be measured, as far as one can tell without starting it."""
    if peer_python is None:
        return (
            "no environment with pytorchvideo was named; give --peer_python, the Python of one that has torch, "
            "torchvision and pytorchvideo"
        )
    if not Path(peer_python).is_file():
        return f"--peer_python must be the Python of an environment with pytorchvideo, got {peer_python}: no such file"
    return None


def why_no_library(peer_python: str | Path) -> str | None:
    """Why its environment can build no 3D CNN; takes as long as importing torch there."""
    if reason := why_no_peer(peer_python):
        return reason
    code = "import numpy, torch; from pytorchvideo.models import create_slowfast"
    try:
        done = subprocess.run([str(peer_python), "-I", "-c", code], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"--peer_python {peer_python} cannot be started ({error.strerror})"
    if not done.returncode:
        return None
    last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
    return f"the environment of {peer_python} cannot build pytorchvideo's SlowFast ({last})"


def cost_command(peer_python: str | Path | None) -> list[str]:
    """What runs a cell: of a peer its own Python, of ours this one.

    The peer's is isolated (-I): neither this environment's PYTHONPATH nor the script's folder, whose modules have
    names that the standard library has too, are looked at.
    """
    if peer_python is None:
        return [sys.executable, "-m", "railsformer.compare.cost_cell"]
    return [str(peer_python), "-I", str(Path(peer_cost.__file__).resolve())]
