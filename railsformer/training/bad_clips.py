"""Training clips that turn out unreadable: each costs its place in the batch, is counted, and too many end the run."""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from railsformer.data.clips import LostClip

__all__ = ["LOST_CLIPS_FILE", "LostClips"]

logger = logging.getLogger(__name__)

LOST_CLIPS_FILE = "lost_clips.json"
_NAMED = 10


class LostClips:
    """The clips that a run could not read: each process keeps its own, an epoch's number is that of all.

    Args:
        clips_of_epoch: Clips that an epoch shows, over all processes.
        max_share: Share of them that may be lost.
    """

    def __init__(self, *, clips_of_epoch: int, max_share: float) -> None:
        self.clips_of_epoch, self.max_share = clips_of_epoch, max_share
        self.epoch, self.num_of_epoch = -1, 0
        self._counts: dict[str, int] = {}
        self._reasons: dict[str, str] = {}

    def add(self, lost: Iterable[LostClip]) -> None:
        """Count clips that this process lost; a file is told the first time."""
        for clip in lost:
            if clip.file not in self._reasons:
                logger.warning("%s: lost from training (%s); its batch goes on without it", clip.file, clip.reason)
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

    def refusal(self, run_dir: Path, *, is_main_process: bool) -> ValueError:
        """What ends a run that lost too much; the whole list goes into the run folder. Every process must call it."""
        files = self.gathered()
        if is_main_process:
            text = json.dumps(files, indent=2, ensure_ascii=False)
            (run_dir / LOST_CLIPS_FILE).write_text(text + "\n", encoding="utf-8")
        named = [f"{entry['file']} ({entry['count']}x: {entry['reason']})" for entry in files[:_NAMED]]
        more = [f"and {len(files) - _NAMED} more"] if len(files) > _NAMED else []
        return ValueError(
            f"{self.num_of_epoch} of the {self.clips_of_epoch} clips of epoch {self.epoch} could not be read, more "
            f"than max_lost_share {self.max_share:g}: {', '.join([*named, *more])}; the list is in "
            f"{run_dir / LOST_CLIPS_FILE}; repair these files or build the dataset again with --on_bad drop"
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps. Every process must call it."""
        return {"epoch": self.epoch, "num_of_epoch": self.num_of_epoch, "files": self.gathered()}

    def restore(self, state: Mapping[str, Any], *, is_main_process: bool) -> None:
        """Go on from a checkpoint: the first process takes over the counts, all of them know the files."""
        self.epoch, self.num_of_epoch = int(state["epoch"]), int(state["num_of_epoch"])
        self._reasons = {entry["file"]: entry["reason"] for entry in state["files"]}
        self._counts = {entry["file"]: entry["count"] for entry in state["files"]} if is_main_process else {}
