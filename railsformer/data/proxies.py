"""Training proxies: a segment encoded once more, small, so that any of its pictures can be decoded alone.

A proxy is upright, with pixels of the source's aspect, without sound, and every picture is a key picture. Its pictures
are pictures of the source, each at its own time since the segment's start (the one on screen at the start stands at
0). A new one is kept as soon as the last one kept is more than half an interval old, an interval being
1 / fps. So at any instant the picture that a proxy shows, the last one that has begun, is the one that the source
shows or one at most half an interval older, in every reader and without a tag. A source of 2 x fps or slower keeps all
its pictures; a faster one keeps between fps and 2 x fps a second.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Literal, get_args

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from tqdm import tqdm

from railsformer.data.files import partial_path, whole_file
from railsformer.data.folders import NO_ROOM, DiskFullError
from railsformer.data.isolation import Lost, run_isolated
from railsformer.data.probe import available_cores
from railsformer.data.segment_frames import SegmentFrame, segment_frames
from railsformer.data.video import (
    MAX_PIXELS,
    TOLERANCE_SECONDS,
    VideoDecodeError,
    find_video_stream,
    open_video,
    upright_rgb,
)

__all__ = [
    "PROXY_PRESETS",
    "ProxyFacts",
    "ProxyJob",
    "ProxyKind",
    "ProxySettings",
    "encode_proxies",
    "encode_proxy",
    "finished_proxy",
]

ProxyKind = Literal["h264", "mjpeg"]

# Times are kept in these units: 11 microseconds.
_TICKS_PER_SECOND = 90_000
_SMPTE170M = 6  # AVCOL_SPC_SMPTE170M: the matrix of BT.601
# Without CABAC a picture decodes in two thirds of the time, for a twentieth more bytes. The psychovisual options serve
# the eye at the cost of pixels that are like the source's.
_X264_OPTIONS = MappingProxyType(
    {"preset": "medium", "x264-params": "keyint=1:bframes=0:rc-lookahead=0:mbtree=0:cabac=0:psy=0:aq-mode=0"}
)
# Between two matrices swscale goes by way of RGB; without FULL_CHR_H_INT it cuts decimals there: grey turns magenta.
_RESIZING = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP | Interpolation.FULL_CHR_H_INT
)
# Time for a file in `encode_proxies`: enough for a slow core on long, still scenes; one that hangs is stopped.
_TIMEOUT_SECONDS = 720.0
_TIMEOUT_SECONDS_PER_MB = 120.0


# Errors that come back from a worker, the narrower ones first.
_ERRORS = (DiskFullError, FileNotFoundError, OSError, ValueError)


@dataclass(frozen=True)
class ProxySettings:
    """How a proxy is encoded.

    Args:
        kind: `h264` in MP4 is small; `mjpeg` in MOV decodes faster and takes several times the bytes.
        short_side_px: Shorter side of the pictures; smaller sources keep theirs. 320 is the largest short side of the
            usual training jitter, so that training enlarges nothing.
        fps: One over the interval: instants are right to within half of it. See the module for what is kept.
        quality: Lower is better and larger: the CRF of H.264 (0 to 51) or the quantiser of MJPEG (1 to 31). None means
            32 or 5.

    Raises:
        ValueError: If a value is out of range.
    """

    kind: ProxyKind = "h264"
    short_side_px: int = 320
    fps: float = 8.0
    quality: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(ProxyKind):
            raise ValueError(f"kind must be one of {', '.join(get_args(ProxyKind))}, got {self.kind!r}")
        if not 16 <= self.short_side_px <= 4096:
            raise ValueError(f"short_side_px must be from 16 to 4096, got {self.short_side_px}")
        if not 0 < self.fps <= 240:
            raise ValueError(f"fps must be above 0 and at most 240, got {self.fps}")
        lowest, usual, highest = (0, 32, 51) if self.kind == "h264" else (1, 5, 31)
        if self.quality is None:
            object.__setattr__(self, "quality", usual)
        elif not lowest <= self.quality <= highest:
            raise ValueError(f"quality of {self.kind} must be from {lowest} to {highest}, got {self.quality}")

    @property
    def suffix(self) -> str:
        """Suffix of a proxy's file, one that `datasets` takes for a video."""
        return ".mp4" if self.kind == "h264" else ".mov"


PROXY_PRESETS = MappingProxyType({"small": ProxySettings(), "fast": ProxySettings(kind="mjpeg")})


@dataclass(frozen=True)
class ProxyFacts:
    """What a finished proxy is.

    Attributes:
        num_frames: Pictures.
        duration_seconds: From the first picture to the end of the last one.
        num_bytes: Size of the file.
        width: In px.
        height: In px.
        sha256: Of the file's bytes; the same source and settings give the same ones.
    """

    num_frames: int
    duration_seconds: float
    num_bytes: int
    width: int
    height: int
    sha256: str


@dataclass(frozen=True)
class ProxyJob:
    """One proxy to encode: the arguments of `encode_proxy`, and how long `encode_proxies` waits for it.

    Attributes:
        timeout_seconds: None means twelve minutes and two minutes for each megabyte of the source.
    """

    source: Path
    target: Path
    start_seconds: float = 0.0
    end_seconds: float | None = None
    settings: ProxySettings = field(default_factory=ProxySettings)
    salvage: bool = False
    limit_bytes: int | None = None
    max_pixels: int = MAX_PIXELS
    timeout_seconds: float | None = None

    def __post_init__(self) -> None:
        if Path(self.target).suffix != self.settings.suffix:
            raise ValueError(
                f"target must end in {self.settings.suffix} for {self.settings.kind} proxies, got {self.target}"
            )
        if self.start_seconds < 0 or (self.end_seconds is not None and not self.start_seconds < self.end_seconds):
            raise ValueError(
                f"{self.source}: a segment must start at 0 s or later and end after it starts, "
                f"got {self.start_seconds} to {self.end_seconds}"
            )

    def longest_seconds(self) -> float:
        """Time after which the work is stopped."""
        if self.timeout_seconds is not None:
            return self.timeout_seconds
        try:
            return _TIMEOUT_SECONDS + _TIMEOUT_SECONDS_PER_MB * os.stat(self.source).st_size / 1e6
        except OSError:  # the work says what is wrong with it
            return _TIMEOUT_SECONDS


def encode_proxy(
    source: str | Path,
    target: str | Path,
    *,
    start_seconds: float = 0.0,
    end_seconds: float | None = None,
    settings: ProxySettings = PROXY_PRESETS["small"],
    salvage: bool = False,
    limit_bytes: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> ProxyFacts:
    """Encode a segment of a video as a proxy.

    The target appears only when it is complete and on the disk; until then its folder holds `.NAME.partial`.

    Args:
        source: A video file.
        target: File to write, with the suffix of `settings`; its folder must be there.
        start_seconds: Start of the segment, in seconds since the source's first picture.
        end_seconds: End of the segment; None means the source's, which also ends a segment that goes past it.
        settings: Kind, size, rate and quality.
        salvage: Skip what is damaged in the source.
        limit_bytes: Largest proxy.
        max_pixels: Largest picture of the source.

    Returns:
        Facts of the finished file.

    Raises:
        FileNotFoundError: If there is no such source, or no such folder.
        VideoDecodeError: If the source cannot be decoded, or its proxy is larger than the limit.
        ValueError: If the times or the target's suffix are wrong, or the segment starts after the source ends.
        DiskFullError: If there is no room for it.
    """
    return _encode(
        ProxyJob(Path(source), Path(target), start_seconds, end_seconds, settings, salvage, limit_bytes, max_pixels)
    )


def encode_proxies(
    jobs: Sequence[ProxyJob], *, num_workers: int | None = None, progress: bool = False
) -> list[ProxyFacts | Exception]:
    """Encode many proxies in processes of their own; finished ones of the same settings are kept.

    Args:
        jobs: What to encode.
        num_workers: Processes; None means one for each core this process may use.
        progress: Whether to draw a bar on stderr.

    Returns:
        Facts, or the error that says why there are none, in the order of `jobs`. A file that ends or hangs its worker
        costs only its own proxy: VideoDecodeError of the class `crash` or `timeout`.
    """
    results: dict[int, ProxyFacts | Exception] = {}
    outcomes = run_isolated(
        f"{__name__}:_encode_task",
        [_job_to_json(job) for job in jobs],
        timeouts_seconds=[job.longest_seconds() for job in jobs],
        num_workers=num_workers or available_cores(),
    )
    try:
        with tqdm(total=len(jobs), desc="encoding proxies", unit="file", disable=not progress) as bar:
            for index, outcome in outcomes:
                results[index] = _result(jobs[index], outcome)
                bar.update()
    finally:
        outcomes.close()
        for index, job in enumerate(jobs):
            if not isinstance(results.get(index), ProxyFacts):  # a worker that was stopped leaves what it began
                partial_path(job.target).unlink(missing_ok=True)
    return [results[index] for index in range(len(jobs))]


def finished_proxy(job: ProxyJob) -> ProxyFacts | None:
    """Facts of a job's target if an earlier run completed it with the same source size, segment and settings."""
    try:
        with open_video(job.target, max_pixels=job.max_pixels) as container:
            if container.metadata.get("comment") != _comment(job):
                return None
        return _read_facts(job.target, job.max_pixels)
    except (OSError, VideoDecodeError):
        return None


def _encode(job: ProxyJob) -> ProxyFacts:
    if not job.source.is_file():
        raise FileNotFoundError(f"{job.source}: no such video file")
    try:
        with whole_file(job.target) as partial:
            with partial.open("wb") as file:
                _write_proxy(job, file)
                file.flush()
                os.fsync(file.fileno())
            return _read_facts(partial, job.max_pixels)
    except OSError as error:
        if error.errno in NO_ROOM:
            reason = "no room for the proxy on this disk; free some space and run the command again: it goes on"
            raise DiskFullError(f"{job.target}: {reason}") from error
        raise


def _job_to_json(job: ProxyJob) -> dict[str, Any]:
    # A worker may stand in another folder than its parent does by then.
    paths = {"source": os.path.abspath(job.source), "target": os.path.abspath(job.target)}
    return asdict(job) | paths


def _encode_task(task: dict[str, Any]) -> dict[str, Any]:
    """Encode one proxy in a worker process, unless that is done: JSON in, JSON out."""
    job = ProxyJob(
        **task
        | {
            "source": Path(task["source"]),
            "target": Path(task["target"]),
            "settings": ProxySettings(**task["settings"]),
        }
    )
    try:
        return {"facts": asdict(finished_proxy(job) or _encode(job))}
    except VideoDecodeError as error:
        return {"reason": error.reason, "reason_class": error.reason_class}
    except (OSError, ValueError) as error:
        kind = next(kind for kind in _ERRORS if isinstance(error, kind))
        return {"error": kind.__name__, "message": str(error)}


def _result(job: ProxyJob, outcome: Any) -> ProxyFacts | Exception:
    if isinstance(outcome, Lost):
        if outcome.reason_class == "timeout":
            reason = f"encoding was stopped ({outcome.detail}); cut it into segments, or raise the time limit"
        else:
            reason = f"it ends the process that reads it ({outcome.detail}); remove it, or convert it"
        return VideoDecodeError(job.source, reason, outcome.reason_class)
    if "facts" in outcome:
        return ProxyFacts(**outcome["facts"])
    if "error" in outcome:
        kinds = {kind.__name__: kind for kind in _ERRORS}
        return kinds[outcome["error"]](outcome["message"])
    return VideoDecodeError(job.source, outcome["reason"], outcome["reason_class"])


def _comment(job: ProxyJob) -> str:
    """What tells a finished proxy from one of other settings; the same for a copy of the source elsewhere."""
    facts = [job.source.stat().st_size, job.start_seconds, job.end_seconds, asdict(job.settings), job.salvage]
    return f"railsformer proxy 1 {hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}"


def _write_proxy(job: ProxyJob, file: BinaryIO) -> None:
    kind = "mp4" if job.settings.kind == "h264" else "mov"
    options = {"fflags": "bitexact", "video_track_timescale": str(_TICKS_PER_SECOND)}
    with av.open(file, "w", format=kind, container_options=options) as container:
        container.metadata["comment"] = _comment(job)
        num_bytes = 0
        for packet in _encoded_packets(container, job):
            num_bytes += packet.size
            container.mux(packet)
            if job.limit_bytes is not None and num_bytes > job.limit_bytes:
                reason = f"its proxy is larger than {job.limit_bytes} bytes; cut it into segments or raise the limit"
                raise VideoDecodeError(job.source, reason, "too_large")


def _encoded_packets(container: av.container.OutputContainer, job: ProxyJob) -> Iterator[av.Packet]:
    """Encode the pictures of a proxy, each with the time that it stays: the last one's is the end of the file."""
    stream: av.VideoStream | None = None
    resizer = VideoReformatter()
    ends: dict[int | None, int] = {}
    for seconds, duration, frame, pixel_aspect in _kept_frames(job):
        upright = _upright_frame(frame)
        if stream is None:
            stream = _add_stream(container, job.settings, *_proxy_size(upright, job.settings))
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        picture = _to_yuv(upright, stream, resizer)
        picture.pts = round(seconds * _TICKS_PER_SECOND)
        ends[picture.pts] = max(round((seconds + duration) * _TICKS_PER_SECOND), picture.pts + 1)
        yield from _with_durations(stream.encode(picture), ends)
    if stream is not None:
        yield from _with_durations(stream.encode(None), ends)


def _with_durations(packets: Sequence[av.Packet], ends: dict[int | None, int]) -> Iterator[av.Packet]:
    for packet in packets:
        packet.duration = ends.pop(packet.pts) - (packet.pts or 0)
        yield packet


def _add_stream(
    container: av.container.OutputContainer, settings: ProxySettings, width: int, height: int
) -> av.VideoStream:
    if settings.kind == "h264":
        stream = container.add_stream("libx264", options={"crf": str(settings.quality), **_X264_OPTIONS})
        stream.pix_fmt = "yuv420p"
        stream.codec_context.color_range = ColorRange.MPEG
    else:
        stream = container.add_stream("mjpeg", options={"huffman": "optimal"})
        stream.pix_fmt = "yuvj420p"
        stream.codec_context.color_range = ColorRange.JPEG
        stream.codec_context.qmin = stream.codec_context.qmax = settings.quality or 1
    context = stream.codec_context
    stream.width, stream.height = width, height
    # BT.601 is what readers that ignore the tag take any video for (OpenCV), and what JPEG means.
    context.colorspace = _SMPTE170M
    context.gop_size = 1
    context.max_b_frames = 0
    context.thread_count = 1  # one process a core; and threads would change the bytes
    context.flags |= int(av.codec.context.Flags.bitexact)
    context.time_base = stream.time_base = Fraction(1, _TICKS_PER_SECOND)
    context.framerate = Fraction(settings.fps).limit_denominator(1000)
    return stream


def _kept_frames(job: ProxyJob) -> Iterator[tuple[float, float, av.VideoFrame, Fraction]]:
    """The pictures of a proxy: seconds since the segment's start, duration, frame, aspect of its upright pixels."""
    half_interval = 0.5 / job.settings.fps + TOLERANCE_SECONDS / 10
    kept: SegmentFrame | None = None
    latest: SegmentFrame | None = None
    frames = segment_frames(
        job.source,
        start_seconds=job.start_seconds,
        end_seconds=job.end_seconds,
        salvage=job.salvage,
        max_pixels=job.max_pixels,
    )
    for latest in frames:
        if kept is None or latest.at_seconds <= TOLERANCE_SECONDS:
            kept = latest
        elif latest.at_seconds - kept.at_seconds > half_interval:
            begin = max(kept.at_seconds, 0.0)
            yield begin, latest.at_seconds - begin, kept.frame, kept.aspect
            kept = latest
    if kept is None or latest is None:
        raise VideoDecodeError(
            job.source, "not one picture could be decoded; copy it again, or remove it", "no_pictures"
        )
    end = latest.at_seconds + max(latest.stays_seconds, 1 / _TICKS_PER_SECOND)
    if end <= 0:
        raise ValueError(
            f"{job.source}: the segment starts at {job.start_seconds} s, after the video's end; correct it"
        )
    if job.end_seconds is not None:
        end = min(end, job.end_seconds - job.start_seconds)
    begin = max(kept.at_seconds, 0.0)
    yield begin, end - begin, kept.frame, kept.aspect


def _upright_frame(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame itself where it is upright and progressive: the way through RGB would round its colours twice."""
    if frame.interlaced_frame or round(frame.rotation / 90) % 4:
        return av.VideoFrame.from_ndarray(np.ascontiguousarray(upright_rgb(frame)), format="rgb24")
    return frame


def _proxy_size(frame: av.VideoFrame, settings: ProxySettings) -> tuple[int, int]:
    """Even width and height; no side is enlarged (but a single pixel, since 4:2:0 needs two)."""
    scale = min(settings.short_side_px / min(frame.height, frame.width), 1.0)
    even_width, even_height = (max(int(side * scale + 0.5) // 2 * 2, 2) for side in (frame.width, frame.height))
    return even_width, even_height


def _to_yuv(frame: av.VideoFrame, stream: av.VideoStream, resizer: VideoReformatter) -> av.VideoFrame:
    frame = resizer.reformat(
        frame,
        width=stream.width,
        height=stream.height,
        format=stream.pix_fmt,
        interpolation=_RESIZING,
        dst_colorspace=Colorspace.ITU601,
        dst_color_range=stream.codec_context.color_range,
        threads=1,
    )
    frame.time_base = Fraction(1, _TICKS_PER_SECOND)
    return frame


def _read_facts(path: Path, max_pixels: int) -> ProxyFacts:
    with open_video(path, max_pixels=max_pixels) as container:
        stream = find_video_stream(container, path)
        packets = [packet for packet in container.demux(stream) if packet.size]
        ends = [(packet.pts or 0) + (packet.duration or 0) for packet in packets]
        duration = float((max(ends) - (packets[0].pts or 0)) * (stream.time_base or 1))
        width, height = stream.width, stream.height
    with path.open("rb") as file, contextlib.closing(file):
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ProxyFacts(len(packets), duration, path.stat().st_size, width, height, digest)
