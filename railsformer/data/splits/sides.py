"""Stratified splits that keep each group (a recording, a camera) on one side.

Shapes: G groups, S sides, L labels.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

import numpy as np

__all__ = [
    "SPLITS",
    "SplitBy",
    "assign_groups",
    "check_sides",
    "count_labels",
    "describe_split",
    "leaks",
    "spread_groups",
]

SPLITS = ("train", "validation", "test")
SplitBy = Literal["group", "random"]

# Cost of a label with no sample on a side, in units of squared relative deviation (being 100 % off costs 1).
# Training must hold every label if any assignment allows it; a validation or test side without one cannot judge it.
_MISSING_COST = {"train": 1e6, "validation": 10.0, "test": 10.0}
_MAX_ENUMERATED = 20_000  # try every assignment up to this many: 3 sides x 9 groups, 2 sides x 14
_MAX_GROUPS_TO_SWAP = 200  # with more groups, single moves are fine enough
_MAX_IMPROVEMENTS = 1_000


def assign_groups(
    groups: Sequence[str],
    labels: Sequence[str],
    *,
    ratios: Sequence[float] = (0.7, 0.15, 0.15),
    seed: int,
    test_groups: Collection[str] = (),
    validation_groups: Collection[str] = (),
) -> dict[str, str]:
    """Give every group a side so that each side's label counts come close to its share.

    The cost is the sum over sides and labels of the squared relative deviation from the target count. Few groups are
    enumerated, so the answer is the best there is; many are placed greedily, largest share of a label first, and then
    moved and swapped while that helps. A side fixed by name holds exactly the groups named; the other sides share the
    remaining groups in proportion to their ratios.

    Args:
        groups: Group of each row.
        labels: Label of each row.
        ratios: Shares of train, validation and test; above 0, sum 1.
        seed: Breaks ties; the result is a function of the arguments.
        test_groups: Groups that make up the test side.
        validation_groups: Groups that make up the validation side.

    Returns:
        Side of each group, by group name.

    Raises:
        ValueError: If shares or seed are not as described, if a named group is unknown or on two sides, if there are
            too few groups for every side to have a sample, or if training would miss a label.
    """
    _check_ratios(ratios)
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}; for example --seed 0")
    fixed = _fixed_sides(groups, test_groups, validation_groups)
    free_sides = [side for side in SPLITS if side not in fixed.values()]
    names = sorted(set(groups) - set(fixed))
    if len(names) < len(free_sides):
        raise ValueError(
            f"split '{free_sides[len(names)]}' would have no sample: {len(set(groups))} group(s) for "
            f"{len(SPLITS)} splits ({_shorten(sorted(set(groups)))}); use groups that are finer with --group_by, "
            "name fewer groups with --test_groups and --validation_groups, or ask for --split random"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    names = [names[index] for index in order]
    counts = _count_matrix(groups, labels, names)
    shares = {side: share for side, share in zip(SPLITS, ratios, strict=True) if side in free_sides}
    sides = _Objective.of(counts, shares).assign(counts)
    assignment = fixed | {name: free_sides[side] for name, side in zip(names, sides, strict=True)}
    check_sides([assignment[group] for group in groups], labels, groups=groups)
    return {name: assignment[name] for name in sorted(assignment)}


def spread_groups(groups: Sequence[str], labels: Sequence[str], names: Sequence[str], *, num_sides: int) -> list[int]:
    """Give every group one of equal sides so that each side's label counts come close to an equal share.

    Args:
        groups: Group of each row.
        labels: Label of each row.
        names: The groups in the order that breaks ties; at least num_sides.
        num_sides: How many sides there are.

    Returns:
        Side of each group, 0 to num_sides - 1, in the order of `names`.
    """
    counts = _count_matrix(groups, labels, names)
    shares = {str(side): 1 / num_sides for side in range(num_sides)}
    return _Objective.of(counts, shares).assign(counts).tolist()


def check_sides(sides: Sequence[str], labels: Sequence[str], *, groups: Sequence[str]) -> None:
    """Refuse a split that nobody can train and test with.

    Args:
        sides: Side of each row.
        labels: Label of each row.
        groups: Group of each row.

    Raises:
        ValueError: If a side is empty or training misses a label.
    """
    for side in SPLITS:
        if side not in sides:
            raise ValueError(
                f"split '{side}' would have no sample: {len(set(groups))} group(s) do not make {len(SPLITS)} splits "
                "that leave every label in training; name fewer groups with --test_groups and --validation_groups, or "
                "use finer groups with --group_by"
            )
    for label in sorted(set(labels)):
        places = {(group, side) for group, side, other in zip(groups, sides, labels, strict=True) if other == label}
        if all(side != "train" for _, side in places):
            where = _shorten([f"{group} ({side})" for group, side in sorted(places)])
            raise ValueError(
                f"label '{label}' would have no training sample: all of it is in {len(places)} group(s), {where}; "
                "leave one of them to training, use finer groups with --group_by, or ask for --split random"
            )


def describe_split(*, split: SplitBy, group_by: str | None, num_groups: int) -> str:
    """Return the sentence on the split that every report repeats.

    Args:
        split: `group` or `random`.
        group_by: What told the groups apart; None means every file was its own group.
        num_groups: How many there are.
    """
    if split == "random":
        return "random rows; recordings may lie on both sides"
    if group_by is None:
        return "by file; recordings unknown"
    return f"by {group_by} ({num_groups} groups)"


def leaks(groups: Iterable[str], sides: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the groups that lie on more than one side, with their sides.

    Args:
        groups: Group of each row.
        sides: Side of each row.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for group, side in zip(groups, sides, strict=True):
        found[group].add(side)
    return {group: tuple(sorted(on, key=SPLITS.index)) for group, on in sorted(found.items()) if len(on) > 1}


def count_labels(labels: Iterable[str], sides: Iterable[str]) -> dict[str, dict[str, int]]:
    """Return the number of rows by side and label, zeros included.

    Args:
        labels: Label of each row.
        sides: Side of each row.
    """
    labels = list(labels)
    counts = {side: dict.fromkeys(sorted(set(labels)), 0) for side in SPLITS}
    for label, side in zip(labels, sides, strict=True):
        counts[side][label] += 1
    return counts


@dataclass(frozen=True, eq=False)
class _Objective:
    """Squared relative deviation of label counts from their targets, and the searches that lower it.

    Attributes:
        targets: Wished label counts, shape (S, L).
        missing: Cost of a label with no sample, shape (S, 1).
    """

    targets: np.ndarray
    missing: np.ndarray

    @classmethod
    def of(cls, counts: np.ndarray, shares: Mapping[str, float]) -> "_Objective":
        """Share out the groups' totals; `counts` has shape (G, L)."""
        weights = np.array(list(shares.values())) / sum(shares.values())
        missing = np.array([[_MISSING_COST.get(side, _MISSING_COST["test"])] for side in shares])
        return cls(targets=weights[:, None] * counts.sum(axis=0), missing=missing)

    def cost(self, counts: np.ndarray) -> np.ndarray:
        """Return the cost of each side: (…, S, L) -> (…, S)."""
        wished = self.targets > 0  # a label may be wholly in a fixed side
        deviation = np.where(wished, counts / np.where(wished, self.targets, 1) - 1, 0)
        return (deviation**2 + self.missing * (wished & (counts == 0))).sum(axis=-1)

    def assign(self, counts: np.ndarray) -> np.ndarray:
        """Return the side of each group, shape (G,), for label counts of shape (G, L)."""
        num_groups, num_sides = len(counts), len(self.targets)
        if num_sides == 0 or num_groups == 0:
            return np.zeros(num_groups, dtype=int)
        if num_sides**num_groups <= _MAX_ENUMERATED:
            return self._enumerate(counts)
        return self._improve(counts, self._place(counts))

    def _enumerate(self, counts: np.ndarray) -> np.ndarray:
        num_sides = len(self.targets)
        every = np.array(list(itertools.product(range(num_sides), repeat=len(counts))))  # (A, G)
        on_side = every[:, :, None] == np.arange(num_sides)  # (A, G, S)
        totals = np.einsum("ags,gl->asl", on_side, counts)
        empty = (totals.sum(axis=-1) == 0).any(axis=-1)
        return every[np.argmin(self.cost(totals).sum(axis=-1) + np.where(empty, 1e9, 0))]

    def _place(self, counts: np.ndarray) -> np.ndarray:
        totals = np.zeros_like(self.targets)
        sides = np.zeros(len(counts), dtype=int)
        largest_share = (counts / np.maximum(counts.sum(axis=0), 1)).max(axis=1)
        for group in np.argsort(-largest_share, kind="stable"):
            gain = self.cost(totals + counts[group]) - self.cost(totals)
            sides[group] = np.argmin(gain)
            totals[sides[group]] += counts[group]
        return sides

    def _improve(self, counts: np.ndarray, sides: np.ndarray) -> np.ndarray:
        everyone = np.arange(len(counts))
        for _ in range(_MAX_IMPROVEMENTS):
            totals = np.stack([counts[sides == side].sum(axis=0) for side in range(len(self.targets))])
            now = self.cost(totals)  # (S,)
            leave = self._cost_of(totals[sides] - counts, sides) - now[sides]  # (G,)
            enter = self.cost(totals + counts[:, None, :]) - now  # (G, S)
            gain = leave[:, None] + enter
            gain[everyone, sides] = 0.0
            gain[np.bincount(sides, minlength=len(totals))[sides] == 1] = np.inf  # never empty a side
            group, side = np.unravel_index(np.argmin(gain), gain.shape)
            if gain[group, side] < -1e-9:
                sides[group] = side
                continue
            pair = self._best_swap(counts, sides, totals) if len(counts) <= _MAX_GROUPS_TO_SWAP else None
            if pair is None:
                break
            sides[list(pair)] = sides[list(pair[::-1])]
        return sides

    def _best_swap(self, counts: np.ndarray, sides: np.ndarray, totals: np.ndarray) -> tuple[int, int] | None:
        exchange = counts[None, :, :] - counts[:, None, :]  # what i's side gains when i and j trade: (G, G, L)
        after = self._cost_of(totals[sides][:, None, :] + exchange, sides[:, None])
        change = after - self.cost(totals)[sides][:, None]
        gain = change + change.T
        gain[sides[:, None] == sides[None, :]] = 0.0
        first, second = np.unravel_index(np.argmin(gain), gain.shape)
        return (int(first), int(second)) if gain[first, second] < -1e-9 else None

    def _cost_of(self, counts: np.ndarray, sides: np.ndarray) -> np.ndarray:
        """Return the cost of one side each: counts (…, L) on sides (…) -> (…)."""
        chosen = _Objective(targets=self.targets[sides], missing=self.missing[sides])
        return chosen.cost(counts)


def _count_matrix(groups: Sequence[str], labels: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Return label counts of the named groups, shape (G, L)."""
    row_of = {name: row for row, name in enumerate(names)}
    column_of = {label: column for column, label in enumerate(sorted(set(labels)))}
    counts = np.zeros((len(names), len(column_of)))
    for group, label in zip(groups, labels, strict=True):
        if group in row_of:
            counts[row_of[group], column_of[label]] += 1
    return counts


def _check_ratios(ratios: Sequence[float]) -> None:
    positive = all(math.isfinite(ratio) and ratio > 0 for ratio in ratios)
    if len(ratios) != len(SPLITS) or not positive or abs(sum(ratios) - 1) > 1e-6:
        given = " ".join(f"{ratio:g}" for ratio in ratios)
        raise ValueError(
            f"splits must be three shares above 0 with sum 1 (train validation test), got {given}; "
            "for example --splits 0.7 0.15 0.15"
        )


def _fixed_sides(
    groups: Sequence[str], test_groups: Collection[str], validation_groups: Collection[str]
) -> dict[str, str]:
    known = sorted(set(groups))
    fixed: dict[str, str] = {}
    for option, side, names in (("test", "test", test_groups), ("validation", "validation", validation_groups)):
        for name in names:
            if not name.strip():
                raise ValueError(f"--{option}_groups holds an empty name; give names with one comma between them")
            if name not in known:
                close = get_close_matches(name, known, n=1)
                hint = f", did you mean '{close[0]}'?" if close else ""
                raise ValueError(f"--{option}_groups: no group '{name}'{hint}; the groups are {_shorten(known, 20)}")
            if fixed.get(name, side) != side:
                raise ValueError(f"group '{name}' is in --test_groups and in --validation_groups; name it once")
            fixed[name] = side
    return fixed


def _shorten(names: Sequence[str], limit: int = 6) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
