"""Event quality as files: figures, mistakes, the sweep and its picture."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from railsformer.data.folders import check_output_dir, whole_folder
from railsformer.inference.event_quality import (
    SWEEP_DWELLS_SECONDS,
    SWEEP_THRESHOLDS,
    TrueEvent,
    WatchedVideo,
    list_mistakes,
    measure_events,
    read_true_events,
    sweep_events,
)
from railsformer.inference.events import EventSettings, prepare_scores, read_events, settings_content
from railsformer.inference.timeline import Smoothing, Timeline, hazards_of, read_timeline
from railsformer.inference.watch_folder import write_json

__all__ = ["METRICS_NAME", "evaluate_events", "event_table"]

METRICS_NAME = "event_metrics.json"
MISTAKE_COLUMNS = ("kind", "video", "label", "start_seconds", "end_seconds", "score")
_VERSION = 1


def evaluate_events(
    truth: str | Path,
    *,
    timelines: Sequence[str | Path],
    output_dir: str | Path,
    tolerance_seconds: float = 0.0,
    thresholds: Sequence[float] = SWEEP_THRESHOLDS,
    dwells_seconds: Sequence[float] = SWEEP_DWELLS_SECONDS,
) -> dict[str, Any]:
    """Measure the events of watched videos against a table of what truly happened, and sweep thresholds and dwell.

    Events are found anew in the scores with the settings that each folder's events.json states, which must be the same
    in all. Writes `event_metrics.json`, `mistakes.csv`, `sweep.csv` and `sweep.png`.

    Args:
        truth: Table with the columns video, label, start_seconds and end_seconds. A video is a timeline's if the paths
            are equal or end in the same way; one without rows is a video in which nothing happened. Rows of negative
            labels are left out.
        timelines: Folders that `watch` wrote.
        output_dir: Absent or empty.
        tolerance_seconds: How far apart an alarm and a true event may lie and still belong together.
        thresholds: To sweep.
        dwells_seconds: To sweep.

    Returns:
        What event_metrics.json holds.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a true event's video or label is not among the timelines', or the timelines disagree.
    """
    check_output_dir(output_dir)
    events = read_true_events(truth)
    lines = [read_timeline(folder) for folder in timelines]
    settings, smoothing = _common_settings(timelines, lines)
    hazards = hazards_of(lines[0].labels, lines[0].negative_labels)
    sorted_truth = _sort_truth(events, lines, Path(truth))
    videos = [
        WatchedVideo(
            prepare_scores(line, smoothing), tuple(true for true in own if true.label in hazards)
        ).with_events(settings)
        for line, own in zip(lines, sorted_truth, strict=True)
    ]
    figures = measure_events(videos, hazards, tolerance_seconds=tolerance_seconds)
    rows = sweep_events(
        videos,
        hazards,
        settings,
        thresholds=thresholds,
        dwells_seconds=dwells_seconds,
        tolerance_seconds=tolerance_seconds,
    )
    content = {
        "version": _VERSION,
        "truth": str(truth),
        "timelines": [{"folder": str(f), "video": line.video} for f, line in zip(timelines, lines, strict=True)],
        "model": lines[0].model,
        "settings": settings_content(settings, smoothing),
        "negative_rows_left_out": sum(true.label not in hazards for true in events),
        **figures,
    }
    mistakes = list_mistakes(videos, hazards, tolerance_seconds=tolerance_seconds)
    with whole_folder(output_dir) as folder:
        write_json(folder / METRICS_NAME, content)
        _write_table(folder / "mistakes.csv", mistakes, MISTAKE_COLUMNS)
        _write_table(folder / "sweep.csv", rows, list(rows[0]) if rows else [])
        _plot_sweep(folder / "sweep.png", rows)
    return content


def event_table(content: Mapping[str, Any]) -> str:
    """The figures as lines of text."""
    lines = [
        f"{'':24} {'events':>6} {'found':>6} {'recall':>18} {'false':>6} {'an hour':>20} {'to alarm, s':>14} "
        f"{'mAP .5':>7} {'mean':>6}"
    ]
    for name, figures in (*content["per_label"].items(), ("all hazards", content["overall"])):
        delay, precision = figures["seconds_to_alarm"], figures["average_precision"]
        recall = _with_interval(figures["recall"], figures["intervals"]["recall"])
        rate = _with_interval(figures["false_alarms_per_hour"], figures["intervals"]["false_alarms_per_hour"])
        delays = "-" if delay["median"] is None else f"{delay['median']:.1f} ({delay['percentile_90']:.1f})"
        lines.append(
            f"{name:24} {figures['num_events']:6} {figures['num_found']:6} {recall:>18} "
            f"{figures['num_false_alarms']:6} {rate:>20} {delays:>14} {_figure(precision['0.5']):>7} "
            f"{_figure(precision['mean']):>6}"
        )
    lines.append(
        f"{content['overall']['hours']:.2f} hours watched; intervals of {content['level']:.0%}; time to alarm after "
        "onset: median (90th percentile) of the events found"
    )
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    known = "" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]"
    return _figure(value) + known


def _common_settings(folders: Sequence[str | Path], lines: Sequence[Timeline]) -> tuple[EventSettings, Smoothing]:
    if not folders:
        raise ValueError("--timeline must name at least one folder that railsformer watch wrote")
    found = [read_events(folder)[1:] for folder in folders]
    for folder, line, how in zip(folders, lines, found, strict=True):
        if line.labels != lines[0].labels or line.negative_labels != lines[0].negative_labels:
            raise ValueError(
                f"{folder} has the labels {', '.join(line.labels)}, {folders[0]} has {', '.join(lines[0].labels)}; "
                "evaluate timelines of one model at a time"
            )
        if how != found[0]:
            raise ValueError(
                f"{folder} was watched with other thresholds, times or smoothing than {folders[0]}; run railsformer "
                "watch again with the same flags (the scores are kept)"
            )
    videos = [line.video for line in lines]
    if twice := next((video for video in videos if videos.count(video) > 1), None):
        raise ValueError(f"two timelines are of {twice}; name each video once")
    return found[0]


def _sort_truth(events: Sequence[TrueEvent], lines: Sequence[Timeline], path: Path) -> list[list[TrueEvent]]:
    """The true events of each timeline."""
    owned: list[list[TrueEvent]] = [[] for _ in lines]
    for event in events:
        owners = [index for index, line in enumerate(lines) if _same_video(event.video, line.video)]
        if len(owners) != 1:
            names = ", ".join(line.video for line in lines[:3]) + (", ..." if len(lines) > 3 else "")
            what = "no timeline" if not owners else f"{len(owners)} timelines"
            raise ValueError(
                f"{path}: video {event.video!r} is that of {what} (they are of {names}); name it as watch was given it"
            )
        if event.label not in lines[0].labels:
            raise ValueError(
                f"{path}: label {event.label!r} of {event.video} is none of the model's "
                f"({', '.join(lines[0].labels)}); correct it or leave the row out"
            )
        owned[owners[0]].append(event)
    return owned


def _same_video(told: str, watched: str) -> bool:
    """Whether the shorter path is the end of the longer one, part by part."""
    one, other = Path(told).parts, Path(watched).parts
    shared = min(len(one), len(other))
    return one[-shared:] == other[-shared:]


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _plot_sweep(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Recall over false alarms per hour, a panel a label, a curve a dwell, the chosen point marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(row["label"] for row in rows if row["recall"] is not None)) or ["no true event"]
    figure = Figure(figsize=(1.4 + 3.8 * len(labels), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(labels), squeeze=False, sharey=True)[0]
    for panel, label in zip(panels, labels, strict=True):
        own = [row for row in rows if row["label"] == label and row["recall"] is not None]
        for dwell in sorted({row["min_dwell_seconds"] for row in own}):
            curve = [row for row in own if row["min_dwell_seconds"] == dwell]
            rates = [row["false_alarms_per_hour"] or 0.0 for row in curve]
            panel.plot(rates, [row["recall"] for row in curve], marker=".", label=f"dwell {dwell:g} s")
        for row in own:
            if row["chosen"]:
                panel.plot(row["false_alarms_per_hour"] or 0.0, row["recall"], "ko", fillstyle="none", markersize=12)
        panel.set_xscale("symlog", linthresh=1)
        panel.set(title=label, xlabel="false alarms an hour", ylim=(-0.03, 1.03))
        panel.set_xlim(left=-0.05)
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("true events found")
    handles, names = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside right center", title="ring: chosen", frameon=False)
    figure.savefig(path, dpi=130)
