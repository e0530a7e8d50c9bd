"""Class folders or a table of labels in, segments out."""

import csv
import io
import logging
import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from types import MappingProxyType

__all__ = ["STORED_SUFFIXES", "Annotations", "Segment", "read_annotations", "stored_name"]

logger = logging.getLogger(__name__)

# Kinds of file that are read, and the suffix each is stored under. `datasets` takes a file for a video by these five
# suffixes alone (and leaves others behind on the Hub), while FFmpeg goes by the content: so the bytes stay as they are
# and the name changes. WebM is a kind of Matroska, M4V and 3GP are kinds of MP4.
STORED_SUFFIXES = MappingProxyType(
    {suffix: suffix for suffix in (".mp4", ".avi", ".mkv", ".mov", ".mpeg")}
    | {".m4v": ".mp4", ".3gp": ".mp4", ".mpg": ".mpeg", ".ts": ".mpeg", ".mts": ".mpeg", ".m2ts": ".mpeg"}
    | {".webm": ".mkv", ".wmv": ".mkv", ".asf": ".mkv", ".flv": ".mkv"}
)
_REQUIRED_COLUMNS = ("file_name", "label")
_TIME_COLUMNS = ("start_seconds", "end_seconds")
_RESERVED_COLUMNS = ("source", "video")
_LONGEST_NAME = 100
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
    """

    path: Path
    file_name: str
    label: str
    group: str
    columns: Mapping[str, str] = field(default_factory=dict)
    row: int | None = None
    start_seconds: float = 0.0
    end_seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse a segment without a name to train or split on."""
        for name, value in (("label", self.label), ("group", self.group)):
            if not value.strip():
                raise ValueError(f"{name} is empty for {self.file_name}; give every file a {name}")
        for name, value in (("file_name", self.file_name), ("label", self.label), ("group", self.group)):
            if any(unicodedata.category(character) in _UNPRINTABLE for character in value):
                raise ValueError(
                    f"{name} {value!a} holds a control character, a line break or bytes that are not UTF-8; rename it"
                )
            if len(value) > _LONGEST_NAME and value != self.file_name:
                raise ValueError(
                    f"{name} of {self.file_name} has {len(value)} characters, expected at most {_LONGEST_NAME} "
                    f"({value[:30]}…); shorten it"
                )


@dataclass(frozen=True)
class Annotations:
    """All segments of a source.

    Attributes:
        segments: Sorted by file name.
        group_by: What told the groups apart, as asked for; None means every file is its own group.
        column_names: The other columns that the segments carry.
        left_out: Videos in the folder that no label points to, relative to it.
    """

    segments: list[Segment]
    group_by: str | None = None
    column_names: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

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


def read_annotations(
    source: str | Path, *, annotations: str | Path | None = None, group_by: str | None = None
) -> Annotations:
    """Read the labels of a folder of videos.

    Args:
        source: Folder of videos. Without a table its folders are the labels: `SOURCE/<label>/**/*.mp4`.
        annotations: CSV table (UTF-8) with file_name, relative to `source`, and label; other columns are carried.
        group_by: A column of the table, else the word `folder` (the file's folder; with class folders the first one
            below the label), else a regular expression with one capture group, searched in the relative path.

    Returns:
        Segments and what was left out.

    Raises:
        FileNotFoundError: If the folder, the table or a file named in it is missing.
        ValueError: If the table or the folder's layout is not as described; the message names the row.
    """
    source = Path(source)
    if not source.is_dir():
        problem = "is a file, not a folder" if source.exists() else "does not exist"
        raise FileNotFoundError(f"source {source} {problem}; give the folder that holds the videos")
    found = _find_videos(source)
    if not found:
        raise ValueError(
            f"source {source} holds no videos (looked for {' '.join(STORED_SUFFIXES)} in all its folders)"
        )
    if annotations is None:
        return _read_class_folders(source, found, group_by)
    return _read_table(source, found, Path(annotations), group_by)


def stored_name(file_name: str) -> str:
    """Return a name for a video that datasets, fsspec and the Hub take as it is.

    `datasets` counts every part after a dot as a suffix (`a.csv.mp4` is half a table), skips names that begin with a
    dot and splits at `::`. Letters of any script stay; they are composed (NFC), as macOS alone decomposes them.

    Args:
        file_name: Path of a video with one of the suffixes in `STORED_SUFFIXES`.
    """
    path = PurePosixPath(file_name)
    stem = re.sub(r"[^\w +,=()@-]", "_", unicodedata.normalize("NFC", path.stem)).strip() or "video"
    stem = stem.encode()[:200].decode(errors="ignore")  # file systems take 255 bytes
    return stem + STORED_SUFFIXES[path.suffix.lower()]


def _find_videos(source: Path) -> list[str]:
    """Return relative paths of the videos; hidden files are none (macOS leaves `._clip.mp4` beside `clip.mp4`)."""
    found, seen = [], set()
    for folder, folders, files in os.walk(source, followlinks=True, onerror=_refuse_folder):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real in seen:  # a link that leads back
            continue
        seen.add(real)
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in STORED_SUFFIXES:
                found.append((Path(folder) / name).relative_to(source).as_posix())
    return sorted(found)


def _refuse_folder(error: OSError) -> None:
    raise ValueError(f"folder {error.filename} cannot be read ({error.strerror}); give yourself the right to read it")


def _read_class_folders(source: Path, found: list[str], group_by: str | None) -> Annotations:
    labelled = [name for name in found if "/" in name]
    left_out = tuple(name for name in found if "/" not in name)
    if not labelled:
        raise ValueError(
            f"source {source} holds videos but no class folders; sort them into {source.name}/<label>/ or give a "
            "table with --annotations"
        )
    find_group = _by_path(group_by, source="class folders", column_names=(), folder=_first_folder_below_label)
    segments = [
        Segment(path=source / name, file_name=name, label=PurePosixPath(name).parts[0], group=find_group(name))
        for name in labelled
    ]
    _log_left_out(left_out, "they lie in no class folder")
    return Annotations(segments, group_by=group_by, left_out=left_out)


def _read_table(source: Path, found: list[str], table: Path, group_by: str | None) -> Annotations:
    header, rows = _read_csv(table)
    _check_header(header, table, group_by)
    carried = tuple(name for name in header if name not in (*_REQUIRED_COLUMNS, "group"))
    by_path = None
    if group_by not in header:
        by_path = _by_path(group_by, source=table.name, column_names=tuple(header), folder=_parent_folder)
    segments: dict[str, Segment] = {}
    for number, cells in rows:
        where = f"{table.name} row {number}"
        name = _check_file_name(cells["file_name"], source, where)
        if name in segments:
            raise ValueError(f"{where}: file_name {name} is already in row {segments[name].row}; keep one of them")
        if by_path is None and not cells[group_by or ""].strip():
            raise ValueError(f"{where}: column '{group_by}' is empty for {name}; --group_by needs it filled in")
        try:
            segments[name] = Segment(
                path=source / name,
                file_name=name,
                label=cells["label"].strip(),
                group=by_path(name) if by_path else cells[group_by or ""].strip(),
                columns={column: cells[column] for column in carried},
                row=number,
            )
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    if not segments:
        raise ValueError(f"{table} has a header but no rows; add one row for each video")
    left_out = tuple(name for name in found if name not in segments)
    _log_left_out(left_out, f"{table.name} has no row for them")
    ordered = [segments[name] for name in sorted(segments)]
    return Annotations(ordered, group_by=group_by, column_names=carried, left_out=left_out)


def _read_csv(table: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the header and the numbered rows; blank rows count and are skipped."""
    if not table.is_file():
        raise FileNotFoundError(f"annotations {table} does not exist or is no file; give a CSV table")
    if table.suffix.lower() in STORED_SUFFIXES:
        raise ValueError(f"annotations {table} is a video by its name; give a CSV table")
    try:
        text = table.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PermissionError(f"annotations {table} cannot be read ({error.strerror}); check its rights") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{table} is not UTF-8 (byte {error.start}); save it as 'CSV UTF-8'") from error
    first_line = text.partition("\n")[0]
    delimiter = max(",;\t", key=first_line.count)  # spreadsheets write ';' where ',' is the decimal mark
    try:
        records = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise ValueError(f"{table} is not a CSV table ({error}); save it as 'CSV UTF-8'") from error
    header = [name.strip() for name in records[0]] if records else []
    rows = []
    for number, record in enumerate(records[1:], start=2):
        if not any(cell.strip() for cell in record):
            continue
        if len(record) != len(header):
            raise ValueError(
                f"{table.name} row {number}: {len(record)} cells where the header has {len(header)}; "
                "put cells that hold a comma in double quotes"
            )
        rows.append((number, dict(zip(header, record, strict=True))))
    return header, rows


def _check_header(header: list[str], table: Path, group_by: str | None) -> None:
    for name in _REQUIRED_COLUMNS:
        if name not in header:
            close = get_close_matches(name, header, n=1, cutoff=0.5)
            hint = f", did you mean '{close[0]}'?" if close else ""
            raise ValueError(
                f"{table.name} row 1: no column '{name}'{hint}; found {', '.join(header) or 'nothing'}; "
                "expected file_name, label and any others"
            )
    for name, count in Counter(header).items():
        if count > 1 or not name:
            problem = f"the column '{name}' stands there {count} times" if name else "a column has no name"
            raise ValueError(f"{table.name} row 1: {problem}; every column needs a name of its own")
    for name in _TIME_COLUMNS:
        if name in header:
            raise ValueError(
                f"{table.name} row 1: column '{name}': segments of long videos come with a later version; "
                "cut the videos into one file a label, or remove the column to label whole files"
            )
    for name in _RESERVED_COLUMNS:
        if name in header:
            raise ValueError(f"{table.name} row 1: the name '{name}' is taken by the dataset; rename the column")
    if "group" in header and group_by != "group":
        raise ValueError(
            f"{table.name} row 1: column 'group' is there but --group_by is {group_by or 'not given'}; "
            "say --group_by group, or rename the column"
        )
    if group_by in _REQUIRED_COLUMNS:
        raise ValueError(f"--group_by {group_by}: name a recording or camera column, or leave it out to split by file")


def _check_file_name(cell: str, source: Path, where: str) -> str:
    """Return the path relative to the source, with forward slashes and without detours."""
    if not cell.strip():
        raise ValueError(f"{where}: file_name is empty; name a video of {source}")
    # Tables written on Windows say folder\clip.mp4.
    name = cell if (source / cell).is_file() else cell.strip().replace("\\", "/")
    name = posixpath.normpath(name)
    if posixpath.isabs(name) or name.split("/")[0] == ".." or re.match(r"[A-Za-z]:", name):
        raise ValueError(f"{where}: file_name {cell} points outside {source}; give paths relative to that folder")
    if not (source / name).is_file():
        raise FileNotFoundError(f"{where}: {cell} is not in {source}; add the file or remove the row")
    if PurePosixPath(name).suffix.lower() not in STORED_SUFFIXES:
        raise ValueError(
            f"{where}: {cell} is none of the kinds that are read: {' '.join(STORED_SUFFIXES)}; convert it"
        )
    return name


def _by_path(
    group_by: str | None, *, source: str, column_names: tuple[str, ...], folder: Callable[[str], str]
) -> Callable[[str], str]:
    """Return the function that tells a file's group from its relative path."""
    if group_by is None:
        return lambda name: name
    if group_by == "folder":
        return folder
    close = get_close_matches(group_by, column_names, n=1)
    hint = f", did you mean '{close[0]}'?" if close else ""
    columns = f" (columns: {', '.join(column_names)})" if column_names else ""
    wanted = (
        f"--group_by {group_by}: no column of {source}{hint}{columns}, not the word 'folder', "
        "and no regular expression"
    )
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise ValueError(f"{wanted} ({error})") from error
    if pattern.groups != 1:
        raise ValueError(
            f"{wanted} with exactly one capture group, such as '([^/]+)_[0-9]+[.]' (it has {pattern.groups})"
        )

    def find_group(name: str) -> str:
        match = pattern.search(name)
        if match is None or not match[1]:
            raise ValueError(f"--group_by {group_by} finds nothing in {name}; it must match the path of every video")
        return match[1]

    return find_group


def _parent_folder(name: str) -> str:
    return PurePosixPath(name).parent.as_posix()


def _first_folder_below_label(name: str) -> str:
    parts = PurePosixPath(name).parts
    if len(parts) < 3:
        raise ValueError(
            f"--group_by folder: {name} lies directly in its class folder; put it in {parts[0]}/<recording>/, "
            "or use a regular expression"
        )
    return parts[1]


def _log_left_out(left_out: tuple[str, ...], reason: str) -> None:
    if left_out:
        logger.warning("%d video(s) left out, first %s: %s", len(left_out), left_out[0], reason)
