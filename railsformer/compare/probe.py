"""How much of a decision is motion: the same test clips played shuffled, reversed, and as one picture repeated."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from railsformer.compare.cells import Cell, CellRunner, check_same_videos, figures_of, right_of
from railsformer.compare.statistics import SeedRuns, holm, paired_difference, sentences, spread_of
from railsformer.evaluation.report_pages.predictions import Predictions
from railsformer.training.arguments import Settings

__all__ = ["ORDERS", "changed_share", "probe_section"]

ORDERS = ("forwards", "shuffled", "reversed", "middle")


def probe_section(
    runner: CellRunner,
    cells: Mapping[str, Sequence[Cell]],
    settings: Mapping[str, Settings],
    *,
    groups: Sequence[object] | None,
) -> dict[str, Any]:
    """Play the test clips to every finished run in every order.

    Args:
        runner: Of the comparison.
        cells: Finished cells by name of the row.
        settings: By name of the cell.
        groups: Recording or camera of each test video.

    Returns:
        `rows`, one a scheme with `accuracy`, `f1_macro` and `changed` by order; `pairs` of forwards and each other
        order; and `sentences`. `changed` is the share of videos on which the decision is another one than forwards.
    """
    rows, pairs = [], []
    for name, of_row in cells.items():
        found, failed = _played(runner, of_row, settings)
        row: dict[str, Any] = {"name": name, "seeds": list(found)}
        for order in ORDERS:
            plays = [(orders["forwards"], orders[order]) for orders in found.values()]
            row[order] = {
                key: spread_of(figures_of(played)[key] for _, played in plays) for key in ("accuracy", "f1_macro")
            } | {"changed": spread_of(changed_share(forwards, played) for forwards, played in plays)}
        row["not_measured"] = "; ".join(failed) or (None if found else "the training did not finish")
        rows.append(row)
        if found:
            pairs += _pairs(name, found, groups)
    for entry, corrected in zip(pairs, holm([entry["p"] for entry in pairs]), strict=True):
        entry["p_holm"] = corrected
    return {"orders": list(ORDERS), "rows": rows, "pairs": pairs, "sentences": sentences(pairs)}


def changed_share(one: Predictions, other: Predictions) -> float:
    """Share of the videos that both could read on which the decisions differ."""
    read = one.is_read & other.is_read
    return float((one.scores[read].argmax(axis=1) != other.scores[read].argmax(axis=1)).mean())


def _played(
    runner: CellRunner, cells: Sequence[Cell], settings: Mapping[str, Settings]
) -> tuple[dict[int, dict[str, Predictions]], list[str]]:
    """Predictions by seed and order, and why others are missing."""
    found, failed = {}, []
    protocols = {order: {"frame_order": order} for order in ORDERS[1:]}
    for cell in cells:
        if reason := runner.score("probe", cell, settings[cell.name], protocols):
            failed.append(f"seed {cell.seed}: {reason}")
            continue
        orders = {"forwards": runner.predictions(cell)}
        orders |= {order: runner.scored("probe", cell, order)[0] for order in protocols}
        check_same_videos(list(orders.values()))
        found[cell.seed] = orders
    return found, failed


def _pairs(
    name: str, found: Mapping[int, Mapping[str, Predictions]], groups: Sequence[object] | None
) -> list[dict[str, Any]]:
    runs = {
        order: SeedRuns(
            f"{name} {order}", {seed: np.asarray(right_of(orders[order])) for seed, orders in found.items()}
        )
        for order in ORDERS
    }
    return [paired_difference(runs["forwards"], runs[order], groups, same_training=True) for order in ORDERS[1:]]
