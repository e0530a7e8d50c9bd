"""Views of a video to one score a video, whatever the number of views, batches, workers and processes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from tqdm.auto import tqdm

from railsformer.data.clips import ClipDataset
from railsformer.data.video import VideoDecodeError
from railsformer.evaluation.processes import gather_values, this_process
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

__all__ = ["UnreadVideo", "VideoScores", "ViewAverage", "score_videos"]

# What is averaged over the views of a video: softmax scores, or logits whose mean then goes through softmax.
ViewAverage = Literal["probabilities", "logits"]

_LUMA = (0.299, 0.587, 0.114)
_EVERY_PX = 2  # of the pixels, in both directions, are looked at for light and motion


class UnreadVideo(NamedTuple):
    """A video that could not be read, and so has no score.

    Args:
        video_index: Its row.
        file: The file.
        reason_class: What kind of damage it is.
        reason: One sentence without a full stop.
    """

    video_index: int
    file: str
    reason_class: str
    reason: str


@dataclass(frozen=True)
class VideoScores:
    """One row a video.

    Args:
        probabilities: One score a class from all views, each row of sum 1, shape (num_videos, num_labels); NaN for a
            video that could not be read.
        references: True class indices of the dataset, shape (num_videos,).
        unread: Videos that could not be read, in the order of the rows.
        light: Mean grey level (0 to 255) of what the model saw of each video, shape (num_videos,).
        motion: Mean absolute difference, in grey levels, between a frame of a clip and the next one, shape
            (num_videos,).
    """

    probabilities: np.ndarray
    references: np.ndarray
    unread: tuple[UnreadVideo, ...] = ()
    light: np.ndarray | None = None
    motion: np.ndarray | None = None

    @property
    def is_read(self) -> np.ndarray:
        """Whether each video has a score, shape (num_videos,)."""
        return ~np.isnan(self.probabilities).any(axis=1)

    @property
    def predictions(self) -> np.ndarray:
        """The class with the highest score, -1 for a video that could not be read, shape (num_videos,)."""
        return np.where(self.is_read, self.probabilities.argmax(axis=1), -1)


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

    Processes of one launch share the batches out and all return the scores of all videos. A batch is the same
    whoever computes it, so but for a last bit the scores do not depend on how many processes there are. A video of
    which a clip cannot be read has no score at all: a mean over fewer views would be that of another protocol.

    Args:
        model: In evaluation mode or not; it is scored in evaluation mode.
        clips: Evaluation clips, `clips.num_clips` a video and `clips.num_crops` views a clip.
        batch_size: Most views of a forward pass.
        num_workers: Processes that decode, for each process of the launch.
        average: What is averaged over the views of a video.
        progress: Show a bar.

    Returns:
        Scores in the order of the rows.

    Raises:
        ValueError: If batch_size or num_workers are out of range, average is unknown, or scores are not numbers.
    """
    if batch_size < 1 or num_workers < 0:
        raise ValueError(
            f"batch_size must be at least 1 and num_workers at least 0, got batch_size {batch_size} and "
            f"num_workers {num_workers}"
        )
    if average not in get_args(ViewAverage):
        raise ValueError(f"average must be one of {', '.join(get_args(ViewAverage))}, got {average!r}")
    was_training = model.training
    model.eval()
    try:
        part = _score_clips(
            model, clips, batch_size=batch_size, num_workers=num_workers, average=average, progress=progress
        )
    finally:
        model.train(was_training)
    return _joined(gather_values(part), clips, average=average)


class _Part(NamedTuple):
    """What one process scored: B clips of its own.

    Args:
        indices: Of the clips.
        scores: Sum over the crops of a clip of what is averaged, float64, shape (B, num_labels).
        looks: Light and motion of each clip, shape (B, 2).
        unread: Clips that could not be read, by index.
    """

    indices: list[int]
    scores: np.ndarray
    looks: np.ndarray
    unread: dict[int, UnreadVideo]


class _ScoredClips(torch.utils.data.Dataset):
    """Clips with their light and motion, measured where the pictures are; one that cannot be read says so."""

    def __init__(self, clips: ClipDataset) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        video_index = index // self.clips.num_clips
        try:
            pixel_values = self.clips[index]["pixel_values"]
        except (VideoDecodeError, FileNotFoundError) as error:
            damage = (error.reason_class, error.reason) if isinstance(error, VideoDecodeError) else _MISSING
            return {"index": index, "unread": UnreadVideo(video_index, self.clips.file_of(video_index), *damage)}
        return {"index": index, "pixel_values": pixel_values, "looks": self._looks(pixel_values)}

    def _looks(self, pixel_values: torch.Tensor) -> tuple[float, float]:
        """Light and motion of a clip's centre crop; motion is NaN where a clip has one frame."""
        pixels = self.clips.pixels
        frames = pixel_values if pixel_values.ndim == 4 else pixel_values[len(pixel_values) // 2]
        planes = frames[..., ::_EVERY_PX, ::_EVERY_PX].numpy()  # NumPy: fewer and cheaper calls on such small arrays
        red, green, blue = (255 * weight * std for weight, std in zip(_LUMA, pixels.std, strict=True))
        grey = planes[:, 0] * red + planes[:, 1] * green + planes[:, 2] * blue
        level = 255 * sum(weight * mean for weight, mean in zip(_LUMA, pixels.mean, strict=True))
        motion = np.abs(np.diff(grey, axis=0)).mean() if len(grey) > 1 else np.nan
        return float(grey.mean()) + level, float(motion)


_MISSING = ("missing", "there is no such file; put it back")


def _collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack what could be read; `pixel_values` is None where nothing could."""
    read = [item for item in items if "unread" not in item]
    return {
        "indices": [item["index"] for item in read],
        "pixel_values": torch.utils.data.default_collate([item["pixel_values"] for item in read]) if read else None,
        "looks": [item["looks"] for item in read],
        "unread": {item["index"]: item["unread"] for item in items if "unread" in item},
    }


@torch.inference_mode()
def _score_clips(
    model: RailsformerForVideoClassification,
    clips: ClipDataset,
    *,
    batch_size: int,
    num_workers: int,
    average: ViewAverage,
    progress: bool,
) -> _Part:
    """Score the clips of this process: every so many-th batch of those that one process would make."""
    process, size = this_process(), max(1, batch_size // clips.num_crops)
    batches = [list(range(first, min(first + size, len(clips)))) for first in range(0, len(clips), size)]
    loader: torch.utils.data.DataLoader = torch.utils.data.DataLoader(
        _ScoredClips(clips),
        batch_sampler=batches[process.index :: process.count],
        num_workers=num_workers,
        collate_fn=_collate,
    )
    part = _Part([], np.empty(0), np.empty(0), {})
    scores, looks = [], []
    for batch in tqdm(loader, desc="scoring", unit="batch", disable=not (progress and process.is_main), leave=False):
        part.unread.update(batch["unread"])
        if batch["pixel_values"] is None:
            continue
        views = _views(batch["pixel_values"], num_crops=clips.num_crops).split(batch_size)
        logits = torch.cat([_logits(model, few) for few in views])
        each = logits.double() if average == "logits" else logits.softmax(dim=-1).double()
        scores.append(each.unflatten(0, (-1, clips.num_crops)).sum(dim=1).numpy())
        looks += batch["looks"]
        part.indices.extend(batch["indices"])
    num_labels = model.config.num_labels
    return part._replace(
        scores=np.concatenate(scores) if scores else np.empty((0, num_labels)),
        looks=np.array(looks, dtype=np.float64).reshape(-1, 2),
    )


def _logits(model: RailsformerForVideoClassification, views: torch.Tensor) -> torch.Tensor:
    return model(pixel_values=views.to(model.device, model.dtype)).logits.float().cpu()


def _views(pixel_values: torch.Tensor, *, num_crops: int) -> torch.Tensor:
    """The crops of a batch of clips one after the other, shape (B * num_crops, T, 3, y, x)."""
    return pixel_values if num_crops == 1 else pixel_values.flatten(0, 1)  # b c t ... -> (b c) t ...


def _joined(parts: Sequence[_Part], clips: ClipDataset, *, average: ViewAverage) -> VideoScores:
    """The clips of all processes in the order of the rows, averaged over each video."""
    num_videos, num_views = len(clips.rows), clips.num_clips * clips.num_crops
    scores = np.full((len(clips), parts[0].scores.shape[1]), np.nan)
    looks = np.full((len(clips), 2), np.nan)
    for part in parts:
        if not np.isfinite(part.scores).all():
            raise ValueError(
                "the model's scores are not numbers (NaN): its weights are damaged or its training diverged; copy its "
                "folder again, or train it with a lower learning_rate"
            )
        scores[part.indices], looks[part.indices] = part.scores, part.looks
    lost = {index: one for part in parts for index, one in part.unread.items()}
    unread = {lost[index].video_index: lost[index] for index in sorted(lost, reverse=True)}  # its first clip tells
    means = scores.reshape(num_videos, clips.num_clips, -1).sum(axis=1) / num_views
    if average == "logits":
        means = torch.from_numpy(means).softmax(dim=-1).numpy()
    light, motion = looks.reshape(num_videos, clips.num_clips, 2).mean(axis=1).T
    return VideoScores(
        probabilities=means,
        references=np.asarray(clips.labels),
        unread=tuple(unread[index] for index in sorted(unread)),
        light=light,
        motion=motion,
    )
