"""Views of a video to one score a video."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from tqdm.auto import tqdm

from railsformer.data.clips import ClipDataset, collate_clips
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

__all__ = ["VideoScores", "ViewAverage", "best_device", "score_videos"]

# What is averaged over the views of a video: softmax scores, or logits whose mean then goes through softmax.
ViewAverage = Literal["probabilities", "logits"]


def best_device() -> torch.device:
    """The accelerator of this machine, or its CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


@dataclass(frozen=True)
class VideoScores:
    """One row a video.

    Args:
        probabilities: One score a class from all views, each row of sum 1, shape (num_videos, num_labels).
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
    average: ViewAverage = "probabilities",
    progress: bool = False,
) -> VideoScores:
    """Score every video of a split once, whatever the number of views (clips x crops).

    Args:
        model: In evaluation mode or not; it is scored in evaluation mode.
        clips: Evaluation clips, `clips.num_clips` a video and `clips.num_crops` views a clip.
        batch_size: Most views of a forward pass.
        num_workers: Processes that decode.
        average: What is averaged over the views of a video.
        progress: Show a bar.

    Returns:
        Scores in the order of the rows.

    Raises:
        ValueError: If batch_size or num_workers are out of range, average is unknown, or scores are not numbers.
        VideoDecodeError: If a video cannot be read.
    """
    if batch_size < 1 or num_workers < 0:
        raise ValueError(
            f"batch_size must be at least 1 and num_workers at least 0, got batch_size {batch_size} and "
            f"num_workers {num_workers}"
        )
    if average not in get_args(ViewAverage):
        raise ValueError(f"average must be one of {', '.join(get_args(ViewAverage))}, got {average!r}")
    was_training, device = model.training, model.device
    model.eval()
    loader = torch.utils.data.DataLoader(
        clips,
        batch_size=max(1, batch_size // clips.num_crops),
        num_workers=num_workers,
        collate_fn=collate_clips,
    )
    try:
        logits = [
            model(pixel_values=views.to(device, model.dtype)).logits.float().cpu()
            for batch in tqdm(loader, desc="scoring", unit="batch", disable=not progress, leave=False)
            for views in _views(batch["pixel_values"], num_crops=clips.num_crops).split(batch_size)
        ]
    finally:
        model.train(was_training)
    views = torch.cat(logits).unflatten(0, (len(clips.rows), clips.num_clips * clips.num_crops))
    if average == "logits":
        scores = views.double().mean(dim=1).softmax(dim=-1)
    else:
        scores = views.softmax(dim=-1).double().mean(dim=1)
    if not torch.isfinite(scores).all():
        raise ValueError("the model's scores are not numbers (NaN): its weights are damaged or its training diverged")
    return VideoScores(probabilities=scores.numpy(), references=np.asarray(clips.labels))


def _views(pixel_values: torch.Tensor, *, num_crops: int) -> torch.Tensor:
    """The crops of a batch of clips one after the other, shape (B * num_crops, T, 3, y, x)."""
    return pixel_values if num_crops == 1 else pixel_values.flatten(0, 1)  # b c t ... -> (b c) t ...
