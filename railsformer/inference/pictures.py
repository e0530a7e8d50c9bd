"""The pictures of a file or a live stream in their order, small, and only those that somebody wants to see."""

import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
from PIL import Image

from railsformer.data.video import (
    MAX_PIXELS,
    VideoDecodeError,
    find_video_stream,
    last_picture_seconds,
    open_video,
    timed_frames,
    upright_rgb,
    usual_step_seconds,
)

__all__ = ["Picture", "SourceEvent", "decode_pictures"]

# Steps that are compared with those before them, and how far their medians must be apart for the rate to have changed.
_RATE_PICTURES = 24
_RATE_CHANGE = 1.25
_GAP_STEPS = 3.0


@dataclass(frozen=True)
class SourceEvent:
    """Something about the footage itself.

    Args:
        kind: What happened.
        seconds: When, since the first picture.
        detail: One sentence without a full stop.
    """

    kind: Literal["size_change", "rate_change", "gap", "damage"]
    seconds: float
    detail: str


@dataclass(frozen=True)
class Picture:
    """A picture and when it is on screen.

    Args:
        seconds: From when on, since the first picture.
        until_seconds: Until when: the next picture's time, or one step after `seconds` where a gap follows.
        rgb: uint8, shape (height, width, 3), upright; None where nobody wants it.
    """

    seconds: float
    until_seconds: float
    rgb: np.ndarray | None


def decode_pictures(
    source: str | Path | av.container.InputContainer,
    *,
    short_side_px: int | None = None,
    wanted: Callable[[float, float], bool] | None = None,
    start_seconds: float = 0.0,
    from_seconds: float = 0.0,
    max_gap_seconds: float = 2.0,
    on_event: Callable[[SourceEvent], None] | None = None,
    max_failed_reads: int = 100,
    threads: int = 0,
) -> Iterator[Picture]:
    """Decode once, from the first picture to the last; each is given when the next one has told how long it stays.

    Damage is skipped and told to `on_event`, and pictures may change their size.

    Args:
        source: A file, or an open container of a live stream, which the caller opens with its time-outs and closes.
        short_side_px: Pictures are resized to it as for the network; None leaves them as they are.
        wanted: Asked with the times of a picture; only those it says yes to, and the last one, get their `rgb`.
        start_seconds: Time of the source's first picture; after a reconnect, the time since the stream began.
        from_seconds: Pictures well before it may be left out (files only).
        max_gap_seconds: A longer time between two pictures, and longer than three usual steps, is a gap.
        on_event: Told of changes of size and rate, gaps and damage.
        max_failed_reads: Reads (time-outs, lost connections) that may fail in a row.
        threads: Of the decoder; 0 means one for each core. More than one hold back as many pictures.

    Yields:
        Every picture.

    Raises:
        FileNotFoundError: If there is no such file.
        VideoDecodeError: If nothing can be decoded, a picture is too large, or too many reads fail.
    """
    name = source if isinstance(source, str | Path) else source.name
    watch = _Watch(name, on_event, max_gap_seconds, max_failed_reads)
    if not isinstance(source, str | Path):
        try:
            for seconds, until, frame, is_last in _timed(source, watch, threads=threads, start=start_seconds):
                yield _picture(seconds, until, frame, is_last or _is_wanted(wanted, seconds, until), short_side_px)
        except av.error.FFmpegError as error:
            raise VideoDecodeError(watch.name, f"reading broke off (FFmpeg says '{error.strerror}')") from error
        return
    if not Path(source).is_file():
        raise FileNotFoundError(f"{source}: no such video file")
    for seek_to in dict.fromkeys((from_seconds, 0.0)):  # a seek that goes astray gives no picture
        found = False
        with open_video(source) as container:
            timed = _timed(container, watch, threads=threads, start=start_seconds, seek_to=seek_to)
            for seconds, until, frame, is_last in timed:
                found = True
                yield _picture(seconds, until, frame, is_last or _is_wanted(wanted, seconds, until), short_side_px)
        if found:
            return
    raise VideoDecodeError(source, "not one picture could be decoded; copy it again, or remove it", "no_pictures")


def _timed(
    container: av.container.InputContainer,
    watch: "_Watch",
    *,
    threads: int,
    start: float,
    seek_to: float = 0.0,
) -> Iterator[tuple[float, float, av.VideoFrame, bool]]:
    """Frames with the times from and until which they are shown, and whether each is the last one."""
    stream = find_video_stream(container, watch.name)
    stream.codec_context.thread_count = threads
    stream.codec_context.thread_type = "AUTO"
    # The header's own average tells a slow camera; where there is none it is FFmpeg's 25.
    watch.begin(max(usual_step_seconds(stream), 1 / float(stream.average_rate or 25)))
    before: tuple[float, av.VideoFrame] | None = None
    timed = timed_frames(container, stream, seek_to=seek_to, salvage=True, on_packet=watch.see_packet)
    for since_first, frame in timed:
        if frame.width * frame.height > MAX_PIXELS:
            reason = f"its pictures of {frame.width}x{frame.height} have more than {MAX_PIXELS} pixels; scale it down"
            raise VideoDecodeError(watch.name, reason, "too_large")
        seconds = start + since_first
        if before is not None:
            yield (before[0], watch.see_step(before[0], seconds), before[1], False)
        watch.see_picture(seconds, frame)
        before = seconds, frame
    if before is not None:
        seconds, frame = before
        told = float((frame.duration or 0) * (frame.time_base or 0))
        stays = last_picture_seconds(told, watch.step_seconds, interlaced=frame.interlaced_frame)
        until = seconds + min(stays, watch.most_seconds)
        watch.see_end(until - start, (container.duration or 0) / av.time_base)
        yield (seconds, until, frame, True)


class _Watch:
    """Looks for changes of size and rate, gaps and damage."""

    def __init__(
        self,
        name: str | Path,
        on_event: Callable[[SourceEvent], None] | None,
        max_gap_seconds: float,
        max_failed_reads: int,
    ) -> None:
        self.name = name
        self._on_event, self._max_gap, self._max_failed_reads = on_event, max_gap_seconds, max_failed_reads
        self._failed_reads = 0
        self._is_damaged = self._is_patched = False
        self._size: tuple[int, int] | None = None
        self._seconds = 0.0

    def begin(self, step_seconds: float) -> None:
        """A file was opened; its header tells the usual step."""
        self.step_seconds = step_seconds
        self._steps: deque[float] = deque(maxlen=_RATE_PICTURES)
        self._usual: float | None = None
        self._suspected: float | None = None

    @property
    def most_seconds(self) -> float:
        """The longest time that a picture may stay before it is a gap."""
        return max(self._max_gap, _GAP_STEPS * self.step_seconds)

    def see_packet(self, packet: av.Packet | None, is_damaged: bool) -> None:
        """Count reads that fail, and tell of damage once for each damaged place."""
        self._failed_reads = self._failed_reads + 1 if packet is None else 0
        if self._failed_reads > self._max_failed_reads:
            raise VideoDecodeError(self.name, f"reading broke off ({sys.exception()})")
        is_damaged = is_damaged or bool(packet and packet.is_corrupt)
        if is_damaged and not self._is_damaged:
            self._tell("damage", self._seconds, "the data is damaged here; what cannot be decoded is skipped")
        self._is_damaged = is_damaged

    def see_step(self, seconds: float, following_seconds: float) -> float:
        """Return until when a picture stays, given when the next one begins."""
        self._seconds = following_seconds
        step = following_seconds - seconds
        if step > self.most_seconds:
            self._tell("gap", seconds, f"no picture for {step:.2f} s")
            return seconds + self.step_seconds
        self._steps.append(step)
        if len(self._steps) == _RATE_PICTURES:
            self._see_rate(float(np.median(self._steps)))
            self._steps.clear()
        return following_seconds

    def see_picture(self, seconds: float, frame: av.VideoFrame) -> None:
        """Tell where the size changes, and where a picture was patched up that the decoder did not refuse."""
        if frame.is_corrupt and not self._is_patched:
            self._tell("damage", seconds, "pictures here are damaged")
        self._is_patched = frame.is_corrupt
        size = frame.width, frame.height
        if self._size is not None and size != self._size:
            sizes = f"from {self._size[0]}x{self._size[1]} to {size[0]}x{size[1]}"
            self._tell("size_change", seconds, f"the picture size changes {sizes}")
        self._size = size

    def see_end(self, seconds: float, told_seconds: float) -> None:
        """Tell where a file ends well before its header says; a live stream's header says nothing."""
        if told_seconds - seconds > self.most_seconds:
            detail = f"the pictures end at {seconds:.2f} s, the header tells of {told_seconds:.2f} s"
            self._tell("damage", seconds, detail)

    def _see_rate(self, step: float) -> None:
        """A rate has changed where two runs of steps agree with each other and not with those before."""
        if self._usual is None or not _differ(step, self._usual):
            self._usual, self._suspected = self._usual or step, None
        elif self._suspected is None or _differ(step, self._suspected):
            self._suspected = step
        else:
            rates = f"from {1 / self._usual:.3g} to {1 / step:.3g} pictures a second"
            self._tell("rate_change", self._seconds, f"the rate changes {rates}")
            self._usual, self._suspected = step, None
        self.step_seconds = self._usual

    def _tell(self, kind: Literal["size_change", "rate_change", "gap", "damage"], seconds: float, detail: str) -> None:
        if self._on_event:
            self._on_event(SourceEvent(kind, seconds, detail))


def _differ(step: float, other: float) -> bool:
    return max(step, other) > _RATE_CHANGE * min(step, other)


def _is_wanted(wanted: Callable[[float, float], bool] | None, seconds: float, until_seconds: float) -> bool:
    return wanted is None or wanted(seconds, until_seconds)


def _picture(
    seconds: float, until_seconds: float, frame: av.VideoFrame, is_wanted: bool, short_side_px: int | None
) -> Picture:
    if not is_wanted:
        return Picture(seconds, until_seconds, None)
    rgb = upright_rgb(frame)
    return Picture(seconds, until_seconds, rgb if short_side_px is None else _small(rgb, short_side_px))


def _small(rgb: np.ndarray, short_side_px: int) -> np.ndarray:
    """Resized as `evaluation_pixels` does it, which then has nothing left to resize."""
    height, width = rgb.shape[:2]
    short = min(height, width)
    size = (
        short_side_px if width == short else int(short_side_px * width / height),
        short_side_px if height == short else int(short_side_px * height / width),
    )
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR))
