"""What a timeline found, burnt into the video: scores below the pictures, its events' names on them; event clips."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.font_manager
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from railsformer.data.analysis.figures import figure_style, printable, shorten
from railsformer.data.segment_frames import segment_frames
from railsformer.data.video import find_video_stream, open_video, upright_rgb
from railsformer.inference.colours import label_colours
from railsformer.inference.encode_video import Picture, encode_mp4, encode_part, is_finished, recipe_of

__all__ = ["cut_event_clips", "write_annotated_video"]

_PAPER, _TRACK, _WHITE, _PALE = "#1b2733", "#3d4b58", "#ffffff", "#c3ccd4"
_MAX_BARS = 6
_CLIP_NAME = re.compile(r"\d{3,}_[\w-]+_\d{2,}h\d\dm\d\ds\.mp4")
_ANNOTATED_CRF, _CLIP_CRF = 23, 20


def write_annotated_video(
    video: str | Path,
    target: str | Path,
    *,
    times_seconds: np.ndarray,
    scores: np.ndarray,
    labels: Sequence[str],
    events: Sequence[Mapping[str, Any]],
    negative_labels: Sequence[str] = (),
    thresholds: Mapping[str, float] | None = None,
    start_time: datetime | None = None,
    salvage: bool = True,
    on_progress: Callable[[float], None] | None = None,
) -> Path:
    """Write a copy of a video that shows the scores below the pictures and the events on them.

    One pass; memory does not grow with the video's length. Pictures keep their times; there is no sound.

    Args:
        video: The source.
        target: An `.mp4`, which appears whole or not at all; one of the same source and timeline is kept.
        times_seconds: Instant of each row of `scores`, ascending, in seconds since the first picture, shape (N,).
        scores: From 0 to 1, NaN where nothing was scored, shape (N, L).
        labels: Names of the columns.
        events: Entries of events.json.
        negative_labels: Labels that mean 'nothing', which get no bar.
        thresholds: Label to the score that begins an event, marked on its bar.
        start_time: Wall clock of the first picture, shown with each one.
        salvage: Skip what is damaged, and bring pictures of another size to that of the first.
        on_progress: Told the seconds encoded so far.

    Returns:
        The target.

    Raises:
        ValueError: If the shapes do not go together.
        VideoDecodeError: If the source cannot be decoded.
        DiskFullError: If there is no room.
    """
    times, values = np.asarray(times_seconds, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if values.shape != (len(times), len(labels)):
        raise ValueError(f"scores must be of shape ({len(times)}, {len(labels)}), got {values.shape}")
    digest = hashlib.sha256(times.tobytes() + values.tobytes()).hexdigest()
    told = [[dict(event) for event in events], list(labels), list(negative_labels), dict(thresholds or {}), start_time]
    recipe = recipe_of(video, "annotated", digest, told, salvage)
    if is_finished(target, recipe):
        return Path(target)
    with open_video(video) as container:
        stream = find_video_stream(container, video)
        rate = Fraction(stream.guessed_rate or stream.average_rate or 25)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
    panel = _Panel(
        times=times,
        scores=values,
        labels=tuple(labels),
        bars=_bars(values, labels, negative_labels),
        colours=label_colours(labels, negative_labels),
        thresholds=dict(thresholds or {}),
        events=tuple(sorted(events, key=lambda event: event["start_seconds"])),
        start_time=start_time,
    )
    pictures = _annotated(video, panel, salvage)
    return encode_mp4(
        pictures, target, rate=rate, crf=_ANNOTATED_CRF, aspect=aspect, recipe=recipe, on_progress=on_progress
    )


def cut_event_clips(
    video: str | Path,
    folder: str | Path,
    events: Sequence[Mapping[str, Any]],
    *,
    margin_seconds: float = 2.0,
    salvage: bool = True,
    on_progress: Callable[[int], None] | None = None,
) -> list[Path]:
    """Cut one clip an event out of a video, encoded anew; memory does not grow with the video's length.

    Args:
        video: The source.
        folder: Where the clips go, made if absent: `001_Fall_00h01m23s.mp4`. Finished ones of the same event are kept;
            those of events that are not there any more are removed.
        events: Entries of events.json.
        margin_seconds: Footage before and after each event.
        salvage: Skip what is damaged, and bring pictures of another size to that of the first.
        on_progress: Told how many clips are done.

    Returns:
        The clips, in the order of `events`.

    Raises:
        ValueError: If the margin is negative.
        VideoDecodeError: If the source cannot be decoded, or an event lies after its end.
        DiskFullError: If there is no room.
    """
    if margin_seconds < 0:
        raise ValueError(f"margin_seconds must be 0 or more, got {margin_seconds}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    clips = []
    for number, event in enumerate(events, start=1):
        start = max(0.0, event["start_seconds"] - margin_seconds)
        end = event["end_seconds"] + margin_seconds
        clip = folder / f"{number:03d}_{_slug(event['label'])}_{_file_clock(event['start_seconds'])}.mp4"
        clips.append(encode_part(video, clip, start_seconds=start, end_seconds=end, crf=_CLIP_CRF, salvage=salvage))
        if on_progress:
            on_progress(number)
    for path in folder.glob("*.mp4"):  # other thresholds, other events
        if path not in clips and _CLIP_NAME.fullmatch(path.name):
            path.unlink()
    return clips


@dataclass(frozen=True)
class _Panel:
    """What is drawn below and on the pictures.

    Attributes:
        times: Instant of each row of scores.
        scores: Shape (N, L).
        labels: Names of the columns.
        bars: Columns that get a bar, in their order from top to bottom.
        colours: Label to colour.
        thresholds: Label to threshold.
        events: By their start.
        start_time: Wall clock of the first picture.
    """

    times: np.ndarray
    scores: np.ndarray
    labels: tuple[str, ...]
    bars: tuple[int, ...]
    colours: Mapping[str, str]
    thresholds: Mapping[str, float]
    events: tuple[Mapping[str, Any], ...]
    start_time: datetime | None

    def row_at(self, seconds: float) -> int:
        """Row whose instant is nearest."""
        if not len(self.times):
            return -1
        after = int(np.searchsorted(self.times, seconds))
        if after == 0 or after == len(self.times):
            return min(after, len(self.times) - 1)
        return after if self.times[after] - seconds <= seconds - self.times[after - 1] else after - 1

    def clock(self, seconds: float) -> str:
        """Time in the video, and the wall clock where it is known."""
        whole = int(seconds)
        told = f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
        if self.start_time is None:
            return told
        return f"{self.start_time + timedelta(seconds=whole):%Y-%m-%d %H:%M:%S} · {told}"


def _bars(scores: np.ndarray, labels: Sequence[str], negative_labels: Sequence[str]) -> tuple[int, ...]:
    """The hazards, as many as fit: those that score highest anywhere, in the model's order."""
    hazards = [index for index, label in enumerate(labels) if label not in negative_labels]
    peaks = np.nan_to_num(scores, nan=0.0).max(axis=0, initial=0.0)
    return tuple(sorted(sorted(hazards, key=lambda index: -peaks[index])[:_MAX_BARS]))


def _annotated(video: str | Path, panel: _Panel, salvage: bool) -> Iterator[Picture]:
    """The pictures with all that is drawn; the panel is drawn anew once a second or with each new score."""
    before: tuple[float, np.ndarray] | None = None
    drawn: tuple[Any, np.ndarray] = (None, np.empty(0))
    tags: tuple[Any, list[tuple[np.ndarray, str]]] = (None, [])
    coming, on = 0, list[int]()
    last = 0.0
    for part in segment_frames(video, salvage=salvage):
        seconds = max(part.at_seconds, 0.0)
        picture = upright_rgb(part.frame)
        height, width = (side // 2 * 2 for side in picture.shape[:2])
        while coming < len(panel.events) and panel.events[coming]["start_seconds"] <= seconds:
            on.append(coming)
            coming += 1
        on = [index for index in on if seconds < panel.events[index]["end_seconds"]]
        key = (panel.row_at(seconds), int(seconds), width)
        if drawn[0] != key:
            drawn = (key, _draw_panel(panel, seconds, width))
        if tags[0] != (on, width):
            tags = ((on, width), [_draw_tag(panel, panel.events[index], width) for index in on])
        whole = np.concatenate([picture[:height, :width], drawn[1]])
        _mark(whole[:height], tags[1])
        if before is not None:
            yield before[0], seconds - before[0], before[1]
        before, last = (seconds, whole), part.stays_seconds
    if before is not None:
        yield before[0], last, before[1]


def _mark(picture: np.ndarray, tags: Sequence[tuple[np.ndarray, str]]) -> None:
    """Put the names of the events that are on, and a frame in the first one's colour, on a picture."""
    if not tags:
        return
    edge = max(2, min(picture.shape[:2]) // 100)
    red, green, blue = (int(tags[0][1][at : at + 2], 16) for at in (1, 3, 5))
    for side in (picture[:edge], picture[-edge:], picture[:, :edge], picture[:, -edge:]):
        side[...] = (red, green, blue)
    top = edge
    for tag, _ in tags:
        high, wide = min(tag.shape[0], picture.shape[0] - top), min(tag.shape[1], picture.shape[1] - edge)
        if high < tag.shape[0]:
            break
        picture[top : top + high, edge : edge + wide] = tag[:high, :wide]
        top += high


def _draw_tag(panel: _Panel, event: Mapping[str, Any], width: int) -> tuple[np.ndarray, str]:
    size = _letter_px(width) * 1.25
    text = f"{shorten(event['label'], 30)}  {100 * event['score']:.0f} %"
    font = _font(size, text)
    box = font.getbbox(text)
    image = Image.new("RGB", (round(box[2] + 1.2 * size), round(1.7 * size)), panel.colours[event["label"]])
    ImageDraw.Draw(image).text((0.6 * size, 0.85 * size), text, font=font, fill=_WHITE, anchor="lm")
    return np.asarray(image), panel.colours[event["label"]]


def _draw_panel(panel: _Panel, seconds: float, width: int) -> np.ndarray:
    """Clock and one bar a hazard, two side by side where there is room; of even height."""
    size = _letter_px(width)
    line, margin = 1.6 * size, 0.8 * size
    columns = 2 if len(panel.bars) > 2 and width >= 36 * size else 1
    rows = -(-len(panel.bars) // columns)
    height = round((margin + line * (1 + rows) + 0.5 * margin) / 2) * 2
    image = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(image)
    told = panel.clock(seconds)
    draw.text((margin, margin / 2 + line / 2), told, font=_font(size, told), fill=_PALE, anchor="lm")
    values = panel.scores[panel.row_at(seconds)] if len(panel.times) else np.full(len(panel.labels), np.nan)
    known = bool(np.isfinite(values).any())
    if not known:
        text = "not scored"
        draw.text((width - margin, margin / 2 + line / 2), text, font=_font(size, text), fill=_WHITE, anchor="rm")
    wide = (width - margin) / columns
    for place, column in enumerate(panel.bars):
        across, down = divmod(place, rows)
        left, middle = margin + across * wide, margin / 2 + line * (1.5 + down)
        _draw_bar(draw, panel, column, values[column], left=left, middle=middle, wide=wide - margin, size=size)
    return np.asarray(image)


def _draw_bar(
    draw: ImageDraw.ImageDraw,
    panel: _Panel,
    column: int,
    value: float,
    *,
    left: float,
    middle: float,
    wide: float,
    size: float,
) -> None:
    label = panel.labels[column]
    name_wide, number_wide = min(0.42 * wide, 13 * size), 3.2 * size
    name = shorten(label, max(5, int(name_wide / (0.58 * size))))
    draw.text((left, middle), name, font=_font(size, name), fill=_WHITE, anchor="lm")
    begin, long, half = left + name_wide, max(wide - name_wide - number_wide, 0.0), 0.36 * size
    draw.rectangle((begin, middle - half, begin + long, middle + half), fill=_TRACK)
    if np.isfinite(value):
        filled = min(max(float(value), 0.0), 1.0) * long
        if filled >= 1:
            # Of the label's colour, brightened: these stand on dark ground.
            colour = tuple((int(panel.colours[label][at : at + 2], 16) + 255) // 2 for at in (1, 3, 5))
            draw.rectangle((begin, middle - half, begin + filled, middle + half), fill=colour)
        told = f"{100 * value:.0f} %"
        draw.text((left + wide, middle), told, font=_font(size, told), fill=_WHITE, anchor="rm")
    threshold = panel.thresholds.get(label)
    if threshold is not None:
        x = begin + threshold * long
        draw.line((x, middle - 1.6 * half, x, middle + 1.6 * half), fill=_WHITE, width=max(1, round(size / 10)))


def _letter_px(width: int) -> float:
    return float(min(max(width / 42, 9.0), 40.0))


def _font(size: float, text: str) -> ImageFont.FreeTypeFont:
    """The first font that has every letter of a text; DejaVu Sans, which comes with matplotlib, where none has."""
    letters = frozenset(map(ord, text))
    fonts = _fonts()
    return _font_of(next((path for path, known in fonts if letters <= known), fonts[0][0]), size)


@lru_cache(maxsize=1)
def _fonts() -> list[tuple[str, frozenset[int]]]:
    """Paths of the fonts and the letters that each has."""
    paths = [matplotlib.font_manager.findfont(name) for name in figure_style()["font.family"]]
    return [(path, frozenset(mpl.ft2font.FT2Font(path).get_charmap())) for path in paths]


@lru_cache(maxsize=8)
def _font_of(path: str, size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def _slug(label: str) -> str:
    return re.sub(r"[^\w-]+", "_", printable(label)).strip("_")[:60] or "event"


def _file_clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600:02d}h{whole // 60 % 60:02d}m{whole % 60:02d}s"
