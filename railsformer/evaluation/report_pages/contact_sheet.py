"""The most confident mistakes as pictures."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from railsformer.data.analysis.figures import INK, MUTED, figure_style, png_bytes, shorten
from railsformer.evaluation.report_pages.canvas import RED
from railsformer.evaluation.report_pages.words import clock, percent

__all__ = ["Frames", "Strip", "draw_contact_sheet", "jpeg_bytes", "make_strips", "verdict", "when"]

_THUMBNAIL_PX = (216, 162)  # each picture is fitted into this
_PAPER = "#eef1f4"


@dataclass(frozen=True)
class Frames:
    """Pictures of one video.

    Attributes:
        times_seconds: When they are on screen, shape (n,); four do well.
        pictures: uint8 RGB, shape (n, height, width, 3).
    """

    times_seconds: Sequence[float] | np.ndarray
    pictures: Sequence[np.ndarray] | np.ndarray


@dataclass(frozen=True)
class Strip:
    """One mistake with its pictures side by side.

    Attributes:
        mistake: Entry of `mistakes` of metrics.json.
        times_seconds: When its pictures are on screen.
        picture: They side by side, uint8, shape (height, width, 3); None where they cannot be read.
    """

    mistake: Mapping[str, Any]
    times_seconds: tuple[float, ...]
    picture: np.ndarray | None


def make_strips(mistakes: Sequence[Mapping[str, Any]], frames: Sequence[Frames | None]) -> list[Strip]:
    """Put the pictures of each mistake side by side.

    Args:
        mistakes: `mistakes` of metrics.json.
        frames: One a mistake, or none at all.

    Raises:
        ValueError: If there are frames, but not one a mistake.
    """
    if not frames:
        return [Strip(mistake, (), None) for mistake in mistakes]
    if len(frames) != len(mistakes):
        raise ValueError(
            f"mistakes_frames must hold one entry a mistake ({len(mistakes)}) or none at all, got {len(frames)}"
        )
    return [
        Strip(mistake, tuple(map(float, of.times_seconds)), _side_by_side(of.pictures))
        if of is not None and len(of.pictures)
        else Strip(mistake, (), None)
        for mistake, of in zip(mistakes, frames, strict=True)
    ]


def verdict(mistake: Mapping[str, Any]) -> str:
    """What was said and what was true, in one line."""
    return (
        f"named {mistake['prediction']} ({percent(mistake['score'])}), "
        f"is {mistake['label']} ({percent(mistake['label_score'])})"
    )


def when(mistake: Mapping[str, Any]) -> str:
    """The part of the file that was shown."""
    start, end = mistake["start_seconds"], mistake["end_seconds"]
    if start is not None and end is not None:
        return f"{clock(start)} to {clock(end)}"
    seconds = mistake["duration_seconds"]
    return "whole file" if seconds is None else f"whole file, {clock(seconds)}"


def draw_contact_sheet(strips: Sequence[Strip]) -> bytes:
    """Draw the strips as a PNG, two a row, with times, scores and file names.

    Args:
        strips: At least one.
    """
    rows = -(-len(strips) // 2)
    width, margin, gutter, caption = 10.0, 0.25, 0.3, 0.66
    strip_width = (width - 2 * margin - gutter) / 2
    pictures = [strip.picture for strip in strips if strip.picture is not None]
    high, long = max((picture.shape[:2] for picture in pictures), key=lambda shape: shape[0] / shape[1])
    strip_height = strip_width * high / long
    height = 0.8 + rows * (strip_height + caption)
    with mpl.rc_context(figure_style()):
        figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        figure.text(margin / width, 1 - 0.2 / height, "Surest mistakes", fontsize=17, weight="bold", va="top")
        for number, strip in enumerate(strips):
            row, column = divmod(number, 2)
            left = margin + column * (strip_width + gutter)
            top = height - 0.7 - row * (strip_height + caption)
            box = (left / width, (top - strip_height) / height, strip_width / width, strip_height / height)
            _draw_strip(figure, strip, box, inch=(1 / width, 1 / height))
        return png_bytes(figure)


def jpeg_bytes(picture: np.ndarray) -> bytes:
    """A picture as a JPEG."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="jpeg", quality=82)
    return file.getvalue()


def _draw_strip(
    figure: Figure, strip: Strip, box: tuple[float, float, float, float], *, inch: tuple[float, float]
) -> None:
    left, bottom, wide, _ = box
    axes = figure.add_axes(box)
    axes.set_axis_off()
    if strip.picture is None:
        axes.set_facecolor(_PAPER)
        axes.text(0.5, 0.5, "cannot be read any more", ha="center", va="center", color=MUTED, fontsize=10)
    else:
        axes.imshow(strip.picture, interpolation="lanczos", aspect="auto")
    count = len(strip.times_seconds)
    for place, seconds in enumerate(strip.times_seconds):
        x, y = left + (place + 0.5) / count * wide, bottom - 0.04 * inch[1]
        figure.text(x, y, clock(seconds), fontsize=8, color=INK, va="top", ha="center")
    mistake = strip.mistake
    short = {**mistake, "prediction": shorten(mistake["prediction"], 26), "label": shorten(mistake["label"], 26)}
    y = bottom - 0.19 * inch[1]
    figure.text(left, y, verdict(short), fontsize=8.5, color=RED, weight="bold", va="top")
    words = [shorten(mistake["video"], 34), when(mistake), shorten(mistake["group"] or "", 20)]
    line = " · ".join(word for word in words if word)
    figure.text(left, y - 0.16 * inch[1], line, fontsize=7.5, color=MUTED, va="top")


def _side_by_side(pictures: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Fit pictures into equal boxes side by side, with a hair of white between them."""
    width, height = _THUMBNAIL_PX
    gap = 4
    strip = Image.new("RGB", (len(pictures) * (width + gap) - gap, height), "white")
    for number, picture in enumerate(pictures):
        box = Image.new("RGB", _THUMBNAIL_PX, _PAPER)
        image = Image.fromarray(np.asarray(picture))
        scale = min(width / image.width, height / image.height)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
        box.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        strip.paste(box, (number * (width + gap), 0))
    return np.asarray(strip)
