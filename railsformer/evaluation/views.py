"""Views of a video to one score a video."""

from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from railsformer.data.clips import ClipDataset, collate_clips
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

__all__ = ["VideoScores", "best_device", "score_videos"]


def best_device() -> torch.device:
    """The accelerator of this machine, or its CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


@dataclass(frozen=True)
class VideoScores:
    """One row a video.

    Args:
        probabilities: Softmax averaged over the views, shape (num_videos, num_labels).
        references: True class indices of the dataset, shape (num_videos,).
    """

    probabilities: np.ndarray
    references: np.ndarray

    @property
    def predictions(self) -> np.ndarray:
        """The class with the highest score, shape (num_videos,)."""
        return self.probabilities.argmax(axis=1)


@torch.inference_mode()
def score_videos(
    model: RailsformerForVideoClassification,
    clips: ClipDataset,
    *,
    batch_size: int = 8,
    num_workers: int = 0,
    progress: bool = False,
) -> VideoScores:
    """Score every video of a split once, whatever the number of views.

    Args:
        model: In evaluation mode or not; it is scored in evaluation mode.
        clips: Evaluation clips, `clips.num_clips` a video.
        batch_size: Clips a forward pass.
        num_workers: Processes that decode.
        progress: Show a bar.

    Returns:
        Scores in the order of the rows.

    Raises:
        ValueError: If batch_size or num_workers are out of range, or scores are not numbers.
        VideoDecodeError: If a video cannot be read.
    """
    if batch_size < 1 or num_workers < 0:
        raise ValueError(
            f"batch_size must be at least 1 and num_workers at least 0, got batch_size {batch_size} and "
            f"num_workers {num_workers}"
        )
    was_training, device = model.training, model.device
    model.eval()
    loader = torch.utils.data.DataLoader(
        clips,
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=collate_clips,
    )
    try:
        batches = [
            model(pixel_values=batch["pixel_values"].to(device, model.dtype)).logits.float().softmax(dim=-1).cpu()
            for batch in tqdm(loader, desc="scoring", unit="batch", disable=not progress, leave=False)
        ]
    finally:
        model.train(was_training)
    scores = torch.cat(batches).double()
    if not torch.isfinite(scores).all():
        raise ValueError("the model's scores are not numbers (NaN): its weights are damaged or its training diverged")
    views = scores.unflatten(0, (len(clips.rows), clips.num_clips))
    return VideoScores(probabilities=views.mean(dim=1).numpy(), references=np.asarray(clips.labels))
