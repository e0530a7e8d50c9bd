"""Long footage to windows: one pass of decoding, each picture made small once, memory that does not grow.

Window k is the segment [k * stride, k * stride + window) of the footage, and what the network sees of it is the
evaluation clip of that segment: the same instants and pixels as if it had been cut out and made a video of a dataset.
"""

import json
import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from railsformer.data.clips import load_video_dataset
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings, evaluation_pixels
from railsformer.data.video import TOLERANCE_SECONDS
from railsformer.inference.pictures import Picture, SourceEvent, decode_pictures
from railsformer.inference.regions import Region

__all__ = ["Picture", "SourceEvent", "Window", "WindowCutter", "WindowPlan", "decode_pictures", "iterate_windows"]

logger = logging.getLogger(__name__)

# A window with less footage than this share of it is not shown to the network: it would mostly be a still.
_LEAST_SHARE = 0.5


@dataclass(frozen=True)
class WindowPlan:
    """How footage is cut into windows.

    Args:
        window_seconds: Length of a window.
        stride_seconds: From the start of a window to that of the next one.
        max_gap_seconds: A longer time between two pictures (and longer than three usual steps) is a gap in the
            footage; windows that touch one are not scored.

    Raises:
        ValueError: If one of them is not a number above 0.
    """

    window_seconds: float
    stride_seconds: float
    max_gap_seconds: float = 2.0

    def __post_init__(self) -> None:
        for name in ("window_seconds", "stride_seconds", "max_gap_seconds"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be a number of seconds above 0, got {value!r}; set --{name}")
        if self.window_seconds < 4 * TOLERANCE_SECONDS or self.stride_seconds < TOLERANCE_SECONDS:
            raise ValueError(
                f"window_seconds and stride_seconds must be at least {4 * TOLERANCE_SECONDS:g} and "
                f"{TOLERANCE_SECONDS:g}, got {self.window_seconds:g} and {self.stride_seconds:g}"
            )

    @classmethod
    def for_model(
        cls,
        name: str | Path,
        sampling: ClipSampling,
        *,
        window_seconds: float | None = None,
        stride_seconds: float | None = None,
        max_gap_seconds: float = 2.0,
    ) -> "WindowPlan":
        """The plan that suits a model where none is given.

        Args:
            name: Run folder, checkpoint in it, or Hub id.
            sampling: Of the model.
            window_seconds: With `interval` the clip and one step unless given; with `segments`, where a clip is as
                long as its video, the median duration of the videos that the run was trained on.
            stride_seconds: Half a window unless given.
            max_gap_seconds: As in the plan.

        Raises:
            ValueError: If the window's length is neither given nor told by the run.
        """
        if window_seconds is None and sampling.clip_sampling == "interval":
            window_seconds = sampling.span_seconds + sampling.step_seconds
        if window_seconds is None:
            window_seconds = _median_training_seconds(Path(name))
        if window_seconds is None:
            raise ValueError(
                f"{name} samples whole videos (clip_sampling segments) and does not tell how long its training videos "
                f"were; give --window_seconds"
            )
        plan = cls(window_seconds, window_seconds / 2 if stride_seconds is None else stride_seconds, max_gap_seconds)
        if plan.stride_seconds > plan.window_seconds + TOLERANCE_SECONDS:
            logger.warning(
                "stride_seconds %g is longer than window_seconds %g: the footage between windows is not looked at",
                plan.stride_seconds,
                plan.window_seconds,
            )
        return plan


@dataclass(frozen=True)
class Window:
    """One window of the footage.

    Args:
        index: `start_seconds` is `index` times the stride; windows that lie wholly in a gap are left out.
        start_seconds: Since the first picture.
        end_seconds: At most the end of the footage.
        pixel_values: What the network sees, float32, shape (T, 3, y, x); None where there is a gap.
        gap: Whether footage is missing in it, so that it is not to be scored.
    """

    index: int
    start_seconds: float
    end_seconds: float
    pixel_values: torch.Tensor | None
    gap: bool = False


def iterate_windows(
    path: str | Path,
    plan: WindowPlan,
    sampling: ClipSampling,
    pixels: PixelSettings,
    *,
    region: Region | None = None,
    first_index: int = 0,
    on_event: Callable[[SourceEvent], None] | None = None,
    on_picture: Callable[[Picture], None] | None = None,
    also_wanted: Callable[[float], bool] | None = None,
    threads: int = 0,
) -> Iterator[Window]:
    """Go through a file once.

    A last window that runs past the end of the file holds the last picture there, if footage fills at least half of it
    and no window before shows as much.

    Args:
        path: A video file of any length.
        plan: The windows.
        sampling: Of the model.
        pixels: Of the model.
        region: What is looked at; all if not given.
        first_index: Window to begin with, to go on where one stopped: a seek instead of decoding what was seen.
        on_event: Told of changes of size or rate, gaps and damage. Pictures of another size are brought to the model's
            like all others; damage is skipped.
        on_picture: Told of every picture; `rgb` is there only where a window needs it, or `also_wanted` says so.
        also_wanted: Asked with the second of a picture whether `on_picture` wants to see it.
        threads: Of the decoder; 0 means one for each core.

    Yields:
        Windows in their order, those with a gap too.

    Raises:
        FileNotFoundError: If there is no such file.
        VideoDecodeError: If it cannot be read.
        ValueError: If it is shorter than half a window.
    """
    cutter = WindowCutter(plan, sampling, pixels, region=region, first_index=first_index)
    pictures = decode_pictures(
        path,
        short_side_px=pixels.short_side_px,
        wanted=lambda seconds, until: cutter.wanted(seconds, until) or bool(also_wanted and also_wanted(seconds)),
        from_seconds=first_index * plan.stride_seconds,
        max_gap_seconds=plan.max_gap_seconds,
        on_event=on_event,
        threads=threads,
    )
    found = False
    until_seconds = 0.0
    for picture in pictures:
        until_seconds = picture.until_seconds
        if on_picture:
            on_picture(picture)
        for window in cutter.push(picture):
            found = True
            yield window
    for window in cutter.finish():
        found = True
        yield window
    if not found and first_index == 0:
        raise ValueError(
            f"{path} lasts {until_seconds:.2f} s, less than half a window of {plan.window_seconds:g} s; give a "
            f"--window_seconds of at most {2 * until_seconds:.2f}"
        )


class WindowCutter:
    """Pictures in, windows out; it holds the small pictures of the windows that are not complete, and nothing else.

    Not for several threads at once.

    Args:
        plan: The windows.
        sampling: Of the model.
        pixels: Of the model.
        region: What is looked at; all if not given.
        first_index: First window to give.
        eager: Give a window with the last picture that the network sees of it, not at its end: for live footage. Its
            end may then lie a little past what there is of it.
    """

    def __init__(
        self,
        plan: WindowPlan,
        sampling: ClipSampling,
        pixels: PixelSettings,
        *,
        region: Region | None = None,
        first_index: int = 0,
        eager: bool = False,
    ) -> None:
        self._plan, self._pixels, self._region, self._eager = plan, pixels, region, eager
        # What begins at the end belongs to the next segment, also by the tolerance that readers allow.
        latest = plan.window_seconds - 2 * TOLERANCE_SECONDS
        self._offsets = np.minimum(sampling.evaluation_times(0.0, plan.window_seconds)[0], latest)
        self._first = self._next = first_index
        self._until = first_index * plan.stride_seconds
        self._open: deque[_OpenWindow] = deque()
        self._last: Picture | None = None

    def wanted(self, seconds: float, until_seconds: float) -> bool:
        """Whether a window shows the picture that is on screen from `seconds` to `until_seconds`."""
        first = math.ceil((seconds - self._plan.window_seconds) / self._plan.stride_seconds)
        last = math.floor(until_seconds / self._plan.stride_seconds)
        starts = np.arange(max(first, self._first), last + 1) * self._plan.stride_seconds
        return bool(_shown(starts[:, None] + self._offsets, seconds, until_seconds).any())

    def push(self, picture: Picture) -> list[Window]:
        """Take the next picture.

        Returns:
            The windows that are complete now, in their order.

        Raises:
            ValueError: If it is not later than the one before it, or has no `rgb` although a window shows it.
        """
        if self._last is not None and picture.seconds < self._last.seconds:
            raise ValueError(
                f"pictures must come in their order, got {picture.seconds:g} s after {self._last.seconds:g}"
            )
        done = self._close_at_gap(picture.seconds) if picture.seconds > self._until + TOLERANCE_SECONDS else []
        while self._next * self._plan.stride_seconds < picture.until_seconds - TOLERANCE_SECONDS:
            self._open.append(_OpenWindow(self._next, self._start(self._next) + self._offsets))
            self._next += 1
        self._fill(picture, since_seconds=min(picture.seconds, max(self._until, 0.0)))
        self._last, self._until = picture, picture.until_seconds
        while self._open and self._is_complete(self._open[0]):
            done.append(self._whole(self._open.popleft()))
        return done

    def finish(self) -> list[Window]:
        """The end of the footage.

        Returns:
            The window that runs past it and shows more of it than the one before, the last picture held; none where
            there is no such window or footage fills less than half of it.
        """
        length, done = self._plan.window_seconds, []
        for window in self._open:
            start = self._start(window.index)
            seen_until = self._start(window.index - 1) + length if window.index else 0.0
            enough = self._until - start >= length * _LEAST_SHARE - TOLERANCE_SECONDS
            if enough and self._until > seen_until + TOLERANCE_SECONDS and self._last is not None:
                window.show(self._small(self._last), window.is_missing)
                done.append(self._whole(window))
        self._open.clear()
        return done

    def _start(self, index: int) -> float:
        return index * self._plan.stride_seconds

    def _is_complete(self, window: "_OpenWindow") -> bool:
        if self._eager and not window.is_missing.any():
            return True
        return self._until >= self._start(window.index) + self._plan.window_seconds - TOLERANCE_SECONDS

    def _fill(self, picture: Picture, *, since_seconds: float) -> None:
        """Put a picture into every window that shows it."""
        small: torch.Tensor | None = None
        for window in self._open:
            shown = _shown(window.times, since_seconds, picture.until_seconds) & window.is_missing
            if shown.any():
                small = self._small(picture) if small is None else small
                window.show(small, shown)

    def _small(self, picture: Picture) -> torch.Tensor:
        """What the network sees of a picture, shape (3, y, x)."""
        if picture.rgb is None:
            raise ValueError(f"the picture at {picture.seconds:g} s has no rgb; pass `wanted` to decode_pictures")
        rgb = picture.rgb if self._region is None else self._region.fill(picture.rgb, self._pixels)
        return evaluation_pixels(rgb[None], self._pixels)[0]

    def _whole(self, window: "_OpenWindow") -> Window:
        start = self._start(window.index)
        end = start + self._plan.window_seconds
        end = end if self._eager else min(end, max(self._until, start))
        return Window(window.index, start, end, torch.stack([each for each in window.frames if each is not None]))

    def _close_at_gap(self, until_seconds: float) -> list[Window]:
        """Nothing is known from `self._until` to `until_seconds`: what touches that is no window to be scored."""
        length, stride = self._plan.window_seconds, self._plan.stride_seconds
        broken = [window.index for window in self._open]
        self._open.clear()
        while self._start(self._next) < min(self._until, until_seconds) - TOLERANCE_SECONDS:
            broken.append(self._next)
            self._next += 1
        # Windows that end before the gap does show nothing at all.
        self._next = max(self._next, math.ceil((until_seconds + TOLERANCE_SECONDS - length) / stride))
        while self._start(self._next) < until_seconds - TOLERANCE_SECONDS:
            broken.append(self._next)
            self._next += 1
        return [Window(index, self._start(index), self._start(index) + length, None, gap=True) for index in broken]


class _OpenWindow:
    """A window that is being filled.

    Args:
        index: Of the window.
        times: Its instants, shape (T,).
    """

    def __init__(self, index: int, times: np.ndarray) -> None:
        self.index, self.times = index, times
        self.frames: list[torch.Tensor | None] = [None] * len(times)
        self.is_missing = np.ones(len(times), dtype=bool)

    def show(self, small: torch.Tensor, places: np.ndarray) -> None:
        """Put a picture at some of the instants."""
        for place in np.flatnonzero(places):
            self.frames[place] = small
        self.is_missing &= ~places


def _shown(times: np.ndarray, seconds: float, until_seconds: float) -> np.ndarray:
    """Which instants show the picture, by the rule of `read_frames`."""
    return (times >= seconds - TOLERANCE_SECONDS) & (times < until_seconds - TOLERANCE_SECONDS)


def _median_training_seconds(run: Path) -> float | None:
    """Median duration of the videos that a run was trained on; None where nothing tells it any more."""
    for folder in (run, run.parent) if run.is_dir() else ():
        for name in ("training_videos.json", "run.json"):
            facts = _read_json(folder / name)
            told = facts.get("median_seconds")
            if isinstance(told, int | float) and 0 < told < math.inf:
                return float(told)
            home = str(facts.get("dataset") or "")
            if home and Path(home).is_dir() and (durations := _training_durations(home)):
                return float(np.median(durations))
    return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _training_durations(home: str) -> Sequence[float]:
    try:
        rows = load_video_dataset(home).splits.get("train")
    except (ValueError, OSError):
        return ()
    if rows is None or not {"start_seconds", "end_seconds"} <= set(rows.column_names):
        return ()
    times = zip(rows["start_seconds"], rows["end_seconds"], strict=True)
    return [end - (start or 0.0) for start, end in times if end is not None]
