"""predictions.csv: one row a video with its metadata, the true label, the prediction and every score."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from railsformer.evaluation.calibration import apply_temperature

__all__ = ["Predictions", "read_predictions", "write_predictions"]

_FIXED = ("video", "label", "prediction")
_SCORE = "score_"


@dataclass(frozen=True)
class Predictions:
    """One row a video of the split, in the order of its rows.

    Attributes:
        label_names: All labels in the order of their indices.
        videos: File names.
        references: True class indices, shape (num_videos,).
        scores: Softmax scores before temperature, shape (num_videos, num_labels); a row of NaN for a video that was
            not read.
        metadata: Column name to one value a video.

    Raises:
        ValueError: If the numbers of rows or labels disagree.
    """

    label_names: Sequence[str]
    videos: Sequence[str]
    references: np.ndarray
    scores: np.ndarray
    metadata: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wanted = (len(self.videos), len(self.label_names))
        if self.scores.shape != wanted:
            raise ValueError(f"scores must have shape {wanted} (videos, labels), got {self.scores.shape}")
        lengths = {"references": len(self.references)} | {name: len(of) for name, of in self.metadata.items()}
        for name, length in lengths.items():
            if length != len(self.videos):
                raise ValueError(f"{name} must hold one value a video ({len(self.videos)}), got {length}")

    @property
    def is_read(self) -> np.ndarray:
        """Whether each video has scores, shape (num_videos,)."""
        return ~np.isnan(self.scores).any(axis=1)

    def scored(self, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """True class indices and scores of the videos that were read, the scores softened by a temperature."""
        references, scores = self.references[self.is_read], self.scores[self.is_read].astype(np.float64)
        return references, scores if temperature == 1.0 else apply_temperature(scores, temperature)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions.csv; the prediction and the scores of a video that was not read are empty.

    Scores have nine digits wherever the point is: rounded to 0, small ones would tie, and their logarithm be lost to
    those who compare.
    """
    labels, metadata = predictions.label_names, predictions.metadata
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow([*_FIXED, *metadata, *(f"{_SCORE}{name}" for name in labels)])
        for row, (video, is_read) in enumerate(zip(predictions.videos, predictions.is_read, strict=True)):
            scores = predictions.scores[row]
            guess = labels[int(scores.argmax())] if is_read else ""
            told = [f"{score:.9g}" for score in scores] if is_read else [""] * len(labels)
            values = [column[row] for column in metadata.values()]
            writer.writerow([video, labels[int(predictions.references[row])], guess, *values, *told])


def read_predictions(path: str | Path) -> Predictions:
    """Read predictions.csv back, metadata as text.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is not a table of predictions.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            head = next(reader, [])
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is damaged ({error}); evaluate that model again") from error
    # The scores stand last: a column of the metadata may begin with the same word.
    first_score = max((place + 1 for place, name in enumerate(head) if not name.startswith(_SCORE)), default=0)
    labels = [name.removeprefix(_SCORE) for name in head[first_score:]]
    if tuple(head[:3]) != _FIXED or not labels or not all(name.startswith(_SCORE) for name in head[first_score:]):
        raise ValueError(
            f"{path}: the first line must be video,label,prediction,...,score_LABEL,... as evaluate writes it, "
            f"got {','.join(head)[:80]!r}"
        )
    for number, row in enumerate(rows, start=2):
        if len(row) != len(head) or row[1] not in labels:
            raise ValueError(
                f"{path}, row {number}: must have {len(head)} cells and one of the labels {', '.join(labels)}, "
                f"got {len(row)} cells and label {row[1] if len(row) > 1 else ''!r}"
            )
    return Predictions(
        label_names=labels,
        videos=[row[0] for row in rows],
        references=np.array([labels.index(row[1]) for row in rows], dtype=np.int64),
        scores=_scores(rows, first_score, len(labels), path),
        metadata={name: [row[place] for row in rows] for place, name in enumerate(head[:first_score]) if place > 2},
    )


def _scores(rows: Sequence[Sequence[str]], first: int, num_labels: int, path: str | Path) -> np.ndarray:
    try:
        values = [[float(cell) if cell else np.nan for cell in row[first:]] for row in rows]
    except ValueError as error:
        raise ValueError(f"{path}: scores must be numbers or empty: {error}") from error
    return np.array(values, dtype=np.float64).reshape(len(rows), num_labels)
