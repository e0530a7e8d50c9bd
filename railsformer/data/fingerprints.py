"""A video -> its fingerprint: a hash of the decoded pictures, and tiny grey pictures at a fixed rate.

Shapes: T thumbnails, H x W thumbnail (24 x 32).
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from zipfile import BadZipFile

import av
import numpy as np
from tqdm import tqdm

from railsformer.data.probe import available_cores
from railsformer.data.video import TOLERANCE_SECONDS, VideoDecodeError, find_video_stream, open_video, timed_frames

__all__ = [
    "THUMBNAIL_RATE",
    "THUMBNAIL_SIZE",
    "Fingerprint",
    "SegmentOfFile",
    "fingerprint_video",
    "fingerprint_videos",
    "load_fingerprint",
    "save_fingerprint",
]

THUMBNAIL_RATE = 4  # thumbnails a second
THUMBNAIL_SIZE = (24, 32)  # height, width
_VERSION = 2  # of the files below; another number makes old ones useless


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is kept of a video to find its copies.

    Attributes:
        exact_hash: Of every decoded picture in order, before any conversion; blind to container, names, time stamps
            and audio.
        num_frames: Pictures that were decoded.
        times_seconds: Where each thumbnail's quarter of a second begins, since the first picture of the segment,
            float32, shape (T,). Quarters in which no new picture came are left out.
        thumbnails: Median picture of that quarter of a second, upright, grey levels 0 to 255, float16, shape
            (T, H, W).
    """

    exact_hash: str
    num_frames: int
    times_seconds: np.ndarray
    thumbnails: np.ndarray


@dataclass(frozen=True)
class SegmentOfFile:
    """An interval of a file; the whole file unless told otherwise.

    Attributes:
        path: The file.
        start_seconds: Since the file's first picture.
        end_seconds: Likewise; None means the file's end.
    """

    path: Path
    start_seconds: float = 0.0
    end_seconds: float | None = None


def fingerprint_video(
    path: str | Path, *, start_seconds: float = 0.0, end_seconds: float | None = None, salvage: bool = False
) -> Fingerprint:
    """Decode a segment once and keep its hash and thumbnails.

    Args:
        path: A video file.
        start_seconds: The segment's start, since the first picture.
        end_seconds: Its end, exclusive; None means the file's.
        salvage: Skip what is damaged.

    Raises:
        FileNotFoundError: If there is no such file.
        VideoDecodeError: If the segment holds no picture that can be decoded, or the file is damaged before its end.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such video file")
    digest = hashlib.blake2b(digest_size=16)
    bins = _Bins()
    num_frames = 0
    for seconds, frame in _segment_frames(path, start_seconds, end_seconds, salvage=salvage):
        _hash_picture(digest, frame)
        bins.add(seconds, _thumbnail(frame))
        num_frames += 1
    if num_frames == 0:
        until = "the end" if end_seconds is None else f"{end_seconds:g} s"
        reason = f"not one picture could be decoded from {start_seconds:g} s to {until}; correct the segment's times"
        raise VideoDecodeError(path, reason, "no_pictures")
    times, thumbnails = bins.result()
    return Fingerprint(digest.hexdigest(), num_frames, times, thumbnails)


def fingerprint_videos(
    segments: Sequence[SegmentOfFile],
    *,
    salvage: bool = False,
    record: str | Path | None = None,
    num_workers: int | None = None,
    progress: bool = False,
) -> list[Fingerprint | VideoDecodeError]:
    """Fingerprint many segments in threads (FFmpeg works outside Python's lock).

    Args:
        segments: What to read.
        salvage: Skip what is damaged.
        record: Folder that keeps one small file for each segment, so that an interrupted run goes on where it was; a
            source file that has changed since is read again. None means that nothing is kept.
        num_workers: Threads; None means one for each core this process may use.
        progress: Whether to draw a bar on stderr.

    Returns:
        A fingerprint, or the error that says why there is none, in the order of `segments`.
    """
    if record is not None:
        Path(record).mkdir(parents=True, exist_ok=True)
    executor = ThreadPoolExecutor(num_workers or available_cores())
    try:
        results = executor.map(partial(_recorded_fingerprint, salvage=salvage, record=record), segments)
        return list(tqdm(results, total=len(segments), desc="looking for copies", unit="file", disable=not progress))
    finally:
        executor.shutdown(cancel_futures=True)  # Ctrl-C waits for the files at hand, not for the whole queue


def save_fingerprint(path: str | Path, fingerprint: Fingerprint) -> None:
    """Write one fingerprint; the file appears whole or not at all.

    Args:
        path: Where to, .npz.
        fingerprint: What to write.
    """
    path = Path(path)
    partial_path = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial_path.open("wb") as file:
        np.savez(
            file,
            version=np.int64(_VERSION),
            exact_hash=np.array(fingerprint.exact_hash),
            num_frames=np.int64(fingerprint.num_frames),
            times_seconds=fingerprint.times_seconds,
            thumbnails=fingerprint.thumbnails,
        )
    os.replace(partial_path, path)


def load_fingerprint(path: str | Path) -> Fingerprint:
    """Read what `save_fingerprint` wrote.

    Args:
        path: The .npz file.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is not such a file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such fingerprint file")
    try:
        with np.load(path, allow_pickle=False) as stored:
            version = int(stored["version"])
            fingerprint = Fingerprint(
                exact_hash=str(stored["exact_hash"]),
                num_frames=int(stored["num_frames"]),
                times_seconds=stored["times_seconds"],
                thumbnails=stored["thumbnails"],
            )
    except (KeyError, OSError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} is not a fingerprint file; delete it to have it made again") from error
    if version != _VERSION:
        raise ValueError(f"{path} has version {version}, expected {_VERSION}; delete it to have it made again")
    return fingerprint


def _recorded_fingerprint(
    segment: SegmentOfFile, *, salvage: bool, record: str | Path | None
) -> Fingerprint | VideoDecodeError:
    place = None if record is None else Path(record) / f"{_record_key(segment, salvage)}.npz"
    if place is not None and place.is_file():
        try:
            return load_fingerprint(place)
        except ValueError:
            pass  # of another version, or cut off by a full disk: made again below
    try:
        fingerprint = fingerprint_video(
            segment.path, start_seconds=segment.start_seconds, end_seconds=segment.end_seconds, salvage=salvage
        )
    except FileNotFoundError:
        return VideoDecodeError(segment.path, "there is no such file", "missing")
    except VideoDecodeError as error:
        return error
    if place is not None:
        save_fingerprint(place, fingerprint)
    return fingerprint


def _record_key(segment: SegmentOfFile, salvage: bool) -> str:
    """Name of the file that keeps a segment's fingerprint; another one as soon as the source changes."""
    try:
        state = segment.path.stat()
        facts = (state.st_size, state.st_mtime_ns)
    except OSError:
        facts = (0, 0)
    key = repr((str(segment.path.absolute()), *facts, segment.start_seconds, segment.end_seconds, salvage))
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _segment_frames(
    path: str | Path, start_seconds: float, end_seconds: float | None, *, salvage: bool
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames of [start, end) with their seconds since the first of them."""
    for seek_to in (start_seconds, 0.0):
        origin: float | None = None
        with open_video(path) as container:
            stream = find_video_stream(container, path)
            stream.codec_context.thread_count = 1  # one file a core
            for seconds, frame in timed_frames(container, stream, seek_to=seek_to, salvage=salvage):
                if seconds < start_seconds - TOLERANCE_SECONDS:
                    continue
                if end_seconds is not None and seconds >= end_seconds - TOLERANCE_SECONDS:
                    break
                origin = seconds if origin is None else origin
                yield seconds - origin, frame
        if origin is not None or seek_to == 0.0:  # a seek can go astray: then once more from the start
            return


def _hash_picture(digest: "hashlib.blake2b", frame: av.VideoFrame) -> None:
    """Feed the visible pixels: the padding at the end of a line holds whatever was in memory."""
    digest.update(f"{frame.width}x{frame.height}".encode())
    try:
        pixels = frame.to_ndarray()  # as coded; only yuvj420p and the like differ from their twins by a flag
    except ValueError:  # a format that PyAV has no array for
        pixels = frame.to_ndarray(format="rgb48le")
    digest.update(np.ascontiguousarray(pixels).data)


def _thumbnail(frame: av.VideoFrame) -> np.ndarray:
    """Small upright grey picture, float32, (H, W)."""
    quarter_turns = round(frame.rotation / 90) % 4
    height, width = THUMBNAIL_SIZE if quarter_turns % 2 == 0 else THUMBNAIL_SIZE[::-1]
    small = frame.reformat(width=width, height=height, format="gray", interpolation="AREA")
    picture = small.to_ndarray().astype(np.float32)
    return np.rot90(picture, quarter_turns) if quarter_turns else picture


class _Bins:
    """Median picture of each 1 / THUMBNAIL_RATE seconds.

    A median, since cutting tools leave single odd pictures, such as a first one that is squeezed between black bars.
    """

    def __init__(self) -> None:
        self._medians: dict[int, np.ndarray] = {}
        self._index = 0
        self._pictures: list[np.ndarray] = []

    def add(self, seconds: float, picture: np.ndarray) -> None:
        """Count one picture in; those of one quarter of a second come together."""
        index = int((seconds + 1e-3) * THUMBNAIL_RATE)
        if index != self._index:
            self._close()
            self._index = index
        self._pictures.append(picture)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return times and median pictures in order."""
        self._close()
        order = sorted(self._medians)
        medians = np.stack([self._medians[index] for index in order])
        return np.array(order, dtype=np.float32) / THUMBNAIL_RATE, medians

    def _close(self) -> None:
        if self._pictures and self._index not in self._medians:
            self._medians[self._index] = np.median(self._pictures, axis=0).astype(np.float16)
        self._pictures = []
