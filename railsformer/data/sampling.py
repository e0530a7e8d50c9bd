"""Which instants make a clip. A clip is defined in time, so that a 10 fps and a 30 fps camera give the same one.

Pure arithmetic in seconds; nothing here touches a file.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

__all__ = ["ClipRule", "ClipSampling", "ShortVideoRule"]

# Eight frames of a segment of five steps: hold 01234444, loop 01234012, stretch 00122344.
ShortVideoRule = Literal["hold", "loop", "stretch"]
# interval: frames a fixed time apart; segments: one frame from each of `num_frames` equal parts of the whole.
ClipRule = Literal["interval", "segments"]

# Sums of steps are rounded: an instant this near the end of a round, as a share of it, is the start of the next one.
_ROUND_TOLERANCE = 1e-9


@dataclass(frozen=True)
class ClipSampling:
    """How clips are cut from a segment.

    No instant lies at or past the segment's end, except where `hold` fills up a clip that is longer than the segment.

    Args:
        num_frames: Frames of a clip.
        frame_interval: Steps of the nominal rate between neighbouring frames.
        nominal_fps: Rate in frames per second in which `frame_interval` counts, whatever the video's own.
        short_video: What fills a clip that is longer than the segment, with `interval` only. `hold` goes on past the
            end, where the reader shows the last picture; `loop` begins again; `stretch` shrinks the interval so that
            the first instant stands at the start and the last one just before the end.
        clip_sampling: `interval` cuts `num_frames` instants a fixed time apart. `segments` takes one instant from each
            of `num_frames` equal parts of the whole segment, of any length, and leaves interval and rate aside: the
            sampling of TSN (Wang et al. 2016, section 3.1), which TimeSformer uses on SSv2
            (facebookresearch/TimeSformer, timesformer/datasets/ssv2.py) and mmaction2 calls UniformSampleFrames. Those
            count in frames and round; we do not, and so do not depend on the rate.

    Raises:
        ValueError: If a number is not positive, or a rule is unknown.
    """

    num_frames: int
    frame_interval: int
    nominal_fps: float = 30.0
    short_video: ShortVideoRule = "hold"
    clip_sampling: ClipRule = "interval"

    def __post_init__(self) -> None:
        for name in ("num_frames", "frame_interval", "nominal_fps"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}")
        for name, rule in (("short_video", ShortVideoRule), ("clip_sampling", ClipRule)):
            if getattr(self, name) not in get_args(rule):
                raise ValueError(f"{name} must be one of {', '.join(get_args(rule))}, got {getattr(self, name)!r}")

    @classmethod
    def from_config(cls, config: Any) -> "ClipSampling":
        """The sampling that a model's config states; rules that a config does not name are hold and interval."""
        return cls(
            config.num_frames,
            config.frame_interval,
            float(config.nominal_fps),
            short_video=getattr(config, "short_video", "hold"),
            clip_sampling=getattr(config, "clip_sampling", "interval"),
        )

    @property
    def step_seconds(self) -> float:
        """Seconds between neighbouring frames, with `interval`."""
        return self.frame_interval / self.nominal_fps

    @property
    def span_seconds(self) -> float:
        """Seconds from a clip's first frame to its last, with `interval`."""
        return (self.num_frames - 1) * self.step_seconds

    def training_times(self, start_seconds: float, end_seconds: float, rng: np.random.Generator) -> np.ndarray:
        """Draw the instants of a training clip in [start_seconds, end_seconds).

        Args:
            start_seconds: First instant of the segment.
            end_seconds: Instant just after the segment.
            rng: Source of every draw: one with `interval`, `num_frames` with `segments`, whatever the length.

        Returns:
            Ascending seconds (`loop` apart), shape (num_frames,).

        Raises:
            ValueError: If the segment's times are not finite, or its end is before its start.
        """
        if self.clip_sampling == "segments":
            return self._part_times(start_seconds, end_seconds, rng.random(self.num_frames))
        return self._interval_times(self.training_start(start_seconds, end_seconds, rng), start_seconds, end_seconds)

    def evaluation_times(self, start_seconds: float, end_seconds: float, *, num_clips: int = 1) -> np.ndarray:
        """The instants of evaluation clips in [start_seconds, end_seconds).

        With `interval` clips begin at `evaluation_starts`. With `segments` clip k of K takes the instant
        (k + 1/2) / K through each part: the middle for a single clip.

        Args:
            start_seconds: First instant of the segment.
            end_seconds: Instant just after the segment.
            num_clips: How many clips.

        Returns:
            Seconds, shape (num_clips, num_frames). Clips of a short segment are all alike with `interval`.

        Raises:
            ValueError: If num_clips < 1, the segment's times are not finite, or its end is before its start.
        """
        starts = self.evaluation_starts(start_seconds, end_seconds, num_clips=num_clips)
        if self.clip_sampling == "segments":
            shares = (np.arange(num_clips) + 0.5) / num_clips
            return np.stack([self._part_times(start_seconds, end_seconds, share) for share in shares])
        return np.stack([self._interval_times(float(start), start_seconds, end_seconds) for start in starts])

    def clip_times(self, start_seconds: float) -> np.ndarray:
        """Instants `step_seconds` apart from `start_seconds` on, shape (num_frames,), whatever the segment holds."""
        return start_seconds + np.arange(self.num_frames) * self.step_seconds

    def training_start(self, start_seconds: float, end_seconds: float, rng: np.random.Generator) -> float:
        """Draw where a training clip begins, uniformly over the starts that fit in [start_seconds, end_seconds).

        A segment shorter than the clip is taken from its start.

        Raises:
            ValueError: If the segment's times are not finite, or its end is before its start.
        """
        slack = max(0.0, _duration(start_seconds, end_seconds) - self.span_seconds)
        return start_seconds + float(rng.random()) * slack

    def evaluation_starts(self, start_seconds: float, end_seconds: float, *, num_clips: int = 1) -> np.ndarray:
        """Where evaluation clips begin: one in the middle, or several spread evenly with the ends left equally free.

        Args:
            start_seconds: First instant of the segment.
            end_seconds: Instant just after the segment.
            num_clips: How many clips.

        Returns:
            Starts in seconds, shape (num_clips,). Slack 6 s: one clip starts at 3; three at 1, 3, 5.

        Raises:
            ValueError: If num_clips < 1, the segment's times are not finite, or its end is before its start.
        """
        if num_clips < 1:
            raise ValueError(f"num_clips must be at least 1, got {num_clips}")
        slack = max(0.0, _duration(start_seconds, end_seconds) - self.span_seconds)
        return start_seconds + (np.arange(num_clips) + 0.5) / num_clips * slack

    def _interval_times(self, clip_start: float, start_seconds: float, end_seconds: float) -> np.ndarray:
        """The clip that begins at `clip_start`, under the rule for short segments, shape (num_frames,)."""
        duration = end_seconds - start_seconds
        if duration > self.span_seconds:
            return _inside(self.clip_times(clip_start), start_seconds, end_seconds)
        if self.short_video == "hold":
            return self.clip_times(clip_start)
        if duration == 0:  # one picture without a length
            return np.full(self.num_frames, start_seconds, dtype=np.float64)
        if self.short_video == "loop":
            seconds = np.mod(self.clip_times(0.0), duration)
            seconds[seconds >= duration * (1 - _ROUND_TOLERANCE)] = 0.0
        else:
            seconds = np.linspace(0.0, duration, self.num_frames)
        return _inside(start_seconds + seconds, start_seconds, end_seconds)

    def _part_times(self, start_seconds: float, end_seconds: float, shares: np.ndarray | float) -> np.ndarray:
        """One instant in each of `num_frames` equal parts, `shares` in [0, 1) of the way through it."""
        part_seconds = _duration(start_seconds, end_seconds) / self.num_frames
        times = start_seconds + (np.arange(self.num_frames) + shares) * part_seconds
        return _inside(times, start_seconds, end_seconds)


def _duration(start_seconds: float, end_seconds: float) -> float:
    """Seconds of a segment.

    Raises:
        ValueError: If its times are not finite, or its end is before its start.
    """
    for name, value in (("start_seconds", start_seconds), ("end_seconds", end_seconds)):
        if not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number of seconds, got {value}; correct the segment's times")
    if end_seconds < start_seconds:
        raise ValueError(
            f"end_seconds must be at least start_seconds {start_seconds:g}, got {end_seconds:g}; "
            f"correct the segment's times"
        )
    return end_seconds - start_seconds


def _inside(times: np.ndarray, start_seconds: float, end_seconds: float) -> np.ndarray:
    """The same instants, kept before the end, which belongs to the next segment; rounding may have reached it."""
    last = np.nextafter(end_seconds, start_seconds) if end_seconds > start_seconds else start_seconds
    return np.minimum(times, last)
