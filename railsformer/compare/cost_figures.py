"""The paper's out-of-memory figure, with this project's two kinds of attention: cost against frames and crop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from railsformer.data.analysis.figures import INK, MUTED
from railsformer.evaluation.report_pages.canvas import RULE, Canvas, Drawing, draw_both, quiet_axes

__all__ = ["draw_cost_figures"]

_GIB = 2**30
_NAMES = {
    "joint_space_time": "joint",
    "sparse_local_global": "sparse",
    "axial": "axial",
    "divided_space_time": "divided",
    "space_only": "space only",
}
_COLOURS = {  # after Okabe and Ito, dark enough for text
    "joint_space_time": "#b84f00",
    "sparse_local_global": "#00805d",
    "axial": "#8f3f71",
    "divided_space_time": "#0072b2",
    "space_only": MUTED,
}
_TICKS = {"frames": (8, 16, 32, 64, 96), "crop": (112, 160, 224, 320, 448)}
_HEADINGS = {"frames": "frames of 224 px", "crop": "side in pixels, 8 frames"}
_LABEL_GAP = 0.075  # of a panel's height, between names beside line ends


@dataclass(frozen=True)
class _Line:
    name: str
    colour: str
    values: Sequence[float]
    dashed: bool = False


@dataclass(frozen=True)
class _Mark:
    x: float
    y: float
    text: str


def draw_cost_figures(curves: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[Drawing]:
    """Four figures of two panels each: work, comparisons, attention matrices, and memory of a training step.

    Args:
        curves: Of `cost_curves`.
        rows: Of the comparison; a measured peak that lies on a curve is drawn on it.
    """
    return [_work(curves), _comparisons(curves), _matrices(curves), _memory(curves, rows)]


def _work(curves: Mapping[str, Any]) -> Drawing:
    lines = {axis: _of_schemes(curves, axis, "macs", 1e9) for axis in _TICKS}
    marks = {axis: _where_it_ends(curves, axis) for axis in _TICKS}
    return _draw(
        curves, lines, marks=marks, name="cost_work", title="Work of a forward pass", unit="GMACs",
        subtitle="Base model, one clip. Crosses: here training joint attention with its matrices leaves that memory",
        alt=_told(lines, "GMACs", curves),
    )  # fmt: skip


def _comparisons(curves: Mapping[str, Any]) -> Drawing:
    lines = {axis: _of_schemes(curves, axis, "comparisons_a_patch", 1) for axis in _TICKS}
    return _draw(
        curves, lines, name="cost_comparisons", title="Comparisons a patch", unit="tokens",
        subtitle="How many tokens a patch is compared with in a block", alt=_told(lines, "comparisons", curves),
    )  # fmt: skip


def _matrices(curves: Mapping[str, Any]) -> Drawing:
    lines = {axis: _of_schemes(curves, axis, "kept_matrix_bytes", _GIB) for axis in _TICKS}
    return _draw(
        curves, lines, name="cost_matrices", title="Attention matrices", unit="GiB",
        subtitle="All that backward needs of one clip in 12 blocks of 12 heads, float32. SDPA, as here, makes none",
        alt=_told(lines, "GiB", curves), memories=_memories(curves),
    )  # fmt: skip


def _memory(curves: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Drawing:
    lines = {}
    for axis in _TICKS:
        lines[axis] = [
            _Line(
                f"{_NAMES[scheme]}, {words}",
                _COLOURS[scheme],
                [value / _GIB for value in curves[axis]["schemes"][scheme][f"training_bytes_{kind}"]],
                dashed=kind == "materialised",
            )
            for scheme in ("joint_space_time", "divided_space_time")
            for kind, words in (("materialised", "matrices"), ("sdpa", "SDPA"))
        ]
    marks = {axis: _measured(axis, rows) for axis in _TICKS}
    return _draw(
        curves, lines, marks=marks, name="cost_memory", title="Memory of a training step", unit="GiB",
        subtitle="Base model, one clip, SGD with momentum, by arithmetic; crosses: measured here, with SDPA",
        alt=_told(lines, "GiB", curves), memories=_memories(curves),
    )  # fmt: skip


def _of_schemes(curves: Mapping[str, Any], axis: str, key: str, unit: float) -> list[_Line]:
    schemes = curves[axis]["schemes"]
    return [
        _Line(name, _COLOURS[scheme], [value / unit for value in schemes[scheme][key]])
        for scheme, name in _NAMES.items()
    ]


def _where_it_ends(curves: Mapping[str, Any], axis: str) -> list[_Mark]:
    """On the curve of joint attention, the first size whose matrices overflow a memory."""
    points = curves[axis]["points"]
    work = [value / 1e9 for value in curves[axis]["schemes"]["joint_space_time"]["macs"]]
    marks = []
    for limit in curves["limits"]:
        is_of_panel = (limit["axis"], limit["mode"], limit["scheme"]) == (axis, "training", "joint_space_time")
        if not is_of_panel or limit["memory"].startswith("free") or limit["materialised"] is None:
            continue
        first = limit["materialised"] + (1 if axis == "frames" else 16)
        if first <= points[-1]:
            marks.append(_Mark(first, _between(points, work, first), limit["memory"]))
    return marks


def _between(points: Sequence[int], values: Sequence[float], x: float) -> float:
    for place in range(1, len(points)):
        if x <= points[place]:
            share = (x - points[place - 1]) / (points[place] - points[place - 1])
            return values[place - 1] * (values[place] / values[place - 1]) ** share
    return values[-1]


def _measured(axis: str, rows: Sequence[Mapping[str, Any]]) -> list[_Mark]:
    """Peaks of rows whose clip lies on this panel's curves of joint and divided attention."""
    marks = []
    for row in rows:
        lies_on = row["image_size"] == 224 if axis == "frames" else row["num_frames"] == 8
        if lies_on and row["scheme"] in ("joint_space_time", "divided_space_time") and row["training_peak_bytes"]:
            place = row["num_frames"] if axis == "frames" else row["image_size"]
            marks.append(_Mark(place, row["training_peak_bytes"] / _GIB, ""))
    return marks


def _memories(curves: Mapping[str, Any]) -> dict[str, float]:
    """The memories by what they are called."""
    memories = {limit["memory"]: limit["gib"] for limit in curves["limits"]}
    return {name.replace(" on this machine", " here"): gib for name, gib in memories.items()}


def _draw(
    curves: Mapping[str, Any],
    lines: Mapping[str, Sequence[_Line]],
    *,
    name: str,
    title: str,
    subtitle: str,
    unit: str,
    alt: str,
    marks: Mapping[str, Sequence[_Mark]] | None = None,
    memories: Mapping[str, float] | None = None,
) -> Drawing:
    every = [value for panel in lines.values() for line in panel for value in line.values]
    high = max([*every, *(gib for gib in (memories or {}).values())])
    low = min(every)

    def draw(canvas: Canvas) -> None:
        for axes, axis in zip(canvas.plot(2, columns=1 if canvas.narrow else 2), _TICKS, strict=True):
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_ylim(low / 1.3, high * 1.5)
            _panel(axes, axis, curves[axis]["points"], lines[axis], unit=unit)
            for place, (words, gib) in enumerate(sorted((memories or {}).items(), key=lambda item: item[1])):
                _level(axes, words, gib, place=place % 2)
            for mark in (marks or {}).get(axis, ()):
                _cross(axes, mark)

    return draw_both(draw, name=name, title=title, subtitle=subtitle, alt=alt, height=4.2, phone_height=7.6)


def _panel(axes: Axes, axis: str, points: Sequence[int], lines: Sequence[_Line], *, unit: str) -> None:
    quiet_axes(axes)
    for line in lines:
        style = (0, (4, 2)) if line.dashed else "solid"
        axes.plot(points, line.values, color=line.colour, linewidth=2, linestyle=style, zorder=4)
    axes.set_xlim(points[0], points[-1])
    axes.xaxis.set_major_locator(FixedLocator(_TICKS[axis]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.grid(color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelcolor=MUTED, labelsize=10)
    axes.set_xlabel(_HEADINGS[axis], fontsize=11, color=INK)
    axes.set_title(unit, loc="left", fontsize=11, color=MUTED)
    _name_lines(axes, lines)


def _name_lines(axes: Axes, lines: Sequence[_Line]) -> None:
    """Each name beside the end of its line, moved apart where ends lie close."""
    to_share = axes.transData + axes.transAxes.inverted()
    right = axes.get_xlim()[1]
    ends = sorted(((to_share.transform((right, line.values[-1]))[1], line) for line in lines), key=lambda end: end[0])
    for place, (_, line) in zip(_apart([share for share, _ in ends]), ends, strict=True):
        axes.annotate(
            line.name, (1, place), (7, 0), xycoords="axes fraction", textcoords="offset points", va="center",
            color=line.colour, fontsize=10.5, weight="bold", annotation_clip=False,
        )  # fmt: skip


def _apart(places: Sequence[float]) -> list[float]:
    """Ascending places, moved by as little as leaves a gap between neighbours."""
    moved = list(places)
    for _ in range(100):
        for lower in range(len(moved) - 1):
            missing = _LABEL_GAP - (moved[lower + 1] - moved[lower])
            if missing > 1e-3:
                moved[lower] -= missing / 2
                moved[lower + 1] += missing / 2
    return moved


def _level(axes: Axes, words: str, gib: float, *, place: int) -> None:
    """A memory, its name on its line; those of neighbours stand side by side, since they lie close."""
    axes.axhline(gib, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
    axes.text(
        0.02 + 0.2 * place, gib, words, transform=axes.get_yaxis_transform(), va="center", fontsize=9, color=INK,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
    )  # fmt: skip


def _cross(axes: Axes, mark: _Mark) -> None:
    axes.plot([mark.x], [mark.y], marker="x", color=INK, markersize=8, markeredgewidth=2, zorder=5, clip_on=False)
    if mark.text:
        axes.annotate(
            mark.text, (mark.x, mark.y), (-7, 5), textcoords="offset points", ha="right", fontsize=9, color=INK
        )


def _told(lines: Mapping[str, Sequence[_Line]], unit: str, curves: Mapping[str, Any]) -> str:
    """Both ends of every line, for those who cannot see them."""
    parts = []
    for axis, panel in lines.items():
        first, last = curves[axis]["points"][0], curves[axis]["points"][-1]
        each = ", ".join(f"{line.name} {line.values[0]:.3g} to {line.values[-1]:,.4g}" for line in panel)
        parts.append(f"From {first} to {last} {'frames' if axis == 'frames' else 'pixels'}, {unit}: {each}.")
    return " ".join(parts)
