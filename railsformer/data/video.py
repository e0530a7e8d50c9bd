"""PyAV: the pictures of a video file at given times, the right way up, in the right colours and order.

Times are seconds since a file's first picture. `read_frames`, `iterate_frames` and the probe share one rule:

* A decoder gives pictures in the order in which they are shown. AVI's guessed time stamps are sorted to match.
* A picture without a time stamp stands one step (1 / rate) after the one before it.
* One that is more than a second before the picture before it has started the clock anew: it stands one step after
  that picture, and later ones count from there.
* One that is less far back, or at the same time, stands a millisecond after the picture before it.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Literal, TypeAlias

import av
import numpy as np

from railsformer.data.packet_plan import frames_at

__all__ = [
    "MAX_PIXELS",
    "ReasonClass",
    "VideoDecodeError",
    "find_video_stream",
    "iterate_frames",
    "last_picture_seconds",
    "open_video",
    "read_frames",
    "same_size",
    "timed_frames",
    "upright_rgb",
    "usual_step_seconds",
]

ReasonClass: TypeAlias = Literal[
    "missing",
    "empty",
    "unreadable",
    "no_video",
    "no_decoder",
    "no_pictures",
    "truncated",
    "damaged",
    "size_changes",
    "too_large",
    "too_long",
    "timeout",
    "crash",
]

# Above 8K. A header of a few bytes may claim pictures of gigabytes, so this holds wherever a file is opened.
MAX_PIXELS = 8192 * 8192
# Nearer than this to the start, decoding from the first picture is cheaper than a seek to a key frame.
SEEK_AFTER_SECONDS = 3.0
# Time stamps are rounded to a time base; a picture that begins this little after the instant still counts as shown.
TOLERANCE_SECONDS = 1e-3
# AVI stores no presentation times: FFmpeg guesses them in the order of decoding, at most this far out of place.
AVI_REORDER_FRAMES = 16
# A time stamp further back than this is a new clock (a recorder that began again), nearer ones are jitter.
_CLOCK_RESET_SECONDS = 1.0
# Reading on after this many damaged reads in a row would be reading in circles.
_MAX_DAMAGED_READS = 100
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
        reason_class: What kind of damage it is, for tables.
    """

    def __init__(self, path: str | Path, reason: str, reason_class: ReasonClass = "damaged") -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason
        self.reason_class = reason_class

    def __reduce__(self) -> tuple[type["VideoDecodeError"], tuple[str, str, ReasonClass]]:
        """Keep all arguments on the way from a worker process."""
        return type(self), (str(self.path), self.reason, self.reason_class)


@contextmanager
def open_video(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Iterator[av.container.InputContainer]:
    """Open a file that holds its pictures itself, whatever it is called.

    Args:
        path: A local file.
        max_pixels: Pictures with more pixels are refused before memory is taken for them.

    Raises:
        VideoDecodeError: If FFmpeg cannot read it, also where that turns out only inside the `with` block, if it is
            a list of other files (ffconcat, HLS, DASH), none of which is opened, or if its pictures are too large.
    """
    try:
        # file: keeps a name such as `subfile:a.mp4` from being taken for a protocol.
        # metadata_errors: a title in Latin-1 must not make the pictures unreadable.
        container = av.open(
            f"file:{path}",
            metadata_errors="replace",
            container_options=_CONTAINER_OPTIONS,
            options={"max_pixels": str(_padded(max_pixels))},
        )
    except av.error.ArgumentError as error:
        reason = "it is a list of other files or a kind that is not read, not a video; convert it to MP4"
        raise VideoDecodeError(path, reason, "unreadable") from error
    except av.error.FileNotFoundError as error:
        raise VideoDecodeError(path, "there is no such file; correct the name", "missing") from error
    except av.error.PermissionError as error:
        raise VideoDecodeError(path, "you may not read it; give yourself the right to", "unreadable") from error
    except av.error.FFmpegError as error:
        raise VideoDecodeError(path, _undecodable(error, "copy it again, or remove it"), "unreadable") from error
    with container:
        _limit_pixels(container, path, max_pixels)
        try:
            yield container
        except (av.error.ArgumentError, av.error.MemoryError) as error:
            reason = _undecodable(error, f"its pictures may not have more than {max_pixels} pixels: scale it down")
            raise VideoDecodeError(path, reason, "too_large") from error
        except av.error.FFmpegError as error:
            reason = _undecodable(error, "copy it again, or keep what decodes with --on_bad salvage")
            raise VideoDecodeError(path, reason) from error


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
        raise VideoDecodeError(path, f"it holds no video ({kinds} only); remove it", "no_video")
    if streams[0].codec_context is None:
        raise VideoDecodeError(path, "FFmpeg has no decoder for its video; convert it to H.264", "no_decoder")
    return streams[0]


def iterate_frames(
    path: str | Path, *, salvage: bool = False, max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Decode a file from its first picture to its last; the module's docstring states the rule for times.

    Args:
        path: A video file.
        salvage: Skip what is damaged, and bring pictures of another size to that of the first.
        max_pixels: Largest picture.

    Yields:
        Seconds since the first picture, ascending, and the frame as it was coded; `upright_rgb` turns it into what a
        viewer sees.

    Raises:
        FileNotFoundError: If there is no such file.
        VideoDecodeError: If it has no picture that can be decoded; without `salvage` also where it is damaged or
            changes its picture size.
    """
    _check_is_file(path)
    first: av.VideoFrame | None = None
    with open_video(path, max_pixels=max_pixels) as container:
        stream = find_video_stream(container, path)
        stream.codec_context.thread_count = 1  # loaders run one process a core already
        for seconds, frame in timed_frames(container, stream, salvage=salvage):
            first = first or frame
            yield seconds, same_size(frame, first, path, salvage=salvage, max_pixels=max_pixels)
    if first is None:
        raise VideoDecodeError(path, "not one picture could be decoded; copy it again, or remove it", "no_pictures")


def read_frames(path: str | Path, times_seconds: Sequence[float] | np.ndarray, *, salvage: bool = False) -> np.ndarray:
    """Read the pictures that are on screen at given instants.

    The picture at t is the last one whose presentation time is at most t: what a viewer would see. Before the first
    picture that is the first one, after the end it is the last one (held).

    Args:
        path: A video file.
        times_seconds: Instants in seconds since the first picture, in any order, shape (N,).
        salvage: Skip what is damaged, and bring pictures of another size to that of the first.

    Returns:
        RGB pictures, uint8, shape (N, height, width, 3), upright, in the order of `times_seconds`.

    Raises:
        FileNotFoundError: If there is no such file.
        VideoDecodeError: If it has no picture that can be decoded, is damaged where an instant needs it, or changes
            its picture size between the instants.
        ValueError: If `times_seconds` is empty.
    """
    times = np.asarray(times_seconds, dtype=np.float64)
    if times.size == 0:
        raise ValueError("times_seconds must name at least one instant, got none")
    _check_is_file(path)
    order = np.argsort(times, kind="stable")
    ascending = times[order]
    frames = (
        (None if salvage else _planned_pictures(path, ascending))
        or _pictures_at(path, ascending, seek=True, salvage=salvage)
        or _pictures_at(path, ascending, seek=False, salvage=salvage)
    )
    if not frames:
        raise VideoDecodeError(path, "not one picture could be decoded; copy it again, or remove it", "no_pictures")
    pictures = np.empty((len(times), *frames[0].shape), dtype=np.uint8)
    for position, picture in zip(order, frames, strict=True):
        pictures[position] = picture
    return pictures


def upright_rgb(frame: av.VideoFrame) -> np.ndarray:
    """Turn a decoded frame into the picture that a viewer sees.

    Colours follow the frame's own range and matrix (BT.601 where it names none, as FFmpeg has it). An interlaced frame
    shows two instants; its upper field is kept and the lines between are interpolated.

    Returns:
        RGB, uint8, (height, width, 3), turned as the file's display matrix says.
    """
    if frame.interlaced_frame and frame.height > 2:
        picture = _fill_lines(_upper_field(frame).to_ndarray(format="rgb24", threads=1), frame.height)
    else:
        picture = frame.to_ndarray(format="rgb24", threads=1)
    quarter_turns = round(frame.rotation / 90) % 4
    return np.rot90(picture, quarter_turns) if quarter_turns else picture


def timed_frames(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    *,
    seek_to: float = 0.0,
    salvage: bool = False,
    on_packet: Callable[[av.Packet | None, bool], None] | None = None,
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames in presentation order with their seconds since the first one.

    Where `seek_to` is far enough from the start they begin at a key frame at or before it; there are none if the seek
    missed it. `on_packet` is told of each packet and whether it was damaged; of None where salvage got past a place in
    which not even a packet could be read.
    """
    frames = _decode(container, stream, salvage=salvage, on_packet=on_packet)
    step = usual_step_seconds(stream)
    if container.format.name == "avi":
        yield from _repair_times(_sort_times(frames), step)
        return
    first = next(frames, None)
    if first is None:
        return
    if seek_to > SEEK_AFTER_SECONDS and first.time is not None and _seek(container, stream, first.time + seek_to):
        # The header's start time is not always the first picture's, so that one was decoded to count from it.
        frames = _decode(container, stream, salvage=salvage)
        landed = next(frames, None)
        if landed is None or landed.time is None or landed.time - first.time > seek_to:
            return
        timed = ((frame.time, frame) for frame in chain([landed], frames))
        yield from _repair_times(timed, step, origin=first.time)
        return
    yield from _repair_times(((frame.time, frame) for frame in chain([first], frames)), step)


def usual_step_seconds(stream: av.VideoStream) -> float:
    """One over the rate that the header or the codec tells."""
    # Raw streams have no times, and their average rate is FFmpeg's default; the guessed one is what the codec says.
    return 1.0 / float(stream.guessed_rate or stream.average_rate or 25)


def last_picture_seconds(told_seconds: float, step_seconds: float, *, interlaced: bool) -> float:
    """How long the last picture stays: as long as the file tells, or as the one before it where it tells nothing.

    Args:
        told_seconds: Duration of the picture as the file tells it, 0 where it does not.
        step_seconds: From the picture before it, or `usual_step_seconds` where there is none.
        interlaced: Whether it is; some containers tell the duration of one of its two fields.
    """
    if interlaced:
        return max(told_seconds, min(step_seconds, 2 * told_seconds) if told_seconds else step_seconds)
    return told_seconds or step_seconds


def same_size(
    frame: av.VideoFrame, first: av.VideoFrame, path: str | Path, *, salvage: bool, max_pixels: int = MAX_PIXELS
) -> av.VideoFrame:
    """Return a frame of the first one's size.

    Raises:
        VideoDecodeError: If it is too large, or has another size; `salvage` rescales it.
    """
    if frame.width * frame.height > max_pixels:
        raise _too_large(path, frame.width, frame.height, max_pixels)
    if (frame.width, frame.height) == (first.width, first.height):
        return frame
    if salvage:
        return frame.reformat(width=first.width, height=first.height)
    sizes = f"from {first.width}x{first.height} to {frame.width}x{frame.height}"
    reason = f"its picture size changes {sizes} half way; cut it there, or rescale it with --on_bad salvage"
    raise VideoDecodeError(path, reason, "size_changes")


def _undecodable(error: av.error.FFmpegError, advice: str) -> str:
    return f"cannot be decoded as video (FFmpeg says '{error.strerror}'); {advice}"


def _too_large(path: str | Path, width: int, height: int, max_pixels: int) -> VideoDecodeError:
    reason = f"its pictures of {width}x{height} have more than {max_pixels} pixels; scale it down, or raise the limit"
    return VideoDecodeError(path, reason, "too_large")


def _check_is_file(path: str | Path) -> None:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such video file")


def _limit_pixels(container: av.container.InputContainer, path: str | Path, max_pixels: int) -> None:
    """Refuse what the header says is too large, and let decoders refuse what turns out so."""
    for stream in container.streams.video:
        context = stream.codec_context
        if context is None:
            continue
        if context.width * context.height > max_pixels:
            raise _too_large(path, context.width, context.height, max_pixels)
        context.options = {"max_pixels": str(_padded(max_pixels))}


def _padded(max_pixels: int) -> int:
    """What FFmpeg may take memory for: pictures have margins, and what is just too large is to be named as such."""
    return 2 * max_pixels + 2**20


def _planned_pictures(path: str | Path, times: np.ndarray) -> list[np.ndarray] | None:
    """As `_pictures_at`, decoding only what the packets say is needed; None where the file cannot be read so."""
    with open_video(path) as container:
        stream = find_video_stream(container, path)
        stream.codec_context.thread_count = 1  # loaders run one process a core already
        frames = frames_at(
            container, stream, times, tolerance_seconds=TOLERANCE_SECONDS, seek_after_seconds=SEEK_AFTER_SECONDS
        )
        if frames is None or len({(frame.width, frame.height) for frame in frames}) > 1:
            return None
        pictures = {frame.pts: upright_rgb(frame) for frame in frames}
        return [pictures[frame.pts] for frame in frames]


def _pictures_at(path: str | Path, times: np.ndarray, *, seek: bool, salvage: bool) -> list[np.ndarray]:
    """One RGB picture for each of the ascending `times`; a picture asked for twice is converted once.

    Empty if not one picture was found, which after a seek means only that the seek went astray.
    """
    with open_video(path) as container:
        stream = find_video_stream(container, path)
        stream.codec_context.thread_count = 1  # loaders run one process a core already
        timed = timed_frames(container, stream, seek_to=float(times[0]) if seek else 0.0, salvage=salvage)
        pictures: list[np.ndarray] = []
        shown: av.VideoFrame | None = None
        first: av.VideoFrame | None = None
        converted: np.ndarray | None = None
        upcoming = next(timed, None)
        for instant in times:
            while upcoming is not None and (shown is None or upcoming[0] <= instant + TOLERANCE_SECONDS):
                shown, converted = upcoming[1], None
                upcoming = next(timed, None)
            if shown is None:
                break
            first = first or shown
            if converted is None:
                converted = upright_rgb(same_size(shown, first, path, salvage=salvage))
            pictures.append(converted)
        return pictures


def _decode(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    *,
    salvage: bool,
    on_packet: Callable[[av.Packet | None, bool], None] | None = None,
) -> Iterator[av.VideoFrame]:
    """Decode from where the file stands; with `salvage` what raises is skipped."""
    damaged_reads = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:
            damaged_reads += 1
            if not salvage or damaged_reads > _MAX_DAMAGED_READS:
                raise
            if on_packet:
                on_packet(None, True)
            packets = container.demux(stream)  # a generator that raised is spent
            continue
        if packet is None:
            return
        damaged_reads = 0
        try:
            frames = packet.decode()
        except av.error.EOFError:  # the decoder was flushed before, by the end of a restarted read
            return
        except av.error.FFmpegError:
            if not salvage:
                raise
            frames = []
            if on_packet:
                on_packet(packet, True)
        else:
            if on_packet:
                on_packet(packet, False)
        yield from frames


def _seek(container: av.container.InputContainer, stream: av.VideoStream, seconds: float) -> bool:
    """Go to the key frame at or before `seconds` of the file's own clock; False where the container cannot."""
    try:
        container.seek(int(seconds / (stream.time_base or 1)), stream=stream, backward=True)
    except av.error.FFmpegError:
        return False
    return True


def _repair_times(
    timed: Iterator[tuple[float | None, av.VideoFrame]], step: float, *, origin: float | None = None
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Count seconds from the first frame, or from `origin` of the file's clock, by the rule of the module."""
    seconds = -step
    begun = False
    for time, frame in timed:
        following = seconds + step if begun or origin is None else 0.0
        if time is None:
            current = following
        else:
            if origin is None or (begun and time - origin < seconds - _CLOCK_RESET_SECONDS):
                origin = time - following
            current = time - origin
        seconds = max(current, seconds + TOLERANCE_SECONDS) if begun else current
        begun = True
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


def _upper_field(frame: av.VideoFrame) -> av.VideoFrame:
    """Every other line of each plane, so that chroma goes with its own field."""
    field = av.VideoFrame(frame.width, (frame.height + 1) // 2, frame.format.name)
    for source, target in zip(frame.planes, field.planes, strict=True):
        lines = np.frombuffer(memoryview(source), np.uint8).reshape(-1, source.line_size)[: source.height : 2]
        padded = np.zeros((target.buffer_size // target.line_size, target.line_size), np.uint8)
        width = min(source.line_size, target.line_size)
        padded[: target.height, :width] = lines[: target.height, :width]
        target.update(padded.tobytes())
    field.colorspace, field.color_range = frame.colorspace, frame.color_range
    return field


def _fill_lines(field: np.ndarray, height: int) -> np.ndarray:
    """Put the mean of two neighbours between the lines of a field, shape (ceil(height / 2), width, 3)."""
    picture = np.empty((height, *field.shape[1:]), np.uint8)
    picture[0::2] = field
    above, below = field[: height // 2], np.concatenate([field[1:], field[-1:]])[: height // 2]
    picture[1::2] = (above.astype(np.uint16) + below + 1) // 2
    return picture
