"""Segments in, a data-only dataset of the Hub out: `load_dataset` reads it without this package.

README.md                    the card; its YAML tells load_dataset the splits and the type of every column
dataset.json                 what was built, for programs
quarantine.csv               files left out because they are no videos (only where there are any)
data/<split>/metadata.csv    file_name, label, group, source, start_seconds, end_seconds, and the table's columns
data/<split>/*.mp4           the videos as they were
"""

import csv
import hashlib
import json
import logging
import platform
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from railsformer.data.annotations import Annotations, Segment, read_annotations, stored_name
from railsformer.data.dataset_card import BuildSummary, dataset_card
from railsformer.data.folders import check_output_dir, whole_folder
from railsformer.data.probe import available_cores, probe_videos
from railsformer.data.splits import SPLITS, SplitBy, assign_sides, count_labels, describe_split, leaks
from railsformer.data.video import VideoDecodeError

__all__ = ["BuildSummary", "build_dataset"]

logger = logging.getLogger(__name__)

OnBad = Literal["fail", "drop"]

_VERSION = 1
_OWN_COLUMNS = {
    "label": "class_label",
    "group": "string",
    "source": "string",
    "start_seconds": "float64",
    "end_seconds": "float64",
}
_SHOWN_BAD_FILES = 3
# Cells that pandas, and so load_dataset, takes for empty in a CSV table, quoted or not.
_READ_AS_EMPTY = frozenset(
    {"#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"}
    | {"NULL", "NaN", "None", "n/a", "nan", "null"}
)


@dataclass(frozen=True)
class _Row:
    """One stored file: a segment, its side, and what it is called in the dataset."""

    segment: Segment
    split: str
    file_name: str
    sha256: str = ""


def build_dataset(
    source: str | Path,
    *,
    output_dir: str | Path,
    annotations: str | Path | None = None,
    group_by: str | None = None,
    splits: Sequence[float] = (0.7, 0.15, 0.15),
    test_groups: Sequence[str] = (),
    validation_groups: Sequence[str] = (),
    split: SplitBy = "group",
    seed: int = 0,
    on_bad: OnBad = "fail",
    command: str | None = None,
    num_workers: int | None = None,
    progress: bool = True,
) -> BuildSummary:
    """Build a dataset that `datasets.load_dataset(output_dir)` reads.

    Either the whole dataset appears in `output_dir` or nothing does.

    Args:
        source: Folder of videos.
        output_dir: Where the dataset goes; must not exist or be empty.
        annotations: CSV table with file_name and label; None means that the source's folders are the labels.
        group_by: See `read_annotations`.
        splits: Shares of train, validation and test; above 0, sum 1.
        test_groups: Groups that make up the test side.
        validation_groups: Groups that make up the validation side.
        split: `group` keeps each group on one side; `random` draws rows, blind to groups.
        seed: Breaks ties, or draws the rows.
        on_bad: `fail` refuses a source that holds files that are no videos; `drop` leaves them out and lists them.
        command: What the user typed, for the card.
        num_workers: Threads that read and copy; None means one for each core.
        progress: Whether to draw bars on stderr.

    Returns:
        What was built.

    Raises:
        FileExistsError: If `output_dir` holds something, or another build was faster.
        PermissionError: If `output_dir` cannot be written.
        FileNotFoundError: If the source, the table or a file named in it is missing.
        VideoDecodeError: If files are no videos and `on_bad` is `fail`.
        ValueError: If labels, groups or splits cannot be as asked for, or one video has two labels.
    """
    source, output_dir = Path(source), Path(output_dir)
    _check_choices(split=(split, ("group", "random")), on_bad=(on_bad, ("fail", "drop")))
    _check_place(output_dir, source)
    found = read_annotations(source, annotations=annotations, group_by=group_by)
    assign = partial(
        assign_sides,
        split=split,
        ratios=splits,
        seed=seed,
        test_groups=test_groups,
        validation_groups=validation_groups,
    )
    assign(found.groups, found.labels)  # refuse before hours of reading
    found, quarantine = _probe_segments(
        found, source=source, on_bad=on_bad, num_workers=num_workers, progress=progress
    )
    rows = _name_files(found.segments, assign(found.groups, found.labels))
    settings = {
        "split": split,
        "group_by": group_by,
        "splits": list(splits),
        "test_groups": list(test_groups),
        "validation_groups": list(validation_groups),
        "on_bad": on_bad,
        "command": command,
        "versions": _versions(),
    }
    with whole_folder(output_dir) as folder:
        rows = _copy_files(rows, folder, num_workers=num_workers, progress=progress)
        _check_copies(rows)
        summary = _summarize(rows, found, output_dir, split=split, seed=seed, num_dropped=len(quarantine))
        dtypes = _column_dtypes(found)
        _write_metadata(folder / "data", rows, dtypes)
        _write_quarantine(folder, quarantine)
        _write_json(folder / "dataset.json", summary, settings)
        (folder / "README.md").write_text(dataset_card(summary, settings, dtypes), encoding="utf-8")
    return summary


def _check_choices(**choices: tuple[str, tuple[str, ...]]) -> None:
    for name, (value, expected) in choices.items():
        if value not in expected:
            raise ValueError(f"{name} must be one of {', '.join(expected)}, got {value}")


def _check_place(output_dir: Path, source: Path) -> None:
    check_output_dir(output_dir)
    if output_dir.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"output_dir {output_dir} lies inside the source {source}; name a folder outside it")
    if re.search(r"[*?\[\]]", str(output_dir.resolve())):
        raise ValueError(f"output_dir {output_dir} must not contain * ? [ or ]: load_dataset takes them for a pattern")


def _probe_segments(
    found: Annotations, *, source: Path, on_bad: OnBad, num_workers: int | None, progress: bool
) -> tuple[Annotations, list[tuple[Segment, str]]]:
    """Return the segments with their ends filled in, and those whose file is no video with the reason."""
    facts = probe_videos([segment.path for segment in found.segments], num_workers=num_workers, progress=progress)
    good: list[Segment] = []
    bad: list[tuple[Segment, str]] = []
    for segment, fact in zip(found.segments, facts, strict=True):
        if isinstance(fact, VideoDecodeError):
            bad.append((segment, fact.reason))
        else:
            end_seconds = segment.end_seconds if segment.end_seconds is not None else fact.duration_seconds
            good.append(replace(segment, end_seconds=end_seconds))
    if bad and on_bad == "fail":
        shown = "; ".join(f"{segment.file_name}: {reason}" for segment, reason in bad[:_SHOWN_BAD_FILES])
        more = f"; and {len(bad) - _SHOWN_BAD_FILES} more" if len(bad) > _SHOWN_BAD_FILES else ""
        raise VideoDecodeError(
            source,
            f"{len(bad)} of {len(facts)} files cannot be read as videos ({shown}{more}); "
            "repair or remove them, or leave them out with --on_bad drop",
        )
    for label in sorted({segment.label for segment, _ in bad} - {segment.label for segment in good}):
        raise ValueError(f"label '{label}' has no video left: none of its files can be read; repair them or remove it")
    if bad:
        logger.warning("%d of %d files left out: they cannot be read as videos", len(bad), len(facts))
    return replace(found, segments=good), bad


def _name_files(segments: Sequence[Segment], sides: Sequence[str]) -> list[_Row]:
    """Keep each file's own name where it is unique on its side; else add eight digits of its path's hash."""
    names = [stored_name(segment.file_name) for segment in segments]
    taken = Counter((side, name.casefold()) for side, name in zip(sides, names, strict=True))
    rows = []
    for segment, side, name in zip(segments, sides, names, strict=True):
        if taken[side, name.casefold()] > 1:
            stem, _, suffix = name.rpartition(".")
            name = f"{stem}-{hashlib.sha256(segment.file_name.encode()).hexdigest()[:8]}.{suffix}"
        rows.append(_Row(segment, side, name))
    return rows


def _copy_files(rows: Sequence[_Row], folder: Path, *, num_workers: int | None, progress: bool) -> list[_Row]:
    """Copy every file to its place and return the rows with their hashes."""
    for side in SPLITS:
        (folder / "data" / side).mkdir(parents=True)
    executor = ThreadPoolExecutor(num_workers or available_cores())
    try:
        copies = executor.map(partial(_copy_file, folder=folder), rows)
        return list(tqdm(copies, total=len(rows), desc="copying videos", unit="file", disable=not progress))
    finally:
        executor.shutdown(cancel_futures=True)


def _copy_file(row: _Row, *, folder: Path) -> _Row:
    target = folder / "data" / row.split / row.file_name
    shutil.copyfile(row.segment.path, target)
    with target.open("rb") as file:
        return replace(row, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def _check_copies(rows: Sequence[_Row]) -> None:
    """Refuse one video under two labels, and warn of one on two sides."""
    first: dict[str, Segment] = {}
    for row in rows:
        other = first.setdefault(row.sha256, row.segment)
        if other.label != row.segment.label:
            raise ValueError(
                f"{other.file_name} is labelled '{other.label}' and {row.segment.file_name} '{row.segment.label}', "
                "but they are the same file byte for byte; correct a label or remove one of them"
            )
    copies = leaks([row.sha256 for row in rows], [row.split for row in rows])
    if copies:
        logger.warning(
            "%d video(s) have an exact copy in another split, so figures will be too good; remove the copies or give "
            "them one group",
            len(copies),
        )


def _summarize(
    rows: Sequence[_Row], found: Annotations, output_dir: Path, *, split: SplitBy, seed: int, num_dropped: int
) -> BuildSummary:
    groups, sides = [row.segment.group for row in rows], [row.split for row in rows]
    labels = [row.segment.label for row in rows]
    keys = sorted([row.split, row.sha256, row.segment.label, row.segment.group] for row in rows)
    return BuildSummary(
        output_dir=output_dir,
        fingerprint=hashlib.sha256(json.dumps(keys).encode()).hexdigest(),
        split_kind=describe_split(split=split, group_by=found.group_by, num_groups=len(set(groups))),
        seed=seed,
        labels=tuple(sorted(set(labels))),
        counts=count_labels(labels, sides),
        groups={side: len({row.segment.group for row in rows if row.split == side}) for side in SPLITS},
        groups_on_several_sides=len(leaks(groups, sides)),
        copies_on_several_sides=len(leaks([row.sha256 for row in rows], sides)),
        num_dropped=num_dropped,
        num_left_out=len(found.left_out),
    )


def _column_dtypes(found: Annotations) -> dict[str, str]:
    """Return the type of every metadata column but file_name, taken over all splits together."""
    carried = {
        name: _dtype([segment.columns[name].strip() for segment in found.segments]) for name in found.column_names
    }
    return _OWN_COLUMNS | carried


def _dtype(cells: Sequence[str]) -> str:
    """Return the narrowest of bool, int64, float64 and string that every reader agrees on.

    load_dataset reads CSV as pandas does, which cannot put an empty cell into bool or int64. Digits with a leading
    zero are names, not numbers.
    """
    filled = [cell for cell in cells if cell and cell not in _READ_AS_EMPTY]
    if not filled:
        return "string"
    if all(re.fullmatch(r"-?(0|[1-9]\d{0,14})", cell, re.ASCII) for cell in filled):
        return "int64" if len(filled) == len(cells) else "float64"
    if all(re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", cell, re.ASCII) for cell in filled):
        return "float64"
    if len(filled) == len(cells) and {cell.lower() for cell in filled} <= {"true", "false"}:
        return "bool"
    return "string"


_PARSERS: dict[str, Callable[[str], Any]] = {
    "int64": int,
    "float64": float,
    "bool": lambda text: text.lower() == "true",
}


def _record(row: _Row, dtypes: dict[str, str]) -> dict[str, Any]:
    """Return the typed metadata of one file; empty cells are None."""
    segment = row.segment
    record: dict[str, Any] = {
        "file_name": row.file_name,
        "label": segment.label,
        "group": segment.group,
        "source": segment.file_name,
        "start_seconds": round(segment.start_seconds, 6),
        "end_seconds": None if segment.end_seconds is None else round(segment.end_seconds, 6),
    }
    for name in dtypes.keys() - _OWN_COLUMNS.keys():
        cell = segment.columns[name]
        if dtypes[name] == "string":
            record[name] = cell or None
        else:
            cell = cell.strip()
            record[name] = None if not cell or cell in _READ_AS_EMPTY else _PARSERS[dtypes[name]](cell)
    return record


def _write_metadata(data_dir: Path, rows: Sequence[_Row], dtypes: dict[str, str]) -> None:
    names = ["file_name", *dtypes]
    sides = {side: [_record(row, dtypes) for row in rows if row.split == side] for side in SPLITS}
    text_names = [name for name in names if dtypes.get(name, "string") in ("string", "class_label")]
    if _csv_is_faithful(list(sides.values()), text_names):
        for side, records in sides.items():
            # with the default line ends of `csv` both "\r" and "\n" in a cell are quoted
            with (data_dir / side / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, names)
                writer.writeheader()
                writer.writerows(records)
        return
    types = {name: "string" if name in text_names else dtypes[name] for name in names}
    schema = pa.schema([(name, pa.type_for_alias(dtype)) for name, dtype in types.items()])
    for side, records in sides.items():
        pq.write_table(pa.Table.from_pylist(records, schema=schema), data_dir / side / "metadata.parquet")


def _csv_is_faithful(sides: Sequence[Sequence[dict[str, Any]]], text_names: Sequence[str]) -> bool:
    """Tell whether load_dataset reads back what is written.

    A label 'None' would come back empty. A text column that is empty on one side (in the 10,000 rows read first) has
    no type there, and then load_dataset refuses the whole dataset.
    """
    for name in text_names:
        columns = [[record[name] for record in records] for records in sides]
        if len({any(cells[:10_000]) for cells in columns}) > 1:
            return False
        if not all(_READ_AS_EMPTY.isdisjoint(cells) for cells in columns):
            return False
    return True


def _write_quarantine(folder: Path, quarantine: Sequence[tuple[Segment, str]]) -> None:
    if not quarantine:
        return
    with (folder / "quarantine.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "label", "group", "reason"])
        writer.writerows([segment.file_name, segment.label, segment.group, why] for segment, why in quarantine)


def _write_json(path: Path, summary: BuildSummary, settings: dict[str, Any]) -> None:
    facts = {key: value for key, value in asdict(summary).items() if key != "output_dir"}
    text = json.dumps({"version": _VERSION, **facts, **settings}, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("railsformer", "datasets", "av")}
    return packages | {"python": platform.python_version()}
