"""Fingerprints -> which videos are copies of each other.

A fixed camera makes all of its videos look alike, so near copies are told by what differs from the camera's own
background. Two videos are near copies if, at some crop and some shift in time, what stands still agrees closely and
what moves (the change over a second, which holds no background) agrees almost wholly. Where hardly anything moves,
what stands still must agree to about a grey level: then nobody could tell the two apart. Of videos that hardly move,
finer backgrounds are compared too, after a crop and a change of brightness were undone. Flat and black pictures are
not compared.

How many copies are found, by kind, and how many pairs are flagged falsely: docs/leak_audit.md.

Shapes: N stretches, T thumbnails, H x W thumbnail (24 x 32), P coarse cells, F frequencies, K shifts in time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np

from railsformer.data.copies.alignment import CONTRAST, WHOLE, Agreement, Stretch, Window, agreements, warp
from railsformer.data.copies.clusters import Copies, NearCopy
from railsformer.data.copies.fingerprints import THUMBNAIL_RATE, THUMBNAIL_SIZE, Fingerprint
from railsformer.data.copies.tone_fit import ToneFit, equalised, fit_tones

__all__ = ["find_copies"]

# The limits below were set on one half of tankyard and copies planted in it; docs/leak_audit.md reports on the other.
# Energies are mean squares of the motion, in grey levels squared; levels are root mean square differences.
_STRONG_ENERGY = 1.0
_WEAK_ENERGY = 0.05  # less is the noise of coding, which no two encoders make alike
_SAME_STRONG_MOTION = 0.92  # normalised correlation
_SAME_WEAK_MOTION = 0.75  # other events score lower there, and re-encoding costs more
_SAME_STILLNESS = 0.95
_NOISE_ENERGY = 4.0  # motion that counts as none beside _SAME_STILLNESS
_LEVELS_MOVING = 5.0  # of CONTRAST, by which what stands still may differ if the motion agrees
_LEVELS_STILL = 1.0  # and if nothing moves
# Finer backgrounds of videos that hardly move. Other moments of a fixed camera show the whole of each other, so a crop
# that fits is evidence by itself.
_FINE_LEVELS_WHOLE = 3.3
_FINE_LEVELS_CROPPED = 6.5
_NEXT_BEST = 1.6  # times the levels of the best whole of a crop: others show other moments of its scene
_QUIET_ENERGY = 0.1  # less motion may differ
_CANDIDATE_RANKS = 0.955  # correlation
_MAX_RANKED = 30  # candidates of a video by these ranks
_MIN_OVERLAP = 2 * THUMBNAIL_RATE  # thumbnails
# The search for candidates is coarse, so its limits are loose.
_CANDIDATE_MOTION = 0.6
_CANDIDATE_BACKGROUND = 0.8
_CANDIDATE_STILL = 0.9887  # 6 levels
_CANDIDATE_CROPPED = 0.975
_MAX_CANDIDATES = 30  # a stretch
_LONGEST_STRETCH = 64 * THUMBNAIL_RATE  # longer videos are cut into parts that overlap by half
_LONGEST_HOLD = 5 * THUMBNAIL_RATE  # thumbnails without a new picture, after which a stretch ends
_BLOCK = 16  # rows of all-pairs tables at a time
_BATCH = 128  # pairs that are aligned at a time
_CACHE_BYTES = 2**28
_CROPS = (
    WHOLE,
    Window(0.05, 0.95, 0.05, 0.95),
    Window(0.1, 0.9, 0.1, 0.9),
    Window(0.1, 1.0, 0.1, 1.0),
    Window(0.1, 1.0, 0.0, 0.9),
    Window(0.0, 0.9, 0.1, 1.0),
    Window(0.0, 0.9, 0.0, 0.9),
)


def find_copies(fingerprints: Sequence[Fingerprint]) -> Copies:
    """Find exact and near copies.

    Near copies overlap by two seconds and by half of the shorter one at least. Mirrored and turned copies are not
    found, nor those cropped by more than 16 % a side.

    Args:
        fingerprints: One for each video.
    """
    by_hash: dict[str, list[int]] = {}
    for index, fingerprint in enumerate(fingerprints):
        by_hash.setdefault(fingerprint.exact_hash, []).append(index)
    clusters = list(by_hash.values())
    pieces = [piece for cluster in clusters for piece in _cut(fingerprints[cluster[0]], cluster[0])]
    still = {cluster[0] for cluster in clusters} - {piece.video for piece in pieces if piece.energy >= _WEAK_ENERGY}
    pairs = _near_copies(pieces, fingerprints)
    known = {(pair.first, pair.second) for pair in pairs}
    pairs += [pair for pair in _still_copies(pieces, fingerprints) if (pair.first, pair.second) not in known]
    near: list[NearCopy] = []
    for pair in pairs:
        first, second = by_hash[fingerprints[pair.first].exact_hash], by_hash[fingerprints[pair.second].exact_hash]
        near += [_ordered(a, b, pair.similarity, pair.offset_seconds, pair.still) for a in first for b in second]
    return Copies(
        exact=tuple(tuple(cluster) for cluster in clusters if len(cluster) > 1),
        near=tuple(sorted(near, key=lambda pair: (pair.first, pair.second))),
        too_still=tuple(sorted(index for cluster in clusters for index in cluster if cluster[0] in still)),
    )


@dataclass(frozen=True, eq=False)
class _Piece:
    """What the coarse search needs of a stretch.

    Attributes:
        video: Index of its video.
        first: Its first thumbnail, counted from the video's start.
        source: Which of the fingerprint's thumbnails are shown, shape (T,).
        energy: Mean square of its motion.
        background: Shape (H, W).
        signature: Coarse motion, float16, shape (T, P).
    """

    video: int
    first: int
    source: np.ndarray
    energy: float
    background: np.ndarray
    signature: np.ndarray


def _ordered(first: int, second: int, similarity: float, offset_seconds: float, still: bool) -> NearCopy:
    if first < second:
        return NearCopy(first, second, similarity, offset_seconds, still)
    return NearCopy(second, first, similarity, -offset_seconds, still)


def _cut(fingerprint: Fingerprint, video: int) -> Iterator[_Piece]:
    """Lay thumbnails on an even grid, in stretches that hold no long gap and are not too long."""
    ticks = np.rint(fingerprint.times_seconds * THUMBNAIL_RATE).astype(int)
    ends = [*(np.flatnonzero(np.diff(ticks) > _LONGEST_HOLD) + 1), len(ticks)]
    begin = 0
    for end in ends:
        grid = np.arange(ticks[begin], ticks[end - 1] + 1)
        source = np.searchsorted(ticks, grid, side="right") - 1
        for start in range(0, max(1, len(grid) - _LONGEST_STRETCH // 2), _LONGEST_STRETCH // 2):
            shown = source[start : start + _LONGEST_STRETCH]
            stretch = Stretch.of(fingerprint.thumbnails[shown])
            if stretch is not None:
                yield _Piece(
                    video, int(grid[start]), shown, stretch.energy, stretch.background, _signature(stretch.motion)
                )
        begin = end


def _signature(motion: np.ndarray) -> np.ndarray:
    height, width = THUMBNAIL_SIZE
    cells = motion.reshape(len(motion), height // 4, 4, width // 4, 4).mean(axis=(2, 4))
    return cells.reshape(len(motion), height * width // 16).astype(np.float16)


def _near_copies(pieces: Sequence[_Piece], fingerprints: Sequence[Fingerprint]) -> list[NearCopy]:
    """Return the best near copy of each pair of videos."""

    longest = max((len(piece.source) for piece in pieces), default=1)
    stretch_bytes = 2 * 4 * longest * THUMBNAIL_SIZE[0] * THUMBNAIL_SIZE[1]

    @lru_cache(maxsize=_CACHE_BYTES // stretch_bytes)
    def stretch(index: int) -> Stretch:
        piece = pieces[index]
        made = Stretch.of(fingerprints[piece.video].thumbnails[piece.source])
        assert made is not None  # _cut has seen it
        return made

    found: dict[tuple[int, int], NearCopy] = {}
    candidates = _candidates(pieces)
    while batch := list(islice(candidates, _BATCH)):
        results = agreements(
            [(stretch(first), stretch(second)) for first, second, _ in batch],
            starts=[start for _, _, start in batch],
            min_overlaps=[_least_overlap(pieces[first], pieces[second]) for first, second, _ in batch],
            noise=_NOISE_ENERGY,
        )
        for (first, second, _), result in zip(batch, results, strict=True):
            if not _is_copy(result):
                continue
            pair = _near_copy(pieces[first], pieces[second], result)
            key = (pair.first, pair.second)
            if key not in found or found[key].similarity < pair.similarity:
                found[key] = pair
    return list(found.values())


def _least_overlap(one: _Piece, other: _Piece) -> int:
    """In a short overlap other moments agree by chance: trains pass much alike."""
    return max(_MIN_OVERLAP, min(len(one.source), len(other.source)) // 2)


def _near_copy(one: _Piece, other: _Piece, result: Agreement) -> NearCopy:
    still = _is_still(result)
    similarity = result.background if still else result.motion
    offset = 0.0 if still else (one.first - other.first + result.offset) / THUMBNAIL_RATE
    return _ordered(one.video, other.video, min(1.0, similarity), offset, still)


def _is_copy(result: Agreement) -> bool:
    levels = _levels(result.background)
    if _is_still(result):
        return levels <= _LEVELS_STILL
    least = _SAME_STRONG_MOTION if result.energy >= _STRONG_ENERGY else _SAME_WEAK_MOTION
    return result.energy >= _WEAK_ENERGY and result.motion >= least and levels <= _LEVELS_MOVING


def _is_still(result: Agreement) -> bool:
    """Tell whether both hardly move, so that their motion says nothing."""
    agrees = result.energy >= _WEAK_ENERGY and result.motion >= _SAME_WEAK_MOTION
    return result.energy < _STRONG_ENERGY and result.still >= _SAME_STILLNESS and not agrees


def _levels(correlation: float) -> float:
    """Root mean square difference, in grey levels, of two pictures of CONTRAST with a normalised correlation."""
    return CONTRAST * max(0.0, 1 - max(0.0, correlation) ** 2) ** 0.5


def _still_copies(pieces: Sequence[_Piece], fingerprints: Sequence[Fingerprint]) -> list[NearCopy]:
    """Return pairs that hardly move and whose finer backgrounds are the same but for a crop and the light."""
    moving = {piece.video for piece in pieces if piece.energy >= _STRONG_ENERGY}
    quiet = np.array(sorted({piece.video for piece in pieces} - moving), dtype=int)
    if len(quiet) < 2:
        return []
    backgrounds = np.stack([fingerprints[video].background for video in quiet])
    pairs = _ranked_pairs(backgrounds)
    fits = fit_tones(
        backgrounds,
        [(first, second) for first, second, _ in pairs],
        [window for _, _, window in pairs],
        least_likeness=_CANDIDATE_RANKS,
    )
    best: dict[int, float] = {}
    for pair, fit in zip(pairs, fits, strict=True):
        if fit is not None and not fit.is_whole:
            best[_crop_of(pair, fit)] = min(fit.levels, best.get(_crop_of(pair, fit), np.inf))
    energies = {piece.video: piece.energy for piece in sorted(pieces, key=lambda piece: piece.energy)}
    found = []
    for pair, fit in zip(pairs, fits, strict=True):
        if fit is None or fit.levels > (_FINE_LEVELS_WHOLE if fit.is_whole else _FINE_LEVELS_CROPPED):
            continue
        first, second = (int(quiet[side]) for side in pair[:2])
        nearer = not fit.is_whole and fit.levels > _NEXT_BEST * best[_crop_of(pair, fit)]
        if not nearer and _may_be_same_moment(energies[first], energies[second], fit):
            found.append(_ordered(first, second, (1 - (fit.levels / CONTRAST) ** 2) ** 0.5, 0.0, True))
    return found


def _crop_of(pair: tuple[int, int, Window], fit: ToneFit) -> int:
    """Return which of the pair shows a part of the other."""
    window = fit.window
    return pair[0] if (window.right - window.left) * (window.bottom - window.top) < 1 else pair[1]


def _may_be_same_moment(energy: float, other: float, fit: ToneFit) -> bool:
    """Tell whether two videos move about as little; somebody walks in one of them otherwise."""
    low, high = sorted((energy, other))
    return high < _QUIET_ENERGY or (low >= high / 3 and (high < _STRONG_ENERGY / 2 or not fit.is_whole))


def _ranked_pairs(backgrounds: np.ndarray) -> list[tuple[int, int, Window]]:
    """Return pairs of backgrounds that may be the same, and the part of the second that the first may show."""
    looks = _Looks(np.stack([equalised(backgrounds, window).reshape(len(backgrounds), -1) for window in _CROPS]))
    found: dict[tuple[int, int], Window] = {}
    for begin in range(0, len(backgrounds), _BLOCK):
        rows = np.arange(begin, min(begin + _BLOCK, len(backgrounds)))
        likeness, crop = looks.rows(rows)
        likeness[np.arange(len(rows)), rows] = -np.inf
        for row, scores in zip(rows, likeness, strict=True):
            for other in np.argsort(-scores, kind="stable")[:_MAX_RANKED]:
                if scores[other] < _CANDIDATE_RANKS:
                    break
                if (int(other), int(row)) not in found:
                    found[int(row), int(other)] = looks.window(int(crop[row - begin, other]))
    return [(first, second, window) for (first, second), window in found.items()]


def _candidates(pieces: Sequence[_Piece]) -> Iterator[tuple[int, int, Window]]:
    """Yield pairs that may be copies, and the part of the second that the first may show."""
    if not pieces:
        return
    looks, crops = _Looks(_cropped(np.stack([piece.background for piece in pieces]))), _Motions(pieces)
    energy = np.array([piece.energy for piece in pieces])
    video = np.array([piece.video for piece in pieces])
    seen: set[tuple[int, int]] = set()
    for begin in range(0, len(pieces), _BLOCK):
        rows = np.arange(begin, min(begin + _BLOCK, len(pieces)))
        background, crop = looks.rows(rows)
        motion = crops.rows(rows)
        least = np.minimum(energy[rows, None], energy)
        likely = (least >= _WEAK_ENERGY) & (motion >= _CANDIDATE_MOTION) & (background >= _CANDIDATE_BACKGROUND)
        likely |= (least < _STRONG_ENERGY) & (background >= _CANDIDATE_STILL)
        likely |= (crop > 0) & (background >= _CANDIDATE_CROPPED)
        likely &= video[rows, None] != video
        rank = np.where(likely, np.where(least >= _WEAK_ENERGY, motion, 0) + background, -np.inf)
        for row, ranks in zip(rows, rank, strict=True):
            for other in np.argsort(-ranks, kind="stable")[:_MAX_CANDIDATES]:
                if not np.isfinite(ranks[other]):
                    break
                key = (min(int(row), int(other)), max(int(row), int(other)))
                if key not in seen:
                    seen.add(key)
                    yield int(row), int(other), looks.window(int(crop[row - begin, other]))


class _Looks:
    """How much backgrounds agree, each in full or as a crop of the other."""

    def __init__(self, cropped: np.ndarray) -> None:
        self._cropped = cropped  # vectors of mean 0 and length 1, (crops, N, H·W)

    def rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the highest correlation with each other stretch and the number of its window, both (rows, N)."""
        whole = self._cropped[0]
        ours = self._cropped[:, rows] @ whole.T  # a crop of ours is the whole of theirs
        theirs = whole[rows] @ self._cropped[1:].transpose(0, 2, 1)
        every = np.concatenate([ours[:1], theirs, ours[1:]])
        best = every.argmax(axis=0)
        return np.take_along_axis(every, best[None], axis=0)[0], best

    @staticmethod
    def window(number: int) -> Window:
        """Return the part of the second picture that the first shows."""
        if number < len(_CROPS):
            return _CROPS[number]
        crop = _CROPS[number - len(_CROPS) + 1]
        width, height = crop.right - crop.left, crop.bottom - crop.top
        return Window(-crop.left / width, (1 - crop.left) / width, -crop.top / height, (1 - crop.top) / height)


class _Motions:
    """How much motions agree at the best shift in time, by Fourier transforms over time."""

    def __init__(self, pieces: Sequence[_Piece]) -> None:
        self._lengths = np.array([len(piece.signature) for piece in pieces])
        self._size = 2 ** int(2 * self._lengths.max() - 1).bit_length()
        self._signatures = self._spectra([piece.signature for piece in pieces])  # (F, N, P)
        self._energies = self._spectra([(piece.signature.astype(np.float32) ** 2).sum(axis=1) for piece in pieces])
        self._present = self._spectra([np.ones(len(piece.signature)) for piece in pieces])  # (F, N)

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the highest correlation over all shifts with each other stretch, shape (rows, N)."""
        product = self._over_shifts(
            self._signatures[:, rows] @ self._signatures.conj().transpose(0, 2, 1)
        )  # (K, rows, N)
        first = self._over_shifts(self._energies[:, rows, None] * self._present.conj()[:, None])
        second = self._over_shifts(self._present[:, rows, None] * self._energies.conj()[:, None])
        overlap = self._over_shifts(self._present[:, rows, None] * self._present.conj()[:, None])
        least = np.minimum(np.minimum(self._lengths[rows, None], self._lengths), _MIN_OVERLAP)
        score = product / np.sqrt(np.maximum(first * second, 1e-3))
        return np.where(overlap >= least - 0.5, score, -1.0).max(axis=0)

    def _spectra(self, series: Sequence[np.ndarray]) -> np.ndarray:
        each = [np.fft.rfft(values.astype(np.float32), n=self._size, axis=0).astype(np.complex64) for values in series]
        return np.stack(each, axis=1)

    def _over_shifts(self, spectra: np.ndarray) -> np.ndarray:
        return np.fft.irfft(spectra, n=self._size, axis=0).astype(np.float32)


def _cropped(backgrounds: np.ndarray) -> np.ndarray:
    return np.stack([_normalised(warp(backgrounds, window)[0]) for window in _CROPS])


def _normalised(pictures: np.ndarray) -> np.ndarray:
    """Pictures (N, H, W) as vectors of mean 0 and length 1."""
    flat = pictures.reshape(len(pictures), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
