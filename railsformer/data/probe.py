"""Facts of video files, found by decoding them, and which files are none."""

import json
import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
from tqdm import tqdm

from railsformer.data.isolation import Lost, run_isolated
from railsformer.data.video import (
    MAX_PIXELS,
    ReasonClass,
    VideoDecodeError,
    find_video_stream,
    last_picture_seconds,
    open_video,
    same_size,
    timed_frames,
    usual_step_seconds,
)

__all__ = ["VideoFacts", "VideoLimits", "available_cores", "probe_video", "probe_videos"]

# Steps between pictures that differ by more than this are a varying rate; Matroska rounds times to milliseconds.
_JITTER_SECONDS = 2.5e-3
# A header's rate that is this near to what was measured is taken as exact.
_RATE_TOLERANCE = 0.01
# Time for a file: enough for a slow core on long, still scenes; one that hangs is stopped.
_TIMEOUT_SECONDS = 120.0
_TIMEOUT_SECONDS_PER_MB = 20.0


@dataclass(frozen=True)
class VideoLimits:
    """What is refused, because footage can be hostile.

    Attributes:
        max_pixels: Of one picture.
        max_seconds: Of one file.
        max_frames: Of one file.
        timeout_seconds: To read one file, a sixth of the time to encode it; None means two minutes and 20 s for each
            megabyte.
    """

    max_pixels: int = MAX_PIXELS
    max_seconds: float = 24 * 3600.0
    max_frames: int = 24 * 3600 * 60
    timeout_seconds: float | None = None

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if value is not None and not value > 0:
                raise ValueError(f"{limit.name} must be above 0, got {value}; leave it out for the default")


@dataclass(frozen=True)
class VideoFacts:
    """What a file holds.

    Attributes:
        duration_seconds: From the first picture to the end of the last one.
        num_frames: Pictures found; the header may claim more than a cut-off file holds.
        fps: Average pictures a second, None where the file does not tell; of a single picture one over the time that
            it stays.
        width: Of the coded picture in px, before rotation.
        height: Of the coded picture in px, before rotation.
        codec: FFmpeg's name.
        rotation_degrees: Counter-clockwise turn that the display matrix asks for.
        file_name: The file's own name.
        num_bytes: Its size.
        pixel_format: FFmpeg's name.
        bit_depth: Bits of one sample.
        variable_rate: Whether the steps between pictures differ; None where they were not looked at.
        num_frames_claimed: What the header says, None where it says nothing.
        first_seconds: Presentation time of the first picture on the file's own clock, None where there is none.
        last_seconds: The same of the last picture.
        has_audio: Whether there is sound.
        interlaced: Whether a picture holds two instants line by line.
        damaged_packets: Packets that the decoder refused; only salvage gets past one.
        num_patched_frames: Pictures of num_frames that are damaged, but not so that the decoder refused them.
        needs_salvage: Whether a reader that skips no damage and rescales no picture stops before the file's end.
    """

    duration_seconds: float
    num_frames: int
    fps: float | None
    width: int
    height: int
    codec: str
    rotation_degrees: int = 0
    file_name: str = ""
    num_bytes: int = 0
    pixel_format: str = ""
    bit_depth: int = 8
    variable_rate: bool | None = None
    num_frames_claimed: int | None = None
    first_seconds: float | None = None
    last_seconds: float | None = None
    has_audio: bool = False
    interlaced: bool = False
    damaged_packets: int = 0
    num_patched_frames: int = 0
    needs_salvage: bool = False


def probe_video(
    path: str | Path, *, limits: VideoLimits | None = None, thorough: bool = True, salvage: bool = False
) -> VideoFacts:
    """Decode a file and say what it holds.

    Args:
        path: Any file.
        limits: What is refused; the time limit holds in `probe_videos` only.
        thorough: Decode every picture. Otherwise packets are counted and pictures decoded at the start, middle and
            end, which finds most damage at a tenth of the cost.
        salvage: Skip what is damaged, bring pictures of another size to that of the first, and refuse only a file
            without a picture or beyond the limits.

    Returns:
        Its facts.

    Raises:
        VideoDecodeError: If the file is missing or empty, holds no video or a list of other files, gives no picture,
            is cut off or damaged, changes its picture size, or is beyond a limit.
    """
    path, limits = Path(path), limits or VideoLimits()
    if not path.is_file():
        raise VideoDecodeError(path, "there is no such file; correct the name", "missing")
    num_bytes = path.stat().st_size
    if num_bytes == 0:
        raise VideoDecodeError(path, "the file is empty (0 bytes); copy it again, or remove it", "empty")
    with open_video(path, max_pixels=limits.max_pixels) as container:
        stream = find_video_stream(container, path)
        stream.codec_context.thread_count = 1  # one file a core
        if thorough or salvage:
            tally = _decode_all(container, stream, path, limits=limits, salvage=salvage)
        else:
            tally = _decode_some(container, stream, path, limits=limits)
        if not salvage:
            _check_whole(container, stream, path, tally.num_packets)
        return _facts(container, stream, tally, path, num_bytes)


def probe_videos(
    paths: Sequence[Path],
    *,
    num_workers: int | None = None,
    progress: bool = False,
    limits: VideoLimits | None = None,
    thorough: bool = True,
    salvage: bool = False,
    record: Path | None = None,
) -> list[VideoFacts | VideoDecodeError]:
    """Probe many files in processes of their own; one that crashes or hangs FFmpeg costs its own file only.

    Args:
        paths: The files; one that is named twice is probed once.
        num_workers: Processes; None means one for each core this process may use.
        progress: Whether to draw a bar on stderr.
        limits: What is refused.
        thorough: As for `probe_video`.
        salvage: As for `probe_video`.
        record: JSON lines of finished files, added to as they finish. A later call skips what is in it, as long as
            size, time of change and these settings are the same.

    Returns:
        Facts, or the error that says why there are none, in the order of `paths`.
    """
    limits = limits or VideoLimits()
    settings = {"limits": asdict(limits), "thorough": thorough, "salvage": salvage}
    names = list(dict.fromkeys(os.path.abspath(path) for path in paths))
    found = _read_record(record, names, settings) if record else {}
    todo = [name for name in names if name not in found]
    outcomes = run_isolated(
        f"{__name__}:_probe_task",
        [{"path": name, **settings} for name in todo],
        timeouts_seconds=[_timeout_seconds(name, limits) for name in todo],
        num_workers=num_workers or available_cores(),
    )
    log = _open_record(record) if record and todo else None
    try:
        with tqdm(
            total=len(names), initial=len(found), desc="checking videos", unit="file", disable=not progress
        ) as bar:
            for index, outcome in outcomes:
                name = todo[index]
                row = _lost_row(outcome) if isinstance(outcome, Lost) else outcome
                found[name] = row
                if log is not None:
                    _append_record(log, name, settings, row)
                bar.update()
    finally:
        outcomes.close()
        if log is not None:
            log.close()
    return [_result(path, found[os.path.abspath(path)]) for path in paths]


def available_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Tally:
    """What was met while a file was read; times are seconds since the first picture."""

    first: av.VideoFrame | None = None
    num_packets: int = 0
    num_damaged: int = 0
    num_patched: int = 0
    seconds: array = field(default_factory=lambda: array("d"))
    last_told_seconds: float = 0.0
    clock: tuple[float | None, float | None] = (None, None)
    interlaced: bool = False
    needs_salvage: bool = False

    def add_packet(self, packet: av.Packet | None, damaged: bool) -> None:
        self.needs_salvage |= damaged
        if packet is not None:
            self.num_packets += packet.size > 0
            self.num_damaged += damaged


def _decode_all(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    path: Path,
    *,
    limits: VideoLimits,
    salvage: bool,
) -> _Tally:
    tally = _Tally()
    frames = timed_frames(container, stream, salvage=salvage, on_packet=tally.add_packet)
    try:
        for seconds, frame in frames:
            tally.first = tally.first or frame
            fitted = same_size(frame, tally.first, path, salvage=salvage, max_pixels=limits.max_pixels)
            tally.needs_salvage |= fitted is not frame
            tally.interlaced |= frame.interlaced_frame
            tally.num_patched += frame.is_corrupt
            tally.seconds.append(seconds)
            _check_length(path, seconds, len(tally.seconds), limits)
            tally.clock = (frame.time if len(tally.seconds) == 1 else tally.clock[0], frame.time)
            tally.last_told_seconds = float((frame.duration or 0) * (frame.time_base or 0))
    except av.error.FFmpegError:
        # A cut-off file often ends in half a packet; then what is missing says more than FFmpeg's message.
        rest = sum(packet.size > 0 for packet in container.demux(stream))
        _check_whole(container, stream, path, tally.num_packets + 1 + rest)
        raise
    return tally


def _decode_some(
    container: av.container.InputContainer, stream: av.VideoStream, path: Path, *, limits: VideoLimits
) -> _Tally:
    """Count packets, and decode the first picture, a key picture near the middle and those after the last one."""
    tally = _Tally()
    stamps: list[tuple[int, int]] = []
    num_frames = 0
    for packet in container.demux(stream):
        if tally.first is None:  # the last packet is empty and flushes the decoder
            tally.first = next(iter(packet.decode()), None)
        tally.add_packet(packet, damaged=False)
        if packet.size == 0 or packet.is_discard:
            continue
        num_frames += 1
        if packet.pts is not None:
            stamps.append((packet.pts, packet.duration or 0))
    _check_whole(container, stream, path, tally.num_packets)  # says more than FFmpeg's message of half a packet
    stamps.sort()
    time_base = float(stream.time_base or 1)
    if stamps and tally.first is not None and stamps[-1][0] + stamps[-1][1] > stamps[0][0]:
        tally.seconds.extend((pts - stamps[0][0]) * time_base for pts, _ in stamps)
        tally.last_told_seconds = stamps[-1][1] * time_base
        tally.clock = (stamps[0][0] * time_base, stamps[-1][0] * time_base)
        tally.interlaced = tally.first.interlaced_frame
        end = stamps[-1][0] + stamps[-1][1]
        times = ((stamps[0][0] + end) // 2, end)
        _check_later_pictures(container, stream, path, first=tally.first, times=times, max_pixels=limits.max_pixels)
    elif tally.first is not None:  # raw streams carry no times
        step = usual_step_seconds(stream)
        tally.seconds.extend(index * step for index in range(num_frames))
    if tally.seconds:
        _check_length(path, tally.seconds[-1], len(tally.seconds), limits)
    return tally


def _check_later_pictures(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    path: Path,
    *,
    first: av.VideoFrame,
    times: tuple[int, int],
    max_pixels: int,
) -> None:
    """Decode the key picture before the middle, and all from the last key picture on; times in the stream's units."""
    for pts in times:
        try:
            container.seek(pts, stream=stream, backward=True)
        except av.error.FFmpegError:
            return  # a container without an index; the reader starts from the first picture there
        for frame in container.decode(stream):
            same_size(frame, first, path, salvage=False, max_pixels=max_pixels)
            if pts == times[0]:
                break


def _check_length(path: Path, seconds: float, num_frames: int, limits: VideoLimits) -> None:
    if seconds > limits.max_seconds:
        reason = f"it is longer than {limits.max_seconds:g} s; cut it into parts, or raise the limit"
        raise VideoDecodeError(path, reason, "too_long")
    if num_frames > limits.max_frames:
        reason = f"it has more than {limits.max_frames} pictures; cut it into parts, or raise the limit"
        raise VideoDecodeError(path, reason, "too_long")


def _check_whole(container: av.container.InputContainer, stream: av.VideoStream, path: Path, num_packets: int) -> None:
    if _is_cut_off(container, stream, num_packets):
        reason = f"it is cut off: {num_packets} of {stream.frames} pictures are there; copy it again"
        raise VideoDecodeError(path, reason, "truncated")


def _is_cut_off(container: av.container.InputContainer, stream: av.VideoStream, num_packets: int) -> bool:
    # Only MP4 and MOV list every picture in their header; elsewhere the number is a claim.
    return container.format.name.startswith("mov") and 0 < num_packets < stream.frames


def _facts(
    container: av.container.InputContainer, stream: av.VideoStream, tally: _Tally, path: Path, num_bytes: int
) -> VideoFacts:
    first = tally.first
    if first is None or not tally.seconds:
        raise VideoDecodeError(path, "not one picture could be decoded; copy it again, or remove it", "no_pictures")
    fps, variable_rate = _rate(stream, tally)
    step = tally.seconds[-1] - tally.seconds[-2] if len(tally.seconds) > 1 else usual_step_seconds(stream)
    last = last_picture_seconds(tally.last_told_seconds, step, interlaced=tally.interlaced)
    return VideoFacts(
        duration_seconds=round(tally.seconds[-1] + last, 6),
        num_frames=len(tally.seconds),
        fps=fps,
        width=first.width,
        height=first.height,
        codec=stream.codec_context.name,
        rotation_degrees=first.rotation,
        file_name=path.name,
        num_bytes=num_bytes,
        pixel_format=first.format.name,
        bit_depth=max(component.bits for component in first.format.components),
        variable_rate=variable_rate,
        num_frames_claimed=stream.frames or None,
        first_seconds=_rounded(tally.clock[0]),
        last_seconds=_rounded(tally.clock[1]),
        has_audio=len(container.streams.audio) > 0,
        interlaced=tally.interlaced,
        damaged_packets=tally.num_damaged,
        num_patched_frames=tally.num_patched,
        needs_salvage=tally.needs_salvage or _is_cut_off(container, stream, tally.num_packets),
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _rate(stream: av.VideoStream, tally: _Tally) -> tuple[float | None, bool]:
    """Return the average rate, measured where there are times, and whether the steps differ by over a tenth."""
    claimed = stream.average_rate or stream.guessed_rate
    if tally.clock == (None, None):  # raw streams: FFmpeg's average rate is its default, the codec's guess is better
        claimed = stream.guessed_rate or stream.average_rate
    steps = np.diff(np.frombuffer(tally.seconds, np.float64))
    if len(steps) == 0:  # a header that speaks of fields tells twice the rate
        return 1.0 / tally.last_told_seconds if tally.last_told_seconds else None, False
    measured = float(1.0 / steps.mean())
    variable = bool(np.ptp(steps) > max(_JITTER_SECONDS, 0.1 * float(np.median(steps))))
    exact = claimed is not None and abs(float(claimed) - measured) <= _RATE_TOLERANCE * measured
    return float(claimed) if claimed and exact else measured, variable


def _probe_task(task: dict[str, Any]) -> dict[str, Any]:
    """Probe one file in a worker process: JSON in, JSON out."""
    limits = VideoLimits(**task["limits"])
    try:
        facts = probe_video(task["path"], limits=limits, thorough=task["thorough"], salvage=task["salvage"])
    except VideoDecodeError as error:
        return {"reason": error.reason, "reason_class": error.reason_class}
    return {"facts": asdict(facts)}


def _lost_row(lost: Lost) -> dict[str, Any]:
    if lost.reason_class == "timeout":
        reason = f"decoding was stopped ({lost.detail}); convert it to H.264, or raise the time limit"
    else:
        reason = f"it crashed the decoder ({lost.detail}); convert it to H.264, or remove it"
    return {"reason": reason, "reason_class": lost.reason_class}


def _timeout_seconds(name: str, limits: VideoLimits) -> float:
    if limits.timeout_seconds is not None:
        return limits.timeout_seconds
    try:
        return _TIMEOUT_SECONDS + _TIMEOUT_SECONDS_PER_MB * os.stat(name).st_size / 1e6
    except OSError:  # the probe says what is wrong with it
        return _TIMEOUT_SECONDS


def _result(path: Path, row: dict[str, Any]) -> VideoFacts | VideoDecodeError:
    if "facts" in row:
        return VideoFacts(**row["facts"])
    reason_class: ReasonClass = row["reason_class"]
    return VideoDecodeError(path, row["reason"], reason_class)


def _key(name: str) -> list[Any] | None:
    """What a recorded row must agree with; None for a file that is not there."""
    try:
        status = os.stat(name)
    except OSError:
        return None
    return [name, status.st_size, status.st_mtime_ns]


def _read_record(record: Path, names: Iterable[str], settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows of files that have not changed since; a line that was cut off is passed over."""
    if not record.is_file():
        return {}
    rows = {}
    known = {limit.name for limit in fields(VideoFacts)}
    for line in record.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            if entry["settings"] == settings and set(entry["row"].get("facts", known)) == known:
                rows[tuple(entry["key"])] = entry["row"]
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    keys = {name: _key(name) for name in names}
    return {name: rows[tuple(key)] for name, key in keys.items() if key is not None and tuple(key) in rows}


def _open_record(record: Path) -> IO[str]:
    """Open for adding; a line that was cut off is ended first."""
    record.parent.mkdir(parents=True, exist_ok=True)
    torn = record.is_file() and record.stat().st_size > 0 and not record.read_bytes().endswith(b"\n")
    log = record.open("a", encoding="utf-8")
    if torn:
        log.write("\n")
    return log


def _append_record(log: IO[str], name: str, settings: dict[str, Any], row: dict[str, Any]) -> None:
    key = _key(name)
    if key is not None:
        log.write(json.dumps({"key": key, "settings": settings, "row": row}) + "\n")
        log.flush()
