"""Deletion and insertion: does the score follow the map when cells are taken away, or shown, in the map's order?

Deletion takes the most relevant cells away first, and a good map lets the probability fall early: small area under
the curve. Insertion shows the most relevant cells first on an empty clip: large area.

Chance. The areas stand beside those of random orders, of two kinds. 'Scattered' orders draw every cell by itself.
Beside those, however, even a meaningless map stands out, for better or worse, if it is as smooth as maps are: it takes
whole objects away, or none. So the verdict is against 'smooth' orders: random maps of the same spectrum as the
judged map's ranks (their Fourier phases are drawn anew), which come in lumps of the same size. A map is better than
chance if its insertion area less its deletion area is larger than in 97.5 % of smooth random orders.

A random order read backwards is a random order too, and what one takes away first the other shows last. So each smooth
order is run forwards and backwards, and its two deletion curves give both areas of both: half of the cost, and
differences that are even around 0 by construction.

Measured on simulated scores (benchmarks/trust_chance.py): 1 to 4 of 100 maps of smooth noise pass and 7 to 8 of a
blob in a wrong place, where scattered orders would let 20 to 35 pass; of maps that show the cause 68 to 100 pass, the
fewest where the map is much larger than the cause.

Dimensions: T frames, H and W patches down and across, S steps.

Source: Petsiuk et al. 2018 (RISE, arXiv 1806.07421, section 4.2); phases as surrogate data of Theiler et al. 1992.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats

from railsformer.explain.occlusion import Fill, cell_grid, filled_clips, masked_scores
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

__all__ = [
    "RemovalCurves",
    "area",
    "deletion_insertion",
    "normal_ranks",
    "removal_passes",
    "removed_cells",
    "smooth_surrogate",
]

_SCATTERED = 6  # scattered orders: their areas hardly differ
_LEAST_DIFFERENCE = 1e-3  # of areas: less is rounding, or a score that does not depend on the clip
_RANGE_SHARE = 0.95  # of random orders that a range holds


@dataclass(frozen=True)
class RemovalCurves:
    """What became of the target's probability.

    Args:
        fractions: Of cells taken away (deletion) or shown (insertion), 0 to 1, shape (S + 1,).
        deletion: Probability of the target, the most relevant cells taken away first, shape (S + 1,).
        insertion: The same, the most relevant cells shown first.
        smooth_areas: Of random orders in lumps as large as the map's, each forwards and backwards, shape
            (num_random, 2). One's deletion area is the other's insertion area.
        scattered_areas: Of random orders cell by cell.
        flat: Whether the map gives every cell the same relevance, and so no order.
        forward_passes: Clips that went through the network for all this.
    """

    fractions: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray
    smooth_areas: np.ndarray
    scattered_areas: np.ndarray
    flat: bool
    forward_passes: int

    @property
    def deletion_area(self) -> float:
        """Under `deletion`, the mean probability on the way; small is good."""
        return area(self.deletion)

    @property
    def insertion_area(self) -> float:
        """Under `insertion`; large is good."""
        return area(self.insertion)

    @property
    def random_mean(self) -> float:
        """Mean area of smooth random orders, deletion and insertion alike."""
        return float(self.smooth_areas.mean())

    @property
    def random_range(self) -> tuple[float, float]:
        """95 % of the smooth random orders' areas."""
        low, high = np.quantile(self.smooth_areas, [(1 - _RANGE_SHARE) / 2, (1 + _RANGE_SHARE) / 2])
        return float(low), float(high)

    @property
    def difference(self) -> float:
        """Insertion area less deletion area, -1 to 1; large is good, 0 is a random order's mean."""
        return self.insertion_area - self.deletion_area

    @property
    def random_difference(self) -> float:
        """95 % of smooth random orders have a difference between minus and plus this: Student's t around 0."""
        differences = self.smooth_areas[:, 0] - self.smooth_areas[:, 1]
        spread = math.sqrt(np.mean(differences**2))
        return float(stats.t.ppf((1 + _RANGE_SHARE) / 2, len(differences))) * spread

    @property
    def better_than_chance(self) -> bool:
        """Whether the difference lies above the smooth random orders' range; a meaningless map's seldom does."""
        return not self.flat and self.difference > self.random_difference + _LEAST_DIFFERENCE

    @property
    def verdict(self) -> str:
        """'better than chance' or 'no better than chance'."""
        return "better than chance" if self.better_than_chance else "no better than chance"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "fractions": self.fractions.tolist(),
            "deletion": self.deletion.tolist(),
            "insertion": self.insertion.tolist(),
            "deletion_area": self.deletion_area,
            "insertion_area": self.insertion_area,
            "difference": self.difference,
            "random_mean_area": self.random_mean,
            "random_range_95": list(self.random_range),
            "random_difference_95": self.random_difference,
            "random_areas": self.smooth_areas.tolist(),
            "scattered_mean_area": float(self.scattered_areas.mean()),
            "scattered_areas": self.scattered_areas.tolist(),
            "verdict": self.verdict,
            "flat": self.flat,
            "forward_passes": self.forward_passes,
        }


def deletion_insertion(
    model: RailsformerForVideoClassification,
    pixel_values: torch.Tensor,
    relevance: torch.Tensor,
    target: int,
    *,
    steps: int = 8,
    num_random: int = 8,
    fill: Fill = "mean",
    temperature: float = 1.0,
    batch_size: int = 8,
    seed: int = 0,
) -> RemovalCurves:
    """Take cells of one clip away, and show them, in the map's order and in random orders.

    Args:
        model: The classifier. Runs in evaluation mode and is left as it was.
        pixel_values: One normalised clip, shape (1, T, C, height, width).
        relevance: Of its cells, shape (1, T, H, W) or (T, H, W); only their order counts. Ties are put in random
            order.
        target: Class index.
        steps: Equal parts in which cells are taken away; fewer where the clip has fewer cells.
        num_random: Smooth random orders, each forwards and backwards; six scattered ones come with them.
        fill: What stands where cells are missing, as in `occlude`.
        temperature: Logits are divided by it before the softmax.
        batch_size: Clips in a forward pass.
        seed: Of the random orders.

    Raises:
        ValueError: If there is more than one clip, the map is of another shape or not finite, or a number is not
            allowed.
    """
    grid = cell_grid(model, pixel_values)
    values = _checked_map(relevance, pixel_values, grid)
    if steps < 2:
        raise ValueError(f"steps must be at least 2, got {steps}")
    if num_random < 5:
        raise ValueError(f"num_random must be at least 5 for a 95 % range, got {num_random}")
    steps = min(steps, values.size)
    generator = np.random.default_rng(seed)
    ranks = normal_ranks(values, generator)
    scattered = [generator.standard_normal(grid) for _ in range(_SCATTERED)]
    smooth = [smooth_surrogate(ranks, generator) for _ in range(num_random)]
    orders = [ranks, -ranks, *(sign * each for each in smooth for sign in (1, -1)), *scattered]
    # The whole clip and the empty one are the ends of every curve: scored once.
    inner = np.concatenate([removed_cells(each, steps)[1:-1] for each in orders])
    masks = torch.from_numpy(np.concatenate((removed_cells(ranks, steps)[[0, -1]], inner)))
    scores = masked_scores(
        model,
        pixel_values[0],
        masks,
        target,
        filled=filled_clips(pixel_values, fill)[0],
        temperature=temperature,
        batch_size=batch_size,
    ).numpy()
    whole, empty = scores[:2]
    curves = np.full((len(orders), steps + 1), whole)
    curves[:, 1:-1] = scores[2:].reshape(len(curves), -1)
    curves[:, -1] = empty
    areas = np.array([area(curve) for curve in curves[2:]])
    return RemovalCurves(
        fractions=np.linspace(0, 1, steps + 1),
        deletion=curves[0],
        # the least relevant taken away first, read backwards: the most relevant shown first
        insertion=curves[1, ::-1].copy(),
        smooth_areas=areas[:-_SCATTERED].reshape(num_random, 2),
        scattered_areas=areas[-_SCATTERED:],
        flat=bool(np.ptp(values) == 0),
        forward_passes=len(masks),
    )


def removal_passes(steps: int, num_random: int) -> int:
    """Forward passes of one clip that `deletion_insertion` takes."""
    return 2 + (steps - 1) * (2 + 2 * num_random + _SCATTERED)


def normal_ranks(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Each value's normal score: where its rank stands in a standard normal; ties in random order. Same shape."""
    flat = values.ravel()
    order = np.lexsort((generator.random(flat.size), flat))
    scores = np.empty(flat.size)
    scores[order] = stats.norm.ppf((np.arange(flat.size) + 0.5) / flat.size)
    return scores.reshape(values.shape)


def smooth_surrogate(ranks: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A random map with the spectrum of `ranks`: as lumpy, the lumps elsewhere. Same shape."""
    axes = tuple(range(ranks.ndim))
    # Phases of real noise, so that the inverse is real too.
    noise = np.fft.rfftn(generator.standard_normal(ranks.shape), axes=axes)
    spectrum = np.abs(np.fft.rfftn(ranks, axes=axes)) * noise / np.maximum(np.abs(noise), 1e-12)
    return np.fft.irfftn(spectrum, s=ranks.shape, axes=axes)


def removed_cells(values: np.ndarray, steps: int) -> np.ndarray:
    """True where a cell is taken away, the highest first, from none to all, shape (S + 1, T, H, W)."""
    place = np.empty(values.size, dtype=int)
    place[np.argsort(-values.ravel(), kind="stable")] = np.arange(values.size)
    counts = np.round(np.arange(steps + 1) * values.size / steps)
    return (place < counts[:, None]).reshape(-1, *values.shape)


def area(curve: np.ndarray) -> float:
    """Under a curve over fractions from 0 to 1, by trapezoids."""
    return float(np.trapezoid(curve, dx=1 / (len(curve) - 1)))


def _checked_map(relevance: torch.Tensor, pixel_values: torch.Tensor, grid: tuple[int, int, int]) -> np.ndarray:
    """The map as float64 (T, H, W)."""
    if len(pixel_values) != 1:
        raise ValueError(f"pixel_values must hold one clip, got {len(pixel_values)}; call once a clip")
    if tuple(relevance.shape) not in (grid, (1, *grid)):
        raise ValueError(
            f"relevance must have one value a frame and patch, shape {(1, *grid)}, got {tuple(relevance.shape)}"
        )
    values = relevance.detach().reshape(grid).double().cpu().numpy()
    if not np.isfinite(values).all():
        raise ValueError(f"relevance holds NaN or infinite values ({np.sum(~np.isfinite(values))} of {values.size})")
    return values
