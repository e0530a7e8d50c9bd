"""The leak audit: what lies on several sides of a split, and what a random split would have leaked.

An audit that counts no near copy says that none was found, not that there is none. Of copies planted in real footage
in which something moves, in percent: re-muxed 100 (as exact copies), re-encoded or resized 93 to 100, cropped by 5 to
10 % 90 to 100, brighter, darker or of other contrast 87 to 100, shifted in time 97 to 100, at half the rate 100,
several of these at once 67 to 87. Of videos in which nothing moves, all re-encoded, resized and shifted ones are
found, and few that are cropped or brightened until they clip. 1 of 720 was joined with a video that is no copy. All
figures, and how they came about: docs/leak_audit.md.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from railsformer.data.copies.clusters import Copies
from railsformer.data.splits.plan import LeftOut
from railsformer.data.splits.sides import SPLITS, count_labels, leaks

__all__ = ["Audit", "RandomSplit", "audit_split", "check_labels_of_copies"]

_VERSION = 1
_SHOWN = 20


@dataclass(frozen=True)
class RandomSplit:
    """Means over draws of a random split, stratified over labels and blind to groups and copies.

    Attributes:
        draws: How many.
        test_rows: Rows on the test side.
        exact_leaked: Test rows with an exact copy in training.
        near_leaked: Test rows with a near copy in training.
        same_group: Test rows with a row of their group in training.
    """

    draws: int
    test_rows: float
    exact_leaked: float
    near_leaked: float
    same_group: float


@dataclass(frozen=True)
class Audit:
    """What a split holds, counted from its final sides.

    Attributes:
        split_kind: The sentence of `describe_split`.
        names: Name of each row.
        num_groups: Groups among the rows.
        groups_on_several_sides: How many of them lie on more than one side.
        copies: What was found, by row.
        exact_on_several_sides: Exact clusters that lie on more than one side.
        near_on_several_sides: Near pairs that lie on two sides.
        left_out: Rows without a side.
        label_conflicts: Near pairs with two labels, as positions in `copies.near`.
        balance: Rows by side and label.
        random_split: What a random split of the same rows would have leaked.
    """

    split_kind: str
    names: tuple[str, ...]
    num_groups: int
    groups_on_several_sides: int
    copies: Copies
    exact_on_several_sides: int
    near_on_several_sides: int
    left_out: tuple[LeftOut, ...]
    label_conflicts: tuple[int, ...]
    balance: Mapping[str, Mapping[str, int]]
    random_split: RandomSplit

    def to_json(self) -> dict[str, Any]:
        """Return the content of audit.json."""
        names = self.names
        pairs = [
            {
                "first": names[pair.first],
                "second": names[pair.second],
                "similarity": round(pair.similarity, 4),
                "offset_seconds": round(pair.offset_seconds, 3),
                "still": pair.still,
            }
            for pair in self.copies.near
        ]
        exact = [[names[row] for row in cluster] for cluster in self.copies.exact]
        left_out = [
            {"file_name": names[out.row], "copy_of": names[out.copy_of], "kind": self._kind(out)}
            for out in self.left_out
        ]
        return {
            "version": _VERSION,
            "split_kind": self.split_kind,
            "num_groups": self.num_groups,
            "groups_on_several_sides": self.groups_on_several_sides,
            "exact_copies": {"clusters": exact, "on_several_sides": self.exact_on_several_sides},
            "near_copies": {"pairs": pairs, "on_several_sides": self.near_on_several_sides},
            "too_still_to_judge": [names[row] for row in self.copies.too_still],
            "label_conflicts": [
                [names[self.copies.near[at].first], names[self.copies.near[at].second]] for at in self.label_conflicts
            ],
            "left_out": left_out,
            "balance": {side: dict(counts) for side, counts in self.balance.items()},
            "random_split": {
                "draws": self.random_split.draws,
                "test_rows": round(self.random_split.test_rows, 2),
                "exact_leaked": round(self.random_split.exact_leaked, 2),
                "near_leaked": round(self.random_split.near_leaked, 2),
                "same_group": round(self.random_split.same_group, 2),
            },
        }

    def to_markdown(self) -> str:
        """Return the audit for a card or a console, without a heading."""
        copies, random = self.copies, self.random_split
        lines = [
            f"Split: {self.split_kind}.",
            "",
            "| what | found | on several sides |",
            "|---|---:|---:|",
            f"| groups | {self.num_groups} | {self.groups_on_several_sides} |",
            f"| sets of exact copies | {len(copies.exact)} | {self.exact_on_several_sides} |",
            f"| pairs of near copies | {len(copies.near)} | {self.near_on_several_sides} |",
            "",
            *_balance_table(self.balance),
            "",
            f"{len(self.left_out)} of {len(self.names)} videos left out because a copy lies on another side.",
            f"{sum(pair.still for pair in copies.near)} of the near pairs are still: nothing moves and the pictures "
            "could not be told apart, though they may be of different moments.",
            f"{len(copies.too_still)} videos hardly move, so only such pairs are found of them.",
            f"A random split (mean of {random.draws} draws, {random.test_rows:.1f} test videos) would have put "
            f"{random.exact_leaked:.1f} test videos beside an exact copy in training, {random.near_leaked:.1f} beside "
            f"a near copy and {random.same_group:.1f} beside a video of their own group.",
        ]
        if self.label_conflicts:
            lines += ["", "Near copies with two labels; look at them, one of the labels may be wrong:", ""]
            lines += self._list(self.label_conflicts)
        return "\n".join(lines) + "\n"

    def _kind(self, out: LeftOut) -> str:
        exact = any(out.row in cluster and out.copy_of in cluster for cluster in self.copies.exact)
        return "exact" if exact else "near"

    def _list(self, positions: Sequence[int]) -> list[str]:
        pairs = [self.copies.near[at] for at in positions]
        lines = [f"- `{self.names[pair.first]}` and `{self.names[pair.second]}`" for pair in pairs[:_SHOWN]]
        return lines + ([f"- and {len(pairs) - _SHOWN} more in audit.json"] if len(pairs) > _SHOWN else [])


def audit_split(
    names: Sequence[str],
    groups: Sequence[str],
    labels: Sequence[str],
    sides: Sequence[str | None],
    *,
    copies: Copies,
    split_kind: str,
    left_out: Sequence[LeftOut] = (),
    ratios: Sequence[float] = (0.7, 0.15, 0.15),
    num_draws: int = 100,
    seed: int = 0,
) -> Audit:
    """Count what lies on several sides, from the sides alone: how they came about is not trusted.

    Near copies are those that were found; docs/leak_audit.md states recall and false merges by kind.

    Args:
        names: Name of each row.
        groups: Group of each row.
        labels: Label of each row.
        sides: Side of each row; None for one left out.
        copies: Which rows are copies of each other.
        split_kind: See `describe_split`.
        left_out: Why rows have no side.
        ratios: Shares of the random split that is drawn for comparison.
        num_draws: How often it is drawn.
        seed: Of these draws.
    """
    rows = [row for row, side in enumerate(sides) if side is not None]
    placed = [side for side in sides if side is not None]
    return Audit(
        split_kind=split_kind,
        names=tuple(names),
        num_groups=len(set(groups)),
        groups_on_several_sides=len(leaks([groups[row] for row in rows], placed)),
        copies=copies,
        exact_on_several_sides=sum(_on_several(cluster, sides) for cluster in copies.exact),
        near_on_several_sides=sum(_on_several((pair.first, pair.second), sides) for pair in copies.near),
        left_out=tuple(left_out),
        label_conflicts=tuple(at for at, pair in enumerate(copies.near) if labels[pair.first] != labels[pair.second]),
        balance=count_labels([labels[row] for row in rows], placed),
        random_split=_draw_random_splits(groups, labels, copies, ratios=ratios, num_draws=num_draws, seed=seed),
    )


def check_labels_of_copies(names: Sequence[str], labels: Sequence[str], copies: Copies) -> None:
    """Refuse the same pictures under two labels.

    Args:
        names: Name of each row.
        labels: Label of each row.
        copies: Which rows are copies of each other.

    Raises:
        ValueError: If exact copies have different labels; near ones are only listed by the audit.
    """
    for cluster in copies.exact:
        first = cluster[0]
        for row in cluster[1:]:
            if labels[row] != labels[first]:
                raise ValueError(
                    f"{names[first]} is labelled '{labels[first]}' and {names[row]} '{labels[row]}', but they show "
                    "the same pictures; correct a label or remove one of them"
                )


def _on_several(rows: Collection[int], sides: Sequence[str | None]) -> bool:
    return len({sides[row] for row in rows} - {None}) > 1


def _balance_table(balance: Mapping[str, Mapping[str, int]]) -> list[str]:
    labels = list(next(iter(balance.values()), {}))
    lines = ["| side | " + " | ".join(labels) + " | all |", "|---|" + "---:|" * (len(labels) + 1)]
    for side, counts in balance.items():
        cells = [str(counts[label]) for label in labels]
        lines.append(f"| {side} | " + " | ".join(cells) + f" | {sum(counts.values())} |")
    return lines


def _draw_random_splits(
    groups: Sequence[str],
    labels: Sequence[str],
    copies: Copies,
    *,
    ratios: Sequence[float],
    num_draws: int,
    seed: int,
) -> RandomSplit:
    exact = _pairs([(a, b) for cluster in copies.exact for a in cluster for b in cluster if a != b])
    near = _pairs([pair for p in copies.near for pair in ((p.first, p.second), (p.second, p.first))])
    group_of = np.unique(np.array(groups), return_inverse=True)[1]
    label_of = np.unique(np.array(labels), return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    totals = np.zeros(4)
    for _ in range(num_draws):
        side = _random_sides(label_of, ratios, rng)
        tested, trained = side == SPLITS.index("test"), side == SPLITS.index("train")
        in_training = np.bincount(group_of[trained], minlength=group_of.max() + 1)
        totals += (
            tested.sum(),
            _count_leaked(exact, tested, trained),
            _count_leaked(near, tested, trained),
            (in_training[group_of[tested]] > 0).sum(),
        )
    return RandomSplit(num_draws, *(totals / max(1, num_draws)).tolist())


def _random_sides(label_of: np.ndarray, ratios: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Return the side of each row as an index into SPLITS; every label is cut by the shares."""
    sides = np.empty(len(label_of), dtype=int)
    bounds = np.cumsum(ratios)[:-1]
    for label in range(label_of.max() + 1):
        rows = rng.permutation(np.flatnonzero(label_of == label))
        # a random phase keeps the expected shares right for labels of a few rows
        sides[rows] = np.searchsorted(bounds, (np.arange(len(rows)) + rng.random()) / len(rows), side="right")
    return sides


def _pairs(pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    return np.array(pairs, dtype=int).reshape(-1, 2)


def _count_leaked(pairs: np.ndarray, tested: np.ndarray, trained: np.ndarray) -> int:
    """Return how many test rows stand in a pair with a training row."""
    leaked = tested[pairs[:, 0]] & trained[pairs[:, 1]]
    return len(np.unique(pairs[leaked, 0]))
