"""Pictures with times in, an MP4 that any browser plays out: H.264, no sound, each picture at its own time."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from railsformer.data.files import whole_file
from railsformer.data.folders import NO_ROOM, DiskFullError
from railsformer.data.segment_frames import segment_frames
from railsformer.data.video import (
    TOLERANCE_SECONDS,
    VideoDecodeError,
    find_video_stream,
    open_video,
    upright_rgb,
)

__all__ = ["Picture", "encode_mp4", "encode_part", "is_finished", "is_web_playable", "recipe_of"]

# Seconds since the first picture, seconds it stays, and the picture: a frame, or RGB uint8 of (height, width, 3).
Picture = tuple[float, float, av.VideoFrame | np.ndarray]

_TICKS_PER_SECOND = 90_000
_SMPTE170M = 6  # AVCOL_SPC_SMPTE170M: the matrix of BT.601
_KEY_PICTURE_SECONDS = 2.0  # a browser decodes from the one before the instant that is clicked
_PLAYED = {
    ".mp4": ("h264", "vp9", "av1"),
    ".m4v": ("h264",),
    ".mov": ("h264",),
    ".webm": ("vp8", "vp9", "av1"),
}
_PLAYED_PIXELS = ("yuv420p", "yuvj420p")
# A browser counts from the file's own clock, events from the first picture.
_LATEST_FIRST_PICTURE_SECONDS = 0.05


def is_web_playable(path: str | Path) -> bool:
    """Whether every browser plays a file as it is, with its first picture at 0 s.

    Args:
        path: A video file.

    Raises:
        VideoDecodeError: If it cannot be opened.
    """
    with open_video(path) as container:
        stream = find_video_stream(container, path)
        context = stream.codec_context
        first = float((stream.start_time or 0) * (stream.time_base or 0))
        return (
            context.codec.canonical_name in _PLAYED.get(Path(path).suffix.lower(), ())
            and context.pix_fmt in _PLAYED_PIXELS
            and abs(first) <= _LATEST_FIRST_PICTURE_SECONDS
        )


def encode_mp4(
    pictures: Iterable[Picture],
    target: str | Path,
    *,
    rate: Fraction,
    crf: int,
    aspect: Fraction = Fraction(1),
    recipe: str = "",
    on_progress: Callable[[float], None] | None = None,
) -> Path:
    """Encode pictures into an MP4 that appears whole or not at all; memory does not grow with its length.

    Args:
        pictures: In ascending time, all of the first one's size.
        target: The file; its folder must be there.
        rate: Pictures a second, for the header; each keeps its own time.
        crf: Quality of H.264; lower is better.
        aspect: Width over height of the pixels.
        recipe: What it was made from; `is_finished` compares it.
        on_progress: Told the seconds encoded so far.

    Returns:
        The target.

    Raises:
        VideoDecodeError: If there is not one picture to encode.
        DiskFullError: If there is no room.
    """
    target = Path(target)
    try:
        # Python's own file tells why it cannot be written; FFmpeg does not.
        with whole_file(target) as partial, partial.open("wb") as file:
            with av.open(file, "w", format="mp4", container_options={"fflags": "bitexact"}) as container:
                container.metadata["comment"] = recipe
                for packet in _packets(container, pictures, rate, crf, aspect, on_progress):
                    container.mux(packet)
                if not container.streams.video:
                    raise VideoDecodeError(target, "there is not one picture to write into it", "no_pictures")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in NO_ROOM:
            reason = "no room for the video on this disk; free some space and run the command again"
            raise DiskFullError(f"{target}: {reason}") from error
        raise
    return target


def encode_part(
    video: str | Path,
    target: str | Path,
    *,
    start_seconds: float = 0.0,
    end_seconds: float | None = None,
    short_side_px: int | None = None,
    crf: int = 23,
    salvage: bool = True,
    on_progress: Callable[[float], None] | None = None,
) -> Path:
    """Encode a part of a video, or all of it, for a browser; one that is finished already is kept.

    Args:
        video: The source.
        target: An `.mp4`.
        start_seconds: Since the source's first picture.
        end_seconds: Likewise; None means its end.
        short_side_px: Larger pictures are reduced to this; None keeps their size.
        crf: Quality of H.264; lower is better.
        salvage: Skip what is damaged, and bring pictures of another size to that of the first.
        on_progress: Told the seconds encoded so far.

    Raises:
        VideoDecodeError: If the source cannot be decoded, or has no picture in the part.
        DiskFullError: If there is no room.
    """
    target = Path(target)
    recipe = recipe_of(video, "part", start_seconds, end_seconds, short_side_px, crf, salvage)
    if is_finished(target, recipe):
        return target
    with open_video(video) as container:
        stream = find_video_stream(container, video)
        rate = Fraction(stream.guessed_rate or stream.average_rate or 25)
    pictures = _pictures_of(video, start_seconds, end_seconds, short_side_px, salvage)
    return encode_mp4(pictures, target, rate=rate, crf=crf, recipe=recipe, on_progress=on_progress)


def recipe_of(video: str | Path, *settings: Any) -> str:
    """A text that changes with the source's size and time of change, and with the settings."""
    facts = os.stat(video)
    told = json.dumps([facts.st_size, facts.st_mtime_ns, *settings], default=str)
    return f"railsformer video 1 {hashlib.sha256(told.encode()).hexdigest()[:16]}"


def is_finished(target: str | Path, recipe: str) -> bool:
    """Whether a file of this recipe is there; files appear whole, so one that is there is finished."""
    try:
        with open_video(target) as container:
            return bool(container.metadata.get("comment") == recipe)
    except (OSError, VideoDecodeError):
        return False


def _pictures_of(
    video: str | Path, start: float, end: float | None, short_side_px: int | None, salvage: bool
) -> Iterator[Picture]:
    """Pictures of a part with square pixels; the one on screen at the start stands at 0."""
    resizer = VideoReformatter()
    waiting: tuple[float, float, av.VideoFrame | np.ndarray] | None = None
    for part in segment_frames(video, start_seconds=start, end_seconds=end, salvage=salvage):
        at = part.at_seconds
        if waiting is not None and at > TOLERANCE_SECONDS:
            begin = max(waiting[0], 0.0)
            yield begin, at - begin, waiting[2]
        turned = part.frame.interlaced_frame or round(part.frame.rotation / 90) % 4
        frame = part.frame
        if turned:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(upright_rgb(part.frame)), format="rgb24")
        waiting = (at, part.stays_seconds, _shaped(frame, part.aspect, short_side_px, resizer))
    if waiting is None or waiting[0] + waiting[1] <= 0:
        raise VideoDecodeError(video, f"has no picture from {start:g} s on; correct the times", "no_pictures")
    begin = max(waiting[0], 0.0)
    last = waiting[0] + waiting[1]
    yield begin, (last if end is None else min(last, end - start)) - begin, waiting[2]


def _shaped(
    frame: av.VideoFrame, aspect: Fraction, short_side_px: int | None, resizer: VideoReformatter
) -> av.VideoFrame:
    """Square pixels, and no larger than asked for."""
    width, height = frame.width * float(aspect or 1), float(frame.height)
    scale = min(1.0, short_side_px / min(width, height)) if short_side_px else 1.0
    size = max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)
    if size == (frame.width, frame.height):
        return frame
    return resizer.reformat(frame, width=size[0], height=size[1])


def _packets(
    container: av.container.OutputContainer,
    pictures: Iterable[Picture],
    rate: Fraction,
    crf: int,
    aspect: Fraction,
    on_progress: Callable[[float], None] | None,
) -> Iterator[av.Packet]:
    stream: av.VideoStream | None = None
    resizer = VideoReformatter()
    ends: dict[int | None, int] = {}
    latest = -1
    for seconds, stays, picture in pictures:
        if isinstance(picture, np.ndarray):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        if stream is None:
            stream = _add_stream(container, picture, rate, crf, aspect)
        frame = resizer.reformat(
            picture,
            width=stream.width,
            height=stream.height,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU601,
            dst_color_range=ColorRange.MPEG,
        )
        latest = frame.pts = max(round(seconds * _TICKS_PER_SECOND), latest + 1)
        frame.time_base = Fraction(1, _TICKS_PER_SECOND)
        frame.pict_type = av.video.frame.PictureType.NONE  # the source's own would be kept
        ends[frame.pts] = max(round((seconds + stays) * _TICKS_PER_SECOND), frame.pts + 1)
        yield from _with_durations(stream.encode(frame), ends)
        if on_progress:
            on_progress(seconds)
    if stream is not None:
        yield from _with_durations(stream.encode(None), ends)


def _with_durations(packets: Sequence[av.Packet], ends: dict[int | None, int]) -> Iterator[av.Packet]:
    for packet in packets:
        packet.duration = ends.pop(packet.pts) - (packet.pts or 0)
        yield packet


def _add_stream(
    container: av.container.OutputContainer, picture: av.VideoFrame, rate: Fraction, crf: int, aspect: Fraction
) -> av.VideoStream:
    rate = Fraction(min(max(float(rate), 1.0), 120.0)).limit_denominator(1001)
    keyint = max(1, round(_KEY_PICTURE_SECONDS * float(rate)))
    # Without B pictures packets leave in the order of their times, a few pictures after they came.
    options = {"preset": "veryfast", "crf": str(crf), "x264-params": f"keyint={keyint}:bframes=0:rc-lookahead=10"}
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.width, stream.height = (max(2, side // 2 * 2) for side in (picture.width, picture.height))
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.sample_aspect_ratio = aspect
    context.color_range, context.colorspace = ColorRange.MPEG, _SMPTE170M
    context.time_base = stream.time_base = Fraction(1, _TICKS_PER_SECOND)
    return stream
