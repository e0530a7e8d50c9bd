"""How often a 95 % interval holds the truth: ours beside a plain bootstrap over clips, on simulated evaluations.

    python benchmarks/intervals.py                    every table, about ten minutes on one core
    python benchmarks/intervals.py --repeats 200      a quick look
    python benchmarks/intervals.py --what points --repeats 500   figures at thresholds alone, a minute

A simulated yard has cameras of different difficulty: each adds its own normal offsets to the logits and its own mix
of classes, so that clips of one camera are wrong together. The truth is the figure over very many cameras. 'Clips' is
what most code does: clips drawn with replacement, the 2.5 and 97.5 percentiles. With fewer than 8 cameras ours draws
clips too and speaks of these cameras only, so there the truth is the figure over very many clips of the same cameras.

At operating points every label has the threshold THRESHOLD and every clip lasts CLIP_SECONDS; 'clips' is then Wilson's
interval for recall and precision and Garwood's for false alarms per hour, over clips whatever their camera.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from railsformer.evaluation.intervals import bootstrap_intervals, poisson_rate_interval, wilson_interval
from railsformer.evaluation.operating_points import ScoredSplit, measure_threshold
from railsformer.evaluation.resampling import draw_resamples, resampled_figures

LABELS = ("excavator", "bucket", "cabin", "other")
SHARES = np.array([0.2, 0.25, 0.15, 0.4])
FIGURES = ("accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "map", "calibration_error", "brier")
CLASS_FIGURES = ("precision", "recall", "f1", "average_precision")
POINT_FIGURES = ("recall", "precision", "false_alarms_per_hour")
THRESHOLD, CLIP_SECONDS = 0.4, 10.0
SCENES = (
    (8, 20, 1.0, 2.0),
    (12, 20, 1.0, 2.0),
    (12, 20, 1.0, 3.5),
    (40, 10, 1.0, 2.0),
    (100, 1, 0.0, 2.0),
    (4, 25, 1.0, 2.0),
)  # cameras, clips of each, spread, signal


@dataclass(frozen=True)
class Cameras:
    """Offsets of each camera.

    Args:
        signal: Logit of the true class, shape (num_cameras,).
        bias: Added to the logits, shape (num_cameras, num_labels).
        shares: Mix of classes, shape (num_cameras, num_labels).
    """

    signal: np.ndarray
    bias: np.ndarray
    shares: np.ndarray


def draw_cameras(rng: np.random.Generator, count: int, *, spread: float, signal: float = 2.0) -> Cameras:
    """Draw cameras; spread 0 makes them all alike."""
    shares = rng.dirichlet(SHARES * 10, count) if spread else np.tile(SHARES, (count, 1))
    return Cameras(rng.normal(signal, spread, count), rng.normal(0, spread / 2, (count, len(LABELS))), shares)


def draw_clips(rng: np.random.Generator, cameras: Cameras, *, each: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw clips of every camera: scores (N, L), references (N,) and camera indices (N,)."""
    groups = np.repeat(np.arange(len(cameras.signal)), each)
    cumulated = cameras.shares.cumsum(axis=1)[groups]
    references = (rng.random((len(groups), 1)) > cumulated[:, :-1]).sum(axis=1)
    logits = rng.normal(size=(len(groups), len(LABELS))) + cameras.bias[groups]
    logits[np.arange(len(groups)), references] += cameras.signal[groups]
    powers = np.exp(1.5 * (logits - logits.max(axis=1, keepdims=True)))  # surer than it should be
    return powers / powers.sum(axis=1, keepdims=True), references, groups


def true_figures(scores: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """Every figure of a very large evaluation."""
    figures = resampled_figures(scores, references, draw_resamples(len(references), None, resamples=1, seed=0))
    return _flat(
        {name: figures.overall[name][0] for name in FIGURES},
        {
            label: {name: figures.per_class[name][0, index] for name in CLASS_FIGURES}
            for index, label in enumerate(LABELS)
        },
    )


def our_intervals(
    scores: np.ndarray, references: np.ndarray, groups: np.ndarray, *, resamples: int, seed: int
) -> dict[str, list[float] | None]:
    """The intervals of the report."""
    found = bootstrap_intervals(
        scores,
        references,
        groups.tolist(),
        label_names=LABELS,
        figures=(*FIGURES, *CLASS_FIGURES),
        resamples=resamples,
        seed=seed,
    )
    return _flat(found["figures"], found["per_class"])


def clip_percentiles(
    scores: np.ndarray, references: np.ndarray, groups: np.ndarray, *, resamples: int, seed: int
) -> dict[str, list[float] | None]:
    """The peer: 2.5 and 97.5 percentiles of a bootstrap over clips, whatever their camera."""
    drawn = draw_resamples(len(references), None, resamples=resamples, seed=seed)
    figures = resampled_figures(scores, references, drawn)

    def interval(values: np.ndarray) -> list[float] | None:
        known = values[1:][np.isfinite(values[1:])]
        return np.quantile(known, [0.025, 0.975]).tolist() if len(known) else None

    return _flat(
        {name: interval(figures.overall[name]) for name in FIGURES},
        {
            label: {name: interval(figures.per_class[name][:, index]) for name in CLASS_FIGURES}
            for index, label in enumerate(LABELS)
        },
    )


def _flat(overall: dict, per_class: dict) -> dict:
    rows = {name: overall[name] for name in FIGURES}
    return rows | {f"{name} {label}": per_class[label][name] for label in LABELS for name in CLASS_FIGURES}


def coverage(
    *,
    cameras: int,
    each: int,
    spread: float,
    repeats: int,
    resamples: int = 2000,
    signal: float = 2.0,
    seed: int = 0,
    methods: tuple[Callable, ...] = (our_intervals, clip_percentiles),
) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Simulate evaluations and count how often an interval holds the truth.

    Args:
        cameras: Cameras of an evaluation; below 8 they are the same in every repeat.
        each: Clips of a camera.
        spread: Standard deviation of the cameras' logits; 0 is independent clips.
        repeats: Evaluations.
        resamples: Of each bootstrap.
        signal: Mean logit of the true class.
        seed: Of everything.
        methods: What makes the intervals.

    Returns:
        Method to figure to (share of given intervals that hold the truth, their mean width, share of repeats in which
        one was given).
    """
    rng = np.random.default_rng(seed)
    fixed = draw_cameras(rng, cameras, spread=spread, signal=signal) if cameras < 8 else None
    population = fixed or draw_cameras(rng, 20_000, spread=spread, signal=signal)
    truth = true_figures(*draw_clips(rng, population, each=400_000 // len(population.signal))[:2])
    held: dict[str, dict[str, list[tuple[bool, float]]]] = {method.__name__: defaultdict(list) for method in methods}
    for repeat in range(repeats):
        clips = draw_clips(rng, fixed or draw_cameras(rng, cameras, spread=spread, signal=signal), each=each)
        for method in methods:
            for name, interval in method(*clips, resamples=resamples, seed=repeat).items():
                if interval is not None:
                    low, high = interval
                    held[method.__name__][name].append((low <= truth[name] <= high, high - low))
    return {
        method: {
            name: (*np.mean(rows[name], axis=0).tolist(), len(rows[name]) / repeats) if rows[name] else (0, 0, 0)
            for name in truth
        }
        for method, rows in held.items()
    }


def points_of(
    scores: np.ndarray, references: np.ndarray, groups: list[int] | None
) -> dict[str, tuple[float | None, list[float] | None]]:
    """Figure and label to value and interval, at the thresholds."""
    videos = ScoredSplit(scores, references, np.full(len(references), CLIP_SECONDS), groups)
    found = {label: measure_threshold(videos, label=index, threshold=THRESHOLD) for index, label in enumerate(LABELS)}
    return {
        f"{name} {label}": (point[name], point["intervals"][name])
        for label, point in found.items()
        for name in POINT_FIGURES
    }


def points_coverage(
    *, cameras: int, each: int, spread: float, repeats: int, signal: float = 2.0, seed: int = 0
) -> dict[str, dict[str, tuple[float, float]]]:
    """Simulate evaluations as `coverage` does, and count how often an interval at a threshold holds the truth.

    Returns:
        `ours` and `clips` to figure to (share of given intervals that hold the truth, share that was given), over all
        labels.
    """
    rng = np.random.default_rng(seed)
    fixed = draw_cameras(rng, cameras, spread=spread, signal=signal) if cameras < 8 else None
    population = fixed or draw_cameras(rng, 20_000, spread=spread, signal=signal)
    everything = points_of(*draw_clips(rng, population, each=400_000 // len(population.signal))[:2], None)
    truth = {name: value for name, (value, _) in everything.items() if value is not None}
    held: dict[str, dict[str, list[bool]]] = {method: defaultdict(list) for method in ("ours", "clips")}
    for _ in range(repeats):
        scores, references, groups = draw_clips(
            rng, fixed or draw_cameras(rng, cameras, spread=spread, signal=signal), each=each
        )
        for method, drawn in (("ours", groups.tolist()), ("clips", None)):
            for name, (_, interval) in points_of(scores, references, drawn).items():
                if interval is not None:
                    low, high = interval
                    held[method][name.split()[0]].append(low <= truth[name] <= high)
    total = repeats * len(LABELS)
    return {
        method: {name: (float(np.mean(rows[name])), len(rows[name]) / total) for name in POINT_FIGURES}
        for method, rows in held.items()
    }


def wilson_coverage(total: int, share: float, *, level: float = 0.95) -> float:
    """Exact share of evaluations of `total` videos whose Wilson interval holds `share`."""
    intervals = [wilson_interval(hits, total, level=level) or [0, 1] for hits in range(total + 1)]
    chances = stats.binom.pmf(np.arange(total + 1), total, share)
    return float(sum(p for p, (low, high) in zip(chances, intervals, strict=True) if low <= share <= high))


def poisson_coverage(rate: float, hours: float, *, level: float = 0.95) -> float:
    """Exact share of recordings of `hours` whose interval holds `rate` per hour."""
    most = int(stats.poisson.ppf(1 - 1e-12, rate * hours)) + 1
    intervals = [poisson_rate_interval(events, hours, level=level) or [0, 0] for events in range(most + 1)]
    chances = stats.poisson.pmf(np.arange(most + 1), rate * hours)
    return float(sum(p for p, (low, high) in zip(chances, intervals, strict=True) if low <= rate <= high))


def print_coverages(title: str, found: dict[str, dict[str, tuple[float, float, float]]]) -> None:
    """Print one table; figures by class are averaged over the classes that got an interval."""
    ours, clips = found["our_intervals"], found["clip_percentiles"]
    print(f"\n{title}\n")
    print("| figure | ours holds | ours, width | given | clips holds | clips, width |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in FIGURES:
        print(_line(name, ours[name], clips[name]))
    for name in CLASS_FIGURES:
        pairs = [(ours[f"{name} {label}"], clips[f"{name} {label}"]) for label in LABELS]
        weights = np.array([mine[2] for mine, _ in pairs])
        if weights.sum():
            means = [np.average([pair[side] for pair in pairs], axis=0, weights=weights) for side in (0, 1)]
            means[0][2] = weights.mean()
            print(_line(f"{name}, by class", tuple(means[0]), tuple(means[1])))


def print_points(repeats: int) -> None:
    """Print the table of figures at thresholds."""
    print(f"\nAt the threshold {THRESHOLD}: ours holds (clips holds), and the share of ours that was given\n")
    print("| evaluation | recall | precision | false alarms per hour |\n|---|---|---|---|", flush=True)
    for cameras, each, spread, signal in SCENES:
        found = points_coverage(cameras=cameras, each=each, spread=spread, signal=signal, repeats=repeats)
        cells = [
            f"{found['ours'][name][0]:.3f} ({found['clips'][name][0]:.3f}), {found['ours'][name][1]:.2f}"
            for name in POINT_FIGURES
        ]
        print(f"| {cameras} cameras x {each}, signal {signal:g} | {' | '.join(cells)} |", flush=True)


def _line(name: str, ours: tuple[float, ...], clips: tuple[float, ...]) -> str:
    return f"| {name} | {ours[0]:.3f} | {ours[1]:.3f} | {ours[2]:.2f} | {clips[0]:.3f} | {clips[1]:.3f} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000, help="evaluations a table (default 1000)")
    parser.add_argument("--resamples", type=int, default=2000, help="of each bootstrap (default 2000)")
    parser.add_argument("--what", choices=("all", "points"), default="all", help="points: only those at thresholds")
    options = parser.parse_args()
    if options.what == "all":
        print_figures(options.repeats, options.resamples)
    print_points(options.repeats)


def print_figures(repeats: int, resamples: int) -> None:
    """Print the tables of figures without thresholds, and the exact ones."""
    for cameras, each, spread, signal in SCENES:
        found = coverage(
            cameras=cameras, each=each, spread=spread, signal=signal, repeats=repeats, resamples=resamples
        )
        kind = "the same cameras, seen again" if cameras < 8 else "cameras never seen"
        print_coverages(f"{cameras} cameras x {each} clips, spread {spread:g}, signal {signal:g}; {kind}", found)
    print(
        "\nWilson, exact: least and mean coverage over shares .01 to .99\n\n| videos | least | mean |\n|---|---|---|"
    )
    for total in (5, 10, 30, 100):
        covered = [wilson_coverage(total, share) for share in np.linspace(0.01, 0.99, 99)]
        print(f"| {total} | {min(covered):.3f} | {np.mean(covered):.3f} |")
    print("\nGarwood, exact: coverage of false alarms per hour over 2 hours\n\n| per hour | coverage |\n|---|---|")
    for rate in (0.1, 0.5, 1.0, 5.0, 20.0):
        print(f"| {rate:g} | {poisson_coverage(rate, 2.0):.3f} |")


if __name__ == "__main__":
    main()
