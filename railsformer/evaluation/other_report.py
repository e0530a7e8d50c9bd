"""Another report on the same videos, to stand beside this one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from railsformer.evaluation.measured_split import MeasuredSplit, video_names
from railsformer.evaluation.pairing import compare_predictions, shared_videos
from railsformer.evaluation.report_pages.predictions import Predictions, read_predictions

__all__ = ["OtherReport", "check_shared", "compare_reports", "read_other_report"]


@dataclass(frozen=True)
class OtherReport:
    """Predictions of another report.

    Args:
        name: Its folder's name.
        predictions: With labels in the order of this model's.
    """

    name: str
    predictions: Predictions


def read_other_report(folder: str | Path, *, label_names: Sequence[str]) -> OtherReport:
    """Read the predictions of a report folder.

    Args:
        folder: What an earlier `railsformer evaluate` wrote.
        label_names: Labels of this model; those of the other may stand in another order.

    Raises:
        FileNotFoundError: If there is no report.
        ValueError: If it is damaged or of other labels.
    """
    path = Path(folder) / "predictions.csv"
    if not path.is_file():
        raise FileNotFoundError(f"--compare {folder}: no report here (predictions.csv is missing); name its folder")
    found = read_predictions(path)
    if sorted(found.label_names) != sorted(label_names):
        raise ValueError(
            f"--compare {folder}: its labels are {', '.join(found.label_names)}, those of this model "
            f"{', '.join(label_names)}; compare models of the same labels"
        )
    order = [list(found.label_names).index(name) for name in label_names]
    place = {old: new for new, old in enumerate(order)}
    references = np.array([place[int(label)] for label in found.references], dtype=np.int64)
    predictions = Predictions(list(label_names), found.videos, references, found.scores[:, order])
    return OtherReport(Path(folder).resolve().name, predictions)


def check_shared(other: OtherReport, rows: datasets.Dataset, *, labels: Sequence[str]) -> None:
    """Refuse a report that cannot be compared before anything is scored.

    Args:
        other: The other report.
        rows: The split that will be measured.
        labels: Of the dataset, in the order of its indices.

    Raises:
        ValueError: If a name stands twice, they share no video, or disagree on a label.
    """
    theirs = other.predictions
    shared_videos(
        video_names(rows),
        [labels[label] for label in rows["label"]],
        other_names=list(theirs.videos),
        other_labels=[theirs.label_names[label] for label in theirs.references.tolist()],
    )


def compare_reports(measured: MeasuredSplit, other: OtherReport) -> dict[str, Any]:
    """The `compare` part of metrics.json, over the videos that both have read.

    Raises:
        ValueError: If they share no video, or disagree on a label.
    """
    theirs = other.predictions
    read = np.flatnonzero(theirs.is_read)
    ours, others = shared_videos(
        measured.of_read(measured.videos),
        measured.references.tolist(),
        other_names=[theirs.videos[row] for row in read.tolist()],
        other_labels=theirs.references[read].tolist(),
    )
    groups = None if measured.groups is None else [measured.groups[row] for row in ours.tolist()]
    figures = compare_predictions(
        measured.probabilities[ours], theirs.scores[read][others], measured.references[ours], groups
    )
    return {"other": other.name, **figures}
