"""Class folders or a table of labels in, segments out."""

import logging
import os
import posixpath
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path, PurePosixPath

from railsformer.data.segments import (
    READ_SUFFIXES,
    Annotations,
    Segment,
    check_segments,
    is_printable,
    printable,
)
from railsformer.data.tables import Table, parse_seconds, parse_split, read_table

__all__ = ["read_annotations", "read_segments"]

logger = logging.getLogger(__name__)

# Finds the file of a cell: (cell, where) -> (file_name, path).
Locate = Callable[[str, str], tuple[str, Path]]

_REQUIRED_COLUMNS = ("file_name", "label")
_TIME_COLUMNS = ("start_seconds", "end_seconds")
_OWN_COLUMNS = (*_REQUIRED_COLUMNS, *_TIME_COLUMNS, "group", "split")
_RESERVED_COLUMNS = ("source", "video")
# What other tools call them.
_OTHER_NAMES = {
    "file_name": ("path", "file", "filepath", "video_path", "video", "video_name", "clip", "name"),
    "label": ("class", "class_name", "category", "action", "target"),
}
# `start`, `end_sec`, `StartSeconds`: times under a name that would be carried unread. start_time is often the clock's.
_MISNAMED_TIME = re.compile(r"(?:t_?)?(start|end)_?(?:s|sec|secs|second|seconds)?", re.IGNORECASE)
_MAYBE_TIME = re.compile(r"(start|end|begin|stop)_?(time|times|frame|frames|ms)", re.IGNORECASE)
_MANY_FILES = 5_000
_KINDS_READ = " ".join(sorted(READ_SUFFIXES))


def read_annotations(
    source: str | Path,
    *,
    annotations: str | Path | None = None,
    label_names: str | Path | None = None,
    group_by: str | None = None,
    allow_outside: bool = False,
) -> Annotations:
    """Read the labels of a folder of videos.

    Args:
        source: Folder of videos. Without a table its folders are the labels: `SOURCE/<label>/**/*.mp4`, or, where the
            first folders are all called train, validation or test, `SOURCE/<split>/<label>/**/*.mp4`.
        annotations: Table (CSV, JSON lines, Parquet) with file_name, relative to `source`, and label; start_seconds
            and end_seconds, either of which may be empty, group and split are optional; other columns are carried. Or
            an mmaction2 list (.txt) of `path label_index` lines.
        label_names: For a list: text file with one label name a line; None means labels.txt or label_map.txt beside
            the list.
        group_by: None means the table's column `group` if it is filled, else that every file is its own group. A
            column of the table, else the word `folder` (the file's folder; with class folders the first one
            below the label), else a regular expression with one capture group, searched in the relative path.
        allow_outside: Whether the table may name files outside `source`.

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
    if annotations is None:
        if label_names is not None:
            raise ValueError("label_names goes with a list of paths and label indices; give it with --annotations")
        found, others = _find_videos(source, on_error=_refuse_folder)
        if not found:
            raise ValueError(f"source {source} holds no videos (looked for {_KINDS_READ} in all its folders)")
        return _read_class_folders(source, found, others, group_by)
    table = read_table(annotations, label_names=label_names)
    files = _SourceFiles(source, _find_videos(source, on_error=_pass_folder)[0], allow_outside)
    read = read_segments(table, locate=files.locate, group_by=group_by)
    named = {segment.file_name for segment in read.segments}
    left_out = tuple(name for name in files.found if name not in named)
    _log_left_out(left_out, f"{table.name} has no row for them")
    return replace(read, left_out=left_out)


def read_segments(table: Table, *, locate: Locate, group_by: str | None = None) -> Annotations:
    """Turn the rows of a table into segments.

    Args:
        table: What `read_table` gave.
        locate: Finds the file of a file_name cell, given also the place for messages; refuses bad names.
        group_by: See `read_annotations`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a row is not as described.
    """
    if group_by is None and any(cells.get("group", "").strip() for _, cells in table.rows):
        group_by = "group"
    _check_header(table, group_by)
    if not table.rows:
        raise ValueError(f"{table.name} has a header but no rows; add one row for each video")
    carried = tuple(name for name in table.header if name not in _OWN_COLUMNS)
    by_path = None
    if group_by not in table.header:
        by_path = _by_path(group_by, source=table.name, column_names=tuple(table.header), folder=_parent_folder)
    located: dict[str, tuple[str, Path]] = {}  # many segments may be of one file
    segments = []
    for number, cells in table.rows:
        where, cell = f"{table.name} row {number}", cells["file_name"]
        if cell not in located:
            located[cell] = locate(cell, where)
        name, path = located[cell]
        if by_path is None and not cells[group_by or ""].strip():
            raise ValueError(
                f"{where}: column '{group_by}' is empty for {name}; it is what groups go by: fill in every row"
            )
        start, end = _read_times(table, cells, where)
        try:
            segment = Segment(
                path=path,
                file_name=name,
                label=cells["label"].strip(),
                group=by_path(name) if by_path else cells[group_by or ""].strip(),
                columns={column: cells[column] for column in carried},
                row=number,
                start_seconds=start,
                end_seconds=end,
                split=_read_split(cells, where),
            )
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        segments.append(segment)
    _check_splits_filled(table, segments)
    segments.sort(key=lambda segment: (segment.file_name, segment.start_seconds, segment.row))
    read = Annotations(segments, group_by=group_by, column_names=carried, table_name=table.name)
    check_segments(read)
    return read


@dataclass(frozen=True)
class _SourceFiles:
    """The videos of a source folder, as a table may name them."""

    folder: Path
    found: Sequence[str]
    allow_outside: bool

    def locate(self, cell: str, where: str) -> tuple[str, Path]:
        """Return the path relative to the source, with forward slashes and without detours, and the file."""
        if not cell.strip():
            raise ValueError(f"{where}: file_name is empty; name a video of {self.folder}")
        if not is_printable(cell.strip()):
            raise ValueError(
                f"{where}: file_name {cell!a} holds a control character, a line break or bytes that are not UTF-8; "
                "rename the file"
            )
        # Tables written on Windows say folder\clip.mp4.
        name = cell if os.path.isfile(os.path.join(self.folder, cell)) else cell.strip().replace("\\", "/")
        name = posixpath.normpath(name)
        if posixpath.isabs(name) or name.split("/")[0] == ".." or re.match(r"[A-Za-z]:", name):
            name = self._outside_name(name, cell, where)
        if not os.path.isfile(os.path.join(self.folder, name)):
            name = self._other_spelling(name, cell, where)
        if PurePosixPath(name).suffix.lower() not in READ_SUFFIXES:
            raise ValueError(f"{where}: {cell} is none of the kinds that are read: {_KINDS_READ}; convert it")
        return name, self.folder / name

    def _outside_name(self, name: str, cell: str, where: str) -> str:
        if not self.allow_outside:
            raise ValueError(
                f"{where}: file_name {cell} points outside {self.folder}; give paths relative to that folder, or "
                "allow it with --allow_outside"
            )
        # A detour that leads back in is an ordinary name, so that two rows of one file are seen to be so.
        inside = os.path.relpath(os.path.join(self.folder, name), self.folder)
        return name if inside.split(os.sep)[0] == os.pardir else Path(inside).as_posix()

    def _other_spelling(self, name: str, cell: str, where: str) -> str:
        """Return the file whose accents are encoded otherwise (macOS decomposes them), or refuse with a hint."""
        same = self._by_spelling.get(_composed(name), [])
        if len(same) == 1 and os.path.isfile(os.path.join(self.folder, same[0])):
            return same[0]
        try:
            os.stat(os.path.join(self.folder, name))
        except FileNotFoundError:
            problem = f"is not in {self.folder}"
        except OSError as error:  # too long a name, a link to itself, a folder without the right to look
            problem = f"cannot be read in {self.folder} ({error.strerror})"
        else:
            problem = f"is not in {self.folder} as a file (it is a folder or a device)"
        raise FileNotFoundError(f"{where}: {cell} {problem}{self._hint(name)}; add the file or remove the row")

    def _hint(self, name: str) -> str:
        base = posixpath.basename(name).casefold()
        close = [other for other in self.found if posixpath.basename(other).casefold() == base]
        if not close and len(self.found) <= _MANY_FILES:
            close = get_close_matches(name, self.found, n=1, cutoff=0.8)
        return f", did you mean '{printable(close[0])}'?" if len(close) == 1 else ""

    @cached_property
    def _by_spelling(self) -> dict[str, list[str]]:
        spelled: dict[str, list[str]] = {}
        for name in self.found:
            spelled.setdefault(_composed(name), []).append(name)
        return spelled


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _find_videos(source: Path, *, on_error: Callable[[OSError], None]) -> tuple[list[str], list[str]]:
    """Return relative paths of the videos and of the other files, by their suffixes.

    Hidden files are neither (macOS leaves `._clip.mp4` beside `clip.mp4`).
    """
    found: list[str] = []
    others: list[str] = []
    seen = set()
    for folder, folders, files in os.walk(source, followlinks=True, onerror=on_error):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real in seen:  # a link that leads back
            continue
        seen.add(real)
        for name in files:
            if not name.startswith("."):
                kind = found if Path(name).suffix.lower() in READ_SUFFIXES else others
                kind.append((Path(folder) / name).relative_to(source).as_posix())
    return sorted(found), sorted(others)


def _refuse_folder(error: OSError) -> None:
    name = printable(str(error.filename))
    if isinstance(error, FileNotFoundError):
        raise ValueError(f"folder {name} vanished while it was read; leave the source alone and start again")
    raise ValueError(f"folder {name} cannot be read ({error.strerror}); give yourself the right to read it")


def _pass_folder(error: OSError) -> None:
    """With a table the rows say what is needed; what lies in such a folder is just not known to be left out."""
    logger.warning("folder %s cannot be read (%s): unlisted", printable(str(error.filename)), error.strerror)


def _read_class_folders(source: Path, found: list[str], others: list[str], group_by: str | None) -> Annotations:
    parts = {name: PurePosixPath(name).parts for name in [*found, *others]}
    with_splits = _are_splits({parts[name][0] for name in found if len(parts[name]) > 1})
    depth = 1 if with_splits else 0
    unnamable = tuple(name for name in found if not is_printable(name))
    labelled = [name for name in found if len(parts[name]) > depth + 1 and is_printable(name)]
    homeless = tuple(name for name in found if len(parts[name]) <= depth + 1 and is_printable(name))
    _log_left_out(unnamable, "the names hold control characters, line breaks or bytes that are not UTF-8; rename them")
    if not labelled and unnamable:
        raise ValueError(
            f"source {source} holds no video whose name can be used (first {printable(unnamable[0])}); rename them "
            "without control characters, line breaks and bytes that are not UTF-8"
        )
    if not labelled:
        raise ValueError(
            f"source {source} holds videos but no class folders; sort them into {source.name}/<label>/ or give a "
            "table with --annotations"
        )

    def folder_group(name: str) -> str:
        return _first_folder_below_label(name, depth=depth)

    find_group = _by_path(group_by, source="class folders", column_names=(), folder=folder_group)
    segments = []
    for name in labelled:
        path = source / name
        _check_is_file(path, name)
        split = parse_split(parts[name][0]) if with_splits else None
        segments.append(
            Segment(path=path, file_name=name, label=parts[name][depth], group=find_group(name), split=split)
        )
    _log_left_out(homeless, "they lie in no class folder")
    strange = tuple(name for name in others if len(parts[name]) > depth + 1)
    _log_left_out(strange, "by their suffixes they are none of the kinds that are read", what="other file(s)")
    read = Annotations(segments, group_by=group_by, left_out=tuple(sorted((*homeless, *unnamable))))
    check_segments(read)
    return read


def _are_splits(names: set[str]) -> bool:
    """Whether folders are the splits of the Hub's video layout, train among them, and no labels."""
    try:
        splits = {parse_split(name) for name in names}
    except ValueError:
        return False
    return len(splits) > 1 and "train" in splits


def _check_is_file(path: Path, name: str) -> None:
    """Refuse a pipe or device, which would be read for ever; a file that has vanished is the probe's to name."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        raise ValueError(f"{printable(name)} is a pipe, socket or device, not a file; move it out of the source")


def _check_header(table: Table, group_by: str | None) -> None:
    header, where = table.header, f"{table.name}{' row 1' if table.has_header_row else ''}"
    for name in _REQUIRED_COLUMNS:
        if name not in header:
            raise ValueError(
                f"{where}: no column '{name}'{_column_hint(name, header)}; found "
                f"{printable(', '.join(header)) or 'nothing'}; expected file_name, label and any others"
            )
    for name, count in Counter(header).items():
        if count > 1 or not name:
            problem = f"the column '{printable(name)}' stands there {count} times" if name else "a column has no name"
            raise ValueError(f"{where}: {problem}; every column needs a name of its own")
        if not is_printable(name):
            raise ValueError(f"{where}: the column name {name!a} holds a control character or line break; rename it")
        misnamed = _MISNAMED_TIME.fullmatch(name)
        if misnamed and name not in _TIME_COLUMNS:
            raise ValueError(
                f"{where}: column '{name}', did you mean '{misnamed[1].lower()}_seconds'? rename it (to any other "
                "name if it is no time of a segment)"
            )
        if name in _RESERVED_COLUMNS:
            raise ValueError(f"{where}: the name '{name}' is taken by the dataset; rename the column")
    maybe_times = [name for name in header if _MAYBE_TIME.fullmatch(name)]
    if maybe_times and not {*_TIME_COLUMNS} & {*header}:
        logger.warning(
            "%s: column(s) %s are carried along but not read as times, so every row is its whole file; segments need "
            "start_seconds and end_seconds",
            table.name,
            ", ".join(maybe_times),
        )
    if "group" in header and group_by not in (None, "group"):
        raise ValueError(
            f"{where}: column 'group' is there but --group_by is {group_by}; leave --group_by out to go by that "
            "column, or rename it"
        )
    if group_by in (*_REQUIRED_COLUMNS, *_TIME_COLUMNS, "split"):
        raise ValueError(f"--group_by {group_by}: name a recording or camera column, or leave it out to split by file")


def _column_hint(name: str, header: Sequence[str]) -> str:
    lower = {other.strip().lower(): other for other in header}
    known = [lower[other] for other in (name, *_OTHER_NAMES[name]) if other in lower]
    close = [lower[other] for other in get_close_matches(name, lower, n=1, cutoff=0.5)]
    return f", did you mean '{printable((close + known)[0])}'?" if close or known else ""


def _read_times(table: Table, cells: dict[str, str], where: str) -> tuple[float, float | None]:
    """Return start and end of a row; empty cells mean the file's."""
    seconds: dict[str, float] = {}
    for name in _TIME_COLUMNS:
        cell = cells.get(name, "")
        if not cell.strip():
            continue
        try:
            seconds[name] = parse_seconds(cell, decimal_comma=table.decimal_comma)
        except ValueError as error:
            raise ValueError(f"{where}: {name} {error}") from error
    start, end = seconds.get("start_seconds", 0.0), seconds.get("end_seconds")
    if end is not None and end <= start:
        raise ValueError(
            f"{where}: end_seconds must be after start_seconds, got {cells['end_seconds'].strip()} and "
            f"{cells.get('start_seconds', '').strip() or 0}; correct the times"
        )
    return start, end


def _read_split(cells: dict[str, str], where: str) -> str | None:
    cell = cells.get("split", "")
    if not cell.strip():
        return None
    try:
        return parse_split(cell)
    except ValueError as error:
        raise ValueError(f"{where}: split {error}; correct it, or rename the column to carry it along") from error


def _check_splits_filled(table: Table, segments: Sequence[Segment]) -> None:
    filled = next((segment for segment in segments if segment.split is not None), None)
    empty = next((segment for segment in segments if segment.split is None), None)
    if filled and empty:
        raise ValueError(
            f"{table.name} row {empty.row}: split is empty for {empty.file_name}, but '{filled.split}' in row "
            f"{filled.row}; fill in every row, or none"
        )


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


def _first_folder_below_label(name: str, *, depth: int) -> str:
    """Return the folder below the label, which is the one at `depth`."""
    parts = PurePosixPath(name).parts
    if len(parts) < depth + 3:
        raise ValueError(
            f"--group_by folder: {name} lies directly in its class folder; put it in "
            f"{'/'.join(parts[: depth + 1])}/<recording>/, or use a regular expression"
        )
    return parts[depth + 1]


def _log_left_out(left_out: tuple[str, ...], reason: str, *, what: str = "video(s)") -> None:
    if left_out:
        logger.warning("%d %s left out, first %s: %s", len(left_out), what, printable(left_out[0]), reason)
