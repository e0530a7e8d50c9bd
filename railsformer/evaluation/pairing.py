"""Is one run better than another on the same videos, or was it luck? A paired test and paired intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from railsformer.evaluation.intervals import FIGURES, MIN_SUPPORT, expanded_percentiles
from railsformer.evaluation.resampling import draw_resamples, resampled_figures
from railsformer.evaluation.score_metrics import check_scores

__all__ = ["compare_predictions", "mcnemar_test", "shared_videos"]


def shared_videos(
    names: Sequence[str],
    labels: Sequence[object],
    *,
    other_names: Sequence[str],
    other_labels: Sequence[object],
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the videos that both evaluations hold, in the order of the first.

    Args:
        names: Of this evaluation's videos, unique, shape (num_videos,).
        labels: True label of each, by name or by an index that is common to both.
        other_names: Of the other's.
        other_labels: Of the other's.

    Returns:
        Row numbers in this and in the other, each of shape (num_shared,).

    Raises:
        ValueError: If a name stands twice, they share no video, or they disagree on a true label.
    """
    for title, given in (("this", names), ("the other", other_names)):
        if len(set(given)) != len(given):
            twice = next(name for name in given if list(given).count(name) > 1)
            raise ValueError(f"video {twice!r} stands twice in {title} evaluation; a video must be scored once")
    rows = {name: row for row, name in enumerate(other_names)}
    pairs = np.array([(row, rows[name]) for row, name in enumerate(names) if name in rows], dtype=int).reshape(-1, 2)
    if not len(pairs):
        raise ValueError(
            f"the two evaluations share no video ({len(names)} and {len(other_names)}); "
            f"compare reports of the same dataset and split"
        )
    for row, other_row in pairs.tolist():
        if labels[row] != other_labels[other_row]:
            raise ValueError(
                f"video {names[row]!r} is {labels[row]} here and {other_labels[other_row]} in the other evaluation; "
                f"evaluate both on the same dataset"
            )
    return pairs[:, 0], pairs[:, 1]


def mcnemar_test(right: np.ndarray, other_right: np.ndarray) -> dict[str, Any]:
    """Do two runs differ in how many videos they get right, beyond chance? The exact test, two-sided.

    Source: McNemar 1947, by the binomial distribution over the videos that just one of them has right. It takes videos
    as independent: clips of a camera are not, so p comes out too small and the paired intervals over groups say more.

    Args:
        right: Whether this run is right, shape (num_videos,).
        other_right: Whether the other is right on the same videos.

    Returns:
        `only_this_right`, `only_other_right` and `p_value`, 1 where they never differ.
    """
    right, other_right = np.asarray(right, dtype=bool), np.asarray(other_right, dtype=bool)
    ours, theirs = int((right & ~other_right).sum()), int((other_right & ~right).sum())
    p_value = float(binomtest(ours, ours + theirs, 0.5).pvalue) if ours + theirs else 1.0
    return {"only_this_right": ours, "only_other_right": theirs, "p_value": p_value}


def compare_predictions(
    scores: np.ndarray,
    other_scores: np.ndarray,
    references: np.ndarray,
    groups: Sequence[object] | None,
    *,
    figures: Sequence[str] = FIGURES,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare two runs on the same videos.

    The interval of a difference is of a paired bootstrap: both runs are measured on the same resamples, of whole
    groups where there are at least 8 and of clips otherwise, as in `bootstrap_intervals`.

    Args:
        scores: This run's, one row a video, each of sum 1, shape (num_videos, num_labels).
        other_scores: The other's, of the same videos and labels in the same order.
        references: True class indices, shape (num_videos,).
        groups: Recording or camera of each video, or None where unknown.
        figures: Names of `intervals.FIGURES`; a top_k at or above the number of labels is left out.
        level: Share of cases in which the true difference shall lie inside.
        resamples: Resamples to draw.
        seed: Of the resamples.

    Returns:
        `num_shared_videos`, `figures` (name to `this`, `other`, `difference` this - other, and `interval`, None where
        there is too little to say: fewer than 5 videos or no difference in any resample) and `mcnemar`.

    Raises:
        ValueError: If shapes differ, scores are not softmax rows, groups not one a video, or a figure is unknown.
    """
    unknown = [name for name in figures if name not in FIGURES]
    if unknown:
        raise ValueError(f"figures must be among {', '.join(FIGURES)}, got {unknown[0]!r}; leave it out")
    if np.shape(scores) != np.shape(other_scores):
        raise ValueError(
            f"both runs must score the same videos and labels, got shapes {np.shape(scores)} and "
            f"{np.shape(other_scores)}; compare reports of one dataset and one list of labels"
        )
    scores, references = check_scores(scores, references, num_labels=np.shape(scores)[-1])
    other_scores, _ = check_scores(other_scores, references, num_labels=np.shape(scores)[-1])
    drawn = draw_resamples(len(references), groups, resamples=resamples, seed=seed)
    ours, theirs = (
        resampled_figures(some, references, drawn, ranking="map" in figures).overall for some in (scores, other_scores)
    )
    return {
        "num_shared_videos": len(references),
        "figures": {
            name: _difference(ours[name], theirs[name], level=level, num_units=drawn.counts.shape[1])
            for name in figures
            if name in ours
        },
        "mcnemar": mcnemar_test(scores.argmax(axis=1) == references, other_scores.argmax(axis=1) == references),
    }


def _difference(ours: np.ndarray, theirs: np.ndarray, *, level: float, num_units: int) -> dict[str, Any]:
    differences = ours - theirs
    this, other, difference = (
        float(values[0]) if np.isfinite(values[0]) else None for values in (ours, theirs, differences)
    )
    known = differences[np.isfinite(differences)]
    says = num_units >= MIN_SUPPORT and difference is not None and np.ptp(known) > 1e-12
    interval = expanded_percentiles(differences[1:], level=level, num_units=num_units) if says else None
    return {"this": this, "other": other, "difference": difference, "interval": interval}
