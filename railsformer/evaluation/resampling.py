"""Figures of thousands of resamples of one evaluation at once: the engine below the bootstrap intervals.

Legend: N videos, L labels, R resamples (row 0 is the evaluation itself), U units that are drawn (groups or videos).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from railsformer.evaluation.score_metrics import MAX_TOP_K, NUM_BINS, calibration_bins

__all__ = ["MIN_GROUPS", "ResampledFigures", "Resamples", "draw_resamples", "draw_whole_groups", "resampled_figures"]

MIN_GROUPS = 8  # below, whole groups are too few to draw from, and clips are drawn
_CELLS = 4_000_000  # weights of resamples x videos held at a time by average precision: 32 MB each


@dataclass(frozen=True)
class Resamples:
    """How often each unit was drawn in each resample.

    Args:
        counts: Shape (R, U); row 0 is all ones, the evaluation itself.
        units: Unit of each video, 0 to U - 1, shape (N,).
        method: Whether a unit is a whole group or one video.
        num_groups: Groups of the evaluation, whatever the method; 0 where they are unknown.
    """

    counts: np.ndarray
    units: np.ndarray
    method: Literal["groups", "clips"]
    num_groups: int

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum over every resample of what each video adds, (N, K) -> (R, K)."""
        by_unit = np.zeros((self.counts.shape[1], values.shape[1]))
        np.add.at(by_unit, self.units, values)
        return self.counts @ by_unit

    def of(self, inside: np.ndarray) -> "Resamples":
        """The same resamples of a part of the videos, shape (N,); one may hold none of its units."""
        kept, units = np.unique(self.units[inside], return_inverse=True)
        return Resamples(self.counts[:, kept], units, self.method, self.num_groups)


@dataclass(frozen=True)
class ResampledFigures:
    """Figures of every resample; NaN where one cannot be computed.

    Args:
        overall: Name to values, shape (R,).
        per_class: Name to values, shape (R, L).
    """

    overall: dict[str, np.ndarray]
    per_class: dict[str, np.ndarray]


def draw_resamples(num_videos: int, groups: Sequence[object] | None, *, resamples: int, seed: int) -> Resamples:
    """Draw whole groups with replacement where there are at least 8, videos otherwise.

    Args:
        num_videos: Videos of the evaluation, at least 1.
        groups: Recording or camera of each video, or None where unknown. Videos whose group is None are one group.
        resamples: Resamples to draw, at least 1.
        seed: Of numpy's generator.

    Raises:
        ValueError: If there is no video, resamples is below 1, or groups are not one a video.
    """
    if num_videos < 1:
        raise ValueError("references must hold at least one video, got none")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    if groups is not None and len(groups) != num_videos:
        raise ValueError(f"groups must be one a video, got {len(groups)} for {num_videos} videos")
    names, units = np.unique([str(group) for group in (() if groups is None else groups)], return_inverse=True)
    by_groups = len(names) >= MIN_GROUPS
    if not by_groups:
        units = np.arange(num_videos)
    num_units = len(names) if by_groups else num_videos
    drawn = np.random.default_rng(seed).multinomial(num_units, np.full(num_units, 1 / num_units), size=resamples)
    counts = np.concatenate([np.ones((1, num_units)), drawn])
    return Resamples(counts, units, "groups" if by_groups else "clips", len(names))


def draw_whole_groups(groups: Sequence[object] | None, *, resamples: int = 2000, seed: int = 0) -> Resamples | None:
    """Draw whole groups as `draw_resamples` does; None where they are unknown or fewer than 8."""
    if groups is None or len(set(map(str, groups))) < MIN_GROUPS:
        return None
    return draw_resamples(len(groups), groups, resamples=resamples, seed=seed)


def resampled_figures(
    scores: np.ndarray, references: np.ndarray, resamples: Resamples, *, ranking: bool = True
) -> ResampledFigures:
    """Compute every figure of every resample.

    Row 0 equals what the `evaluate` modules say, but for the precision of a class that was never predicted: they say
    0, as scikit-learn does, and here it is NaN.

    Args:
        scores: Shape (N, L), as `check_scores` returns them.
        references: True class indices, shape (N,).
        resamples: Of these videos.
        ranking: Compute average precision too, which takes most of the time.
    """
    matrices = _confusions(scores, references, resamples)  # R L L: true, predicted
    right, true, predicted = np.einsum("rll->rl", matrices), matrices.sum(axis=2), matrices.sum(axis=1)
    per_class = {
        "precision": np.where(true > 0, _ratio(right, predicted), np.nan),
        "recall": _ratio(right, true),
        "f1": np.where(true > 0, 2 * right / np.maximum(true + predicted, 1), np.nan),
    }
    totals = true.sum(axis=1)
    overall = {
        "accuracy": right.sum(axis=1) / totals,
        "balanced_accuracy": _class_mean(per_class["recall"]),
        "f1_macro": _class_mean(per_class["f1"]),
        "f1_weighted": np.nansum(per_class["f1"] * true, axis=1) / totals,
        "f1_micro": right.sum(axis=1) / totals,
        **{name: sums / totals for name, sums in _score_sums(scores, references, resamples).items()},
        "calibration_error": _calibration_errors(scores, references, resamples) / totals,
    }
    if ranking:
        per_class["average_precision"] = _average_precisions(scores, references, resamples)
        overall["map"] = _class_mean(per_class["average_precision"])
    return ResampledFigures(overall, per_class)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


def _class_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the classes that a resample holds, R L -> R."""
    return _ratio(np.nansum(values, axis=1), np.isfinite(values).sum(axis=1))


def _confusions(scores: np.ndarray, references: np.ndarray, resamples: Resamples) -> np.ndarray:
    num_labels = scores.shape[1]
    cells = references * num_labels + scores.argmax(axis=1)
    return resamples.sums(np.eye(num_labels**2)[cells]).reshape(-1, num_labels, num_labels)


def _score_sums(scores: np.ndarray, references: np.ndarray, resamples: Resamples) -> dict[str, np.ndarray]:
    """Figures that are means over videos: top-k, negative log-likelihood and Brier score, as sums, each R."""
    num_videos, num_labels = scores.shape
    own = scores[np.arange(num_videos), references]
    earlier = np.arange(num_labels) < references[:, None]  # of equal scores the first counts as the highest
    rank = ((scores > own[:, None]) | ((scores == own[:, None]) & earlier)).sum(axis=1)
    columns = {f"top_{k}": rank < k for k in range(2, min(MAX_TOP_K, num_labels - 1) + 1)}
    columns["negative_log_likelihood"] = -np.log(np.maximum(own / scores.sum(axis=1), np.finfo(float).eps))
    columns["brier"] = ((scores - np.eye(num_labels)[references]) ** 2).sum(axis=1)
    sums = resamples.sums(np.stack(list(columns.values()), axis=1).astype(float))
    return dict(zip(columns, sums.T, strict=True))


def _calibration_errors(scores: np.ndarray, references: np.ndarray, resamples: Resamples) -> np.ndarray:
    gaps = (scores.argmax(axis=1) == references) - scores.max(axis=1)
    return np.abs(resamples.sums(np.eye(NUM_BINS)[calibration_bins(scores)] * gaps[:, None])).sum(axis=1)


def _average_precisions(scores: np.ndarray, references: np.ndarray, resamples: Resamples) -> np.ndarray:
    """Average precision by class, R L; NaN where a resample holds no video of the class, or no other."""
    num_videos, num_labels = scores.shape
    rows = max(1, _CELLS // num_videos)
    parts = []
    for start in range(0, len(resamples.counts), rows):
        weights = resamples.counts[start : start + rows][:, resamples.units]  # R N
        columns = [_average_precision(scores[:, label], references == label, weights) for label in range(num_labels)]
        parts.append(np.stack(columns, axis=1))
    return np.concatenate(parts)


def _average_precision(values: np.ndarray, positives: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum of precision x gain of recall over the distinct scores from the highest down, R."""
    order = np.argsort(-values, kind="stable")
    last = np.append(np.diff(values[order]) != 0, True)  # equal scores pass the threshold together
    weights = weights[:, order]
    passed = np.cumsum(weights, axis=1)[:, last]
    found = np.cumsum(weights * positives[order], axis=1)[:, last]
    gains = np.diff(found, axis=1, prepend=0)
    areas = (gains * found / np.maximum(passed, 1)).sum(axis=1)
    total, everything = found[:, -1], passed[:, -1]
    return np.where((total > 0) & (total < everything), areas / np.maximum(total, 1), np.nan)
