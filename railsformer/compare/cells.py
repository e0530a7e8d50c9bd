"""One variant with one seed: trained and tested in processes of their own, once, and gone on with after an end."""

import hashlib
import itertools
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
import yaml
from tqdm.auto import tqdm

from railsformer.compare.machine import library_versions, machine_facts, memory_limit
from railsformer.compare.peer_train import STATE_FILE as PEER_STATE_FILE
from railsformer.compare.peers import PEER_FOLDER, PEER_LIBRARIES, why_no_library
from railsformer.compare.score_cell import FACTS_FILE as SCORED_FILE
from railsformer.compare.score_cell import PREDICTIONS_FILE
from railsformer.compare.starts import weights_hash
from railsformer.data.clips import VideoDataset
from railsformer.data.files import whole_file
from railsformer.data.probe import available_cores
from railsformer.evaluation.report_pages.predictions import Predictions, read_predictions
from railsformer.training.arguments import Settings, parse_settings
from railsformer.training.figures import validation_figures
from railsformer.training.resume import checkpoints_of
from railsformer.training.run_folder import FACTS_FILE
from railsformer.training.verb_process import resume_flags, run_module, run_verb

__all__ = ["Cell", "CellRunner", "Variant", "check_same_videos", "figures_of", "is_done", "right_of"]

RESULT_FILE, RECIPE_FILE, SETTINGS_FILE, LOG_FILE = "result.json", "recipe.yaml", "settings.json", "log.txt"
REQUEST_FILE, TRAINED_FILE, REPORT_FOLDER = "request.json", "trained.json", "report"
_SCORED = ("views", "probe")  # of a training's weights, and so of no other's
# Where a peer's environment and files lie: they may move. What they hold is compared by its hash.
_PLACES = ("peer_python", "peer_weights")
_OVERFLOWS = (
    "out of memory", "allocate memory", "MemoryError", "std::bad_alloc", "by signal 9 ", "ended with code -9",
    "killed by signal: Killed", "can't start new thread", "failed to map segment",
)  # fmt: skip
_OF_TRAINING: tuple[str, ...] = ("resumed", "seconds_lost", "jobs", "hardware", "versions")
# SIGTERM and Ctrl-C, as a shell reports them and as the system does.
_INTERRUPTED = re.compile(r"the process ended (with code (143|130)|by signal (15|2)) ")


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
        identity: Hashes of the files that it starts from; a cell that was begun before they were kept is taken.
    """

    name: str
    recipe: Mapping[str, Any]
    kind: Literal["run", "other", "peer"] = "run"
    options: Mapping[str, str] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None
    note: str | None = None
    identity: Mapping[str, str] = field(default_factory=dict)

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


def is_done(result: Mapping[str, Any] | None) -> bool:
    """Whether a training came to an end, good or bad; one that was interrupted is still to be done."""
    return result is not None and result["state"] != "interrupted"


def figures_of(predictions: Predictions) -> dict[str, float]:
    """Accuracy and macro F1 over the videos that were read, as the report has them."""
    references, scores = predictions.scored()
    found = validation_figures(scores.argmax(axis=1), references, label_names=list(predictions.label_names))
    return {name: float(found[name]) for name in ("accuracy", "f1_macro", "balanced_accuracy")}


@dataclass(frozen=True)
class _Beside:
    """What trainings that run at the same time have in common: when to end, and how much each may take."""

    limits: Mapping[bool, int | None]  # on a GPU or not: bytes of a process
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class CellRunner:
    """Runs cells below a folder.

    Attributes:
        folder: OUTPUT/cells.
        dataset: Trained and tested on.
        lock: What `locked` gave.
        memory_gib: Most memory of a cell's process; None is its share of nine tenths of what is free, and no limit
            beside a GPU.
        retry: Whether cells that failed are tried again.
        progress: Pass on what the cells print; of several at a time, count them.
        jobs: Trainings at a time; of several, each takes its share of cores where the recipe does not say.
        beside: Of a runner whose trainings run beside each other.
    """

    folder: Path
    dataset: VideoDataset
    lock: IO[str]
    memory_gib: float | None = None
    retry: bool = False
    progress: bool = False
    jobs: int = 1
    beside: _Beside | None = None

    def claim(self, cell: Cell) -> Settings:
        """Leave the cell's recipe in its folder, and read it; refuses a cell that was begun with another.

        Raises:
            ValueError: If the recipe is not possible, or the first setting that differs.
        """
        place = self.place("accuracy", cell)
        variant = cell.variant
        wanted = {"dataset_fingerprint": self.dataset.fingerprint, **variant.options, **variant.recipe}
        wanted = json.loads(json.dumps(wanted | dict(variant.identity), default=str))
        path = place / SETTINGS_FILE
        held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else wanted
        unknown = {*variant.identity, "start_weights", "peer_weights_hash"} - (held.keys() & wanted.keys())
        for name in sorted(held.keys() | wanted.keys()):
            if name not in _PLACES and name not in unknown and held.get(name) != wanted.get(name):
                raise ValueError(
                    f"{place} was trained with {name} {held.get(name)}, now {wanted.get(name)}; take the old setting, "
                    "remove the folder or name another --output_dir"
                )
        place.mkdir(parents=True, exist_ok=True)
        if held.get("peer_python") != wanted.get("peer_python"):  # what one environment could not, another may
            _forget_failure(place)
            _write(place, held | {"peer_python": wanted.get("peer_python")}, name=SETTINGS_FILE)
        for name, text in (
            (RECIPE_FILE, yaml.safe_dump(dict(variant.recipe), sort_keys=True, allow_unicode=True)),
            (SETTINGS_FILE, json.dumps(wanted, indent=2, ensure_ascii=False) + "\n"),
        ):
            if not (place / name).is_file():
                with whole_file(place / name) as partial:
                    partial.write_text(text, encoding="utf-8")
        return parse_settings(self._flags(cell))

    def train_all(
        self, cells: Mapping[str, tuple[Cell, Settings]], on_result: Callable[[str, dict[str, Any]], None]
    ) -> None:
        """Train cells, `jobs` at a time.

        Args:
            cells: By name, in the order in which they begin.
            on_result: Given the name and what `train` returns as each ends, in this thread.
        """
        if self.jobs == 1:
            for name, (cell, settings) in cells.items():
                on_result(name, self.train(cell, settings))
            return
        shares = {on_gpu: self._share(on_gpu=on_gpu) for on_gpu in (False, True)}  # now, while nothing runs
        beside = _Beside(shares)
        runner = replace(self, beside=beside)
        bar = tqdm(total=len(cells), desc="comparing", unit="training", disable=not self.progress)
        with ThreadPoolExecutor(self.jobs) as pool, bar:
            try:
                waiting = {pool.submit(runner.train, *cell): name for name, cell in cells.items()}
                for future in as_completed(waiting):
                    on_result(waiting[future], future.result())
                    bar.update()
            except BaseException:  # no signal reaches the threads
                pool.shutdown(wait=False, cancel_futures=True)
                beside.stop.set()
                raise

    def train(self, cell: Cell, settings: Settings) -> dict[str, Any]:
        """Train and test a cell, or read what it reached before.

        Returns:
            `state`: finished, failed, or interrupted, which is not kept, so that the same command goes on. Then
            `reason`, or the figures of the test videos, `validation`, `seconds` of training (over all its parts;
            `seconds_lost` where a kill took some with it), and `hardware` and `versions` of the training.
        """
        place = self.place("accuracy", cell)
        if (found := self._found(place)) is not None:
            return found
        (place / RESULT_FILE).unlink(missing_ok=True)  # a failure that is tried again
        run = place / "run"
        if not (run / FACTS_FILE).is_file():  # train writes it last
            variant = cell.variant
            if variant.kind == "peer" and (reason := why_no_library(variant.options["peer_python"])):
                return {"state": "failed", "reason": reason}  # not kept: a library may be installed
            if reason := self._trained(cell, settings):
                return _ended(place, reason)
        if cell.variant.kind == "run" and not (place / REPORT_FOLDER / "metrics.json").is_file():
            feeding = self.feeding(settings)
            reason = self._verb(
                *("evaluate", "--model", str(run), "--dataset", self.dataset.name, "--split", "test"),
                *("--output_dir", str(place / REPORT_FOLDER), "--batch_size", str(feeding["batch_size"])),
                *("--num_workers", str(feeding["num_workers"])),
                log=place / LOG_FILE,
                settings=settings,
            )
            if reason:
                return _ended(place, reason)
        for checkpoint in checkpoints_of(run):  # the model itself is in the run; states of optimizers fill disks
            shutil.rmtree(checkpoint, ignore_errors=True)
        return _write(place, {"state": "finished", **self._reached(cell)})

    def score(
        self, what: str, cell: Cell, settings: Settings, protocols: Mapping[str, Mapping[str, Any]]
    ) -> str | None:
        """Score a finished cell under further protocols; None, or why that failed."""
        place, run = self.place(what, cell), self.place("accuracy", cell) / "run"
        weights = weights_hash(run)
        for name in protocols:
            _remove_foreign(place / name, weights)
        if all((place / name / SCORED_FILE).is_file() for name in protocols):
            return None
        found = self._found(place)
        if found is not None and found["state"] == "failed":
            return str(found["reason"])
        place.mkdir(parents=True, exist_ok=True)
        (place / RESULT_FILE).unlink(missing_ok=True)
        request = {
            "model": str(run),
            "weights": weights,
            "dataset": self.dataset.name,
            "output_dir": str(place),
            "protocols": protocols,
            "feeding": self.feeding(settings) | {"progress": self.progress},
            "num_threads": cell.variant.recipe.get("num_threads"),  # nothing runs beside
        }
        _write(place, request, name=REQUEST_FILE)
        reason = self._module(
            "railsformer.compare.score_cell",
            str(place / REQUEST_FILE),
            log=place / LOG_FILE,
            settings=settings,
        )
        if reason:
            return str(_ended(place, reason)["reason"])
        _write(place, {"state": "finished"})
        return None

    def predictions(self, cell: Cell) -> Predictions:
        """What a finished cell said of the test videos."""
        return read_predictions(self.place("accuracy", cell) / REPORT_FOLDER / PREDICTIONS_FILE)

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
        place, threads = self.place("accuracy", cell), max(1, available_cores() // self.jobs)
        shares = self.jobs > 1 and not cell.variant.recipe.get("num_threads")
        return [
            *("--config", str(place / RECIPE_FILE), "--dataset", self.dataset.name),
            *("--output_dir", str(place / "run"), "--seed", str(cell.seed)),
            *(("--num_threads", str(threads)) if shares else ()),
        ]

    def _trained(self, cell: Cell, settings: Settings) -> str | None:
        """Train, from the newest checkpoint where there is one; None, or why it ended."""
        place = self.place("accuracy", cell)
        peer_state = place / PEER_FOLDER / PEER_STATE_FILE
        resuming = resume_flags(place / "run")
        is_resumed = bool(resuming) or (cell.variant.kind == "peer" and peer_state.is_file())
        if not is_resumed:  # what was said with weights that are no more
            for old in (place / REPORT_FOLDER, *(self.place(what, cell) for what in _SCORED)):
                shutil.rmtree(old, ignore_errors=True)
        facts, began = _facts_of_training(place, settings, is_resumed=is_resumed), time.monotonic()
        facts["jobs"] = self.jobs
        _write(place, facts | {"seconds_lost": True}, name=TRAINED_FILE)  # should a kill leave nothing else
        try:
            return self._train_process(cell, [*self._flags(cell), *resuming], settings)
        finally:
            facts["training_seconds"] += time.monotonic() - began
            _write(place, facts, name=TRAINED_FILE)

    def _train_process(self, cell: Cell, flags: list[str], settings: Settings) -> str | None:
        log = self.place("accuracy", cell) / LOG_FILE
        if cell.variant.kind == "run":
            return self._verb("train", *flags, log=log, settings=settings)
        options = [part for name, value in cell.variant.options.items() for part in (f"--{name}", value)]
        module = {"other": "railsformer.compare.other_models", "peer": "railsformer.compare.peer_cell"}
        return self._module(module[cell.variant.kind], *options, *flags, log=log, settings=settings)

    def _reached(self, cell: Cell) -> dict[str, Any]:
        place, predictions = self.place("accuracy", cell), self.predictions(cell)
        facts = _read(place / "run" / FACTS_FILE)
        trained = _read(place / TRAINED_FILE) if (place / TRAINED_FILE).is_file() else {}
        kept = {name: trained[name] for name in _OF_TRAINING if name in trained}
        if "versions" in kept and cell.variant.kind == "peer":
            kept["versions"] |= {name: facts[name] for name in PEER_LIBRARIES if name in facts}
        return {
            **figures_of(predictions),
            "seconds": trained.get("training_seconds"),
            "validation": facts.get("validation", {}).get("f1_macro"),
            "num_videos": len(predictions.videos),
            "num_unread": int((~predictions.is_read).sum()),
            **kept,
        }

    def _verb(self, *arguments: str, log: Path, settings: Settings) -> str | None:
        return _overflow(run_verb(*arguments, log=log, **self._process(settings)))

    def _module(self, module: str, *arguments: str, log: Path, settings: Settings) -> str | None:
        return _overflow(run_module(module, *arguments, log=log, **self._process(settings)))

    def _process(self, settings: Settings) -> dict[str, Any]:
        """Options of a cell's process."""
        if self.beside is None:
            limit = memory_limit(self.memory_gib, on_gpu=_is_on_gpu(settings))
            return {"lock": self.lock, "progress": self.progress, "limit_bytes": limit}
        # Training takes threads from its flags; evaluation, which has none, from the environment.
        threads = {"OMP_NUM_THREADS": str(settings.run.num_threads)}
        limit = self.beside.limits[_is_on_gpu(settings)]
        return {"lock": self.lock, "limit_bytes": limit, "stop": self.beside.stop, "environment": threads}

    def _share(self, *, on_gpu: bool) -> int | None:
        """Memory of each of `jobs` processes: what was asked for, or a part of what is free."""
        limit = memory_limit(self.memory_gib, on_gpu=on_gpu)
        return limit if limit is None or on_gpu or self.memory_gib is not None else limit // self.jobs


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


def _is_on_gpu(settings: Settings) -> bool:
    return torch.cuda.is_available() and not settings.run.use_cpu


def _facts_of_training(place: Path, settings: Settings, *, is_resumed: bool) -> dict[str, Any]:
    """What stands beside a training: seconds of its earlier parts, and the machine and libraries of this one."""
    path = place / TRAINED_FILE
    earlier = _read(path) if is_resumed and path.is_file() else {}
    return {
        "training_seconds": earlier.get("training_seconds", 0.0),
        "resumed": is_resumed,
        "seconds_lost": is_resumed and earlier.get("seconds_lost", True),
        "hardware": machine_facts(threads=settings.run.num_threads),
        "versions": library_versions(),
    }


def _remove_foreign(folder: Path, weights: str | None) -> None:
    """Take away what other weights said; where it is not known whose it is, it stays."""
    if (folder / SCORED_FILE).is_file():
        held = _read(folder / SCORED_FILE).get("weights")
        if held and weights and held != weights:
            shutil.rmtree(folder)


def _forget_failure(place: Path) -> None:
    if (place / RESULT_FILE).is_file() and _read(place / RESULT_FILE)["state"] == "failed":
        (place / RESULT_FILE).unlink()


def _ended(place: Path, reason: str) -> dict[str, Any]:
    """A failure, which is kept; or an interruption, which is not."""
    if _INTERRUPTED.match(reason):
        return {"state": "interrupted", "reason": "interrupted; the same command goes on"}
    return _write(place, {"state": "failed", "reason": reason})


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
