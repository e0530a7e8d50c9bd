"""In which order training shows its clips: a function of (seed, epoch), so that processes and resumed runs agree."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from railsformer.data.clips import ClipDataset

__all__ = ["EpochSampler"]


class EpochSampler(torch.utils.data.Sampler[int]):
    """The order of an epoch, a function of (seed, epoch) alone, so that processes and resumed runs agree.

    The order is filled up to whole batches from its own beginning: a last batch that each process or accumulation step
    filled in its own way would make the loss depend on their number. A clip that comes up again within an epoch has
    the index `draw * len(clips) + index`, and is another draw of its randomness.

    Args:
        clips: Training clips; they know the epoch.
        groups: Group of each clip, for `balance`.
        seed: Seed of the order.
        balance: Draw labels evenly, and groups evenly within a label, with replacement.
        batch_size: Clips of an optimizer step over all processes and accumulation steps.
    """

    def __init__(
        self, clips: ClipDataset, *, groups: Sequence[str], seed: int, balance: bool, batch_size: int = 1
    ) -> None:
        self.clips, self.seed, self.batch_size = clips, seed, batch_size
        self.weights = _even_weights(clips.labels, groups) if balance else None

    def __len__(self) -> int:
        return math.ceil(len(self.clips) / self.batch_size) * self.batch_size

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.clips.epoch])
        num_clips = len(self.clips)
        if self.weights is None:
            order = np.resize(rng.permutation(num_clips), len(self))
        else:
            order = rng.choice(num_clips, size=len(self), p=self.weights)
        draws: Counter[int] = Counter()
        for index in order.tolist():
            yield draws[index] * num_clips + index
            draws[index] += 1


def _even_weights(labels: Sequence[int], groups: Sequence[str]) -> np.ndarray:
    """Chance of each clip when labels, and groups within a label, are equally likely, shape (num_clips,)."""
    cells = Counter(zip(labels, groups, strict=True))
    groups_of_label = Counter(label for label, _ in cells)
    chances = [
        1 / (len(groups_of_label) * groups_of_label[label] * cells[label, group])
        for label, group in zip(labels, groups, strict=True)
    ]
    return np.array(chances) / np.sum(chances)
