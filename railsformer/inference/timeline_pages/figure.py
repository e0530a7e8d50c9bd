"""timeline.png: the score of each hazard over time, with its events as bars; for ten seconds or twelve hours."""

from collections import Counter
from datetime import timedelta
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from railsformer.data.analysis.figures import INK, MUTED, shorten
from railsformer.evaluation.report_pages.canvas import RULE, Canvas, draw_both, quiet_axes, wrapped
from railsformer.evaluation.report_pages.words import counted
from railsformer.inference.timeline_pages.page_data import Footage, pooled

__all__ = ["draw_timeline", "duration_words", "tick_seconds"]

_MAX_LANES = 10
_MAX_LISTED = 4
_MAX_COLUMNS = 1200
_STEPS_SECONDS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
_MAX_TICKS = 9
# Below this an event could not be seen.
_LEAST_WIDTH = 0.0035
_BAR = (1.06, 0.2)  # bottom and height of event bars, in scores
_TOP = 1.42
_WIDE_ENOUGH = 0.06  # share of the width that two short words take
_BLIND_COLOUR = "#b4bec7"


def draw_timeline(footage: Footage) -> bytes:
    """Draw scores and events as a PNG in the shape of a slide.

    Args:
        footage: The timeline.
    """
    lanes = _lanes(footage)
    hidden = len(footage.hazards) - len(lanes)

    def draw(canvas: Canvas) -> None:
        for place, (axes, label) in enumerate(zip(canvas.plot(max(1, len(lanes))), lanes or [""], strict=True)):
            _draw_lane(axes, footage, label, lines=3 if len(lanes) < 6 else 2)
            if place == 0:
                _explain(axes, footage, label)
            _draw_time_axis(axes, footage, last=place == max(1, len(lanes)) - 1)

    return draw_both(
        draw,
        name="timeline",
        title=shorten(footage.title, 70),
        subtitle=_subtitle(footage)
        + (f" {counted(hidden, 'label', 'labels')} with lower scores not shown." if hidden else ""),
        alt=_subtitle(footage),
        height=0.6 + max(1, len(lanes)) * (1.05 if len(lanes) < 6 else 0.72),
        phone_height=None,
    ).png


def duration_words(seconds: float) -> str:
    """A length of footage: `12.5 s`, `3 min 5 s`, `2 h 4 min`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"


def tick_seconds(duration_seconds: float, offset_seconds: float = 0.0) -> list[float]:
    """Round instants for an axis, at most nine.

    Args:
        duration_seconds: Length of the axis.
        offset_seconds: What the clock shows at 0, so that its round times are marked.
    """
    fit = [step for step in _STEPS_SECONDS if duration_seconds / step < _MAX_TICKS]
    step = fit[0] if fit else _STEPS_SECONDS[-1] * np.ceil(duration_seconds / _STEPS_SECONDS[-1] / _MAX_TICKS)
    first = np.ceil(offset_seconds / step - 1e-9) * step - offset_seconds
    return [float(round(at, 6)) for at in np.arange(first, duration_seconds + step * 1e-6, step)]


def _lanes(footage: Footage) -> list[str]:
    """The hazards with events first to stay where not all fit, then those with the highest scores; in model order."""
    counts = Counter(event["label"] for event in footage.events)
    peaks = dict(zip(footage.labels, np.nan_to_num(footage.scores).max(axis=0, initial=0.0), strict=True))
    seen = footage.hazards + [label for label in footage.labels if label not in footage.hazards and counts[label]]
    kept = sorted(seen, key=lambda label: (-counts[label], -peaks[label]))[:_MAX_LANES]
    return [label for label in seen if label in kept]


def _subtitle(footage: Footage) -> str:
    counts = Counter(event["label"] for event in footage.events)
    told = counted(len(footage.events), "event", "events")
    if len(counts) > _MAX_LISTED:
        told, found = f"{told} of {len(counts)} labels", ""
    else:
        found = ", ".join(f"{shorten(label, 24)} {count}" for label, count in counts.most_common())
    by_reason: dict[str, float] = {}
    for begin, end, why in footage.blind:
        by_reason[why] = by_reason.get(why, 0.0) + end - begin
    if by_reason:
        lost = ", ".join(f"{why} {duration_words(seconds)}" for why, seconds in by_reason.items())
        blind = f" Dark grey: camera {lost}."
    else:
        blind = ""
    when = f", from {footage.start_time:%Y-%m-%d %H:%M:%S}" if footage.start_time else ""
    camera = f", camera {shorten(footage.camera, 30)}" if footage.camera else ""
    return f"{told} in {duration_words(footage.duration_seconds)}{when}{camera}{': ' + found if found else ''}.{blind}"


def _draw_lane(axes: Axes, footage: Footage, label: str, *, lines: int) -> None:
    axes.set_xlim(0, footage.duration_seconds)
    axes.set_ylim(0, _TOP)
    for begin, end, _ in footage.not_scored:
        axes.axvspan(begin, end, color="#e4e8ec", linewidth=0, zorder=0)
    least = _LEAST_WIDTH * footage.duration_seconds
    for begin, end, _ in footage.blind:
        axes.axvspan(begin, max(end, begin + least), color=_BLIND_COLOUR, linewidth=0, zorder=0.5)
    axes.axhline(0, color=RULE, linewidth=0.8, zorder=1)
    quiet_axes(axes)
    if not label:
        axes.set_yticks([])
        return
    colour = footage.colours[label]
    times, scores = _steps(footage, label)
    axes.fill_between(times, scores, color=colour, alpha=0.22, linewidth=0, zorder=2)
    axes.plot(times, scores, color=colour, linewidth=1.1, solid_joinstyle="round", zorder=3)
    threshold = (footage.thresholds or {}).get(label)
    if threshold is not None:
        axes.axhline(threshold, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=4)
    axes.add_collection(_event_bars(footage, label), autolim=False)
    axes.set_yticks([0, 1], ["0", "1"], fontsize=8, color=MUTED)
    roomy = lines > 2
    name, size = wrapped(label, 16 if roomy else 24, lines), 11 if roomy else 9
    axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=size, color=INK, labelpad=14)


def _explain(axes: Axes, footage: Footage, label: str) -> None:
    """Say on the first lane what the dashed line and the grey stretches are."""
    threshold = (footage.thresholds or {}).get(label)
    if threshold is not None:
        at = (footage.duration_seconds, threshold)
        axes.annotate("threshold", at, (-2, 2), textcoords="offset points", ha="right", fontsize=8, color=MUTED)
    least = _WIDE_ENOUGH * footage.duration_seconds
    for begin, end, why in footage.blind:
        if end - begin > least:
            middle = (begin + min(end, footage.duration_seconds)) / 2
            axes.text(middle, 0.5, f"camera\n{why}", ha="center", va="center", fontsize=8, color=INK)
    clear = [
        row
        for row in footage.not_scored
        if not any(row[0] < end and row[1] > begin for begin, end, _ in footage.blind)
    ]
    wide = [(end - begin, begin, end) for begin, end, _ in clear]
    if wide and max(wide)[0] > least:
        _, begin, end = max(wide)
        axes.text((begin + end) / 2, 0.5, "not\nscored", ha="center", va="center", fontsize=8, color=MUTED)


def _steps(footage: Footage, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Times and scores to draw; a gap where nothing was scored, and one window's score as wide as the window."""
    times, scores = pooled(footage.times, footage.scores[:, [footage.labels.index(label)]], _MAX_COLUMNS)
    values = scores[:, 0]
    if len(times) == 1:
        half = footage.window_seconds / 2
        return np.array([times[0] - half, times[0] + half]), np.repeat(values, 2)
    return times, values


def _event_bars(footage: Footage, label: str) -> PatchCollection:
    least = _LEAST_WIDTH * footage.duration_seconds
    bars = []
    for event in footage.events:
        if event["label"] == label:
            start, end = event["start_seconds"], min(event["end_seconds"], footage.duration_seconds)
            wider = max(0.0, least - (end - start)) / 2
            bars.append(Rectangle((start - wider, _BAR[0]), max(end - start, least), _BAR[1]))
    return PatchCollection(bars, facecolor=footage.colours[label], edgecolor="white", linewidth=0.4, zorder=5)


def _draw_time_axis(axes: Axes, footage: Footage, *, last: bool) -> None:
    start = footage.start_time
    offset = (start.hour * 3600 + start.minute * 60 + start.second + start.microsecond / 1e6) if start else 0.0
    ticks = tick_seconds(footage.duration_seconds, offset)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="x", color=RULE, linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    if not last:
        axes.tick_params(labelbottom=False)
        return
    by_minute = len(ticks) > 1 and ticks[1] - ticks[0] >= 60

    def told(seconds: float, _: Any) -> str:
        if start:
            at = start + timedelta(seconds=seconds)
            return f"{at:%H:%M}" if by_minute else f"{at:%H:%M:%S}"
        return _in_video(seconds, footage.duration_seconds)

    axes.xaxis.set_major_formatter(FuncFormatter(told))
    axes.tick_params(axis="x", labelsize=10, labelcolor=MUTED)


def _in_video(seconds: float, duration_seconds: float) -> str:
    if duration_seconds < 60:
        return f"{abs(seconds):g} s"
    minutes, rest = divmod(round(seconds), 60)
    if duration_seconds < 3600:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
