"""Accuracy as pictures: every seed a dot, differences with their intervals, and the order of the frames."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from railsformer.compare.report_pages.numbers import ALPHA, chance, mean_of, points, share_with_spread, values_of
from railsformer.data.analysis.figures import INK, MUTED, shorten
from railsformer.evaluation.report_pages.canvas import BLUE, ORANGE, RED, RULE, Canvas, Drawing, draw_both, quiet_axes

__all__ = ["ORDERS", "draw_pairs", "draw_probe", "draw_seeds"]

# In the order of the table; the key of the probe's rows, how it is called, colour and marker.
ORDERS = {
    "forwards": ("as filmed", BLUE, "o"),
    "reversed": ("reversed", ORANGE, "s"),
    "shuffled": ("shuffled", RED, "^"),
    "middle": ("one frame repeated", MUTED, "D"),
}
_PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.0f} %")
_POINTS = FuncFormatter(lambda value, _: points(value).removesuffix(".0"))
_LANE = 0.17


def draw_seeds(rows: Sequence[Mapping[str, Any]], *, name: str, title: str, subtitle: str) -> Drawing | None:
    """Accuracy of every seed as a dot and their mean as a line; None where nothing was measured.

    Args:
        rows: Of accuracy, positions or views.
        name: File name without suffix.
        title: Heading.
        subtitle: Below it.
    """
    shown = [row for row in rows if values_of(row.get("accuracy"))]
    if not shown:
        return None

    def draw(canvas: Canvas) -> None:
        (axes,) = canvas.plot()
        for place, row in enumerate(shown):
            values, mean = values_of(row["accuracy"]), mean_of(row["accuracy"])
            axes.hlines(place, 0, 1, color=RULE, linewidth=0.8, zorder=0)
            axes.scatter(values, [place] * len(values), s=70, color=BLUE, alpha=0.65, linewidths=0, zorder=2)
            if len(values) > 1 and mean is not None:
                axes.vlines(mean, place - 0.3, place + 0.3, color=INK, linewidth=2.2, zorder=3)
        _name_rows(axes, [row["name"] for row in shown], narrow=canvas.narrow)
        _share_axis(axes, [value for row in shown for value in values_of(row["accuracy"])])

    alt = "; ".join(f"{row['name']} {share_with_spread(row['accuracy'])}" for row in shown)
    height = 0.8 + 0.5 * len(shown)
    return draw_both(
        draw, name=name, title=title, subtitle=subtitle, alt=f"Accuracy. {alt}.", height=height, phone_height=height
    )


def draw_pairs(pairs: Sequence[Mapping[str, Any]], *, name: str, title: str, subtitle: str) -> Drawing | None:
    """Differences of accuracy and their intervals; None where no pair has one.

    Args:
        pairs: With `a`, `b`, `difference` (a - b), `interval` and `p_holm`.
        name: File name without suffix.
        title: Heading.
        subtitle: Below it.
    """
    shown = [pair for pair in pairs if pair.get("interval") is not None]
    if not shown:
        return None

    def draw(canvas: Canvas) -> None:
        (axes,) = canvas.plot()
        axes.axvline(0, color=INK, linewidth=1)
        axes.grid(axis="x", color=RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        for place, pair in enumerate(shown):
            told_apart = pair["p_holm"] is not None and pair["p_holm"] < ALPHA
            colour = BLUE if told_apart else MUTED
            axes.hlines(place, *pair["interval"], color=colour, linewidth=2.2)
            face = colour if told_apart else "white"
            axes.plot(pair["difference"], place, "o", markersize=8, color=colour, markerfacecolor=face)
        _name_rows(axes, [f"{pair['a']} − {pair['b']}" for pair in shown], narrow=canvas.narrow)
        axes.set_ylim(len(shown) - 0.4, -0.7)
        axes.xaxis.set_major_formatter(_POINTS)
        axes.xaxis.set_major_locator(MaxNLocator(5 if canvas.narrow else 9))
        axes.set_xlabel("points of accuracy", color=MUTED, fontsize=10)

    told = (
        f"{pair['a']} minus {pair['b']} {points(pair['difference'])}, p {chance(pair['p_holm'])}" for pair in shown
    )
    return draw_both(
        draw, name=name, title=title, subtitle=subtitle, alt=f"Differences in points: {'; '.join(told)}.",
        height=0.9 + 0.42 * len(shown), phone_height=0.9 + 0.56 * len(shown),
    )  # fmt: skip


def draw_probe(rows: Sequence[Mapping[str, Any]], *, subtitle: str) -> Drawing | None:
    """Accuracy of each scheme by the order of the frames; None where nothing was measured.

    Args:
        rows: Of the probe.
        subtitle: Below the heading.
    """
    shown = [row for row in rows if any(_accuracies(row, order) for order in ORDERS)]
    if not shown:
        return None

    def draw(canvas: Canvas) -> None:
        (axes,) = canvas.plot()
        for place, row in enumerate(shown):
            axes.axhspan(place - 0.44, place + 0.44, color="#f5f7f9", linewidth=0, zorder=0)
            for lane, (order, (_, colour, marker)) in enumerate(ORDERS.items()):
                values, height = _accuracies(row, order), place + (lane - 1.5) * _LANE
                style: dict[str, Any] = {"s": 22, "color": colour, "alpha": 0.4, "marker": marker, "linewidths": 0}
                axes.scatter(values, [height] * len(values), **style)
                if values:
                    axes.scatter([sum(values) / len(values)], [height], **style | {"s": 80, "alpha": 1.0})
        for told, colour, marker in ORDERS.values():
            axes.scatter([], [], s=60, color=colour, marker=marker, linewidths=0, label=told)
        _name_rows(axes, [row["name"] for row in shown], narrow=canvas.narrow)
        _share_axis(axes, [value for row in shown for order in ORDERS for value in _accuracies(row, order)])
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=2 if canvas.narrow else 4, frameon=False, borderaxespad=0.2,
            fontsize=9 if canvas.narrow else 11, handletextpad=0.2, columnspacing=1.2,
        )  # fmt: skip

    told = "; ".join(
        f"{row['name']} "
        + ", ".join(f"{ORDERS[o][0]} {share_with_spread(row[o]['accuracy'])}" for o in ORDERS if _accuracies(row, o))
        for row in shown
    )
    return draw_both(
        draw, name="time_order", title="Accuracy by the order of the frames", subtitle=subtitle,
        alt=f"Accuracy by the order of the frames. {told}.",
        height=1.2 + 0.75 * len(shown), phone_height=1.5 + 0.8 * len(shown),
    )  # fmt: skip


def _accuracies(row: Mapping[str, Any], order: str) -> list[float]:
    return values_of((row.get(order) or {}).get("accuracy"))


def _name_rows(axes: Axes, names: Sequence[str], *, narrow: bool) -> None:
    """Each beside its row, over two lines where it is long; a longer one keeps its two ends."""
    width = 20 if narrow else 30
    shown = ["\n".join(textwrap.wrap(shorten(name, (3 if narrow else 2) * width - 6), width)) for name in names]
    axes.set_yticks(range(len(names)), shown, fontsize=8.5 if narrow else 11, color=INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    quiet_axes(axes)


def _share_axis(axes: Axes, values: Sequence[float]) -> None:
    """From 0 to 100 %, or the part of it in which something is; it says itself where it begins."""
    low = max(0.0, min(values) - 0.06)
    axes.set_xlim(0 if low < 0.3 else low, min(1.0, max(values) + 0.04) + 0.012)
    axes.xaxis.set_major_formatter(_PERCENT)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
