"""The training loss: class weights, focal loss, label smoothing and mixed labels, exact at any number of processes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from railsformer.data.clips import LOST_LABEL

__all__ = ["ClipLoss", "effective_number_weights"]


def effective_number_weights(
    labels: Sequence[int], *, num_labels: int, beta: float = 0.999, drawn_evenly: bool = False
) -> np.ndarray:
    """Weight of each class by the effective number of its clips (Cui et al. 2019, arXiv 1901.05555, equation 4).

    A class of n clips weighs (1 - beta) / (1 - beta ** n): all classes alike for beta 0, 1 / n as beta goes to 1. The
    weights are scaled so that they are 1 on average over the clips that training shows, which leaves the learning
    rate its meaning.

    Args:
        labels: Class index of each clip of the training split, and of no other.
        num_labels: Number of classes.
        beta: In [0, 1).
        drawn_evenly: Whether clips are drawn so that classes come up equally often.

    Returns:
        Weights, shape (num_labels,); 0 for a class without training clips.

    Raises:
        ValueError: If beta is not in [0, 1), or there are no labels.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"effective_number_beta must be at least 0 and below 1, got {beta}")
    if not len(labels):
        raise ValueError("labels must hold at least one training clip, got none")
    counts = np.bincount(np.asarray(labels), minlength=num_labels)
    present = counts > 0
    # 1 - beta ** n, also where beta is so near to 1 that the difference would be rounded away
    effective = -np.expm1(counts * np.log(beta)) if beta > 0 else np.ones(num_labels)
    weights = np.where(present, (1 - beta) / np.where(present, effective, 1.0), 0.0)
    shares = present / present.sum() if drawn_evenly else counts / counts.sum()
    return weights / (weights @ shares)


@dataclass(frozen=True)
class ClipLoss:
    """Mean over the clips of an optimizer step of w_i * loss_i, exact over processes and accumulation steps.

    The sum is divided by the number of clips, never by the sum of their weights. Each process knows the number of all
    clips of the step, so its share of the mean is exact; where it does not, all hold equally many, and the mean of
    their means is exact too. Quotients by weights that were summed up batch by batch would differ between processes,
    and their mean would be no quotient of the whole. A clip under LOST_LABEL could not be read and counts for nothing.

    With q the wanted distribution over classes and p the model's, a clip's loss is the sum over classes c of
    -q_c (1 - p_c) ** focal_gamma log p_c: cross-entropy for focal_gamma 0, focal loss (Lin et al. 2017,
    arXiv 1708.02002) for one label. A mixed clip's q is mix * q(label) + (1 - mix) * q(partner's label), each with
    the weight of its own class (Zhang et al. 2018, arXiv 1710.09412).

    Args:
        class_weights: Weight of each class; None for 1 everywhere.
        focal_gamma: 0 or more; 0 turns it off.
        label_smoothing: Share of q that is spread over all classes, in [0, 1).

    Raises:
        ValueError: If a number is out of range.
    """

    class_weights: tuple[float, ...] | None = None
    focal_gamma: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no loss."""
        if not 0 <= self.focal_gamma < float("inf"):
            raise ValueError(f"focal_gamma must be at least 0, got {self.focal_gamma}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing_factor must be at least 0 and below 1, got {self.label_smoothing}")

    def __call__(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        *,
        partner_labels: torch.Tensor | None = None,
        mix: torch.Tensor | None = None,
        num_clips: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The loss of a batch.

        Args:
            logits: Shape (B, num_labels).
            labels: Class indices, shape (B,); LOST_LABEL where the clip could not be read.
            partner_labels: Class indices of the clips that were mixed in, shape (B,).
            mix: Share of each clip's own picture, shape (B,), in [0, 1].
            num_clips: Clips of the whole optimizer step that could be read: then the result is this batch's share of
                their mean. None: the mean of this batch alone.
        """
        present = labels != LOST_LABEL
        logits = logits.float()
        wanted = self._wanted(labels, logits)
        if partner_labels is not None and mix is not None:
            share = mix.to(logits)[:, None]
            wanted = share * wanted + (1 - share) * self._wanted(partner_labels, logits)
        log_probabilities = F.log_softmax(logits, dim=-1)
        if self.focal_gamma:
            # 1 - p, exact where p is nearly 0; a power below 1 has no finite slope at 0
            rest = (-torch.expm1(log_probabilities)).clamp_min(torch.finfo(logits.dtype).eps)
            log_probabilities = rest**self.focal_gamma * log_probabilities
        losses = -(wanted * log_probabilities).sum(dim=-1)
        number = torch.as_tensor(present.sum() if num_clips is None else num_clips, device=logits.device)
        # A sum, so that a batch without a single clip gives 0 with a gradient of 0, and takes part with the others.
        return (losses * present).sum() / number.clamp(min=1)

    def _wanted(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The wanted distribution times the weight of the label, shape (B, num_labels)."""
        num_labels = logits.shape[-1]
        labels = labels.clamp(min=0)  # a lost clip's is left out later
        smoothed = F.one_hot(labels, num_labels).to(logits) * (1 - self.label_smoothing)
        smoothed = smoothed + self.label_smoothing / num_labels
        if self.class_weights is None:
            return smoothed
        return smoothed * logits.new_tensor(self.class_weights)[labels, None]
