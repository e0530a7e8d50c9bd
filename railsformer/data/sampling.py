"""Which instants make a clip. A clip is defined in time, so that a 10 fps and a 30 fps camera give the same one.

Pure arithmetic in seconds; nothing here touches a file.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["ClipSampling"]


@dataclass(frozen=True)
class ClipSampling:
    """How clips are cut from a segment.

    Args:
        num_frames: Frames of a clip.
        frame_interval: Steps of the nominal rate between neighbouring frames.
        nominal_fps: Rate in frames per second in which `frame_interval` counts, whatever the video's own.

    Raises:
        ValueError: If a value is not positive.
    """

    num_frames: int
    frame_interval: int
    nominal_fps: float = 30.0

    def __post_init__(self) -> None:
        for name in ("num_frames", "frame_interval", "nominal_fps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}")

    @classmethod
    def from_config(cls, config: Any) -> "ClipSampling":
        """The sampling that a model's config states: num_frames, frame_interval and nominal_fps."""
        return cls(config.num_frames, config.frame_interval, float(config.nominal_fps))

    @property
    def step_seconds(self) -> float:
        """Seconds between neighbouring frames."""
        return self.frame_interval / self.nominal_fps

    @property
    def span_seconds(self) -> float:
        """Seconds from a clip's first frame to its last."""
        return (self.num_frames - 1) * self.step_seconds

    def clip_times(self, start_seconds: float) -> np.ndarray:
        """Instants of the clip that begins at `start_seconds`, shape (num_frames,)."""
        return start_seconds + np.arange(self.num_frames) * self.step_seconds

    def training_start(self, start_seconds: float, end_seconds: float, rng: np.random.Generator) -> float:
        """Draw where a training clip begins, uniformly over the starts that fit in [start_seconds, end_seconds).

        A segment shorter than the clip is taken from its start; the reader then holds the last picture.
        """
        slack = max(0.0, end_seconds - start_seconds - self.span_seconds)
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
            ValueError: If num_clips < 1.
        """
        if num_clips < 1:
            raise ValueError(f"num_clips must be at least 1, got {num_clips}")
        slack = max(0.0, end_seconds - start_seconds - self.span_seconds)
        return start_seconds + (np.arange(num_clips) + 0.5) / num_clips * slack
