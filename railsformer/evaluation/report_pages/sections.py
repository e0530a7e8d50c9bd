"""What follows the first screen, section by section."""

from collections.abc import Mapping, Sequence
from typing import Any

from railsformer.data.analysis.figures import shorten
from railsformer.evaluation.report_pages.canvas import Drawing
from railsformer.evaluation.report_pages.compare import compare_lines, compare_table
from railsformer.evaluation.report_pages.slice_tables import slices_section
from railsformer.evaluation.report_pages.tables import MAX_LISTED, Section, Table, rest_of
from railsformer.evaluation.report_pages.words import (
    TOO_FEW,
    UNKNOWN,
    counted,
    decimal,
    figure_name,
    length,
    percent,
    span,
    target_words,
    with_interval,
)

__all__ = ["make_sections", "method"]

_OVERALL = ("accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "f1_micro", "map", "calibration_error")
_BY_CLASS = ("recall", "precision", "f1", "average_precision")
_ABSENT = "not in this split"


def make_sections(metrics: Mapping[str, Any], drawings: Sequence[Drawing]) -> list[Section]:
    """Every section for which there is something to say.

    Args:
        metrics: Content of metrics.json.
        drawings: What `draw_figures` returns.
    """
    drawn = {drawing.name: drawing for drawing in drawings}

    def pick(*names: str) -> list[Drawing]:
        return [drawn[name] for name in names if name in drawn]

    sections = [
        _operating_points(metrics, pick("precision_recall", "scores")),
        _figures(metrics),
        _confusions(metrics, pick("confusion_matrix")),
        slices_section(metrics, pick("slices")),
        _calibration(metrics, pick("reliability")),
    ]
    if metrics["compare"]:
        tables = [compare_table(metrics["compare"])]
        lines = compare_lines(metrics["compare"])
        sections.append(Section("compare", "Beside another run", lines, pick("comparison"), tables))
    if metrics["num_unread"]:
        sections.append(_unread(metrics))
    return sections


def _operating_points(metrics: Mapping[str, Any], drawings: Sequence[Drawing]) -> Section:
    points = metrics["operating_points"]
    title = "Operating points"
    if not points:
        lines = ["No thresholds were set: found means named as the likeliest class."]
        if note := metrics["protocol"].get("calibration_note"):
            lines.append(f"{note[:1].upper()}{note[1:]}.")
        return Section("operating_points", title, lines, drawings)
    lines = [
        f"Thresholds were set on {points['split']} and apply to scores after temperature. A false alarm is a video of "
        "another label at or above the threshold, over the hours of those videos."
    ]
    stored = metrics["protocol"].get("thresholds") == "stored"
    if stored:
        note = metrics["protocol"]["calibration_note"]
        lines.insert(0, f"{note[:1].upper()}{note[1:]}.")
    here, there = [], []
    for label, point in points["labels"].items():
        reached = {True: "yes", False: "no", None: UNKNOWN}[point["reached"]]
        there.append(
            [label, _threshold(point), target_words(point["target"]), reached, *_point_cells(point["on_calibration"])]
        )
        here.append([label, *_point_cells(point["on_split"]), *_point_counts(point["on_split"])])
    cells = ["recall", "precision", "false alarms an hour"]
    tables = [
        Table(
            f"On {metrics['split']}, 95 % intervals in brackets",
            ["hazard", *cells, "its videos", "other footage"],
            here,
        ),
        Table(
            f"On {points['split']}, where they were set", ["hazard", "threshold", "target", "reached", *cells], there
        ),
    ]
    if stored:  # what they do there is not at hand
        brought = [row[:3] for row in there]
        tables[1] = Table(
            f"As stored with the model, set on {points['split']}", ["hazard", "threshold", "target"], brought
        )
    return Section("operating_points", title, lines, drawings, tables)


def _threshold(point: Mapping[str, Any]) -> str:
    return "none" if point["threshold"] is None else f"{point['threshold']:.3f}"


def _point_cells(point: Mapping[str, Any] | None) -> list[str]:
    if not point:
        return [UNKNOWN] * 3
    kinds = {"recall": "share", "precision": "share", "false_alarms_per_hour": "rate"}
    return [with_interval(point[key], point["intervals"][key], of=of) for key, of in kinds.items()]


def _point_counts(point: Mapping[str, Any] | None) -> list[str]:
    if not point:
        return [UNKNOWN] * 2
    return [str(point["num_positives"]), length(point["negative_hours"])]


def _figures(metrics: Mapping[str, Any]) -> Section:
    intervals = metrics["intervals"]
    rows = []
    for key in _OVERALL:
        value = metrics.get(key)
        rows.append([figure_name(key), decimal(value), _interval_cell(value, intervals["figures"], key)])
    for k, value in metrics["top_k"].items():
        told = _interval_cell(value, intervals["figures"], f"top_{k}")
        rows.append([f"right label among the first {k}", decimal(value), told])
    by_class = []
    for label, row in metrics["per_class"].items():
        own = intervals["per_class"].get(label, {})
        cells = [with_interval(row[key], own.get(key)) if row["support"] else _ABSENT for key in _BY_CLASS]
        by_class.append([label, *cells, str(row["support"])])
    head = ["class", *map(figure_name, _BY_CLASS), "videos"]
    tables = [
        Table("By class, as named by the highest score", head, by_class),
        Table("Over all classes", ["figure", "value", f"{percent(intervals['level'])} interval"], rows),
    ]
    return Section("figures", "Figures", [_interval_line(intervals)], (), tables)


def _interval_cell(value: float | None, intervals: Mapping[str, Any], key: str) -> str:
    if value is None:
        return UNKNOWN
    return span(intervals[key], of="decimal") if key in intervals else "none"


def _interval_line(intervals: Mapping[str, Any]) -> str:
    if intervals["method"] == "groups":
        drawn = f"{intervals['num_groups']} whole groups, drawn {intervals['resamples']:,} times"
        return f"Intervals come from {drawn}; '{TOO_FEW}' stands where a class or slice has too few videos."
    note = f", {intervals['note']}" if intervals["note"] else ""
    drawn = f"single videos, drawn {intervals['resamples']:,} times{note}"
    return f"Intervals come from {drawn}; '{TOO_FEW}' stands where a class or slice has too few videos."


def _confusions(metrics: Mapping[str, Any], drawings: Sequence[Drawing]) -> Section:
    costs = metrics["costs"]
    if not costs:
        return Section("confusions", "Confusions", (), drawings)
    each = UNKNOWN if costs["per_video"] is None else f"{costs['per_video']:.3g}"
    rows = [
        [
            f"{shorten(entry['label'], 40)} taken for {shorten(entry['prediction'], 40)}",
            str(entry["count"]),
            f"{entry['cost_each']:g}",
            f"{entry['cost']:,g}",
        ]
        for entry in costs["confusions"][:MAX_LISTED]
    ]
    line = f"What the mistakes cost: {costs['total']:,g} in all, {each} a video."
    head = ["confusion", "videos", "cost each", "cost"]
    table = Table(f"Confusions, the dearest first{rest_of(costs['confusions'])}", head, rows)
    return Section("confusions", "Confusions", [line], drawings, [table] if rows else [])


def _calibration(metrics: Mapping[str, Any], drawings: Sequence[Drawing]) -> Section:
    calibration = metrics["calibration"]
    if not calibration:
        line = "The scores were not calibrated: do not read them as probabilities."
        return Section("calibration", "How sure it is, and how right", [line])
    known = calibration["num_videos"] is not None
    videos = f"{counted(calibration['num_videos'], 'video', 'videos')} of " if known else ""
    line = (
        f"One temperature, {calibration['temperature']:.2f}, was fitted on {videos}{calibration['split']}; these "
        f"are its effects on {metrics['split']}. Lower is better."
    )
    errors = [calibration[side]["negative_log_likelihood"] for side in ("before", "after")]
    if None not in errors and errors[1] > errors[0]:
        line += " Here it made the scores worse."
    rows = [
        [figure_name(key), *(decimal(calibration[side][key]) for side in ("before", "after"))]
        for key in ("calibration_error", "negative_log_likelihood", "brier")
    ]
    table = Table("Before and after temperature scaling", ["figure", "before", "after"], rows)
    return Section("calibration", "How sure it is, and how right", [line], drawings, [table])


def _unread(metrics: Mapping[str, Any]) -> Section:
    rows = [[entry["video"], entry["reason_class"], entry["reason"]] for entry in metrics["unread"][:MAX_LISTED]]
    table = Table(f"Videos without scores{rest_of(metrics['unread'])}", ["video", "kind", "reason"], rows, words=True)
    line = "These count in no figure, neither as found nor as missed."
    return Section("unread", "Could not be read", [line], (), [table])


def method(metrics: Mapping[str, Any]) -> list[str]:
    """How it was measured, in sentences."""
    protocol = metrics["protocol"]
    run = metrics["run"]
    clips = counted(protocol["num_clips"], "clip", "clips")
    crops = counted(protocol["num_crops"], "crop", "crops")
    speed = "" if run["videos_per_second"] is None else f", {run['videos_per_second']:.3g} videos a second"
    processes = counted(run["num_processes"], "process", "processes")
    mixed = protocol["mixed_splits"]
    return [
        f"Model {metrics['model']}; {metrics['split']} of {metrics['dataset']}, split {protocol['split_kind']}.",
        f"Mixed splits: {mixed['state']}; {mixed['reason'].rstrip('.')}.",
        f"Each video counts once: {clips} x {crops}, {protocol['view_average']} averaged, frames "
        f"{protocol['frame_order']}.",
        _clip_sentence(protocol["sampling"]),
        _crop_sentence(protocol["pixels"], protocol["num_crops"]),
        f"Scored on {run['device']} by {processes} in {run['seconds']:.0f} s{speed}; decoder {protocol['decoder']}.",
        f"Dataset fingerprint {metrics['dataset_fingerprint'] or 'none stated'}.",
        ", ".join(f"{name} {number}" for name, number in metrics["versions"].items()) + ".",
        "All figures: metrics.json. All scores: predictions.csv, where it was kept.",
    ]


def _clip_sentence(sampling: Mapping[str, Any]) -> str:
    num_frames, interval, fps = (sampling[key] for key in ("num_frames", "frame_interval", "nominal_fps"))
    if sampling["clip_sampling"] == "segments":
        return (
            f"A clip is {num_frames} frames, one from each of {num_frames} equal parts, picked by presentation time."
        )
    rule = {"hold": "holds its last picture", "loop": "begins again", "stretch": "is shown with a smaller interval"}
    return (
        f"A clip is {num_frames} frames, {interval / fps:.3f} s apart ({interval} steps at {fps:g} fps), picked by "
        f"presentation time; a shorter video {rule[sampling['short_video']]}."
    )


def _crop_sentence(pixels: Mapping[str, Any], num_crops: int) -> str:
    if num_crops == 1:
        return f"Short side {pixels['short_side_px']} px, centre crop {pixels['crop_px']} px."
    return f"Short side {pixels['crop_px']} px, {num_crops} crops of {pixels['crop_px']} px along the long side."
