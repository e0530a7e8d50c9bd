"""Parts of the split, the worst first, and where each hazard is missed most."""

from collections.abc import Mapping, Sequence
from typing import Any

from railsformer.evaluation.report_pages.canvas import Drawing
from railsformer.evaluation.report_pages.first_screen import hazard_labels
from railsformer.evaluation.report_pages.tables import MAX_LISTED, Section, Table, rest_of
from railsformer.evaluation.report_pages.words import UNKNOWN, length, listed, of_count, with_interval

__all__ = ["slices_section"]

_MAX_HAZARDS = 4  # with more of them no column and no table each
_LEAST_POSITIVES = 5  # fewer are told last: one miss of two is no news
_NONE_THERE = "none there"


def slices_section(metrics: Mapping[str, Any], drawings: Sequence[Drawing]) -> Section:
    """The figures of every slice; with thresholds, what they do there.

    Args:
        metrics: Content of metrics.json.
        drawings: Figures of the section.
    """
    slices = metrics["slices"]
    if not slices:
        return Section("slices", "Slices", ["No column of the metadata was sliced."])
    at_thresholds = _at_thresholds(metrics)
    lines = [*_interval_lines(metrics)]
    if at_thresholds:
        lines.append("Found means that the score reaches the threshold of the class.")
    else:
        lines.append("Found means named as the likeliest class.")
    return Section("slices", "Slices", lines, drawings, [_overall(metrics, found=not at_thresholds), *at_thresholds])


def _interval_lines(metrics: Mapping[str, Any]) -> list[str]:
    """What the intervals are of, where it is not the same for all."""
    if metrics["intervals"]["method"] != "groups":
        return []
    own = dict.fromkeys(entry["column"] for entry in metrics["slices"] if entry.get("method") == "clips")
    others = any(entry.get("method") == "groups" for entry in metrics["slices"])
    lines = ["Intervals come from whole groups, as those of the report."] if others else []
    if own:
        lines.append(
            f"By {listed(list(own))} every slice lies within one group: its intervals come from its own videos, "
            "and say nothing about another."
        )
    return lines


def _overall(metrics: Mapping[str, Any], *, found: bool) -> Table:
    """One row a slice, with the hazards that were named rightly where there is no threshold to find them by."""
    slices, hazards = metrics["slices"], hazard_labels(metrics)
    columns = hazards if found and len(hazards) <= _MAX_HAZARDS else []
    named = [f"{label} found" for label in columns] or (["weakest class"] if found else [])
    rows = []
    for entry in slices[:MAX_LISTED]:
        accuracy = with_interval(entry["accuracy"], entry["interval"], of="share")
        told = [_count(entry["recall"].get(label), entry["supports"].get(label, 0)) for label in columns]
        if found and not columns:
            told = [_weakest(entry, hazards)]
        f1 = UNKNOWN if entry["f1_macro"] is None else f"{entry['f1_macro']:.2f}"
        rows.append([_name(entry), str(entry["num_videos"]), f1, accuracy, *told])
    return Table(
        f"Slices, the worst first{rest_of(slices)}", ["slice", "videos", "macro F1", "accuracy", *named], rows
    )


def _at_thresholds(metrics: Mapping[str, Any]) -> list[Table]:
    """A table a hazard, or one row a hazard where there are many."""
    slices = [entry for entry in metrics["slices"] if entry.get("points")]
    hazards = [label for label in hazard_labels(metrics) if any(label in entry["points"] for entry in slices)]
    ranked = {label: _most_missed_first(slices, label) for label in hazards}
    head = ["found", "recall", "false alarms an hour", "other footage"]
    if len(hazards) <= _MAX_HAZARDS:
        return [
            Table(
                f"{label} at its threshold, where most is missed first{rest_of(entries)}",
                ["slice", *head],
                [[_name(entry), *_cells(entry["points"][label])] for entry in entries[:MAX_LISTED]],
            )
            for label, entries in ranked.items()
        ]
    rows = [[label, _name(entries[0]), *_cells(entries[0]["points"][label])] for label, entries in ranked.items()]
    return [Table("Where each hazard is missed most, at its threshold", ["hazard", "slice", *head], rows)]


def _most_missed_first(slices: Sequence[Mapping[str, Any]], label: str) -> list[Mapping[str, Any]]:
    def order(entry: Mapping[str, Any]) -> tuple[bool, bool, float, float]:
        point = entry["points"][label]
        few = point["num_positives"] < _LEAST_POSITIVES
        return (point["recall"] is None, few, point["recall"] or 0.0, -(point["false_alarms_per_hour"] or 0.0))

    return sorted((entry for entry in slices if label in entry["points"]), key=order)


def _cells(point: Mapping[str, Any]) -> list[str]:
    intervals = point["intervals"]
    recall = _NONE_THERE
    if point["recall"] is not None:
        recall = with_interval(point["recall"], intervals["recall"], of="share")
    alarms = with_interval(point["false_alarms_per_hour"], intervals["false_alarms_per_hour"], of="rate")
    return [_count(point["recall"], point["num_positives"]), recall, alarms, length(point["negative_hours"])]


def _count(share: float | None, count: int) -> str:
    told = of_count(share, count)
    return _NONE_THERE if told == UNKNOWN else told


def _name(entry: Mapping[str, Any]) -> str:
    return f"{entry['column']} {entry['value']}"


def _weakest(entry: Mapping[str, Any], labels: Sequence[str]) -> str:
    known = [label for label in labels if entry["recall"].get(label) is not None]
    if not known:
        return _NONE_THERE
    label = min(known, key=lambda name: entry["recall"][name])
    return f"{label}, {of_count(entry['recall'][label], entry['supports'][label])}"
