"""A room imports only from rooms to its left (and its own)."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "railsformer"
# Rooms in the same tuple do not know each other.
ORDER = [
    ("data", "model"),
    ("evaluation",),
    ("training",),
    ("inference",),
    ("explain", "export"),
    ("compare",),
    ("hub",),
]
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
TOP = len(ORDER)  # cli.py, demo.py and __init__.py compose; nothing imports them


def _room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else "top"


def _imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            # Only the model's files may: they travel with a checkpoint to where railsformer is not installed.
            assert path.parent.name == "model", f"{path}: relative import; the house uses absolute ones"
            assert node.level == 1, f"{path}: relative import that leaves its room"
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "railsformer" and len(parts) > 1:
                rooms.add(parts[1] if parts[1] in RANK else "top")
    return rooms


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_left_to_right(path):
    room = _room(path)
    if room == "top":
        return
    for imported in _imported_rooms(path):
        assert imported != "top", f"{room} imports from the package's top level"
        same = imported == room
        assert same or RANK[imported] < RANK[room], f"{room} imports {imported}, which is not to its left"
