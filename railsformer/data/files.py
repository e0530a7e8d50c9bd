"""Files that appear whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["partial_path", "whole_file"]


def partial_path(path: str | Path) -> Path:
    """Return where `whole_file` writes a file before it has its name: `.NAME.partial` beside it."""
    path = Path(path)
    return path.with_name(f".{path.name}.partial")


@contextmanager
def whole_file(path: str | Path, *, partial: str | Path | None = None) -> Iterator[Path]:
    """Yield a place to write to, which becomes `path` in one step at the end, or vanishes on an error or Ctrl-C.

    A reader sees the old file or the whole new one. What a killed process leaves in that place, the next overwrites.

    Args:
        path: The file.
        partial: The place, in the same folder; None means that of `partial_path`. Where several processes may write
            the same file at once, give each its own.
    """
    partial = partial_path(path) if partial is None else Path(partial)
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
