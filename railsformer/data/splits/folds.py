"""Cross-validation that keeps each group, and every copy, on one side.

Shapes: G groups, K folds, L labels.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from railsformer.data.splits.plan import LeftOut, merge_groups
from railsformer.data.splits.sides import spread_groups

__all__ = ["Fold", "assign_folds", "leave_one_group_out"]


@dataclass(frozen=True)
class Fold:
    """One round of a cross-validation.

    Attributes:
        name: The group that is tested on.
        train_rows: Rows to train on, by index.
        test_rows: Rows to test on.
        left_out: Rows of other groups that are copies of a test row.
    """

    name: str
    train_rows: tuple[int, ...]
    test_rows: tuple[int, ...]
    left_out: tuple[LeftOut, ...] = ()


def assign_folds(
    groups: Sequence[str],
    labels: Sequence[str],
    *,
    num_folds: int,
    seed: int,
    copies: Sequence[Collection[int]] = (),
) -> list[int]:
    """Spread groups over folds so that each fold has its share of every label.

    Args:
        groups: Group of each row; groups that share a copy count as one.
        labels: Label of each row.
        num_folds: How many folds, 2 or more.
        seed: Breaks ties; the result is a function of the arguments.
        copies: Clusters of rows, by index, that are copies of each other.

    Returns:
        The fold, 0 to num_folds - 1, in which each row is tested.

    Raises:
        ValueError: If there are fewer groups than folds, if a label lies in one fold alone, so that its training
            would miss it, or if num_folds or seed are not as described.
    """
    if num_folds < 2:
        raise ValueError(f"num_folds must be 2 or more, got {num_folds}; for example --folds 5")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}; for example --seed 0")
    merged = merge_groups(groups, copies)
    names = sorted(set(merged))
    if len(names) < num_folds:
        joined = (
            "" if len(names) == len(set(groups)) else f" ({len(set(groups))} before those with copies were joined)"
        )
        raise ValueError(
            f"{num_folds} folds need as many groups, got {len(names)}{joined}; ask for {len(names)} folds or fewer, "
            "or use finer groups"
        )
    _check_labels(merged, labels)
    names = [names[index] for index in np.random.default_rng(seed).permutation(len(names))]
    fold_of = dict(zip(names, spread_groups(merged, labels, names, num_sides=num_folds), strict=True))
    folds = [fold_of[group] for group in merged]
    for label in sorted(set(labels)):
        used = {fold for fold, other in zip(folds, labels, strict=True) if other == label}
        if len(used) == 1:
            raise ValueError(
                f"label '{label}' lies in fold {used.pop()} alone, so its training would miss it; ask for other "
                "folds, use finer groups or drop the label"
            )
    return folds


def leave_one_group_out(
    groups: Sequence[str], labels: Sequence[str], *, copies: Sequence[Collection[int]] = ()
) -> list[Fold]:
    """Return one fold for each group, in order of name: that group is tested, all others train.

    Groups stay as they are; a training row that is a copy of a test row is left out of that fold.

    Args:
        groups: Group of each row.
        labels: Label of each row.
        copies: Clusters of rows, by index, that are copies of each other.

    Raises:
        ValueError: If there are fewer than two groups, or a fold's training would miss a label.
    """
    names = sorted(set(groups))
    if len(names) < 2:
        raise ValueError(f"leave-one-group-out needs two groups or more, got {len(names)}; use finer groups")
    _check_labels(groups, labels)
    folds = []
    for name in names:
        test_rows = tuple(row for row, group in enumerate(groups) if group == name)
        left_out = _copies_of(set(test_rows), copies)
        gone = {*test_rows, *(out.row for out in left_out)}
        train_rows = tuple(row for row in range(len(groups)) if row not in gone)
        for label in sorted(set(labels) - {labels[row] for row in train_rows}):
            raise ValueError(
                f"label '{label}' would have no training sample when group '{name}' is tested on: the rest of it are "
                "copies; drop the label or use other groups"
            )
        folds.append(Fold(name, train_rows, test_rows, left_out))
    return folds


def _check_labels(groups: Sequence[str], labels: Sequence[str]) -> None:
    for label in sorted(set(labels)):
        places = {group for group, other in zip(groups, labels, strict=True) if other == label}
        if len(places) == 1:
            raise ValueError(
                f"label '{label}' is in one group alone, '{places.pop()}', so a fold that tests on it would train "
                "without it; use finer groups or drop the label"
            )


def _copies_of(test_rows: set[int], copies: Sequence[Collection[int]]) -> tuple[LeftOut, ...]:
    left_out = []
    for cluster in copies:
        tested = sorted(test_rows.intersection(cluster))
        if tested:
            left_out += [LeftOut(row, tested[0]) for row in sorted(cluster) if row not in test_rows]
    return tuple(left_out)
