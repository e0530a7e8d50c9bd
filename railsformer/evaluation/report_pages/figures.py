"""The report as pictures: confusions, precision and recall, scores, reliability, slices, two runs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MultipleLocator
from sklearn.metrics import precision_recall_curve

from railsformer.data.analysis.figures import INK, MUTED, name_rows, printable, shorten
from railsformer.evaluation.report_pages.canvas import (
    BLUE,
    ORANGE,
    RED,
    RULE,
    Canvas,
    Drawing,
    draw_both,
    quiet_axes,
    wrapped,
)
from railsformer.evaluation.report_pages.compare import ERRORS
from railsformer.evaluation.report_pages.predictions import Predictions
from railsformer.evaluation.report_pages.words import decimal, figure_name, of_count, percent, span

__all__ = ["draw_figures"]

_BLUE_RGB, _RED_RGB = (np.array([int(c[at : at + 2], 16) for at in (1, 3, 5)]) / 255 for c in (BLUE, RED))
_MAX_PHONE_CLASSES = 6
_MAX_DOTS = 300
_MAX_SLICES = 24
_PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.0f} %")


def draw_figures(metrics: Mapping[str, Any], predictions: Predictions) -> list[Drawing]:
    """Draw every figure for which there is something to draw.

    Args:
        metrics: Content of metrics.json.
        predictions: Of the same split.
    """
    calibration = metrics["calibration"]
    references, scores = predictions.scored(calibration["temperature"] if calibration else 1.0)
    drawings = [_confusion_matrix(metrics)]
    present = [label for label in predictions.label_names if metrics["per_class"][label]["support"]]
    if present and len(references):
        indices = [list(predictions.label_names).index(label) for label in present]
        curves = {
            label: (references == index, scores[:, index]) for label, index in zip(present, indices, strict=True)
        }
        drawings += [_precision_recall(metrics, curves), _scores(metrics, curves)]
    if calibration:
        drawings.append(_reliability(calibration))
    if metrics["slices"]:
        drawings.append(_slices(metrics))
    if metrics["compare"] and _known_differences(metrics["compare"]):
        drawings.append(_differences(metrics["compare"]))
    return drawings


def _confusion_matrix(metrics: Mapping[str, Any]) -> Drawing:
    """Right answers in blue, mistakes in orange, each as strong as its share of the row."""
    labels = metrics["confusion_matrix"]["labels"]
    counts = np.array(metrics["confusion_matrix"]["matrix"]).reshape(len(labels), len(labels))
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    inks = np.where(np.eye(len(labels), dtype=bool)[..., None], _BLUE_RGB, _RED_RGB)
    many = len(labels) > _MAX_PHONE_CLASSES

    def draw(canvas: Canvas) -> None:
        (axes,) = canvas.plot()
        axes.imshow(1 - shares[..., None] * (1 - inks), aspect="auto")
        size = 7 if len(labels) > 15 else 9 if many or canvas.narrow else 13
        for row, column in zip(*counts.nonzero(), strict=True):
            colour = "white" if shares[row, column] > 0.6 else INK
            share = f"\n{percent(float(shares[row, column]))}" if not many else ""
            text = f"{counts[row, column]}{share}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size, linespacing=1.35)
        width = 9 if canvas.narrow else max(12, 90 // max(1, len(labels)))
        name_size = 8 if canvas.narrow or len(labels) > 15 else 11
        columns = [shorten(label, 20) if many else wrapped(label, width) for label in labels]
        axes.set_xticks(range(len(labels)), columns, fontsize=name_size, color=INK)
        if many:
            for text_above in axes.get_xticklabels():
                text_above.set(rotation=50, ha="left", rotation_mode="anchor")
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        lines = 1 if many else 3
        rows = [
            f"{wrapped(label, 30 // lines if many else 12 if canvas.narrow else 22, lines)}"
            f"{'  ' if many else chr(10)}n = {total}"
            for label, total in zip(labels, totals, strict=True)
        ]
        axes.set_yticks(range(len(labels)), rows, fontsize=name_size, color=INK)
        axes.set_xlabel("named by the model", fontsize=10, color=MUTED, labelpad=8)
        axes.set_ylabel("true", fontsize=10, color=MUTED)
        _ruled(axes, len(labels))

    rights = ", ".join(f"{label} {of_count(shares[row, row], totals[row])}" for row, label in enumerate(labels))
    height = min(1.6 + 0.8 * len(labels), 4.8) if not many else 1.6 + 0.34 * len(labels)
    return draw_both(
        draw,
        name="confusion_matrix",
        title="What is taken for what",
        subtitle=f"{metrics['num_videos']} videos of {metrics['split']}; rows true, columns named by the model",
        alt=f"Confusion matrix. Right of each class: {rights}.",
        height=height,
        phone_height=None if many else 1.3 + 0.62 * len(labels),
    )


def _ruled(axes: Axes, count: int) -> None:
    """Lines between the cells of a square."""
    edges = np.arange(count + 1) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color=RULE, linewidth=0.8)
    quiet_axes(axes)


def _precision_recall(metrics: Mapping[str, Any], curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Drawing:
    """One panel a class: the curve, how precise chance is, and the operating point with its intervals."""
    points = (metrics["operating_points"] or {"labels": {}})["labels"]
    wide = len(curves) if len(curves) <= 4 else 3 if len(curves) <= 6 else 4 if len(curves) <= 12 else 5
    narrow = 1 if len(curves) == 1 else 2

    def draw(canvas: Canvas) -> None:
        columns = narrow if canvas.narrow else wide
        panels = canvas.plot(len(curves), columns=columns)
        small = canvas.narrow or wide > 4
        for number, (axes, (label, (own, scores))) in enumerate(zip(panels, curves.items(), strict=True)):
            precision, recall, _ = precision_recall_curve(own, scores)
            axes.step(recall, precision, where="post", color=BLUE, linewidth=2)
            axes.axhline(own.mean(), color=MUTED, linestyle=(0, (2, 3)), linewidth=1)
            if label in points and points[label]["on_split"]:
                _cross(axes, points[label]["on_split"])
            title = wrapped(label, 18 if small else 84 // columns, 2)
            axes.set_title(title, loc="left", fontsize=9 if small else 12, color=INK, weight="bold")
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
            for axis, name in ((axes.xaxis, "recall"), (axes.yaxis, "precision")):
                axis.set_major_locator(MultipleLocator(0.5))
                axis.set_major_formatter(_PERCENT)
                if (axis is axes.yaxis and number % columns == 0) or (
                    axis is axes.xaxis and number >= len(curves) - columns
                ):
                    axis.set_label_text(name, fontsize=9 if small else 11, color=MUTED)
            axes.tick_params(labelsize=8 if small else 10, colors=MUTED)
            axes.grid(color=RULE, linewidth=0.6)

    told = "; ".join(f"{label} {decimal(metrics['per_class'][label]['average_precision'])}" for label in curves)
    point = ", orange: the operating point with its intervals" if points else ""
    return draw_both(
        draw,
        name="precision_recall",
        title="Precision and recall by class",
        subtitle=f"blue: all thresholds{point}, dotted: what guessing gives",
        alt=f"Curves of precision over recall by class. Average precision: {told}.",
        height=max(3.0, (2.4 if wide <= 4 else 2.0) * math.ceil(len(curves) / wide)),
        phone_height=2.1 * math.ceil(len(curves) / narrow) + 0.2,
    )


def _cross(axes: Axes, point: Mapping[str, Any]) -> None:
    if point["recall"] is None or point["precision"] is None:
        return
    across, along = point["intervals"]["recall"], point["intervals"]["precision"]
    if across:
        axes.plot(across, [point["precision"]] * 2, color=ORANGE, linewidth=2.2, solid_capstyle="butt")
    if along:
        axes.plot([point["recall"]] * 2, along, color=ORANGE, linewidth=2.2, solid_capstyle="butt")
    axes.plot(point["recall"], point["precision"], "o", color=ORANGE, markersize=8, markeredgecolor=INK, zorder=5)


def _scores(metrics: Mapping[str, Any], curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Drawing:
    """Two strips of dots a class: its own videos above, the others below, and the threshold between them."""
    points = (metrics["operating_points"] or {"labels": {}})["labels"]

    def draw(canvas: Canvas) -> None:
        (axes,) = canvas.plot()
        rng = np.random.default_rng(0)
        for row, (label, (own, scores)) in enumerate(curves.items()):
            for inside, place, colour in ((own, row - 0.19, BLUE), (~own, row + 0.19, MUTED)):
                dots = scores[inside]
                dots = rng.choice(dots, _MAX_DOTS, replace=False) if len(dots) > _MAX_DOTS else dots
                jitter = rng.uniform(-0.14, 0.14, len(dots))
                axes.scatter(dots, place + jitter, s=13, color=colour, alpha=0.5, linewidths=0)
            if label in points and points[label]["threshold"] is not None:
                at = points[label]["threshold"]
                axes.plot([at, at], [row - 0.4, row + 0.4], color=ORANGE, linewidth=3, solid_capstyle="butt", zorder=4)
            if row:
                axes.axhline(row - 0.5, color=RULE, linewidth=0.8)
        name_rows(axes, list(curves), narrow=canvas.narrow)
        axes.set_xlim(-0.01, 1.01)
        axes.xaxis.set_major_formatter(_PERCENT)
        axes.xaxis.set_major_locator(MultipleLocator(0.25 if canvas.narrow else 0.1))
        axes.grid(axis="x", color=RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel("score of the class", fontsize=11, color=MUTED)

    told = "; ".join(
        f"{label}: own videos {percent(float(np.median(scores[own])))}"
        + (f", others {percent(float(np.median(scores[~own])))}" if (~own).any() else "")
        for label, (own, scores) in curves.items()
    )
    mark = "; orange: the threshold" if points else ""
    return draw_both(
        draw,
        name="scores",
        title="Scores by class",
        subtitle=f"one dot a video; blue: videos of the class, grey: all others{mark}",
        alt=f"Dots, one a video, by class. Median scores: {told}.",
        height=max(2.4, 0.7 + (0.72 if len(curves) <= 8 else 0.5) * len(curves)),
        phone_height=1.0 + 0.62 * len(curves),
    )


def _reliability(calibration: Mapping[str, Any]) -> Drawing:
    """How often the model is right against how sure it is, before and after temperature scaling."""
    panels = [
        ("before", calibration["reliability"]["before"], calibration["before"]),
        (
            f"after, temperature {calibration['temperature']:.2f}",
            calibration["reliability"]["after"],
            calibration["after"],
        ),
    ]

    def draw(canvas: Canvas) -> None:
        for axes, (name, bins, figures) in zip(canvas.plot(2, columns=1 if canvas.narrow else 2), panels, strict=True):
            known = [entry for entry in bins if entry["count"] and entry["accuracy"] is not None]
            most = max((entry["count"] for entry in known), default=1)
            axes.plot([0, 1], [0, 1], color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2)
            for entry in known:
                width = entry["high"] - entry["low"]
                middle = (entry["low"] + entry["high"]) / 2
                strength = min(1.0, 0.2 + 0.8 * entry["count"] / most)
                axes.bar(middle, entry["accuracy"], width * 0.92, color=BLUE, alpha=strength)
                axes.plot([entry["confidence"]] * 2, [entry["accuracy"], entry["confidence"]], color=RED, linewidth=2)
                if not canvas.narrow:
                    axes.text(middle, -0.045, str(entry["count"]), ha="center", va="center", fontsize=8, color=MUTED)
            error = decimal(figures["calibration_error"])
            axes.set_title(f"{name}: error {error}", loc="left", fontsize=12, color=INK)
            axes.set(xlim=(0, 1), ylim=(-0.09 if not canvas.narrow else 0, 1.02))
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MultipleLocator(0.25))
                axis.set_major_formatter(_PERCENT)
            axes.tick_params(labelsize=9, colors=MUTED)
            axes.set_xlabel("how sure it is", fontsize=11, color=MUTED)
            axes.set_ylabel("how often it is right", fontsize=11, color=MUTED)
            axes.grid(color=RULE, linewidth=0.6)
            axes.set_axisbelow(True)

    errors = [decimal(figures["calibration_error"]) for _, _, figures in panels]
    return draw_both(
        draw,
        name="reliability",
        title="Is it as right as it is sure?",
        subtitle="bars on the dashed line would be; the strong ones hold most videos; red: how far off",
        alt=f"Accuracy by confidence. Calibration error {errors[0]} before and {errors[1]} after temperature scaling.",
        height=4.2,
        phone_height=6.6,
    )


def _slices(metrics: Mapping[str, Any]) -> Drawing:
    """Accuracy with its interval, by value of each column, the column with the worst value first."""
    shown: Sequence[Mapping[str, Any]] = metrics["slices"][:_MAX_SLICES]
    columns = list(dict.fromkeys(entry["column"] for entry in shown))
    rows = [(column, entry) for column in columns for entry in shown if entry["column"] == column]
    places = [number + 0.8 * (1 + columns.index(column)) for number, (column, _) in enumerate(rows)]
    overall = metrics["accuracy"]

    def draw(canvas: Canvas) -> None:
        (axes,) = canvas.plot()
        if overall is not None:
            axes.axvline(overall, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2, zorder=0)
        for place, (_, entry) in zip(places, rows, strict=True):
            _dot(axes, place, entry["accuracy"], entry["interval"])
        most = 14 if canvas.narrow else 30
        names = [f"{shorten(str(entry['value']), most)}  ({entry['num_videos']})" for _, entry in rows]
        axes.set_yticks(places, names, fontsize=9 if canvas.narrow else 12, color=INK)
        axes.set_ylim(places[-1] + 0.6, places[0] - 1.3)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        for column in columns:
            first = min(place for place, (name, _) in zip(places, rows, strict=True) if name == column)
            axes.annotate(
                shorten(column, 40), (0, first - 0.75), (4, 0), xycoords=("axes fraction", "data"),
                textcoords="offset points", va="center", color=MUTED, fontsize=10, weight="bold",
            )  # fmt: skip
            axes.axhline(first - 1.1, color=RULE, linewidth=0.8)
        axes.set_xlim(0, 1.02)
        axes.xaxis.set_major_locator(MultipleLocator(0.25 if canvas.narrow else 0.1))
        axes.xaxis.set_major_formatter(_PERCENT)
        axes.grid(axis="x", color=RULE, linewidth=0.6)
        axes.set_axisbelow(True)

    worst = shown[0]
    rest = f", the {len(shown)} worst of {len(metrics['slices'])}" if len(metrics["slices"]) > len(shown) else ""
    height = 0.6 + 0.36 * (places[-1] + 1)
    return draw_both(
        draw,
        name="slices",
        title="Where it is right",
        subtitle=f"accuracy and its interval, videos in brackets, dashed: overall{rest}; hollow: too few to say",
        alt=(
            f"Accuracy by slice with intervals. Worst by macro F1: {worst['column']} {worst['value']}, accuracy "
            f"{percent(worst['accuracy'])} of {worst['num_videos']} videos."
        ),
        height=height,
        phone_height=height,
    )


def _dot(axes: Axes, place: float, value: float | None, interval: Sequence[float] | None) -> None:
    """A figure on its interval; hollow where there is none."""
    if interval:
        axes.plot(interval, [place] * 2, color=BLUE, linewidth=5, alpha=0.3, solid_capstyle="butt")
    if value is not None:
        inside = BLUE if interval else "white"
        axes.plot(value, place, "o", color=inside, markersize=8, markeredgecolor=BLUE)


def _known_differences(compare: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Of figures that are better where they are higher, so that one side of the picture is the better one."""
    return {
        name: entry
        for name, entry in compare["figures"].items()
        if entry["difference"] is not None and name not in ERRORS
    }


def _differences(compare: Mapping[str, Any]) -> Drawing:
    """This run minus the other, with intervals."""
    figures = _known_differences(compare)
    reach = max(max(map(abs, entry["interval"] or [entry["difference"]])) for entry in figures.values()) or 0.01

    def draw(canvas: Canvas) -> None:
        (axes,) = canvas.plot()
        axes.axvline(0, color=INK, linewidth=1.2)
        for row, entry in enumerate(figures.values()):
            _dot(axes, row, entry["difference"], entry["interval"])
        name_rows(axes, [figure_name(name) for name in figures], narrow=canvas.narrow)
        axes.set_xlim(-1.15 * reach, 1.15 * reach)
        axes.locator_params(axis="x", nbins=4 if canvas.narrow else 8)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.2f}" if value else "0"))
        axes.grid(axis="x", color=RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel("the other is better     |     this one is better", fontsize=10, color=MUTED)

    told = "; ".join(
        f"{figure_name(name)} {entry['difference']:+.3f} ({span(entry['interval'], of='decimal')})"
        for name, entry in figures.items()
    )
    return draw_both(
        draw,
        name="comparison",
        title="This run minus the other",
        subtitle=f"other: {shorten(printable(compare['other']), 60)}; hollow: too few to say",
        alt=f"Differences with their intervals: {told}.",
        height=max(2.2, 0.9 + 0.45 * len(figures)),
        phone_height=1.1 + 0.5 * len(figures),
    )
