"""A dataset of videos on the Hub, or a folder of that layout, in; segments out."""

import hashlib
import logging
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import pyarrow as pa

from railsformer.data.annotations import read_segments
from railsformer.data.files import whole_file
from railsformer.data.segments import READ_SUFFIXES, Annotations, printable
from railsformer.data.tables import Table, cell_text, is_scalar, parse_split

__all__ = ["read_hub_annotations"]

logger = logging.getLogger(__name__)

_TIME_COLUMNS = ("start_seconds", "end_seconds")
# First bytes, from which byte on, and the suffix: for videos whose name says nothing.
_SIGNATURES = (
    (b"ftyp", 4, ".mp4"),
    (b"AVI ", 8, ".avi"),
    (b"\x1aE\xdf\xa3", 0, ".mkv"),
    (b"\x00\x00\x01\xba", 0, ".mpeg"),
    (b"\x00\x00\x01\xb3", 0, ".mpeg"),
    (b"FLV", 0, ".flv"),
    (b"0&\xb2u", 0, ".asf"),
    (b"DKIF", 0, ".ivf"),
    (b"OggS", 0, ".ogv"),
    (b"YUV4MPEG2 ", 0, ".y4m"),
    (b"GIF8", 0, ".gif"),
    (b"\x00\x00\x00\x01", 0, ".h264"),
    (b"G", 0, ".ts"),
)


def read_hub_annotations(
    name: str | Path,
    *,
    folder: str | Path,
    group_by: str | None = None,
    revision: str | None = None,
    config_name: str | None = None,
    video_column: str | None = None,
    label_column: str | None = None,
) -> Annotations:
    """Read a Hub dataset of videos as the source of another; nothing is decoded.

    The dataset's splits become the segments' splits, but a dataset of one split says nothing of sides. Columns
    start_seconds and end_seconds are times in the video, except where there is also a column `source`: that is a
    dataset which `railsformer build` wrote, whose times are those of the file that the video was cut from. Rows count
    from 1 through all splits in order.

    Args:
        name: Hub id (`user/name`), or a local folder of that layout.
        folder: Receives the videos that the dataset embeds; others stay where the Hub's cache keeps them.
        group_by: See `read_annotations`.
        revision: Branch, tag or commit.
        config_name: Which configuration, where the dataset has several.
        video_column: None means the only column of videos.
        label_column: None means the only column of class labels, else the one called `label`.

    Returns:
        Segments; their file_name is the path in the repository, or `split/name` where there is none.

    Raises:
        FileNotFoundError: If there is no such dataset, or a video of it is missing.
        ValueError: If it cannot be read, or has no column of videos or labels; or see `read_segments`.
    """
    splits = _load_splits(name, revision=revision, config_name=config_name)
    features = next(iter(splits.values())).features
    columns = _Columns(
        video=_find_column(name, features, datasets.Video, asked=video_column, flag="video_column", usual="video"),
        label=_find_column(
            name, features, datasets.ClassLabel, asked=label_column, flag="label_column", usual="label"
        ),
        carried=_carried_columns(name, features, has_splits=len(splits) > 1, group_by=group_by),
    )
    columns = columns.without_taken(str(name))
    files = _VideoFiles(
        Path(folder),
        root=Path(name) if Path(name).is_dir() else None,
        shares=bool({*_TIME_COLUMNS} & {*columns.carried}),
    )
    rows = list(_read_rows(str(name), splits, columns, files))
    header = ["file_name", "label", *columns.carried] + (["split"] if len(splits) > 1 else [])
    table = Table(str(name), header, list(enumerate(rows, start=1)))
    return read_segments(table, locate=lambda cell, where: (cell, files.paths[cell]), group_by=group_by)


@dataclass(frozen=True)
class _Columns:
    """Which column is what."""

    video: str
    label: str
    carried: tuple[str, ...]

    def without_taken(self, name: str) -> "_Columns":
        """Leave out what is read already, and what would be taken for it."""
        taken = {self.video, self.label}
        clashing = [
            column for column in self.carried if column in ("file_name", "label", "video") and column not in taken
        ]
        if clashing:
            logger.warning("%s: column(s) %s left out: the names are taken", name, ", ".join(clashing))
        kept = tuple(column for column in self.carried if column not in taken and column not in clashing)
        return _Columns(self.video, self.label, kept)


@dataclass
class _VideoFiles:
    """Gives every video a name and a file.

    Attributes:
        folder: Receives embedded videos.
        root: The dataset, where it is a folder.
        shares: Whether rows with times may share one video; else every row is a file of its own.
        paths: File by name.
    """

    folder: Path
    root: Path | None
    shares: bool
    paths: dict[str, Path] = field(default_factory=dict)
    _embedded: dict[str, tuple[str, str]] = field(default_factory=dict)
    _named: dict[str, str] = field(default_factory=dict)

    def add(self, video: Mapping[str, Any] | None, *, split: str, where: str) -> str:
        """Return the name of a row's video."""
        path, data = (video or {}).get("path"), (video or {}).get("bytes")
        if data is not None:
            return self._write(data, _embedded_name(path, data, split=split))
        if not path:
            raise ValueError(f"{where}: it has no video; remove the row from the dataset")
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{where}: the video {printable(str(path))} is missing; load the dataset again")
        if path not in self._named:
            wanted = name = self._relative_name(path, split=split)
            number = len(self.paths)
            while name in self.paths:
                number += 1
                name = _numbered(wanted, number)
            self._named[path], self.paths[name] = name, Path(path)
        return self._named[path]

    def _write(self, data: bytes, name: str) -> str:
        digest = hashlib.sha256(data).hexdigest()
        wanted, number = name, len(self._embedded)
        # On some systems A.mp4 and a.mp4 are one file: neither may overwrite the other.
        while (taken := self._embedded.get(name.casefold())) is not None:
            if self.shares and taken == (name, digest):
                return name
            # By content where rows share videos, so that all rows of one meet again.
            by_content = _numbered(wanted, digest[:16])
            number += 1
            name = by_content if self.shares and name == wanted else _numbered(wanted, number)
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with whole_file(target) as partial:
                partial.write_bytes(data)
        except OSError as error:
            raise type(error)(error.errno, error.strerror, str(target)) from error
        self._embedded[name.casefold()] = (name, digest)
        self.paths[name] = target
        return name

    def _relative_name(self, path: str, *, split: str) -> str:
        """Return the path in the repository: that of a cache says where on this machine the cache lies."""
        place = Path(path)
        if self.root is not None and place.resolve().is_relative_to(self.root.resolve()):
            name = place.resolve().relative_to(self.root.resolve()).as_posix()
        else:
            inside = re.search(r"/snapshots/[0-9a-f]+/(.+)$", place.as_posix())
            name = inside[1] if inside else f"{split}/{place.name}"
        if place.suffix.lower() in READ_SUFFIXES:
            return name
        with place.open("rb") as file:
            return f"{name}{_suffix(file.read(16))}"


def _read_rows(
    name: str, splits: Mapping[str, datasets.Dataset], columns: _Columns, files: _VideoFiles
) -> Iterator[dict[str, str]]:
    """Yield the cells of every row as text."""
    number = 0
    for split, rows in splits.items():
        kept = rows.select_columns([columns.video, columns.label, *columns.carried])
        for row in kept.cast_column(columns.video, datasets.Video(decode=False)):
            number += 1
            cells = {column: _label_text(row[column], rows.features[column]) for column in columns.carried}
            cells["file_name"] = files.add(row[columns.video], split=split, where=f"{name} row {number}")
            cells["label"] = _label_text(row[columns.label], rows.features[columns.label])
            if len(splits) > 1:
                cells["split"] = parse_split(split)
            yield cells


def _label_text(value: Any, feature: Any) -> str:
    """Return a cell as text, a class by its name; empty for the -1 of test sides without labels."""
    if isinstance(feature, datasets.ClassLabel):
        return "" if value is None or value < 0 else str(feature.int2str(value))
    return cell_text(value)


def _load_splits(name: str | Path, *, revision: str | None, config_name: str | None) -> dict[str, datasets.Dataset]:
    try:
        loaded = datasets.load_dataset(str(name), config_name, revision=revision, cache_dir=_cache_dir(Path(name)))
    except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{name}: neither a folder nor a dataset on the Hub that can be reached ({_one_line(error)}); "
            "check the name, the revision and the network"
        ) from error
    except (datasets.exceptions.DatasetsError, pa.ArrowException, ValueError, TypeError) as error:
        cause: BaseException = error
        while cause.__cause__ or cause.__context__:
            cause = cause.__cause__ or cause.__context__ or cause
        raise ValueError(f"{name}: the dataset cannot be loaded ({_one_line(cause)}); repair it") from error
    splits = {split: rows for split, rows in loaded.items() if len(rows) > 0}
    if not splits:
        raise ValueError(f"{name}: the dataset has no rows; give one that holds videos")
    if len(splits) > 1:
        for split in splits:
            try:
                parse_split(split)
            except ValueError as error:
                raise ValueError(
                    f"{name}: a split {error}; its splits are {', '.join(splits)}: rename them"
                ) from error
    return splits


def _find_column(
    name: str | Path, features: datasets.Features, kind: type, *, asked: str | None, flag: str, usual: str
) -> str:
    """Return the column asked for, the only one of a type, or a label column that is just called so."""
    typed = [column for column, feature in features.items() if isinstance(feature, kind)]
    if asked is not None:
        if asked not in features or (kind is datasets.Video and asked not in typed):
            raise ValueError(f"{name}: {flag} {asked} is no such column; {_described(features)}")
        return asked
    if len(typed) == 1:
        return typed[0]
    if usual in typed or (not typed and kind is datasets.ClassLabel and usual in features):
        return usual
    problem = f"several columns of type {kind.__name__}" if typed else f"no column of type {kind.__name__}"
    fix = f"name one with {flag}" if typed or kind is datasets.ClassLabel else "give a dataset of videos"
    raise ValueError(f"{name}: {problem}; {_described(features)}: {fix}")


def _described(features: datasets.Features) -> str:
    columns = (f"{printable(column)} ({_type_name(feature)})" for column, feature in features.items())
    return f"it has {', '.join(columns)}"


def _type_name(feature: Any) -> str:
    return str(feature.dtype) if isinstance(feature, datasets.Value) else type(feature).__name__


def _carried_columns(
    name: str | Path, features: datasets.Features, *, has_splits: bool, group_by: str | None
) -> tuple[str, ...]:
    """Return the scalar columns that mean the same here."""
    is_ours = "source" in features
    meaningless = {"source", *(_TIME_COLUMNS if is_ours else ()), *(("split",) if has_splits else ())}
    if group_by not in (None, "group"):  # without --group_by its groups are not to be lost unsaid
        meaningless.add("group")
    carried, others = [], []
    for column, feature in features.items():
        if isinstance(feature, datasets.ClassLabel) or (
            isinstance(feature, datasets.Value) and is_scalar(feature.pa_type) and column not in meaningless
        ):
            carried.append(column)
        elif not isinstance(feature, datasets.Video):
            others.append(column)
    if others:
        logger.warning(
            "%s: column(s) %s left out: they are not carried along", name, ", ".join(map(printable, others))
        )
    return tuple(carried)


def _embedded_name(path: str | None, data: bytes, *, split: str) -> str:
    base = unicodedata.normalize("NFC", PurePosixPath((path or "video").replace("\\", "/")).name)
    place = PurePosixPath(re.sub(r"[^\w +,=()@.-]", "_", base).lstrip(". ") or "video")
    suffix = place.suffix if place.suffix.lower() in READ_SUFFIXES else _suffix(data[:16])
    stem = place.name.removesuffix(suffix).encode()[:150].decode(errors="ignore")  # file systems take 255 bytes
    return f"{split}/{stem}{suffix}"


def _suffix(start: bytes) -> str:
    """Suffix for the first bytes of a file; FFmpeg goes by the content anyway."""
    return next((suffix for text, at, suffix in _SIGNATURES if start[at : at + len(text)] == text), ".mp4")


def _numbered(name: str, number: int | str) -> str:
    path = PurePosixPath(name)
    return path.with_name(f"{path.stem}-{number}{path.suffix}").as_posix()


def _cache_dir(folder: Path) -> str | None:
    """A cache of its own for each state of a local folder; None, the usual one, for the Hub.

    `datasets` keys its cache by the folder's last name, so one that changed would be read as it was.
    """
    if not folder.is_dir():
        return None
    key = hashlib.sha256(str(folder.resolve()).encode())
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            facts = path.stat()
            key.update(f"\n{path.relative_to(folder)} {facts.st_mtime_ns} {facts.st_size}".encode(errors="replace"))
    return str(Path(datasets.config.HF_DATASETS_CACHE) / "railsformer" / key.hexdigest()[:16])


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
