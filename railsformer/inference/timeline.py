"""The scores of one long video over time, kept so that events can be looked for again without the network.

A timeline is one row a window. `events` turns it into events; this module holds, smooths, writes and reads it.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from railsformer.data.files import whole_file

__all__ = ["SCORES_NAME", "Smoothing", "Timeline", "blend", "read_timeline", "unbroken_pieces", "write_timeline"]

SCORES_NAME = "scores.parquet"
SLACK_SECONDS = 1e-6  # times are sums of floats
_VERSION = 1
_METADATA_KEY = b"railsformer"


@dataclass(frozen=True)
class Smoothing:
    """How neighbouring windows are blended.

    Args:
        width_seconds: Windows whose middles lie within this width count; 0 leaves the scores as they are.
        kind: Their mean or their median.
        causal: The window itself and those before it, as a live camera must; otherwise half of the width on each side.
    """

    width_seconds: float = 0.0
    kind: Literal["mean", "median"] = "mean"
    causal: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 <= self.width_seconds < math.inf:
            raise ValueError(f"smooth_seconds must be 0 or more, got {self.width_seconds:g}")
        if self.kind not in ("mean", "median"):
            raise ValueError(f"smoothing must be mean or median, got {self.kind!r}")


@dataclass(frozen=True)
class Timeline:
    """Scores of the windows of one video.

    Args:
        labels: Names of all classes in the order of their indices.
        start_seconds: Start of each window in the video, increasing, shape (num_windows,).
        end_seconds: End of each window, shape (num_windows,).
        scores: Calibrated probabilities, shape (num_windows, num_labels); rows of NaN for windows that were not
            scored, because pictures are missing in them.
        stride_seconds: From window to window.
        video: The file or address, as it was given.
        model: What made the scores.
        camera: Its name, where known.
        start_time: Wall clock of second 0, where known.
        thresholds: The model's operating points: label to the least score that raises its alarm.
        negative_labels: Labels that mean 'nothing dangerous'.

    Raises:
        ValueError: If shapes differ, times do not increase, or a row is partly NaN.
    """

    labels: tuple[str, ...]
    start_seconds: np.ndarray
    end_seconds: np.ndarray
    scores: np.ndarray
    stride_seconds: float
    video: str = ""
    model: str = ""
    camera: str | None = None
    start_time: datetime | None = None
    thresholds: dict[str, float] = field(default_factory=dict)
    negative_labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check what belongs together."""
        starts, ends = (np.asarray(times, dtype=float) for times in (self.start_seconds, self.end_seconds))
        scores = np.asarray(self.scores, dtype=float)
        if starts.shape != ends.shape or scores.shape != (len(starts), len(self.labels)):
            raise ValueError(
                f"a timeline must have one row a window and one score a label, got {len(starts)} starts, {len(ends)} "
                f"ends and scores {scores.shape} for {len(self.labels)} labels"
            )
        if not 0 < self.stride_seconds < math.inf:
            raise ValueError(f"stride_seconds must be above 0, got {self.stride_seconds:g}")
        good = (np.diff(starts) > 0).all() and (ends > starts).all() and np.isfinite(ends).all()
        if not good:
            raise ValueError(f"windows of {self.video or 'a timeline'} must follow each other in time")
        unknown = np.isnan(scores)
        if (unknown.any(axis=1) != unknown.all(axis=1)).any():
            raise ValueError(f"scores of {self.video or 'a timeline'} must be numbers, or NaN in all of a row")
        for name, value in (("start_seconds", starts), ("end_seconds", ends), ("scores", scores)):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.start_seconds)

    @property
    def middle_seconds(self) -> np.ndarray:
        """The instant that each window's score stands for, shape (num_windows,)."""
        return (self.start_seconds + self.end_seconds) / 2

    @property
    def scored(self) -> np.ndarray:
        """Whether each window was scored, shape (num_windows,)."""
        return ~np.isnan(self.scores).any(axis=1)

    @property
    def watched_spans(self) -> list[tuple[float, float]]:
        """Stretches of the footage, start and end in seconds, that lie in scored windows; in order, apart."""
        spans: list[tuple[float, float]] = []
        for start, end in zip(self.start_seconds[self.scored], self.end_seconds[self.scored], strict=True):
            if spans and start <= spans[-1][1]:
                spans[-1] = (spans[-1][0], max(spans[-1][1], float(end)))
            else:
                spans.append((float(start), float(end)))
        return spans

    @property
    def watched_seconds(self) -> float:
        """Length of the footage that lies in a scored window, each second once."""
        return sum(end - start for start, end in self.watched_spans)

    def wall_clock(self, seconds: float) -> str | None:
        """Wall clock of a second of the video, ISO 8601 with milliseconds; None where unknown."""
        if self.start_time is None:
            return None
        return (self.start_time + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")

    def smoothed(self, smoothing: Smoothing) -> tuple[np.ndarray, np.ndarray]:
        """Blend neighbouring windows, never across a stretch that was not seen.

        Args:
            smoothing: How.

        Returns:
            Scores, shape (num_windows, num_labels), NaN where there were none; and for each window the second of the
            video at which its blend is known: the end of the last window in it, shape (num_windows,).
        """
        scores, known = self.scores.copy(), self.end_seconds.copy()
        if smoothing.width_seconds == 0:
            return scores, known
        middles = self.middle_seconds
        after = 0.0 if smoothing.causal else smoothing.width_seconds / 2
        before = smoothing.width_seconds - after
        for piece in unbroken_pieces(self):
            times = middles[piece]
            # A causal blend leaves out a window a whole width old: at a width of two strides it takes two windows.
            slack = -SLACK_SECONDS if smoothing.causal else SLACK_SECONDS
            firsts = np.searchsorted(times, times - before - slack)
            lasts = np.searchsorted(times, times + after + SLACK_SECONDS, side="right")
            for row, (first, last) in enumerate(zip(firsts, lasts, strict=True)):
                scores[piece[row]] = blend(self.scores[piece[first:last]], smoothing.kind)
                known[piece[row]] = self.end_seconds[piece[last - 1]]
        return scores, known


def blend(rows: np.ndarray, kind: Literal["mean", "median"]) -> np.ndarray:
    """One row of scores out of several, shape (num_windows, num_labels) -> (num_labels,)."""
    return rows.mean(axis=0) if kind == "mean" else np.median(rows, axis=0)


def is_break(previous_end_seconds: float, start_seconds: float, *, stride_seconds: float) -> bool:
    """Whether more than a stride of footage lies unseen between two windows that follow each other."""
    return start_seconds - previous_end_seconds > stride_seconds + SLACK_SECONDS


def unbroken_pieces(timeline: Timeline) -> list[np.ndarray]:
    """Indices of scored windows, cut where a window was not scored or more than a stride was not seen."""
    pieces: list[list[int]] = []
    last = -2
    for index in np.flatnonzero(timeline.scored).tolist():
        broken = index != last + 1 or is_break(
            timeline.end_seconds[last], timeline.start_seconds[index], stride_seconds=timeline.stride_seconds
        )
        if broken:
            pieces.append([])
        pieces[-1].append(index)
        last = index
    return [np.array(piece) for piece in pieces]


def write_timeline(folder: str | Path, timeline: Timeline) -> Path:
    """Write a timeline as `scores.parquet`: a row a window, a column a label, and what it is of in the metadata."""
    columns: dict[str, Any] = {"start_seconds": timeline.start_seconds, "end_seconds": timeline.end_seconds}
    columns |= {f"score:{label}": timeline.scores[:, index] for index, label in enumerate(timeline.labels)}
    about = {
        "version": _VERSION,
        "labels": timeline.labels,
        "stride_seconds": timeline.stride_seconds,
        "video": timeline.video,
        "model": timeline.model,
        "camera": timeline.camera,
        "start_time": timeline.start_time.isoformat() if timeline.start_time else None,
        "thresholds": timeline.thresholds,
        "negative_labels": timeline.negative_labels,
    }
    table = pa.table(columns).replace_schema_metadata({_METADATA_KEY: json.dumps(about).encode()})
    path = Path(folder) / SCORES_NAME
    with whole_file(path) as partial:
        pq.write_table(table, partial)
    return path


def read_timeline(folder: str | Path) -> Timeline:
    """Read what `write_timeline` wrote.

    Args:
        folder: The folder, or the file itself.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the file is damaged or of something else.
    """
    path = Path(folder)
    path = path / SCORES_NAME if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; name a folder that railsformer watch wrote to its end")
    try:
        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {})[_METADATA_KEY])
        if about["version"] != _VERSION:
            raise ValueError(f"version must be {_VERSION}, got {about['version']}")
        labels = tuple(about["labels"])
        scores = [table[f"score:{label}"].to_numpy() for label in labels]
        return Timeline(
            labels=labels,
            start_seconds=table["start_seconds"].to_numpy(),
            end_seconds=table["end_seconds"].to_numpy(),
            scores=np.stack(scores, axis=1) if scores else np.empty((len(table), 0)),
            stride_seconds=about["stride_seconds"],
            video=about["video"],
            model=about["model"],
            camera=about["camera"],
            start_time=datetime.fromisoformat(about["start_time"]) if about["start_time"] else None,
            thresholds=about["thresholds"],
            negative_labels=tuple(about["negative_labels"]),
        )
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no whole timeline ({reason}); run railsformer watch again") from error


def hazards_of(labels: Sequence[str], negative_labels: Iterable[str]) -> tuple[str, ...]:
    """The labels that events are looked for: all but the negative ones."""
    return tuple(label for label in labels if label not in set(negative_labels))
