"""Clips that turn out unreadable: each costs its place and no more, is counted, and too many end the run."""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import gather_object

from railsformer.data.clips import LOST_LABEL, ClipDataset, LostClip
from railsformer.data.video import VideoDecodeError

__all__ = ["LOST_CLIPS_FILE", "KeptPlaces", "LostClips"]

logger = logging.getLogger(__name__)

LOST_CLIPS_FILE = "lost_clips.json"
_NAMED = 10
_GOES_ON = {
    "training": "its batch goes on without it",
    "validation": "figures are those of the other videos",
}


class KeptPlaces(torch.utils.data.Dataset):
    """Clips as they are; one that cannot be read keeps its place, black, with LOST_LABEL and an entry `lost`.

    For clips of evaluation, which raise by themselves: whoever takes them from here leaves lost ones out of every
    figure, and says so.

    Args:
        clips: The clips.
    """

    def __init__(self, clips: ClipDataset) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """As `ClipDataset`, but for what cannot be read."""
        try:
            return self.clips[index]
        except (VideoDecodeError, FileNotFoundError) as error:
            clips = self.clips
            video_index = index % len(clips) if clips.augmentation else index // clips.num_clips
            reason = error.reason if isinstance(error, VideoDecodeError) else "no such video file"
            lost = LostClip(video_index, clips.file_of(video_index), reason)
        side = clips.pixels.crop_px
        crops = (clips.num_crops,) if clips.num_crops > 1 else ()
        pixel_values = torch.zeros(*crops, clips.sampling.num_frames, 3, side, side)
        return {"pixel_values": pixel_values, "labels": LOST_LABEL, "video_index": video_index, "lost": lost}


class LostClips:
    """The clips that a run could not read: each process keeps its own, an epoch's number is that of all.

    Args:
        clips_of_epoch: Clips that an epoch, or an evaluation, shows, over all processes.
        max_share: Share of them that may be lost.
        split: What they are lost from.
    """

    def __init__(
        self, *, clips_of_epoch: int, max_share: float, split: Literal["training", "validation"] = "training"
    ) -> None:
        self.clips_of_epoch, self.max_share, self.split = clips_of_epoch, max_share, split
        self.epoch, self.num_of_epoch = -1, 0
        self._counts: dict[str, int] = {}
        self._reasons: dict[str, str] = {}

    def add(self, lost: Iterable[LostClip]) -> None:
        """Count clips that this process lost; a file is told the first time."""
        for clip in lost:
            if clip.file not in self._reasons:
                logger.warning("%s: lost from %s (%s); %s", clip.file, self.split, clip.reason, _GOES_ON[self.split])
            self._counts[clip.file] = self._counts.get(clip.file, 0) + 1
            self._reasons[clip.file] = clip.reason

    def count(self, num_lost: int, *, epoch: int) -> bool:
        """Count what all processes lost in one step, and say whether that is more than the epoch may lose."""
        if epoch != self.epoch:
            self.epoch, self.num_of_epoch = epoch, 0
        self.num_of_epoch += num_lost
        return self.num_of_epoch > self.max_share * self.clips_of_epoch

    def gathered(self) -> list[dict[str, Any]]:
        """Files, most often lost first, over all processes: `file`, `count`, `reason`. Every process must call it."""
        counts: dict[str, int] = {}
        reasons: dict[str, str] = {}
        for file, count, reason in gather_object([(file, n, self._reasons[file]) for file, n in self._counts.items()]):
            counts[file] = counts.get(file, 0) + count
            reasons[file] = reason
        ordered = sorted(counts, key=lambda file: (-counts[file], file))
        return [{"file": file, "count": counts[file], "reason": reasons[file]} for file in ordered]

    def refusal(self, run_dir: Path, *, what: str, is_main_process: bool) -> ValueError:
        """What ends a run that lost too much; the whole list goes into the run folder. Every process must call it.

        Args:
            run_dir: The run folder.
            what: What was counted, such as `clips of epoch 3`.
            is_main_process: Whether this process writes.
        """
        files = self.gathered()
        if is_main_process:
            text = json.dumps(files, indent=2, ensure_ascii=False)
            (run_dir / LOST_CLIPS_FILE).write_text(text + "\n", encoding="utf-8")
        named = [f"{entry['file']} ({entry['count']}x: {entry['reason']})" for entry in files[:_NAMED]]
        more = [f"and {len(files) - _NAMED} more"] if len(files) > _NAMED else []
        too_many = self.num_of_epoch > self.max_share * self.clips_of_epoch
        limit = f"more than max_lost_share {self.max_share:g}" if too_many else "and none is left"
        return ValueError(
            f"{self.num_of_epoch} of the {self.clips_of_epoch} {what} could not be read, {limit}: "
            f"{', '.join([*named, *more])}; the list is in {run_dir / LOST_CLIPS_FILE}; repair "
            "these files, build the dataset again with --on_bad drop, or go on with --resume and a larger "
            "--max_lost_share"
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps. Every process must call it."""
        return {"epoch": self.epoch, "num_of_epoch": self.num_of_epoch, "files": self.gathered()}

    def restore(self, state: Mapping[str, Any], *, is_main_process: bool) -> None:
        """Go on from a checkpoint: the first process takes over the counts, all of them know the files."""
        self.epoch, self.num_of_epoch = int(state["epoch"]), int(state["num_of_epoch"])
        self._reasons = {entry["file"]: entry["reason"] for entry in state["files"]}
        self._counts = {entry["file"]: entry["count"] for entry in state["files"]} if is_main_process else {}
