"""How often a meaningless map passes as 'better than chance', and a true one does, on simulated scores.

    python benchmarks/trust_chance.py [--patches 8] [--trials 240]

A clip's score hangs on a small object that moves through it, by a logistic function of how much of the object is
visible. Maps: smooth noise; a blob on another track (meaningless both), the object's own cells blurred, and the same
under noise. Compared: the verdict of `RemovalCurves` (smooth random orders) and what scattered random orders would
have said, taking as many of them.
"""

import argparse

import numpy as np
from scipy import stats
from scipy.ndimage import gaussian_filter

from railsformer.explain.removal import area, normal_ranks, removed_cells, smooth_surrogate

FRAMES, STEPS, NUM_RANDOM = 8, 8, 8
SCORES = ((8, 3), (20, 2), (8, 6))  # gain and offset of the logistic function


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=8, help="down and across")
    parser.add_argument("--trials", type=int, default=240)
    arguments = parser.parse_args()
    generator = np.random.default_rng(1)
    passed: dict[str, list[tuple[bool, bool]]] = {}
    for trial in range(arguments.trials):
        cells = track(arguments.patches, generator)
        for name, values in maps(cells, trial, generator).items():
            passed.setdefault(name, []).append(verdicts(values, cells, SCORES[trial % len(SCORES)], generator))
    print(f"{FRAMES} frames, {arguments.patches} x {arguments.patches} patches, {arguments.trials} maps a row")
    print(f"{'map':<22}{'smooth orders':>16}{'scattered orders':>18}")
    for name, found in passed.items():
        smooth, scattered = np.mean(found, axis=0)
        print(f"{name:<22}{smooth:>16.3f}{scattered:>18.3f}")


def track(patches: int, generator: np.random.Generator) -> np.ndarray:
    """The cells of a square that moves, shape (T, H, W)."""
    side = patches // 4
    cells = np.zeros((FRAMES, patches, patches))
    row, column = generator.integers(0, patches - side, 2)
    down, across = generator.integers(-1, 2, 2)
    for frame in range(FRAMES):
        top, left = np.clip((row + down * frame // 2, column + across * frame // 2), 0, patches - side)
        cells[frame, top : top + side, left : left + side] = 1
    return cells


def maps(cells: np.ndarray, trial: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Maps of known worth."""

    def noise(sigma: float) -> np.ndarray:
        found = gaussian_filter(generator.standard_normal(cells.shape), sigma)
        return found / found.std()

    return {
        "smooth noise": noise((0.7, 1.5, 3)[trial % 3]),
        "another track": gaussian_filter(track(cells.shape[1], generator), 1.0) + 0.02 * noise(1),
        "object blurred": gaussian_filter(cells, 1.0) + 0.02 * noise(1),
        "object": cells + 0.02 * noise(0.7),
        "object under noise": 2 * gaussian_filter(cells, 0.7) / gaussian_filter(cells, 0.7).max() + noise(0.7),
    }


def verdicts(
    values: np.ndarray, cells: np.ndarray, score: tuple[float, float], generator: np.random.Generator
) -> tuple[bool, bool]:
    """Whether a map is better than chance beside smooth and beside scattered random orders."""
    gain, offset = score
    weights = cells.ravel() / cells.sum()

    def difference(order: np.ndarray) -> float:
        deletion, reverse = (
            1 / (1 + np.exp(offset - gain * (~removed_cells(each, STEPS).reshape(STEPS + 1, -1) @ weights)))
            for each in (order, -order)
        )
        return area(reverse) - area(deletion)

    ranks = normal_ranks(values, generator)
    beaten = []
    for draw in (lambda: smooth_surrogate(ranks, generator), lambda: generator.standard_normal(cells.shape)):
        random = np.array([difference(draw()) for _ in range(NUM_RANDOM)])
        beaten.append(bool(difference(ranks) > stats.t.ppf(0.975, NUM_RANDOM) * np.sqrt(np.mean(random**2))))
    return beaten[0], beaten[1]


if __name__ == "__main__":
    main()
