"""What annotations are made of: labelled segments of videos, and what all of them together must keep to."""

import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from types import MappingProxyType

__all__ = [
    "LONGEST_SECONDS",
    "READ_SUFFIXES",
    "STORED_SUFFIXES",
    "Annotations",
    "Segment",
    "check_segment_ends",
    "check_segments",
    "format_seconds",
    "is_printable",
    "printable",
    "stored_name",
]

logger = logging.getLogger(__name__)

# Kinds of file that are stored as they are, and the suffix each is stored under. `datasets` takes a file for a video
# by these five suffixes alone (and leaves others behind on the Hub), while FFmpeg goes by the content: so the bytes
# stay as they are and the name changes. WebM is a kind of Matroska, M4V and 3GP are kinds of MP4.
STORED_SUFFIXES = MappingProxyType(
    {suffix: suffix for suffix in (".mp4", ".avi", ".mkv", ".mov", ".mpeg")}
    | {".m4v": ".mp4", ".3gp": ".mp4", ".3g2": ".mp4", ".f4v": ".mp4", ".qt": ".mov", ".divx": ".avi"}
    | {".mpg": ".mpeg", ".ts": ".mpeg", ".mts": ".mpeg", ".m2ts": ".mpeg", ".m2t": ".mpeg"}
    | {".webm": ".mkv", ".wmv": ".mkv", ".asf": ".mkv", ".flv": ".mkv"}
)
# Kinds that are read as well: raw streams and containers that none of the five stands for. They are always encoded.
_ENCODED_SUFFIXES = (
    *(".h261", ".h263", ".h264", ".264", ".avc", ".h265", ".265", ".hevc", ".h266", ".266", ".vvc", ".av1", ".obu"),
    *(".ivf", ".m1v", ".m2v", ".mpv", ".vc1", ".mjpeg", ".mjpg", ".y4m", ".dv"),
    *(".ogv", ".vob", ".gif", ".mxf", ".nut", ".rm", ".rmvb", ".wtv"),
)
READ_SUFFIXES = frozenset({*STORED_SUFFIXES, *_ENCODED_SUFFIXES})
_LONGEST_NAME = 100
# Of a time in a file: far longer than any file, far shorter than what arithmetic in frames chokes on.
LONGEST_SECONDS = 1e7
# Control characters, line and paragraph separators, and the stand-ins for bytes that are not UTF-8.
_UNPRINTABLE = ("Cc", "Zl", "Zp", "Cs")


@dataclass(frozen=True)
class Segment:
    """One labelled interval of one file.

    Attributes:
        path: The file.
        file_name: Its path relative to the source folder, with forward slashes.
        label: What happens in it.
        group: What must stay on one side of a split: a recording, a camera, or the file itself.
        columns: Every other column of the table, as text.
        row: Row of the table as a spreadsheet counts, the header being 1; None for class folders.
        start_seconds: Where it starts.
        end_seconds: Where it ends; None means with the file.
        split: The side that the annotations name: train, validation or test; None where they name none.
        is_whole_file: Whether it was given without times. Left out, the times tell; `replace` keeps it, so that a
            whole file stays one when its end is filled in.
    """

    path: Path
    file_name: str
    label: str
    group: str
    columns: Mapping[str, str] = field(default_factory=dict)
    row: int | None = None
    start_seconds: float = 0.0
    end_seconds: float | None = None
    split: str | None = None
    is_whole_file: bool | None = None

    def __post_init__(self) -> None:
        """Refuse a segment without a name to train or split on."""
        if self.is_whole_file is None:
            object.__setattr__(self, "is_whole_file", self.start_seconds == 0 and self.end_seconds is None)
        for name, value in (("label", self.label), ("group", self.group)):
            if not value.strip():
                raise ValueError(f"{name} is empty for {printable(self.file_name)}; give every file a {name}")
        for name, value in (("file_name", self.file_name), ("label", self.label), ("group", self.group)):
            if not is_printable(value):
                raise ValueError(
                    f"{name} {value!a} holds a control character, a line break or bytes that are not UTF-8; rename it"
                )
            if len(value) > _LONGEST_NAME and value != self.file_name:
                raise ValueError(
                    f"{name} of {self.file_name} has {len(value)} characters, expected at most {_LONGEST_NAME} "
                    f"({value[:30]}…); shorten it"
                )

    @property
    def interval(self) -> str:
        """`start-end` in seconds, as in `2.5-10`; empty for a whole file."""
        if self.is_whole_file:
            return ""
        end = "end" if self.end_seconds is None else format_seconds(self.end_seconds)
        return f"{format_seconds(self.start_seconds)}-{end}"

    @property
    def name(self) -> str:
        """The file's name, followed by `@start-end` where this is a part of it."""
        return f"{self.file_name}@{self.interval}" if self.interval else self.file_name


@dataclass(frozen=True)
class Annotations:
    """All segments of a source.

    Attributes:
        segments: Sorted by file name and time.
        group_by: What told the groups apart, as asked for; None means every file is its own group.
        column_names: The other columns that the segments carry.
        left_out: Videos in the folder that no label points to, relative to it.
        table_name: What messages call the table; None for class folders.
    """

    segments: list[Segment]
    group_by: str | None = None
    column_names: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    table_name: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no classifier can be trained on."""
        labels = set(self.labels)
        if len(labels) == 1:
            raise ValueError(
                f"only one label, '{labels.pop()}', on all {len(self.segments)} videos; a classifier needs two: "
                "add videos of another class, even if it is 'nothing happens'"
            )

    @property
    def labels(self) -> list[str]:
        """Label of each segment."""
        return [segment.label for segment in self.segments]

    @property
    def groups(self) -> list[str]:
        """Group of each segment."""
        return [segment.group for segment in self.segments]

    def where(self, segment: Segment) -> str:
        """What messages call a segment: its table and row, or its name."""
        return segment.name if segment.row is None else f"{self.table_name or 'table'} row {segment.row}"


def check_segments(found: Annotations) -> None:
    """Check what one row alone does not show; warn once of footage that is labelled twice alike.

    Raises:
        ValueError: If rows are duplicates, segments with different labels overlap, one file is in two groups, one
            group is in two splits, or two labels differ by case or spaces alone. The message names both rows.
    """
    by_file: dict[str, list[Segment]] = {}
    for segment in found.segments:
        by_file.setdefault(os.path.abspath(segment.path), []).append(segment)
    num_overlaps = 0
    for segments in by_file.values():
        if len(segments) > 1:
            segments.sort(key=lambda one: (one.start_seconds, _end(one), one.row or 0))
            _check_duplicates(found, segments)
            _check_one_group(found, segments)
            num_overlaps += _count_overlaps(found, segments)
    _check_sides(found)
    _check_spelling(found)
    if num_overlaps:
        logger.warning(
            "%d segment(s) overlap an earlier one of the same file and label: they share footage, which then counts "
            "twice",
            num_overlaps,
        )


def check_segment_ends(
    found: Annotations, durations: Mapping[str, float], *, tolerance_seconds: float = 0.5
) -> Annotations:
    """Hold the segments against how long their files are.

    An end up to half a second past the file's is clipped to it: labelling tools round to whole frames or tenths, and
    containers count the sound or the last picture's time on screen differently. More than that is a wrong row.

    Args:
        found: What `read_annotations` gave.
        durations: Seconds of each file by file_name; segments of other files stay as they are.
        tolerance_seconds: How far past the end of its file a segment may end.

    Returns:
        The segments with every end filled in.

    Raises:
        ValueError: If a segment starts at or past the end of its file, or ends too far past it.
    """
    checked, problems = [], []
    for segment in found.segments:
        duration = durations.get(segment.file_name)
        if duration is None or segment.is_whole_file:
            checked.append(segment if duration is None else replace(segment, end_seconds=duration))
            continue
        end = duration if segment.end_seconds is None else segment.end_seconds
        # Both are rounded to microseconds when they are told or read.
        if round(duration, 6) <= segment.start_seconds:
            problem = f"starts at {format_seconds(segment.start_seconds)} s"
        elif end > duration + tolerance_seconds:
            problem = f"ends at {format_seconds(end)} s"
        else:
            checked.append(replace(segment, end_seconds=min(end, duration)))
            continue
        problems.append(
            f"{found.where(segment)}: the segment {problem} but {segment.file_name} is "
            f"{format_seconds(duration)} s long"
        )
    if problems:
        more = f" (and {len(problems) - 1} more row(s) like it)" if len(problems) > 1 else ""
        raise ValueError(f"{problems[0]}{more}; correct the times")
    return replace(found, segments=checked)


def stored_name(file_name: str, *, interval: str = "") -> str:
    """Return a name for a video that datasets, fsspec and the Hub take as it is.

    `datasets` counts every part after a dot as a suffix (`a.csv.mp4` is half a table), skips names that begin with a
    dot and splits at `::`. Letters of any script stay; they are composed (NFC), as macOS alone decomposes them.

    Args:
        file_name: Path of a video; one of another suffix than those in `STORED_SUFFIXES` becomes an MP4.
        interval: `Segment.interval`, which goes behind the name with its dots as underscores.
    """
    path = PurePosixPath(file_name)
    stem = re.sub(r"[^\w +,=()@-]", "_", unicodedata.normalize("NFC", path.stem)).strip() or "video"
    end = f"@{interval}".replace(".", "_") if interval else ""
    stem = stem.encode()[: 200 - len(end)].decode(errors="ignore")  # file systems take 255 bytes
    return stem + end + STORED_SUFFIXES.get(path.suffix.lower(), ".mp4")


def format_seconds(seconds: float) -> str:
    """Seconds with up to three decimals: 2.5, 10, 0.033."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def is_printable(text: str) -> bool:
    """Whether a text can stand in one line of a message, a table or a file name."""
    return text.isprintable() or not any(unicodedata.category(character) in _UNPRINTABLE for character in text)


def printable(text: str) -> str:
    """The text for a message of one line: escaped where it cannot be printed."""
    return text if is_printable(text) else ascii(text)


def _end(segment: Segment) -> float:
    return float("inf") if segment.end_seconds is None else segment.end_seconds


def _span(start: float, end: float) -> str:
    return f"{format_seconds(start)} s to {'the end' if end == float('inf') else f'{format_seconds(end)} s'}"


def _reference(segment: Segment) -> str:
    return f"row {segment.row}" if segment.row is not None else segment.name


def _check_duplicates(found: Annotations, segments: Sequence[Segment]) -> None:
    for one, two in pairwise(segments):
        if (one.start_seconds, one.end_seconds) == (two.start_seconds, two.end_seconds):
            times = "" if two.is_whole_file else f" from {_span(two.start_seconds, _end(two))}"
            raise ValueError(
                f"{found.where(two)}: file_name {two.file_name}{times} is already in {_reference(one)}; "
                "keep one of them"
            )


def _check_one_group(found: Annotations, segments: Sequence[Segment]) -> None:
    one = segments[0]
    for two in segments:
        if two.group != one.group:
            raise ValueError(
                f"{found.where(two)}: {two.file_name} is in group '{two.group}', but in '{one.group}' in "
                f"{_reference(one)}; all segments of a file must be in one group"
            )


def _count_overlaps(found: Annotations, segments: Sequence[Segment]) -> int:
    """Count segments that overlap an earlier one of the same label; refuse those of another label."""
    latest: dict[str, Segment] = {}  # of each label, the one that ends last
    num_overlaps = 0
    for two in segments:
        for label, one in latest.items():
            if _end(one) <= two.start_seconds:
                continue
            if label != two.label:
                raise ValueError(
                    f"{found.where(two)}: {two.file_name} is '{two.label}' from "
                    f"{_span(two.start_seconds, _end(two))}, but '{label}' from "
                    f"{_span(one.start_seconds, _end(one))} in {_reference(one)}; they overlap from "
                    f"{_span(two.start_seconds, min(_end(one), _end(two)))}: a moment has one label, correct the times"
                )
            num_overlaps += 1
        if two.label not in latest or _end(latest[two.label]) < _end(two):
            latest[two.label] = two
    return num_overlaps


def _check_sides(found: Annotations) -> None:
    first: dict[str, Segment] = {}
    for segment in found.segments:
        one = first.setdefault(segment.group, segment)
        if one.split != segment.split:
            raise ValueError(
                f"{found.where(segment)}: group '{segment.group}' is in split '{segment.split}', but in "
                f"'{one.split}' in {_reference(one)}; a group must stay on one side: correct the split, or tell the "
                "groups apart otherwise with --group_by"
            )


def _check_spelling(found: Annotations) -> None:
    """Refuse labels that a reader takes for one: other case, other spaces, composed and decomposed accents."""
    counts = Counter(found.labels)
    spelled: dict[str, str] = {}
    for label in sorted(counts, key=lambda label: (-counts[label], label)):
        common = spelled.setdefault(_folded(label), label)
        if common != label:
            segment = min((one for one in found.segments if one.label == label), key=lambda one: one.row or 0)
            raise ValueError(
                f"{found.where(segment)}: label '{label}' differs from '{common}' by case, spaces or the accents' "
                f"coding alone, did you mean '{common}'? spell it one way "
                f"(now {counts[common]} and {counts[label]} times)"
            )


def _folded(label: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", label).casefold().split())
