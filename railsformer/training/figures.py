"""The figures of validation that choose an epoch, a regularisation or an end: those of the report, by name."""

from collections.abc import Sequence

import numpy as np

from railsformer.evaluation.metrics import VideoClassificationMetrics
from railsformer.training.arguments import LABEL_FIGURES

__all__ = ["check_selection", "validation_figures"]


def validation_figures(
    predictions: np.ndarray, references: np.ndarray, *, label_names: Sequence[str]
) -> dict[str, float]:
    """Every figure that is one number; those of a label as `recall/LABEL`, absent labels left out.

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


def check_selection(name: str, *, label_names: Sequence[str], validation_labels: Sequence[int]) -> None:
    """Refuse a figure of a label that validation cannot give, before the first step.

    Args:
        name: metric_for_best_model.
        label_names: Names of all classes.
        validation_labels: Class index of each video of validation.

    Raises:
        ValueError: If the label is not the dataset's, or no video of validation has it.
    """
    _, is_of_label, label = name.removeprefix("eval_").partition("/")
    if not is_of_label:
        return
    present = [label_names[index] for index in sorted(set(validation_labels))]
    if label not in present:
        raise ValueError(
            f"metric_for_best_model must be of a label that validation holds ({', '.join(present)}), got {name!r}"
        )
