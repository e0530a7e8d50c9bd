"""What went wrong: the most confident mistakes one by one, and confusions ranked by what they cost."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["MOST_MISTAKES", "confident_mistakes", "cost_figures", "read_costs"]

MOST_MISTAKES = 24


def confident_mistakes(
    probabilities: np.ndarray,
    references: np.ndarray,
    *,
    label_names: Sequence[str],
    videos: Sequence[str],
    files: Sequence[str],
    columns: Mapping[str, Sequence[Any]],
    durations_seconds: Sequence[float] | np.ndarray,
) -> list[tuple[int, dict[str, Any]]]:
    """The wrong answers with the highest scores, at most MOST_MISTAKES.

    Args:
        probabilities: One row a video, NaN where it could not be read, shape (num_videos, num_labels).
        references: True class indices, shape (num_videos,).
        label_names: All labels.
        videos: Name of each video.
        files: Where each lies, below its dataset.
        columns: Metadata, one value a video; start_seconds, end_seconds and group are shown.
        durations_seconds: Of each video.

    Returns:
        Row and entry of metrics.json, the most confident first, rows of the same score in their order.
    """
    read = np.flatnonzero(~np.isnan(probabilities).any(axis=1))
    guesses = probabilities[read].argmax(axis=1)
    wrong = guesses != references[read]
    rows, guesses = read[wrong], guesses[wrong]
    order = np.argsort(-probabilities[rows, guesses], kind="stable")[:MOST_MISTAKES]
    found = []
    for row, guess in zip(rows[order].tolist(), guesses[order].tolist(), strict=True):
        truth, duration = int(references[row]), float(durations_seconds[row])
        entry = {
            "video": videos[row],
            "file": files[row],
            "label": label_names[truth],
            "prediction": label_names[guess],
            "score": float(probabilities[row, guess]),
            "label_score": float(probabilities[row, truth]),
            "duration_seconds": None if math.isnan(duration) else duration,
            **{name: columns[name][row] if name in columns else None for name in ("start_seconds", "end_seconds")},
            "group": str(columns["group"][row]) if columns.get("group") else None,
        }
        found.append((row, entry))
    return found


def read_costs(path: str | Path, *, label_names: Sequence[str]) -> np.ndarray:
    """Read a cost matrix: a CSV table with a row for each true label and a column for each predicted one.

    The first row names the predicted labels (its first cell is free), the first cell of every other row the true one.
    Rows and columns may stand in any order.

    Args:
        path: The table.
        label_names: Labels of the model.

    Returns:
        Cost of each confusion in the order of `label_names`, shape (num_labels, num_labels).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a label is missing, unknown or there twice, or a cost is no number of 0 or more.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"--cost {path}: no such file; give a CSV table, rows true, columns predicted")
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            table = [[cell.strip() for cell in row] for row in csv.reader(file) if any(map(str.strip, row))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"--cost {path} cannot be read ({error}); save it as CSV in UTF-8") from error
    if not table:
        raise ValueError(
            f"--cost {path} is empty; its first row names the predicted labels, each other row a true one"
        )
    columns, rows = table[0][1:], [row[0] for row in table[1:]]
    for kind, found in (("columns", columns), ("rows", rows)):
        _check_labels(found, label_names, where=f"--cost {path}: its {kind}")
    costs = np.zeros((len(label_names), len(label_names)))
    for row in table[1:]:
        if len(row) != len(columns) + 1:
            raise ValueError(f"--cost {path}: row {row[0]!r} must have {len(columns)} costs, got {len(row) - 1}")
        for name, cell in zip(columns, row[1:], strict=True):
            costs[label_names.index(row[0]), label_names.index(name)] = _cost(
                cell, f"--cost {path}: {row[0]} as {name}"
            )
    return costs


def cost_figures(
    costs: np.ndarray, confusion_matrix: Sequence[Sequence[int]], label_names: Sequence[str]
) -> dict[str, Any]:
    """What the answers cost in all, and the confusions that happened, the dearest first.

    Args:
        costs: As `read_costs` gives them; right answers may cost something too.
        confusion_matrix: Videos by true and predicted label.
        label_names: Labels in their order.
    """
    counts = np.asarray(confusion_matrix)
    total = float((counts * costs).sum())
    confusions = [
        {
            "label": label_names[row],
            "prediction": label_names[column],
            "count": int(counts[row, column]),
            "cost_each": float(costs[row, column]),
            "cost": float(counts[row, column] * costs[row, column]),
        }
        for row, column in zip(*counts.nonzero(), strict=True)
        if row != column
    ]
    confusions.sort(key=lambda one: (-one["cost"], -one["count"]))
    return {"total": total, "per_video": total / max(1, int(counts.sum())), "confusions": confusions}


def _check_labels(found: Sequence[str], label_names: Sequence[str], *, where: str) -> None:
    """Refuse all but each label once."""
    expected = f"expected {', '.join(label_names)}"
    for name in found:
        if name not in label_names:
            raise ValueError(f"{where} name {name!r}, which the model does not know; {expected}")
        if found.count(name) > 1:
            raise ValueError(f"{where} name {name!r} twice; {expected}, each once")
    for name in label_names:
        if name not in found:
            raise ValueError(f"{where} miss {name!r}; {expected}")


def _cost(cell: str, where: str) -> float:
    try:
        cost = float(cell)
    except ValueError:
        cost = math.nan
    if not 0 <= cost < math.inf:
        raise ValueError(f"{where}: a cost must be a number of 0 or more, got {cell!r}")
    return cost
