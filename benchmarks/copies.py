"""How well near copies are found: recall by kind of copy, and false merges, on a folder of real video.

    python benchmarks/copies.py --videos FOLDER --output_dir DIR --half reporting

A sample of the folder's videos is copied in every way of KINDS; all originals and all planted copies are searched
together. The folder is cut in two halves by a hash of the file name: thresholds were set on `tuning`, and figures are
reported on `reporting`. Prints a Markdown table; DIR keeps the planted copies, the fingerprints (a second run goes on
from them), pairs.csv with every pair of originals that was flagged, and a contact sheet of each for a human to judge.
"""

import argparse
import csv
import hashlib
import math
import random
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
from PIL import Image

from railsformer.data.copies.clusters import Copies, NearCopy
from railsformer.data.copies.fingerprints import Fingerprint, SegmentOfFile, fingerprint_videos
from railsformer.data.copies.search import find_copies
from railsformer.data.video import VideoDecodeError, find_video_stream, open_video, read_frames

SUFFIXES = {".mp4", ".mkv", ".avi", ".mov"}


@dataclass(frozen=True)
class Kind:
    """A way to copy a video.

    Attributes:
        scale: Of width and height.
        crop: Share cut off each side.
        corner: Whether the crop comes off the left and the top alone.
        brightness: Grey levels added.
        contrast: Factor around mid grey.
        shift_seconds: Cut off the start.
        every: Keep every nth picture.
        crf: Quality of the encoder; lower is better.
        codec: Encoder.
    """

    scale: float = 1.0
    crop: float = 0.0
    corner: bool = False
    brightness: float = 0.0
    contrast: float = 1.0
    shift_seconds: float = 0.0
    every: int = 1
    crf: int = 23
    codec: str = "libx264"


KINDS = {
    "re-encoded, crf 35": Kind(crf=35),
    "re-encoded, MPEG-4 at low quality": Kind(codec="mpeg4"),
    "resized to .75": Kind(scale=0.75),
    "resized to .5": Kind(scale=0.5),
    "cropped 5 % a side": Kind(crop=0.05),
    "cropped 10 % a side": Kind(crop=0.10),
    "cropped 10 % left and top": Kind(crop=0.10, corner=True),
    "brightened by 40 levels": Kind(brightness=40),
    "darkened by 40 levels": Kind(brightness=-40),
    "contrast x 1.4": Kind(contrast=1.4),
    "contrast x .6": Kind(contrast=0.6),
    "first second cut off": Kind(shift_seconds=1.0),
    "first 3 seconds cut off": Kind(shift_seconds=3.0),
    "half the frame rate": Kind(every=2),
    "mix: .5, + 30 levels, 1 s, crf 32": Kind(scale=0.5, brightness=30, shift_seconds=1.0, crf=32),
    "mix: crop 5 %, contrast x 1.2, half rate, crf 32": Kind(crop=0.05, contrast=1.2, every=2, crf=32),
    "mix: crop 10 %, .75, 3 s, crf 32": Kind(crop=0.10, scale=0.75, shift_seconds=3.0, crf=32),
}
REMUXED = "re-muxed, no audio, other time stamps"


def in_half(name: str, half: str) -> bool:
    """Tell whether a file belongs to `tuning`, `reporting` or `all`."""
    return half == "all" or (hashlib.sha256(name.encode()).digest()[0] % 2 == 0) == (half == "tuning")


def plant(path: Path, folder: Path) -> dict[str, Path]:
    """Write one copy of each kind and return their paths; what is there already is not made again."""
    places = {kind: folder / f"{index:02d}-{path.stem}.mkv" for index, kind in enumerate([REMUXED, *KINDS])}
    if all(place.is_file() for place in places.values()):
        return places
    partials = {kind: place.with_suffix(".partial.mkv") for kind, place in places.items()}
    _remux(path, partials[REMUXED])
    _encode_copies(path, {kind: partials[kind] for kind in KINDS})
    for kind, place in places.items():
        partials[kind].rename(place)
    return places


def _remux(source: Path, target: Path) -> None:
    with open_video(source) as container, av.open(str(target), "w") as output:
        stream = find_video_stream(container, source)
        copied = output.add_stream_from_template(stream)
        shift = round(5 / (stream.time_base or 1))
        for packet in container.demux(stream):
            if packet.dts is not None and packet.pts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, copied
                output.mux(packet)


def _encode_copies(source: Path, targets: dict[str, Path]) -> None:
    with open_video(source) as container:
        stream = find_video_stream(container, source)
        stream.codec_context.thread_count = 1
        rate = Fraction(stream.average_rate or 25).limit_denominator(1000)
        writers = {kind: _Writer(target, KINDS[kind], rate) for kind, target in targets.items()}
        for index, frame in enumerate(container.decode(stream)):
            picture = frame.to_ndarray(format="rgb24")
            for writer in writers.values():
                writer.add(index, picture)
    for writer in writers.values():
        writer.close()


class _Writer:
    """One copy in the making."""

    def __init__(self, target: Path, kind: Kind, rate: Fraction) -> None:
        self._kind, self._rate = kind, rate
        self._stream: av.VideoStream | None = None
        self._container = av.open(str(target), "w")

    def add(self, index: int, picture: np.ndarray) -> None:
        """Encode picture `index` of the original, uint8, (H, W, 3), if the copy shows it."""
        kind = self._kind
        if index / self._rate < kind.shift_seconds or index % kind.every:
            return
        changed = self._change(picture)
        height, width = (2 * math.floor(side * kind.scale / 2) for side in changed.shape[:2])
        self._stream = self._stream or self._open(width, height)
        frame = av.VideoFrame.from_ndarray(changed, format="rgb24").reformat(
            width=width, height=height, format="yuv420p"
        )
        frame.pts, frame.time_base = index // kind.every, kind.every / self._rate
        self._container.mux(self._stream.encode(frame))

    def _open(self, width: int, height: int) -> av.VideoStream:
        kind = self._kind
        options = {"crf": str(kind.crf), "preset": "veryfast"} if kind.codec == "libx264" else {}
        stream = self._container.add_stream(kind.codec, rate=self._rate / kind.every, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        if kind.codec != "libx264":
            stream.codec_context.bit_rate = width * height * 2
        return stream

    def close(self) -> None:
        """Write what is left."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))
        self._container.close()

    def _change(self, picture: np.ndarray) -> np.ndarray:
        kind = self._kind
        height, width = picture.shape[:2]
        top, left = round(kind.crop * height), round(kind.crop * width)
        bottom, right = (height, width) if kind.corner else (height - top, width - left)
        picture = picture[top:bottom, left:right]
        if kind.brightness or kind.contrast != 1:
            levels = (np.arange(256) - 128) * kind.contrast + 128 + kind.brightness
            picture = np.clip(levels, 0, 255).astype(np.uint8)[picture]
        return np.ascontiguousarray(picture)


def read_fingerprints(paths: Iterable[Path], record: Path, num_workers: int) -> list[Fingerprint]:
    """Return fingerprints of files that must be readable."""
    found = fingerprint_videos([SegmentOfFile(path) for path in paths], record=record, num_workers=num_workers)
    for item in found:
        if isinstance(item, VideoDecodeError):
            raise item
    return [item for item in found if isinstance(item, Fingerprint)]


@dataclass
class Tally:
    """What was found of one kind of copy, in one class of originals."""

    planted: int = 0
    found: int = 0
    exact: int = 0
    timed: int = 0


def tally(copies: Copies, owners: list[tuple[int, str]], num_originals: int) -> dict[tuple[str, bool], Tally]:
    """Count planted copies that were joined with their original, by kind and by whether the original is still.

    Args:
        copies: What was found; originals come first, then the planted.
        owners: Original and kind of each planted copy.
        num_originals: How many videos come first.
    """
    near = {(pair.first, pair.second): pair for pair in copies.near}
    exact = {(cluster[0], row): row for cluster in copies.exact for row in cluster[1:]}
    same = {row: cluster[0] for cluster in copies.exact for row in cluster}
    still = set(copies.too_still)
    counts: dict[tuple[str, bool], Tally] = {}
    for number, (original, kind) in enumerate(owners):
        row = num_originals + number
        count = counts.setdefault((kind, original in still), Tally())
        pair = near.get((original, row))
        is_exact = (same.get(original, original), row) in exact
        count.planted += 1
        count.exact += is_exact
        count.found += is_exact or pair is not None
        if pair is not None and kind in KINDS:
            count.timed += abs(pair.offset_seconds - KINDS[kind].shift_seconds) <= 0.3
    return counts


def false_merges(copies: Copies, owners: list[tuple[int, str]], num_originals: int) -> list[NearCopy]:
    """Return planted copies that were joined with an original that neither is theirs nor a copy of theirs."""
    originals = Copies(
        tuple(cluster for old in copies.exact if len(cluster := tuple(r for r in old if r < num_originals)) > 1),
        tuple(pair for pair in copies.near if pair.second < num_originals),
    )
    cluster_of = {row: number for number, cluster in enumerate(originals.clusters()) for row in cluster}
    wrong = []
    for pair in copies.near:
        ends = [owners[row - num_originals][0] if row >= num_originals else row for row in (pair.first, pair.second)]
        same = ends[0] == ends[1] or cluster_of.get(ends[0], -1) == cluster_of.get(ends[1], -2)
        if pair.second >= num_originals and not same:
            wrong.append(pair)
    return wrong


def contact_sheet(first: Path, second: Path, offset_seconds: float, target: Path) -> None:
    """Draw six moments of two videos one above the other, laid over each other in time."""
    rows = []
    for path, start in ((first, max(0.0, offset_seconds)), (second, max(0.0, -offset_seconds))):
        pictures = read_frames(path, start + np.linspace(0.3, 6.5, 6))
        rows.append(np.concatenate([np.asarray(Image.fromarray(p).resize((240, 180))) for p in pictures], axis=1))
    Image.fromarray(np.concatenate(rows)).save(target)


def print_table(counts: dict[tuple[str, bool], Tally]) -> None:
    """Print recall by kind as Markdown."""
    print("| copy | of moving videos | of still videos | found as exact | shift right to .3 s |")
    print("|---|---:|---:|---:|---:|")
    for kind in [REMUXED, *KINDS]:
        moving, still = (counts.get((kind, is_still), Tally()) for is_still in (False, True))
        timed = f"{moving.timed} of {moving.found}" if kind in KINDS else ""
        cells = [f"{part.found} of {part.planted}" for part in (moving, still)]
        print(f"| {kind} | {' | '.join(cells)} | {moving.exact + still.exact} | {timed} |")


def main() -> None:
    """Plant, search, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True, help="folder of videos, searched in all its folders")
    parser.add_argument("--output_dir", type=Path, required=True, help="for copies, fingerprints and contact sheets")
    parser.add_argument("--half", choices=("tuning", "reporting", "all"), default="reporting")
    parser.add_argument("--num_planted", type=int, default=40, help="videos that are copied")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--num_workers", type=int, default=2)
    options = parser.parse_args()
    names = sorted(p.relative_to(options.videos).as_posix() for p in options.videos.rglob("*") if p.suffix in SUFFIXES)
    pool = [index for index, name in enumerate(names) if in_half(name, options.half)]
    chosen = sorted(random.Random(options.seed).sample(pool, min(options.num_planted, len(pool))))
    originals = [options.videos / name for name in names]
    folder = options.output_dir / "planted"
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.num_workers) as executor:
        planted = list(executor.map(partial(plant, folder=folder), [originals[index] for index in chosen]))
    owners = [(index, kind) for index, places in zip(chosen, planted, strict=True) for kind in places]
    copies_of = [path for places in planted for path in places.values()]
    started = time.monotonic()
    prints = read_fingerprints([*originals, *copies_of], options.output_dir / "fingerprints", options.num_workers)
    read_seconds = time.monotonic() - started
    copies = find_copies(prints)
    found_seconds = time.monotonic() - started - read_seconds
    print(
        f"{len(names)} originals ({len(copies.too_still)} of all videos still), {len(chosen)} of the "
        f"{len(pool)} of the {options.half} half copied in {len(KINDS) + 1} ways; fingerprints {read_seconds:.0f} s, "
        f"search {found_seconds:.1f} s"
    )
    print_table(tally(copies, owners, len(names)))
    wrong = false_merges(copies, owners, len(names))
    print(f"\nplanted copies joined with a video that is no copy: {len(wrong)}")
    for pair in wrong[:20]:
        ends = [
            f"{owners[r - len(names)][1]} of {names[owners[r - len(names)][0]]}" if r >= len(names) else names[r]
            for r in (pair.first, pair.second)
        ]
        print(f"  {ends[0]} - {ends[1]}: {pair.similarity:.3f}")
    list_originals(copies, names, originals, options)


def list_originals(copies: Copies, names: list[str], originals: list[Path], options: argparse.Namespace) -> None:
    """Print and draw the copies among the originals, for a human to judge."""
    sheets = options.output_dir / "sheets"
    sheets.mkdir(exist_ok=True)
    print("\nexact copies among the originals:")
    for cluster in copies.exact:
        if len(known := [row for row in cluster if row < len(names)]) > 1:
            print("  " + ", ".join(names[row] for row in known))
    print("near copies among the originals (similarity, shift in seconds, half):")
    rows: list[list[str]] = []
    for pair in copies.near:
        if pair.second < len(names):
            halves = {in_half(names[row], "tuning") for row in (pair.first, pair.second)}
            half = "across" if len(halves) == 2 else "tuning" if halves == {True} else "reporting"
            kind = "still" if pair.still else "moving"
            shown = [f"{pair.similarity:.3f}", f"{pair.offset_seconds:+.2f}"]
            rows.append([names[pair.first], names[pair.second], *shown, kind, half])
            place = sheets / f"{kind}-{Path(names[pair.first]).stem}-{Path(names[pair.second]).stem}.png"
            contact_sheet(originals[pair.first], originals[pair.second], pair.offset_seconds, place)
    for row in sorted(rows, key=lambda row: (row[4], row[0])):
        print("  " + " ".join(row))
    with (options.output_dir / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["first", "second", "similarity", "offset_seconds", "kind", "half"], *rows])


if __name__ == "__main__":
    main()
