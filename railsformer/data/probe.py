"""Facts of one video file, and which files are none."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
from tqdm import tqdm

from railsformer.data.video import VideoDecodeError, find_video_stream

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
    """Open a file, decode its first picture and count the packets of all of them.

    Args:
        path: Any file.

    Returns:
        Its facts.

    Raises:
        VideoDecodeError: If the file is missing or empty, holds no video, or gives no picture.
    """
    path = Path(path)
    if not path.is_file():
        raise VideoDecodeError(path, "there is no such file")
    if path.stat().st_size == 0:
        raise VideoDecodeError(path, "the file is empty (0 bytes)")
    try:
        # metadata_errors: a title in Latin-1 must not make the pictures unreadable
        with av.open(str(path), metadata_errors="replace") as container:
            return _read_facts(container, path)
    except av.FFmpegError as error:
        raise VideoDecodeError(path, f"FFmpeg says '{error.strerror}'") from error


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


def _read_facts(container: Any, path: Path) -> VideoFacts:
    stream = find_video_stream(container, path)
    picture = None
    num_frames, first_pts, end_pts = 0, None, None
    for packet in container.demux(stream):
        if picture is None:  # the last packet is empty and flushes the decoder
            picture = next(iter(packet.decode()), None)
        if packet.size == 0 or packet.is_discard:
            continue
        num_frames += 1
        if packet.pts is not None:
            end = packet.pts + (packet.duration or 0)
            first_pts = packet.pts if first_pts is None else min(first_pts, packet.pts)
            end_pts = end if end_pts is None else max(end_pts, end)
    if picture is None:
        raise VideoDecodeError(path, "not one picture could be decoded")
    rate = stream.average_rate or stream.guessed_rate
    if end_pts is not None and first_pts is not None and end_pts > first_pts:
        duration_seconds = float((end_pts - first_pts) * stream.time_base)
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
