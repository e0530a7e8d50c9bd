"""A split and its scores: what every part of the report is computed from."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from railsformer.data.analysis.measure import read_pictures
from railsformer.data.clips import FrameOrder, VideoDataset
from railsformer.data.video import VideoDecodeError
from railsformer.evaluation.operating_points import ScoredSplit
from railsformer.evaluation.report_pages.contact_sheet import Frames
from railsformer.evaluation.report_pages.predictions import Predictions
from railsformer.evaluation.slices import durations_of, video_columns
from railsformer.evaluation.views import VideoScores

__all__ = ["MeasuredSplit", "video_names"]

_FRAMES_OF_MISTAKE = 4
_FRAME_SHORT_SIDE_PX = 240
_UNKNOWN_RECORDINGS = "recordings unknown"  # as `describe_split` says it where every file is a group of its own


class MeasuredSplit:
    """One row a video, in the order of the split.

    Attributes:
        name: Of the split.
        rows: The split.
        label_names: Labels of the model.
        scores: With references as indices into `label_names`.
    """

    def __init__(
        self,
        name: str,
        dataset: VideoDataset,
        *,
        scores: VideoScores,
        label_names: Sequence[str],
        frame_order: FrameOrder = "forwards",
    ) -> None:
        self.name = name
        self.dataset = dataset
        self.rows: datasets.Dataset = dataset.split(name)
        self.label_names = list(label_names)
        order = np.array([self.label_names.index(label) for label in dataset.labels])
        self.scores = VideoScores(
            scores.probabilities,
            order[scores.references],
            unread=scores.unread,
            light=scores.light,
            motion=scores.motion if frame_order == "forwards" else None,
        )

    def check_read(self) -> None:
        """Refuse a split of which too little could be read to say anything about it.

        Raises:
            ValueError: If more than half of the videos could not be read.
        """
        unread = self.scores.unread
        if 2 * len(unread) > len(self.rows):
            raise ValueError(
                f"{len(unread)} of the {len(self.rows)} videos of split {self.name!r} of {self.dataset.name} cannot "
                f"be read, more than half (first {unread[0].file}: {unread[0].reason}); put them back or build the "
                "dataset again"
            )

    @cached_property
    def is_read(self) -> np.ndarray:
        """Whether each video has a score, shape (num_videos,)."""
        return self.scores.is_read

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Of the videos that were read, before the temperature, shape (num_read, num_labels)."""
        return self.scores.probabilities[self.is_read]

    @cached_property
    def references(self) -> np.ndarray:
        """Of the videos that were read, shape (num_read,)."""
        return self.scores.references[self.is_read]

    @cached_property
    def groups(self) -> list[str] | None:
        """Camera or recording of each video that was read; None where nobody knows."""
        if "group" not in self.rows.column_names or _UNKNOWN_RECORDINGS in self.dataset.split_kind:
            return None
        return [str(group) for group in self.of_read(self.rows["group"])]

    @cached_property
    def videos(self) -> list[str]:
        """File name of each video; its number where it has none."""
        return video_names(self.rows)

    @cached_property
    def files(self) -> list[str]:
        """Where each video lies below the dataset's folder."""
        home = Path(self.dataset.name).resolve()
        paths = [Path(video["path"] or "") for video in self.rows["video"]]
        return [str(path.relative_to(home)) if path.is_relative_to(home) else path.name for path in paths]

    @cached_property
    def durations_seconds(self) -> np.ndarray:
        """Length of each video, NaN where unknown, shape (num_videos,)."""
        return np.array(durations_of(self.rows, is_read=self.is_read))

    @cached_property
    def columns(self) -> dict[str, list[Any]]:
        """Metadata and what was measured, one value a video."""
        return video_columns(
            self.rows, self.scores, durations_seconds=self.durations_seconds, dataset=self.dataset.name
        )

    def of_read(self, values: Sequence[Any]) -> list[Any]:
        """The values of the videos that were read."""
        return [value for value, read in zip(values, self.is_read, strict=True) if read]

    def scored(self, probabilities: np.ndarray) -> ScoredSplit:
        """The videos that were read, with these scores, shape (num_read, num_labels)."""
        return ScoredSplit(probabilities, self.references, self.durations_seconds[self.is_read], self.groups)

    def unread(self) -> list[dict[str, str]]:
        """Entries of metrics.json."""
        return [
            {"video": self.videos[one.video_index], "reason_class": one.reason_class, "reason": one.reason}
            for one in self.scores.unread
        ]

    def predictions(self) -> Predictions:
        """What predictions.csv holds."""
        return Predictions(
            self.label_names, self.videos, self.scores.references, self.scores.probabilities, self.columns
        )

    def frames(self, row: int) -> Frames | None:
        """Some pictures of a video, small, with their times in its source; None where they cannot be read."""
        duration = self.durations_seconds[row]
        times = (np.arange(_FRAMES_OF_MISTAKE) + 0.5) / _FRAMES_OF_MISTAKE * (0.0 if np.isnan(duration) else duration)
        try:
            pictures = read_pictures(self.rows, row, times)
        except (VideoDecodeError, FileNotFoundError):
            return None
        start = self.columns.get("start_seconds", [0.0] * len(self.rows))[row] or 0.0
        return Frames(times + start, np.stack([_small(picture) for picture in pictures]))


def video_names(rows: datasets.Dataset) -> list[str]:
    """File name of each video; its number where it has none."""
    names = [Path(video["path"] or "").name for video in rows["video"]]
    return [name or f"row {index}" for index, name in enumerate(names)]


def _small(picture: np.ndarray) -> np.ndarray:
    image = Image.fromarray(picture)
    scale = _FRAME_SHORT_SIDE_PX / min(image.size)
    if scale >= 1:
        return picture
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))
