"""The tables beside a dataset that say what its source files hold, and which were left out."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from railsformer.data.files import whole_file
from railsformer.data.probe import VideoFacts
from railsformer.data.video import ReasonClass, VideoDecodeError

__all__ = ["Quarantine", "read_probe_table", "read_quarantine", "write_probe_table", "write_quarantine"]

_PROBE_SCHEMA = pa.schema(
    [
        ("file_name", pa.string()),
        ("num_bytes", pa.int64()),
        ("codec", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("rotation_degrees", pa.int64()),
        ("pixel_format", pa.string()),
        ("bit_depth", pa.int64()),
        ("fps", pa.float64()),
        ("variable_rate", pa.bool_()),
        ("num_frames_claimed", pa.int64()),
        ("num_frames", pa.int64()),
        ("duration_seconds", pa.float64()),
        ("first_seconds", pa.float64()),
        ("last_seconds", pa.float64()),
        ("has_audio", pa.bool_()),
        ("interlaced", pa.bool_()),
        ("damaged_packets", pa.int64()),
        ("num_patched_frames", pa.int64()),
        ("needs_salvage", pa.bool_()),
        ("reason_class", pa.string()),
        ("reason", pa.string()),
    ]
)


@dataclass(frozen=True)
class Quarantine:
    """A row of the source that was left out.

    Attributes:
        file_name: The source file, below the source folder.
        label: Its label, empty if it has none.
        group: Its group, empty if it has none.
        reason_class: What kind of damage it is.
        reason: One sentence without a full stop.
    """

    file_name: str
    label: str
    group: str
    reason_class: ReasonClass
    reason: str


def write_probe_table(path: str | Path, found: Mapping[str, VideoFacts | VideoDecodeError]) -> None:
    """Write one row a source file as Parquet; a reader sees the old table or the whole new one.

    Args:
        path: Where to.
        found: What the probe said of each file, by the name that the table is to give it.

    Raises:
        OSError: If it cannot be written.
    """
    rows = [_probe_row(name, result) for name, result in found.items()]
    table = pa.Table.from_pylist(rows, schema=_PROBE_SCHEMA)
    with whole_file(path) as partial:
        pq.write_table(table, partial)


def read_probe_table(path: str | Path) -> dict[str, VideoFacts | VideoDecodeError]:
    """Read what `write_probe_table` wrote, now or in an earlier version.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such table.
    """
    path = _existing(path)
    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: no Parquet table ({reason}); build the dataset again") from error
    # Columns came by and by; an older table lacks those whose facts have a default.
    required = {fact.name for fact in fields(VideoFacts) if fact.default is MISSING}
    required |= {"file_name", "reason_class", "reason"}
    found: dict[str, VideoFacts | VideoDecodeError] = {}
    for number, row in enumerate(rows, start=1):
        missing = required - row.keys()
        if missing:
            raise ValueError(f"{path}: no column {min(missing)}; build the dataset again")
        name = row["file_name"]
        if not name or name in found:
            raise ValueError(
                f"{path}, row {number}: file_name must be there once, got {name}; build the dataset again"
            )
        if row["reason_class"] is not None:
            found[name] = VideoDecodeError(name, row["reason"] or "", row["reason_class"])
        else:
            found[name] = VideoFacts(**{fact.name: row[fact.name] for fact in fields(VideoFacts) if fact.name in row})
    return found


def write_quarantine(path: str | Path, rows: Sequence[Quarantine]) -> None:
    """Write what was left out as CSV; a reader sees the old table or the whole new one.

    Raises:
        OSError: If it cannot be written.
    """
    # surrogateescape: a file name that is no UTF-8 must not end the build
    with (
        whole_file(path) as partial,
        partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.DictWriter(file, [column.name for column in fields(Quarantine)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read_quarantine(path: str | Path) -> list[Quarantine]:
    """Read what `write_quarantine` wrote, or a table of before there were reason classes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing, or it is no table.
    """
    path = _existing(path)
    # utf-8-sig: a spreadsheet that saved the table put a mark in front
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        try:
            rows = list(reader := csv.DictReader(file))
        except csv.Error as error:
            raise ValueError(f"{path}: no CSV table ({error}); build the dataset again") from error
    missing = {column.name for column in fields(Quarantine)} - set(reader.fieldnames or ()) - {"reason_class"}
    if missing:
        raise ValueError(f"{path}: no column {min(missing)}; build the dataset again")
    return [
        Quarantine(
            file_name=row["file_name"],
            label=row["label"] or "",
            group=row["group"] or "",
            reason_class=cast(ReasonClass, row.get("reason_class") or "damaged"),
            reason=row["reason"] or "",
        )
        for row in rows
    ]


def _probe_row(name: str, result: VideoFacts | VideoDecodeError) -> dict[str, Any]:
    # Arrow holds UTF-8 only; a byte that is none is shown as \xNN.
    shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(result, VideoFacts):
        return asdict(result) | {"file_name": shown, "reason_class": None, "reason": None}
    num_bytes = result.path.stat().st_size if result.path.is_file() else None
    return {"file_name": shown, "num_bytes": num_bytes, "reason_class": result.reason_class, "reason": result.reason}


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table; `railsformer build` writes it")
    return path
