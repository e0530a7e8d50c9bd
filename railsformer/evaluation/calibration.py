"""Scores that mean what they say: temperature scaling and reliability bins."""

from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from railsformer.evaluation.score_metrics import (
    NUM_BINS,
    brier_score,
    calibration_bins,
    calibration_error,
    check_scores,
    negative_log_likelihood,
)

__all__ = [
    "TEMPERATURES",
    "apply_temperature",
    "calibration_summary",
    "fit_temperature",
    "reliability_bins",
]

TEMPERATURES = (0.05, 20.0)  # beyond, scores are all 0 and 1, or all alike
_LEAST_SCORE = 1e-12  # a softmax in float32 can end in a plain 0, which has no logarithm


def fit_temperature(scores: np.ndarray, references: np.ndarray) -> float:
    """The temperature whose scores have the smallest negative log-likelihood.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2. The logits are the logarithms of
    the scores that were averaged over views, so that the fit is to the scores that are used. Predictions do not
    change.

    Args:
        scores: One row a video, each of sum 1, of videos that the model was not trained on, shape
            (num_videos, num_labels).
        references: True class indices, shape (num_videos,).

    Returns:
        Temperature, .05 to 20: above 1 the model was too sure of itself, below 1 not sure enough. 1 where every video
        has its highest score at its label, for then the smaller the better without end, and nothing is learned.

    Raises:
        ValueError: If there is no video or scores are not softmax rows.
    """
    scores, references = check_scores(scores, references, num_labels=np.shape(scores)[-1])
    if (scores.argmax(axis=1) == references).all():
        return 1.0
    logits = _logits(scores)
    own = logits[np.arange(len(references)), references]

    def loss_and_slope(log_temperature: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = logits / np.exp(log_temperature[0])
        softmax = np.exp(scaled - logsumexp(scaled, axis=1, keepdims=True))
        loss = logsumexp(scaled, axis=1) - own / np.exp(log_temperature[0])
        slope = (own - (softmax * logits).sum(axis=1)) / np.exp(log_temperature[0])
        return float(loss.mean()), np.array([slope.mean()])

    # With the logarithm as parameter there is one valley: the loss is convex in the inverse temperature.
    bounds = [tuple(np.log(TEMPERATURES))]
    found = minimize(loss_and_slope, np.zeros(1), jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14})
    return float(np.clip(np.exp(found.x[0]), *TEMPERATURES))


def apply_temperature(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax of log(scores) / temperature.

    Args:
        scores: Each row of sum 1, shape (num_videos, num_labels).
        temperature: As `fit_temperature` returns it; 1 changes nothing.

    Returns:
        Scores of the same shape, each row of sum 1.

    Raises:
        ValueError: If temperature is not above 0.
    """
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature must be a number above 0, got {temperature}; fit it with --recalibrate")
    scaled = _logits(np.asarray(scores, dtype=np.float64)) / temperature
    return np.exp(scaled - logsumexp(scaled, axis=-1, keepdims=True))


def reliability_bins(scores: np.ndarray, references: np.ndarray) -> list[dict[str, float | int | None]]:
    """What a reliability diagram shows: how often videos of a given highest score are right.

    Args:
        scores: Each row of sum 1, shape (num_videos, num_labels).
        references: True class indices, shape (num_videos,).

    Returns:
        15 bins of equal width, those of the calibration error (Guo et al. 2017): `low`, `high`, mean highest score
        `confidence`, share of right predictions `accuracy` (both None where the bin is empty), and `count` of videos.
    """
    confidence, right = scores.max(axis=1), scores.argmax(axis=1) == references
    bins = calibration_bins(scores)
    rows: list[dict[str, float | int | None]] = []
    for index in range(NUM_BINS):
        inside = bins == index
        some = bool(inside.any())
        rows.append(
            {
                "low": index / NUM_BINS,
                "high": (index + 1) / NUM_BINS,
                "confidence": float(confidence[inside].mean()) if some else None,
                "accuracy": float(right[inside].mean()) if some else None,
                "count": int(inside.sum()),
            }
        )
    return rows


def calibration_summary(
    scores: np.ndarray, references: np.ndarray, *, temperature: float, split: str, num_videos: int | None
) -> dict[str, Any]:
    """The `calibration` part of metrics.json.

    Args:
        scores: Of the evaluated split, before the temperature, shape (num_videos, num_labels).
        references: True class indices of the evaluated split.
        temperature: As fitted on another split.
        split: Name of the split that it was fitted on.
        num_videos: Videos of the split that it was fitted on; None where nobody knows any more.

    Returns:
        `split`, `num_videos`, `temperature`, figures `before` and `after`, and `reliability` before and after.

    Raises:
        ValueError: If scores are not softmax rows or temperature is not above 0.
    """
    before, references = check_scores(scores, references, num_labels=np.shape(scores)[-1])
    after = apply_temperature(before, temperature)
    return {
        "split": split,
        "num_videos": num_videos,
        "temperature": temperature,
        "before": _figures(before, references),
        "after": _figures(after, references),
        "reliability": {
            "before": reliability_bins(before, references),
            "after": reliability_bins(after, references),
        },
    }


def _figures(scores: np.ndarray, references: np.ndarray) -> dict[str, float]:
    return {
        "calibration_error": calibration_error(scores, references),
        "negative_log_likelihood": negative_log_likelihood(scores, references),
        "brier": brier_score(scores, references),
    }


def _logits(scores: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(scores, _LEAST_SCORE))
