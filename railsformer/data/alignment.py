"""Two stretches of thumbnails: how one lies in the other, and how far they then agree.

Shapes: T thumbnails, H x W thumbnail (24 x 32), P cells of a thumbnail.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from railsformer.data.fingerprints import THUMBNAIL_RATE, THUMBNAIL_SIZE

__all__ = ["CONTRAST", "LAG", "WHOLE", "Agreement", "Stretch", "Window", "agreement", "blur", "warp"]

LAG = THUMBNAIL_RATE  # the change that is compared is that over a second
CONTRAST = 40.0  # every video is scaled so that its background varies by this many grey levels
_FLAT_LEVELS = 4.0  # a picture that varies less holds nothing: black, white, a test card's grey
_BLUR_PX = 1.5  # so that a crop's finer sampling does not count as a difference
_STEPS = (0.04, 0.02, 0.01, 0.005, 0.0025)  # of the search for a crop, as shares of a side
_LARGEST_CROP = 0.16
_GOOD_FIT = 0.9998  # less than a grey level apart: no need to search on


@dataclass(frozen=True)
class Window:
    """The part of one picture that another shows, as shares of its width and height; below 0 or above 1 is outside."""

    left: float = 0.0
    right: float = 1.0
    top: float = 0.0
    bottom: float = 1.0


WHOLE = Window()


@dataclass(frozen=True, eq=False)
class Stretch:
    """Thumbnails at an even rate, blurred and scaled to one contrast.

    Attributes:
        pictures: Float32, shape (T, H, W).
        motion: What each picture will have changed by in a second, apart from the light, float32, shape
            (T - LAG, H, W); 0 where one of the two is flat.
        valid: Which pictures are not flat, shape (T,).
        background: Median of these, shape (H, W).
    """

    pictures: np.ndarray
    motion: np.ndarray
    valid: np.ndarray
    background: np.ndarray

    @classmethod
    def of(cls, thumbnails: np.ndarray) -> "Stretch | None":
        """Prepare thumbnails of shape (T, H, W); None where all of them are flat."""
        pictures = blur(thumbnails.astype(np.float32))
        valid = thumbnails.astype(np.float32).std(axis=(1, 2)) >= _FLAT_LEVELS
        if not valid.any():
            return None
        background = np.median(pictures[valid], axis=0)
        scale = CONTRAST / max(_FLAT_LEVELS, float(background.std()))
        background, pictures = background * scale, pictures * scale
        motion = (pictures[LAG:] - pictures[:-LAG]) * (valid[LAG:] & valid[:-LAG])[:, None, None]
        return cls(pictures, _without_light(motion, background), valid, background)

    @property
    def energy(self) -> float:
        """Mean square of the motion, in grey levels squared."""
        return float((self.motion**2).mean()) if len(self.motion) else 0.0


@dataclass(frozen=True)
class Agreement:
    """How far two stretches agree once one is laid on the other.

    Attributes:
        offset: Thumbnails by which the second begins later than the first.
        background: Normalised correlation of what stands still.
        motion: Normalised correlation of what moves.
        still: Agreement of the motion if a little of it is taken for noise; near 1 where nothing moves.
        energy: Mean square of the lesser motion of the two.
    """

    offset: float
    background: float
    motion: float
    still: float
    energy: float


def agreement(first: Stretch, second: Stretch, *, start: Window, min_overlap: int, noise: float) -> Agreement:
    """Find the crop and the shift in time at which two stretches agree best.

    Args:
        first: One stretch.
        second: The other.
        start: Where to begin the search: the part of second's picture that first may show.
        min_overlap: Least number of thumbnails that overlap.
        noise: Mean square of motion that counts as none.
    """
    window = _fit_window(first.background, second.background, start)
    best: Agreement | None = None
    for _ in range(2):  # what stands still is clearer once the shift is known, and the other way round
        offset = _best_offset(first.motion, warp(second.motion, window)[0], min_overlap)
        ours, theirs = _overlap(len(first.pictures), len(second.pictures), offset)
        pictures = first.pictures[ours][first.valid[ours]], second.pictures[theirs][second.valid[theirs]]
        if not len(pictures[0]) or not len(pictures[1]):
            break
        mean_first, mean_second = pictures[0].mean(axis=0), pictures[1].mean(axis=0)
        window = _fit_window(mean_first, mean_second, window)
        found = _measure(first, second, window, offset, noise)
        found = replace(found, background=_correlation(mean_first, *warp(mean_second, window)))
        best = found if best is None or found.motion + found.still > best.motion + best.still else best
    return best or Agreement(0.0, 0.0, 0.0, 0.0, 0.0)


def blur(pictures: np.ndarray) -> np.ndarray:
    """Smooth pictures, shape (…, H, W), over about a pixel."""
    rows, columns = (_blur_matrix(side) for side in THUMBNAIL_SIZE)
    return rows @ pictures @ columns.T


def warp(pictures: np.ndarray, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Return what lies in a window of pictures (…, H, W), at full size, and where that is known, shape (H, W)."""
    if window == WHOLE:
        return pictures, np.ones(THUMBNAIL_SIZE, dtype=np.float32)
    rows, known_rows = _sampling_matrix(THUMBNAIL_SIZE[0], window.top, window.bottom)
    columns, known_columns = _sampling_matrix(THUMBNAIL_SIZE[1], window.left, window.right)
    return rows @ pictures @ columns.T, np.outer(known_rows, known_columns)


def _measure(first: Stretch, second: Stretch, window: Window, offset: int, noise: float) -> Agreement:
    """Compare at the shift and half a thumbnail around it: shifts are not whole thumbnails."""
    results = []
    warped, known = warp(second.motion, window)
    length = len(first.motion)
    for half in (-2, -1, 0, 1, 2):
        low, high = offset + half // 2, offset + (half + 1) // 2
        moved = (_shifted(warped, low, length) + _shifted(warped, high, length)) / 2
        ours = slice(_overlap(length, len(warped), high)[0].start, _overlap(length, len(warped), low)[0].stop)
        a, b = first.motion[ours] * known, moved[ours] * known
        cells = max(1.0, float(known.sum()) * len(a))
        energies = float((a * a).sum()) / cells, float((b * b).sum()) / cells
        product = float((a * b).sum()) / cells
        results.append(
            Agreement(
                offset=offset + half / 2,
                background=0.0,
                motion=product / max(1e-6, (energies[0] * energies[1]) ** 0.5),
                still=(2 * product + noise) / (sum(energies) + noise),
                energy=min(energies),
            )
        )
    return max(results, key=lambda result: result.motion)


def _shifted(motion: np.ndarray, offset: int, length: int) -> np.ndarray:
    """Return motion moved `offset` thumbnails later, cut or filled with 0 to `length`."""
    result = np.zeros((length, *motion.shape[1:]), dtype=motion.dtype)
    ours, theirs = _overlap(length, len(motion), offset)
    result[ours] = motion[theirs]
    return result


def _overlap(length: int, other: int, offset: int) -> tuple[slice, slice]:
    """Return the overlap in both stretches' own counts, the other beginning `offset` later."""
    start, stop = max(0, offset), max(0, min(length, other + offset))
    return slice(start, max(start, stop)), slice(start - offset, max(start, stop) - offset)


def _best_offset(first: np.ndarray, second: np.ndarray, min_overlap: int) -> int:
    """Return the shift with the highest normalised correlation of motion."""
    a, b = _pool(first), _pool(second)
    products = a @ b.T
    energies = (
        np.concatenate([[0], np.cumsum((a * a).sum(axis=1))]),
        np.concatenate([[0], np.cumsum((b * b).sum(axis=1))]),
    )
    least = min(min_overlap, len(a), len(b))
    best, best_score = 0, 1e-6  # without motion there is nothing to go by
    for offset in range(least - len(b), len(a) - least + 1):
        ours, theirs = _overlap(len(a), len(b), offset)
        energy = (energies[0][ours.stop] - energies[0][ours.start]) * (
            energies[1][theirs.stop] - energies[1][theirs.start]
        )
        score = float(np.trace(products, -offset)) / max(1e-6, float(energy)) ** 0.5
        if score > best_score:
            best, best_score = offset, score
    return best


def _pool(motion: np.ndarray) -> np.ndarray:
    """Average 2 x 2 cells: (T, H, W) -> (T, H·W/4)."""
    height, width = THUMBNAIL_SIZE
    cells = motion.reshape(len(motion), height // 2, 2, width // 2, 2).mean(axis=(2, 4))
    return cells.reshape(len(motion), height * width // 4)


def _fit_window(first: np.ndarray, second: np.ndarray, start: Window) -> Window:
    """Search for the window of `second` that looks most like `first`, one edge at a time."""
    best, best_score = start, _correlation(first, *warp(second, start))
    if start != WHOLE and (whole_score := _correlation(first, *warp(second, WHOLE))) > best_score:
        best, best_score = WHOLE, whole_score
    for step in _STEPS:
        improved = best_score < _GOOD_FIT
        while improved:
            improved = False
            for window in _neighbours(best, step):
                score = _correlation(first, *warp(second, window))
                if score > best_score + 1e-6:
                    best, best_score, improved = window, score, True
    return best


def _neighbours(window: Window, step: float) -> Iterator[Window]:
    for change in (step, -step):
        moved = (
            replace(window, left=window.left + change),
            replace(window, right=window.right + change),
            replace(window, top=window.top + change),
            replace(window, bottom=window.bottom + change),
        )
        yield from (
            other
            for other in moved
            if max(abs(other.left), abs(1 - other.right), abs(other.top), abs(1 - other.bottom)) <= _LARGEST_CROP
        )


def _correlation(first: np.ndarray, second: np.ndarray, known: np.ndarray) -> float:
    """Normalised correlation of two pictures where both are known."""
    weight = known / known.sum()
    a, b = first - (first * weight).sum(), second - (second * weight).sum()
    return float((a * b * weight).sum() / max(1e-6, float((a * a * weight).sum() * (b * b * weight).sum()) ** 0.5))


def _without_light(motion: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Take out of each change what a change of brightness or contrast explains."""
    flat = motion.reshape(len(motion), background.size)
    centred = (background - background.mean()).ravel()
    for direction in (np.ones_like(centred), centred):
        unit = direction / max(1e-6, float(np.linalg.norm(direction)))
        flat = flat - np.outer(flat @ unit, unit)
    return flat.reshape(motion.shape)


@lru_cache(maxsize=8)
def _blur_matrix(side: int) -> np.ndarray:
    distance = np.arange(side)[:, None] - np.arange(side)
    weights = np.exp(-0.5 * (distance / _BLUR_PX) ** 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


@lru_cache(maxsize=4096)
def _sampling_matrix(side: int, start: float, stop: float) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear sampling of [start, stop] at `side` places, shape (side, side), and which places are inside."""
    places = (start + (np.arange(side) + 0.5) / side * (stop - start)) * side - 0.5
    known = (places >= -0.5) & (places <= side - 0.5)
    places = np.clip(places, 0, side - 1)
    low = np.minimum(places.astype(int), side - 2)
    weights = np.zeros((side, side), dtype=np.float32)
    weights[np.arange(side), low] = 1 - (places - low)
    weights[np.arange(side), low + 1] = places - low
    return weights * known[:, None], known.astype(np.float32)
