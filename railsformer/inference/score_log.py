"""Scores as they are made, one line a window, so that a watch that was killed goes on where it was."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from railsformer.inference.pictures import SourceEvent

__all__ = ["ScoreLog", "ScoredWindow"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredWindow:
    """A window with its scores; None where it was not scored."""

    index: int
    start_seconds: float
    end_seconds: float
    scores: np.ndarray | None


@dataclass
class ScoreLog:
    """An append-only file of scored windows and of what happened to the source.

    Args:
        path: The file; its first line is the request.
        windows: Read back, then added.
        source_events: Size or rate changes, gaps and damage.
    """

    path: Path
    windows: list[ScoredWindow] = field(default_factory=list)
    source_events: list[SourceEvent] = field(default_factory=list)
    _file: IO[str] | None = None

    @classmethod
    def open(cls, path: Path, request: dict[str, Any]) -> "ScoreLog":
        """Open for adding; a half last line is cut off, and the file of another request is begun anew."""
        log = cls(path)
        whole = log._read(request) if path.is_file() else 0
        log._file = path.open("r+" if path.is_file() else "w", encoding="utf-8", newline="\n")
        log._file.truncate(whole)
        log._file.seek(whole)
        if whole:
            _log.info("going on after %d windows that an earlier watch scored", len(log.windows))
        else:
            log._write({"request": request})
        return log

    @property
    def next_index(self) -> int:
        """The window that comes next."""
        return self.windows[-1].index + 1 if self.windows else 0

    def add(self, windows: Sequence[ScoredWindow], source_events: Sequence[SourceEvent] = ()) -> None:
        """Write windows, and what happened before them, to the disk."""
        for event in source_events:
            self._write({"kind": event.kind, "seconds": event.seconds, "detail": event.detail})
        for window in windows:
            scores = None if window.scores is None else window.scores.tolist()
            self._write([window.index, window.start_seconds, window.end_seconds, scores])
        self.windows += windows
        self.source_events += source_events
        if self._file:
            self._file.flush()

    def close(self) -> None:
        """Close the file; what it holds stays."""
        if self._file:
            self._file.close()
            self._file = None

    def _write(self, row: Any) -> None:
        if self._file:
            self._file.write(json.dumps(row) + "\n")

    def _read(self, request: dict[str, Any]) -> int:
        """Read whole lines; their length in bytes, 0 where they are of another request."""
        whole = 0
        for number, line in enumerate(self.path.read_bytes().splitlines(keepends=True)):
            try:
                row = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n") or (number == 0 and row != {"request": request}):
                break
            if isinstance(row, list):
                scores = None if row[3] is None else np.array(row[3])
                self.windows.append(ScoredWindow(row[0], row[1], row[2], scores))
            elif number:
                self.source_events.append(SourceEvent(row["kind"], row["seconds"], row["detail"]))
            whole += len(line)
        return whole
