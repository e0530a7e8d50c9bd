"""From scores to alarms: a threshold for each hazard, chosen on one split for a target and measured on another.

A video raises the alarm of a label when that label's score, after the temperature, is at or above the threshold;
labels alarm on their own, whichever is highest. A false alarm is a video of another label that does so, counted over
the hours of the videos of other labels.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from railsformer.evaluation.intervals import rate_interval, share_interval
from railsformer.evaluation.resampling import Resamples, draw_whole_groups
from railsformer.evaluation.score_metrics import check_scores

__all__ = [
    "DEFAULT_TARGET",
    "OperatingPoint",
    "ScoredSplit",
    "Target",
    "choose_operating_points",
    "choose_threshold",
    "hazard_labels",
    "measure_threshold",
    "operating_points_summary",
    "targets_of_labels",
]

_TARGET_FORMS = "recall>=0.9, false_alarms_per_hour<=1 or LABEL:recall>=0.9"
_TARGET = re.compile(r"(?:(?P<label>.+):)?(?P<figure>recall|false_alarms_per_hour)(?P<sign>>=|<=)(?P<value>[^:<>=]+)")
_SIGNS = {"recall": ">=", "false_alarms_per_hour": "<="}


@dataclass(frozen=True)
class Target:
    """What a threshold must reach on the calibration split.

    Args:
        figure: The figure that is bounded.
        value: Least recall, above 0 to 1, or most false alarms per hour, 0 or more.
        label: The label it is for; None is every hazard without one of its own.
    """

    figure: Literal["recall", "false_alarms_per_hour"]
    value: float
    label: str | None = None

    def __post_init__(self) -> None:
        """Check the value."""
        if self.figure not in _SIGNS:
            raise ValueError(f"target must be {_TARGET_FORMS}, got {self.figure!r}")
        good = 0 < self.value <= 1 if self.figure == "recall" else 0 <= self.value < math.inf
        if not good:
            limits = "above 0 and at most 1" if self.figure == "recall" else "0 or more"
            raise ValueError(f"target {self.figure} must be {limits}, got {self.value:g}")

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Read `recall>=0.9`, `false_alarms_per_hour<=1` or either after `LABEL:`.

        Raises:
            ValueError: If it is none of these or its value is out of range.
        """
        found = _TARGET.fullmatch(text.strip())
        if not found or found["sign"] != _SIGNS[found["figure"]]:
            raise ValueError(f"target must be {_TARGET_FORMS}, got {text!r}")
        try:
            value = float(found["value"])
        except ValueError:
            raise ValueError(f"target must be {_TARGET_FORMS}, got {text!r}") from None
        return cls(figure=found["figure"], value=value, label=found["label"])  # type: ignore[arg-type]

    def __str__(self) -> str:
        """As in operating_points.json, without the label."""
        return f"{self.figure}{_SIGNS[self.figure]}{self.value!r}"


DEFAULT_TARGET = Target("recall", 0.9)


@dataclass(frozen=True)
class OperatingPoint:
    """The threshold of one label.

    Args:
        threshold: Least score that raises the alarm, above 0 to 1. None where the calibration split could not say: no
            video of the label for a recall, no footage of other labels for a rate of false alarms.
        target: What it was chosen for, such as `recall>=0.9`.
        reached: Whether the calibration split reaches the target there. Where it cannot, the threshold is the nearest.
            None where nobody knows any more: the threshold was read from a file.
    """

    threshold: float | None
    target: str | None
    reached: bool | None


@dataclass(frozen=True)
class ScoredSplit:
    """Videos with scores, labels and lengths.

    Args:
        scores: After the temperature, each row of sum 1, shape (num_videos, num_labels).
        references: True class indices, shape (num_videos,).
        durations_seconds: Length of each video, shape (num_videos,); NaN where unknown: such a video counts in recall
            and precision, and not in false alarms per hour.
        groups: Camera or recording of each video; None where unknown.

    Raises:
        ValueError: If lengths differ, scores are not softmax rows, or a duration is negative or infinite.
    """

    scores: np.ndarray
    references: np.ndarray
    durations_seconds: np.ndarray
    groups: Sequence[object] | None = None

    def __post_init__(self) -> None:
        """Check and convert."""
        scores, references = check_scores(self.scores, self.references, num_labels=np.shape(self.scores)[-1])
        durations = np.asarray(self.durations_seconds, dtype=np.float64)
        if durations.shape != references.shape:
            raise ValueError(
                f"durations_seconds must be one a video, got {durations.size} for {len(references)} videos"
            )
        wrong = (durations < 0) | np.isinf(durations)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"durations_seconds must be 0 or more, or NaN where unknown, got {durations[row]} in row {row}"
            )
        for name, value in (("scores", scores), ("references", references), ("durations_seconds", durations)):
            object.__setattr__(self, name, value)

    def of(self, inside: np.ndarray) -> "ScoredSplit":
        """A part of the videos; `inside` has shape (num_videos,)."""
        groups = None if self.groups is None else [self.groups[row] for row in np.flatnonzero(inside).tolist()]
        return ScoredSplit(self.scores[inside], self.references[inside], self.durations_seconds[inside], groups)


def hazard_labels(label_names: Sequence[str], negative_labels: Sequence[str] | None) -> list[str]:
    """All labels but those that mean 'nothing dangerous', in order."""
    return [name for name in label_names if name not in (negative_labels or [])]


def targets_of_labels(targets: Sequence[Target], hazards: Sequence[str]) -> dict[str, Target]:
    """The target of each hazard: its own, else the one without a label, else recall of at least .9.

    Raises:
        ValueError: If a target is for a label that is no hazard, or a label (or all) has two.
    """
    chosen: dict[str | None, Target] = {}
    for target in targets:
        if target.label is not None and target.label not in hazards:
            raise ValueError(
                f"target {target.label}:{target} is for a label that is no hazard of this model; "
                f"its hazards are {', '.join(hazards) or 'none'}"
            )
        if target.label in chosen:
            raise ValueError(f"target {target} is the second one for {target.label or 'all labels'}; give one each")
        chosen[target.label] = target
    common = chosen.get(None, DEFAULT_TARGET)
    return {name: chosen.get(name, common) for name in hazards}


def choose_threshold(
    scores: np.ndarray, positives: np.ndarray, durations_seconds: np.ndarray, target: Target
) -> OperatingPoint:
    """The threshold of one label: for a recall the highest that reaches it, for a rate of false alarms the lowest.

    Both then lie half way to the next lower score seen, so that a last bit of a score does not turn an alarm.

    Args:
        scores: The label's score of each video, 0 to 1, shape (num_videos,).
        positives: Whether each video is of the label, shape (num_videos,).
        durations_seconds: Length of each video, shape (num_videos,); NaN where unknown.
        target: What to reach.
    """
    negatives = ~positives & np.isfinite(durations_seconds)
    hours = float(durations_seconds[negatives].sum()) / 3600
    if (target.figure == "recall" and not positives.any()) or (target.figure != "recall" and hours == 0):
        return OperatingPoint(None, str(target), reached=False)
    candidates = np.unique(np.append(scores[scores > 0], 1.0))  # at 0 everything would be an alarm
    if target.figure == "recall":
        reaches = _at_or_above(scores[positives], candidates) / positives.sum() >= target.value
        index = int(np.flatnonzero(reaches)[-1]) if reaches.any() else 0
    else:
        reaches = _at_or_above(scores[negatives], candidates) / hours <= target.value
        index = int(np.flatnonzero(reaches)[0]) if reaches.any() else len(candidates) - 1
    return OperatingPoint(_half_way_down(scores, float(candidates[index])), str(target), reached=bool(reaches.any()))


def _at_or_above(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    return len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left")


def _half_way_down(scores: np.ndarray, threshold: float) -> float:
    below = float(scores[scores < threshold].max(initial=0.0))
    middle = (below + threshold) / 2
    return middle if middle > below else threshold  # neighbouring floats have no middle


def choose_operating_points(
    calibration: ScoredSplit, *, label_names: Sequence[str], targets: Mapping[str, Target]
) -> dict[str, OperatingPoint]:
    """A threshold for each label of `targets`.

    Args:
        calibration: Videos that the model was not trained on, and other than those that will be reported on.
        label_names: Names of all classes in the order of their indices.
        targets: As `targets_of_labels` returns them.
    """
    points = {}
    for name, target in targets.items():
        index = label_names.index(name)
        points[name] = choose_threshold(
            calibration.scores[:, index], calibration.references == index, calibration.durations_seconds, target
        )
    return points


def measure_threshold(
    videos: ScoredSplit, *, label: int, threshold: float, level: float = 0.95, drawn: Resamples | None = None
) -> dict[str, Any]:
    """What a threshold does on a split.

    Args:
        videos: Of the split.
        label: Class index.
        threshold: Least score that raises the alarm.
        level: Of the intervals. Of at least 8 groups whole ones are drawn, as in `bootstrap_intervals`. With fewer,
            videos are taken as independent: Wilson's (1927) for recall and precision, the exact one for Poisson counts
            (Garwood 1936) for false alarms per hour; no interval of a rate is narrower than that.
        drawn: Resamples of whole groups of these videos, where they were drawn already.

    Returns:
        `recall` (None without positives), `precision` (None without alarms), `false_alarms_per_hour` (None without
        negative footage), `num_positives`, `num_negatives`, `negative_hours`, and `intervals` of the three figures,
        None where there is too little to say.
    """
    alarms, positives = videos.scores[:, label] >= threshold, videos.references == label
    timed = ~positives & np.isfinite(videos.durations_seconds)
    hours = float(videos.durations_seconds[timed].sum()) / 3600
    hits, num_alarms, false_alarms = int((alarms & positives).sum()), int(alarms.sum()), int((alarms & timed).sum())
    num_positives = int(positives.sum())
    drawn = drawn or draw_whole_groups(videos.groups)
    return {
        "recall": hits / num_positives if num_positives else None,
        "precision": hits / num_alarms if num_alarms else None,
        "false_alarms_per_hour": false_alarms / hours if hours else None,
        "num_positives": num_positives,
        "num_negatives": len(positives) - num_positives,
        "negative_hours": hours,
        "intervals": {
            "recall": share_interval(alarms & positives, positives, drawn, level=level),
            "precision": share_interval(alarms & positives, alarms, drawn, level=level),
            "false_alarms_per_hour": rate_interval(
                alarms & timed, np.where(timed, videos.durations_seconds, 0.0) / 3600, drawn, level=level
            ),
        },
    }


def operating_points_summary(
    points: Mapping[str, OperatingPoint],
    *,
    calibration: ScoredSplit | None,
    evaluated: ScoredSplit,
    label_names: Sequence[str],
    split: str,
) -> dict[str, Any]:
    """The `operating_points` part of metrics.json.

    Args:
        points: As chosen on the calibration split.
        calibration: The split they were chosen on; None where it is not at hand.
        evaluated: The split that is reported on.
        label_names: Names of all classes in the order of their indices.
        split: Name of the calibration split.

    Returns:
        `split` and `labels`: for each its `threshold`, `target`, `reached`, and what it does `on_calibration` and
        `on_split`, both None where there is no threshold or split.
    """
    labels = {}
    for name, point in points.items():
        index, threshold = label_names.index(name), point.threshold
        on_calibration, on_split = (
            None
            if threshold is None or videos is None
            else measure_threshold(videos, label=index, threshold=threshold)
            for videos in (calibration, evaluated)
        )
        labels[name] = {
            "threshold": threshold,
            "target": point.target,
            "reached": point.reached,
            "on_calibration": on_calibration,
            "on_split": on_split,
        }
    return {"split": split, "labels": labels}
