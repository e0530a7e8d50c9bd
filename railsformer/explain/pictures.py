"""Maps on paper: a contact sheet for a report, and the curve of relevance over time."""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import matplotlib.patches
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from railsformer.data.analysis.figures import INK, MUTED, figure_style, png_bytes, shorten
from railsformer.explain.explanation import Explanation, MethodMap
from railsformer.explain.heat import paint, seen_mask
from railsformer.explain.seen import Box

__all__ = ["clock", "draw_contact_sheet", "draw_curve", "shown_frames"]

_WIDTH, _MARGIN, _GUTTER, _GAP = 13.0, 0.45, 0.34, 0.1
_DPI = 120
_MOST_FRAMES = 12
_MOST_HIGH = 1.8  # inches of a frame, unless fewer frames leave room
_HIGHEST = 3.4
_CURVE_HIGH = 1.35
_BLUE, _ORANGE, _RULE, _TRACK = "#0069a3", "#b84f00", "#cfd6dc", "#e8ecef"
_LINE_LETTERS = 150

_Draw = Callable[[Figure, float], None]


@dataclass(frozen=True)
class _Block:
    """A part of the page.

    Attributes:
        inches: Its height.
        draw: Draws it on the figure, given its top edge in inches from the page's bottom.
    """

    inches: float
    draw: _Draw


def clock(seconds: float) -> str:
    """A time in a video, to a hundredth of a second."""
    minutes, rest = divmod(round(max(seconds, 0.0) * 100), 6000)
    told = f"{minutes % 60:02d}:{rest / 100:05.2f}"
    return f"{minutes // 60}:{told}" if minutes >= 60 else told


def shown_frames(explanation: Explanation, most: int = _MOST_FRAMES) -> list[int]:
    """Which frames a page has room for: all, or some spread over the clip with the most relevant one among them."""
    count = len(explanation.clip.times_seconds)
    if count <= most:
        return list(range(count))
    places = np.linspace(0, count - 1, most).round().astype(int)
    peak = int(explanation.maps[0].frame_shares.argmax())
    places[int(np.abs(places - peak).argmin())] = peak
    return sorted(set(places.tolist()))


def draw_contact_sheet(explanation: Explanation) -> bytes:
    """Frames above, maps below, with times, scores, scale, curve and what is known of their trust; a PNG."""
    with mpl.rc_context(figure_style()):
        blocks = [
            *_header(explanation),
            *_frame_blocks(explanation),
            *_scales(explanation),
            *_curves(explanation),
            *_words(explanation),
        ]
        height = sum(block.inches for block in blocks) + 2 * _MARGIN
        figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")
        FigureCanvasAgg(figure)
        top = height - _MARGIN
        for block in blocks:
            block.draw(figure, top)
            top -= block.inches
        return png_bytes(figure)


def draw_curve(explanation: Explanation) -> bytes:
    """Relevance of each frame over time, one strip a method, as a PNG."""
    with mpl.rc_context(figure_style()):
        title = f"Relevance over time: {shorten(explanation.headline, 60)}"
        blocks = [_line(title, size=15, weight="bold", inches=0.5)]
        for each in explanation.maps:
            judged, is_warning = each.judgement
            told = f"{each.title.capitalize()}: {judged}"
            blocks.append(_line(told, size=11, colour=_ORANGE if is_warning else INK, inches=0.26))
        blocks += [_Block(0.1, lambda figure, top: None), *_curves(explanation)]
        height = sum(block.inches for block in blocks) + 2 * _MARGIN
        figure = Figure(figsize=(10.0, height), dpi=_DPI, facecolor="white")
        FigureCanvasAgg(figure)
        top = height - _MARGIN
        for block in blocks:
            block.draw(figure, top)
            top -= block.inches
        return png_bytes(figure)


def _header(explanation: Explanation) -> Iterator[_Block]:
    clip = explanation.clip
    bars = list(explanation.scores.items())[:4]
    if explanation.target not in dict(bars):
        bars[-1] = (explanation.target, explanation.scores[explanation.target])
    used = f"{clock(clip.times_seconds.min())} to {clock(clip.times_seconds.max())}"
    facts = [f"{len(clip.times_seconds)} frames, {used} of {clock(clip.duration_seconds)}"]
    if explanation.event is not None:
        event = explanation.event
        span = f"{clock(event.start_seconds)} to {clock(event.end_seconds)}"
        facts.append(f"event {explanation.event_number}, {span}, score {100 * event.score:.0f} %")
        if event.start_time:
            facts[-1] += f", {event.start_time}"
    lines = [shorten(clip.video.name, 80), " · ".join(facts), f"model {shorten(explanation.model, 80)}"]

    def draw(figure: Figure, top: float) -> None:
        left = _MARGIN / _WIDTH
        high = figure.get_figheight()
        size = 23 if len(explanation.target) <= 26 else 16
        told = f"{shorten(explanation.target, 44)}   {100 * explanation.scores[explanation.target]:.0f} %"
        figure.text(left, (top - 0.02) / high, told, fontsize=size, weight="bold", va="top")
        for place, line in enumerate(lines):
            y = (top - 0.5 - 0.23 * place) / high
            figure.text(left, y, line, fontsize=11, color=MUTED, va="top")
        for place, (label, score) in enumerate(bars):
            _score_bar(figure, explanation, label, score, y=top - 0.16 - 0.27 * place)

    yield _Block(1.3, draw)
    for caution in explanation.cautions:
        for line in textwrap.wrap(caution, _LINE_LETTERS - 20):
            yield _line(line, size=11.5, colour=_ORANGE, weight="bold", inches=0.27)


def _score_bar(figure: Figure, explanation: Explanation, label: str, score: float, *, y: float) -> None:
    high = figure.get_figheight()
    begin, long, thick = 10.15, 1.75, 0.13
    chosen = label == explanation.target
    colour = INK if chosen else MUTED
    weight = "bold" if chosen else "normal"
    name = shorten(label, 26)
    figure.text(
        (begin - 0.12) / _WIDTH, y / high, name, fontsize=10, color=colour, weight=weight, ha="right", va="center"
    )
    for width, fill in ((long, _TRACK), (long * score, _BLUE if chosen else "#9aa7b1")):
        corner = begin / _WIDTH, (y - thick / 2) / high
        bar = mpl.patches.Rectangle(
            corner, width / _WIDTH, thick / high, transform=figure.transFigure, color=fill, lw=0
        )
        figure.add_artist(bar)
    told = f"{100 * score:.0f} %"
    figure.text(
        (_WIDTH - _MARGIN) / _WIDTH, y / high, told, fontsize=10, color=colour, weight=weight, ha="right", va="center"
    )


def _frame_blocks(explanation: Explanation) -> Iterator[_Block]:
    clip = explanation.clip
    frames = shown_frames(explanation)
    high, wide = clip.pictures.shape[1:3]
    columns, width, height = _grid(len(frames), wide / high)
    for first in range(0, len(frames), columns):
        few = frames[first : first + columns]
        yield _picture_row(explanation, few, None, width, height)
        for each in explanation.maps:
            yield _picture_row(explanation, few, each, width, height)
        yield _Block(0.12, lambda figure, top: None)
    if len(frames) < len(clip.times_seconds):
        told = f"{len(frames)} of the clip's {len(clip.times_seconds)} frames are shown; the curve below has all."
        yield _line(told, size=10, colour=MUTED, inches=0.26)


def _grid(count: int, aspect: float) -> tuple[int, float, float]:
    """Columns, and width and height of a frame in inches."""
    room = _WIDTH - 2 * _MARGIN - _GUTTER

    def wide(columns: int) -> float:
        return (room - (columns - 1) * _GAP) / columns

    columns = next((each for each in range(1, count + 1) if wide(each) / aspect <= _MOST_HIGH), count)
    columns = -(-count // -(-count // columns))  # rows of about one length
    width = min(wide(columns), _HIGHEST * aspect)
    return columns, width, width / aspect


def _picture_row(
    explanation: Explanation, frames: Sequence[int], each: MethodMap | None, width: float, height: float
) -> _Block:
    clip = explanation.clip
    high, wide = clip.pictures.shape[1:3]
    box = clip.box.of_size(wide, high, was=clip.size)
    shares = None if each is None else each.frame_shares
    caption = 0.24

    def draw(figure: Figure, top: float) -> None:
        page = figure.get_figheight()
        seen = seen_mask(high, wide, box, clip.region)
        name = "picture" if each is None else "\n".join(textwrap.wrap(each.title, 20, break_on_hyphens=False))
        x, y = (_MARGIN + 0.16) / _WIDTH, (top - height / 2) / page
        figure.text(x, y, name, fontsize=9, color=MUTED, rotation=90, ha="center", va="center", linespacing=1.2)
        for place, frame in enumerate(frames):
            left = _MARGIN + _GUTTER + place * (width + _GAP)
            axes = figure.add_axes((left / _WIDTH, (top - height) / page, width / _WIDTH, height / page))
            picture = clip.pictures[frame]
            if each is not None:
                picture = paint(picture, each.relevance[frame], box, each.scale, seen)
            axes.imshow(picture, interpolation="lanczos", aspect="auto")
            axes.set_axis_off()
            _outline(axes, box, (wide, high))
            under = (top - height - 0.05) / page
            if each is None:
                told = clock(clip.times_seconds[frame])
                figure.text(left / _WIDTH, under, told, fontsize=9.5, color=INK, va="top")
            elif shares is not None:
                _share(figure, each, frame, left=left, right=left + width, y=under)

    return _Block(height + caption, draw)


def _share(figure: Figure, each: MethodMap, frame: int, *, left: float, right: float, y: float) -> None:
    """The frame's relevance under its map, strong where the curve has its peak."""
    shares = each.frame_shares
    peak = frame == each.peak_frame
    told = f"{shares[frame]:+.2g}" if each.scale.signed else f"{100 * shares[frame]:.0f} %"
    style: dict[str, Any] = {"color": INK, "weight": "bold"} if peak else {"color": MUTED}
    figure.text(left / _WIDTH, y, told + ("  peak" if peak else ""), fontsize=9.5, va="top", **style)


def _outline(axes: Axes, box: Box, size: tuple[int, int]) -> None:
    """Where the crop lies, unless it is the whole picture."""
    if box.left < 1 and box.top < 1 and box.right > size[0] - 1 and box.bottom > size[1] - 1:
        return
    corner = box.left - 0.5, box.top - 0.5
    outline = mpl.patches.Rectangle(
        corner, box.right - box.left, box.bottom - box.top, fill=False, ec="white", lw=1.0, ls=(0, (4, 3)), alpha=0.7
    )
    axes.add_patch(outline)


def _scales(explanation: Explanation) -> Iterator[_Block]:
    for each in explanation.maps:
        yield _Block(0.5, lambda figure, top, each=each: _scale_bar(figure, each, top))  # type: ignore[misc]


def _scale_bar(figure: Figure, each: MethodMap, top: float) -> None:
    page = figure.get_figheight()
    words, low, high = each.scale_words
    left, long, thick = _MARGIN + _GUTTER + 3.0, 2.6, 0.14
    y = top - 0.22
    figure.text((_MARGIN + _GUTTER) / _WIDTH, y / page, each.title, fontsize=10, weight="bold", va="center")
    figure.text((left - 0.1) / _WIDTH, y / page, low, fontsize=9.5, color=INK, ha="right", va="center")
    axes = figure.add_axes((left / _WIDTH, (y - thick / 2) / page, long / _WIDTH, thick / page))
    axes.imshow(each.scale.bar(256, 2), aspect="auto")
    axes.set_axis_off()
    told = f"{high}   {words}"
    figure.text((left + long + 0.1) / _WIDTH, y / page, told, fontsize=9.5, color=INK, va="center")


def _curves(explanation: Explanation) -> Iterator[_Block]:
    last = len(explanation.maps) - 1
    for place, each in enumerate(explanation.maps):
        tall = _CURVE_HIGH + (0.55 if place == last else 0.3)

        def draw(figure: Figure, top: float, each: MethodMap = each, is_last: bool = place == last) -> None:
            width, page = figure.get_figwidth(), figure.get_figheight()
            left = _MARGIN + _GUTTER + 0.35
            box = (left / width, (top - 0.22 - _CURVE_HIGH + 0.3) / page, (width - left - _MARGIN) / width)
            axes = figure.add_axes((*box, (_CURVE_HIGH - 0.3) / page))
            draw_curve_on(axes, explanation, each, with_axis=is_last)

        yield _Block(tall, draw)


def draw_curve_on(axes: Axes, explanation: Explanation, each: MethodMap, *, with_axis: bool = True) -> None:
    """One method's relevance of each frame over time."""
    clip = explanation.clip
    signed = each.scale.signed
    values = each.frame_shares * (1 if signed else 100)
    order = np.argsort(clip.times_seconds, kind="stable")
    times = clip.times_seconds[order]
    even = 0.0 if signed else 100 / len(values)
    axes.axhline(even, color=MUTED, lw=0.9, ls=(0, (2, 2)))
    axes.fill_between(times, even if signed else 0.0, values[order], color=_BLUE, alpha=0.14, lw=0)
    dots: dict[str, Any] = {"marker": "o", "ms": 4} if len(values) <= 32 else {}
    axes.plot(times, values[order], color=_BLUE, lw=1.8, **dots)
    if explanation.event is not None:
        axes.axvspan(explanation.event.start_seconds, explanation.event.end_seconds, color=_ORANGE, alpha=0.1, lw=0)
    margin = max(float(np.ptp(times)) * 0.02, 0.02)
    axes.set_xlim(times[0] - margin, times[-1] + margin)
    low, high = min(float(values.min()), even), max(float(values.max()), even * 1.2)
    free = max(high - low, 1e-9) * 0.12
    axes.set_ylim(low - free if signed else 0.0, high + free)
    axes.locator_params(axis="y", nbins=3)
    axes.tick_params(labelsize=9, length=3, labelbottom=with_axis)
    axes.xaxis.set_major_formatter(lambda seconds, _: f"{seconds:g}")
    even_words = "" if signed else f"; dotted: all frames alike, {even:.3g} %"
    what = "mean fall of the log-odds" if signed else "share of the relevance, %"
    axes.set_title(f"{each.title}: {what}{even_words}", loc="left", fontsize=9.5, color=MUTED, pad=4)
    if with_axis:
        axes.set_xlabel("seconds in the video", fontsize=9.5)


def _words(explanation: Explanation) -> Iterator[_Block]:
    """What the maps are, and how far they can be trusted."""
    if any(each.trust is not None for each in explanation.maps):
        yield _line("How far these maps can be trusted", size=13, weight="bold", inches=0.36)
    for each in explanation.maps:
        if each.trust is None:
            continue
        yield _line(f"{each.title.capitalize()}, {each.meaning}", size=10.5, weight="bold", inches=0.25)
        for sentence in each.trust.lines():
            for line in textwrap.wrap(sentence, _LINE_LETTERS):
                yield _line(line, size=10.5, inches=0.22)
        yield _Block(0.1, lambda figure, top: None)
    if all(each.trust is None for each in explanation.maps):
        yield _line("How far these maps can be trusted was not measured (--no_trust).", size=10.5, inches=0.26)
    told = "At best maps show what the score hung on: not what happened on the track, nor whether the score is right."
    yield _line(told, size=10, colour=MUTED, inches=0.26)


def _line(text: str, *, size: float, inches: float, colour: str = INK, weight: str = "normal") -> _Block:
    def draw(figure: Figure, top: float) -> None:
        x, y = _MARGIN / figure.get_figwidth(), (top - 0.02) / figure.get_figheight()
        figure.text(x, y, text, fontsize=size, color=colour, weight=weight, va="top")

    return _Block(inches, draw)
