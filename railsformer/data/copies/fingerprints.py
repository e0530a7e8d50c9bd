"""A video -> its fingerprint: a hash of the decoded pictures, and tiny grey pictures at a fixed rate.

Shapes: T thumbnails, H x W thumbnail (24 x 32); the background is three times as fine.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from tqdm import tqdm

from railsformer.data.files import whole_file
from railsformer.data.isolation import Lost, run_isolated
from railsformer.data.probe import available_cores
from railsformer.data.video import (
    MAX_PIXELS,
    TOLERANCE_SECONDS,
    VideoDecodeError,
    find_video_stream,
    open_video,
    timed_frames,
)

__all__ = [
    "BACKGROUND_SIZE",
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
BACKGROUND_SIZE = (72, 96)
_BACKGROUND_PICTURES = 32  # at most; more of a long video change the median little
_VERSION = 3  # of the files below; another number makes old ones useless
# Time for a segment: enough for a slow core that decodes the whole file; one that hangs is stopped.
_TIMEOUT_SECONDS = 120.0
_TIMEOUT_SECONDS_PER_MB = 20.0


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
        background: Median of pictures from all over the segment, upright, uint8, shape BACKGROUND_SIZE.
    """

    exact_hash: str
    num_frames: int
    times_seconds: np.ndarray
    thumbnails: np.ndarray
    background: np.ndarray


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
    path: str | Path,
    *,
    start_seconds: float = 0.0,
    end_seconds: float | None = None,
    salvage: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Fingerprint:
    """Decode a segment once and keep its hash and thumbnails.

    Args:
        path: A video file.
        start_seconds: The segment's start, since the first picture.
        end_seconds: Its end, exclusive; None means the file's.
        salvage: Skip what is damaged.
        max_pixels: Largest picture.

    Raises:
        FileNotFoundError: If there is no such file.
        VideoDecodeError: If the segment holds no picture that can be decoded, or the file is damaged before its end.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such video file")
    digest = hashlib.blake2b(digest_size=16)
    bins, background = _Bins(), _Background()
    scaler, fine_scaler = VideoReformatter(), VideoReformatter()  # setting one up costs more than its work
    num_frames = 0
    for seconds, frame in _segment_frames(path, start_seconds, end_seconds, salvage=salvage, max_pixels=max_pixels):
        _hash_picture(digest, frame)
        bins.add(seconds, _small_picture(frame, scaler, THUMBNAIL_SIZE))
        if background.wants(seconds):
            background.add(_small_picture(frame, fine_scaler, BACKGROUND_SIZE))
        num_frames += 1
    if num_frames == 0:
        until = "the end" if end_seconds is None else f"{end_seconds:g} s"
        reason = f"not one picture could be decoded from {start_seconds:g} s to {until}; correct the segment's times"
        raise VideoDecodeError(path, reason, "no_pictures")
    times, thumbnails = bins.result()
    return Fingerprint(digest.hexdigest(), num_frames, times, thumbnails, background.result())


def fingerprint_videos(
    segments: Sequence[SegmentOfFile],
    *,
    salvage: bool = False,
    record: str | Path | None = None,
    num_workers: int | None = None,
    progress: bool = False,
    timeout_seconds: float | None = None,
    max_pixels: int = MAX_PIXELS,
) -> list[Fingerprint | VideoDecodeError]:
    """Fingerprint many segments in processes of their own; one that crashes or hangs FFmpeg costs its own alone.

    Args:
        segments: What to read; one that is named twice is read once.
        salvage: Skip what is damaged.
        record: Folder that keeps one small file for each segment, so that an interrupted run goes on where it was; a
            source file that has changed since is read again. None means that nothing is kept.
        num_workers: Processes; None means one for each core this process may use.
        progress: Whether to draw a bar on stderr.
        timeout_seconds: Longest time for one segment; None means 120 s and 20 s for each MB of the file.
        max_pixels: Largest picture.

    Returns:
        A fingerprint, or the error that says why there is none, in the order of `segments`.
    """
    with tempfile.TemporaryDirectory(prefix="railsformer-") if record is None else nullcontext(record) as folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        places = [Path(folder).absolute() / f"{_record_key(segment, salvage)}.npz" for segment in segments]
        found = {place: kept for place in dict.fromkeys(places) if (kept := _load_kept(place)) is not None}
        todo = {place: segment for place, segment in zip(places, segments, strict=True) if place not in found}
        outcomes = run_isolated(
            f"{__name__}:_fingerprint_task",
            [_task(segment, salvage, max_pixels, place) for place, segment in todo.items()],
            timeouts_seconds=[timeout_seconds or _timeout_seconds(segment.path) for segment in todo.values()],
            num_workers=num_workers or available_cores(),
        )
        bar = tqdm(
            total=len(found) + len(todo),
            initial=len(found),
            desc="looking for copies",
            unit="file",
            disable=not progress,
        )
        order = list(todo)
        with bar, closing(outcomes):  # Ctrl-C stops the files at hand
            for index, outcome in outcomes:
                place = order[index]
                found[place] = _result(todo[place].path, place, outcome)
                bar.update()
    return [found[place] for place in places]


def save_fingerprint(path: str | Path, fingerprint: Fingerprint) -> None:
    """Write one fingerprint; the file appears whole or not at all.

    Args:
        path: Where to, .npz.
        fingerprint: What to write.
    """
    path = Path(path)
    own = path.with_name(f".{path.name}.{os.getpid()}.partial")  # two runs may share a record
    with whole_file(path, partial=own) as partial, partial.open("wb") as file:
        np.savez(
            file,
            version=np.int64(_VERSION),
            exact_hash=np.array(fingerprint.exact_hash),
            num_frames=np.int64(fingerprint.num_frames),
            times_seconds=fingerprint.times_seconds,
            thumbnails=fingerprint.thumbnails,
            background=fingerprint.background,
        )


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
                background=stored["background"],
            )
    except (KeyError, OSError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} is not a fingerprint file; delete it to have it made again") from error
    if version != _VERSION:
        raise ValueError(f"{path} has version {version}, expected {_VERSION}; delete it to have it made again")
    return fingerprint


def _load_kept(place: Path) -> Fingerprint | VideoDecodeError | None:
    if not place.is_file():
        return None
    try:
        return load_fingerprint(place)
    except ValueError:  # of another version, or cut off by a full disk: made again
        return None


def _task(segment: SegmentOfFile, salvage: bool, max_pixels: int, place: Path) -> dict[str, Any]:
    return {
        "path": str(segment.path.absolute()),
        "start_seconds": segment.start_seconds,
        "end_seconds": segment.end_seconds,
        "salvage": salvage,
        "max_pixels": max_pixels,
        "place": str(place),
    }


def _fingerprint_task(task: dict[str, Any]) -> dict[str, str]:
    """Fingerprint one segment in a worker process: JSON in, JSON out, the fingerprint into a file."""
    place = task.pop("place")
    try:
        fingerprint = fingerprint_video(**task)
    except FileNotFoundError:
        return {"reason": "there is no such file", "reason_class": "missing"}
    except VideoDecodeError as error:
        return {"reason": error.reason, "reason_class": error.reason_class}
    try:
        save_fingerprint(place, fingerprint)
    except OSError as error:  # a full disk is no fault of the video
        return {"unsaved": f"{place}: the fingerprint cannot be written ({error.strerror}); make room there"}
    return {}


def _result(path: Path, place: Path, outcome: dict[str, Any] | Lost) -> Fingerprint | VideoDecodeError:
    if isinstance(outcome, Lost):
        if outcome.reason_class == "timeout":
            reason = f"decoding was stopped ({outcome.detail}); convert it to H.264, or raise the time limit"
        else:
            reason = f"it crashed the decoder ({outcome.detail}); convert it to H.264, or remove it"
        return VideoDecodeError(path, reason, outcome.reason_class)
    if "unsaved" in outcome:
        raise OSError(outcome["unsaved"])
    if outcome:
        return VideoDecodeError(path, outcome["reason"], outcome["reason_class"])
    return load_fingerprint(place)


def _timeout_seconds(path: Path) -> float:
    try:
        return _TIMEOUT_SECONDS + _TIMEOUT_SECONDS_PER_MB * path.stat().st_size / 1e6
    except OSError:  # the worker says what is wrong with it
        return _TIMEOUT_SECONDS


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
    path: str | Path, start_seconds: float, end_seconds: float | None, *, salvage: bool, max_pixels: int
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames of [start, end) with their seconds since the first of them."""
    for seek_to in (start_seconds, 0.0):
        origin: float | None = None
        with open_video(path, max_pixels=max_pixels) as container:
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


def _small_picture(frame: av.VideoFrame, scaler: VideoReformatter, size: tuple[int, int]) -> np.ndarray:
    """Small upright grey picture of a height and width, uint8."""
    quarter_turns = round(frame.rotation / 90) % 4
    height, width = size if quarter_turns % 2 == 0 else size[::-1]
    small = scaler.reformat(frame, width=width, height=height, format="gray", interpolation="AREA", threads=1)
    picture = small.to_ndarray()
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
            ranked = np.sort(np.stack(self._pictures), axis=0)  # much faster than np.median on bytes
            low, high = ranked[(len(ranked) - 1) // 2], ranked[len(ranked) // 2]
            self._medians[self._index] = (low.astype(np.float16) + high) / 2
        self._pictures = []


class _Background:
    """Median picture of a whole segment, from pictures that lie about evenly in it."""

    def __init__(self) -> None:
        self._pictures: list[np.ndarray] = []
        self._indices: list[int] = []
        self._every = 1  # half seconds

    def wants(self, seconds: float) -> bool:
        """Tell whether to add the picture at `seconds`."""
        index = int((seconds + 1e-3) * 2)
        if index % self._every or (self._indices and index <= self._indices[-1]):
            return False
        self._indices.append(index)
        return True

    def add(self, picture: np.ndarray) -> None:
        """Count the picture in that was wanted; where there are too many, every second one goes."""
        self._pictures.append(picture)
        if len(self._pictures) > _BACKGROUND_PICTURES:
            self._every *= 2
            kept = [place for place, index in enumerate(self._indices) if index % self._every == 0]
            self._pictures = [self._pictures[place] for place in kept]
            self._indices = [self._indices[place] for place in kept]

    def result(self) -> np.ndarray:
        """Return the median, uint8."""
        return np.sort(np.stack(self._pictures), axis=0)[len(self._pictures) // 2]
