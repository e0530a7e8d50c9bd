"""What `railsformer build` leaves beside the videos of a dataset, folder or Hub repository."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from railsformer.data.dataset_folder import read_dataset_facts

__all__ = ["Companions", "read_companions"]


@dataclass(frozen=True)
class Companions:
    """What `railsformer build` left beside the videos; empty where it did not.

    Attributes:
        facts: dataset.json.
        audit: audit.json.
        quarantine: Rows of quarantine.csv.
        probe: Rows of probe.parquet by source file.
    """

    facts: Mapping[str, Any]
    audit: Mapping[str, Any]
    quarantine: Sequence[Mapping[str, str]]
    probe: Mapping[str, Mapping[str, Any]]


def read_companions(name: str | Path) -> Companions:
    """Read the tables beside a dataset, as far as they are there.

    Args:
        name: Dataset folder or Hub id.

    Raises:
        ValueError: If one is damaged.
    """
    paths = {
        file: _companion_path(name, file) for file in ("dataset.json", "audit.json", "quarantine.csv", "probe.parquet")
    }
    facts, audit = (
        read_dataset_facts(path) if (path := paths[file]) else {} for file in ("dataset.json", "audit.json")
    )
    quarantine: list[dict[str, str]] = []
    probe: dict[str, dict[str, Any]] = {}
    damaged = paths["quarantine.csv"]
    try:
        if path := paths["quarantine.csv"]:
            with path.open(encoding="utf-8-sig", newline="") as file:
                quarantine = list(csv.DictReader(file))
        if damaged := paths["probe.parquet"]:
            probe = {str(row.get("file_name")): row for row in pq.read_table(damaged).to_pylist()}
    except (UnicodeDecodeError, csv.Error, pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{damaged} cannot be read ({reason}); remove it, or build the dataset again") from error
    return Companions(facts, audit, quarantine, probe)


def _companion_path(name: str | Path, file: str) -> Path | None:
    """A file beside the dataset; None where there is none."""
    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(str(name), file, repo_type="dataset"))
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None
