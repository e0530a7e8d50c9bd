"""Dataset rows to model inputs."""

import hashlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import datasets
import numpy as np
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from railsformer.data.dataset_folder import check_dataset_folder, check_seconds, metadata_files, read_dataset_facts
from railsformer.data.probe import probe_video
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import (
    PixelSettings,
    TrainingAugmentation,
    evaluation_crops,
    evaluation_pixels,
    training_pixels,
)
from railsformer.data.video import VideoDecodeError, read_frames

__all__ = [
    "LOST_LABEL",
    "ClipDataset",
    "FrameOrder",
    "LostClip",
    "VideoDataset",
    "collate_clips",
    "collate_training_clips",
    "load_video_dataset",
    "video_file",
]

# How the frames of a clip are shown: as they are, the middle one in every place (no motion at all), in a random order
# (motion without its course), or from the last to the first (its course turned round).
FrameOrder = Literal["forwards", "middle", "shuffled", "reversed"]
# The label of a clip that could not be read: losses leave it out, as torch's do with this number.
LOST_LABEL = -100

logger = logging.getLogger(__name__)

_TIME_COLUMNS = ("start_seconds", "end_seconds")


@dataclass(frozen=True)
class VideoDataset:
    """A dataset that `railsformer build` wrote, or any Hub repository of that layout.

    Args:
        name: Folder or Hub id.
        splits: Rows by split, videos undecoded.
        labels: Label names in the order of their indices.
        fingerprint: Of videos, labels, groups and splits; empty where the repository states none.
        split_kind: What keeps the splits apart.
    """

    name: str
    splits: Mapping[str, datasets.Dataset]
    labels: tuple[str, ...]
    fingerprint: str
    split_kind: str

    def split(self, name: str) -> datasets.Dataset:
        """Rows of one split.

        Raises:
            ValueError: If there is no such split, or it holds nothing.
        """
        if name not in self.splits:
            raise ValueError(f"{self.name} has no split {name!r}; it has {', '.join(self.splits)}")
        if len(self.splits[name]) == 0:
            raise ValueError(f"split {name!r} of {self.name} holds no video")
        return self.splits[name]


def load_video_dataset(name: str | Path) -> VideoDataset:
    """Load a dataset folder or Hub repository without decoding anything.

    Args:
        name: Folder that `railsformer build` wrote, or a Hub id of that layout.

    Raises:
        FileNotFoundError: If the folder, or a part or video of it, is not there.
        ValueError: If it is damaged, or has no `video` and `label` columns.
    """
    folder = Path(name)
    if folder.exists() or str(name).startswith((".", "/", "~")) or str(name).count("/") != 1:
        check_dataset_folder(folder)
    splits = _load_splits(name)
    facts = _dataset_facts(name)
    copies = facts.get("copies_on_several_sides")
    if isinstance(copies, int) and copies > 0:
        logger.warning("%s: %d video(s) have an exact copy in another split; figures on it are too good", name, copies)
    return VideoDataset(
        name=str(name),
        splits=splits,
        labels=tuple(next(iter(splits.values())).features["label"].names),
        fingerprint=str(facts.get("fingerprint", "")),
        split_kind=str(facts.get("split_kind", "unknown")),
    )


def _load_splits(name: str | Path) -> dict[str, datasets.Dataset]:
    """The rows of all splits with undecoded videos, labels and times checked."""
    try:
        loaded = datasets.load_dataset(str(name), cache_dir=_cache_dir(Path(name)))
    except (datasets.exceptions.DatasetNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{name}: neither a folder nor a dataset on the Hub ({' '.join(str(error).split())}); "
            f"`railsformer build SOURCE --output_dir {name}` makes one"
        ) from error
    except (datasets.exceptions.DatasetsError, ValueError, TypeError) as error:
        cause: BaseException = error
        while cause.__cause__ or cause.__context__:
            cause = cause.__cause__ or cause.__context__ or cause
        raise ValueError(
            f"{name}: the dataset is damaged ({' '.join(str(cause).split())}); build it again with `railsformer build`"
        ) from error
    for split, rows in loaded.items():
        missing = {"video", "label"} - set(rows.column_names)
        if missing or not isinstance(rows.features["label"], datasets.ClassLabel):
            raise ValueError(
                f"{name}: split {split!r} must have a video column and a label column with names, got "
                f"{rows.features}; `railsformer build` writes such a dataset"
            )
        times = [column for column in _TIME_COLUMNS if column in rows.column_names]
        for index, row in enumerate(rows.select_columns(times).to_list() if times else ()):
            check_seconds(row, f"{name}, row {index} of split {split!r}")
    return {split: rows.cast_column("video", datasets.Video(decode=False)) for split, rows in loaded.items()}


def _cache_dir(folder: Path) -> str | None:
    """A cache of its own for each state of each local folder; None, the usual one, for the Hub.

    `datasets` keys its cache by the card and the folder's last name alone, so that a dataset which was moved, or whose
    metadata was corrected by hand, would be read as it was before.
    """
    if not folder.is_dir():
        return None
    key = hashlib.sha256(str(folder.resolve()).encode())
    for path in (folder / "README.md", folder / "dataset.json", *metadata_files(folder)):
        if path.is_file():
            facts = path.stat()
            key.update(f"\n{path.relative_to(folder)} {facts.st_mtime_ns} {facts.st_size}".encode())
    return str(Path(datasets.config.HF_DATASETS_CACHE) / "railsformer" / key.hexdigest()[:16])


def _dataset_facts(name: str | Path) -> dict[str, Any]:
    """dataset.json of a folder or Hub repository; empty where there is none."""
    if Path(name).is_dir():
        return read_dataset_facts(Path(name) / "dataset.json")
    try:
        return read_dataset_facts(Path(hf_hub_download(str(name), "dataset.json", repo_type="dataset")))
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return {}


class LostClip(NamedTuple):
    """A training clip that could not be read.

    Args:
        video_index: Row of its video.
        file: The file.
        reason: What is wrong with it.
    """

    video_index: int
    file: str
    reason: str


class ClipDataset(torch.utils.data.Dataset):
    """Clips of one split, decoded on demand.

    In training each clip's randomness is a function of (seed, epoch, index) alone, so that workers, processes and
    resumed runs agree. A training index at or above the length means a further draw of the same video, so that a
    sampler which draws with replacement gets another clip each time.

    Args:
        rows: Rows with an undecoded `video`, `label`, and where known `start_seconds` and `end_seconds`.
        sampling: How clips are cut from time.
        pixels: The model's input.
        augmentation: What training varies; None gives evaluation clips.
        seed: Seed of the training randomness, and of shuffled frames.
        num_clips: Evaluation clips a video; their order is all clips of the first video, then of the second.
        num_crops: Crops of an evaluation clip: 1, the centre, or 3 along the long side. One index is one clip with all
            of its crops, so that it is decoded once.
        frame_order: How the frames of an evaluation clip are shown. `shuffled` draws an order from (seed, index),
            never the one they have; the crops of a clip share it.
        keep_lost: A training clip that cannot be read keeps its place, black, with LOST_LABEL and an entry `lost` (a
            `LostClip`): it costs itself and not the run. Evaluation always raises: it drops no video in silence.

    Raises:
        ValueError: If num_clips < 1, or num_crops is neither 1 nor 3, or lost clips are to be kept in evaluation.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        *,
        sampling: ClipSampling,
        pixels: PixelSettings,
        augmentation: TrainingAugmentation | None = None,
        seed: int = 0,
        num_clips: int = 1,
        num_crops: int = 1,
        frame_order: FrameOrder = "forwards",
        keep_lost: bool = False,
    ) -> None:
        if num_clips < 1:
            raise ValueError(f"num_clips must be at least 1, got {num_clips}")
        if num_crops not in (1, 3):
            raise ValueError(f"num_crops must be 1 or 3, got {num_crops}")
        if keep_lost and augmentation is None:
            raise ValueError("keep_lost is for training clips; evaluation names a video that it cannot read")
        self.rows = rows
        self.labels: list[int] = list(rows["label"])
        self.sampling = sampling
        self.pixels = pixels
        self.augmentation = augmentation
        self.seed = seed
        self.num_clips = 1 if augmentation else num_clips
        self.num_crops = 1 if augmentation else num_crops
        self.frame_order = frame_order
        self.keep_lost = keep_lost
        # Shared memory: workers that live longer than an epoch see it move on.
        self._epoch = torch.zeros(1, dtype=torch.long).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next clips belong to."""
        self._epoch[0] = epoch

    @property
    def epoch(self) -> int:
        """The epoch that clips are drawn for."""
        return int(self._epoch[0])

    def __len__(self) -> int:
        return len(self.rows) * self.num_clips

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Each clip once; training indices alone would never end."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One clip: `pixel_values`, `labels`, and `video_index`, the row it comes from.

        `pixel_values` is (T, 3, y, x), or (num_crops, T, 3, y, x) where there are several crops.

        Raises:
            IndexError: If the index is negative, or there is no such evaluation clip.
            FileNotFoundError: If the video is gone.
            VideoDecodeError: If the video cannot be read; it is never replaced by another one.
        """
        if index < 0 or (index >= len(self) and not self.augmentation):
            raise IndexError(f"index must be from 0 to {len(self) - 1}, got {index}")
        if self.augmentation:
            clip = 0
            draw, video_index = divmod(index, len(self.rows))
        else:
            draw = 0
            video_index, clip = divmod(index, self.num_clips)
        row = self.rows[video_index]
        try:
            pixel_values = self._pixels(row, video_index, clip, draw)
        except (VideoDecodeError, FileNotFoundError) as error:
            if not self.keep_lost:
                raise
            return self._lost(row, video_index, error)
        return {"pixel_values": pixel_values, "labels": row["label"], "video_index": video_index}

    def file_of(self, video_index: int) -> str:
        """The file of a row, for messages."""
        return _file_name(self.rows[video_index]["video"], index=video_index)

    def _pixels(self, row: Mapping[str, Any], video_index: int, clip: int, draw: int) -> torch.Tensor:
        rng = np.random.default_rng([self.seed, self.epoch, video_index, draw])
        with video_file(row["video"], index=video_index) as path:
            frames = read_frames(path, self._times(row, path, clip, rng))
        if self.augmentation:
            return training_pixels(frames, self.pixels, self.augmentation, rng)
        if self.frame_order != "forwards":
            frames = frames[self._order(len(frames), video_index * self.num_clips + clip)]
        pixels_of = evaluation_pixels if self.num_crops == 1 else evaluation_crops
        return pixels_of(frames, self.pixels)

    def _order(self, num_frames: int, index: int) -> np.ndarray:
        """Which frame of a clip stands in each place, shape (num_frames,)."""
        order = np.arange(num_frames)
        if self.frame_order == "middle":
            return np.full(num_frames, num_frames // 2)
        if self.frame_order == "reversed":
            return order[::-1]
        rng, drawn = np.random.default_rng([self.seed, index]), order
        while num_frames > 1 and np.array_equal(drawn, order):
            drawn = rng.permutation(num_frames)
        return drawn

    def _lost(self, row: Mapping[str, Any], video_index: int, error: Exception) -> dict[str, Any]:
        """The place of a clip that cannot be read."""
        side = self.pixels.crop_px
        lost = LostClip(
            video_index=video_index,
            file=_file_name(row["video"], index=video_index),
            reason=error.reason if isinstance(error, VideoDecodeError) else "no such video file",
        )
        pixel_values = torch.zeros(self.sampling.num_frames, 3, side, side)
        return {"pixel_values": pixel_values, "labels": LOST_LABEL, "video_index": video_index, "lost": lost}

    def _times(self, row: Mapping[str, Any], path: Path, clip: int, rng: np.random.Generator) -> np.ndarray:
        """Instants of a clip. A segment is a file of its own, so they count from the file's first picture."""
        if row.get("end_seconds") is None:
            duration = probe_video(path, thorough=False).duration_seconds
        else:
            duration = float(row["end_seconds"]) - float(row.get("start_seconds") or 0.0)
        if self.augmentation:
            return self.sampling.training_times(0.0, duration, rng)
        return self.sampling.evaluation_times(0.0, duration, num_clips=self.num_clips)[clip]


@contextmanager
def video_file(video: Mapping[str, Any], *, index: int) -> Iterator[Path]:
    """The file of an undecoded `Video`; where the row holds its bytes, a temporary file named after it in errors."""
    if video.get("bytes") is None:
        yield Path(video["path"])
        return
    with tempfile.NamedTemporaryFile(suffix=Path(video.get("path") or "").suffix) as file:
        file.write(video["bytes"])
        file.flush()
        try:
            yield Path(file.name)
        except VideoDecodeError as error:
            raise VideoDecodeError(_file_name(video, index=index), error.reason, error.reason_class) from error


def _file_name(video: Mapping[str, Any], *, index: int) -> str:
    return str(video.get("path") or f"video of row {index}")


def collate_clips(clips: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack clips to `pixel_values` (B, T, 3, y, x), or (B, num_crops, T, 3, y, x), and `labels` (B,)."""
    return {
        # In a worker this stacks straight into shared memory: no second copy, and no holes in the worker's heap.
        "pixel_values": torch.utils.data.default_collate([clip["pixel_values"] for clip in clips]),
        "labels": torch.tensor([clip["labels"] for clip in clips], dtype=torch.long),
    }


def collate_training_clips(clips: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """As `collate_clips`, with `video_index` (a list, one a clip) and `lost` (a list of `LostClip`).

    A lost clip keeps its place under LOST_LABEL: batches keep their shape, and a process whose every clip is lost
    still takes part in what processes do together.
    """
    return {
        **collate_clips(clips),
        "video_index": [clip["video_index"] for clip in clips],
        "lost": [clip["lost"] for clip in clips if "lost" in clip],
    }
