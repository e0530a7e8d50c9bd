"""The frames of a segment of a video, each with the time at which it begins and for which it stays."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from railsformer.data.video import (
    MAX_PIXELS,
    TOLERANCE_SECONDS,
    find_video_stream,
    last_picture_seconds,
    open_video,
    same_size,
    timed_frames,
    usual_step_seconds,
)

__all__ = ["SegmentFrame", "segment_frames"]


@dataclass(frozen=True)
class SegmentFrame:
    """A frame of a segment.

    Attributes:
        at_seconds: When it begins, since the segment's start; below 0 before it.
        stays_seconds: How long it stays if it is the file's last one.
        frame: As decoded, of the first one's size.
        aspect: Width over height of its pixels once it is upright.
    """

    at_seconds: float
    stays_seconds: float
    frame: av.VideoFrame
    aspect: Fraction


def segment_frames(
    path: str | Path,
    *,
    start_seconds: float = 0.0,
    end_seconds: float | None = None,
    salvage: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[SegmentFrame]:
    """Decode from a key picture before the segment up to its end; at least one picture if the file has any.

    Args:
        path: A video file.
        start_seconds: Since the file's first picture.
        end_seconds: Likewise; None means the file's end.
        salvage: Skip what is damaged, and bring pictures of another size to that of the first.
        max_pixels: Largest picture.

    Raises:
        VideoDecodeError: If it cannot be decoded.
    """
    first: av.VideoFrame | None = None
    for seek_to in dict.fromkeys((start_seconds, 0.0)):  # a seek that goes astray gives no picture
        with open_video(path, max_pixels=max_pixels) as container:
            stream = find_video_stream(container, path)
            stream.codec_context.thread_count = 1  # one file a core
            aspect = Fraction(stream.sample_aspect_ratio or 1)
            before: float | None = None
            for seconds, frame in timed_frames(container, stream, seek_to=seek_to, salvage=salvage):
                if first is not None and end_seconds is not None and seconds >= end_seconds - TOLERANCE_SECONDS:
                    return
                first = first or frame
                told = float((frame.duration or 0) * (frame.time_base or 0))
                step = usual_step_seconds(stream) if before is None else seconds - before
                before = seconds
                yield SegmentFrame(
                    at_seconds=seconds - start_seconds,
                    stays_seconds=last_picture_seconds(told, step, interlaced=frame.interlaced_frame),
                    frame=same_size(frame, first, path, salvage=salvage, max_pixels=max_pixels),
                    aspect=1 / aspect if round(frame.rotation / 90) % 2 else aspect,
                )
        if first is not None:
            return
