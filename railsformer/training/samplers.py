"""In which order training shows its clips: a function of (seed, epoch), so that processes and resumed runs agree."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

__all__ = ["EpochSampler", "even_chances"]


class _Clips(Protocol):
    """What the order needs to know of the clips."""

    @property
    def labels(self) -> list[int]: ...

    @property
    def epoch(self) -> int: ...

    def __len__(self) -> int: ...


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
        repeats: Draws of a clip that follow each other, all within one such batch (repeated augmentation, Hoffer et
            al. 2020, arXiv 1901.09335); an epoch is as many times longer.

    Raises:
        ValueError: If repeats is below 1 or does not divide batch_size.
    """

    def __init__(
        self,
        clips: _Clips,
        *,
        groups: Sequence[str],
        seed: int,
        balance: bool,
        batch_size: int = 1,
        repeats: int = 1,
    ) -> None:
        if repeats < 1 or batch_size % repeats:
            raise ValueError(
                f"repeated_augmentation must divide the {batch_size} clips of an optimizer step (batch size x "
                f"processes x accumulation steps), so that a clip's draws stay together, got {repeats}"
            )
        self.clips, self.seed, self.batch_size, self.repeats = clips, seed, batch_size, repeats
        self.chances = even_chances(clips.labels, groups) if balance else None

    def __len__(self) -> int:
        return math.ceil(len(self.clips) * self.repeats / self.batch_size) * self.batch_size

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.clips.epoch])
        num_clips, num_chosen = len(self.clips), len(self) // self.repeats
        if self.chances is None:
            order = np.resize(rng.permutation(num_clips), num_chosen)
        else:
            order = rng.choice(num_clips, size=num_chosen, p=self.chances)
        draws: Counter[int] = Counter()
        for index in order.repeat(self.repeats).tolist():
            yield draws[index] * num_clips + index
            draws[index] += 1


def even_chances(labels: Sequence[int], groups: Sequence[str]) -> np.ndarray:
    """Chance of each clip when labels, and groups within a label, are equally likely, shape (num_clips,)."""
    cells = Counter(zip(labels, groups, strict=True))
    groups_of_label = Counter(label for label, _ in cells)
    chances = [
        1 / (len(groups_of_label) * groups_of_label[label] * cells[label, group])
        for label, group in zip(labels, groups, strict=True)
    ]
    return np.array(chances) / np.sum(chances)
