"""What a model card says of one evaluation: its tables and its limits, from metrics.json of version 1 or 2."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from railsformer.hub.model_index import OVERALL
from railsformer.hub.wording import cell, figure, figure_with_interval, rows, span, without_paths

__all__ = ["card_tables"]

MAX_SLICES = 8
_PER_CLASS = {"precision": "precision", "recall": "recall", "f1": "F1", "average_precision": "average precision"}


def card_tables(metrics: Mapping[str, Any], *, split: str) -> dict[str, Any]:
    """Return the parts of the card that come from an evaluation, ready to print.

    Args:
        metrics: Content of metrics.json. What a file of version 1 lacks is left out of the card.
        split: Name of the split that was measured.
    """
    protocol = metrics.get("protocol") or {}
    intervals = metrics.get("intervals") or None
    return {
        "split_kind": protocol.get("split_kind"),
        "num_videos": metrics.get("num_videos"),
        "level": _percent(intervals["level"]) if intervals else None,
        "headline": _headline(metrics),
        "mixed": _mixed(protocol),
        "views": f"{protocol.get('num_clips', 1)} x {protocol.get('num_crops', 1)} views (clips x crops), averaged",
        "limits": [*_limits(metrics, split=split)],
        "overall": _overall(metrics),
        "per_class": _per_class(metrics),
        "confusion": _confusion(metrics.get("confusion_matrix")),
        "operating_points": _operating_points(metrics.get("operating_points")),
        "slices": _slices(metrics.get("slices") or []),
        "num_more_slices": max(len(metrics.get("slices") or []) - MAX_SLICES, 0),
        "protocol": rows(_protocol(metrics)),
    }


# -- words


def _headline(metrics: Mapping[str, Any]) -> str:
    intervals = (metrics.get("intervals") or {}).get("figures")
    parts = []
    for key, name in (("accuracy", "accuracy"), ("f1_macro", "macro F1")):
        value = metrics.get(key)
        parts.append(f"{name} {figure_with_interval(value, intervals.get(key)) if intervals else figure(value)}")
    return ", ".join(parts)


def _mixed(protocol: Mapping[str, Any]) -> str | None:
    found = protocol.get("mixed_splits") or {}
    if found.get("state") != "mixed":
        return None
    return f"{found['num_exact']} exact and {found['num_near']} near copies. {_sentence(found.get('reason'))}".strip()


def _limits(metrics: Mapping[str, Any], *, split: str) -> Iterator[str]:
    """Tell what these figures cannot say, in whole sentences."""
    protocol = metrics.get("protocol") or {}
    split_kind = protocol.get("split_kind") or ""
    yield from _limits_of_split(protocol, split_kind)
    intervals = metrics.get("intervals")
    if intervals and intervals["method"] == "clips":
        count = intervals.get("num_groups")
        groups = f"{count} groups are" if count != 1 else "one group is"
        yield (
            f"The intervals hold within these cameras and recordings only: {groups} too few to tell "
            "how the figures vary from one to the next."
        )
    if not intervals:
        yield "How sure its figures are was not measured: they come without intervals."
    per_class = metrics.get("per_class") or {}
    if absent := [label for label, row in per_class.items() if not row.get("support")]:
        yield f"Not tested at all, having no video in this split: {_listed(absent)}."
    if few := _too_few(metrics):
        yield f"Too few test videos to say how well it recognises: {_listed(few)}."
    if worst := metrics.get("worst_slice"):
        yield (
            f"It does worst where {cell(worst['column'])} is {cell(worst['value'])}: "
            f"macro F1 {figure(worst['f1_macro'])} over {_videos(worst['num_videos'])}."
        )
    if unread := metrics.get("num_unread"):
        yield f"{_videos(unread)} of the split could not be read, and {'is' if unread == 1 else 'are'} in no figure."
    yield from _limits_of_points(metrics, split=split)


def _limits_of_split(protocol: Mapping[str, Any], split_kind: str) -> Iterator[str]:
    if "random" in split_kind:
        yield "The split is of random rows: pieces of one recording may lie on both sides, which flatters the figures."
    if "recordings unknown" in split_kind:
        yield "Which files belong to one recording is unknown, so pieces of one may lie on both sides of the split."
    found = protocol.get("mixed_splits") or {}
    if found.get("state") == "unknown":
        yield (
            "Whether it was trained on any of these videos, or on copies of them, is unknown. "
            f"{_sentence(found.get('reason'))}".strip()
        )


def _limits_of_points(metrics: Mapping[str, Any], *, split: str) -> Iterator[str]:
    points = metrics.get("operating_points")
    if points is None:
        if "operating_points" in metrics:
            yield "It has no operating points: the class with the highest score wins, whatever a miss would cost."
        return
    missed = [
        label
        for label, point in points["labels"].items()
        if point.get("reached") is False and point["threshold"] is not None
    ]
    if missed:
        yield f"On `{cell(points['split'])}` no threshold reached the target for: {_listed(missed)}."
    if points["split"] == split:
        yield f"The thresholds were chosen on `{cell(split)}` itself, so what they do there flatters them."


def _too_few(metrics: Mapping[str, Any]) -> list[str]:
    """The classes that have test videos, but whose recall could be anything."""
    intervals = (metrics.get("intervals") or {}).get("per_class")
    if intervals is None:
        return []
    return [
        f"{label} ({row['support']})"
        for label, row in metrics["per_class"].items()
        if row.get("support") and (intervals.get(label) or {}).get("recall") is None
    ]


# -- tables


def _overall(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of name and value, and the interval where intervals were taken."""
    intervals = (metrics.get("intervals") or {}).get("figures")
    named = [(OVERALL[key][0], key, metrics[key]) for key in OVERALL if key in metrics]
    named += [(f"Top-{k} accuracy", f"top_{k}", value) for k, value in (metrics.get("top_k") or {}).items()]
    if intervals is None:
        return [(name, figure(value)) for name, _, value in named]
    return [
        (name, figure(value), span(intervals.get(key)) if value is not None else "–")
        if key in intervals
        else (name, figure(value), "not taken")
        for name, key, value in named
    ]


def _per_class(metrics: Mapping[str, Any]) -> dict[str, Any]:
    per_class = metrics.get("per_class") or {}
    intervals = (metrics.get("intervals") or {}).get("per_class")
    keys = [key for key in _PER_CLASS if any(key in row for row in per_class.values())]

    def show(label: str, key: str, value: float | None) -> str:
        if intervals is None or key not in intervals.get(label, {}):
            return figure(value)
        return figure_with_interval(value, intervals[label][key])

    return {
        "head": [_PER_CLASS[key] for key in keys],
        "rows": [
            [cell(label), *(show(label, key, row.get(key)) for key in keys), row.get("support", 0)]
            for label, row in per_class.items()
        ],
    }


def _confusion(matrix: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not matrix:
        return None
    return {
        "labels": [cell(label) for label in matrix["labels"]],
        "rows": [(cell(label), row) for label, row in zip(matrix["labels"], matrix["matrix"], strict=True)],
    }


def _operating_points(points: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not points or not points["labels"]:
        return None
    return {"split": cell(points["split"]), "rows": [_point(*item) for item in points["labels"].items()]}


def _point(label: str, point: Mapping[str, Any]) -> list[str]:
    measured = point.get("on_split") or {}
    intervals = measured.get("intervals") or {}
    figures = [figure_with_interval(measured.get(key), intervals.get(key)) for key in ("recall", "precision")]
    reached = " (not reached)" if point.get("reached") is False else ""
    if point["threshold"] is None:
        reached = " (no threshold: too few videos to choose one)"
    hours = measured.get("negative_hours")
    return [
        cell(label),
        figure(point["threshold"]),
        (f"`{cell(point['target'])}`" if point.get("target") else "–") + reached,
        *figures,
        _rate(measured.get("false_alarms_per_hour"), intervals.get("false_alarms_per_hour")),
        str(measured.get("num_positives", "–")),
        f"{hours:.2f}" if hours is not None else "–",
    ]


def _rate(value: float | None, interval: Sequence[float] | None) -> str:
    """False alarms per hour lie anywhere from hundredths to thousands: three digits of them, wherever the point is."""
    if value is None:
        return "–"
    return f"{value:.3g} ({interval[0]:.3g} to {interval[1]:.3g})" if interval else f"{value:.3g} (too few)"


def _slices(slices: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [
        [
            f"{cell(row['column'])} = {cell(row['value'])}",
            str(row["num_videos"]),
            figure_with_interval(row["accuracy"], row.get("interval")),
            figure(row["f1_macro"]),
        ]
        for row in slices[:MAX_SLICES]
    ]


def _protocol(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """How it was measured, as settings; facts of the run that measured it are left out."""
    left_out = ("split_kind", "groups", "device", "mixed_splits")
    protocol = {key: value for key, value in (metrics.get("protocol") or {}).items() if key not in left_out}
    found = (metrics.get("protocol") or {}).get("mixed_splits") or {}
    protocol["trained_on_these_videos"] = {"clean": "no", "mixed": "yes"}.get(
        found.get("state", ""), found.get("state")
    )
    if intervals := metrics.get("intervals"):
        drawn = f"{intervals['num_groups']} groups" if intervals["method"] == "groups" else "clips"
        protocol["intervals"] = f"{_percent(intervals['level'])}, {intervals['resamples']} resamples of {drawn}"
    if calibration := metrics.get("calibration"):
        before, after = (figure(calibration[side]["calibration_error"]) for side in ("before", "after"))
        count = calibration["num_videos"]
        fitted = "as it is in use" if count is None else f"fitted on {_videos(count)} of {calibration['split']}"
        protocol["temperature"] = (
            f"{figure(calibration['temperature'])}, {fitted}; calibration error {before} before, {after} after"
        )
    protocol["dataset_fingerprint"] = metrics.get("dataset_fingerprint") or None
    protocol["versions"] = metrics.get("versions")
    return protocol


def tested_on(metrics: Mapping[str, Any] | None) -> str | None:
    """Return the cameras or recordings of the split; only their number where they are not named."""
    protocol = (metrics or {}).get("protocol") or {}
    if groups := protocol.get("groups"):
        return ", ".join(f"`{cell(group)}`" for group in groups)
    count = ((metrics or {}).get("intervals") or {}).get("num_groups")
    return f"({count} of them)" if count else None


def _percent(level: float) -> str:
    return f"{level * 100:g} %"


def _videos(count: int) -> str:
    return f"{count} video{'' if count == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(cell(name) for name in names)


def _sentence(text: str | None) -> str:
    """A reason from metrics.json as a sentence of its own, without paths of this machine."""
    if not text:
        return ""
    said = cell(without_paths(text)).strip()
    return (said[:1].upper() + said[1:]).rstrip(".") + "."
