"""Figures of a video classifier as one `evaluate` module, all through scikit-learn.

This file imports nothing of ours: it is pushed to the Hub as a Space as it stands, loads with `evaluate.load(PATH)`,
and the class can be used directly.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn import metrics

__all__ = ["VideoClassificationMetrics"]

_DESCRIPTION = """
Accuracy, balanced accuracy, macro, weighted and micro F1, precision, recall, F1 and support by class, and the
confusion matrix of a video classifier. One prediction a video. Figures are taken over the full list of labels; macro
figures over the labels that the references hold, and the absent ones are named.
"""
_INPUTS = """
Args:
    predictions (list of int, or list of list of float): Predicted class index of each video, or its row of scores, of
        which the highest is the prediction (the first of equal ones).
    references (list of int): True class index of each video.
    label_names (list of str): Names of all classes in the order of their indices, also of those that are absent.
Returns:
    accuracy, balanced_accuracy, f1_macro, f1_weighted, f1_micro, per_class, confusion_matrix, absent_labels,
    num_videos
"""


class VideoClassificationMetrics(evaluate.Metric):
    """Accuracy, balanced accuracy, F1 and per-class figures over the full label list.

    Use: `VideoClassificationMetrics().compute(predictions=[...], references=[...], label_names=[...])`, or
    `evaluate.load(PATH_OF_THIS_FILE)` for the same object.
    """

    def _info(self) -> evaluate.MetricInfo:
        index = datasets.Value("int64")
        rows = datasets.Sequence(datasets.Value("float64"))  # so that `evaluate.combine` can feed both of our modules
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=[datasets.Features({"predictions": kind, "references": index}) for kind in (index, rows)],
            reference_urls=["https://scikit-learn.org/stable/modules/model_evaluation.html"],
        )

    def _infer_feature_from_batch(self, batch: dict[str, Any]) -> datasets.Features:
        """Either kind of predictions; evaluate's own looks at the first row, also where there is none."""
        if any(len(values) == 0 for values in batch.values()):
            return self.features[0]
        return super()._infer_feature_from_batch(batch)

    def _compute(
        self,
        predictions: Sequence[int] | Sequence[Sequence[float]],
        references: Sequence[int],
        label_names: Sequence[str],
    ) -> dict[str, Any]:
        """Compute every figure.

        Raises:
            ValueError: If there is nothing to score, an index lies outside `label_names`, two names are the same, or
                a row of scores is not one number a label.
        """
        predicted = _class_indices(predictions, num_labels=len(label_names))
        true = np.asarray(references, dtype=np.int64)
        if true.size == 0:
            raise ValueError("references must hold at least one video, got none")
        twice = [name for index, name in enumerate(label_names) if name in label_names[:index]]
        if twice:
            raise ValueError(f"label_names must differ from each other, got {twice[0]!r} twice")
        for name, values in (("predictions", predicted), ("references", true)):
            if values.min() < 0 or values.max() >= len(label_names):
                raise ValueError(
                    f"{name} must lie in 0 to {len(label_names) - 1} ({len(label_names)} labels), "
                    f"got {values.min()} to {values.max()}"
                )
        indices = list(range(len(label_names)))
        precision, recall, f1, support = metrics.precision_recall_fscore_support(
            true, predicted, labels=indices, zero_division=0
        )
        present = support > 0
        per_class = {
            name: {
                "precision": float(precision[index]) if present[index] else None,
                "recall": float(recall[index]) if present[index] else None,
                "f1": float(f1[index]) if present[index] else None,
                "support": int(support[index]),
            }
            for index, name in enumerate(label_names)
        }
        return {
            "accuracy": float(metrics.accuracy_score(true, predicted)),
            "balanced_accuracy": float(recall[present].mean()),
            "f1_macro": float(f1[present].mean()),
            "f1_weighted": float(np.average(f1[present], weights=support[present])),
            "f1_micro": float(metrics.f1_score(true, predicted, labels=indices, average="micro", zero_division=0)),
            "per_class": per_class,
            "confusion_matrix": {
                "labels": list(label_names),
                "matrix": metrics.confusion_matrix(true, predicted, labels=indices).tolist(),
            },
            "absent_labels": [name for index, name in enumerate(label_names) if not present[index]],
            "num_videos": int(true.size),
        }


def _class_indices(predictions: Sequence[int] | Sequence[Sequence[float]], *, num_labels: int) -> np.ndarray:
    """Class index of each video, shape (num_videos,), from indices or rows of scores.

    Raises:
        ValueError: If a row of scores is not one number a label.
    """
    if not len(predictions) or np.ndim(predictions[0]) == 0:
        return np.asarray(predictions, dtype=np.int64)
    for number, row in enumerate(predictions):
        values = np.asarray(row, dtype=np.float64)
        if len(values) != num_labels or not np.isfinite(values).all():
            raise ValueError(
                f"predictions must be class indices or rows of {num_labels} scores, one a label, row {number} is {row}"
            )
    return np.asarray(predictions, dtype=np.float64).argmax(axis=1)
