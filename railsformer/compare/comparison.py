"""The whole comparison: what was asked for, one part after the other, and a report that grows with them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import railsformer
from railsformer.compare.accuracy import VIEWS, compare_accuracy
from railsformer.compare.cost import measure_cost
from railsformer.compare.report import PARTS, TABLE_FILE, add_parts, read_comparison
from railsformer.data.folders import check_output_dir
from railsformer.model.configuration_railsformer import ATTENTION_TYPES, POSITION_EMBEDDINGS
from railsformer.training.verb_process import locked, terminating

__all__ = ["ComparisonSettings", "default_recipe", "run_comparison"]

_CELLS_FOLDER = "cells"
_TRAINED = PARTS[1:]
_PACKAGE = Path(railsformer.__file__).parent


def default_recipe() -> Path:
    """configs/compare.yaml of the checkout, or of the installed package."""
    candidates = (_PACKAGE.parent / "configs" / "compare.yaml", _PACKAGE / "configs" / "compare.yaml")
    return next((path for path in candidates if path.is_file()), candidates[0])


@dataclass(frozen=True)
class ComparisonSettings:
    """What to compare, and on what.

    Attributes:
        what: Parts of the report, of `report.PARTS`.
        dataset: Dataset folder or Hub id; all parts but `cost` need it.
        config: Recipe of every training; `default_recipe` if None.
        start: What every scheme starts from; None takes the recipe's.
        seeds: Of the trainings.
        schemes: Attention schemes to train; None takes all, or divided alone where only it is asked about.
        views: Clips and crops of `views`.
        other_models: Other video models to train.
        peer_python: Interpreter with pytorchvideo, for 3D CNNs.
        peer_weights: State dict for a second row of the 3D CNN that is trained.
        frozen: Whether `accuracy` also measures the start as it is under logistic regression.
        frozen_model: Model to measure so in place of the start.
        memory_gib: Most memory of a cell; None is nine tenths of what is free, and beside a GPU no limit of trainings.
        num_threads: Of the cells of `cost`.
        retry: Try cells that failed again.
        jobs: Trainings at a time, each with its share of cores and memory.
        quick: Let `cost` measure tiny networks, to see that it runs.

    Raises:
        ValueError: If a part is unknown, or needs a dataset that is not given.
    """

    what: tuple[str, ...]
    dataset: str | None = None
    config: str | None = None
    start: str | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    schemes: tuple[str, ...] | None = None
    views: tuple[tuple[int, int], ...] = VIEWS
    other_models: tuple[str, ...] = ()
    peer_python: str | None = None
    peer_weights: str | None = None
    frozen: bool = True
    frozen_model: str | None = None
    memory_gib: float | None = None
    num_threads: int | None = None
    retry: bool = False
    jobs: int = 1
    quick: bool = False

    def __post_init__(self) -> None:
        """Check what must be there before hours of work."""
        unknown = [name for name in self.what if name not in PARTS]
        if unknown or not self.what:
            raise ValueError(f"--what must be of {', '.join(PARTS)}, got {unknown[0] if unknown else 'nothing'}")
        if self.trained and self.dataset is None:
            raise ValueError(f"--what {self.trained[0]} trains networks and needs --dataset; give it, or --what cost")
        if self.memory_gib is not None and not self.memory_gib > 0:
            raise ValueError(f"--memory_gib must be positive, got {self.memory_gib}; leave it out for what is free")

    @property
    def trained(self) -> tuple[str, ...]:
        """The parts that train networks."""
        return tuple(name for name in _TRAINED if name in self.what)

    @property
    def trained_schemes(self) -> tuple[str, ...]:
        """The schemes to train."""
        if self.schemes is not None:
            return self.schemes
        every = "accuracy" in self.what or "probe" in self.what
        return tuple(ATTENTION_TYPES) if every else ("divided_space_time",)


def run_comparison(
    output_dir: str | Path, settings: ComparisonSettings, *, command: str | None = None, progress: bool = False
) -> dict[str, Any]:
    """Do what was asked for that is not there yet, and write the report after each part.

    Args:
        output_dir: Absent, empty, or of a comparison, which then goes on.
        settings: What to do.
        command: What to name in the report.
        progress: Show bars, and pass on what the cells print.

    Returns:
        The content of compare.json.

    Raises:
        FileExistsError: If output_dir holds something else, or another process works there.
        FileNotFoundError: If dataset, recipe or start are not there.
        ValueError: If settings are not possible, or cells were begun with others.
    """
    folder = Path(output_dir)
    if not (folder / TABLE_FILE).is_file() and not (folder / _CELLS_FOLDER).is_dir():
        check_output_dir(folder)
    content = read_comparison(folder)
    (folder / _CELLS_FOLDER).mkdir(parents=True, exist_ok=True)

    def grow(cost: Mapping[str, Any]) -> None:  # the report, while cells are measured
        add_parts(folder, {"cost": cost}, command=command)

    with locked(folder), terminating():
        if "cost" in settings.what:
            cost = measure_cost(
                folder,
                memory_gib=settings.memory_gib,
                peer_python=settings.peer_python,
                num_threads=settings.num_threads,
                quick=settings.quick,
                retry=settings.retry,
                progress=progress,
                on_row=grow,
            )
            content = add_parts(folder, {"cost": cost}, command=command)
        if settings.trained:
            sections = _trained_parts(folder, settings, command=command, progress=progress)
            content = add_parts(folder, {name: sections[name] for name in settings.trained}, command=command)
    return content


def _trained_parts(
    folder: Path, settings: ComparisonSettings, *, command: str | None, progress: bool
) -> dict[str, Any]:
    """The parts that train networks: what is asked of several parts is trained once."""
    if settings.dataset is None:
        raise ValueError("a comparison of accuracy needs a dataset, got none")
    with_accuracy = "accuracy" in settings.what

    def grow(sections: Mapping[str, Any]) -> None:  # the report, while trainings go on
        add_parts(folder, {name: sections[name] for name in settings.trained if name in sections}, command=command)

    return compare_accuracy(
        folder,
        dataset=settings.dataset,
        config=settings.config or default_recipe(),
        start=settings.start,
        seeds=settings.seeds,
        schemes=settings.trained_schemes,
        positions=POSITION_EMBEDDINGS if "positions" in settings.what else (),
        views=settings.views if "views" in settings.what else (),
        other_models=settings.other_models if with_accuracy else (),
        peer_python=settings.peer_python if with_accuracy else None,
        peer_weights=settings.peer_weights if with_accuracy else None,
        frozen=settings.frozen and with_accuracy,
        frozen_model=settings.frozen_model if with_accuracy else None,
        probe="probe" in settings.what,
        on_cell=grow,
        memory_gib=settings.memory_gib,
        retry=settings.retry,
        jobs=settings.jobs,
        progress=progress,
    )
