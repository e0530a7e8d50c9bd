"""Relevance as colour: one scale a map, painted over the part of the picture that the model saw.

Dimensions: T frames, h and w patches down and across.
"""

from dataclasses import dataclass
from functools import cached_property

import matplotlib as mpl
import numpy as np
from PIL import Image

from railsformer.explain.seen import Box
from railsformer.inference.regions import Region

__all__ = ["HeatScale", "RelevanceTrack", "paint", "seen_mask"]

# Pictures under a map keep little of their colour, so that what is coloured is relevance.
_COLOUR_KEPT = 0.25
_GREY_LIGHT = 0.9
_UNSEEN_LIGHT = 0.42
_MOST_OPAQUE = 0.82
_LEVELS = 256
# A single cell far above all others would leave the rest without colour; the scale's last step holds it, too.
_TOP_PERCENTILE = 99.5
_FAINT = 1e-12
# Times the mean: an even map's scale reaches so far, or noise among equals would have the full colour.
_LEAST_TOP = 2.0
_NEARLY_EVEN = 1.2  # times the mean: where even the highest cells stay below, a map points nowhere


@dataclass(frozen=True)
class HeatScale:
    """What colour and opacity a relevance has.

    Attributes:
        high: Relevance with the full colour; more has it too.
        signed: Whether negative relevance has a colour of its own.
        mean: Mean size of the cells; 0 where there is no relevance at all.
        is_even: Whether all cells are nearly alike, so that an unsigned map points nowhere.
    """

    high: float
    signed: bool
    mean: float
    is_even: bool = False

    @classmethod
    def of(cls, relevance: np.ndarray, *, signed: bool) -> "HeatScale":
        """The scale of a whole clip, shape (T, h, w), so that its frames can be compared."""
        sizes = np.abs(relevance)
        top = max(float(np.percentile(sizes, _TOP_PERCENTILE)), float(sizes.max()) / 4)
        if top <= _FAINT:
            return cls(1.0, signed, 0.0)
        mean = float(sizes.mean())
        if signed:  # both ends are told with it, and cells alike in size need not be alike
            return cls(top, signed, mean)
        return cls(max(top, _LEAST_TOP * mean), signed, mean, is_even=top < _NEARLY_EVEN * mean)

    @property
    def is_empty(self) -> bool:
        """Whether the map holds nothing at all."""
        return self.mean == 0.0

    @property
    def ends(self) -> tuple[float, float]:
        """Relevance at the two ends of the scale."""
        return (-self.high if self.signed else 0.0), self.high

    @cached_property
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Colour, shape (256, 3), 0 to 255, and opacity, shape (256, 1), from the low end to the high one."""
        place = np.linspace(0.0, 1.0, _LEVELS)
        if not self.signed:
            colours = mpl.colormaps["inferno"](0.12 + 0.88 * place)[:, :3]
            return 255 * colours, _MOST_OPAQUE * place[:, None] ** 1.2
        size = np.abs(2 * place - 1)
        warm = mpl.colormaps["inferno"](0.35 + 0.65 * size)[:, :3]
        cold = mpl.colormaps["winter"](0.75 * size)[:, :3]
        return 255 * np.where(place[:, None] >= 0.5, warm, cold), _MOST_OPAQUE * size[:, None] ** 1.2

    def bar(self, width: int, height: int) -> np.ndarray:
        """The scale itself over mid grey, uint8, shape (height, width, 3)."""
        colours, opacity = self.table
        row = colours * opacity + 118 * (1 - opacity)
        places = np.linspace(0, _LEVELS - 1, width).round().astype(int)
        return np.repeat(row[places][None], height, axis=0).round().astype(np.uint8)

    def levels(self, relevance: np.ndarray) -> np.ndarray:
        """Places in the table."""
        low, high = self.ends
        return np.clip((relevance - low) / (high - low) * (_LEVELS - 1), 0, _LEVELS - 1).round().astype(np.uint8)


@dataclass(frozen=True)
class RelevanceTrack:
    """A clip's maps in time, interpolated between its instants.

    Attributes:
        times_seconds: Ascending, all different, shape (N,).
        maps: Shape (N, h, w).
    """

    times_seconds: np.ndarray
    maps: np.ndarray

    @classmethod
    def of(cls, times_seconds: np.ndarray, relevance: np.ndarray) -> "RelevanceTrack":
        """Sort by time; frames of one instant (a held picture) become their mean."""
        times, places = np.unique(np.round(times_seconds, 6), return_inverse=True)
        maps = np.stack([relevance[places == place].mean(axis=0) for place in range(len(times))])
        return cls(times, maps)

    @property
    def span_seconds(self) -> tuple[float, float]:
        """From when to when there is a map: half a step beyond the first and the last instant."""
        half = float(np.median(np.diff(self.times_seconds))) / 2 if len(self.times_seconds) > 1 else 0.5
        return float(self.times_seconds[0]) - half, float(self.times_seconds[-1]) + half

    def at(self, seconds: float) -> np.ndarray | None:
        """The map of an instant, shape (h, w); None where the model did not look."""
        first, last = self.span_seconds
        if not first - 1e-6 <= seconds <= last + 1e-6:
            return None
        after = int(np.searchsorted(self.times_seconds, seconds))
        if after == 0 or after == len(self.times_seconds):
            return self.maps[min(after, len(self.times_seconds) - 1)]
        before, behind = self.times_seconds[after - 1], self.times_seconds[after]
        share = (seconds - before) / (behind - before)
        return (1 - share) * self.maps[after - 1] + share * self.maps[after]


def seen_mask(height: int, width: int, box: Box, region: Region | None = None) -> np.ndarray:
    """Whether the model saw each pixel of a picture: in the crop and in the region, shape (height, width)."""
    seen = np.zeros((height, width), dtype=bool)
    seen[_pixels(box, height, width)] = True
    return seen if region is None else seen & region.mask(height, width)


def paint(
    picture: np.ndarray, relevance: np.ndarray | None, box: Box, scale: HeatScale, seen: np.ndarray
) -> np.ndarray:
    """Paint a map over a picture.

    Args:
        picture: RGB, uint8, shape (height, width, 3).
        relevance: Shape (h, w); None dims the picture, as the model did not see it.
        box: Where the map lies, in px of this picture.
        scale: Of the whole clip.
        seen: From `seen_mask`; the rest is dimmed.

    Returns:
        A new picture of the same shape.
    """
    grey = picture @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    shown = _GREY_LIGHT * (_COLOUR_KEPT * picture + (1 - _COLOUR_KEPT) * grey[..., None])
    if relevance is not None:
        rows, columns = _pixels(box, *picture.shape[:2])
        size = (columns.stop - columns.start, rows.stop - rows.start)
        smooth = np.asarray(Image.fromarray(relevance.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
        colours, opacity = scale.table
        levels = scale.levels(smooth)
        alpha = opacity.astype(np.float32)[levels]
        shown[rows, columns] += alpha * (colours.astype(np.float32)[levels] - shown[rows, columns])
        shown[~seen] = _UNSEEN_LIGHT * grey[~seen, None]
    else:
        shown = np.repeat(_UNSEEN_LIGHT * grey[..., None], 3, axis=-1)
    return shown.round().clip(0, 255).astype(np.uint8)


def _pixels(box: Box, height: int, width: int) -> tuple[slice, slice]:
    top, left = max(0, round(box.top)), max(0, round(box.left))
    bottom, right = min(height, round(box.bottom)), min(width, round(box.right))
    return slice(top, max(bottom, top + 1)), slice(left, max(right, left + 1))
