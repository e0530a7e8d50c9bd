"""PyAV: the pictures of a video file at given times."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np

__all__ = ["VideoDecodeError", "read_frames"]

# Nearer than this to the start, decoding from the first picture is cheaper than a seek to a key frame.
SEEK_AFTER_SECONDS = 3.0
# Time stamps are rounded to a time base; a picture that begins this little after the instant still counts as shown.
TOLERANCE_SECONDS = 1e-3


class VideoDecodeError(ValueError):
    """A file that cannot be read as a video.

    Args:
        path: The file.
        reason: One sentence without a full stop.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type["VideoDecodeError"], tuple[str, str]]:
        """Keep both arguments on the way from a worker process."""
        return type(self), (str(self.path), self.reason)


def read_frames(path: str | Path, times_seconds: Sequence[float] | np.ndarray) -> np.ndarray:
    """Read the pictures that are on screen at given instants.

    The picture at t is the last one whose presentation time is at most t: what a viewer would see. Before the first
    picture that is the first one, after the end it is the last one (held).

    Args:
        path: A video file.
        times_seconds: Instants from the first picture on, in any order, shape (N,).

    Returns:
        RGB pictures, uint8, shape (N, height, width, 3), upright, in the order of `times_seconds`.

    Raises:
        FileNotFoundError: If there is no such file.
        VideoDecodeError: If it has no picture that can be decoded.
        ValueError: If `times_seconds` is empty.
    """
    times = np.asarray(times_seconds, dtype=np.float64)
    if times.size == 0:
        raise ValueError("times_seconds must name at least one instant, got none")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such video file")
    order = np.argsort(times, kind="stable")
    try:
        with av.open(str(path)) as container:
            frames = _pictures_at(path, container, times[order])
    except av.error.FFmpegError as error:
        raise VideoDecodeError(path, f"cannot be decoded as video ({error.strerror})") from error
    pictures = np.empty((len(times), *frames[0].shape), dtype=np.uint8)
    for position, picture in zip(order, frames, strict=True):
        if picture.shape != pictures.shape[1:]:
            raise VideoDecodeError(path, "changes its picture size half way")
        pictures[position] = picture
    return pictures


def _pictures_at(path: str | Path, container: av.container.InputContainer, times: np.ndarray) -> list[np.ndarray]:
    """One RGB picture for each of the ascending `times`; a picture asked for twice is converted once."""
    stream = next((stream for stream in container.streams.video if stream.codec_context is not None), None)
    if stream is None:
        raise VideoDecodeError(path, "has no video stream")
    stream.codec_context.thread_count = 1  # loaders run one process a core already
    timed = _timed_frames(container, stream, first_wanted=float(times[0]))
    pictures: list[np.ndarray] = []
    shown: av.VideoFrame | None = None
    converted: np.ndarray | None = None
    upcoming = next(timed, None)
    for instant in times:
        while upcoming is not None and (shown is None or upcoming[0] <= instant + TOLERANCE_SECONDS):
            shown, converted = upcoming[1], None
            upcoming = next(timed, None)
        if shown is None:
            raise VideoDecodeError(path, "has no picture that can be decoded")
        if converted is None:
            converted = _upright_rgb(shown)
        pictures.append(converted)
    return pictures


def _timed_frames(
    container: av.container.InputContainer, stream: av.VideoStream, *, first_wanted: float
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames with their seconds since the first picture, beginning at or before `first_wanted`."""
    time_base = stream.time_base or 0
    if first_wanted > SEEK_AFTER_SECONDS and stream.start_time is not None and time_base:
        origin = float(stream.start_time * time_base)
        container.seek(round((first_wanted + origin) / time_base), stream=stream, backward=True)
        frames = container.decode(stream)
        frame = next(frames, None)
        if frame is not None and frame.time is not None and frame.time - origin <= first_wanted:
            yield frame.time - origin, frame
            for frame in frames:
                if frame.time is not None:
                    yield frame.time - origin, frame
            return
        container.seek(stream.start_time, stream=stream, backward=True)
    yield from _frames_from_the_start(container, stream)


def _frames_from_the_start(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames with their seconds since the first picture; where times are missing, the average rate counts them."""
    step = 1.0 / float(stream.average_rate or 25)
    origin: float | None = None
    seconds = -step
    for frame in container.decode(stream):
        if frame.time is None:
            seconds += step
        else:
            origin = frame.time if origin is None else origin
            seconds = frame.time - origin
        yield seconds, frame


def _upright_rgb(frame: av.VideoFrame) -> np.ndarray:
    """RGB, uint8, (height, width, 3), turned as the file's display matrix says."""
    picture = frame.to_ndarray(format="rgb24")
    quarter_turns = round(frame.rotation / 90) % 4
    return np.rot90(picture, quarter_turns) if quarter_turns else picture
