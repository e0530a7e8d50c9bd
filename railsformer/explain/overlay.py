"""A map burnt into the video: the relevance of each moment over the pictures, a legend and the curve below."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.font_manager
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from railsformer.data.analysis.figures import figure_style, shorten
from railsformer.data.segment_frames import segment_frames
from railsformer.data.video import TOLERANCE_SECONDS, VideoDecodeError, find_video_stream, open_video, upright_rgb
from railsformer.explain.explanation import Explanation, MethodMap, track_of
from railsformer.explain.heat import paint, seen_mask
from railsformer.explain.pictures import clock
from railsformer.explain.seen import square_pixels
from railsformer.inference.encode_video import Picture, encode_mp4

__all__ = ["overlay_span", "write_overlay"]

# Footage before and after the clip; what lies further off was not looked at, and may be hours.
_MARGIN_SECONDS = 5.0
_LEAST_WIDTH_PX, _MOST_SHORT_SIDE_PX = 640, 1080
_CRF = 20
_PAPER, _WHITE, _PALE, _TRACK, _LINE = "#1b2733", "#ffffff", "#c3ccd4", "#3d4b58", "#f5b83d"
_DPI = 100


def overlay_span(explanation: Explanation) -> tuple[float, float]:
    """From when to when the video is shown: the clip and a little around it."""
    clip = explanation.clip
    start = max(0.0, float(clip.times_seconds.min()) - _MARGIN_SECONDS)
    end = min(clip.duration_seconds, float(clip.times_seconds.max()) + _MARGIN_SECONDS)
    return (0.0 if start < 1 else start), (clip.duration_seconds if clip.duration_seconds - end < 1 else end)


def write_overlay(
    explanation: Explanation,
    each: MethodMap,
    target: str | Path,
    *,
    on_progress: Callable[[float], None] | None = None,
) -> Path:
    """Write the clip's footage with a map over it, interpolated in time between the clip's instants.

    Pictures keep their times, counted from `overlay_span`'s start; there is no sound. What the model did not see, in
    place or in time, is dim.

    Args:
        explanation: Of the clip.
        each: Which of its maps.
        target: An `.mp4`, which appears whole or not at all.
        on_progress: Told the seconds encoded so far.

    Raises:
        VideoDecodeError: If the video cannot be decoded.
        DiskFullError: If there is no room.
    """
    video = explanation.clip.video
    with open_video(video) as container:
        stream = find_video_stream(container, video)
        rate = Fraction(stream.guessed_rate or stream.average_rate or 25)
    return encode_mp4(_pictures(explanation, each), target, rate=rate, crf=_CRF, on_progress=on_progress)


def _pictures(explanation: Explanation, each: MethodMap) -> Iterator[Picture]:
    """The painted pictures; one that is on screen at the start stands at 0."""
    start, end = overlay_span(explanation)
    painter: _Painter | None = None
    waiting: tuple[float, float, np.ndarray] | None = None
    video = explanation.clip.video
    for part in segment_frames(video, start_seconds=start, end_seconds=end, salvage=True):
        at = part.at_seconds
        if waiting is not None and at > TOLERANCE_SECONDS:
            begin = max(waiting[0], 0.0)
            yield begin, at - begin, painter.paint(waiting[2], start + waiting[0])  # type: ignore[union-attr]
        picture = square_pixels(
            upright_rgb(part.frame),
            part.aspect or Fraction(1),
            most_px=_MOST_SHORT_SIDE_PX,
            least_width_px=_LEAST_WIDTH_PX,
            even=True,
        )
        painter = painter or _Painter(explanation, each, picture.shape[1], picture.shape[0])
        waiting = (at, part.stays_seconds, picture)
    if waiting is None or painter is None or waiting[0] + waiting[1] <= 0:
        raise VideoDecodeError(video, f"has no picture from {start:g} s on; correct the times", "no_pictures")
    begin = max(waiting[0], 0.0)
    last = max(min(waiting[0] + waiting[1], end - start), begin + TOLERANCE_SECONDS)
    yield begin, last - begin, painter.paint(waiting[2], start + waiting[0])


class _Painter:
    """Paints pictures of one size: the map, and the panel below with the moving clock.

    Args:
        explanation: Of the clip.
        each: Which of its maps.
        width: Of the pictures in px.
        height: Likewise.
    """

    def __init__(self, explanation: Explanation, each: MethodMap, width: int, height: int) -> None:
        clip = explanation.clip
        self._track, self._scale = track_of(explanation, each), each.scale
        self._box = clip.box.of_size(width, height, was=clip.size)
        self._seen = seen_mask(height, width, self._box, clip.region)
        self._panel = _draw_panel(explanation, each, max(width, _LEAST_WIDTH_PX))
        beside = max(0, _LEAST_WIDTH_PX - width)  # of a strip that cannot be made as wide as letters need
        self._beside = ((0, 0), (beside // 2, beside - beside // 2), (0, 0))
        self._edge = max(1, round(min(width, height) / 400))

    def paint(self, picture: np.ndarray, seconds: float) -> np.ndarray:
        """A picture with the map of its instant and the panel."""
        relevance = self._track.at(seconds)
        painted = paint(picture, relevance, self._box, self._scale, self._seen)
        if relevance is not None:
            self._draw_outline(painted)
        painted = np.pad(painted, self._beside)
        return np.concatenate([painted, self._panel.at(seconds, looked_at=relevance is not None)])

    def _draw_outline(self, picture: np.ndarray) -> None:
        height, width = picture.shape[:2]
        box = self._box
        if box.left < 1 and box.top < 1 and box.right > width - 1 and box.bottom > height - 1:
            return
        top, left, bottom, right = (round(side) for side in (box.top, box.left, box.bottom, box.right))
        edge = self._edge
        for rows, columns in (
            (slice(top, top + edge), slice(left, right)),
            (slice(bottom - edge, bottom), slice(left, right)),
            (slice(top, bottom), slice(left, left + edge)),
            (slice(top, bottom), slice(right - edge, right)),
        ):
            picture[rows, columns] = 170


@dataclass(frozen=True)
class _Panel:
    """What stands below the pictures.

    Attributes:
        still: All that does not change, uint8, shape (height, width, 3).
        curve: Left, top, right and bottom edge of the curve in px.
        span: Seconds at its left and right edge.
        letter_px: Height of the letters.
        clock_at: Where the clock's text ends, to the right, and its middle.
        end_seconds: Of the video, for the clock.
    """

    still: np.ndarray
    curve: tuple[float, float, float, float]
    span: tuple[float, float]
    letter_px: float
    clock_at: tuple[float, float]
    end_seconds: float

    def at(self, seconds: float, *, looked_at: bool) -> np.ndarray:
        """The panel of an instant."""
        image = Image.fromarray(self.still)
        draw = ImageDraw.Draw(image)
        left, top, right, bottom = self.curve
        share = (seconds - self.span[0]) / max(self.span[1] - self.span[0], 1e-9)
        x = left + min(max(share, 0.0), 1.0) * (right - left)
        wide = max(2, round(self.letter_px / 7))
        draw.line((x, top, x, bottom), fill=_WHITE, width=wide)
        told = clock(seconds) if looked_at else f"not looked at   {clock(seconds)}"
        font = _clock_font(round(self.letter_px * 1.1))
        draw.text(self.clock_at, told, font=font, fill=_WHITE if looked_at else _LINE, anchor="rm")
        return np.asarray(image)


def _clock_font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(mpl.font_manager.findfont("DejaVu Sans"), size)


def _draw_panel(explanation: Explanation, each: MethodMap, width: int) -> _Panel:
    """Headline and clock, scale, how far to trust the map, curve: four rows."""
    size = min(max(width / 46, 13.0), 34.0)
    height = round(size * 10.8 / 2) * 2
    margin = size
    points = size * 72 / _DPI
    span = overlay_span(explanation)
    rows = {"head": 1.2 * size, "scale": 3.0 * size, "trust": 4.6 * size, "top": 5.9 * size}
    rows["bottom"] = height - 1.6 * size
    with mpl.rc_context(figure_style()):
        figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor=_PAPER)
        canvas = FigureCanvasAgg(figure)

        def put(x: float, y: float, text: str, *, scale: float = 1.0, colour: str = _PALE, **style: Any) -> None:
            figure.text(x / width, 1 - y / height, text, fontsize=points * scale, color=colour, va="center", **style)

        room = max(8, int((width - 2 * margin - 12 * size) / (0.68 * size)))
        score = f"   {100 * explanation.scores[explanation.target]:.0f} %"
        put(
            margin,
            rows["head"],
            shorten(explanation.target, room - 7) + score,
            scale=1.1,
            colour=_WHITE,
            weight="bold",
        )
        words, low, high = each.scale_words
        long = 7 * size
        begin = width - margin - 0.62 * size * len(high) - 0.4 * size - long
        put(width - margin, rows["scale"], high, scale=0.85, ha="right")
        put(begin - 0.4 * size, rows["scale"], low, scale=0.85, ha="right")
        letters = max(10, int((begin - 0.4 * size - 0.55 * size * len(low) - margin) / (0.53 * size)) - 2)
        put(margin, rows["scale"], shorten(f"{each.title}: {words}", letters), scale=0.85)
        judged, is_warning = each.judgement
        letters = max(10, int((width - 2 * margin) / (0.53 * size)))
        put(margin, rows["trust"], shorten(judged, letters), scale=0.85, colour=_LINE if is_warning else _PALE)
        _draw_track(figure, explanation, each, span, (margin, rows["top"], width - margin, rows["bottom"]), points)
        canvas.draw()
        still = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    still = still[:height, :width]
    bar = each.scale.bar(round(long), round(0.7 * size))
    y, x = round(rows["scale"] - 0.35 * size), round(begin)
    still[y : y + bar.shape[0], x : x + bar.shape[1]] = bar
    curve = (margin, rows["top"], width - margin, rows["bottom"])
    clock_at = (width - margin, rows["head"])
    return _Panel(still, curve, span, size, clock_at, explanation.clip.duration_seconds)


def _draw_track(
    figure: Figure,
    explanation: Explanation,
    each: MethodMap,
    span: tuple[float, float],
    box: tuple[float, float, float, float],
    points: float,
) -> None:
    """The curve over the whole of what is shown, and its seconds."""
    width, height = figure.get_figwidth() * _DPI, figure.get_figheight() * _DPI
    left, top, right, bottom = box
    axes = figure.add_axes((left / width, 1 - bottom / height, (right - left) / width, (bottom - top) / height))
    axes.set_facecolor(_TRACK)
    track = track_of(explanation, each)
    seen = track.span_seconds
    axes.axvspan(max(seen[0], span[0]), min(seen[1], span[1]), color="#2a3844", lw=0)
    shares = track.maps.mean(axis=(1, 2))
    low, high = min(float(shares.min()), 0.0), max(float(shares.max()), 1e-9)
    axes.fill_between(track.times_seconds, 0.0, shares, color=_LINE, alpha=0.35, lw=0)
    axes.plot(track.times_seconds, shares, color=_LINE, lw=points / 6)
    if low < 0:
        axes.axhline(0.0, color=_PALE, lw=0.8)
    axes.set_xlim(*span)
    axes.set_ylim(low * 1.1, high * 1.15)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_yticks([])
    axes.tick_params(axis="x", labelsize=points * 0.75, labelcolor=_PALE, length=0, pad=points * 0.3)
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(6, prune="both"))
    axes.xaxis.set_major_formatter(lambda seconds, _: f"{seconds:g} s")
