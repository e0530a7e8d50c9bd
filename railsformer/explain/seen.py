"""The clip that the model saw: its instants, its pictures, and the part of the picture that the crop showed."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from railsformer.data.probe import probe_video
from railsformer.data.segment_frames import segment_frames
from railsformer.data.video import TOLERANCE_SECONDS, VideoDecodeError, read_frames
from railsformer.inference.regions import Region
from railsformer.inference.views import Viewing

__all__ = ["Box", "SeenClip", "crop_box", "see_clip", "square_pixels"]

# Pictures for the contact sheet; the network's own come from the full ones.
_SHEET_SIDE_PX = 540
_MOST_ENLARGED_PX = 4096  # a strip of a picture is not made so wide that no encoder takes its height
# Asked-for times are rounded to milliseconds in events.json.
_END_SLACK_SECONDS = 0.01


class Box(NamedTuple):
    """A part of a picture, in its px; right and bottom are its far edges."""

    left: float
    top: float
    right: float
    bottom: float

    def of_size(self, width: int, height: int, *, was: tuple[int, int]) -> "Box":
        """The same part where the picture is resized from `was` (width, height)."""
        across, down = width / was[0], height / was[1]
        return Box(self.left * across, self.top * down, self.right * across, self.bottom * down)


@dataclass(frozen=True)
class SeenClip:
    """One clip of a video, as the network saw it and as people do.

    Attributes:
        video: The file.
        times_seconds: Instants, ascending (`loop` apart), since the video's first picture, shape (T,). Where the clip
            is longer than the footage the last ones are alike: the last picture is held.
        pictures: On screen at those instants, whole, with square pixels, made small, uint8, shape (T, y, x, 3).
        pixel_values: Shape (1, T, 3, y, x).
        box: What of the picture the crop shows, in px of the coded picture once it is upright.
        size: Width and height of that picture in px.
        aspect: Width over height of its pixels.
        start_seconds: Of the footage that the clip was cut from.
        end_seconds: Likewise.
        duration_seconds: Of the video.
        region: What of the picture was looked at; all if None.
        note: One sentence where the footage is shorter than a clip, else empty.
    """

    video: Path
    times_seconds: np.ndarray
    pictures: np.ndarray
    pixel_values: torch.Tensor
    box: Box
    size: tuple[int, int]
    aspect: Fraction
    start_seconds: float
    end_seconds: float
    duration_seconds: float
    region: Region | None
    note: str


def see_clip(
    video: str | Path,
    viewing: Viewing,
    *,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
) -> SeenClip:
    """Decode the evaluation clip of a video, or of a part of it as if that were a video of its own.

    Args:
        video: The file.
        viewing: How it is looked at: one clip, one crop.
        start_seconds: Of the part; the video's start if not given.
        end_seconds: Likewise its end.

    Raises:
        FileNotFoundError: If there is no such file.
        VideoDecodeError: If it cannot be read.
        ValueError: If the part does not lie in the video.
    """
    path = Path(video)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such video file; correct the name")
    duration = probe_video(path, thorough=False).duration_seconds
    start, end = _part(path, duration, start_seconds, end_seconds)
    times = viewing.sampling.evaluation_times(start, end)[0]
    # What begins at the end belongs to what comes after; in a file of its own the last picture would be held.
    times = np.minimum(times, max(start, end - 2 * TOLERANCE_SECONDS))
    frames = read_frames(path, times)
    height, width = frames.shape[1:3]
    aspect = _aspect(path)
    return SeenClip(
        video=path,
        times_seconds=times,
        pictures=np.stack([square_pixels(frame, aspect, most_px=_SHEET_SIDE_PX) for frame in frames]),
        pixel_values=viewing.pixels_of(frames)[:1],
        box=crop_box(width, height, viewing),
        size=(width, height),
        aspect=aspect,
        start_seconds=start,
        end_seconds=end,
        duration_seconds=duration,
        region=viewing.region,
        note=_note(viewing, end - start, whole=start == 0 and end == duration),
    )


def crop_box(width: int, height: int, viewing: Viewing) -> Box:
    """What of a picture the model's centre crop shows, as `evaluation_pixels` cuts it."""
    side, crop = viewing.pixels.short_side_px, viewing.pixels.crop_px
    short = min(width, height)
    wide = side if width == short else int(side * width / height)
    high = side if height == short else int(side * height / width)
    left, top = (wide - crop) // 2, (high - crop) // 2
    return Box(left, top, left + crop, top + crop).of_size(width, height, was=(wide, high))


def square_pixels(
    picture: np.ndarray, aspect: Fraction, *, most_px: int | None = None, least_width_px: int = 0, even: bool = False
) -> np.ndarray:
    """A picture with square pixels.

    Args:
        picture: RGB, uint8, shape (height, width, 3).
        aspect: Width over height of its pixels.
        most_px: Larger short sides are reduced to this.
        least_width_px: Narrower pictures are enlarged to this, so that letters fit below them.
        even: Whether both sides must be even.
    """
    width, height = picture.shape[1] * float(aspect), float(picture.shape[0])
    scale = min(1.0, most_px / min(width, height)) if most_px else 1.0
    scale = max(scale, min(least_width_px / width, _MOST_ENLARGED_PX / max(width, height)))
    step = 2 if even else 1
    size = max(step, round(width * scale / step) * step), max(step, round(height * scale / step) * step)
    if size == (picture.shape[1], picture.shape[0]):
        return picture
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize(size, Image.Resampling.BICUBIC))


def _part(path: Path, duration: float, start: float | None, end: float | None) -> tuple[float, float]:
    first, last = start or 0.0, duration if end is None else end
    if not 0 <= first < duration:
        raise ValueError(f"{path}: start must be at least 0 and before its end at {duration:.2f} s, got {first:g}")
    if not first < last <= duration + _END_SLACK_SECONDS:
        raise ValueError(f"{path}: end must be after start {first:g} s and at most {duration:.2f} s, got {last:g}")
    return first, min(last, duration)


def _aspect(path: Path) -> Fraction:
    for part in segment_frames(path, end_seconds=0.0, salvage=True):
        return part.aspect or Fraction(1)
    raise VideoDecodeError(path, "not one picture could be decoded; copy it again, or remove it", "no_pictures")


def _note(viewing: Viewing, seconds: float, *, whole: bool) -> str:
    sampling = viewing.sampling
    if sampling.clip_sampling == "segments" or seconds > sampling.span_seconds:
        return ""
    filled = {
        "hold": "its last picture is held",
        "loop": "it is shown again from its start",
        "stretch": "its pictures are taken closer together",
    }[sampling.short_video]
    name = "The video" if whole else "This part"
    return f"{name} lasts {seconds:.2f} s, less than the {sampling.span_seconds:.2f} s of a clip: {filled}."
