"""Mixup for video: each training clip blended with another one of the dataset, in pixels and in labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from railsformer.data.clips import ClipDataset, collate_training_clips

__all__ = ["MixedClips", "collate_mixed_clips"]

# Keeps the draws below apart from those of the clip itself, which has the same seed, epoch and index.
_STREAM = 0x6D6978
# A partner is a further draw of its video, beyond any that the order reaches, so that it is cut and varied anew.
_FIRST_PARTNER_DRAW = 1_000_000


class MixedClips(torch.utils.data.Dataset):
    """Training clips, each mixed with a partner (Zhang et al. 2018, arXiv 1710.09412).

    Partner and share are a function of (seed, epoch, index) over the dataset. A partner taken from the batch would
    change with batch size and number of processes. One share holds for all frames of a clip, so that both
    movements stay whole.

    Args:
        clips: Training clips, with augmentation.
        alpha: Of Beta(alpha, alpha), from which the share of the clip itself is drawn; above 0.
        partner_chances: Chance of each clip to be a partner, shape (num_clips,); None for equal ones. Where the order
            draws labels evenly, partners should be drawn in the same way.

    Raises:
        ValueError: If alpha is not above 0, or the clips are evaluation clips.
    """

    def __init__(self, clips: ClipDataset, *, alpha: float, partner_chances: np.ndarray | None = None) -> None:
        if not 0 < alpha < float("inf"):
            raise ValueError(f"mixup_alpha must be above 0 to mix clips, got {alpha}")
        if not clips.augmentation:
            raise ValueError("only training clips are mixed, got clips without augmentation")
        self.clips, self.alpha, self.partner_chances = clips, alpha, partner_chances

    @property
    def labels(self) -> list[int]:
        """Class index of each clip, of its own label."""
        return self.clips.labels

    @property
    def epoch(self) -> int:
        """The epoch that clips are drawn for."""
        return self.clips.epoch

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next clips belong to."""
        self.clips.set_epoch(epoch)

    def file_of(self, video_index: int) -> str:
        """The file of a row, for messages."""
        return self.clips.file_of(video_index)

    def __len__(self) -> int:
        return len(self.clips)

    def partner(self, index: int) -> tuple[int, float]:
        """Index of the clip that is mixed into clip `index` in this epoch, and the share of clip `index` itself."""
        rng = np.random.default_rng([self.clips.seed, self.epoch, index, _STREAM])
        share = float(rng.beta(self.alpha, self.alpha))
        other = int(rng.choice(len(self), p=self.partner_chances))
        return other + len(self) * (_FIRST_PARTNER_DRAW + index), share

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A clip as of `ClipDataset`, its pixels mixed, with `partner_labels` and `mix`, the share of the clip itself.

        With `keep_lost` a clip whose partner cannot be read is lost with it.

        Raises:
            IndexError: If the index is negative.
            VideoDecodeError: If its video or its partner's cannot be read.
        """
        clip = self.clips[index]
        partner_index, share = self.partner(index)
        partner = self.clips[partner_index]
        lost = [each for each in (clip, partner) if "lost" in each]
        if lost:
            return {**lost[0], "video_index": clip["video_index"], "partner_labels": lost[0]["labels"], "mix": 1.0}
        pixel_values = torch.lerp(partner["pixel_values"], clip["pixel_values"], share)
        return {**clip, "pixel_values": pixel_values, "partner_labels": partner["labels"], "mix": share}


def collate_mixed_clips(clips: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """As `collate_training_clips`, with `partner_labels` (B,) and `mix` (B,)."""
    return {
        **collate_training_clips(clips),
        "partner_labels": torch.tensor([clip["partner_labels"] for clip in clips], dtype=torch.long),
        "mix": torch.tensor([clip["mix"] for clip in clips], dtype=torch.float32),
    }
