"""Pictures of how alike the rows of the position tables are."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from railsformer.data.analysis.figures import INK, MUTED, shorten
from railsformer.evaluation.report_pages.canvas import BLUE, ORANGE, RED, RULE, Canvas, draw_both, quiet_axes

__all__ = ["draw_space_distances", "draw_space_maps", "draw_time_maps"]

_COLOURS = "viridis"
_MOST_MAPS = 14  # a side: more could not be told apart on a page
_MAP_PX = 112  # side of a small map, about; its cells are whole pixels
_MISSING = (0.88, 0.9, 0.92)


def draw_space_maps(similarity: np.ndarray, grid: tuple[int, int], *, model: str) -> bytes:
    """Draw a map for each patch (of a fine grid: for every so many), laid out as the picture is, as a PNG.

    Args:
        similarity: Shape (N, N), patches row by row.
        grid: Patches down and across.
        model: Name of the run.
    """
    height, width = grid
    rows, columns = _shown(height), _shown(width)
    scale = _scale_of(similarity)
    gap = max(4, _MAP_PX // 12)
    cell = max(2, round(_MAP_PX / max(grid)))
    sheet = _sheet(similarity.reshape(height, width, height, width)[rows][:, columns], scale, cell=cell, gap=gap)

    def draw(canvas: Canvas) -> None:
        (axes,) = canvas.plot()
        axes.imshow(sheet, interpolation="nearest")
        step_down, step_across = height * cell + gap, width * cell + gap
        down = np.arange(len(rows)) * step_down
        across = np.arange(len(columns)) * step_across
        x, y = np.meshgrid(across + (columns + 0.5) * cell, down + (rows + 0.5) * cell)
        axes.scatter(x - 0.5, y - 0.5, s=7, color="white", edgecolors=INK, linewidths=0.5, zorder=3)
        axes.set_xticks(across + width * cell / 2, [str(column + 1) for column in columns], fontsize=9, color=MUTED)
        axes.set_yticks(down + height * cell / 2, [str(row + 1) for row in rows], fontsize=9, color=MUTED)
        axes.set_xlabel(f"column of the patch{_every(columns)}", fontsize=10, color=MUTED)
        axes.set_ylabel(f"row of the patch{_every(rows)}", fontsize=10, color=MUTED)
        quiet_axes(axes)
        _colour_bar(canvas, axes, scale, what="a place")

    return draw_both(
        draw,
        name="space_maps",
        title="How alike places are to the model",
        subtitle=f"Space table of {shorten(model, 24)}: cosine similarity of the patch at each dot to all {height} x "
        f"{width} patches.",
        alt="Similarity maps of the space table.",
        height=min(12.0, max(2.5, 8.6 * sheet.shape[0] / sheet.shape[1])),
        phone_height=None,
    ).png


def draw_space_distances(
    similarity: np.ndarray, grid: tuple[int, int], *, steps: np.ndarray, told: np.ndarray, model: str
) -> bytes:
    """Draw mean similarity by distance, in all directions and along rows and columns, as a PNG.

    Args:
        similarity: Shape (N, N), patches row by row.
        grid: Patches down and across.
        steps: Distances in patches, shape (d,).
        told: Mean, tenth and ninetieth percentile at each, shape (d, 3).
        model: Name of the run.
    """
    cube = similarity.reshape(*grid, *grid)

    def draw(canvas: Canvas) -> None:
        (axes,) = canvas.plot()
        _draw_curve(axes, steps, told, label="all directions")
        for direction, length, colour, dash in (
            ("row", grid[1], ORANGE, (5, 2)),
            ("column", grid[0], RED, (1.5, 1.5)),
        ):
            if length > 1:
                means = [_along(cube, direction, step) for step in range(1, length)]
                axes.plot(
                    range(1, length),
                    means,
                    color=colour,
                    linewidth=2,
                    linestyle=(0, dash),
                    label=f"along a {direction}",
                )
        axes.set_xlabel("distance in patches", color=MUTED)
        axes.set_ylabel("cosine similarity", color=MUTED)
        axes.legend(frameon=False, fontsize=10)

    return draw_both(
        draw,
        name="space_distance",
        title="How fast likeness fades with distance",
        subtitle=f"Space table of {shorten(model, 24)}: mean over all pairs of patches; the band holds 80 % of them.",
        alt="Mean similarity of patches by their distance.",
        height=3.8,
        phone_height=None,
    ).png


def draw_time_maps(
    similarity: np.ndarray, *, steps: np.ndarray, told: np.ndarray, frame_seconds: float | None, model: str
) -> bytes:
    """Draw the similarity of each two frames, and its mean by distance in time, as a PNG.

    Args:
        similarity: Shape (T, T).
        steps: Distances in frames, shape (d,).
        told: Mean, tenth and ninetieth percentile at each, shape (d, 3).
        frame_seconds: Between neighbouring frames; None where that depends on the video.
        model: Name of the run.
    """
    scale = _scale_of(similarity)
    num_frames = len(similarity)

    def draw(canvas: Canvas) -> None:
        square, curve = canvas.plot(2, columns=2)
        edges = (0.5, num_frames + 0.5)
        square.imshow(_painted(similarity, scale), interpolation="nearest", extent=(*edges, *edges[::-1]))
        for axis in (square.xaxis, square.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
        if num_frames <= 12:
            _write_values(square, similarity, scale)
        square.set_xlabel("frame of the clip", color=MUTED)
        square.set_ylabel("frame of the clip", color=MUTED)
        quiet_axes(square)
        _colour_bar(canvas, square, scale, what="a frame")
        _draw_curve(curve, steps, told, label="")
        curve.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
        curve.set_xlabel("distance in frames", color=MUTED)
        curve.set_ylabel("cosine similarity", color=MUTED)

    rate = f", {frame_seconds:.3g} s apart" if frame_seconds else ""
    return draw_both(
        draw,
        name="time_maps",
        title="How alike instants are to the model",
        subtitle=f"Time table of {shorten(model, 24)}: cosine similarity of each two frames{rate}; by distance.",
        alt="Similarity of the rows of the time table.",
        height=4.3,
        phone_height=None,
    ).png


def _shown(length: int) -> np.ndarray:
    """Rows or columns that get a map: all, or evenly spaced ones."""
    return np.arange(0, length, -(-length // _MOST_MAPS))


def _every(places: np.ndarray) -> str:
    step = int(np.diff(places)[0]) if len(places) > 1 else 1
    return "" if step == 1 else f" (one in {step} has a map)"


def _scale_of(similarity: np.ndarray) -> Normalize:
    """From the least to the most alike of two different rows; each row to itself is 1 and would hide the rest."""
    others = similarity[~np.eye(len(similarity), dtype=bool)]
    others = others[~np.isnan(others)]
    low, high = (float(others.min()), float(others.max())) if len(others) else (0.0, 1.0)
    return Normalize(low, max(high, low + 1e-3), clip=True)


def _painted(values: np.ndarray, scale: Normalize) -> np.ndarray:
    """Colours of similarities, shape (..., 3); grey where there is none."""
    painted = colormaps[_COLOURS](scale(np.nan_to_num(values)))[..., :3]
    painted[np.isnan(values)] = _MISSING
    return painted


def _sheet(maps: np.ndarray, scale: Normalize, *, cell: int, gap: int) -> np.ndarray:
    """Maps of shape (rows, columns, H, W) on one white sheet, `cell` pixels a patch, `gap` pixels apart."""
    rows, columns, height, width = maps.shape
    painted = _painted(maps, scale).repeat(cell, axis=2).repeat(cell, axis=3)
    sheet = np.ones((rows, height * cell + gap, columns, width * cell + gap, 3))
    sheet[:, : height * cell, :, : width * cell] = painted.transpose(0, 2, 1, 3, 4)
    return sheet.reshape(rows * (height * cell + gap), -1, 3)[:-gap, :-gap]


def _colour_bar(canvas: Canvas, axes: Axes, scale: Normalize, *, what: str) -> None:
    bar = canvas.figure.colorbar(ScalarMappable(scale, _COLOURS), ax=axes, fraction=0.035, pad=0.015, shrink=0.7)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=9, length=0, labelcolor=MUTED)
    bar.set_label(f"cosine similarity ({what} to itself: 1)", fontsize=9, color=MUTED)


def _draw_curve(axes: Axes, steps: np.ndarray, told: np.ndarray, *, label: str) -> None:
    axes.axhline(0, color=RULE, linewidth=1, zorder=0)
    if len(steps):
        axes.fill_between(steps, told[:, 1], told[:, 2], color=BLUE, alpha=0.18, linewidth=0)
        marker = {"marker": "o", "markersize": 4} if len(steps) <= 20 else {}
        axes.plot(steps, told[:, 0], color=BLUE, linewidth=2.2, label=label or None, **marker)  # type: ignore[arg-type]
    axes.tick_params(length=0, labelsize=10, labelcolor=MUTED)
    axes.margins(x=0.02)


def _along(cube: np.ndarray, direction: str, step: int) -> float:
    """Mean similarity of patches of one row or column that are `step` apart."""
    pattern = "hwhv->hwv" if direction == "row" else "hwgw->whg"  # one row, or one column, at a time
    return float(np.nanmean(np.diagonal(np.einsum(pattern, cube), step, 1, 2)))


def _write_values(axes: Axes, similarity: np.ndarray, scale: Normalize) -> None:
    size = 9 if len(similarity) <= 8 else 7
    for row, values in enumerate(similarity, start=1):
        for column, value in enumerate(values, start=1):
            if not np.isnan(value):
                colour = INK if scale(value) > 0.6 else "white"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=size, color=colour)
