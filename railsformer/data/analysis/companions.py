"""What `railsformer build` leaves beside the videos of a dataset, folder or Hub repository."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from railsformer.data.dataset_folder import read_dataset_facts
from railsformer.data.probe import VideoFacts
from railsformer.data.quarantine import Quarantine, read_probe_table, read_quarantine

__all__ = ["Companions", "read_companions"]


@dataclass(frozen=True)
class Companions:
    """What `railsformer build` left beside the videos; empty where it did not.

    Attributes:
        facts: dataset.json.
        audit: audit.json.
        quarantine: Rows of quarantine.csv.
        probe: The good files of probe.parquet, by name.
    """

    facts: Mapping[str, Any]
    audit: Mapping[str, Any]
    quarantine: Sequence[Quarantine]
    probe: Mapping[str, VideoFacts]


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
    _check_audit(audit, paths["audit.json"])
    quarantine = read_quarantine(path) if (path := paths["quarantine.csv"]) else []
    found = read_probe_table(path) if (path := paths["probe.parquet"]) else {}
    probe = {file: facts for file, facts in found.items() if isinstance(facts, VideoFacts)}
    return Companions(facts, audit, quarantine, probe)


def _check_audit(audit: Mapping[str, Any], path: Path | None) -> None:
    """Refuse an audit whose parts were edited into something else.

    Raises:
        ValueError: With the part.
    """
    kinds: dict[str, type | tuple[type, ...]] = {
        "exact_copies": dict,
        "near_copies": dict,
        "random_split": dict,
        "left_out": list,
        "label_conflicts": list,
    }
    wrong = [name for name, kind in kinds.items() if name in audit and not isinstance(audit[name], kind)]
    lists = (("exact_copies", "clusters"), ("near_copies", "pairs"))
    wrong += [
        f"{name}.{part}"
        for name, part in lists
        if name not in wrong and not isinstance(audit.get(name, {}).get(part, []), list)
    ]
    if wrong:
        raise ValueError(f"{path} is damaged ({wrong[0]} is not what build writes); build the dataset again")


def _companion_path(name: str | Path, file: str) -> Path | None:
    """A file beside the dataset; None where there is none."""
    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(str(name), file, repo_type="dataset"))
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None
