"""What timeline.html knows: scores, events, and how its tables are to be written, as JSON."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from railsformer.data.analysis.figures import printable
from railsformer.inference.colours import label_colours

__all__ = ["REVIEW_COLUMNS", "TRUTH_COLUMNS", "Footage", "check_footage", "island", "page_data", "pooled"]

# The table of reviewed events, for `railsformer build`. `source` is a word that build keeps for itself.
REVIEW_COLUMNS = (
    *("file_name", "label", "start_seconds", "end_seconds", "group"),
    *("camera", "review", "model_label", "model_score"),
)
# The table of what really happened, for `railsformer evaluate --events`.
TRUTH_COLUMNS = ("video", "label", "start_seconds", "end_seconds")

_NO_NEGATIVE_LABEL = "Other"
_MAX_POINTS = 20_000
_VERSION = 1
_LONGEST_GROUP = 100  # build takes no longer one


@dataclass(frozen=True)
class Footage:
    """A timeline and what it is of.

    Attributes:
        times: Instant of each row of scores, ascending, in seconds since the first picture, shape (N,).
        scores: From 0 to 1, NaN where nothing was scored, shape (N, L).
        labels: Names of the columns.
        events: Entries of events.json, by their start.
        duration_seconds: Of the footage.
        window_seconds: Of one window.
        negative_labels: Labels that mean 'nothing'.
        thresholds: Label to the score that begins an event.
        video: The original file; None for a live stream.
        camera: Its name; None where it is not known.
        start_time: Wall clock of the first picture.
        not_scored: Start, end and reason of stretches without scores.
        blind: Start, end and reason of stretches in which the camera was blind.
        model: Name of the run.
    """

    times: np.ndarray
    scores: np.ndarray
    labels: tuple[str, ...]
    events: tuple[Mapping[str, Any], ...]
    duration_seconds: float
    window_seconds: float
    negative_labels: tuple[str, ...] = ()
    thresholds: Mapping[str, float] | None = None
    video: Path | None = None
    camera: str | None = None
    start_time: datetime | None = None
    not_scored: tuple[tuple[float, float, str], ...] = ()
    blind: tuple[tuple[float, float, str], ...] = ()
    model: str = ""

    @property
    def title(self) -> str:
        """What people call it."""
        return self.video.name if self.video else self.camera or "live"

    @property
    def hazards(self) -> list[str]:
        """Labels that mean something."""
        return [label for label in self.labels if label not in self.negative_labels]

    @property
    def colours(self) -> dict[str, str]:
        """Label to colour."""
        return label_colours(self.labels, self.negative_labels)


def check_footage(footage: Footage) -> None:
    """Refuse what cannot be drawn.

    Raises:
        ValueError: If shapes do not go together, times do not ascend, or an event has an unknown label or no times.
    """
    times, scores = footage.times, footage.scores
    if times.ndim != 1 or scores.shape != (len(times), len(footage.labels)):
        raise ValueError(
            f"scores must be of shape ({times.size}, {len(footage.labels)}), one row a time and one column a label, "
            f"got {scores.shape}"
        )
    if not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise ValueError("times_seconds must be finite and ascending; sort the windows by their times")
    for name, value in (("duration_seconds", footage.duration_seconds), ("window_seconds", footage.window_seconds)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a number above 0, got {value}")
    for number, event in enumerate(footage.events):
        start, end = event["start_seconds"], event["end_seconds"]
        if event["label"] not in footage.labels:
            raise ValueError(
                f"event {number} is of label {event['label']!r}, which the model does not know; its labels are "
                f"{', '.join(footage.labels)}"
            )
        if not (math.isfinite(start) and math.isfinite(end) and 0 <= start < end):
            raise ValueError(f"event {number} must end after it starts, at 0 s or later, got {start} to {end}")


def pooled(times: np.ndarray, scores: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Fewer rows, each with the highest scores of those it stands for, so that no peak is lost.

    Args:
        times: Shape (N,).
        scores: Shape (N, L).
        most: Rows to return at most.

    Returns:
        Times, the middle of each bin, and scores; a row is NaN where all that it stands for are.
    """
    if len(times) <= most:
        return times, scores
    starts = np.unique(np.linspace(0, len(times), most, endpoint=False).astype(int))
    highest = np.fmax.reduceat(scores, starts, axis=0)
    ends = np.append(starts[1:], len(times)) - 1
    return (times[starts] + times[ends]) / 2, highest


def page_data(footage: Footage, *, source: str | None, is_copy: bool) -> dict[str, Any]:
    """Everything that the page needs, in words of JSON.

    Args:
        footage: The timeline.
        source: Relative path of the video that the page plays, as a URL; None for none.
        is_copy: Whether that is not the original.
    """
    times, scores = pooled(footage.times, footage.scores, _MAX_POINTS)
    name = footage.video.name if footage.video else printable(footage.title)
    group = (footage.camera or name)[:_LONGEST_GROUP]
    start = footage.start_time
    # A folder's place on this machine is nobody's business where the page is sent.
    model = Path(footage.model).name if Path(footage.model).is_absolute() else footage.model
    content = {
        "version": _VERSION,
        "title": printable(footage.title),
        "video": source,
        "video_is_copy": is_copy,
        "file_name": name,
        "camera": footage.camera or "",
        "group": group,
        "model": printable(model),
        "duration_seconds": round(footage.duration_seconds, 3),
        "window_seconds": round(footage.window_seconds, 3),
        "date": f"{start:%d %b %Y}".lstrip("0") if start else None,
        "clock_seconds": start.hour * 3600 + start.minute * 60 + start.second + start.microsecond / 1e6
        if start
        else None,
        "labels": list(footage.labels),
        "hazards": footage.hazards,
        "negative_label": next(iter(footage.negative_labels), _NO_NEGATIVE_LABEL),
        "colours": footage.colours,
        "thresholds": {label: round(value, 4) for label, value in (footage.thresholds or {}).items()},
        "times": [round(float(seconds), 2) for seconds in times],
        # In thousandths; null where nothing was scored.
        "scores": {
            label: [None if math.isnan(value) else round(1000 * min(max(value, 0.0), 1.0)) for value in column]
            for label, column in zip(footage.labels, scores.T.tolist(), strict=True)
            if label not in footage.negative_labels
        },
        "events": [_event(event) for event in footage.events],
        "not_scored": _stretches(footage.not_scored),
        "blind": _stretches(footage.blind),
        "review_columns": list(REVIEW_COLUMNS),
        "truth_columns": list(TRUTH_COLUMNS),
    }
    # Decisions belong to the footage: they outlive another model, other thresholds and another place of the folder.
    identity = [name, footage.camera, content["duration_seconds"]]
    content["storage_key"] = f"railsformer-timeline-{_digest(identity)}"
    content["fingerprint"] = _digest([content["events"], content["labels"]])
    return content


def island(content: Mapping[str, Any]) -> str:
    """JSON that may stand in a script element, whatever the names in it."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for mark in ("<", ">", "&", "\u2028", "\u2029"):
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text.encode("utf-8", "replace").decode()


def _stretches(stretches: Sequence[tuple[float, float, str]]) -> list[list[Any]]:
    return [[round(begin, 3), round(end, 3), printable(why)] for begin, end, why in stretches]


def _event(event: Mapping[str, Any]) -> dict[str, Any]:
    start, end = float(event["start_seconds"]), float(event["end_seconds"])
    peak = event.get("peak_seconds")
    return {
        "label": event["label"],
        "start_seconds": round(start, 3),
        "end_seconds": round(end, 3),
        "peak_seconds": round(float(start if peak is None else peak), 3),
        "score": round(float(event["score"]), 4),
    }


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
