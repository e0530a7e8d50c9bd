"""Cross-validation: one training a fold and seed, each a process of its own, one table at the end."""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

from railsformer.data.clips import VideoDataset, load_video_dataset
from railsformer.data.files import whole_file
from railsformer.data.folders import check_output_dir
from railsformer.data.splits.fold_datasets import FoldPlan, join_splits, plan_folds, read_copies, write_fold_dataset
from railsformer.training.arguments import parse_settings
from railsformer.training.crossval_table import FoldResult, crossval_content, crossval_markdown
from railsformer.training.verb_process import locked, resume_flags, run_verb, terminating

__all__ = ["CrossvalSettings", "cross_validate", "crossval_parser", "parse_crossval"]

TABLE_FILE = "crossval.json"
FACTS_FILE = "run.json"
SETTINGS_FILE = "settings.json"
TRAINED_FILE = "trained.json"
LOG_FILE = "log.txt"
_PLACES = ("dataset", "output_dir", "seed")  # of each fold's own
# Flags of train that a cross-validation decides itself.
_REFUSED = {
    "resume_from_checkpoint": "crossval goes on where it was; call it again with the same --output_dir",
    "resume": "crossval goes on where it was; call it again with the same --output_dir",
    "plan": "it plans one training; call `railsformer train --plan`",
}


@dataclass(frozen=True)
class CrossvalSettings:
    """What to cross-validate.

    Attributes:
        dataset: Dataset folder or Hub id.
        output_dir: Folder of folds and table.
        folds: `group`, or how many folds.
        groups: With `group`, those to test; all if empty.
        seeds: Seeds of training.
        validation_share: Share of the videos that are not tested, for validation.
        split_seed: Spreads groups over sides; the same for all training seeds, so that those can be compared.
        training: Flags of `railsformer train`.
        given: Their values, recipe included.
        recipe: The recipe's file.
    """

    dataset: str
    output_dir: Path
    folds: int | Literal["group"]
    groups: tuple[str, ...]
    seeds: tuple[int, ...]
    validation_share: float
    split_seed: int
    training: tuple[str, ...]
    given: dict[str, Any]
    recipe: str | None = None


def crossval_parser() -> argparse.ArgumentParser:
    """The flags of crossval itself; all others are those of train."""
    parser = _Parser(
        prog="railsformer crossval",
        allow_abbrev=False,
        description="Train and test fold by fold, each group on one side, and end in one table.",
        epilog="Every other flag is one of `railsformer train`, --config, --dataset and --output_dir among them.",
    )
    parser.add_argument(
        "--folds",
        type=_folds,
        default="group",
        help="group: leave one out after the other; or a number of folds",
    )
    parser.add_argument("--groups", type=_names, default=(), help="with --folds group, those to test (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", help="train each fold with each (default: --seed)")
    parser.add_argument(
        "--validation_share",
        type=float,
        default=0.2,
        help="share of the videos that are not tested, in whole groups, that choose the epoch (default: 0.2)",
    )
    parser.add_argument("--split_seed", type=int, default=0, help="spreads groups over sides (default: 0)")
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _folds(text: str) -> int | Literal["group"]:
    if text == "group":
        return "group"
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be the word 'group' or a number of folds, got {text!r}") from error


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def parse_crossval(argv: Sequence[str]) -> CrossvalSettings:
    """Parse the flags of crossval, and all others as `railsformer train` does.

    Raises:
        FileNotFoundError: If the recipe is not there.
        ValueError: If a flag is unknown, or a value is of the wrong kind.
    """
    own, training = crossval_parser().parse_known_args(list(argv))
    settings = parse_settings(training)
    for name, reason in _REFUSED.items():
        if settings.given.get(name):
            raise ValueError(f"{name} must not be given to crossval: {reason}")
    if own.seeds and "--seed" in {flag.partition("=")[0] for flag in training}:
        raise ValueError("--seed and --seeds were both given; keep --seeds")
    seeds = own.seeds or [settings.run.seed]
    twice = [seed for index, seed in enumerate(seeds) if seed in seeds[:index]]
    if twice or min(seeds) < 0:
        raise ValueError(f"--seeds must be 0 or more and differ from each other, got {' '.join(map(str, seeds))}")
    return CrossvalSettings(
        dataset=str(settings.data.dataset),
        output_dir=Path(str(settings.run.output_dir)),
        folds=own.folds,
        groups=own.groups,
        seeds=tuple(seeds),
        validation_share=own.validation_share,
        split_seed=own.split_seed,
        training=tuple(training),
        given={name: value for name, value in settings.given.items() if name not in _PLACES},
        recipe=_recipe(training),
    )


def _recipe(training: Sequence[str]) -> str | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    found = parser.parse_known_args(list(training))[0].config
    return Path(found).name if found else None


def cross_validate(settings: CrossvalSettings, *, progress: bool = False) -> dict[str, Any]:
    """Train and test every fold with every seed; what was finished before with the same settings is not done again.

    Below output_dir: `crossval.md` and `crossval.json`, new after each fold; `fold-NAME/dataset` (a dataset folder
    that names the videos where they are), `fold-NAME/seed-N/run`, `report` and `log.txt`. A fold that fails costs its
    row of the table; the others go on. An interrupted one goes on from its newest checkpoint.

    Args:
        settings: What `parse_crossval` gave.
        progress: Pass on what the trainings print.

    Returns:
        The content of crossval.json.

    Raises:
        FileExistsError: If output_dir holds something else, or another process works there.
        FileNotFoundError: If the dataset is not there.
        PermissionError: If output_dir cannot be written.
        ValueError: If the folds are not possible, a fold was begun with other settings, or one failed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("crossval starts a process for each fold; call it by itself, not under a launcher")
    dataset = load_video_dataset(settings.dataset)
    rows = join_splits(dataset)
    plans = plan_folds(
        list(rows["group"]),
        [dataset.labels[label] for label in rows["label"]],
        folds=settings.folds,
        only=settings.groups,
        validation_share=settings.validation_share,
        seed=settings.split_seed,
        copies=read_copies(dataset, rows),
    )
    if not (settings.output_dir / TABLE_FILE).is_file():
        check_output_dir(settings.output_dir)
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    with locked(settings.output_dir) as lock, terminating():
        return _Crossval(settings, dataset, plans, lock=lock, progress=progress).run(rows)


@dataclass(frozen=True)
class _Crossval:
    settings: CrossvalSettings
    dataset: VideoDataset
    plans: Sequence[FoldPlan]
    lock: IO[str]
    progress: bool

    def run(self, rows: Any) -> dict[str, Any]:
        """Go through all folds and seeds; the table is written after each."""
        results = {(plan.name, seed): self._waiting(plan, seed) for plan in self.plans for seed in self.settings.seeds}
        content = self._write(results)
        claimed = [self._claim(plan, rows, seed) for plan in self.plans for seed in self.settings.seeds]
        # What is finished first: an interruption must not leave a table that hides it.
        claimed.sort(key=lambda training: not (training[2] / "report" / "metrics.json").is_file())
        for plan, seed, place in claimed:
            results[plan.name, seed] = self._train_and_test(plan, seed, place)
            content = self._write(results)
        failed = [result for result in results.values() if result.state == "failed"]
        if failed:
            one = failed[0]
            raise ValueError(
                f"{len(failed)} of {len(results)} trainings failed, first fold {one.fold} with seed {one.seed}: "
                f"{one.reason}; the same command tries them again, {self.settings.output_dir} keeps the others"
            )
        return content

    def _claim(self, plan: FoldPlan, rows: Any, seed: int) -> tuple[FoldPlan, int, Path]:
        """The folder of a training with its settings in it; refuses one that was begun with others.

        Raises:
            ValueError: With the setting that differs.
        """
        home = self.settings.output_dir / plan.folder_name
        fingerprint = write_fold_dataset(home / "dataset", self.dataset, rows, plan)
        place = home / f"seed-{seed}"
        wanted = json.loads(json.dumps({"fold": fingerprint, **self.settings.given}, default=str))
        path = place / SETTINGS_FILE
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            for name in sorted(found.keys() | wanted.keys()):
                if found.get(name) != wanted.get(name):
                    raise ValueError(
                        f"{place} was trained with {name} {found.get(name)}, now {wanted.get(name)}; take the old "
                        "setting, remove the folder or name another --output_dir"
                    )
        else:
            place.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(wanted, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return plan, seed, place

    def _train_and_test(self, plan: FoldPlan, seed: int, place: Path) -> FoldResult:
        dataset, run, report = place.parent / "dataset", place / "run", place / "report"
        if not (run / FACTS_FILE).is_file():  # train writes it last
            began = time.monotonic()
            flags = [*self.settings.training, "--dataset", str(dataset), "--output_dir", str(run), "--seed", str(seed)]
            reason = self._verb("train", *flags, *resume_flags(run), log=place / LOG_FILE)
            if reason:
                return self._waiting(plan, seed, state="failed", reason=reason)
            facts = {"seconds": round(time.monotonic() - began, 1)}
            (place / TRAINED_FILE).write_text(json.dumps(facts) + "\n", encoding="utf-8")
        if not (report / "metrics.json").is_file():
            flags = ["--model", str(run), "--dataset", str(dataset), "--split", "test", "--output_dir", str(report)]
            reason = self._verb("evaluate", *flags, log=place / LOG_FILE)
            if reason:
                return self._waiting(plan, seed, state="failed", reason=reason)
        return self._waiting(
            plan,
            seed,
            state="finished",
            seconds=_read(place / TRAINED_FILE)["seconds"] if (place / TRAINED_FILE).is_file() else None,
            validation_f1_macro=_read(run / FACTS_FILE).get("validation", {}).get("f1_macro"),
            figures=_read(report / "metrics.json"),
        )

    def _waiting(
        self, plan: FoldPlan, seed: int, *, state: Literal["finished", "failed", "waiting"] = "waiting", **facts: Any
    ) -> FoldResult:
        return FoldResult(plan.name, seed, state, plan.groups, plan.counts, plan.num_left_out, **facts)

    def _verb(self, *arguments: str, log: Path) -> str | None:
        return run_verb(*arguments, log=log, lock=self.lock, progress=self.progress)

    def _write(self, results: dict[tuple[str, int], FoldResult]) -> dict[str, Any]:
        content = crossval_content(list(results.values()), self._protocol())
        text = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
        for name, written in ((TABLE_FILE, text), ("crossval.md", crossval_markdown(content))):
            with whole_file(self.settings.output_dir / name) as partial:
                partial.write_text(written, encoding="utf-8")
        return content

    def _protocol(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "dataset": Path(settings.dataset).name if Path(settings.dataset).is_dir() else settings.dataset,
            "dataset_fingerprint": self.dataset.fingerprint,
            "folds": "leave one group out" if settings.folds == "group" else f"{settings.folds} folds of whole groups",
            "groups": list(settings.groups),
            "seeds": list(settings.seeds),
            "split_seed": settings.split_seed,
            "validation_share": settings.validation_share,
            "recipe": settings.recipe,
            "settings": settings.given,
            "versions": {name: version(name) for name in ("railsformer", "torch", "transformers")},
        }


def _read(path: Path) -> dict[str, Any]:
    """A JSON object that a finished step left.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(
            f"{path} is damaged or gone ({' '.join(str(error).split())}); remove {path.parent} and call crossval again"
        ) from error
    return content
