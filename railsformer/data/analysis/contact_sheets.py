"""Contact sheets: a few pictures of random clips of each class."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

from railsformer.data.analysis.figures import INK, MUTED, figure_style, png_bytes, shorten
from railsformer.data.analysis.measure import ClipFacts, picture_times, read_pictures
from railsformer.data.clips import VideoDataset
from railsformer.data.probe import available_cores
from railsformer.data.video import VideoDecodeError

__all__ = ["Sheet", "Strip", "draw_sheet", "read_sheets"]

_THUMBNAIL_PX = (216, 162)  # each picture is fitted into this
_PAPER = "#eef1f4"


@dataclass(frozen=True)
class Strip:
    """A few pictures of one clip.

    Attributes:
        clip: The clip.
        times_seconds: When they are on screen.
        picture: They side by side, uint8, shape (height, width, 3).
    """

    clip: ClipFacts
    times_seconds: tuple[float, ...]
    picture: np.ndarray


@dataclass(frozen=True)
class Sheet:
    """Random clips of one class.

    Attributes:
        label: The class.
        num_clips: How many of its clips can be read.
        file_name: Of its PNG.
        strips: The clips drawn, never none.
    """

    label: str
    num_clips: int
    file_name: str
    strips: Sequence[Strip]


def read_sheets(
    dataset: VideoDataset,
    clips: Sequence[ClipFacts],
    *,
    num_thumbnails: int,
    seed: int,
    num_workers: int | None,
    progress: bool,
) -> list[Sheet]:
    """Read a few pictures of random clips of each class, a function of the seed and the dataset.

    Args:
        dataset: Its rows.
        clips: What `measure_clips` returns.
        num_thumbnails: Clips a class.
        seed: Draws them.
        num_workers: Threads; None means one for each core.
        progress: Whether to draw a bar on stderr.
    """
    chosen: list[tuple[int, ClipFacts]] = []
    totals = []
    for number, label in enumerate(dataset.labels):
        readable = [clip for clip in clips if clip.label == label and not clip.problem]
        order = np.random.default_rng([seed, number]).permutation(len(readable))
        chosen += [(number, readable[index]) for index in order[:num_thumbnails]]
        totals.append(len(readable))
    executor = ThreadPoolExecutor(num_workers or available_cores())
    try:
        read = executor.map(partial(_read_strip, dataset=dataset), [clip for _, clip in chosen])
        strips = list(tqdm(read, total=len(chosen), desc="contact sheets", unit="clip", disable=not progress))
    finally:
        executor.shutdown(cancel_futures=True)
    sheets = []
    for number, label in enumerate(dataset.labels):
        own = [strip for (of, _), strip in zip(chosen, strips, strict=True) if of == number and strip]
        slug = re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")[:40]
        name = f"clips_{number:02d}{'_' if slug else ''}{slug}.png"
        if own:
            sheets.append(Sheet(label, totals[number], name, own))
    return sheets


def draw_sheet(sheet: Sheet) -> bytes:
    """Draw a contact sheet as a PNG in the shape of a slide: two clips a row, times below each picture."""
    rows = max(1, -(-len(sheet.strips) // 2))
    width, margin, gutter, caption = 10.0, 0.25, 0.3, 0.5
    strip_width = (width - 2 * margin - gutter) / 2
    high, long = sheet.strips[0].picture.shape[:2]
    strip_height = strip_width * high / long
    height = 0.75 + rows * (strip_height + caption)
    with mpl.rc_context(figure_style()):
        figure = Figure(figsize=(width, height), dpi=200, facecolor="white")
        FigureCanvasAgg(figure)
        figure.text(margin / width, 1 - 0.2 / height, shorten(sheet.label, 60), fontsize=17, weight="bold", va="top")
        told = f"{len(sheet.strips)} of {sheet.num_clips} clips, drawn at random"
        figure.text(1 - margin / width, 1 - 0.26 / height, told, fontsize=11, color=MUTED, va="top", ha="right")
        for number, strip in enumerate(sheet.strips):
            row, column = divmod(number, 2)
            left = margin + column * (strip_width + gutter)
            top = height - 0.7 - row * (strip_height + caption)
            box = (left / width, (top - strip_height) / height, strip_width / width, strip_height / height)
            axes = figure.add_axes(box)
            axes.imshow(strip.picture, interpolation="lanczos", aspect="auto")
            axes.set_axis_off()
            count = len(strip.times_seconds)
            for place, seconds in enumerate(strip.times_seconds):
                x = (left + (place + 0.5) / count * strip_width) / width
                y = (top - strip_height - 0.04) / height
                figure.text(x, y, f"{seconds:.1f} s", fontsize=8, color=INK, va="top", ha="center")
            name, y = strip.clip.name.removeprefix(f"{strip.clip.split}/"), (top - strip_height - 0.19) / height
            words = [strip.clip.split, shorten(strip.clip.group or "", 28), shorten(name, 26)]
            line = " · ".join(word for word in words if word)
            figure.text(left / width, y, line, fontsize=8, color=MUTED, va="top")
        return png_bytes(figure)


def _read_strip(clip: ClipFacts, *, dataset: VideoDataset) -> Strip | None:
    """Four pictures spread over a clip; None where its file went bad since it was measured."""
    times = picture_times(clip.duration_seconds or 0.0)
    times = times[::2] if len(times) == 8 else times
    try:
        pictures = read_pictures(dataset.splits[clip.split], clip.index, times)
    except (FileNotFoundError, VideoDecodeError):
        return None
    return Strip(clip, tuple(float(seconds) for seconds in times), _side_by_side(list(pictures)))


def _side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Fit pictures into equal boxes side by side, with a hair of white between them."""
    width, height = _THUMBNAIL_PX
    gap = 4
    strip = Image.new("RGB", (len(pictures) * (width + gap) - gap, height), "white")
    for number, picture in enumerate(pictures):
        box = Image.new("RGB", _THUMBNAIL_PX, _PAPER)
        image = Image.fromarray(picture)
        scale = min(width / image.width, height / image.height)
        image = image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
        )
        box.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        strip.paste(box, (number * (width + gap), 0))
    return np.asarray(strip)
