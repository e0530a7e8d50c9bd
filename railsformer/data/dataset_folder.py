"""What a dataset folder must hold, checked before it is read, so that a broken one is named in one line."""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from railsformer.data.segments import LONGEST_SECONDS

__all__ = ["check_dataset_folder", "check_seconds", "metadata_files", "read_dataset_facts"]


def check_dataset_folder(folder: Path) -> None:
    """Check the card, dataset.json, the split folders, their metadata and that every row's file is there.

    Raises:
        FileNotFoundError: If something is missing.
        ValueError: If something cannot be read, or a row is not as described.
    """
    if not folder.is_dir():
        problem = "it is a file" if folder.exists() else "there is no such folder"
        raise FileNotFoundError(
            f"{folder}: no dataset here ({problem}); `railsformer build SOURCE --output_dir {folder}` makes one"
        )
    if (folder / "config.json").is_file():
        raise ValueError(
            f"{folder}: this is a model, not a dataset (it holds config.json); give the folder that "
            "`railsformer build` wrote"
        )
    if not (folder / "README.md").is_file():
        raise FileNotFoundError(
            f"{folder}: no dataset here (README.md is missing); `railsformer build SOURCE --output_dir {folder}` "
            "makes one"
        )
    config = _read_config(folder)
    read_dataset_facts(folder / "dataset.json")
    labels = _label_names(config)
    for split, path in _split_folders(folder, config).items():
        _check_split(folder, split, path, labels)


def check_seconds(row: Mapping[str, Any], where: str) -> None:
    """Refuse times of a row that no clip can be cut from; empty ones are right.

    Raises:
        ValueError: If a time is no number, negative or far too large, or the end is not after the start.
    """
    seconds = {"start_seconds": 0.0, "end_seconds": math.inf}
    for name in seconds:
        value = row.get(name)
        if value is None or value == "":
            continue
        try:
            seconds[name] = float(value)
        except ValueError:
            seconds[name] = math.nan
        if not 0 <= seconds[name] <= LONGEST_SECONDS:
            raise ValueError(
                f"{where}: {name} must be a number from 0 to {LONGEST_SECONDS:g}, got {value}; "
                "correct it, or build the dataset again"
            )
    if seconds["end_seconds"] <= seconds["start_seconds"] and row.get("end_seconds") is not None:
        raise ValueError(
            f"{where}: end_seconds must be after start_seconds, got {row.get('end_seconds')} and "
            f"{row.get('start_seconds') or 0}; correct it, or build the dataset again"
        )


def metadata_files(folder: Path) -> list[Path]:
    """The metadata tables of all splits."""
    return sorted(folder.glob("data/*/metadata.*"))


def read_dataset_facts(path: Path) -> dict[str, Any]:
    """What dataset.json says; empty where there is none.

    Raises:
        ValueError: If it is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or not UTF-8
        raise ValueError(f"{path} is damaged ({_one_line(error)}); build the dataset again") from error
    if not isinstance(facts, dict):
        raise ValueError(f"{path} must hold an object, got {type(facts).__name__}; build the dataset again")
    return facts


def _read_config(folder: Path) -> dict[str, Any]:
    """The one config of the card's YAML header; empty where the card has none or several."""
    path = folder / "README.md"
    try:
        _, *parts = path.read_text(encoding="utf-8").split("---\n", 2)
        header = yaml.safe_load(parts[0]) if len(parts) == 2 else {}
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(
            f"{path}: its YAML header cannot be read ({_one_line(error)}); build the dataset again"
        ) from error
    configs = header.get("configs") if isinstance(header, dict) else None
    if not isinstance(configs, list) or len(configs) != 1 or not isinstance(configs[0], dict):
        return {}
    return configs[0]


def _label_names(config: dict[str, Any]) -> frozenset[str] | None:
    """Labels that the card names; None where it does not."""
    features = config.get("features")
    for feature in features if isinstance(features, list) else []:
        if isinstance(feature, dict) and feature.get("name") == "label":
            dtype = feature.get("dtype")
            names = dtype.get("class_label", {}).get("names") if isinstance(dtype, dict) else None
            return frozenset(map(str, names.values())) if isinstance(names, dict) else None
    return None


def _split_folders(folder: Path, config: dict[str, Any]) -> dict[str, Path]:
    """Folder of each split that the card names as `data/<split>/**`."""
    found = {}
    data_files = config.get("data_files")
    for entry in data_files if isinstance(data_files, list) else []:
        pattern = entry.get("path") if isinstance(entry, dict) else None
        if isinstance(pattern, str) and pattern.endswith("/**"):
            found[str(entry.get("split"))] = folder / pattern.removesuffix("/**")
    return found


def _check_split(folder: Path, split: str, path: Path, labels: frozenset[str] | None) -> None:
    """Check the metadata of one split, row by row."""
    if not path.is_dir():
        raise FileNotFoundError(f"{folder}: the folder of split '{split}' is missing ({path}); build it again")
    tables = sorted(path.glob("metadata.*"))
    if not tables:
        raise FileNotFoundError(
            f"{folder}: split '{split}' has no metadata ({path / 'metadata.csv'} is missing); build it again"
        )
    if tables[0].suffix not in (".csv", ".parquet"):
        return
    rows = _read_rows(tables[0])
    if not rows:
        raise ValueError(f"{folder}: split '{split}' holds no video ({tables[0]} has no rows); build it again")
    gone = []
    for number, row in enumerate(rows, start=2):
        where = f"{tables[0]} row {number}"
        name, label = row.get("file_name"), row.get("label")
        if not isinstance(name, str) or not name:
            raise ValueError(f"{where}: file_name is empty; build the dataset again")
        if labels is not None and label not in labels:
            raise ValueError(
                f"{where}: label {label!r} is not one that README.md names ({', '.join(sorted(labels))}); "
                "correct it, or build the dataset again"
            )
        check_seconds(row, where)
        if not (path / name).is_file():
            gone.append(name)
    if gone:
        raise FileNotFoundError(
            f"{folder}: {len(gone)} of {len(rows)} videos of split '{split}' are gone (first {path / gone[0]}); "
            "put them back, or build it again"
        )


def _read_rows(table: Path) -> list[dict[str, Any]]:
    """All rows; a CSV table's cells are text."""
    try:
        if table.suffix == ".parquet":
            rows: list[dict[str, Any]] = pq.read_table(table).to_pylist()
            return rows
        with table.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise ValueError(f"{table} cannot be read ({_one_line(error)}); build the dataset again") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
