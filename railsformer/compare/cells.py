"""One variant with one seed: trained and tested in processes of their own, once, and gone on with after an end."""

import hashlib
import itertools
import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import yaml

from railsformer.compare.score_cell import FACTS_FILE as SCORED_FILE
from railsformer.compare.score_cell import PREDICTIONS_FILE
from railsformer.data.clips import VideoDataset
from railsformer.data.files import whole_file
from railsformer.evaluation.report_pages.predictions import Predictions, read_predictions
from railsformer.training.arguments import Settings, parse_settings
from railsformer.training.figures import validation_figures
from railsformer.training.resume import checkpoints_of
from railsformer.training.run_folder import FACTS_FILE
from railsformer.training.verb_process import resume_flags, run_module, run_verb

__all__ = ["Cell", "CellRunner", "Variant", "check_same_videos", "figures_of", "right_of"]

RESULT_FILE, RECIPE_FILE, SETTINGS_FILE, LOG_FILE = "result.json", "recipe.yaml", "settings.json", "log.txt"
REQUEST_FILE = "request.json"
_GIB = 2**30
_OVERFLOWS = ("out of memory", "allocate memory", "MemoryError", "std::bad_alloc", "by signal 9")


@dataclass(frozen=True)
class Variant:
    """What is trained.

    Attributes:
        name: Of its row.
        recipe: The whole recipe: all keys of `railsformer train` but dataset, output_dir and seed.
        kind: `run` is trained by `railsformer train`, `other` by `railsformer.compare.other_models`, `peer` by
            `railsformer.compare.peer_cell`.
        options: Further flags of the module that trains it.
        seeds: Seeds it is trained with, where not all.
        note: What a reader must know of it.
    """

    name: str
    recipe: Mapping[str, Any]
    kind: Literal["run", "other", "peer"] = "run"
    options: Mapping[str, str] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None
    note: str | None = None

    @property
    def folder_name(self) -> str:
        """Of its name, and of a hash of it where that is no name of a folder."""
        plain = re.sub(r"[^\w.-]+", "_", self.name).strip("._")
        return plain if plain == self.name else f"{plain}-{hashlib.sha256(self.name.encode()).hexdigest()[:6]}"


@dataclass(frozen=True)
class Cell:
    """A variant with a seed."""

    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.variant.folder_name}-seed{self.seed}"


def figures_of(predictions: Predictions) -> dict[str, float]:
    """Accuracy and macro F1 over the videos that were read, as the report has them."""
    references, scores = predictions.scored()
    found = validation_figures(scores.argmax(axis=1), references, label_names=list(predictions.label_names))
    return {name: float(found[name]) for name in ("accuracy", "f1_macro", "balanced_accuracy")}


@dataclass(frozen=True)
class CellRunner:
    """Runs cells one at a time below a folder.

    Attributes:
        folder: OUTPUT/cells.
        dataset: Trained and tested on.
        lock: What `locked` gave.
        memory_gib: Most memory of a cell's process; None sets no limit.
        retry: Whether cells that failed are tried again.
        progress: Pass on what the cells print.
    """

    folder: Path
    dataset: VideoDataset
    lock: IO[str]
    memory_gib: float | None = None
    retry: bool = False
    progress: bool = False

    def claim(self, cell: Cell) -> Settings:
        """Leave the cell's recipe in its folder, and read it; refuses a cell that was begun with another.

        Raises:
            ValueError: If the recipe is not possible, or the first setting that differs.
        """
        place = self.place("accuracy", cell)
        wanted = {"dataset_fingerprint": self.dataset.fingerprint, **cell.variant.options, **cell.variant.recipe}
        wanted = json.loads(json.dumps(wanted, default=str))
        path = place / SETTINGS_FILE
        held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else wanted
        for name in sorted(held.keys() | wanted.keys()):
            if held.get(name) != wanted.get(name):
                raise ValueError(
                    f"{place} was trained with {name} {held.get(name)}, now {wanted.get(name)}; take the old setting, "
                    "remove the folder or name another --output_dir"
                )
        place.mkdir(parents=True, exist_ok=True)
        for name, text in (
            (RECIPE_FILE, yaml.safe_dump(dict(cell.variant.recipe), sort_keys=True, allow_unicode=True)),
            (SETTINGS_FILE, json.dumps(wanted, indent=2, ensure_ascii=False) + "\n"),
        ):
            if not (place / name).is_file():
                with whole_file(place / name) as partial:
                    partial.write_text(text, encoding="utf-8")
        return parse_settings(self._flags(cell))

    def train(self, cell: Cell, settings: Settings) -> dict[str, Any]:
        """Train and test a cell, or read what it reached before.

        Returns:
            `state` (finished or failed), and then `reason`, or the figures of the test videos, `seconds` of training
            since the last interruption and `validation`.
        """
        place = self.place("accuracy", cell)
        if (found := self._found(place)) is not None:
            return found
        run, log = place / "run", place / LOG_FILE
        if not (run / FACTS_FILE).is_file():  # train writes it last
            began = time.monotonic()
            if reason := self._trained(cell, log):
                return _write(place, {"state": "failed", "reason": reason})
            _write(place, {"training_seconds": time.monotonic() - began}, name="trained.json")
        if cell.variant.kind == "run" and not (place / "report" / "metrics.json").is_file():
            feeding = self.feeding(settings)
            reason = self._verb(
                *("evaluate", "--model", str(run), "--dataset", self.dataset.name, "--split", "test"),
                *("--output_dir", str(place / "report"), "--batch_size", str(feeding["batch_size"])),
                *("--num_workers", str(feeding["num_workers"])),
                log=log,
            )
            if reason:
                return _write(place, {"state": "failed", "reason": reason})
        for checkpoint in checkpoints_of(run):  # the model itself is in the run; states of optimizers fill disks
            shutil.rmtree(checkpoint, ignore_errors=True)
        return _write(place, {"state": "finished", **self._reached(cell)})

    def score(
        self, what: str, cell: Cell, settings: Settings, protocols: Mapping[str, Mapping[str, Any]]
    ) -> str | None:
        """Score a finished cell under further protocols; None, or why that failed."""
        place = self.place(what, cell)
        if all((place / name / SCORED_FILE).is_file() for name in protocols):
            return None
        found = self._found(place)
        if found is not None and found["state"] == "failed":
            return str(found["reason"])
        place.mkdir(parents=True, exist_ok=True)
        request = {
            "model": str(self.place("accuracy", cell) / "run"),
            "dataset": self.dataset.name,
            "output_dir": str(place),
            "protocols": protocols,
            "feeding": self.feeding(settings) | {"progress": self.progress},
            "num_threads": settings.run.num_threads,
        }
        _write(place, request, name=REQUEST_FILE)
        reason = self._module("railsformer.compare.score_cell", str(place / REQUEST_FILE), log=place / LOG_FILE)
        _write(place, {"state": "failed", "reason": reason} if reason else {"state": "finished"})
        return reason

    def predictions(self, cell: Cell) -> Predictions:
        """What a finished cell said of the test videos."""
        return read_predictions(self.place("accuracy", cell) / "report" / PREDICTIONS_FILE)

    def scored(self, what: str, cell: Cell, protocol: str) -> tuple[Predictions, dict[str, Any]]:
        """What `score` left of a protocol: the predictions and the facts."""
        folder = self.place(what, cell) / protocol
        return read_predictions(folder / PREDICTIONS_FILE), _read(folder / SCORED_FILE)

    def place(self, what: str, cell: Cell) -> Path:
        """The folder of a cell."""
        return self.folder / what / cell.name

    def feeding(self, settings: Settings) -> dict[str, Any]:
        """How clips of evaluation come."""
        run = settings.run
        return {"batch_size": run.per_device_eval_batch_size, "num_workers": run.dataloader_num_workers}

    def _found(self, place: Path) -> dict[str, Any] | None:
        """The result that is there, unless it is to be tried again."""
        if not (place / RESULT_FILE).is_file():
            return None
        found = _read(place / RESULT_FILE)
        return None if found["state"] == "failed" and self.retry else found

    def _flags(self, cell: Cell) -> list[str]:
        place = self.place("accuracy", cell)
        return [
            *("--config", str(place / RECIPE_FILE), "--dataset", self.dataset.name),
            *("--output_dir", str(place / "run"), "--seed", str(cell.seed)),
        ]

    def _trained(self, cell: Cell, log: Path) -> str | None:
        run = self.place("accuracy", cell) / "run"
        flags = [*self._flags(cell), *resume_flags(run)]
        if cell.variant.kind == "run":
            return self._verb("train", *flags, log=log)
        options = [part for name, value in cell.variant.options.items() for part in (f"--{name}", value)]
        module = {"other": "railsformer.compare.other_models", "peer": "railsformer.compare.peer_cell"}
        return self._module(module[cell.variant.kind], *options, *flags, log=log)

    def _reached(self, cell: Cell) -> dict[str, Any]:
        place, predictions = self.place("accuracy", cell), self.predictions(cell)
        facts = _read(place / "run" / FACTS_FILE)
        return {
            **figures_of(predictions),
            "seconds": _read(place / "trained.json")["training_seconds"]
            if (place / "trained.json").is_file()
            else None,
            "validation": facts.get("validation", {}).get("f1_macro"),
            "num_videos": len(predictions.videos),
            "num_unread": int((~predictions.is_read).sum()),
        }

    def _verb(self, *arguments: str, log: Path) -> str | None:
        return _overflow(run_verb(*arguments, log=log, **self._process()))

    def _module(self, module: str, *arguments: str, log: Path) -> str | None:
        return _overflow(run_module(module, *arguments, log=log, **self._process()))

    def _process(self) -> dict[str, Any]:
        limit = None if self.memory_gib is None else int(self.memory_gib * _GIB)
        return {"lock": self.lock, "progress": self.progress, "limit_bytes": limit}


def right_of(predictions: Predictions) -> np.ndarray:
    """Whether each video is right: 1, 0, or NaN where it was not read; shape (num_videos,)."""
    right = (predictions.scores.argmax(axis=1) == predictions.references).astype(float)
    return np.where(predictions.is_read, right, np.nan)


def check_same_videos(all_predictions: Sequence[Predictions]) -> None:
    """Refuse predictions that are not of the same videos in the same order.

    Raises:
        ValueError: With the number of videos of each.
    """
    for first, other in itertools.pairwise(all_predictions):
        if list(other.videos) != list(first.videos):
            raise ValueError(
                f"two cells tested other videos ({len(first.videos)} and {len(other.videos)}); remove the output_dir "
                "and compare again"
            )


def _overflow(reason: str | None) -> str | None:
    """Reasons that mean the same in the same words."""
    if reason and any(sign in reason for sign in _OVERFLOWS):
        return reason if reason.startswith("out of memory") else f"out of memory: {reason}"
    return reason


def _write(place: Path, content: dict[str, Any], *, name: str = RESULT_FILE) -> dict[str, Any]:
    with whole_file(place / name) as partial:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return content


def _read(path: Path) -> dict[str, Any]:
    """A JSON object that a finished step left.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(
            f"{path} is damaged or gone ({' '.join(str(error).split())}); remove {path.parent} and compare again"
        ) from error
    return content
