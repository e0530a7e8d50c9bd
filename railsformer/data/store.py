"""Videos to their places in a dataset: originals are copied, or proxies encoded and kept until the build has ended."""

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from railsformer.data.folders import DiskFullError
from railsformer.data.metadata import StoredRow
from railsformer.data.probe import VideoFacts, VideoLimits, available_cores
from railsformer.data.proxies import ProxyJob, ProxySettings, encode_proxies
from railsformer.data.segments import STORED_SUFFIXES, Segment, stored_name
from railsformer.data.splits.sides import SPLITS
from railsformer.data.video import MAX_PIXELS, VideoDecodeError

__all__ = ["encode_segments", "name_rows", "put_in_place"]

# What cannot be stored as it is: with every picture and hardly a loss.
_CUT = ProxySettings(kind="h264", short_side_px=4096, fps=240.0, quality=12)

# To decode and encode takes a few times as long as to decode.
_TIMES_A_PROBE = 6


def encode_segments(
    segments: Sequence[Segment],
    folder: Path,
    *,
    proxy: ProxySettings | None,
    facts: Mapping[str, VideoFacts | VideoDecodeError] | None = None,
    limits: VideoLimits | None = None,
    salvage: bool = False,
    limit_bytes: int | None = None,
    num_workers: int | None = None,
    progress: bool = False,
) -> list[Path | VideoDecodeError]:
    """Encode what has to be encoded, without doing again what an earlier call has finished.

    Args:
        segments: What is to be stored.
        folder: Receives the encoded files, named by source, times and settings.
        proxy: How; None keeps whole files as they are, but for those that a reader could not read so: damaged ones,
            ones of changing or huge pictures, kinds that `datasets` takes for no video. Parts of longer files are cut
            out.
        facts: What the probe said of each file, by file_name.
        limits: What a file may hold.
        salvage: Skip what is damaged.
        limit_bytes: Largest encoded file.
        num_workers: Processes; None means one for each core.
        progress: Whether to draw a bar on stderr.

    Returns:
        The file that holds each segment, or the error that says why there is none.

    Raises:
        DiskFullError: If there is no room.
    """
    stored: list[Path | VideoDecodeError] = [segment.path for segment in segments]
    facts, limits = facts or {}, limits or VideoLimits()
    indices = [
        at
        for at, segment in enumerate(segments)
        if proxy is not None or not _can_be_kept(segment, facts.get(segment.file_name))
    ]
    if not indices:
        return stored
    folder.mkdir(parents=True, exist_ok=True)
    make_job = partial(
        _job, folder=folder, settings=proxy or _CUT, limits=limits, salvage=salvage, limit_bytes=limit_bytes
    )
    jobs = [make_job(segments[at]) for at in indices]
    for at, job, result in zip(
        indices, jobs, encode_proxies(jobs, num_workers=num_workers, progress=progress), strict=True
    ):
        if isinstance(result, DiskFullError):
            raise result
        if isinstance(result, VideoDecodeError):
            stored[at] = result
        elif isinstance(result, FileNotFoundError):
            stored[at] = VideoDecodeError(job.source, "it has gone during the build; put it back", "missing")
        elif isinstance(result, Exception):
            stored[at] = VideoDecodeError(job.source, " ".join(str(result).split()), "damaged")
        else:
            stored[at] = job.target
    return stored


def _can_be_kept(segment: Segment, facts: VideoFacts | VideoDecodeError | None) -> bool:
    """Whether its file holds the segment and nothing else, and every reader reads it."""
    if not segment.is_whole_file or Path(segment.file_name).suffix.lower() not in STORED_SUFFIXES:
        return False
    if not isinstance(facts, VideoFacts):
        return True
    return not facts.needs_salvage and facts.width * facts.height <= MAX_PIXELS


def _job(
    segment: Segment,
    *,
    folder: Path,
    settings: ProxySettings,
    limits: VideoLimits,
    salvage: bool,
    limit_bytes: int | None,
) -> ProxyJob:
    key = hashlib.sha256(repr((os.path.abspath(segment.path), segment.interval, settings, salvage)).encode())
    whole = segment.is_whole_file
    return ProxyJob(
        source=segment.path,
        target=folder / f"{key.hexdigest()[:24]}{settings.suffix}",
        start_seconds=segment.start_seconds,
        end_seconds=None if whole else segment.end_seconds,
        settings=settings,
        salvage=salvage,
        limit_bytes=limit_bytes,
        max_pixels=limits.max_pixels,
        timeout_seconds=None if limits.timeout_seconds is None else _TIMES_A_PROBE * limits.timeout_seconds,
    )


def name_rows(segments: Sequence[Segment], sides: Sequence[str], videos: Sequence[Path]) -> list[StoredRow]:
    """Keep each file's own name where it is unique on its side; else add eight digits of a hash of its name.

    Args:
        segments: What is stored.
        sides: The side of each.
        videos: The file that holds each; an encoded one has a suffix of its own.
    """
    names = []
    for segment, video in zip(segments, videos, strict=True):
        name = stored_name(segment.file_name, interval=segment.interval)
        names.append(name if video == segment.path else f"{name.rpartition('.')[0]}{video.suffix}")
    taken = Counter((side, name.casefold()) for side, name in zip(sides, names, strict=True))
    rows = []
    for segment, side, name in zip(segments, sides, names, strict=True):
        if taken[side, name.casefold()] > 1:
            stem, _, suffix = name.rpartition(".")
            name = f"{stem}-{hashlib.sha256(segment.name.encode()).hexdigest()[:8]}.{suffix}"
        rows.append(StoredRow(segment, side, name))
    return rows


def put_in_place(
    rows: Sequence[StoredRow],
    videos: Sequence[Path],
    data_dir: Path,
    *,
    num_workers: int | None = None,
    progress: bool = False,
) -> list[StoredRow]:
    """Copy originals and link encoded files to `data_dir/<split>/`; return the rows with their hashes.

    Encoded files are linked, not moved, so that a build which is killed now finds them again.
    """
    for side in SPLITS:
        (data_dir / side).mkdir(parents=True)
    executor = ThreadPoolExecutor(num_workers or available_cores())
    try:
        placed = executor.map(partial(_place, data_dir=data_dir), rows, videos)
        return list(tqdm(placed, total=len(rows), desc="storing videos", unit="file", disable=not progress))
    finally:
        executor.shutdown(cancel_futures=True)


def _place(row: StoredRow, video: Path, *, data_dir: Path) -> StoredRow:
    target = data_dir / row.split / row.file_name
    if video == row.segment.path:
        shutil.copyfile(video, target)
    else:
        try:
            os.link(video, target)
        except OSError:  # a disk without links
            shutil.copyfile(video, target)
    with target.open("rb") as file:
        return replace(row, sha256=hashlib.file_digest(file, "sha256").hexdigest())
