"""The curves of a run as one picture: losses, figures on validation, learning rate, over epochs."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from railsformer.data.analysis.figures import INK, MUTED, figure_style, png_bytes, shorten

__all__ = ["draw_curves", "save_curves"]

# After Okabe and Ito, dark enough for text. Orange is what chooses the epoch: validation, and its macro F1.
_BLUE, _ORANGE, _GREEN = "#0072b2", "#d55e00", "#00805d"
_GRID = "#e6eaed"
_FIGURES = {
    "f1_macro": ("macro F1", _ORANGE),
    "balanced_accuracy": ("balanced accuracy", _GREEN),
    "accuracy": ("accuracy", MUTED),
}
_LABEL_GAP = 0.1  # of a panel's height, between the names beside two lines


@dataclass(frozen=True)
class _Series:
    name: str
    colour: str
    epochs: Sequence[float]
    values: Sequence[float]
    marked: bool = False
    raw: Sequence[float] = ()


def save_curves(
    folder: Path, log_history: Sequence[Mapping[str, Any]], *, title: str, best_epoch: float | None
) -> bool:
    """Write curves.png and curves.svg.

    Args:
        folder: Where to.
        log_history: Of the Trainer's state.
        title: Heading of the picture.
        best_epoch: Epoch whose weights were kept.

    Returns:
        False where the history holds nothing to draw.
    """
    if not any("loss" in log or "eval_loss" in log for log in log_history):
        return False
    with mpl.rc_context(figure_style() | {"svg.hashsalt": "railsformer", "svg.fonttype": "path"}):
        figure = draw_curves(log_history, title=title, best_epoch=best_epoch)
        (folder / "curves.png").write_bytes(png_bytes(figure))
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
        (folder / "curves.svg").write_bytes(drawn.getvalue())
    return True


def draw_curves(log_history: Sequence[Mapping[str, Any]], *, title: str, best_epoch: float | None) -> Figure:
    """Panels one below the other over the same epochs; lines are named at their ends."""
    losses = [_series(log_history, "eval_loss", "validation", _ORANGE)]
    losses.append(_smoothed(_series(log_history, "loss", "training", _BLUE)))
    scores = [_series(log_history, f"eval_{key}", name, colour) for key, (name, colour) in _FIGURES.items()]
    rates = [_series(log_history, "learning_rate", "", MUTED)]
    panels = [
        (heading, [one for one in series if one.values], height)
        for heading, series, height in (
            ("loss", losses, 3.0),
            ("on validation", scores, 3.0),
            ("learning rate", rates, 1.4),
        )
    ]
    panels = [panel for panel in panels if panel[1]]
    heights = [height for _, _, height in panels]
    figure = Figure(figsize=(8, 1.5 + 0.86 * sum(heights)), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    total = figure.get_figheight()
    figure.text(0.09, 1 - 0.22 / total, shorten(title, 60), fontsize=15, weight="bold", va="top")
    if best_epoch is not None:
        figure.text(
            0.09, 1 - 0.56 / total, f"dotted: epoch {best_epoch:.4g}, whose weights were kept",
            fontsize=11, color=MUTED, va="top",
        )  # fmt: skip
    grid = figure.add_gridspec(
        len(panels),
        1,
        height_ratios=heights,
        left=0.09,
        right=0.72,
        top=1 - 1.15 / total,
        bottom=0.6 / total,
        hspace=0.32,
    )
    last = max(epoch for _, series, _ in panels for one in series for epoch in one.epochs)
    for row, (heading, series, _) in enumerate(panels):
        axes = figure.add_subplot(grid[row])
        _panel(axes, heading, series, best_epoch=best_epoch, last_epoch=last)
        if row < len(panels) - 1:
            axes.tick_params(axis="x", labelbottom=False)
        else:
            axes.set_xlabel("epoch", color=MUTED)
    return figure


def _series(log_history: Sequence[Mapping[str, Any]], key: str, name: str, colour: str) -> _Series:
    logs = [log for log in log_history if isinstance(log.get(key), (int, float)) and "epoch" in log]
    return _Series(name, colour, [log["epoch"] for log in logs], [log[key] for log in logs], key.startswith("eval_"))


def _smoothed(series: _Series) -> _Series:
    """A long noisy line as its running mean over a twentieth of the run; the line itself is drawn pale behind it."""
    width = len(series.values) // 40
    if width < 1:
        return series
    values = series.values
    windows = [values[max(0, place - width) : place + width + 1] for place in range(len(values))]
    return replace(series, values=[sum(window) / len(window) for window in windows], raw=values)


def _panel(
    axes: Axes, heading: str, series: Sequence[_Series], *, best_epoch: float | None, last_epoch: float
) -> None:
    axes.set_title(heading, loc="left", fontsize=12, color=INK, weight="bold", pad=6)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=MUTED, labelsize=10)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0, last_epoch)
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(nbins=10, integer=last_epoch >= 1, min_n_ticks=1))
    if best_epoch is not None:
        axes.axvline(best_epoch, color=MUTED, linewidth=1.2, linestyle=":", clip_on=False)
    for one in reversed(series):  # the first one on top
        if one.raw:
            axes.plot(one.epochs, one.raw, color=one.colour, linewidth=1, alpha=0.25)
        axes.plot(
            one.epochs, one.values, color=one.colour, linewidth=2, clip_on=False,
            marker="o" if one.marked or len(one.values) == 1 else None, markersize=5 if one.marked else 4,
        )  # fmt: skip
    _scale(axes, heading, max(value for one in series for value in (*one.values, *one.raw)))
    _name_lines(axes, [one for one in series if one.name])


def _scale(axes: Axes, heading: str, highest: float) -> None:
    """From zero, and figures up to one, so that runs can be laid side by side and noise looks no larger than it is."""
    if heading == "learning rate":
        axes.set_ylim(0, highest * 1.08 if highest > 0 else 1)
        axes.set_yticks([0, highest] if highest > 0 else [0], ["0", f"{highest:.1e}"] if highest > 0 else ["0"])
    elif heading == "on validation":
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    else:
        axes.set_ylim(0, highest * 1.08 if highest > 0 else 1)
        axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(nbins=4))


def _name_lines(axes: Axes, series: Sequence[_Series]) -> None:
    """Each name beside the end of its line, moved apart where two ends lie close."""
    low, high = axes.get_ylim()
    gap = (high - low) * _LABEL_GAP
    places: list[float] = []
    for one in sorted(series, key=lambda one: one.values[-1]):
        places.append(max(one.values[-1], places[-1] + gap) if places else one.values[-1])
    over = max(0.0, places[-1] - high) if places else 0.0
    for one, place in zip(sorted(series, key=lambda one: one.values[-1]), places, strict=True):
        axes.annotate(
            f"{one.name} {one.values[-1]:.2f}", (1, place - over), (8, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", va="center", color=one.colour, fontsize=11, weight="bold",
            annotation_clip=False,
        )  # fmt: skip
