"""Tables of annotations as text: CSV, JSON lines, Parquet and mmaction2 lists.

Cells are text whatever the file's kind, so that the same rules hold for all: numbers as they are written, true and
false for booleans, nothing for null and NaN.
"""

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from railsformer.data.segments import LONGEST_SECONDS, READ_SUFFIXES, printable

__all__ = ["Table", "cell_text", "is_scalar", "parse_seconds", "parse_split", "read_table"]

_KINDS = "a table (.csv, .tsv, .jsonl, .parquet) or a list of paths and label indices (.txt)"
_LABEL_FILES = ("labels.txt", "label_map.txt")
_SPLITS = {"train": "train", "training": "train", "test": "test"} | dict.fromkeys(
    ("validation", "val", "valid", "dev"), "validation"
)


@dataclass(frozen=True)
class Table:
    """Rows of a table.

    Attributes:
        name: What messages call it.
        header: Names of the columns.
        rows: Number and cells by column of each row. CSV and lists count as a spreadsheet and an editor do, the
            first line being 1; JSON lines likewise; rows of Parquet count from 1.
        decimal_comma: Whether times may be written 1,5.
        has_header_row: Whether the header is the first row.
    """

    name: str
    header: list[str]
    rows: list[tuple[int, dict[str, str]]]
    decimal_comma: bool = False
    has_header_row: bool = False


def read_table(path: str | Path, *, label_names: str | Path | None = None) -> Table:
    """Read a table by its suffix; what is none of the others is read as CSV.

    Args:
        path: The table.
        label_names: For a list: text file with one label name a line, the first being index 0; None means
            `labels.txt` or `label_map.txt` beside the list.

    Raises:
        FileNotFoundError: If the table, or a list's label names, are not there.
        PermissionError: If it may not be read.
        ValueError: If it is not what its suffix says; the message names the row.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.is_file():
        raise FileNotFoundError(f"annotations {path} does not exist or is no file; give {_KINDS}")
    if suffix in READ_SUFFIXES:
        raise ValueError(f"annotations {path} is a video by its name; give {_KINDS}")
    if suffix == ".json":
        raise ValueError(f"annotations {path}: JSON is read one object a line; save it as .jsonl")
    is_list = suffix == ".txt" and "file_name" not in _read_text(path).partition("\n")[0]
    if label_names is not None and not is_list:
        raise ValueError(f"label_names goes with a list of paths and label indices (.txt), but {path.name} is a table")
    if is_list:
        return _read_list(path, label_names)
    readers: dict[str, Callable[[Path], Table]] = {
        ".jsonl": _read_json_lines,
        ".ndjson": _read_json_lines,
        ".parquet": _read_parquet,
    }
    return readers.get(suffix, _read_csv)(path)


def parse_seconds(text: str, *, decimal_comma: bool = False) -> float:
    """Return seconds of `12.5`, `1:02.5` (m:ss) or `0:01:02.5` (h:mm:ss), rounded to microseconds.

    Raises:
        ValueError: If it is neither, negative or beyond any file; the message lacks the cell's name.
    """
    text = text.strip()
    plain = text.replace(",", ".") if decimal_comma else text
    clock = re.fullmatch(r"(?:(\d+):(?=\d\d:))?(\d+):([0-5]\d(?:[.,]\d*)?)", text, re.ASCII)
    if clock:
        hours, minutes, rest = float(clock[1] or 0), float(clock[2]), float(clock[3].replace(",", "."))
        if clock[1] and minutes > 59:
            raise ValueError(f"must have minutes from 00 to 59, got {text}")
        seconds = 3600 * hours + 60 * minutes + rest
    elif re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", plain, re.ASCII | re.IGNORECASE):
        seconds = float(plain)
    else:
        raise ValueError(f"must be seconds (12.5) or a clock time (h:mm:ss or m:ss), got {printable(text)}")
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise ValueError(f"must be from 0 to {LONGEST_SECONDS:.0f} seconds, got {text}")
    return round(seconds, 6)


def parse_split(text: str) -> str:
    """Return train, validation or test; val, valid, dev and training are taken for them.

    Raises:
        ValueError: If it is none of these; the message lacks the cell's name.
    """
    split = _SPLITS.get(text.strip().casefold())
    if split is None:
        raise ValueError(f"must be train, validation (val, valid, dev) or test, got '{printable(text.strip())}'")
    return split


def cell_text(value: Any) -> str:
    """Return a value as a CSV table would hold it."""
    if value is None or value != value:  # NaN is what pandas makes of an empty cell
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def is_scalar(dtype: pa.DataType) -> bool:
    """Whether cells of an Arrow type are text, numbers, booleans or times."""
    if pa.types.is_dictionary(dtype):
        return is_scalar(dtype.value_type)
    kinds = pa.types
    text = kinds.is_string(dtype) or kinds.is_large_string(dtype) or kinds.is_string_view(dtype)
    number = kinds.is_boolean(dtype) or kinds.is_integer(dtype) or kinds.is_floating(dtype) or kinds.is_decimal(dtype)
    return bool(text or number or kinds.is_temporal(dtype) or kinds.is_null(dtype))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PermissionError(f"annotations {path} cannot be read ({error.strerror}); check its rights") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}); save it as 'CSV UTF-8'") from error


def _read_csv(path: Path) -> Table:
    """Return the numbered rows; blank rows count and are skipped."""
    text = _read_text(path)
    first_line = text.partition("\n")[0]
    delimiter = max(",;\t", key=first_line.count)  # spreadsheets write ';' where ',' is the decimal mark
    records = []
    try:
        for record in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            records.append(record)
    except csv.Error as error:
        raise ValueError(
            f"{path} is not a CSV table ({error}, row {len(records) + 1}); look for a quote that is not closed, or "
            "save it as 'CSV UTF-8'"
        ) from error
    header = [name.strip() for name in records[0]] if records else []
    rows = []
    for number, record in enumerate(records[1:], start=2):
        if not any(cell.strip() for cell in record):
            continue
        if len(record) != len(header):
            raise ValueError(
                f"{path.name} row {number}: {len(record)} cells where the header has {len(header)}; "
                "put cells that hold a comma in double quotes, and close every quote"
            )
        rows.append((number, dict(zip(header, record, strict=True))))
    return Table(path.name, header, rows, decimal_comma=delimiter == ";", has_header_row=True)


def _read_json_lines(path: Path) -> Table:
    rows: list[tuple[int, dict[str, str]]] = []
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if line.strip():
            rows.append((number, _json_object(line, f"{path.name} row {number}")))
    header = list(dict.fromkeys(name for _, cells in rows for name in cells))
    return Table(path.name, header, [(number, dict.fromkeys(header, "") | cells) for number, cells in rows])


def _json_object(line: str, where: str) -> dict[str, str]:
    """Return one object's values as text; numbers as they are written."""
    doubled: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            doubled.append(where)
        return found

    try:
        values = json.loads(line, parse_int=str, parse_float=str, parse_constant=_constant, object_pairs_hook=collect)
    except RecursionError as error:
        raise ValueError(f"{where}: it is nested too deep; write an object of texts and numbers") from error
    except ValueError as error:
        problem = f"{error.msg} at character {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise ValueError(f"{where}: no JSON ({problem}); write one object a line") from error
    if not isinstance(values, dict):
        raise ValueError(f"{where}: {type(values).__name__} instead of an object; write one object a line")
    for name, value in values.items():
        if isinstance(value, list | dict):
            kind = "a list" if isinstance(value, list) else "an object"
            raise ValueError(f"{where}: '{printable(name)}' holds {kind}; write a text or a number, or leave it out")
    if doubled:
        raise ValueError(f"{where}: a name stands there twice; every column needs a name of its own")
    return {name: cell_text(value) for name, value in values.items()}


def _constant(name: str) -> str:
    return "" if name == "NaN" else name


def _read_parquet(path: Path) -> Table:
    try:
        table = pq.read_table(path, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as Parquet ({' '.join(str(error).split())}); write it again"
        ) from error
    for column in table.schema:
        if not is_scalar(column.type):
            raise ValueError(
                f"{path.name}: column '{printable(column.name)}' holds {column.type}, expected text or numbers; "
                "remove it or write it as text"
            )
    header = list(table.schema.names)
    columns = [_cells(path, name, column) for name, column in zip(header, table.columns, strict=True)]
    records = zip(*columns, strict=True)
    return Table(
        path.name, header, [(n, dict(zip(header, cells, strict=True))) for n, cells in enumerate(records, start=1)]
    )


def _cells(path: Path, name: str, column: pa.ChunkedArray) -> list[str]:
    """The column as text; what Python has no value for (a date after the year 9999, an unknown time zone) is named."""
    try:
        return [cell_text(value) for value in column.to_pylist()]
    except (OverflowError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path.name}: column '{printable(name)}' of {column.type} cannot be read ({reason}); write it as text"
        ) from error


def _read_list(path: Path, label_names: str | Path | None) -> Table:
    """Read lines of `path label_index`, as mmaction2's VideoDataset does; the index is the last field."""
    names = _read_label_names(_find_label_names(path, label_names))
    rows = []
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path.name} row {number}"
        fields = line.rsplit(maxsplit=1)
        if len(fields) < 2 or not re.fullmatch(r"-?\d{1,9}", fields[1], re.ASCII):
            raise ValueError(f"{where}: expected a path and a label index, got {printable(line.strip())}")
        name, index = fields[0].strip(), int(fields[1])
        before = name.rsplit(maxsplit=1)
        if PurePosixPath(name).suffix.lower() not in READ_SUFFIXES and len(before) == 2 and before[1].isdigit():
            raise ValueError(
                f"{where}: two numbers after the path, as in lists of frame folders (path total_frames label_index) "
                "or of several labels; give videos and one label: path label_index"
            )
        if not 0 <= index < len(names):
            raise ValueError(
                f"{where}: label index {index}, but there are {len(names)} label names (0 to {len(names) - 1}); "
                "correct the index or complete the names"
            )
        rows.append((number, {"file_name": name, "label": names[index]}))
    return Table(path.name, ["file_name", "label"], rows)


def _find_label_names(path: Path, label_names: str | Path | None) -> Path:
    if label_names is not None:
        if not Path(label_names).is_file():
            raise FileNotFoundError(f"label_names {label_names} does not exist or is no file; give a text file")
        return Path(label_names)
    beside = [path.parent / name for name in _LABEL_FILES if (path.parent / name).is_file()]
    if not beside:
        raise FileNotFoundError(
            f"{path.name} holds label indices but no {' or '.join(_LABEL_FILES)} is beside it; name a text file with "
            "one label name a line: --label_names FILE"
        )
    if len(beside) > 1 and _read_text(beside[0]) != _read_text(beside[1]):
        raise ValueError(f"{' and '.join(_LABEL_FILES)} beside {path.name} differ; say which with --label_names FILE")
    return beside[0]


def _read_label_names(path: Path) -> list[str]:
    names = [line.strip() for line in _read_text(path).rstrip().split("\n")]
    seen: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if not name:
            raise ValueError(f"{path.name} row {number}: empty; write one label name a line, the first being index 0")
        if name in seen:
            raise ValueError(
                f"{path.name} row {number}: '{printable(name)}' is already in row {seen[name]}; rename one"
            )
        seen[name] = number
    numbers = [re.match(r"(\d{1,9})[\s,:]", name, re.ASCII) for name in names]
    if all(numbers) and [int(number[1]) for number in numbers if number] in (
        list(range(len(names))),
        list(range(1, len(names) + 1)),
    ):
        raise ValueError(f"{path.name} row 1: '{names[0]}' starts with its number; write the label names alone")
    return names
