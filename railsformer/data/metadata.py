"""The metadata of a dataset: typed columns, written so that every reader brings back what was put in."""

import csv
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from railsformer.data.segments import Annotations, Segment
from railsformer.data.splits.sides import SPLITS

__all__ = ["StoredRow", "column_dtypes", "dataset_fingerprint", "write_metadata"]

_OWN_COLUMNS = {
    "label": "class_label",
    "group": "string",
    "source": "string",
    "start_seconds": "float64",
    "end_seconds": "float64",
}
# Cells that pandas, and so load_dataset, takes for empty in a CSV table, quoted or not.
_READ_AS_EMPTY = frozenset(
    {"#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"}
    | {"NULL", "NaN", "None", "n/a", "nan", "null"}
)


@dataclass(frozen=True)
class StoredRow:
    """One stored file.

    Attributes:
        segment: What it shows.
        split: Its side.
        file_name: What it is called below `data/<split>/`.
        sha256: Of the stored bytes, in hexadecimal digits.
    """

    segment: Segment
    split: str
    file_name: str
    sha256: str = ""


def dataset_fingerprint(rows: Sequence[StoredRow]) -> str:
    """SHA-256 over the sorted (split, SHA-256 of the file, label, group) of all rows, in hexadecimal digits."""
    keys = sorted([row.split, row.sha256, row.segment.label, row.segment.group] for row in rows)
    return hashlib.sha256(json.dumps(keys).encode()).hexdigest()


def column_dtypes(found: Annotations) -> dict[str, str]:
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


def _record(row: StoredRow, dtypes: dict[str, str]) -> dict[str, Any]:
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


def write_metadata(data_dir: Path, rows: Sequence[StoredRow], dtypes: dict[str, str]) -> None:
    """Write metadata.csv beside the videos of each side, or metadata.parquet where CSV would lose something.

    Args:
        data_dir: Holds a folder for each side.
        rows: All stored files.
        dtypes: What `column_dtypes` gave.
    """
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
