"""What every figure of the report shares: two shapes, PNG and SVG, one style."""

import io
import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from railsformer.data.analysis.figures import MUTED, figure_style, png_bytes, printable, settle_layout, shorten

__all__ = ["BLUE", "ORANGE", "RED", "RULE", "Canvas", "Drawing", "draw_both", "quiet_axes", "wrapped"]

RULE = "#cfd6dc"
BLUE, ORANGE, RED = "#0072b2", "#e69f00", "#d55e00"  # after Okabe and Ito
_TITLE_INCHES = {False: 0.8, True: 0.98}  # wide, narrow


@dataclass(frozen=True)
class Drawing:
    """A figure in two shapes.

    Attributes:
        name: File name without suffix.
        title: Its heading.
        alt: What it shows, for those who cannot see it.
        png: Wide.
        svg: Wide; letters are outlines, so it looks alike everywhere.
        phone_svg: Narrow; None where only the wide one can be read.
    """

    name: str
    title: str
    alt: str
    png: bytes
    svg: bytes
    phone_svg: bytes | None


@dataclass(frozen=True)
class Canvas:
    """Where a figure is drawn.

    Attributes:
        figure: Of matplotlib.
        narrow: Whether it is the shape for a phone.
    """

    figure: Figure
    narrow: bool

    def plot(self, count: int = 1, *, columns: int = 1) -> list[Axes]:
        """Axes in rows of `columns`; what is left over in the last row is not drawn."""
        rows = -(-count // columns)
        axes: list[Axes] = list(self.figure.subplots(rows, columns, squeeze=False).ravel())
        for spare in axes[count:]:
            spare.set_visible(False)
        return axes[:count]


def draw_both(
    draw: Callable[[Canvas], None],
    *,
    name: str,
    title: str,
    subtitle: str,
    alt: str,
    height: float,
    phone_height: float | None,
) -> Drawing:
    """Draw a figure for a slide and for a phone.

    Args:
        draw: Draws it without its title.
        name: File name without suffix.
        title: Heading.
        subtitle: Below it.
        alt: For those who cannot see it.
        height: Of the wide shape in inches, which is 10 wide, without the title.
        phone_height: Of the narrow one, which is 4.4 wide; None leaves it out.
    """
    with mpl.rc_context(figure_style() | {"svg.hashsalt": name}):
        wide = _render(draw, title, subtitle, width=10.0, height=height + _TITLE_INCHES[False], narrow=False)
        png = png_bytes(wide)
        svg = _svg_bytes(wide)
        phone = None
        if phone_height is not None:
            narrow = _render(draw, title, subtitle, width=4.4, height=phone_height + _TITLE_INCHES[True], narrow=True)
            phone = _svg_bytes(narrow)
    return Drawing(name, title, printable(alt), png, svg, phone)


def quiet_axes(axes: Axes) -> None:
    """No frame and no ticks."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(which="both", length=0)


def wrapped(name: str, width: int, lines: int = 3) -> str:
    """A name over a few lines; one that is too long keeps its two ends, which tell it from others."""
    name = shorten(name, width * lines).replace("_", "_ ")
    return "\n".join(textwrap.wrap(name, width, max_lines=lines, placeholder=" …")).replace("_ ", "_")


def _render(
    draw: Callable[[Canvas], None], title: str, subtitle: str, *, width: float, height: float, narrow: bool
) -> Figure:
    engine = ConstrainedLayoutEngine(rect=(0.015, 0.01, 0.97, 0.985 - _TITLE_INCHES[narrow] / height))
    figure = Figure(figsize=(width, height), dpi=200, layout=engine, facecolor="white")
    FigureCanvasAgg(figure)
    left, size = 0.2 / width, 14 if narrow else 18
    figure.text(left, 1 - 0.18 / height, title, fontsize=size, weight="bold", va="top")
    below = _filled(subtitle, 52 if narrow else 110)
    figure.text(left, 1 - 0.52 / height, below, fontsize=10 if narrow else 12, color=MUTED, va="top")
    draw(Canvas(figure, narrow))
    settle_layout(figure)
    return figure


def _filled(text: str, width: int) -> str:
    lines: Sequence[str] = textwrap.wrap(printable(text), width, max_lines=2, placeholder=" …")
    return "\n".join(lines)


def _svg_bytes(figure: Figure) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box stands for it
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        # The same figure, the same bytes. Not by savefig, which draws twice: once for a layout that stands already.
        FigureCanvasSVG(figure).print_svg(file, metadata=nothing)
    return file.getvalue()
