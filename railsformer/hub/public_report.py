"""The files of a report that go to the Hub beside a model.

Unless asked otherwise they neither show nor name footage: the pages are written again from the figures alone, without
contact sheet and names of videos, and predictions.csv stays at home.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from railsformer.hub.public_metrics import public_metrics
from railsformer.hub.wording import shown

__all__ = ["METRICS_FILE", "read_metrics", "report_files"]

METRICS_FILE = "metrics.json"
NEWEST_VERSION = 2
_FIGURES = (".png", ".svg")
_PAGES = ("report.html", "report.md")
_SUFFIXES = (".html", ".md", ".json", ".csv", ".jpg", *_FIGURES)


def read_metrics(report_dir: str | Path) -> dict[str, Any]:
    """Return the content of the metrics.json of a report.

    Args:
        report_dir: Folder that `evaluate` wrote.

    Raises:
        FileNotFoundError: If there is no metrics.json.
        ValueError: If it is damaged, not of an evaluation, or newer than this code.
    """
    path = Path(report_dir) / METRICS_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{report_dir} has no {METRICS_FILE}; give the output folder of `railsformer evaluate` as --report"
        )
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); evaluate again") from error
    if not isinstance(metrics, dict) or not {"per_class", "confusion_matrix", "protocol"} <= metrics.keys():
        raise ValueError(f"{path} is not of an evaluation; give the output folder of `railsformer evaluate`")
    version = metrics.get("version", 1)
    if version not in range(1, NEWEST_VERSION + 1):
        raise ValueError(
            f"{path} is of version {version!r}, expected 1 to {NEWEST_VERSION}; update railsformer, or evaluate again"
        )
    return metrics


def report_files(report_dir: str | Path, *, with_footage: bool = False) -> dict[str, Path | bytes]:
    """Return what of a report is pushed, file name to content.

    Args:
        report_dir: Folder that `evaluate` wrote.
        with_footage: Send every file as it is, those that show or name videos too.

    Raises:
        FileNotFoundError: If there is no metrics.json.
        ValueError: If metrics.json cannot be read, or predictions.csv does not fit it.
    """
    folder, metrics = Path(report_dir), read_metrics(report_dir)
    if with_footage:
        return {path.name: path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix in _SUFFIXES}
    public = public_metrics(metrics)
    if metrics.get("version", 1) == 1:
        return _files_of_version_1(folder, metrics, public)
    return _rendered(folder, public)


def _files_of_version_1(
    folder: Path, metrics: Mapping[str, Any], public: Mapping[str, Any]
) -> dict[str, Path | bytes]:
    """The old report names no video; only its paths are cut down."""
    files: dict[str, Path | bytes] = {path.name: path for path in sorted(folder.glob("*.png"))}
    page = folder / "report.md"
    if page.is_file():
        text = page.read_text(encoding="utf-8")
        for name in (str(metrics.get(key) or "") for key in ("model", "dataset")):
            text = text.replace(name, shown(name)) if name else text
        files[page.name] = text.encode()
    return files | {METRICS_FILE: _json(public)}


def _rendered(folder: Path, public: dict[str, Any]) -> dict[str, Path | bytes]:
    """The report as `evaluate` writes it, of the public figures."""
    from railsformer.evaluation.report_pages import read_predictions, write_report

    table = folder / "predictions.csv"
    if not table.is_file():
        raise FileNotFoundError(f"{table} is missing, without which the report cannot be drawn again; evaluate again")
    predictions = read_predictions(table)
    nameless = replace(predictions, videos=[""] * len(predictions.videos), metadata={})
    with tempfile.TemporaryDirectory() as place:
        write_report(Path(place), public, nameless)
        written = {path.name: path.read_bytes() for path in sorted(Path(place).iterdir()) if path.is_file()}
    kept = {name: data for name, data in written.items() if name in _PAGES or name.endswith(_FIGURES)}
    return {**kept, METRICS_FILE: _json(public)}


def _json(metrics: Mapping[str, Any]) -> bytes:
    return (json.dumps(metrics, indent=2, ensure_ascii=False) + "\n").encode()
