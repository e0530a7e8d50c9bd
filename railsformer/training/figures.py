"""The figures of validation that choose an epoch, a regularisation or an end: those of the report, by name."""

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax

from railsformer.evaluation.metrics import VideoClassificationMetrics
from railsformer.evaluation.score_metrics import (
    MAX_TOP_K,
    average_precisions,
    brier_score,
    calibration_error,
    negative_log_likelihood,
    top_k_accuracies,
)
from railsformer.training.arguments import LABEL_FIGURES, RANKING_FIGURE, TOP_K

__all__ = ["check_selection", "score_figures", "validation_figures"]


def validation_figures(
    predictions: np.ndarray, references: np.ndarray, *, label_names: Sequence[str]
) -> dict[str, float]:
    """Every figure of predictions that is one number; those of a label as `recall/LABEL`, absent labels left out.

    Args:
        predictions: Predicted class indices, shape (num_videos,).
        references: True class indices, shape (num_videos,).
        label_names: Names of all classes.
    """
    computed = VideoClassificationMetrics(keep_in_memory=True).compute(
        predictions=predictions, references=references, label_names=list(label_names)
    )
    figures = {key: value for key, value in (computed or {}).items() if isinstance(value, float)}
    for label, row in (computed or {}).get("per_class", {}).items():
        figures |= {f"{kind}/{label}": row[kind] for kind in LABEL_FIGURES if row[kind] is not None}
        if row["support"]:
            figures[f"support/{label}"] = float(row["support"])
    return figures


def score_figures(logits: np.ndarray, references: np.ndarray, *, label_names: Sequence[str]) -> dict[str, float]:
    """Every figure of scores, as `VideoScoreMetrics` names them, with `average_precision/LABEL` and `top_k/K`.

    What cannot be computed is left out: an average precision where all videos or none are of the label, and all of
    them where a logit is no number.

    Args:
        logits: Shape (num_videos, num_labels).
        references: True class indices, shape (num_videos,).
        label_names: Names of all classes.
    """
    if len(label_names) < 2 or not np.isfinite(logits).all():
        return {}
    scores = softmax(logits.astype(np.float64), axis=1)
    precisions = {
        label: value
        for label, value in zip(label_names, average_precisions(scores, references), strict=True)
        if value is not None
    }
    figures = {
        "negative_log_likelihood": negative_log_likelihood(scores, references),
        "calibration_error": calibration_error(scores, references),
        "brier": brier_score(scores, references),
        **{f"{TOP_K}/{k}": value for k, value in top_k_accuracies(scores, references).items()},
        **{f"{RANKING_FIGURE}/{label}": value for label, value in precisions.items()},
    }
    return figures | ({"map": float(np.mean(list(precisions.values())))} if precisions else {})


def check_selection(name: str, *, label_names: Sequence[str], validation_labels: Sequence[int]) -> None:
    """Refuse a figure that validation cannot give, before the first step.

    Args:
        name: metric_for_best_model.
        label_names: Names of all classes.
        validation_labels: Class index of each video of validation.

    Raises:
        ValueError: If the label is not the dataset's, or no video of validation has it; if there is nothing to rank;
            or if k is not below the number of labels.
    """
    kind, is_parted, part = name.removeprefix("eval_").partition("/")
    present = [label_names[index] for index in sorted(set(validation_labels))]
    if kind == TOP_K:
        most = min(MAX_TOP_K, len(label_names) - 1)
        if not 2 <= int(part) <= most:
            raise ValueError(
                f"metric_for_best_model must be {TOP_K}/K with K from 2 to {most} for {len(label_names)} labels, got "
                f"{name!r}"
            )
    elif is_parted and part not in present:
        raise ValueError(
            f"metric_for_best_model must be of a label that validation holds ({', '.join(present)}), got {name!r}"
        )
    if kind in ("map", RANKING_FIGURE) and len(present) < 2:
        raise ValueError(
            f"metric_for_best_model {name} ranks videos of one label against others, and all of validation are "
            f"{present[0]}; name another figure"
        )
