"""Two stretches of thumbnails: how one lies in the other, and how far they then agree.

Shapes: B pairs, K windows of a pair, T thumbnails, H x W thumbnail (24 x 32), P cells of a thumbnail.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from railsformer.data.copies.fingerprints import THUMBNAIL_RATE, THUMBNAIL_SIZE

__all__ = ["CONTRAST", "LAG", "WHOLE", "Agreement", "Stretch", "Window", "agreements", "blur", "fit_windows", "warp"]

LAG = THUMBNAIL_RATE  # the change that is compared is that over a second
CONTRAST = 40.0  # every video is scaled so that its background varies by this many grey levels
_FLAT_LEVELS = 4.0  # a picture that varies less holds nothing: black, white, a test card's grey
_BLUR_PX = 1.5  # so that a crop's finer sampling does not count as a difference
_STEPS = (0.04, 0.02, 0.01, 0.005, 0.0025)  # of the search for a crop, as shares of a side
_LARGEST_CROP = 0.16
_GOOD_FIT = 0.9998  # less than a grey level apart: no need to search on
_POOR_FIT = 0.95  # of the backgrounds; 12 grey levels apart: no search for the shift brings them near


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


def agreements(
    pairs: Sequence[tuple[Stretch, Stretch]], *, starts: Sequence[Window], min_overlaps: Sequence[int], noise: float
) -> list[Agreement]:
    """Find the crop and the shift in time at which the two stretches of each pair agree best.

    Args:
        pairs: Stretches; those of many pairs are searched at once, since numpy is slow on one small picture.
        starts: Where to begin each search: the part of the second that the first may show.
        min_overlaps: Least number of thumbnails that overlap, for each pair.
        noise: Mean square of motion that counts as none.
    """
    windows, scores = fit_windows([(first.background, second.background) for first, second in pairs], starts)
    best: list[Agreement | None] = [None] * len(pairs)
    at = [int(index) for index in np.flatnonzero(scores >= _POOR_FIT)]
    for _ in range(2):  # what stands still is clearer once the shift is known, and the other way round
        laid: dict[int, tuple[int, tuple[np.ndarray, np.ndarray]]] = {}
        for index in at:
            first, second = pairs[index]
            offset = _best_offset(first.motion, warp(second.motion, windows[index])[0], min_overlaps[index])
            if (means := _overlap_means(first, second, offset)) is not None:
                laid[index] = offset, means
        at = list(laid)
        fitted, scores = fit_windows([means for _, means in laid.values()], [windows[index] for index in at])
        for index, window, score in zip(at, fitted, scores, strict=True):
            windows[index] = window
            found = replace(_measure(*pairs[index], window, laid[index][0], noise), background=float(score))
            old = best[index]
            best[index] = found if old is None or found.motion + found.still > old.motion + old.still else old
    return [found or Agreement(0.0, 0.0, 0.0, 0.0, 0.0) for found in best]


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


def _overlap_means(first: Stretch, second: Stretch, offset: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean pictures of what overlaps and is not flat; None where there is none."""
    ours, theirs = _overlap(len(first.pictures), len(second.pictures), offset)
    pictures = first.pictures[ours][first.valid[ours]], second.pictures[theirs][second.valid[theirs]]
    if not len(pictures[0]) or not len(pictures[1]):
        return None
    return pictures[0].mean(axis=0), pictures[1].mean(axis=0)


def _best_offset(first: np.ndarray, second: np.ndarray, min_overlap: int) -> int:
    """Return the shift with the highest normalised correlation of motion."""
    if not len(first) or not len(second):
        return 0
    a, b = _pool(first), _pool(second)
    least = min(min_overlap, len(a), len(b))
    offsets = np.arange(least - len(b), len(a) - least + 1)
    starts, stops = np.maximum(0, offsets), np.maximum(0, np.minimum(len(a), len(b) + offsets))
    stops = np.maximum(starts, stops)
    sums_first, sums_second = (np.concatenate([[0], np.cumsum((c * c).sum(axis=1))]) for c in (a, b))
    energies = (sums_first[stops] - sums_first[starts]) * (
        sums_second[stops - offsets] - sums_second[starts - offsets]
    )
    scores = _diagonal_sums(a @ b.T)[offsets + len(b) - 1] / np.sqrt(np.maximum(1e-6, energies))
    best = int(scores.argmax())
    return int(offsets[best]) if scores[best] > 1e-6 else 0  # without motion there is nothing to go by


def _diagonal_sums(table: np.ndarray) -> np.ndarray:
    """Sums over row - column = 1 - columns, …, rows - 1."""
    rows, columns = table.shape
    sheared = np.zeros((rows, rows + columns), dtype=table.dtype)
    sheared[:, :columns] = table[:, ::-1]
    return sheared.ravel()[:-rows].reshape(rows, rows + columns - 1).sum(axis=0)


def _pool(motion: np.ndarray) -> np.ndarray:
    """Average 2 x 2 cells: (T, H, W) -> (T, H·W/4)."""
    height, width = THUMBNAIL_SIZE
    cells = motion.reshape(len(motion), height // 2, 2, width // 2, 2).mean(axis=(2, 4))
    return cells.reshape(len(motion), height * width // 4)


def fit_windows(
    pictures: Sequence[tuple[np.ndarray, np.ndarray]], starts: Sequence[Window]
) -> tuple[list[Window], np.ndarray]:
    """Search for the window of each second picture that looks most like the first, one edge at a time.

    Args:
        pictures: B pairs, each of shape (H, W).
        starts: Where to begin.

    Returns:
        The windows and their normalised correlations, shape (B,).
    """
    if not pictures:
        return [], np.empty(0)
    search = _Search(np.stack([first for first, _ in pictures]), np.stack([second for _, second in pictures]))
    every = np.arange(len(starts))
    best = np.array([[window.left, window.right, window.top, window.bottom] for window in starts])
    whole = np.tile([0.0, 1.0, 0.0, 1.0], (len(starts), 1))
    scores, whole_scores = search.scores(every, best), search.scores(every, whole)
    best = np.where((whole_scores > scores)[:, None], whole, best)
    scores = np.maximum(whole_scores, scores)
    for step in _STEPS:
        at = np.flatnonzero(scores < _GOOD_FIT)
        while len(at):
            windows, found = search.neighbours(at, best[at], step)
            choice = found.argmax(axis=1)
            found = np.take_along_axis(found, choice[:, None], axis=1)[:, 0]
            better = found > scores[at] + 1e-6
            at, choice = at[better], choice[better]
            best[at], scores[at] = windows[better, choice], found[better]
    return [Window(*map(float, edges)) for edges in best], scores


class _Search:
    """Pairs of pictures under many windows; edges are left, right, top, bottom.

    Moving one edge leaves the sampling of the other direction as it is. So the pictures are sampled in that direction
    once; then the sums that a correlation is made of follow from a few tables, without a picture for each window.
    """

    def __init__(self, first: np.ndarray, second: np.ndarray) -> None:
        first = first - first.mean(axis=(1, 2), keepdims=True)  # sums of squares of levels around 0 lose no digits
        second = second - second.mean(axis=(1, 2), keepdims=True)
        self._first, self._second = first, second
        self._first_turned = np.ascontiguousarray(first.transpose(0, 2, 1))
        self._second_turned = np.ascontiguousarray(second.transpose(0, 2, 1))

    def scores(self, at: np.ndarray, windows: np.ndarray) -> np.ndarray:
        """Correlate the pairs `at` under one window each, of shape (B, 4); return shape (B,)."""
        return _line_scores(self._first[at], self._second[at], windows[:, 2:], windows[:, None, :2])[:, 0]

    def neighbours(self, at: np.ndarray, windows: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
        """Return windows with one edge moved, shape (B, K, 4), and their correlations; -1 where that is too far."""
        moved = windows[:, None] + step * np.concatenate([np.eye(4), -np.eye(4)])
        scores = np.empty(moved.shape[:2])
        across, along = [0, 1, 4, 5], [2, 3, 6, 7]
        scores[:, across] = _line_scores(self._first[at], self._second[at], windows[:, 2:], moved[:, across, :2])
        scores[:, along] = _line_scores(
            self._first_turned[at], self._second_turned[at], windows[:, :2], moved[:, along, 2:]
        )
        too_far = np.abs(moved - (0.0, 1.0, 0.0, 1.0)).max(axis=2) > _LARGEST_CROP
        return moved, np.where(too_far, -1.0, scores)


def _line_scores(first: np.ndarray, second: np.ndarray, fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Correlate pictures where both are known, under windows that share their rows.

    Args:
        first: Shape (B, X, Y), mean near 0.
        second: Likewise.
        fixed: First and last row, as shares, shape (B, 2).
        moving: First and last column of each window, shape (B, K, 2).

    Returns:
        Normalised correlations, shape (B, K).
    """
    pairs, height, width = first.shape
    low, share, known_rows = _taps(height, fixed)
    each = np.arange(pairs)[:, None]
    half = second[each, low] * ((1 - share) * known_rows)[..., None]
    half += second[each, low + 1] * (share * known_rows)[..., None]
    column, b, known = _taps(width, moving)
    a, b = (1 - b) * known, b * known
    place = each[..., None] * width + column  # of a column in tables of shape (B, Y)
    sums, squares = half.sum(axis=1).ravel(), (half * half).sum(axis=1).ravel()
    products = (half * np.roll(half, -1, axis=2)).sum(axis=1).ravel()
    crossed = (first.transpose(0, 2, 1) @ half).ravel()  # every column of the first by every column of the second
    cross_place = (each * width + np.arange(width))[:, None] * width + column
    second_sum = (a * sums[place] + b * sums[place + 1]).sum(axis=2)
    second_square = a * a * squares[place] + 2 * a * b * products[place] + b * b * squares[place + 1]
    product = (a * crossed[cross_place] + b * crossed[cross_place + 1]).sum(axis=2)
    first_sum, first_square = (
        (known @ (known_rows[:, None] @ values).transpose(0, 2, 1))[..., 0] for values in (first, first * first)
    )
    cells = known_rows.sum(axis=1)[:, None] * known.sum(axis=2)
    covariance = product / cells - first_sum * second_sum / cells**2
    variances = (first_square / cells - (first_sum / cells) ** 2) * (
        second_square.sum(axis=2) / cells - (second_sum / cells) ** 2
    )
    return covariance / np.maximum(1e-6, np.sqrt(np.maximum(0, variances)))


def _taps(side: int, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bilinear sampling of intervals (…, 2) at `side` places each.

    Returns:
        The lower of two neighbours, the share of the upper one, and which places are inside, shape (…, side).
    """
    start, stop = ends[..., :1], ends[..., 1:]
    places = (start + (np.arange(side) + 0.5) / side * (stop - start)) * side - 0.5
    known = (places >= -0.5) & (places <= side - 0.5)
    places = np.clip(places, 0, side - 1)
    low = np.minimum(places.astype(int), side - 2)
    return low, (places - low).astype(np.float32), known.astype(np.float32)


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
    low, share, known = _taps(side, np.array([start, stop]))
    weights = np.zeros((side, side), dtype=np.float32)
    weights[np.arange(side), low] = 1 - share
    weights[np.arange(side), low + 1] = share
    return weights * known[:, None], known
