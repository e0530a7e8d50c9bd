"""Sides for rows of which some are copies of each other: no group and no copy lies on two sides."""

from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from railsformer.data.copies.clusters import join_sets
from railsformer.data.splits.sides import SPLITS, SplitBy, assign_groups, check_sides

__all__ = ["LeftOut", "SplitPlan", "leave_out_copies", "merge_groups", "plan_split"]


@dataclass(frozen=True)
class LeftOut:
    """A row on no side, because a copy of it is on a side that matters more.

    Attributes:
        row: Its index.
        copy_of: The row that it is a copy of, by index.
    """

    row: int
    copy_of: int


@dataclass(frozen=True)
class SplitPlan:
    """Sides of all rows.

    Attributes:
        sides: Side of each row; None for a row left out.
        left_out: The rows without a side.
    """

    sides: tuple[str | None, ...]
    left_out: tuple[LeftOut, ...] = ()


def plan_split(
    groups: Sequence[str],
    labels: Sequence[str],
    *,
    split: SplitBy,
    ratios: Sequence[float],
    seed: int,
    test_groups: Collection[str] = (),
    validation_groups: Collection[str] = (),
    copies: Sequence[Collection[int]] = (),
) -> SplitPlan:
    """Return the side of each row so that neither a group nor a copy lies on two sides.

    Groups that share a copy are placed as one, unless too few would remain for every side and label, or one of them
    would be larger than training's share. Then, and where a side is fixed by name, the groups stay as they are and
    copies are left out (see `leave_out_copies`).

    Args:
        groups: Group of each row.
        labels: Label of each row.
        split: `group`, or `random`: rows are drawn, but copies still stay together.
        ratios: Shares of train, validation and test; above 0, sum 1.
        seed: Breaks ties, or draws the rows.
        test_groups: Groups that make up the test side.
        validation_groups: Groups that make up the validation side.
        copies: Clusters of rows, by index, that are copies of each other.

    Raises:
        ValueError: As `assign_groups`, also if training misses a label once the copies are left out, or if sides are
            fixed by name in a random split.
    """
    if split == "random":
        if test_groups or validation_groups:
            raise ValueError("--split random ignores groups; drop it, or drop --test_groups and --validation_groups")
        groups = [f"row {index:09d}" for index in range(len(labels))]
    assign = partial(
        assign_groups, ratios=ratios, seed=seed, test_groups=test_groups, validation_groups=validation_groups
    )
    assignment = assign(groups, labels)  # refuse what is wrong even without copies
    merged = merge_groups(groups, copies, apart={*test_groups, *validation_groups})
    if merged != list(groups) and _fits_training(merged, groups, ratios[0]):
        with suppress(ValueError):  # too few groups may remain: copies are left out below instead
            groups, assignment = merged, assign(merged, labels)
    return leave_out_copies([assignment[group] for group in groups], labels, groups=groups, copies=copies)


def leave_out_copies(
    sides: Sequence[str], labels: Sequence[str], *, groups: Sequence[str], copies: Sequence[Collection[int]]
) -> SplitPlan:
    """Take copies of rows on another side out: training gives way to validation, and both give way to test.

    Args:
        sides: Side of each row.
        labels: Label of each row.
        groups: Group of each row, for messages.
        copies: Clusters of rows, by index, that are copies of each other.

    Raises:
        ValueError: If a side is empty then or training misses a label.
    """
    kept: list[str | None] = list(sides)
    left_out = []
    for cluster in copies:
        rows = sorted(cluster)
        strongest = max((sides[row] for row in rows), key=SPLITS.index)
        original = next(row for row in rows if sides[row] == strongest)
        for row in rows:
            if sides[row] != strongest:
                kept[row] = None
                left_out.append(LeftOut(row, original))
    rest = [row for row, side in enumerate(kept) if side is not None]
    try:
        check_sides([sides[row] for row in rest], [labels[row] for row in rest], groups=[groups[row] for row in rest])
        for label in sorted(set(labels) - {labels[row] for row in rest}):
            raise ValueError(f"label '{label}' would have no sample")
    except ValueError as error:
        raise ValueError(f"with {len(left_out)} copies left out: {error}") from error
    return SplitPlan(tuple(kept), tuple(sorted(left_out, key=lambda out: out.row)))


def merge_groups(
    groups: Sequence[str], copies: Sequence[Collection[int]], *, apart: Collection[str] = ()
) -> list[str]:
    """Return the groups with those that share a copy under one name, the first of theirs.

    Args:
        groups: Group of each row.
        copies: Clusters of rows, by index, that are copies of each other.
        apart: Groups that stay as they are.
    """
    first = join_sets([{groups[row] for row in cluster} - set(apart) for cluster in copies])
    return [first.get(group, group) for group in groups]


def _fits_training(merged: Sequence[str], groups: Sequence[str], share: float) -> bool:
    """Tell whether merging made no group that outgrows training: chains of near copies can join half a data set."""
    largest = max(Counter(merged).values())
    return largest <= max(share * len(merged), *Counter(groups).values())
