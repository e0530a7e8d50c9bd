"""The analysis as pictures: PNGs for a slide, and narrow ones for a phone."""

import io
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
import matplotlib.font_manager
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.transforms import Bbox

from railsformer.data.analysis.measure import MOTION_GAP_SECONDS, ClipFacts, default_clip_seconds

__all__ = [
    "INK", "MUTED", "Drawing", "draw_figures", "figure_style", "name_rows", "png_bytes", "printable", "settle_layout",
    "shorten",
]  # fmt: skip

INK, MUTED, _RULE = "#1b2733", "#52606b", "#cfd6dc"
_BLUE, _SKY, _ORANGE, _GREEN = "#0072b2", "#56b4e9", "#e69f00", "#009e73"  # after Okabe and Ito
_SIDE_COLOURS = {"train": _BLUE, "validation": _SKY, "test": _ORANGE}
_MAX_ROWS = 20
_MAX_TALL_ROWS = 12
_MAX_PHONE_COLUMNS = 8
_MAX_BARS = 6
_MAX_DOTS = 400
_STYLE = {
    "text.parse_math": False,  # a class may be called $x$
    "font.size": 12,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "axes.edgecolor": _RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
# DejaVu comes with matplotlib; the others know more scripts, where they are installed.
_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans Devanagari", "Microsoft YaHei", "Hiragino Sans")
_TITLE_INCHES = 0.8
_PLACE_STEP = np.pi * 1e-6  # of a figure's width or height; no round number of points or inches lies between two steps


@dataclass(frozen=True)
class Drawing:
    """A figure in two shapes.

    Attributes:
        name: File name without suffix.
        title: Its heading.
        alt: What it shows, for those who cannot see it.
        slide: PNG, wide.
        phone: PNG, narrow.
    """

    name: str
    title: str
    alt: str
    slide: bytes
    phone: bytes


@dataclass(frozen=True)
class _Canvas:
    figure: Figure
    narrow: bool

    def plot(self, rows: int = 1, columns: int = 1) -> list[Axes]:
        """Axes side by side, or one below the other on a phone."""
        if self.narrow:
            rows, columns = rows * columns, 1
        axes: list[Axes] = list(self.figure.subplots(rows, columns, squeeze=False).ravel())
        return axes


@dataclass(frozen=True)
class _Scale:
    """How one number of every clip is drawn.

    Attributes:
        name: File name without suffix.
        title: Heading.
        unit: In words.
        factor: From the number as it is measured.
        suffix: Of each number.
        high: Right end of the scale; None means the highest number.
        mark: A value to show on the scale, and its name.
    """

    name: str
    title: str
    unit: str
    factor: float = 1.0
    suffix: str = ""
    high: float | None = None
    mark: tuple[float, str] | None = None


_SCALES = {
    "duration_seconds": _Scale(
        "durations", "Length of the clips", "seconds", mark=(default_clip_seconds(), "default clip")
    ),
    "brightness": _Scale("brightness", "Brightness", "mean grey level, 0 black to 255 white", high=255.0),
    "motion": _Scale(
        "motion", "Motion", f"share of the picture that changes within {MOTION_GAP_SECONDS:g} s", 100.0, "%"
    ),
}

_Draw = Callable[[_Canvas], None]


def draw_figures(statistics: Mapping[str, Any], clips: Sequence[ClipFacts]) -> list[Drawing]:
    """Draw every figure for which there is something to draw.

    Args:
        statistics: What `describe_clips` returns.
        clips: What `measure_clips` returns.
    """
    readable = [clip for clip in clips if not clip.problem]
    drawings = [_balance(statistics)]
    if statistics["balance"]["by_group"] and not statistics["recordings_unknown"]:
        drawings.append(_groups(statistics))
    if readable:
        drawings += [_spread(statistics, readable, key, scale) for key, scale in _SCALES.items()]
        drawings.append(_footage(statistics, readable))
    copies = statistics["copies"]
    if copies and copies["audited"] and any(copies["random_split"]["share_of_test"].values()):
        drawings.append(_leaks(copies))
    return drawings


def _balance(statistics: Mapping[str, Any]) -> Drawing:
    by_split, labels = statistics["balance"]["by_split"], statistics["labels"]
    totals = {label: sum(counts[label] for counts in by_split.values()) for label in labels}
    labels = sorted(labels, key=lambda label: -totals[label])

    def draw(canvas: _Canvas) -> None:
        (axes,) = canvas.plot()
        longest = max(1, *totals.values())
        lefts = np.zeros(len(labels))
        for number, (side, counts) in enumerate(by_split.items()):
            values = np.array([counts[label] for label in labels])
            colour = _side_colour(side, number)
            axes.barh(range(len(labels)), values, left=lefts, color=colour, height=0.62, edgecolor="white", label=side)
            lefts += values
        name_rows(axes, labels, narrow=canvas.narrow)
        axes.set_xlim(0, longest * (1.02 if canvas.narrow else 1.12))
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        style = {"ncols": len(by_split), "frameon": False, "handlelength": 1, "borderpad": 0}
        if canvas.narrow:
            beside_subtitle = (0.98, 1 - 0.5 / canvas.figure.get_figheight())
            canvas.figure.legend(
                loc="upper right", bbox_to_anchor=beside_subtitle, fontsize=9, columnspacing=1, **style
            )
        else:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), **style)
        columns = {"all": totals} if canvas.narrow else {**by_split, "all": totals}
        offset = 0
        for name, counts in columns.items():
            offset += max(36 if canvas.narrow else 56, 8 * len(name) + 14)
            ink, weight = (INK, "bold") if name == "all" else (MUTED, "normal")
            if not canvas.narrow:
                _beside(axes, -0.5, name, offset=offset, color=ink, fontsize=12, va="bottom")
            for row, label in enumerate(labels):
                text = str(counts[label])
                _beside(axes, row, text, offset=offset, color=ink, fontsize=13, weight=weight, va="center")

    told = ", ".join(f"{label} {totals[label]}" for label in labels)
    title = "Clips by class and split"
    return _drawing(
        "balance", title, f"{statistics['num_clips']} clips", f"Bars of clips a class: {told}.", draw, len(labels)
    )


def _groups(statistics: Mapping[str, Any]) -> Drawing:
    by_group, labels = statistics["balance"]["by_group"], statistics["labels"]
    names = sorted(by_group, key=lambda group: -sum(by_group[group].values()))
    shown = names[:_MAX_ROWS]
    counts = np.array([[by_group[group][label] for label in labels] for group in shown])

    def draw(canvas: _Canvas) -> None:
        (axes,) = canvas.plot()
        strength = np.sqrt(counts / max(1, counts.max()))[..., None]
        blue = np.array([0.0, 0x72, 0xB2]) / 255
        axes.imshow(1 - strength * (1 - blue), aspect="auto")
        for row, column in np.ndindex(counts.shape):
            value = int(counts[row, column])
            ink = "white" if strength[row, column, 0] > 0.8 else INK if value else MUTED
            axes.text(column, row, str(value), ha="center", va="center", color=ink, fontsize=13 if value else 11)
        name_rows(axes, shown, narrow=canvas.narrow)
        slanted = len(labels) > (5 if canvas.narrow else 9)
        width = 8 if canvas.narrow else 60 // len(labels)
        names_above = [shorten(label, 22) if slanted else _wrapped(label, width) for label in labels]
        axes.set_xticks(range(len(labels)), names_above, fontsize=9 if canvas.narrow else 11, color=INK)
        axes.xaxis.tick_top()
        if slanted:
            for text in axes.get_xticklabels():
                text.set(rotation=50, ha="left", rotation_mode="anchor")
        for edge in range(len(labels) + 1):
            axes.axvline(edge - 0.5, color="white", linewidth=2)
        for edge in range(len(shown) + 1):
            axes.axhline(edge - 0.5, color="white", linewidth=2)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.tick_params(length=0)

    rest = f", the {len(shown)} largest of {len(names)}" if len(names) > len(shown) else ""
    alt = (
        f"Table of clips by group and class; the largest group is {names[0]} with {sum(by_group[names[0]].values())}."
    )
    drawing = _drawing("groups", "Clips by group and class", f"{len(names)} groups{rest}", alt, draw, len(shown) + 1)
    return drawing if len(labels) <= _MAX_PHONE_COLUMNS else replace(drawing, phone=drawing.slide)


def _spread(statistics: Mapping[str, Any], clips: Sequence[ClipFacts], key: str, scale: _Scale) -> Drawing:
    """One dot a clip and a tick at the median, by class and by split."""
    rows = [("label", label, _BLUE) for label in statistics["labels"]]
    rows += [("split", side, _side_colour(side, number)) for number, side in enumerate(statistics["splits"])]
    values = [
        scale.factor
        * np.array([v for clip in clips if getattr(clip, kind) == name and (v := getattr(clip, key)) is not None])
        for kind, name, _ in rows
    ]
    # a gap sets the splits apart from the classes
    places = [number + (0.5 if kind == "split" else 0.0) for number, (kind, _, _) in enumerate(rows)]
    medians = [f"{np.median(numbers):.1f}{scale.suffix}" if len(numbers) else "–" for numbers in values]

    def draw(canvas: _Canvas) -> None:
        (axes,) = canvas.plot()
        rng = np.random.default_rng(0)
        for (_, _, colour), place, numbers, median in zip(rows, places, values, medians, strict=True):
            dots = rng.choice(numbers, _MAX_DOTS, replace=False) if len(numbers) > _MAX_DOTS else numbers
            strength = 0.45 if colour == _BLUE else 0.8
            jitter = rng.uniform(-0.26, 0.26, len(dots))
            axes.scatter(dots, place + jitter, s=16, color=colour, alpha=strength, linewidths=0)
            if len(numbers):
                axes.plot([np.median(numbers)] * 2, [place - 0.36, place + 0.36], color=INK, linewidth=3, zorder=3)
            _beside(axes, place, median, offset=58, va="center", weight="bold", fontsize=13)
        _beside(axes, -0.6, "median", offset=58, va="bottom", color=MUTED, fontsize=11)
        name_rows(axes, [name for _, name, _ in rows], places=places, narrow=canvas.narrow)
        axes.set_ylim(places[-1] + 0.6, -0.6)
        _scale_below(axes, scale, highest=max((numbers.max() for numbers in values if len(numbers)), default=1.0))
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4 if canvas.narrow else 9, steps=[1, 2, 5, 10]))

    told = "; ".join(f"{name} {median}" for (_, name, _), median in zip(rows, medians, strict=True))
    alt = f"Dots, one a clip, by class and split, in {scale.unit}. Medians: {told}."
    return _drawing(scale.name, scale.title, f"{scale.unit}, one dot a clip", alt, draw, len(rows))


def _scale_below(axes: Axes, scale: _Scale, *, highest: float) -> None:
    high = scale.high or highest * 1.04
    if scale.mark:
        seconds, words = scale.mark
        high = max(high, seconds * 1.1)
        axes.axvline(seconds, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2, zorder=0)
        axes.annotate(
            f"{words} {seconds:.1f} s", (seconds, 1), (0, 4), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="center", color=MUTED, fontsize=11,
        )  # fmt: skip
    axes.set_xlim(0, high or 1.0)  # where nothing moves
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}{scale.suffix}")
    axes.grid(axis="x", color=_RULE, linewidth=0.7, zorder=0)
    axes.set_axisbelow(True)


def _footage(statistics: Mapping[str, Any], clips: Sequence[ClipFacts]) -> Drawing:
    frames = [clip.num_frames for clip in clips if clip.num_frames is not None]
    rates = {name if name == "unknown" else f"{name} fps": count for name, count in statistics["rates"].items()}
    sizes = {name.replace("x", " × "): count for name, count in statistics["sizes"].items()}

    def draw(canvas: _Canvas) -> None:
        first, second, third = canvas.plot(1, 3)
        first.hist(frames or [0], bins=24, color=_BLUE, edgecolor="white", linewidth=0.6)
        first.set_title("clips by number of pictures", loc="left", fontsize=12, color=MUTED)
        first.yaxis.set_major_locator(mpl.ticker.MaxNLocator(4, integer=True))
        first.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
        first.tick_params(axis="y", colors=MUTED)
        for axes, title, tally in ((second, "by rate", rates), (third, "by size in px", sizes)):
            _bars(axes, _largest(tally), least_rows=2 if canvas.narrow else 5)
            axes.set_title(title, loc="left", fontsize=12, color=MUTED)

    alt = f"Three panels: pictures a clip; rates ({_told(rates)}); sizes ({_told(sizes)})."
    return _drawing("footage", "The footage", f"{len(clips)} clips that can be read", alt, draw, 6, phone_rows=14)


def _leaks(copies: Mapping[str, Any]) -> Drawing:
    """What a split by chance would have put on both sides, beside what this one does."""
    shares = copies["random_split"]["share_of_test"]
    rows = [
        ("an exact copy", shares["exact_leaked"], f"{copies['exact_on_several_sides']} sets"),
        ("a near copy", shares["near_leaked"], f"{copies['near_on_several_sides']} pairs"),
        ("its own group", shares["same_group"], f"{copies['groups_on_several_sides']} groups"),
    ]
    known = [(words, share * 100, here) for words, share, here in rows if share is not None]

    def draw(canvas: _Canvas) -> None:
        (axes,) = canvas.plot()
        places = range(len(known))
        axes.barh(places, [share for _, share, _ in known], color=_ORANGE, height=0.5)
        for place, (_, share, here) in enumerate(known):
            axes.text(share + 1.2, place, f"{share:.0f}%", va="center", weight="bold", fontsize=15)
            _beside(axes, place, here, offset=94, color=_BLUE, va="center", weight="bold", fontsize=13)
        _beside(axes, -0.5, "across sides here", offset=94, color=_BLUE, va="bottom", fontsize=10)
        axes.annotate(
            "random split",
            (0, 1),
            (0, 2),
            xycoords="axes fraction",
            textcoords="offset points",
            color=MUTED,
            fontsize=10,
        )
        name_rows(axes, [words for words, _, _ in known], narrow=canvas.narrow)
        axes.set_xlim(0, 155 if canvas.narrow else 120)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)

    alt = (
        "Share of test clips with a relative in training, had rows been drawn at random, and "
        "what lies across sides here: "
        + "; ".join(f"{words} {share:.0f} percent, {here}" for words, share, here in known)
    )
    subtitle = "test clips with a relative in training"
    return _drawing("leaks", "What a random split would leak", subtitle, alt + ".", draw, 3)


def _drawing(
    name: str, title: str, subtitle: str, alt: str, draw: _Draw, num_rows: int, *, phone_rows: int | None = None
) -> Drawing:
    slide = _render(draw, title, subtitle, width=10.0, height=max(5.625, 1.4 + 0.36 * num_rows), narrow=False)
    phone = _render(draw, title, subtitle, width=4.4, height=1.9 + 0.46 * (phone_rows or num_rows), narrow=True)
    return Drawing(name, title, printable(alt), slide, phone)


def _render(draw: _Draw, title: str, subtitle: str, *, width: float, height: float, narrow: bool) -> bytes:
    with mpl.rc_context(figure_style()):
        top = _TITLE_INCHES / height
        engine = ConstrainedLayoutEngine(rect=(0.015, 0.01, 0.97, 0.985 - top))
        figure = Figure(figsize=(width, height), dpi=200, layout=engine, facecolor="white")
        FigureCanvasAgg(figure)
        left, size = 0.2 / width, 14 if narrow else 18
        figure.text(left, 1 - 0.18 / height, title, fontsize=size, weight="bold", va="top")
        figure.text(
            left,
            1 - 0.52 / height,
            textwrap.fill(subtitle, 46 if narrow else 110),
            fontsize=10 if narrow else 12,
            color=MUTED,
            va="top",
        )
        draw(_Canvas(figure, narrow))
        settle_layout(figure)
        return png_bytes(figure)


def figure_style() -> dict[str, Any]:
    """Settings of matplotlib for every picture of the report."""
    installed = set(mpl.font_manager.get_font_names())
    return _STYLE | {"font.family": ["DejaVu Sans", *(name for name in _FONTS if name in installed)]}


def png_bytes(figure: Figure) -> bytes:
    """A figure as a PNG."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box stands for it
        figure.savefig(file, format="png", metadata={"Software": None})  # the same pixels, the same bytes
    return file.getvalue()


def settle_layout(figure: Figure) -> None:
    """Lay a figure out once and for all, its axes on round places.

    The solver of matplotlib's constrained layout sorts by memory address, so its last bits differ from call to call;
    in an SVG they turn digits, and the same content would not give the same file.
    """
    engine = figure.get_layout_engine()
    if engine is None:
        return
    engine.execute(figure)
    figure.set_layout_engine("none")
    for axes in figure.axes:
        corners = axes.get_position(original=True).get_points()
        axes.set_position(Bbox(np.round(corners / _PLACE_STEP) * _PLACE_STEP))


def name_rows(axes: Axes, names: Sequence[str], *, narrow: bool, places: Sequence[float] | None = None) -> None:
    """Names beside the rows, the first one on top, each over as many lines as its row is high."""
    width, size = (14, 11) if narrow else (26, 13)
    if len(names) > _MAX_TALL_ROWS:
        size = 10
    figure = axes.get_figure(root=True)
    inches = figure.get_figheight() - 1.4 if figure else 0.0  # without title and scale
    row_points = axes.get_position().height * inches * 72 / max(1, len(names))
    lines = min(3, int(row_points / (1.25 * size)))
    shown = [_fitted(name, width, lines) for name in names]
    axes.set_yticks(list(places or range(len(names))), shown, fontsize=size, color=INK)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _beside(axes: Axes, row: float, text: str, *, offset: float, **style: Any) -> None:
    """Text to the right of the axes, beside a row; its right edge is `offset` points off."""
    axes.annotate(
        text, (1, row), (offset, 0), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right",
        **style,
    )  # fmt: skip


def _bars(axes: Axes, tally: Mapping[str, int], *, least_rows: int) -> None:
    names, counts = list(tally), list(tally.values())
    axes.barh(range(len(names)), counts, color=_BLUE, height=0.55)
    longest = max(1, *counts)
    for row, count in enumerate(counts):
        axes.text(count + longest * 0.03, row, str(count), va="center", weight="bold", fontsize=12)
    name_rows(axes, names, narrow=True)
    axes.set_ylim(max(len(names), least_rows) - 0.5, -0.5)
    axes.set_xlim(0, longest * 1.25)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)


def _largest(tally: Mapping[str, int]) -> dict[str, int]:
    """The largest entries, the rest as one."""
    items = list(tally.items())
    if len(items) <= _MAX_BARS:
        return dict(items)
    rest = items[_MAX_BARS - 1 :]
    return dict(items[: _MAX_BARS - 1]) | {f"{len(rest)} others": sum(count for _, count in rest)}


def _told(tally: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in _largest(tally).items())


def _side_colour(side: str, number: int) -> str:
    return _SIDE_COLOURS.get(side) or (_GREEN, _BLUE, _SKY, _ORANGE)[number % 4]


def printable(name: str) -> str:
    """A name on one line: line ends and other marks that turn or break a line become a question mark."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)


def shorten(name: str, width: int) -> str:
    """A name with its middle left out where it is too long."""
    name = printable(name)
    if len(name) <= width:
        return name
    half = (width - 1) // 2
    return f"{name[:half]}…{name[len(name) - half :]}"


def _fitted(name: str, width: int, max_lines: int) -> str:
    """A name over a few lines; one that is too long keeps its two ends, which tell it from others."""
    if max_lines < 2:
        return shorten(name, width + 2)
    whole = _wrapped(name, width, max_lines)
    if not whole.endswith("…"):
        return whole
    short = shorten(name, width * max_lines)
    return "\n".join(short[start : start + width].strip() for start in range(0, len(short), width))


def _wrapped(name: str, width: int, max_lines: int = 3) -> str:
    """A name over a few lines of about one length, broken at spaces and underscores."""
    words = printable(name).replace("_", "_ ")

    def lines(width: int) -> list[str]:
        return [line.replace("_ ", "_") for line in textwrap.wrap(words, width, max_lines=max_lines, placeholder=" …")]

    wide = lines(width)
    longest_word = max(map(len, words.split()), default=1)
    for narrower in range(width, longest_word - 1, -1):
        tried = lines(narrower)
        if len(tried) > len(wide) or "…" in tried[-1]:
            break
        wide = tried
    return "\n".join(wide)
