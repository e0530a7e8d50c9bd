"""What a search for copies finds: exact clusters, near pairs, and the sets that these join."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["Copies", "NearCopy", "join_sets"]

_Item = TypeVar("_Item", int, str)


@dataclass(frozen=True)
class NearCopy:
    """Two videos that show the same scene at the same moment, or that nobody could tell from such.

    Attributes:
        first: Index of one video.
        second: Index of the other.
        similarity: Normalised correlation of what moves, or of the pictures where nothing moves, at most 1.
        offset_seconds: By how much the second begins later: its picture t is picture t + offset of the first. 0 where
            nothing moves.
        still: Whether nothing moves, so that the moment is unknown: the pictures could not be told apart.
    """

    first: int
    second: int
    similarity: float
    offset_seconds: float
    still: bool = False


@dataclass(frozen=True)
class Copies:
    """What was found among videos, which are named by index.

    Attributes:
        exact: Clusters with the same decoded pictures, each in ascending order.
        near: Pairs of near copies; exact ones are not repeated here.
        too_still: Videos that move too little for their motion to be compared.
    """

    exact: tuple[tuple[int, ...], ...] = ()
    near: tuple[NearCopy, ...] = ()
    too_still: tuple[int, ...] = ()

    def clusters(self) -> list[tuple[int, ...]]:
        """Return the sets of videos that exact and near copies join, directly or through others."""
        least = join_sets([*self.exact, *((pair.first, pair.second) for pair in self.near)])
        found: dict[int, list[int]] = {}
        for index in sorted(least):
            found.setdefault(least[index], []).append(index)
        return [tuple(cluster) for cluster in found.values() if len(cluster) > 1]


def join_sets(sets: Iterable[Collection[_Item]]) -> dict[_Item, _Item]:
    """Join the sets that share an item, directly or through others.

    Args:
        sets: Indices, or names.

    Returns:
        The least item of its joined set, by item.
    """
    parents: dict[_Item, _Item] = {}

    def root(item: _Item) -> _Item:
        while parents.setdefault(item, item) != item:
            parents[item] = parents[parents[item]]
            item = parents[item]
        return item

    for items in sets:
        roots = sorted({root(item) for item in items})
        for other in roots[1:]:
            parents[other] = roots[0]
    return {item: root(item) for item in parents}
