"""Folds of a dataset as datasets of their own, without a copy of any video."""

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import datasets
import yaml

from railsformer.data.clips import VideoDataset
from railsformer.data.copies.clusters import Copies, NearCopy
from railsformer.data.dataset_folder import read_dataset_facts
from railsformer.data.folders import whole_folder
from railsformer.data.segments import format_seconds
from railsformer.data.splits.folds import assign_folds, leave_one_group_out
from railsformer.data.splits.plan import plan_split
from railsformer.data.splits.sides import SPLITS

__all__ = ["FoldPlan", "fold_fingerprint", "join_splits", "plan_folds", "read_copies", "write_fold_dataset"]

_MOST_GROUPS = 30  # as many trainings; whoever wants more names the groups
_NAMED_GROUPS = 6


@dataclass(frozen=True)
class FoldPlan:
    """Who trains, chooses and is tested in one fold.

    Attributes:
        name: The group that is tested, or the fold's number from 1.
        sides: Side of each row; None for a row left out because a copy of it lies on another side.
        groups: Groups of each side, in order of name.
    """

    name: str
    sides: tuple[str | None, ...]
    groups: Mapping[str, tuple[str, ...]]

    @property
    def counts(self) -> dict[str, int]:
        """Rows by side."""
        counts = Counter(self.sides)
        return {side: counts[side] for side in SPLITS}

    @property
    def num_left_out(self) -> int:
        """Rows on no side."""
        return self.sides.count(None)

    @property
    def folder_name(self) -> str:
        """`fold-NAME`, with a mark of its own where the name cannot be a folder's."""
        plain = re.sub(r"[^\w.-]+", "_", self.name, flags=re.ASCII)[:80]
        mark = "" if plain == self.name else f"-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"
        return f"fold-{plain}{mark}"

    def describe(self) -> str:
        """The sentence on the split that reports repeat."""
        test, validation = (_shorten(self.groups[side]) for side in ("test", "validation"))
        return f"cross-validation by group; test: {test}; validation: {validation}"


def plan_folds(
    groups: Sequence[str],
    labels: Sequence[str],
    *,
    folds: int | Literal["group"] = "group",
    only: Collection[str] = (),
    validation_share: float = 0.2,
    seed: int = 0,
    copies: Sequence[Collection[int]] = (),
) -> list[FoldPlan]:
    """Return folds whose three sides share neither a group nor a copy.

    The test groups of a fold are held out. Of all other groups whole ones make up validation: the set whose label
    counts come closest to `validation_share` of theirs while training keeps every label, as `build` splits. What is
    chosen there, an epoch say, is so chosen on groups that training never saw, and not on those that are tested.

    Args:
        groups: Group of each row.
        labels: Label of each row.
        folds: `group`: each group is tested once, by itself; or a number: groups are spread over so many folds.
        only: With `group`, the groups to test; all if empty.
        validation_share: Share of the rows that are not tested, above 0 and below 1.
        seed: Breaks ties and spreads groups; the result is a function of the arguments.
        copies: Clusters of rows, by index, that are copies of each other.

    Raises:
        ValueError: If a named group is unknown, there are too few groups, or a training would miss a label.
    """
    if not 0 < validation_share < 1:
        raise ValueError(f"validation_share must be above 0 and below 1, got {validation_share}")
    tested = _tested_groups(groups, labels, folds=folds, only=only, seed=seed, copies=copies)
    return [
        _plan_fold(name, test_groups, groups, labels, validation_share=validation_share, seed=seed, copies=copies)
        for name, test_groups in tested.items()
    ]


def _tested_groups(
    groups: Sequence[str],
    labels: Sequence[str],
    *,
    folds: int | Literal["group"],
    only: Collection[str],
    seed: int,
    copies: Sequence[Collection[int]],
) -> dict[str, list[str]]:
    """Groups to test by name of the fold."""
    names = sorted(set(groups))
    if isinstance(folds, int):
        if only:
            raise ValueError(
                f"--groups names groups to leave out one by one, not so --folds {folds}; drop one of the two"
            )
        fold_of = assign_folds(groups, labels, num_folds=folds, seed=seed, copies=copies)
        members = set(zip(fold_of, groups, strict=True))
        return {str(fold + 1): sorted(group for at, group in members if at == fold) for fold in range(folds)}
    for group in only:
        if group not in names:
            near = get_close_matches(group, names, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {_shorten(names)}"
            raise ValueError(f"--groups: the dataset has no group '{group}'; {hint}")
    if not only and len(names) > _MOST_GROUPS:
        raise ValueError(
            f"--folds group would be {len(names)} trainings, one for each group; ask for --folds 5, or name those to "
            "test with --groups"
        )
    found = leave_one_group_out(groups, labels, copies=copies)
    return {fold.name: [fold.name] for fold in found if not only or fold.name in only}


def _plan_fold(
    name: str,
    test_groups: Sequence[str],
    groups: Sequence[str],
    labels: Sequence[str],
    *,
    validation_share: float,
    seed: int,
    copies: Sequence[Collection[int]],
) -> FoldPlan:
    others = sorted(set(groups) - set(test_groups))
    if len(others) < 2:
        raise ValueError(
            f"fold '{name}' leaves {len(others)} group(s) to train and to validate on ({_shorten(others)}), which "
            "takes two; use finer groups or other folds"
        )
    test_share = sum(group in test_groups for group in groups) / len(groups)
    rest = 1 - test_share
    try:
        plan = plan_split(
            groups,
            labels,
            split="group",
            ratios=(rest * (1 - validation_share), rest * validation_share, test_share),
            seed=seed,
            test_groups=test_groups,
            copies=copies,
        )
    except ValueError as error:
        raise ValueError(f"fold '{name}': {error}") from error
    placed = set(zip(plan.sides, groups, strict=True))
    by_side = {side: tuple(sorted(group for at, group in placed if at == side)) for side in SPLITS}
    return FoldPlan(name, plan.sides, by_side)


def join_splits(dataset: VideoDataset) -> datasets.Dataset:
    """All rows of a dataset, split after split.

    Raises:
        ValueError: If no row says its group, or the videos lie inside the tables.
    """
    rows = datasets.concatenate_datasets([dataset.split(name) for name in dataset.splits])
    if "group" not in rows.column_names or any(group is None for group in rows["group"]):
        raise ValueError(
            f"{dataset.name} does not say which group each video belongs to, so folds could not keep groups whole; "
            "build it with --group_by"
        )
    if any(video.get("bytes") is not None for video in rows["video"]):
        raise ValueError(f"the videos of {dataset.name} lie inside its tables; store them as files, as `build` does")
    return rows


def read_copies(dataset: VideoDataset, rows: datasets.Dataset) -> list[tuple[int, ...]]:
    """Clusters of rows that are copies of each other, as audit.json of the dataset's folder has them; else none.

    Raises:
        ValueError: If audit.json is damaged.
    """
    path = Path(dataset.name) / "audit.json"
    audit = read_dataset_facts(path)
    row_of = _rows_by_name(rows)
    try:
        exact = [[row_of[name] for name in cluster if name in row_of] for cluster in audit["exact_copies"]["clusters"]]
        pairs = [(pair["first"], pair["second"]) for pair in audit["near_copies"]["pairs"]]
    except (KeyError, TypeError) as error:
        if not audit:
            return []
        raise ValueError(f"{path} is not as `build` writes it ({error}); build the dataset again") from error
    near = [NearCopy(row_of[one], row_of[two], 1.0, 0.0) for one, two in pairs if one in row_of and two in row_of]
    return Copies(tuple(tuple(sorted(cluster)) for cluster in exact if len(cluster) > 1), tuple(near)).clusters()


def _rows_by_name(rows: datasets.Dataset) -> dict[str, int]:
    """Row by what the audit calls it: the source file, with `@start-end` where it is a part of one."""
    if "source" not in rows.column_names:
        return {}
    columns = [rows[name] if name in rows.column_names else [None] * len(rows) for name in _NAMING]
    found: dict[str, int] = {}
    parts = Counter(columns[0])
    for row, (source, start, end) in enumerate(zip(*columns, strict=True)):
        found[f"{source}@{format_seconds(start or 0.0)}-{'end' if end is None else format_seconds(end)}"] = row
        if parts[source] == 1:
            found[source] = row
    return found


_NAMING = ("source", "start_seconds", "end_seconds")


def fold_fingerprint(dataset: VideoDataset, rows: datasets.Dataset, plan: FoldPlan) -> str:
    """SHA-256 over the dataset's fingerprint and the side of each video, in hexadecimal digits."""
    names = [Path(video["path"]).name for video in rows["video"]]
    content = [dataset.fingerprint, sorted(zip((side or "" for side in plan.sides), names, strict=True))]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def write_fold_dataset(folder: Path, dataset: VideoDataset, rows: datasets.Dataset, plan: FoldPlan) -> str:
    """Write one fold as a dataset folder: tables that name the videos where they are, for this machine alone.

    A folder of the same fold is kept; where the videos have moved since, it is written again.

    Args:
        folder: Where to.
        dataset: What the fold is of.
        rows: Its rows, of `join_splits`.
        plan: The fold.

    Returns:
        The fold's fingerprint.

    Raises:
        ValueError: If the folder holds another fold.
    """
    fingerprint = fold_fingerprint(dataset, rows, plan)
    home = str(Path(dataset.name).resolve()) if Path(dataset.name).is_dir() else dataset.name
    facts: dict[str, Any] = {
        "version": 1,
        "fingerprint": fingerprint,
        "split_kind": plan.describe(),
        "view_of": home,
        "view_of_fingerprint": dataset.fingerprint,
        "groups": {side: list(names) for side, names in plan.groups.items()},
    }
    if folder.is_dir():
        found = read_dataset_facts(folder / "dataset.json")
        if found.get("fingerprint") != fingerprint:
            raise ValueError(
                f"{folder} holds another fold (fingerprint {str(found.get('fingerprint'))[:16]}, now "
                f"{fingerprint[:16]}): the dataset, --folds, --validation_share or --split_seed changed; name another "
                "--output_dir"
            )
        if found == facts:
            return fingerprint
        shutil.rmtree(folder)
    with whole_folder(folder) as whole:
        (whole / "data").mkdir()
        for side in SPLITS:
            chosen = [row for row, at in enumerate(plan.sides) if at == side]
            rows.select(chosen).to_parquet(whole / "data" / f"{side}.parquet")
        (whole / "dataset.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (whole / "README.md").write_text(_card(plan, facts), encoding="utf-8")
    return fingerprint


def _card(plan: FoldPlan, facts: Mapping[str, Any]) -> str:
    files = [{"split": side, "path": f"data/{side}.parquet"} for side in SPLITS]
    # The description makes the block its own: load_dataset keys its cache by it.
    config = {"config_name": "default", "description": facts["fingerprint"][:16], "data_files": files}
    header = yaml.safe_dump({"configs": [config]}, allow_unicode=True, sort_keys=False)
    counts = ", ".join(f"{number} {side}" for side, number in plan.counts.items())
    return (
        f"---\n{header}---\n\n# Fold {plan.name}\n\nA fold of `{facts['view_of']}`: {counts}; {plan.num_left_out} "
        f"left out because a copy lies on another side. Split: {facts['split_kind']}.\n\nThe videos are where they "
        "were; this folder only names them, so it is of use on this machine alone.\n"
    )


def _shorten(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED_GROUPS} more" if len(names) > _NAMED_GROUPS else ""
    return ", ".join(names[:_NAMED_GROUPS]) + more
