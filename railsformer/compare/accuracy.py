"""Which variant is right more often: trained from one start with one recipe, tested on the same videos, over seeds."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from railsformer.compare.cells import Cell, CellRunner, Variant, check_same_videos, figures_of, is_done, right_of
from railsformer.compare.machine import distinct, library_versions, machine_facts
from railsformer.compare.peers import PEER_LIBRARIES
from railsformer.compare.probe import probe_section
from railsformer.compare.starts import Start, find_start
from railsformer.compare.statistics import SeedRuns, compare_pairs, sentences, spread_of
from railsformer.compare.trained_variants import Peer, Plan, View, plan_variants, why_without
from railsformer.data.clips import VideoDataset, load_video_dataset
from railsformer.model.configuration_railsformer import ATTENTION_TYPES, POSITION_EMBEDDINGS
from railsformer.training.arguments import Settings, read_recipe
from railsformer.training.verb_process import locked, terminating

__all__ = ["VIEWS", "compare_accuracy"]

# Clips x crops: K in {1, 3, 5, 10}, the centre or three crops along the long side.
VIEWS: tuple[View, ...] = tuple((clips, crops) for crops in (1, 3) for clips in (1, 3, 5, 10))
_UNKNOWN_RECORDINGS = "recordings unknown"


def compare_accuracy(
    output_dir: str | Path,
    *,
    dataset: str | Path,
    config: str | Path,
    start: str | Path | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    schemes: Sequence[str] = ATTENTION_TYPES,
    positions: Sequence[str] = POSITION_EMBEDDINGS,
    views: Sequence[View] = VIEWS,
    other_models: Sequence[str] = (),
    peer_python: str | Path | None = None,
    peer_weights: str | Path | None = None,
    frozen: bool = True,
    frozen_model: str | None = None,
    probe: bool = True,
    memory_gib: float | None = None,
    retry: bool = False,
    jobs: int = 1,
    progress: bool = False,
    on_cell: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train and test every variant with every seed, and compare them; what is finished is not done again.

    Each training is a process of its own below `OUTPUT/cells`. One that fails costs its place in a row, which says
    why; the others go on. Ctrl-C, SIGTERM and kill cost the cell at hand, which goes on from its newest checkpoint.

    Args:
        output_dir: The comparison's folder.
        dataset: Dataset folder or Hub id, with train, validation and test.
        config: The one recipe: a flat YAML file of keys of `railsformer train`.
        start: Image model, space_only or divided checkpoint that every scheme starts from; the recipe's if None.
        seeds: Of the trainings.
        schemes: Attention schemes.
        positions: Position embeddings of divided attention; empty leaves them out.
        views: Pairs of clips and crops that divided attention is tested with; empty leaves them out.
        other_models: Checkpoints of other video models, trained with the same recipe on the same clips.
        peer_python: Interpreter of an environment with pytorchvideo, for a 3D CNN.
        peer_weights: State dict of pytorchvideo's create_slowfast, for a second row of the 3D CNN.
        frozen: Whether the start is also measured as it is, under logistic regression.
        frozen_model: Model to measure so in place of the start.
        probe: Whether every scheme's test clips are also played shuffled, reversed and as one picture.
        memory_gib: Most memory of a cell's process; None is nine tenths of what is free, and no limit beside a GPU.
        retry: Try cells that failed again.
        jobs: Trainings at a time, each with its share of cores and memory.
        progress: Pass on what the cells print; of several at a time, count them.
        on_cell: Given the sections `accuracy` and `positions` so far after each training.

    Returns:
        The sections `accuracy`, `positions`, `views` and `probe` of compare.json, those that were asked for: each with
        `protocol`, `rows`, `pairs`, `sentences` and `num_waiting`, the trainings that are still to be done.

    Raises:
        FileExistsError: If another process works there.
        FileNotFoundError: If dataset, recipe or start are not there.
        ValueError: If an argument is out of range, the recipe or the start would favour a scheme, or a cell was begun
            with other settings.
    """
    if jobs < 1:
        raise ValueError(f"--jobs must be at least 1, got {jobs}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("compare starts a process for each cell; call it by itself, not under a launcher")
    lists = (tuple(schemes), tuple(positions), tuple(views), tuple(other_models), tuple(seeds))
    wanted = Plan(*lists, frozen, probe, frozen_model)
    peer = Peer(*(str(given) if given else None for given in (peer_python, peer_weights)))
    recipe, loaded = read_recipe(config), load_video_dataset(dataset)
    cells_dir = Path(output_dir) / "cells"
    chosen = find_start(start, recipe, folder=cells_dir / "start")
    variants = plan_variants(wanted, recipe, chosen, peer=peer)
    cells_dir.mkdir(parents=True, exist_ok=True)
    with locked(cells_dir) as lock, terminating():
        runner = CellRunner(cells_dir, loaded, lock, memory_gib=memory_gib, retry=retry, progress=progress, jobs=jobs)
        missing = why_without(wanted, chosen, peer)
        comparison = _Comparison(wanted, variants, missing, runner, chosen, recipe_name=Path(config).name)
        comparison.train(on_cell)
        return comparison.sections()


@dataclass
class _Comparison:
    """All cells of a comparison, and what follows from them."""

    plan: Plan
    variants: Mapping[str, Variant]  # by key: scheme, position:NAME, frozen, other:NAME, peer, peer_weights
    missing: Mapping[str, str]  # rows that nothing is trained for, and why
    runner: CellRunner
    start: Start
    recipe_name: str
    settings: dict[str, Settings] = field(default_factory=dict)  # by name of the cell
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    def train(self, on_cell: Callable[[dict[str, Any]], None] | None = None) -> None:
        """All cells, seed by seed: after the first seed there is something of everything."""
        cells = {cell.name: cell for seed in self.plan.seeds for cell in self._cells_of(seed)}
        for name, cell in cells.items():  # all are checked before the first is trained
            self.settings[name] = self.runner.claim(cell)

        def grow(name: str, result: dict[str, Any]) -> None:
            self.results[name] = result
            if on_cell is not None:
                on_cell(self.trained_sections())

        self.runner.train_all({name: (cell, self.settings[name]) for name, cell in cells.items()}, grow)

    def _cells_of(self, seed: int) -> list[Cell]:
        return [Cell(variant, seed) for variant in self.variants.values() if seed in self._seeds_of(variant)]

    def _seeds_of(self, variant: Variant) -> Sequence[int]:
        return self.plan.seeds if variant.seeds is None else variant.seeds

    def finished(self, variant: Variant) -> list[Cell]:
        """Its cells that have figures."""
        cells = [Cell(variant, seed) for seed in self.plan.seeds]
        return [cell for cell in cells if self.results.get(cell.name, {}).get("state") == "finished"]

    def sections(self) -> dict[str, Any]:
        """Everything that was asked for."""
        sections = self.trained_sections()
        if self.plan.views:
            sections["views"] = self._views()
        if self.plan.probe:
            sections["probe"] = self._probe()
        return sections

    def trained_sections(self) -> dict[str, Any]:
        """What follows from the trainings that are done."""
        sections = {"accuracy": self._accuracy()}
        if self.plan.positions:
            sections["positions"] = self._positions()
        return sections

    def _accuracy(self) -> dict[str, Any]:
        keys = [*self.plan.schemes, *(key for key in self.variants if key.startswith(("frozen", "other:", "peer")))]
        rows = [self._row(self.variants[key]) for key in keys]
        for name, why in self.missing.items():
            rows.append({"name": name, "seeds": [], **_no_figures(), "not_measured": why, "note": None})
        return self._section(rows, [self.variants[key] for key in keys])

    def _positions(self) -> dict[str, Any]:
        by_name = {name: self.variants[f"position:{name}"] for name in self.plan.positions}
        rows = [self._row(variant) | {"name": name} for name, variant in by_name.items()]
        section = self._section(rows, list(by_name.values()), names=list(by_name))
        section["protocol"]["scheme"] = "divided_space_time"
        return section

    def _section(
        self, rows: list[dict[str, Any]], variants: Sequence[Variant], *, names: Sequence[str] | None = None
    ) -> dict[str, Any]:
        runs = []
        for name, variant in zip(names or [one.name for one in variants], variants, strict=True):
            found = {cell.seed: self.runner.predictions(cell) for cell in self.finished(variant)}
            if found:
                runs.append((name, found, variant.seeds is None))
        check_same_videos([one for _, found, _ in runs for one in found.values()])
        compared = [
            SeedRuns(name, {seed: right_of(one) for seed, one in found.items()}, is_drawn=is_drawn)
            for name, found, is_drawn in runs
        ]
        pairs = compare_pairs(compared, self.groups())
        told = {"rows": rows, "pairs": pairs, "sentences": sentences(pairs)}
        cells = {Cell(variant, seed).name for variant in variants for seed in self._seeds_of(variant)}
        waiting = [name for name in cells if not is_done(self.results.get(name))]
        return {"protocol": self.protocol(), **told, "num_waiting": len(waiting)}

    def _row(self, variant: Variant) -> dict[str, Any]:
        """One row: figures over the seeds that finished, and why others did not."""
        names = {seed: Cell(variant, seed).name for seed in self._seeds_of(variant)}
        found = {seed: self.results[name] for seed, name in names.items() if name in self.results}
        finished = {seed: result for seed, result in found.items() if result["state"] == "finished"}
        failed = [f"seed {seed}: {result['reason']}" for seed, result in found.items() if seed not in finished]
        seconds = [result["seconds"] for result in finished.values() if result["seconds"] is not None]
        return {
            "name": variant.name,
            "seeds": list(finished),
            **{name: spread_of(result[name] for result in finished.values()) for name in ("accuracy", "f1_macro")},
            "validation_f1_macro": spread_of(
                one["validation"] for one in finished.values() if one["validation"] is not None
            ),
            "seconds": sum(seconds) / len(seconds) if seconds else None,
            "not_measured": "; ".join(failed) or (None if found else "still to be done"),
            "note": "; ".join(filter(None, (variant.note, *_notes_of(variant, finished)))) or None,
        }

    def _views(self) -> dict[str, Any]:
        """Divided attention, or the first scheme, under every number of views; no training."""
        scheme = "divided_space_time" if "divided_space_time" in self.plan.schemes else self.plan.schemes[0]
        protocols = {f"{clips}x{crops}": {"num_clips": clips, "num_crops": crops} for clips, crops in self.plan.views}
        cells, failed = [], []
        for cell in self.finished(self.variants[scheme]):
            reason = self.runner.score("views", cell, self.settings[cell.name], protocols)
            failed += [f"seed {cell.seed}: {reason}"] if reason else []
            cells += [] if reason else [cell]
        rows, runs = [], []
        for name, protocol in protocols.items():
            found = {cell.seed: self.runner.scored("views", cell, name) for cell in cells}
            figures = [figures_of(predictions) for predictions, _ in found.values()]
            row: dict[str, Any] = {"name": _view_name(**protocol), "seeds": list(found), **protocol}
            row |= {key: spread_of(one[key] for one in figures) for key in ("accuracy", "f1_macro")}
            row["seconds"] = spread_of(facts["seconds"] for _, facts in found.values())["mean"]
            rows.append(row | {"not_measured": _why_none(failed, found), "note": None})
            runs.append(SeedRuns(row["name"], {seed: right_of(one) for seed, (one, _) in found.items()}))
        pairs = [(runs[0].name, other.name) for other in runs[1:]]
        compared = compare_pairs([run for run in runs if run.right], self.groups(), pairs=pairs, same_training=True)
        section = {
            "protocol": self.protocol() | {"scheme": scheme, "views": "those of the rows"},
            "rows": rows,
            "pairs": compared,
        }
        return section | {"sentences": sentences(compared)}

    def _probe(self) -> dict[str, Any]:
        cells = {name: self.finished(self.variants[name]) for name in self.plan.schemes}
        section = probe_section(self.runner, cells, self.settings, groups=self.groups())
        return {"protocol": self.protocol(), **section}

    def groups(self) -> list[str] | None:
        """Recording or camera of each test video; None where nobody knows."""
        return test_groups(self.runner.dataset)

    def protocol(self) -> dict[str, Any]:
        """What a number is worth nothing without."""
        dataset, first = self.runner.dataset, next(iter(self.settings.values()))
        run, groups = first.run, self.groups()
        return {
            "data": Path(dataset.name).resolve().name if Path(dataset.name).is_dir() else dataset.name,
            "dataset_fingerprint": dataset.fingerprint,
            "split": f"{len(dataset.split('test'))} test videos of {_of_groups(groups)}, {dataset.split_kind}",
            "counts": {name: len(rows) for name, rows in dataset.splits.items()},
            "seeds": list(self.plan.seeds),
            "start": self.start.told,
            "recipe": self.recipe_name,
            "settings": {
                key: value for key, value in self.variants[self.plan.schemes[0]].recipe.items() if _told(key)
            },
            "budget": {
                "epochs": None if run.max_steps > 0 else run.num_train_epochs,
                "max_steps": run.max_steps if run.max_steps > 0 else None,
                "clips_a_step": run.per_device_train_batch_size * run.gradient_accumulation_steps,
            },
            "equal": "epochs, clips, optimizer and learning rate; not the multiply-accumulates",
            "chosen_by": f"{run.metric_for_best_model} on validation",
            "views": "1 clip x 1 crop",
            **self._machines(first),
        }

    def _machines(self, settings: Settings) -> dict[str, Any]:
        """Hardware and versions of the trainings; of those that kept none, and before the first, today's."""
        peers = {
            Cell(one, seed).name
            for one in self.variants.values()
            for seed in self._seeds_of(one)
            if one.kind == "peer"
        }
        results = [one for name, one in self.results.items() if one["state"] == "finished" and name not in peers]
        today = {
            "hardware": machine_facts(threads=settings.run.num_threads),
            "versions": library_versions(),
        }
        return {key: distinct(one.get(key, now) for one in results or [{}]) for key, now in today.items()}


def test_groups(dataset: VideoDataset) -> list[str] | None:
    """Recording or camera of each test video; None where nobody knows."""
    rows = dataset.split("test")
    if "group" not in rows.column_names or _UNKNOWN_RECORDINGS in dataset.split_kind:
        return None
    return [str(group) for group in rows["group"]]


def _of_groups(groups: Sequence[str] | None) -> str:
    return "unknown recordings" if groups is None else f"{len(set(groups))} groups"


def _told(key: str) -> bool:
    return key not in ("model", "image_model", "from_scratch", "attention_type")


def _view_name(num_clips: int, num_crops: int) -> str:
    return f"{num_clips} clip{'s' if num_clips > 1 else ''} x {num_crops} crop{'s' if num_crops > 1 else ''}"


def _why_none(failed: Sequence[str], found: Mapping[int, Any]) -> str | None:
    return "; ".join(failed) or (None if found else "the training did not finish")


def _notes_of(variant: Variant, finished: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """What the trainings themselves tell: libraries of another environment, and times that a kill cut short."""
    told = []
    if variant.kind == "peer" and finished:
        found = [one.get("versions", {}) for one in finished.values()]
        names = {f"{name} {one[name]}" for one in found for name in PEER_LIBRARIES if name in one}
        told.append(f"trained with {', '.join(sorted(names)) or 'the torch'} of its own environment")
    beside = [one["jobs"] for one in finished.values() if one.get("jobs", 1) > 1]
    if beside:
        told.append(f"up to {max(beside)} trainings ran at a time, and so its time is longer than alone")
    lost = [f"{seed}" for seed, one in finished.items() if one.get("seconds_lost")]
    if lost:
        told.append(f"the time of seed {', '.join(lost)} is without what was lost when its training was killed")
    return told


def _no_figures() -> dict[str, Any]:
    return {
        "accuracy": spread_of([]),
        "f1_macro": spread_of([]),
        "validation_f1_macro": spread_of([]),
        "seconds": None,
    }
