"""PyAV: the pictures of a video file at given times."""

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import av
import numpy as np

__all__ = ["VideoDecodeError", "find_video_stream", "open_video", "read_frames"]

# Nearer than this to the start, decoding from the first picture is cheaper than a seek to a key frame.
SEEK_AFTER_SECONDS = 3.0
# Time stamps are rounded to a time base; a picture that begins this little after the instant still counts as shown.
TOLERANCE_SECONDS = 1e-3
# AVI stores no presentation times: FFmpeg guesses them in the order of decoding, at most this far out of place.
AVI_REORDER_FRAMES = 16
# FFmpeg goes by the content, not the name: a text file 'ffconcat version 1.0' named clip.mp4 would open every file
# that it lists. So only formats that hold their pictures themselves are opened (the audio ones, to be named as such).
_FORMATS = (
    *("mov", "matroska", "avi", "mpeg", "mpegvideo", "mpegts", "asf", "flv", "ivf", "ogg", "mxf", "nut", "dv", "gif"),
    *("h261", "h263", "h264", "hevc", "vvc", "m4v", "av1", "obu", "vc1", "mjpeg", "rm", "wtv", "swf", "yuv4mpegpipe"),
    *("wav", "w64", "mp3", "aac", "ac3", "flac", "aiff", "amr"),
)
_CONTAINER_OPTIONS = {"format_whitelist": ",".join(_FORMATS), "protocol_whitelist": "file"}


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


@contextmanager
def open_video(path: str | Path) -> Iterator[av.container.InputContainer]:
    """Open a file that holds its pictures itself, whatever it is called.

    Args:
        path: A local file.

    Raises:
        VideoDecodeError: If FFmpeg cannot read it, also where that turns out only inside the `with` block, or if it is
            a list of other files (ffconcat, HLS, DASH), none of which is opened.
    """
    try:
        # file: keeps a name such as `subfile:a.mp4` from being taken for a protocol.
        # metadata_errors: a title in Latin-1 must not make the pictures unreadable.
        container = av.open(f"file:{path}", metadata_errors="replace", container_options=_CONTAINER_OPTIONS)
    except av.error.ArgumentError as error:
        reason = "it is a list of other files or a kind that is not read, not a video; convert it to MP4"
        raise VideoDecodeError(path, reason) from error
    except av.error.FFmpegError as error:
        raise VideoDecodeError(path, _undecodable(error)) from error
    with container:
        try:
            yield container
        except av.error.FFmpegError as error:
            raise VideoDecodeError(path, _undecodable(error)) from error


def find_video_stream(container: av.container.InputContainer, path: str | Path) -> av.VideoStream:
    """Return the first video stream that is not a cover picture.

    Args:
        container: The open file.
        path: Its name, for the message.

    Raises:
        VideoDecodeError: If there is none, or FFmpeg has no decoder for it.
    """
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise VideoDecodeError(path, f"it holds no video ({kinds} only)")
    if streams[0].codec_context is None:
        raise VideoDecodeError(path, "FFmpeg has no decoder for its video")
    return streams[0]


def read_frames(path: str | Path, times_seconds: Sequence[float] | np.ndarray) -> np.ndarray:
    """Read the pictures that are on screen at given instants.

    The picture at t is the last one whose presentation time is at most t: what a viewer would see. Before the first
    picture that is the first one, after the end it is the last one (held).

    Args:
        path: A video file.
        times_seconds: Instants in seconds since the first picture, in any order, shape (N,).

    Returns:
        RGB pictures, uint8, shape (N, height, width, 3), upright, in the order of `times_seconds`.

    Raises:
        FileNotFoundError: If there is no such file.
        VideoDecodeError: If it has no picture that can be decoded, is damaged before the last instant, or changes its
            picture size between the instants.
        ValueError: If `times_seconds` is empty.
    """
    times = np.asarray(times_seconds, dtype=np.float64)
    if times.size == 0:
        raise ValueError("times_seconds must name at least one instant, got none")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such video file")
    order = np.argsort(times, kind="stable")
    ascending = times[order]
    frames = _pictures_at(path, ascending, seek=True) or _pictures_at(path, ascending, seek=False)
    if not frames:
        raise VideoDecodeError(path, "not one picture could be decoded")
    pictures = np.empty((len(times), *frames[0].shape), dtype=np.uint8)
    for position, picture in zip(order, frames, strict=True):
        if picture.shape != pictures.shape[1:]:
            sizes = [f"{shape[1]}x{shape[0]}" for shape in (frames[0].shape, picture.shape)]
            raise VideoDecodeError(path, f"its picture size changes from {sizes[0]} to {sizes[1]} half way")
        pictures[position] = picture
    return pictures


def _undecodable(error: av.error.FFmpegError) -> str:
    return f"cannot be decoded as video (FFmpeg says '{error.strerror}')"


def _pictures_at(path: str | Path, times: np.ndarray, *, seek: bool) -> list[np.ndarray]:
    """One RGB picture for each of the ascending `times`; a picture asked for twice is converted once.

    Empty if not one picture was found, which after a seek means only that the seek went astray.
    """
    with open_video(path) as container:
        stream = find_video_stream(container, path)
        stream.codec_context.thread_count = 1  # loaders run one process a core already
        timed = _timed_frames(container, stream, seek_to=float(times[0]) if seek else 0.0)
        pictures: list[np.ndarray] = []
        shown: av.VideoFrame | None = None
        converted: np.ndarray | None = None
        upcoming = next(timed, None)
        for instant in times:
            while upcoming is not None and (shown is None or upcoming[0] <= instant + TOLERANCE_SECONDS):
                shown, converted = upcoming[1], None
                upcoming = next(timed, None)
            if shown is None:
                break
            if converted is None:
                converted = _upright_rgb(shown)
            pictures.append(converted)
        return pictures


def _timed_frames(
    container: av.container.InputContainer, stream: av.VideoStream, *, seek_to: float
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames in presentation order with their seconds since the first one.

    Where `seek_to` is far enough from the start they begin at a key frame at or before it; there are none if the seek
    missed it.
    """
    frames = container.decode(stream)
    if container.format.name == "avi":
        yield from _from_first(_sort_times(frames), stream)
        return
    first = next(frames, None)
    if first is None:
        return
    if seek_to > SEEK_AFTER_SECONDS and first.time is not None and _seek(container, stream, first.time + seek_to):
        # The header's start time is not always the first picture's, so that one was decoded to count from it.
        frames = container.decode(stream)
        landed = next(frames, None)
        if landed is None or landed.time is None or landed.time - first.time > seek_to:
            return
        yield landed.time - first.time, landed
        for frame in frames:
            if frame.time is not None:
                yield frame.time - first.time, frame
        return
    yield from _from_first(((frame.time, frame) for frame in chain([first], frames)), stream)


def _seek(container: av.container.InputContainer, stream: av.VideoStream, seconds: float) -> bool:
    """Go to the key frame at or before `seconds` of the file's own clock; False where the container cannot."""
    try:
        container.seek(int(seconds / (stream.time_base or 1)), stream=stream, backward=True)
    except av.error.FFmpegError:
        return False
    return True


def _from_first(
    timed: Iterator[tuple[float | None, av.VideoFrame]], stream: av.VideoStream
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Count from the first frame; where a time is missing, the file's rate tells it."""
    # Raw streams have no times, and their average rate is FFmpeg's default; the guessed one is what the codec says.
    step = 1.0 / float(stream.guessed_rate or stream.average_rate or 25)
    origin: float | None = None
    seconds = -step
    for time, frame in timed:
        if time is None:
            seconds += step
        else:
            origin = time - (seconds + step) if origin is None else origin
            seconds = time - origin
        yield seconds, frame


def _sort_times(frames: Iterator[av.VideoFrame]) -> Iterator[tuple[float | None, av.VideoFrame]]:
    """Give each frame the earliest time stamp not yet given: frames come in order, AVI's guessed stamps do not."""
    waiting: deque[av.VideoFrame] = deque()
    stamps: list[float] = []
    for frame in frames:
        waiting.append(frame)
        if frame.time is not None:
            heapq.heappush(stamps, frame.time)
        if len(waiting) > AVI_REORDER_FRAMES:
            yield heapq.heappop(stamps) if stamps else None, waiting.popleft()
    while waiting:
        yield heapq.heappop(stamps) if stamps else None, waiting.popleft()


def _upright_rgb(frame: av.VideoFrame) -> np.ndarray:
    """RGB, uint8, (height, width, 3), turned as the file's display matrix says."""
    picture = frame.to_ndarray(format="rgb24")
    quarter_turns = round(frame.rotation / 90) % 4
    return np.rot90(picture, quarter_turns) if quarter_turns else picture
