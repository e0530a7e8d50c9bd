"""operating_points.json: the temperature and thresholds that a model is used with."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from railsformer.data.files import whole_file
from railsformer.evaluation.operating_points import OperatingPoint, Target

__all__ = [
    "OPERATING_POINTS_NAME",
    "OperatingPointsFile",
    "find_operating_points",
    "read_operating_points",
    "write_operating_points",
]

OPERATING_POINTS_NAME = "operating_points.json"
_VERSION = 1
_KEYS = ("version", "temperature", "labels", "split", "dataset_fingerprint")
_ADVICE = "write it anew with railsformer evaluate --recalibrate"


@dataclass(frozen=True)
class OperatingPointsFile:
    """Content of operating_points.json.

    Args:
        temperature: What the logarithms of a video's scores are divided by before its thresholds are used.
        thresholds: Label to the least score that raises its alarm, above 0 to 1.
        targets: Label to what its threshold was chosen for, such as `recall>=0.9`.
        split: Split that they were fitted on.
        dataset_fingerprint: Of the dataset that they were fitted on; None where it states none.
    """

    temperature: float
    thresholds: dict[str, float]
    targets: dict[str, str]
    split: str
    dataset_fingerprint: str | None


def write_operating_points(
    folder: str | Path,
    points: Mapping[str, OperatingPoint],
    *,
    temperature: float,
    split: str,
    dataset_fingerprint: str | None,
) -> Path:
    """Write operating_points.json into a folder, whole or not at all, over one that is there.

    A label without a threshold (nothing to choose it by) is left out, and one whose target was not reached stands with
    the nearest.

    Args:
        folder: REPORT or RUN; must exist.
        points: Label to its point.
        temperature: Above 0.
        split: Split that they were fitted on.
        dataset_fingerprint: Of its dataset.

    Returns:
        Path of the file.
    """
    labels = {
        name: {"threshold": point.threshold, "target": point.target}
        for name, point in points.items()
        if point.threshold is not None
    }
    content = {
        "version": _VERSION,
        "temperature": temperature,
        "labels": labels,
        "split": split,
        "dataset_fingerprint": dataset_fingerprint,
    }
    path = Path(folder) / OPERATING_POINTS_NAME
    own = path.with_name(f".{OPERATING_POINTS_NAME}.{os.getpid()}.partial")  # two evaluations may end at once
    with whole_file(path, partial=own) as partial:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def find_operating_points(name: str | Path) -> Path | None:
    """The operating points of a folder or Hub repository; None where it has none."""
    if Path(name).is_dir():
        path = Path(name, OPERATING_POINTS_NAME)
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(str(name), OPERATING_POINTS_NAME))
    except (FileNotFoundError, EntryNotFoundError, LocalEntryNotFoundError):
        return None


def read_operating_points(folder: str | Path, *, label_names: Sequence[str]) -> OperatingPointsFile:
    """Read and check operating_points.json.

    Args:
        folder: Folder that holds it, or the file itself.
        label_names: Labels of the model that it is used with.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, of another version, or for other labels than the model's.
    """
    path = Path(folder)
    path = path / OPERATING_POINTS_NAME if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path} is not there: this model has no operating points yet; {_ADVICE}") from None
    except ValueError as error:  # of JSON, or of UTF-8
        raise ValueError(f"{path} is damaged ({error}); {_ADVICE}") from None
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        version = content.get("version") if isinstance(content, dict) else None
        raise ValueError(f"{path} must be of version {_VERSION}, got {version!r}; {_ADVICE}")
    return _checked(path, content, label_names)


def _checked(path: Path, content: Mapping[str, Any], label_names: Sequence[str]) -> OperatingPointsFile:
    missing = [key for key in _KEYS if key not in content]
    if missing:
        raise ValueError(f"{path} is damaged: {missing[0]} is missing; {_ADVICE}")
    temperature, labels = content["temperature"], content["labels"]
    if not _is_number(temperature) or not 0 < temperature < float("inf"):
        raise ValueError(f"{path}: temperature must be a number above 0, got {temperature!r}; {_ADVICE}")
    for key in ("split", "dataset_fingerprint"):
        if not isinstance(content[key], str) and (key == "split" or content[key] is not None):
            raise ValueError(f"{path}: {key} must be text, got {content[key]!r}; {_ADVICE}")
    if not isinstance(labels, dict):
        raise ValueError(f"{path}: labels must be one entry a label, got {labels!r}; {_ADVICE}")
    for name, point in labels.items():
        if name not in label_names:
            raise ValueError(
                f"{path} is for a label {name!r} that this model does not know (it has {', '.join(label_names)}); "
                f"{_ADVICE}"
            )
        _check_point(path, name, point)
    return OperatingPointsFile(
        temperature=float(temperature),
        thresholds={name: float(point["threshold"]) for name, point in labels.items()},
        targets={name: point["target"] for name, point in labels.items()},
        split=content["split"],
        dataset_fingerprint=content["dataset_fingerprint"],
    )


def _check_point(path: Path, name: str, point: Any) -> None:
    threshold: Any = point.get("threshold") if isinstance(point, dict) else None
    if not _is_number(threshold) or not 0 < threshold <= 1:
        raise ValueError(f"{path}: threshold of {name} must be above 0 and at most 1, got {threshold!r}; {_ADVICE}")
    try:
        Target.parse(point["target"])
    except (KeyError, AttributeError):
        raise ValueError(f"{path}: target of {name} must be text such as recall>=0.9; {_ADVICE}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {name}: {error}; {_ADVICE}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
