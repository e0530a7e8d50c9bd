"""Figures of a video classifier's scores as one `evaluate` module: ranking and calibration.

This file imports nothing of ours: it is pushed to the Hub as a Space as it stands, loads with `evaluate.load(PATH)`,
and the class can be used directly. `evaluate.combine` with the module of predictions takes the same rows of scores.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn import metrics

__all__ = [
    "MAX_TOP_K",
    "NUM_BINS",
    "VideoScoreMetrics",
    "average_precisions",
    "brier_score",
    "calibration_bins",
    "calibration_error",
    "check_scores",
    "negative_log_likelihood",
    "top_k_accuracies",
]

MAX_TOP_K = 5
NUM_BINS = 15  # Guo et al. 2017
_SUM_TOLERANCE = 1e-3  # float16 and six decimals of a CSV pass, logits do not

_DESCRIPTION = """
Top-k accuracy, average precision by class and their mean, expected calibration error, negative log-likelihood and
Brier score of a video classifier. One row of scores a video, over the full list of labels. What cannot be computed,
such as the average precision of a class without positives, is None.
"""
_INPUTS = """
Args:
    predictions (list of list of float): Score of every class for each video, each row of sum 1 (softmax).
    references (list of int): True class index of each video.
    label_names (list of str): Names of all classes in the order of their indices, also of those that are absent.
Returns:
    top_k, average_precision, map, calibration_error, negative_log_likelihood, brier
"""


class VideoScoreMetrics(evaluate.Metric):
    """Top-k accuracy, average precision, calibration error, log-likelihood and Brier score over the full label list.

    Use: `VideoScoreMetrics().compute(predictions=[[...], ...], references=[...], label_names=[...])`, or
    `evaluate.load(PATH_OF_THIS_FILE)` for the same object.
    """

    def _info(self) -> evaluate.MetricInfo:
        rows = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": rows, "references": datasets.Value("int64")}),
            reference_urls=["https://scikit-learn.org/stable/modules/model_evaluation.html"],
        )

    def _compute(
        self, predictions: Sequence[Sequence[float]], references: Sequence[int], label_names: Sequence[str]
    ) -> dict[str, Any]:
        """Compute every figure.

        Raises:
            ValueError: If scores are not rows of softmax over the labels, or an index lies outside `label_names`.
        """
        twice = [name for index, name in enumerate(label_names) if name in label_names[:index]]
        if twice:
            raise ValueError(f"label_names must differ from each other, got {twice[0]!r} twice")
        scores, true = check_scores(predictions, references, num_labels=len(label_names))
        precisions = average_precisions(scores, true)
        known = [value for value in precisions if value is not None]
        return {
            "top_k": {str(k): value for k, value in top_k_accuracies(scores, true).items()},
            "average_precision": dict(zip(label_names, precisions, strict=True)),
            "map": float(np.mean(known)) if known else None,
            "calibration_error": calibration_error(scores, true),
            "negative_log_likelihood": negative_log_likelihood(scores, true),
            "brier": brier_score(scores, true),
        }


def check_scores(
    scores: Sequence[Sequence[float]] | np.ndarray, references: Sequence[int] | np.ndarray, *, num_labels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and references as arrays, or say what is wrong with them.

    Args:
        scores: One row a video, 0 to 1, each row of sum 1, shape (num_videos, num_labels).
        references: True class indices, shape (num_videos,).
        num_labels: Classes, at least 2.

    Returns:
        float64 scores, shape (num_videos, num_labels), and int64 references, shape (num_videos,).

    Raises:
        ValueError: If there is no video, or a shape, a score or an index is not as above.
    """
    if num_labels < 2:
        raise ValueError(f"label_names must hold at least 2 labels, got {num_labels}")
    widths = sorted({len(row) for row in scores} - {num_labels})
    if widths:
        raise ValueError(
            f"scores must be rows of {num_labels} numbers, one a label, got a row of {widths[0]}; give every label"
        )
    rows, true = np.asarray(scores, dtype=np.float64), np.asarray(references, dtype=np.int64)
    if len(rows) != len(true):
        raise ValueError(f"scores and references must be of equal length, got {len(rows)} and {len(true)}")
    if not len(true):
        raise ValueError("references must hold at least one video, got none")
    if true.min() < 0 or true.max() >= num_labels:
        raise ValueError(
            f"references must lie in 0 to {num_labels - 1} ({num_labels} labels), got {true.min()} to {true.max()}"
        )
    sums = rows.sum(axis=1)
    wrong = ~(np.isfinite(rows).all(axis=1) & (rows.min(axis=1) >= 0) & (np.abs(sums - 1) <= _SUM_TOLERANCE))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"scores must be numbers from 0 to 1 whose rows sum to 1, row {row} is "
            f"{np.array2string(rows[row], precision=3, threshold=6, max_line_width=200)} of sum {sums[row]:.4g}; "
            f"take the softmax of the logits"
        )
    return rows, true


def top_k_accuracies(scores: np.ndarray, references: np.ndarray) -> dict[int, float]:
    """Share of videos whose label is among the k highest scores, for k of 2 to 5 below the number of labels.

    Args:
        scores: Shape (num_videos, num_labels).
        references: True class indices, shape (num_videos,).
    """
    num_labels = scores.shape[1]
    # Mirrored, because scikit-learn ranks the last of equal scores first and argmax, our prediction, the first.
    mirrored, true = scores[:, ::-1], num_labels - 1 - references
    return {
        k: float(metrics.top_k_accuracy_score(true, mirrored, k=k, labels=range(num_labels)))
        for k in range(2, min(MAX_TOP_K, num_labels - 1) + 1)
    }


def average_precisions(scores: np.ndarray, references: np.ndarray) -> list[float | None]:
    """Area under each class's precision-recall curve, one against the rest, without interpolation.

    None where the references hold no video of the class, or no other: there is nothing to rank.

    Args:
        scores: Shape (num_videos, num_labels).
        references: True class indices, shape (num_videos,).
    """
    positives = references[:, None] == np.arange(scores.shape[1])
    return [
        float(metrics.average_precision_score(truth, values)) if 0 < truth.sum() < len(truth) else None
        for truth, values in zip(positives.T, scores.T, strict=True)
    ]


def calibration_bins(scores: np.ndarray) -> np.ndarray:
    """Bin of each video by its highest score, 0 to NUM_BINS - 1; bin i holds (i / NUM_BINS, (i + 1) / NUM_BINS]."""
    return np.clip(np.ceil(scores.max(axis=1) * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)


def calibration_error(scores: np.ndarray, references: np.ndarray) -> float:
    """Expected calibration error: |accuracy - mean highest score|, averaged over bins by their videos.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, equation 3, 15 bins of equal width. It lies
    above the truth on few videos, for chance alone moves the bins.

    Args:
        scores: Shape (num_videos, num_labels).
        references: True class indices, shape (num_videos,).
    """
    gaps = (scores.argmax(axis=1) == references) - scores.max(axis=1)
    return float(np.abs(np.bincount(calibration_bins(scores), weights=gaps)).sum() / len(references))


def negative_log_likelihood(scores: np.ndarray, references: np.ndarray) -> float:
    """Mean of -log(score of the true class), natural logarithm; a score of 0 counts as 2e-16.

    Args:
        scores: Shape (num_videos, num_labels).
        references: True class indices, shape (num_videos,).
    """
    scores = scores / scores.sum(axis=1, keepdims=True)  # scikit-learn warns of rows that are off by rounding
    return float(metrics.log_loss(references, scores, labels=range(scores.shape[1])))


def brier_score(scores: np.ndarray, references: np.ndarray) -> float:
    """Mean over videos of the squared differences to the truth, summed over classes: 0 at best, 2 at worst.

    Args:
        scores: Shape (num_videos, num_labels).
        references: True class indices, shape (num_videos,).
    """
    truth = references[:, None] == np.arange(scores.shape[1])
    return float(((scores - truth) ** 2).sum(axis=1).mean())
