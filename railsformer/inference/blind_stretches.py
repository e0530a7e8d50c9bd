"""When the camera of a recording was blind: the rules of `blindness`, with their times, through one pass of the file.

A live watch says that a camera is blind once it has been so for long enough. Of a recording it is known afterwards
when that began, so that the windows before the alarm need not count either.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from railsformer.data.files import whole_file
from railsformer.inference.blindness import BlindnessSettings, BlindnessWatch, BlindReason
from railsformer.inference.pictures import Picture
from railsformer.inference.timeline import SLACK_SECONDS

__all__ = [
    "HIDING_REASONS",
    "BlindRecorder",
    "BlindStretch",
    "RecorderFile",
    "blind_seconds",
    "is_hidden",
    "stretch_rows",
]

# Nothing can be seen there. A camera that was moved shows something, and is scored, as it is live.
HIDING_REASONS: tuple[BlindReason, ...] = ("black", "covered", "frozen")
_SAVE_SECONDS = 60.0  # of footage; what is looked at again after a kill


@dataclass(frozen=True)
class BlindStretch:
    """Why a camera was blind, from when to when."""

    reason: BlindReason
    start_seconds: float
    end_seconds: float


def blind_seconds(stretches: Sequence[BlindStretch]) -> dict[BlindReason, float]:
    """How long a camera was blind, by reason; they do not overlap."""
    seconds: dict[BlindReason, float] = {}
    for stretch in stretches:
        seconds[stretch.reason] = seconds.get(stretch.reason, 0.0) + stretch.end_seconds - stretch.start_seconds
    return seconds


def stretch_rows(stretches: Sequence[BlindStretch]) -> list[dict[str, Any]]:
    """As they stand in watch.json and events.json: times to the millisecond."""
    return [
        {name: round(value, 3) if name.endswith("_seconds") else value for name, value in asdict(stretch).items()}
        for stretch in stretches
    ]


def is_hidden(start_seconds: np.ndarray, end_seconds: np.ndarray, stretches: Sequence[BlindStretch]) -> np.ndarray:
    """Which windows touch a stretch in which nothing can be seen, shape (num_windows,)."""
    hidden = np.zeros(len(start_seconds), dtype=bool)
    for stretch in stretches:
        if stretch.reason in HIDING_REASONS:
            begins_before = start_seconds < stretch.end_seconds - SLACK_SECONDS
            hidden |= begins_before & (end_seconds > stretch.start_seconds + SLACK_SECONDS)
    return hidden


class BlindRecorder:
    """Shown the pictures of a recording in their order, it keeps the stretches in which the camera was blind.

    Args:
        settings: How long something must last; if not given, as live, but frozen is only what is the same throughout.
    """

    def __init__(self, settings: BlindnessSettings | None = None) -> None:
        self.watch = BlindnessWatch(settings or BlindnessSettings(frozen_exactly=True))
        self._done: list[BlindStretch] = []
        self._open: tuple[BlindReason, float] | None = None
        self._until_seconds = 0.0

    @property
    def looked_seconds(self) -> float:
        """Second of the last look; 0 before the first one."""
        return self.watch.last_seconds or 0.0

    def wanted(self, seconds: float) -> bool:
        """Whether the picture at `seconds` is looked at; one from before the last look is not."""
        last = self.watch.last_seconds
        return last is None or (seconds > last and self.watch.wanted(seconds))

    def see(self, picture: Picture) -> None:
        """Take the next picture; only those that are `wanted` need their `rgb`."""
        self._until_seconds = max(self._until_seconds, picture.until_seconds)
        if picture.rgb is None or not self.wanted(picture.seconds):
            return
        before = self.watch.reason
        now = self.watch.push(picture.rgb, picture.seconds)
        if now == before:
            return
        if before is not None:
            good = self.watch.good_since_seconds
            self._close(picture.seconds if good is None else good)
        if now is not None:
            since = self.watch.since_seconds
            self._open = now, picture.seconds if before is not None or since is None else since

    def hides(self, start_seconds: float, end_seconds: float) -> bool:
        """Whether a window is known by now to touch a stretch in which nothing can be seen."""
        return bool(is_hidden(np.array([start_seconds]), np.array([end_seconds]), self.stretches()[-4:])[0])

    def stretches(self) -> list[BlindStretch]:
        """All stretches so far; one that goes on ends with the last picture, or where it began to be good again."""
        if self._open is None:
            return list(self._done)
        good = self.watch.good_since_seconds
        reason, start = self._open
        return [*self._done, BlindStretch(reason, start, self._until_seconds if good is None else good)]

    def _close(self, end_seconds: float) -> None:
        if self._open is None:
            return
        (reason, start), self._open = self._open, None
        last = self._done[-1] if self._done else None
        short = end_seconds - start < getattr(self.watch.settings, f"{reason}_seconds")
        if last is not None and short and start <= last.end_seconds:  # a reason that only flickered up in another
            self._done[-1] = BlindStretch(last.reason, last.start_seconds, end_seconds)
        elif end_seconds > start:
            self._done.append(BlindStretch(reason, start, end_seconds))

    def state(self) -> dict[str, Any]:
        """All that it knows, JSON and arrays, which nobody changes afterwards."""
        about = {"done": [asdict(stretch) for stretch in self._done], "open": self._open}
        return {"recorder": about | {"until_seconds": self._until_seconds}, "watch": self.watch.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from an earlier `state`."""
        about = state["recorder"]
        self._done = [BlindStretch(**row) for row in about["done"]]
        self._open = tuple(about["open"]) if about["open"] else None
        self._until_seconds = about["until_seconds"]
        self.watch.restore(state["watch"])


class RecorderFile:
    """A file that keeps a recorder's state, so that a watch that was killed finds the same stretches.

    Args:
        path: The file.
        request: What the watch depends on; the state of another one is not taken.
    """

    def __init__(self, path: Path, request: Mapping[str, Any]) -> None:
        self._path, self._request = path, dict(request)
        self._saved_seconds = 0.0

    def load(self, recorder: BlindRecorder) -> None:
        """Bring a recorder to where it was; where there is no whole state it begins anew."""
        try:
            with np.load(self._path) as file:
                arrays = {name: file[name] for name in file.files if name != "about"}
                about = json.loads(str(file["about"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return
        if about["request"] == self._request:
            recorder.restore({"recorder": about["recorder"], "watch": {"about": about["watch"], "arrays": arrays}})
            self._saved_seconds = recorder.looked_seconds

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep a state, once a minute of footage."""
        until = state["recorder"]["until_seconds"]
        if until - self._saved_seconds < _SAVE_SECONDS:
            return
        self._saved_seconds = until
        about = {"request": self._request, "recorder": state["recorder"], "watch": state["watch"]["about"]}
        with whole_file(self._path) as partial, partial.open("wb") as file:
            np.savez(file, about=np.array(json.dumps(about)), **state["watch"]["arrays"])
