"""Figures of a cross-validation: every fold's, their mean and spread, as data and as a table."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["FIGURES", "FoldResult", "crossval_content", "crossval_markdown", "crossval_table"]

FIGURES = {"f1_macro": "macro F1", "balanced_accuracy": "balanced accuracy", "accuracy": "accuracy"}


@dataclass(frozen=True)
class FoldResult:
    """One training of one fold.

    Attributes:
        fold: Name of the fold.
        seed: Seed of the training.
        state: What became of it.
        groups: Groups by side.
        counts: Videos by side.
        num_left_out: Videos left out because a copy lies on another side.
        reason: Why it failed.
        validation_f1_macro: What chose the epoch, on the validation groups.
        seconds: What training took, after the last interruption.
        figures: metrics.json of the test groups; empty until the fold is finished.
    """

    fold: str
    seed: int
    state: Literal["finished", "failed", "waiting"]
    groups: Mapping[str, Sequence[str]]
    counts: Mapping[str, int]
    num_left_out: int = 0
    reason: str | None = None
    validation_f1_macro: float | None = None
    seconds: float | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)


def crossval_content(results: Sequence[FoldResult], protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Return crossval.json: every fold, the summary over those that are finished, and how it was done.

    Args:
        results: All trainings, finished or not.
        protocol: Dataset, folds, seeds and recipe.
    """
    finished = [result for result in results if result.state == "finished"]
    return {
        "version": 1,
        "finished": len(finished),
        "trainings": len(results),
        "folds": [_record(result) for result in results],
        "summary": {key: _spread((one.fold, one.figures[key]) for one in finished) for key in FIGURES},
        "per_class": {
            label: {
                "f1": _spread((one.fold, row["f1"]) for one, row in rows if row["support"]),
                "support": sum({one.fold: row["support"] for one, row in rows}.values()),
            }
            for label, rows in _by_label(finished).items()
        },
        "protocol": dict(protocol),
    }


def _record(result: FoldResult) -> dict[str, Any]:
    figures = result.figures
    return {
        "fold": result.fold,
        "seed": result.seed,
        "state": result.state,
        "reason": result.reason,
        "groups": {side: list(names) for side, names in result.groups.items()},
        "counts": dict(result.counts),
        "copies_left_out": result.num_left_out,
        "seconds": result.seconds,
        "validation_f1_macro": result.validation_f1_macro,
        **{key: figures.get(key) for key in (*FIGURES, "f1_weighted")},
        "per_class": {
            label: {"f1": row["f1"], "support": row["support"]} for label, row in figures.get("per_class", {}).items()
        },
        "dataset_fingerprint": figures.get("dataset_fingerprint"),
    }


def _by_label(results: Sequence[FoldResult]) -> dict[str, list[tuple[FoldResult, Mapping[str, Any]]]]:
    rows: dict[str, list[tuple[FoldResult, Mapping[str, Any]]]] = {}
    for result in results:
        for label, row in result.figures["per_class"].items():
            rows.setdefault(label, []).append((result, row))
    return rows


def _spread(values: Iterable[tuple[str, float]]) -> dict[str, float | None]:
    """Mean and spread of values that belong to folds; a fold counts once, whatever its number of seeds.

    `std` is over the folds' means and `std_over_seeds` the mean over folds of that over seeds, both with n - 1;
    `min` and `max` are over all values.
    """
    by_fold: dict[str, list[float]] = {}
    for fold, value in values:
        by_fold.setdefault(fold, []).append(value)
    if not by_fold:
        return dict.fromkeys(("mean", "std", "min", "max", "std_over_seeds"))
    means = [statistics.fmean(found) for found in by_fold.values()]
    over_seeds = [statistics.stdev(found) for found in by_fold.values() if len(found) > 1]
    every = [value for found in by_fold.values() for value in found]
    return {
        "mean": statistics.fmean(means),
        "std": statistics.stdev(means) if len(means) > 1 else None,
        "min": min(every),
        "max": max(every),
        "std_over_seeds": statistics.fmean(over_seeds) if over_seeds else None,
    }


def crossval_table(content: Mapping[str, Any]) -> str:
    """The table of `crossval_content`, in Markdown, with columns of equal width so that a console shows it well."""
    labels = list(content["per_class"])
    header = ["fold", "seed", "videos", *FIGURES.values(), "validation", *(f"F1 {label}" for label in labels)]
    rows = [header, *(_fold_cells(fold, labels) for fold in content["folds"])]
    if content["finished"]:
        summaries = [*(content["summary"][key] for key in FIGURES), None]
        summaries += [content["per_class"][label]["f1"] for label in labels]
        for title, keys in {"mean": ("mean",), "std": ("std",), "range": ("min", "max")}.items():
            cells = ["–".join(_number(one[key]) for key in keys) if one else "" for one in summaries]
            rows.append([title, "", "", *cells])
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in padded]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _fold_cells(fold: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    start = [fold["fold"], str(fold["seed"]), str(fold["counts"]["test"])]
    if fold["state"] != "finished":
        return [*start, fold["state"], *[""] * (len(FIGURES) + len(labels))]
    rows = [fold["per_class"][label] for label in labels]
    by_label = [f"{_number(row['f1'])} ({row['support']})" if row["support"] else "none" for row in rows]
    return [*start, *(_number(fold[key]) for key in FIGURES), _number(fold["validation_f1_macro"]), *by_label]


def _number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"


def crossval_markdown(content: Mapping[str, Any]) -> str:
    """Return crossval.md: the table first, then how it was obtained."""
    protocol = content["protocol"]
    failed = [fold for fold in content["folds"] if fold["state"] == "failed"]
    over_seeds = content["summary"]["f1_macro"]["std_over_seeds"]
    lines = [
        f"# Cross-validation of {protocol['dataset']}",
        "",
        f"{content['finished']} of {content['trainings']} trainings finished.",
        "",
        crossval_table(content),
        "",
        "Each fold is tested on groups that neither trained nor chose anything. `validation` is the macro F1 on the "
        "groups that chose the epoch. Behind a class's F1 stands its number of test videos; mean and std are over "
        "folds (a fold of several seeds counts once, with its mean), the range is over all trainings.",
    ]
    if over_seeds is not None:
        lines += ["", f"Between seeds of one fold the macro F1 has a std of {over_seeds:.3f}."]
    lines += [f"\nFold {fold['fold']}, seed {fold['seed']} failed: {fold['reason']}" for fold in failed]
    lines += [
        "",
        "## Folds",
        "",
        "| fold | tested | validation | training | copies left out |",
        "|---|---|---|---|---|",
    ]
    for fold in {fold["fold"]: fold for fold in content["folds"]}.values():
        sides = [
            f"{fold['counts'][side]}: {_listed(fold['groups'][side])}" for side in ("test", "validation", "train")
        ]
        lines.append(f"| {fold['fold']} | {' | '.join(sides)} | {fold['copies_left_out']} |")
    lines += ["", "## How it was measured", ""]
    lines += [f"- {name}: {value}" for name, value in _protocol_lines(protocol)]
    return "\n".join(lines) + "\n"


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _protocol_lines(protocol: Mapping[str, Any]) -> list[tuple[str, str]]:
    settings = ", ".join(f"{name} {value}" for name, value in sorted(protocol["settings"].items()))
    versions = ", ".join(f"{name} {number}" for name, number in protocol["versions"].items())
    return [
        ("dataset fingerprint", f"`{protocol['dataset_fingerprint'] or 'none stated'}`"),
        ("folds", f"{protocol['folds']}, split seed {protocol['split_seed']}"),
        ("validation", f"whole groups, about {protocol['validation_share']:g} of what is not tested"),
        ("seeds", ", ".join(map(str, protocol["seeds"]))),
        ("recipe", str(protocol["recipe"] or "none")),
        ("settings", settings),
        ("versions", versions),
    ]
