"""3D CNNs in an environment of their own, since their library needs torchvision, and we do not."""

import sys
from pathlib import Path

from railsformer.compare import peer_cost

__all__ = ["cost_command", "why_no_peer"]


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


def cost_command(peer_python: str | Path | None) -> list[str]:
    """What runs a cell: of a peer its own Python, of ours this one.

    The peer's is isolated (-I): neither this environment's PYTHONPATH nor the script's folder, whose modules have
    names that the standard library has too, are looked at.
    """
    if peer_python is None:
        return [sys.executable, "-m", "railsformer.compare.cost_cell"]
    return [str(peer_python), "-I", str(Path(peer_cost.__file__).resolve())]
