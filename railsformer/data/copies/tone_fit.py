"""How far two backgrounds agree once a crop and a change of brightness are undone.

A curve of third degree lays the grey levels of one picture on those of the other; pixels near black or white say
nothing, since they may have been clipped. Crop and curve are fitted together, by Gauss-Newton steps.

Shapes: B pairs, H x W background (72 x 96), P = H·W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from railsformer.data.copies.alignment import CONTRAST, WHOLE, Window, fit_windows, warp
from railsformer.data.copies.alignment import blur as blur_thumbnails
from railsformer.data.copies.fingerprints import BACKGROUND_SIZE, THUMBNAIL_SIZE

__all__ = ["ToneFit", "equalised", "fit_tones"]

_DARKEST, _BRIGHTEST = 12, 243  # grey levels beyond which a pixel may have been clipped
_FLATTEST = 4.0  # grey levels by which what is compared must vary
_LEAST_SHARE = 0.35  # of the pixels, that must be compared
_BLUR_PX = 0.8  # so that a crop's finer sampling does not count as a difference
_ROUNDS = 5
_HOPELESS = 14.0  # levels; the first window of a copy is nearer
_LARGEST_CROP = 0.16
_BATCH = 32  # pairs at a time: their tables stay in the processor's cache


@dataclass(frozen=True)
class ToneFit:
    """What two backgrounds differ by.

    Attributes:
        levels: Root mean square difference, in grey levels of CONTRAST.
        window: The part of the second that the first shows.
    """

    levels: float
    window: Window

    @property
    def is_whole(self) -> bool:
        """Whether both show the same part, to the accuracy of the fit."""
        window = self.window
        return max(abs(window.left), abs(1 - window.right), abs(window.top), abs(1 - window.bottom)) < 0.02


def equalised(backgrounds: np.ndarray, window: Window = WHOLE) -> np.ndarray:
    """Return what a window of backgrounds (N, H, W) shows, coarsely, as ranks: blind to any curve of grey levels.

    Returns:
        Pictures of thumbnail size with mean 0 and length 1, float32, (N, 24, 32).
    """
    rows, columns = THUMBNAIL_SIZE
    cells = backgrounds.reshape(len(backgrounds), rows, BACKGROUND_SIZE[0] // rows, columns, -1).mean(axis=(2, 4))
    shown = warp(blur_thumbnails(cells.astype(np.float32)), window)[0]
    ranks = shown.reshape(len(shown), -1).argsort(axis=1, kind="stable").argsort(axis=1).astype(np.float32)
    ranks -= (rows * columns - 1) / 2
    return (ranks / np.linalg.norm(ranks[:1])).reshape(shown.shape)


def fit_tones(
    backgrounds: np.ndarray, pairs: Sequence[tuple[int, int]], starts: Sequence[Window], *, least_likeness: float
) -> list[ToneFit | None]:
    """Fit pairs of backgrounds.

    Args:
        backgrounds: Uint8, shape (N, H, W).
        pairs: Which to compare.
        starts: Where to begin each search: the part of the second that the first may show.
        least_likeness: Correlation of the ranks below which a pair is given up.

    Returns:
        What each pair differs by; None where it was given up or too little can be compared.
    """
    ranks = equalised(backgrounds) * 1e3
    found: list[ToneFit | None] = []
    for begin in range(0, len(pairs), _BATCH):
        part = slice(begin, begin + _BATCH)
        windows, likeness = fit_windows([(ranks[first], ranks[second]) for first, second in pairs[part]], starts[part])
        edges = np.array([[window.left, window.right, window.top, window.bottom] for window in windows])
        levels = np.full(len(windows), np.inf)
        if len(at := np.flatnonzero(likeness >= least_likeness)):
            first, second = (backgrounds[[pair[side] for pair in pairs[part]]][at] for side in (0, 1))
            levels[at], edges[at] = _fit(first, second, edges[at])
        for level, window in zip(levels, edges, strict=True):
            found.append(ToneFit(float(level), Window(*map(float, window))) if np.isfinite(level) else None)
    return found


def _fit(first: np.ndarray, second: np.ndarray, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Refine windows (B, 4) of edges left, right, top, bottom; return least levels, shape (B,), and their windows."""
    clear = [((each > _DARKEST) & (each < _BRIGHTEST)).astype(np.float32) for each in (first, second)]
    ours, theirs = (_smooth(each.astype(np.float32) / 128 - 1) for each in (first, second))
    best, levels = windows.copy(), np.full(len(first), np.inf)
    at, tried = np.arange(len(first)), windows
    for turn in range(_ROUNDS):
        found, step = _step(ours[at], theirs[at], clear[0][at], clear[1][at], tried)
        better = found < levels[at]
        levels[at[better]], best[at[better]] = found[better], tried[better]
        tried = tried + step
        too_far = np.abs(tried - (0.0, 1.0, 0.0, 1.0)).max(axis=1) > _LARGEST_CROP
        going = ~too_far & (found < _HOPELESS) & (better | (turn < 2))
        at, tried = at[going], tried[going]
        if not len(at):
            break
    return levels, best


def _step(
    ours: np.ndarray, theirs: np.ndarray, clear: np.ndarray, their_clear: np.ndarray, windows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the difference under windows, in levels, and by how much to move their edges, shape (B, 4)."""
    pairs, (height, width) = len(ours), BACKGROUND_SIZE
    rows, row_known = _sampling(height, windows[:, 2:])
    columns, column_known = _sampling(width, windows[:, :2])
    turned = columns.transpose(0, 2, 1)
    x = rows @ theirs @ turned
    weight = clear * (rows @ their_clear @ turned > 0.99) * (row_known[:, :, None] * column_known[:, None])
    down, right = np.gradient(x, axis=(1, 2))
    across, along = (np.arange(width) + 0.5) / width, ((np.arange(height) + 0.5) / height)[:, None]
    # Moving an edge by a share of the side moves what is shown at `across` by that share, times the picture's slope.
    scale_right = width / (windows[:, 1] - windows[:, 0])[:, None, None]
    scale_down = height / (windows[:, 3] - windows[:, 2])[:, None, None]
    right, down = right * scale_right, down * scale_down
    terms = np.empty((pairs, 8, height, width), dtype=np.float32)
    terms[:, 0], terms[:, 1] = weight, x * weight
    terms[:, 2] = terms[:, 1] * x
    terms[:, 3] = terms[:, 2] * x
    flat, y = terms.reshape(pairs, 8, -1), (ours * weight).reshape(pairs, -1, 1)
    curve = _solve(flat[:, :4], y)
    residual = y - flat[:, :4].transpose(0, 2, 1) @ curve
    count = np.maximum(1.0, weight.sum(axis=(1, 2)))
    variance = (y[..., 0] ** 2).sum(axis=1) / count - (y[..., 0].sum(axis=1) / count) ** 2
    contrast = np.sqrt(np.maximum(variance, (_FLATTEST / 128) ** 2))
    levels = CONTRAST * np.sqrt((residual[..., 0] ** 2).sum(axis=1) / count) / contrast
    usable = (count >= _LEAST_SHARE * height * width) & (variance > (_FLATTEST / 128) ** 2)
    c = curve[:, :, 0, None, None]
    slope = (c[:, 1] + x * (2 * c[:, 2] + 3 * x * c[:, 3])) * weight
    right, down = right * slope, down * slope
    terms[:, 4], terms[:, 5], terms[:, 6], terms[:, 7] = (
        right * (1 - across),
        right * across,
        down * (1 - along),
        down * along,
    )
    move = _solve(flat, residual)[:, 4:, 0]
    return np.where(usable, levels, np.inf), np.clip(move, -0.03, 0.03)


def _solve(terms: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Least squares of values (B, P, 1) by terms (B, K, P), shape (B, K, 1)."""
    table = (terms @ terms.transpose(0, 2, 1)).astype(np.float64)
    spread = np.maximum(1e-9, np.trace(table, axis1=1, axis2=2))[:, None, None]
    return np.linalg.solve(table + 1e-7 * spread * np.eye(terms.shape[1]), terms @ values).astype(np.float32)


def _sampling(side: int, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear sampling of intervals (B, 2): matrices (B, side, side), and which places are inside, (B, side)."""
    places = (ends[:, :1] + (np.arange(side) + 0.5) / side * (ends[:, 1:] - ends[:, :1])) * side - 0.5
    known = (places >= -0.5) & (places <= side - 0.5)
    weights = np.maximum(0, 1 - np.abs(np.clip(places, 0, side - 1)[..., None] - np.arange(side)))
    return weights.astype(np.float32), known.astype(np.float32)


def _smooth(pictures: np.ndarray) -> np.ndarray:
    """Blur pictures (B, H, W) over about a pixel."""
    rows, columns = (_blur_matrix(side) for side in BACKGROUND_SIZE)
    return rows @ pictures @ columns.T


def _blur_matrix(side: int) -> np.ndarray:
    distance = np.arange(side)[:, None] - np.arange(side)
    weights = np.exp(-0.5 * (distance / _BLUR_PX) ** 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
