"""Whether a camera still shows what it is there to show: blindness is not safety.

Four ways to be blind, the first that holds is named:

* `black`: hardly a pixel is brighter than black. Lights out, lens cap, dead sensor.
* `covered`: the picture has lost its edges, or most places have lost those that they had. Cloth, paint, fog, no focus.
* `frozen`: the picture does not change at all, not even by the sensor's noise. A recorder that repeats its last one.
* `moved`: the edges lie elsewhere than when the watch began. Somebody turned the camera.

Edges are compared by their direction, not their strength, so that lamps, dusk and exposure do not count as movement:
gains down to 0.25, gammas from 0.5 to 2 and noise of 10 levels left real footage at an agreement of 0.82 or more,
while shifts of 3 % of the width brought it to 0.39 at most. The reference follows slow change (sun, snow) within an
hour. Turns of less than about 5 degrees and shifts of less than 2 % of the width are not found, and a train
that stands for long over nearly the whole picture is taken for another view.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import Image

__all__ = ["BlindReason", "BlindnessSettings", "BlindnessWatch"]

BlindReason: TypeAlias = Literal["black", "covered", "frozen", "moved"]

_ROWS, _COLUMNS, _TILE_PX = 120, 160, 20  # 6 x 8 tiles
_BLACK_LEVEL, _DIM_LEVEL = (
    20,
    40,
)  # of 255; 99 % of the pixels are darker; the second where there are no edges
_EDGE_LEVEL = 3.0  # change of grey a pixel that the strongest 5 % of a tile reach where it shows anything
_FEW_TILES = 0.15
_LOST_TILES = 0.25  # of the reference's tiles with edges; fewer are left
_CHANGED_LEVELS, _CHANGED_SHARE = 2, 0.001  # 67 real clips of 9 s: the stillest changed 0.0037 of its pixels
_MOVED_AGREEMENT, _BACK_AGREEMENT, _SAME_AGREEMENT = 0.4, 0.5, 0.6
_MOVED_TILES, _TILE_AGREEMENT = 0.7, 0.4
_SOFT_GRADIENT = 3.0  # edges much weaker than this hardly count
_NOISE_SECONDS, _MOTION_SECONDS = 1.5, 4.0  # noise averages out over the first, what moves over the second


@dataclass(frozen=True)
class BlindnessSettings:
    """How long something must last before it counts.

    Args:
        every_seconds: From one look to the next.
        black_seconds: Of black pictures.
        covered_seconds: Without edges.
        frozen_seconds: Without any change. A still night scene from a camera that smooths well comes near to it.
        moved_seconds: With edges elsewhere; a train that passes must fit in.
        clear_seconds: Of good pictures before the camera sees again.
        learn_seconds: Of good pictures at the start, which teach where the edges lie.
        adapt_seconds: In which the reference follows slow change.
        watch_moved: False for a camera that is meant to turn.
        frozen_exactly: Call frozen only what is the same in every pixel. Strong compression takes the noise out of a
            quiet scene, and what is left changes less than a hung camera's key pictures do.

    Raises:
        ValueError: If a number is not positive.
    """

    every_seconds: float = 0.5
    black_seconds: float = 3.0
    covered_seconds: float = 8.0
    frozen_seconds: float = 20.0
    moved_seconds: float = 30.0
    clear_seconds: float = 2.0
    learn_seconds: float = 20.0
    adapt_seconds: float = 3600.0
    watch_moved: bool = True
    frozen_exactly: bool = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_seconds") and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a positive number of seconds, got {value!r}")


class BlindnessWatch:
    """Looks at a stream's pictures a few times a second; small arrays only, whatever the stream's length.

    Args:
        settings: How long something must last.
    """

    def __init__(self, settings: BlindnessSettings | None = None) -> None:
        self.settings = settings or BlindnessSettings()
        self.reason: BlindReason | None = None
        self.since_seconds: float | None = None
        self._last_seconds: float | None = None
        self._bad_since: dict[BlindReason, float] = {}
        self._good_since: float | None = None
        self._still: tuple[np.ndarray, float] | None = None  # first picture of a stretch without change
        self._grey: np.ndarray | None = None
        self._edges: np.ndarray | None = None
        self._reference: _Reference | None = None
        self._learnt_seconds = 0.0

    @property
    def has_reference(self) -> bool:
        """Whether enough was seen to tell that the camera moved."""
        return self._learnt_seconds >= self.settings.learn_seconds

    @property
    def last_seconds(self) -> float | None:
        """Second of the last look; None before the first one and after `interrupt`."""
        return self._last_seconds

    @property
    def good_since_seconds(self) -> float | None:
        """Since when the pictures have been good; None where the last one was not."""
        return self._good_since

    @property
    def sees_nothing(self) -> bool:
        """Whether the last picture was black or covered, however short that lasts yet, or the stream is frozen."""
        return self.reason == "frozen" or "black" in self._bad_since or "covered" in self._bad_since

    def wanted(self, seconds: float) -> bool:
        """Whether the picture at `seconds` is to be pushed."""
        last = self._last_seconds
        return last is None or seconds < last or seconds - last >= self.settings.every_seconds

    def interrupt(self) -> None:
        """Say that the stream broke off: what lasts is counted anew, what was learnt stays."""
        self._last_seconds = self._still = self._grey = self._edges = self._good_since = None
        self._bad_since.clear()

    def push(self, rgb: np.ndarray, seconds: float) -> BlindReason | None:
        """Look at a picture.

        Args:
            rgb: uint8, (height, width, 3), of any size.
            seconds: Ascending.

        Returns:
            Why the camera is blind now, or None.
        """
        step = 0.0 if self._last_seconds is None else max(0.0, seconds - self._last_seconds)
        if step > 4 * self.settings.every_seconds + 2.0:  # what lay between was not seen
            self.interrupt()
            step = 0.0
        self._last_seconds = seconds
        grey = np.asarray(Image.fromarray(rgb).convert("L").resize((_COLUMNS, _ROWS), Image.Resampling.BOX))
        if "black" in self._bad_since and float(np.percentile(grey, 99)) >= _DIM_LEVEL:
            self._grey = self._edges = None  # blended with black pictures, the first ones would seem covered
        self._grey = _follow(self._grey, grey.astype(np.float32), _share(step, _NOISE_SECONDS))
        self._edges = _follow(self._edges, _directions(grey.astype(np.float32)), _share(step, _MOTION_SECONDS))
        holds = self._what_holds(grey, rgb, seconds)
        self._decide(holds, seconds)
        if not holds and self._good_since is not None:
            self._learn(grey, step)
        return self.reason

    def _what_holds(self, grey: np.ndarray, rgb: np.ndarray, seconds: float) -> list[BlindReason]:
        """Reasons that this picture gives, the first one first, however short they last yet."""
        recent, edges = self._grey, self._edges
        if recent is None or edges is None:
            return []
        holds: list[BlindReason] = []
        tiles = _edge_tiles(recent)
        brightest = float(np.percentile(grey, 99))
        if brightest < (_DIM_LEVEL if float((tiles > _EDGE_LEVEL).mean()) < _FEW_TILES else _BLACK_LEVEL):
            holds.append("black")
        reference = self._reference if self.has_reference else None
        if _covered(tiles, reference):
            holds.append("covered")
        if self._is_still(rgb if self.settings.frozen_exactly else rgb[::2, ::2, 1], seconds):
            holds.append("frozen")
        if not holds and reference is not None and self.settings.watch_moved:
            limit = _BACK_AGREEMENT if self.reason == "moved" else _MOVED_AGREEMENT
            agreement, share = reference.agreement(edges)
            if agreement < limit and share < _MOVED_TILES:
                holds.append("moved")
        return holds

    def _is_still(self, pixels: np.ndarray, seconds: float) -> bool:
        """Whether no pixel changed for long; single pixels, as averages hide the noise that tells life."""
        differ = _differ if self.settings.frozen_exactly else _changed
        if self._still is None or self._still[0].shape != pixels.shape or differ(self._still[0], pixels):
            self._still = pixels.copy(), seconds
        return seconds - self._still[1] >= self.settings.frozen_seconds

    def _decide(self, holds: list[BlindReason], seconds: float) -> None:
        for reason in list(self._bad_since):
            if reason not in holds:
                del self._bad_since[reason]
        for reason in holds:
            began = self._still[1] if reason == "frozen" and self._still else seconds
            self._bad_since.setdefault(reason, began)
        lasting = [
            reason
            for reason in holds
            if seconds - self._bad_since[reason] >= getattr(self.settings, f"{reason}_seconds")
        ]
        if lasting:
            if self.reason is None:
                self.since_seconds = self._bad_since[lasting[0]]
            self.reason = lasting[0]
        if holds:
            self._good_since = None
            return
        if self._good_since is None:
            self._good_since = seconds
        if self.reason is not None and seconds - self._good_since >= self.settings.clear_seconds:
            self.reason = self.since_seconds = None

    def state(self) -> dict[str, Any]:
        """All that it knows: `about`, JSON, and `arrays`, which are not changed afterwards."""
        arrays = {"grey": self._grey, "edges": self._edges}
        if self._still is not None:
            arrays["still"] = self._still[0]
        if self._reference is not None:
            arrays |= {"directions": self._reference.directions, "tiles": self._reference.tiles}
        about = {
            "reason": self.reason,
            "since_seconds": self.since_seconds,
            "last_seconds": self._last_seconds,
            "bad_since": dict(self._bad_since),
            "good_since": self._good_since,
            "still_since": self._still and self._still[1],
            "learnt_seconds": self._learnt_seconds,
        }
        return {"about": about, "arrays": {name: array for name, array in arrays.items() if array is not None}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from an earlier `state`."""
        about, arrays = state["about"], state["arrays"]
        self.reason, self.since_seconds = about["reason"], about["since_seconds"]
        self._last_seconds, self._good_since = about["last_seconds"], about["good_since"]
        self._bad_since, self._learnt_seconds = dict(about["bad_since"]), about["learnt_seconds"]
        self._grey, self._edges = arrays.get("grey"), arrays.get("edges")
        self._still = (arrays["still"], about["still_since"]) if "still" in arrays else None
        self._reference = _Reference(arrays["directions"], arrays["tiles"]) if "directions" in arrays else None

    def _learn(self, grey: np.ndarray, step: float) -> None:
        """Take a good picture into the reference: equally at first, slowly later."""
        if self._edges is None or self._grey is None or self.reason is not None:
            return
        if self._reference is None:
            self._reference = _Reference(_directions(grey.astype(np.float32)), _edge_tiles(self._grey))
            return
        if not self.has_reference:
            self._learnt_seconds += step
            self._reference.follow(self._edges, _edge_tiles(self._grey), step / max(self._learnt_seconds, step, 1e-9))
        elif self._reference.agreement(self._edges)[0] > _SAME_AGREEMENT:
            self._reference.follow(self._edges, _edge_tiles(self._grey), step / self.settings.adapt_seconds)


class _Reference:
    """Where a camera's edges lie, and how strong they are."""

    def __init__(self, directions: np.ndarray, tiles: np.ndarray) -> None:
        self.directions, self.tiles = directions, tiles

    def follow(self, directions: np.ndarray, tiles: np.ndarray, share: float) -> None:
        self.directions = _follow(self.directions, directions, share)
        self.tiles = _follow(self.tiles, tiles, share)

    def agreement(self, directions: np.ndarray) -> tuple[float, float]:
        """Correlation of the edges' directions, and the share of tiles in which it is high."""
        both = _tile_sums((self.directions * directions).sum(axis=0))
        here, there = _tile_sums((self.directions**2).sum(axis=0)), _tile_sums((directions**2).sum(axis=0))
        overall = both.sum() / np.sqrt(here.sum() * there.sum() + 1e-9)
        tiles = both / np.sqrt(here * there + 1e-9)
        return float(overall), float((tiles > _TILE_AGREEMENT).mean())


def _share(step_seconds: float, over_seconds: float) -> float:
    """Weight of the newest of pictures that are `step_seconds` apart in a mean over `over_seconds`."""
    return 1 - float(np.exp(-step_seconds / over_seconds))


def _follow(old: np.ndarray | None, new: np.ndarray, share: float) -> np.ndarray:
    return new if old is None else old + np.float32(min(1.0, share)) * (new - old)


def _directions(grey: np.ndarray) -> np.ndarray:
    """Gradients of length near 1 where there is an edge, whatever the light, shape (2, rows, columns)."""
    gradient = _gradient(grey)
    return gradient / (np.hypot(*gradient) + _SOFT_GRADIENT)


def _gradient(grey: np.ndarray) -> np.ndarray:
    padded = np.pad(grey, 1, mode="edge")
    shifted = [padded[y : y + _ROWS, x : x + _COLUMNS] for y in range(3) for x in range(3)]
    along_y, along_x = np.gradient(np.mean(shifted, axis=0))
    return np.stack([along_x, along_y])


def _edge_tiles(grey: np.ndarray) -> np.ndarray:
    """What the strongest 5 % of the gradients of each tile reach, shape (48,)."""
    strength = np.hypot(*_gradient(grey))
    tiles = strength.reshape(_ROWS // _TILE_PX, _TILE_PX, _COLUMNS // _TILE_PX, _TILE_PX).swapaxes(1, 2)
    return np.percentile(tiles.reshape(-1, _TILE_PX**2), 95, axis=1).astype(np.float32)


def _covered(tiles: np.ndarray, reference: _Reference | None) -> bool:
    seen = tiles > _EDGE_LEVEL
    if seen.mean() < _FEW_TILES:
        return True
    expected = reference.tiles > _EDGE_LEVEL if reference else None
    return expected is not None and bool(expected.any()) and float(seen[expected].mean()) < _LOST_TILES


def _changed(before: np.ndarray, now: np.ndarray) -> bool:
    difference = np.abs(before.astype(np.int16) - now)
    return float((difference > _CHANGED_LEVELS).mean()) >= _CHANGED_SHARE


def _differ(before: np.ndarray, now: np.ndarray) -> bool:
    return not np.array_equal(before, now)


def _tile_sums(values: np.ndarray) -> np.ndarray:
    return values.reshape(_ROWS // _TILE_PX, _TILE_PX, _COLUMNS // _TILE_PX, _TILE_PX).sum(axis=(1, 3))
