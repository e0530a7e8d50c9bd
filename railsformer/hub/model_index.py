"""The figures of an evaluation in the form that the Hub reads: the model index of a card.

A metric's value stays a plain number, so that the Hub can sort by it; its interval goes into the metric's arguments.
Figures that are absent (a class with no video) are left out, not made up.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from huggingface_hub import EvalResult

from railsformer.hub.wording import is_on_hub, shown

__all__ = ["OVERALL", "model_index"]

# metrics.json key -> (name in the card, metric type of the model index, arguments of that metric)
OVERALL: dict[str, tuple[str, str, dict[str, Any]]] = {
    "accuracy": ("Accuracy", "accuracy", {}),
    "balanced_accuracy": ("Balanced accuracy", "balanced_accuracy", {}),
    "f1_macro": ("Macro F1", "f1", {"average": "macro"}),
    "f1_weighted": ("Weighted F1", "f1", {"average": "weighted"}),
    "f1_micro": ("Micro F1", "f1", {"average": "micro"}),
    "map": ("Mean average precision", "mean_average_precision", {}),
    "calibration_error": ("Calibration error", "expected_calibration_error", {}),
}
_PER_CLASS = {"recall": "Recall", "precision": "Precision", "average_precision": "Average precision"}
_AT_THRESHOLD = {"recall": "Recall", "precision": "Precision", "false_alarms_per_hour": "False alarms per hour"}


TOO_FEW = "too few videos to say"


class _Entry(NamedTuple):
    value: float | None
    metric_type: str
    name: str
    arguments: dict[str, Any]
    intervals: Mapping[str, Sequence[float] | None]  # None of a key where there are too few videos to say
    key: str


def model_index(metrics: Mapping[str, Any], *, dataset: str, split: str) -> list[EvalResult]:
    """Return the model index of one evaluation.

    Args:
        metrics: Content of metrics.json, of version 1 or 2.
        dataset: Hub repository or local folder of the dataset.
        split: Name of the split that was measured.

    Returns:
        One result a figure; none where the split was mixed, because a leaderboard cannot read the card's warning.
    """
    protocol = metrics.get("protocol") or {}
    mixed = (protocol.get("mixed_splits") or {}).get("state")
    if mixed == "mixed":
        return []
    intervals = metrics.get("intervals") or {}
    arguments = {
        "split_kind": protocol.get("split_kind"),
        "dataset_fingerprint": metrics.get("dataset_fingerprint"),
        "num_videos": metrics.get("num_videos"),
        "mixed_splits": mixed,
        "interval_level": intervals.get("level"),
        "interval_method": intervals.get("method"),
    }
    shared: dict[str, Any] = {
        "task_type": "video-classification",
        "task_name": "Video classification",
        "dataset_type": dataset if is_on_hub(dataset) else "videofolder",
        "dataset_name": shown(dataset),
        "dataset_split": split,
        "dataset_args": {key: value for key, value in arguments.items() if value} or None,
    }
    return [
        EvalResult(
            **shared,
            metric_type=entry.metric_type,
            metric_name=entry.name,
            metric_value=round(float(entry.value), 6),
            metric_args=entry.arguments | _interval_argument(entry) or None,
        )
        for entry in (*_overall(metrics), *_per_class(metrics), *_operating_points(metrics))
        if entry.value is not None and math.isfinite(entry.value)
    ]


def _overall(metrics: Mapping[str, Any]) -> Iterator[_Entry]:
    intervals = (metrics.get("intervals") or {}).get("figures") or {}
    for key, (name, metric_type, arguments) in OVERALL.items():
        yield _Entry(metrics.get(key), metric_type, name, arguments, intervals, key)
    for k, value in (metrics.get("top_k") or {}).items():
        yield _Entry(value, "top_k_accuracy", f"Top-{k} accuracy", {"k": int(k)}, intervals, f"top_{k}")


def _per_class(metrics: Mapping[str, Any]) -> Iterator[_Entry]:
    intervals = (metrics.get("intervals") or {}).get("per_class") or {}
    for label, row in (metrics.get("per_class") or {}).items():
        arguments = {"label": label, "num_videos": row.get("support", 0)}
        for key, name in _PER_CLASS.items():
            yield _Entry(row.get(key), key, f"{name}, {label}", arguments, intervals.get(label) or {}, key)


def _operating_points(metrics: Mapping[str, Any]) -> Iterator[_Entry]:
    for label, point in ((metrics.get("operating_points") or {}).get("labels") or {}).items():
        measured = point.get("on_split") or {}
        arguments = {"label": label, "threshold": point["threshold"], "target": point["target"]}
        intervals = measured.get("intervals") or {}
        for key, name in _AT_THRESHOLD.items():
            yield _Entry(measured.get(key), key, f"{name} at the threshold, {label}", arguments, intervals, key)


def _interval_argument(entry: _Entry) -> dict[str, Any]:
    if entry.key not in entry.intervals:
        return {}
    interval = entry.intervals[entry.key]
    return {"interval": [round(float(end), 6) for end in interval] if interval else TOO_FEW}
