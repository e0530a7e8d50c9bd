"""Facts of one video file, and which files are none."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av
from tqdm import tqdm

from railsformer.data.video import VideoDecodeError, find_video_stream, open_video

__all__ = ["VideoFacts", "available_cores", "probe_video", "probe_videos"]


@dataclass(frozen=True)
class VideoFacts:
    """What the container and the first picture of a file say.

    Attributes:
        duration_seconds: From the first picture to the end of the last one; 0 where the file tells neither times nor
            a rate.
        num_frames: Pictures counted from the packets; the header may claim more than a cut-off file holds.
        fps: Average pictures a second, None where the file does not tell.
        width: Of the coded picture in px, before rotation.
        height: Of the coded picture in px, before rotation.
        codec: FFmpeg's name.
        rotation_degrees: Counter-clockwise turn that the display matrix asks for.
    """

    duration_seconds: float
    num_frames: int
    fps: float | None
    width: int
    height: int
    codec: str
    rotation_degrees: int = 0


def probe_video(path: str | Path) -> VideoFacts:
    """Count a file's packets and decode pictures at its start, middle and end.

    The middle costs one key picture and the end those after the last key picture, so that this stays far cheaper than
    decoding the file, and finds most of what would end a training later.

    Args:
        path: Any file.

    Returns:
        Its facts.

    Raises:
        VideoDecodeError: If the file is missing or empty, holds no video or a list of other files, gives no picture,
            is cut off or damaged, or changes its picture size.
    """
    path = Path(path)
    if not path.is_file():
        raise VideoDecodeError(path, "there is no such file")
    if path.stat().st_size == 0:
        raise VideoDecodeError(path, "the file is empty (0 bytes)")
    with open_video(path) as container:
        return _read_facts(container, path)


def probe_videos(
    paths: Sequence[Path], *, num_workers: int | None = None, progress: bool = False
) -> list[VideoFacts | VideoDecodeError]:
    """Probe many files in threads (FFmpeg works outside Python's lock).

    Args:
        paths: The files.
        num_workers: Threads; None means one for each core this process may use.
        progress: Whether to draw a bar on stderr.

    Returns:
        Facts, or the error that says why there are none, in the order of `paths`.
    """
    executor = ThreadPoolExecutor(num_workers or available_cores())
    try:
        results = executor.map(_probe_or_error, paths)
        return list(tqdm(results, total=len(paths), desc="checking videos", unit="file", disable=not progress))
    finally:
        executor.shutdown(cancel_futures=True)  # Ctrl-C waits for the files at hand, not for the whole queue


def available_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _probe_or_error(path: Path) -> VideoFacts | VideoDecodeError:
    try:
        return probe_video(path)
    except VideoDecodeError as error:
        return error


def _read_facts(container: av.container.InputContainer, path: Path) -> VideoFacts:
    stream = find_video_stream(container, path)
    picture = None
    num_packets, num_frames, first_pts, end_pts = 0, 0, None, None
    for packet in container.demux(stream):
        if picture is None:  # the last packet is empty and flushes the decoder
            picture = next(iter(packet.decode()), None)
        num_packets += packet.size > 0
        if packet.size == 0 or packet.is_discard:
            continue
        num_frames += 1
        if packet.pts is not None:
            end = packet.pts + (packet.duration or 0)
            first_pts = packet.pts if first_pts is None else min(first_pts, packet.pts)
            end_pts = end if end_pts is None else max(end_pts, end)
    if picture is None:
        raise VideoDecodeError(path, "not one picture could be decoded")
    # Only MP4 and MOV list every picture in their header; elsewhere the number is a claim.
    if container.format.name.startswith("mov") and num_packets < stream.frames:
        raise VideoDecodeError(
            path, f"it is cut off: {num_packets} of {stream.frames} pictures are there; copy it again"
        )
    rate = stream.average_rate or stream.guessed_rate
    if end_pts is not None and first_pts is not None and end_pts > first_pts:
        duration_seconds = float((end_pts - first_pts) * (stream.time_base or 1))
        _check_later_pictures(container, stream, path, first=picture, middle=(first_pts + end_pts) // 2, end=end_pts)
    else:  # raw streams carry no times, and for them the average rate is only FFmpeg's default
        rate = stream.guessed_rate or stream.average_rate
        duration_seconds = num_frames / float(rate) if rate else 0.0
    return VideoFacts(
        duration_seconds=duration_seconds,
        num_frames=num_frames,
        fps=float(rate) if rate else None,
        width=picture.width,
        height=picture.height,
        codec=stream.codec_context.name,
        rotation_degrees=picture.rotation,
    )


def _check_later_pictures(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    path: Path,
    *,
    first: av.VideoFrame,
    middle: int,
    end: int,
) -> None:
    """Decode the key picture before the middle, and all from the last key picture on; times in the stream's units."""
    for pts in (middle, end):
        try:
            container.seek(pts, stream=stream, backward=True)
        except av.error.FFmpegError:
            return  # a container without an index; the reader starts from the first picture there
        for frame in container.decode(stream):
            if (frame.width, frame.height) != (first.width, first.height):
                sizes = f"from {first.width}x{first.height} to {frame.width}x{frame.height}"
                raise VideoDecodeError(path, f"its picture size changes {sizes} half way")
            if pts == middle:
                break
