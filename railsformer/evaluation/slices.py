"""The figures of parts of a split: by camera, light, duration, size, motion or any metadata column, worst first.

What is measured of every video, where the dataset has no column of the same name:
light: mean grey level (0 to 255) of what the model saw of it; motion: mean absolute difference, in grey levels,
between a frame of a clip and the next; duration_seconds: of the labelled segment; short_side_px and fps: of the source
file, as the probe of the build found them.

Intervals are those of the report: whole groups are drawn where the split has at least 8, and a slice of fewer than 5
of them is too few to say. A column of which no value lies in more than one group (it names groups, or their parts)
asks how it does there and not elsewhere: its intervals are over videos, and hold within that group only.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
from sklearn import metrics

from railsformer.data.clips import video_file
from railsformer.data.probe import probe_video
from railsformer.evaluation.intervals import share_interval
from railsformer.evaluation.operating_points import ScoredSplit, measure_threshold
from railsformer.evaluation.resampling import Resamples, draw_whole_groups
from railsformer.evaluation.views import VideoScores

__all__ = [
    "LEAST_VIDEOS",
    "check_columns",
    "choose_columns",
    "durations_of",
    "measure_slices",
    "video_columns",
    "worst_slice",
]

# Below this one mistake moves accuracy by more than 20 points: listed, but never called the worst.
LEAST_VIDEOS = 5
MEASURED = ("duration_seconds", "light", "motion", "short_side_px", "fps")
_MOST_BINS = 4
_MOST_VALUES = 20
_NOT_SLICED = ("video", "label", "source", "file_name", "start_seconds", "end_seconds")
_NO_VALUE = "(none)"


def video_columns(
    rows: datasets.Dataset, scores: VideoScores, *, durations_seconds: np.ndarray, dataset: str
) -> dict[str, list[Any]]:
    """All metadata columns of a split and what was measured of its videos, one value a row.

    Args:
        rows: Rows of the split.
        scores: Of these rows.
        durations_seconds: Length of each video, NaN where unknown.
        dataset: Folder or Hub id; the folder's probe.parquet tells size and rate of the sources.
    """
    columns = {name: list(rows[name]) for name in rows.column_names if name not in ("video", "label")}
    measured = {
        "duration_seconds": _rounded(durations_seconds, digits=3),
        "light": _rounded(scores.light),
        "motion": _rounded(scores.motion),
        **_facts_of_sources(rows, Path(dataset)),
    }
    return columns | {name: values for name, values in measured.items() if name not in columns and values}


def durations_of(rows: datasets.Dataset, *, is_read: np.ndarray) -> list[float]:
    """Seconds of each video; NaN where nobody states them and the video cannot be read."""
    names = ("start_seconds", "end_seconds")
    starts, ends = (rows[name] if name in rows.column_names else [None] * len(rows) for name in names)
    durations = []
    for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if end is not None:
            durations.append(float(end) - float(start or 0.0))
        elif is_read[index]:
            with video_file(rows[index]["video"], index=index) as path:
                durations.append(float(probe_video(path, thorough=False).duration_seconds))
        else:
            durations.append(math.nan)
    return durations


def check_columns(requested: Sequence[str], names: Collection[str]) -> None:
    """Refuse a column that is neither in the dataset nor measured.

    Args:
        requested: Columns to slice by.
        names: Those that there are; what is measured of every video is there anyway.

    Raises:
        ValueError: If one is not there.
    """
    there = list(dict.fromkeys((*(name for name in names if name not in ("video", "label")), *MEASURED)))
    for name in requested:
        if name not in there:
            close = get_close_matches(name, there, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(there)}"
            raise ValueError(f"--slice_by: the dataset has no column {name!r}; {hint}")


def choose_columns(columns: Mapping[str, Sequence[Any]], requested: Sequence[str] = ()) -> list[str]:
    """The columns to slice by: those asked for, or all that cut the videos into a few parts.

    Left out are columns of one value, columns that name nearly every video, and those that cut as an earlier one does.

    Raises:
        ValueError: If a column is asked for that is not there.
    """
    check_columns(requested, columns)
    for name in requested:
        if name not in columns:
            raise ValueError(
                f"--slice_by: {name} could not be measured of these videos; there are {', '.join(columns)}"
            )
    if requested:
        return list(dict.fromkeys(requested))
    chosen: dict[tuple[int, ...], str] = {}
    for name, values in columns.items():
        parts = [] if name in _NOT_SLICED else _parts(values)
        if 1 < len(set(parts)) <= min(_MOST_VALUES, max(2, len(values) // 2)):
            order = {part: place for place, part in enumerate(dict.fromkeys(parts))}
            chosen.setdefault(tuple(order[part] for part in parts), name)
    return list(chosen.values())


def measure_slices(
    columns: Mapping[str, Sequence[Any]],
    references: np.ndarray,
    predictions: np.ndarray,
    *,
    label_names: Sequence[str],
    names: Sequence[str],
    groups: Sequence[object] | None = None,
    evaluated: ScoredSplit | None = None,
    thresholds: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Figures of every part of the named columns.

    Args:
        columns: One value a video that was read.
        references: True class indices, shape (num_videos,).
        predictions: Predicted class indices, shape (num_videos,).
        label_names: All labels.
        names: Columns to cut by; numbers of more than 4 values (whole ones: of more than 20) are cut into 4 parts of
            equally many videos.
        groups: Camera or recording of each video; None where unknown.
        evaluated: These videos with their scores after the temperature; None leaves thresholds out.
        thresholds: Label to its threshold.

    Returns:
        One entry a slice as in metrics.json, by macro F1, the lowest first; those of fewer than LEAST_VIDEOS last.
    """
    found, whole_groups = [], draw_whole_groups(groups)
    named = np.array([""] * len(references) if groups is None else [str(group) for group in groups], dtype=object)
    for name in names:
        parts = np.array(_parts(columns[name]), dtype=object)
        insides = {value: parts == value for value in dict.fromkeys(parts.tolist())}
        counts = {value: 0 if groups is None else len(set(named[inside])) for value, inside in insides.items()}
        across = whole_groups if max(counts.values(), default=0) > 1 else None
        for value, inside in insides.items():
            drawn = None if across is None else across.of(inside)
            entry = {"column": name, "value": value, "method": "clips" if drawn is None else "groups"}
            entry |= {"num_groups": counts[value]}
            entry |= _figures(references[inside], predictions[inside], label_names, drawn)
            entry["points"] = _points(evaluated, inside, drawn, label_names, thresholds or {})
            found.append(entry)
    return sorted(found, key=lambda one: (one["num_videos"] < LEAST_VIDEOS, one["f1_macro"], one["accuracy"]))


def worst_slice(slices: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The part with the lowest macro F1 of those with enough videos; None where a column is no cut at all."""
    parts = {one["column"]: 0 for one in slices}
    for one in slices:
        parts[one["column"]] += 1
    for one in slices:
        if one["num_videos"] >= LEAST_VIDEOS and parts[one["column"]] > 1:
            return {key: one[key] for key in ("column", "value", "f1_macro", "num_videos")}
    return None


def _figures(
    true: np.ndarray, predicted: np.ndarray, label_names: Sequence[str], drawn: Resamples | None
) -> dict[str, Any]:
    """Macro figures over the labels that the slice holds."""
    indices = list(range(len(label_names)))
    _, recall, f1, support = metrics.precision_recall_fscore_support(true, predicted, labels=indices, zero_division=0)
    present, right = support > 0, true == predicted
    return {
        "num_videos": len(true),
        "accuracy": int(right.sum()) / len(true),
        "balanced_accuracy": float(recall[present].mean()),
        "f1_macro": float(f1[present].mean()),
        "interval": share_interval(right, np.ones(len(true), dtype=bool), drawn),
        "recall": {name: float(recall[index]) if present[index] else None for index, name in enumerate(label_names)},
        "supports": {name: int(support[index]) for index, name in enumerate(label_names)},
    }


def _points(
    evaluated: ScoredSplit | None,
    inside: np.ndarray,
    drawn: Resamples | None,
    label_names: Sequence[str],
    thresholds: Mapping[str, float],
) -> dict[str, Any]:
    """What each threshold does in the slice."""
    if evaluated is None:
        return {}
    part = replace(evaluated.of(inside), groups=None)  # what is drawn of it was drawn of the whole split
    return {
        name: measure_threshold(part, label=label_names.index(name), threshold=threshold, drawn=drawn)
        for name, threshold in thresholds.items()
    }


def _parts(values: Sequence[Any]) -> list[str]:
    """The part that each video belongs to, by name."""
    numbers = [value for value in values if not _is_empty(value)]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in numbers):
        return [_NO_VALUE if _is_empty(value) else str(value) for value in values]
    whole = all(isinstance(value, int) for value in numbers)  # which may be names: cameras by number, dates
    if len(set(numbers)) <= (_MOST_VALUES if whole else _MOST_BINS):
        return [
            _NO_VALUE if _is_empty(value) else str(value) if isinstance(value, int) else f"{value:.12g}"
            for value in values
        ]
    edges = np.unique(np.quantile(numbers, np.arange(1, _MOST_BINS) / _MOST_BINS))
    filled = np.array(numbers, dtype=np.float64)
    bins = np.searchsorted(edges, filled, side="right")
    present = set(bins.tolist())
    for digits in (4, 8, 17):  # as many as tell the parts apart
        names = {part: _range(filled[bins == part], digits) for part in present}
        if len(set(names.values())) == len(present):
            break
    return [
        _NO_VALUE if _is_empty(value) else names[int(np.searchsorted(edges, float(value), side="right"))]
        for value in values
    ]


def _range(numbers: np.ndarray, digits: int) -> str:
    low, high = numbers.min(), numbers.max()
    return f"{low:.{digits}g}" if low == high else f"{low:.{digits}g} to {high:.{digits}g}"


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _rounded(values: np.ndarray | None, *, digits: int = 2) -> list[float | None]:
    """Plain numbers, None where unknown, none at all where none is known; a last bit must not move a video."""
    if values is None or np.isnan(values).all():
        return []
    return [None if np.isnan(value) else round(float(value), digits) for value in values]


def _facts_of_sources(rows: datasets.Dataset, folder: Path) -> dict[str, list[Any]]:
    """Size and rate of the file that each row was cut from."""
    table = folder / "probe.parquet"
    if "source" not in rows.column_names or not table.is_file():
        return {}
    facts = {row["file_name"]: row for row in pq.read_table(table).to_pylist()}
    found = [facts.get(source, {}) for source in rows["source"]]
    sides = [min(one["width"], one["height"]) if one.get("width") and one.get("height") else None for one in found]
    return {"short_side_px": sides, "fps": [round(one["fps"], 2) if one.get("fps") else None for one in found]}
