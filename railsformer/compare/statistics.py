"""Are two variants different, or was it luck: of the test videos, and of training? Means, spreads, paired tests.

The difference of two variants is the mean over seeds of one's accuracy minus that of the other's, on the same test
videos. Its variance is the sum of two. That of the test videos comes from a paired bootstrap, by whole groups where
there are at least 8 and by clips otherwise, of the difference averaged over seeds. That of training is s^2 / n of each
variant's accuracies over its n seeds; of two that share their trainings (other views, frames in another order) it is
that of the differences seed by seed, since a training moves both. p and the interval are those of Student's t, with
the degrees of freedom of Welch and Satterthwaite. What differs from seed to seed on a video is in both, so p is rather
too large than too small. With one seed the luck of training is not known, and not in p.
"""

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from railsformer.evaluation.intervals import MIN_SUPPORT
from railsformer.evaluation.pairing import mcnemar_test
from railsformer.evaluation.resampling import draw_resamples

__all__ = ["SeedRuns", "compare_pairs", "holm", "paired_difference", "sentences", "spread_of"]

LEVEL = 0.95
ALPHA = 1 - LEVEL
_RESAMPLES = 2000


@dataclass(frozen=True)
class SeedRuns:
    """What a variant said of the test videos, with every seed.

    Attributes:
        name: Of the variant.
        right: By seed, whether each video is right: 1, 0, or NaN where it was not read; shape (num_videos,).
        is_drawn: Whether another seed gives something else.
    """

    name: str
    right: Mapping[int, np.ndarray]
    is_drawn: bool = True


def spread_of(values: Iterable[float]) -> dict[str, Any]:
    """Mean, standard deviation over seeds (n - 1; None of one seed) and the values themselves."""
    found = [float(value) for value in values]
    return {
        "mean": statistics.fmean(found) if found else None,
        "spread": statistics.stdev(found) if len(found) > 1 else None,
        "values": found,
    }


def compare_pairs(
    runs: Sequence[SeedRuns],
    groups: Sequence[object] | None,
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    same_training: bool = False,
) -> list[dict[str, Any]]:
    """Compare variants two by two, and correct p for the number of comparisons (Holm 1979).

    Args:
        runs: Variants that were measured on the same videos.
        groups: Recording or camera of each video, or None where unknown.
        pairs: Names to compare; all pairs if not given.
        same_training: Whether a seed's runs are of the same weights: then trainings are paired as test videos are.

    Returns:
        For each pair `a`, `b`, `difference` (a - b), `interval`, `p`, `p_holm`, `method` (groups or clips), `seeds`,
        `same_training`, `one_seed` (the luck of training is not known), and `mcnemar`, the exact test of each seed by
        itself.
    """
    by_name = {one.name: one for one in runs}
    chosen = pairs if pairs is not None else list(itertools.combinations(by_name, 2))
    found = [
        paired_difference(by_name[a], by_name[b], groups, same_training=same_training)
        for a, b in chosen
        if a in by_name and b in by_name
    ]
    for entry, corrected in zip(found, holm([entry["p"] for entry in found]), strict=True):
        entry["p_holm"] = corrected
    return found


def paired_difference(
    one: SeedRuns, other: SeedRuns, groups: Sequence[object] | None, *, same_training: bool = False
) -> dict[str, Any]:
    """One entry of `compare_pairs`, without `p_holm`.

    Raises:
        ValueError: If the two share no video that both could read.
    """
    read = ~np.isnan(np.stack([*one.right.values(), *other.right.values()])).any(axis=0)
    if not read.any():
        raise ValueError(f"{one.name} and {other.name} share no test video that both could read")
    a, b = ({seed: right[read] for seed, right in runs.right.items()} for runs in (one, other))
    kept = None if groups is None else [group for group, is_read in zip(groups, read.tolist(), strict=True) if is_read]
    shared = [seed for seed in a if seed in b]
    entry: dict[str, Any] = {"a": one.name, "b": other.name, "seeds": shared}
    if same_training:
        a, b = ({seed: runs[seed] for seed in shared} for runs in (a, b))
    each = np.mean([*a.values()], axis=0) - np.mean([*b.values()], axis=0)
    drawn = draw_resamples(len(each), kept, resamples=_RESAMPLES, seed=0)
    sums = drawn.sums(np.stack([each, np.ones(len(each))], axis=1))
    resampled = sums[1:, 0] / sums[1:, 1]
    num_units = drawn.counts.shape[1]
    parts = [(float(resampled.var()) * num_units / max(1, num_units - 1), num_units - 1)]  # variance, its freedom
    parts += _of_trainings(a, b, same_training=same_training)
    entry["difference"] = float(each.mean())
    entry |= _student(entry["difference"], parts if num_units >= MIN_SUPPORT else [], num_units=num_units)
    entry |= {"method": drawn.method, "same_training": same_training}
    entry["one_seed"] = any(run.is_drawn and len(run.right) == 1 for run in (one, other))
    entry["mcnemar"] = [{"seed": seed, **mcnemar_test(a[seed] == 1, b[seed] == 1)} for seed in shared]
    return entry


def _of_trainings(
    a: Mapping[int, np.ndarray], b: Mapping[int, np.ndarray], *, same_training: bool
) -> list[tuple[float, int]]:
    """Variances of the difference that come of training, each with its freedom; none where there is one seed."""
    accuracies = [{seed: float(right.mean()) for seed, right in runs.items()} for runs in (a, b)]
    drawn = [list(found.values()) for found in accuracies]
    if same_training:
        drawn = [[accuracies[0][seed] - accuracies[1][seed] for seed in a]]
    return [(statistics.variance(values) / len(values), len(values) - 1) for values in drawn if len(values) > 1]


def _student(difference: float, parts: Sequence[tuple[float, int]], *, num_units: int) -> dict[str, Any]:
    """p and interval of a difference whose variance is a sum; no interval where there is too little to say."""
    variance = sum(part for part, _ in parts)
    if not parts:
        return {"interval": None, "p": None}
    if variance < 1e-18:
        return _unanimous(difference, num_units=num_units)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    error = math.sqrt(variance)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    p = float(2 * stats.t.sf(abs(difference) / error, freedom))
    return {"interval": [max(-1.0, difference - reach), min(1.0, difference + reach)], "p": p}


def _unanimous(difference: float, *, num_units: int) -> dict[str, Any]:
    """Every unit says the same, with every seed: the sign test, and the share that may say the opposite."""
    if abs(difference) < 1e-9:
        return {"interval": None, "p": 1.0}
    least = ((1 - LEVEL) / 2) ** (1 / num_units)  # Clopper and Pearson: of the units, as many at least do so
    worst = difference * least - math.copysign(1 - least, difference)
    return {"interval": sorted((worst, difference)), "p": 2 * 0.5**num_units}


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p values corrected for their number, step by step (Holm 1979); None stays and does not count."""
    known = sorted((value, place) for place, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    least = 0.0
    for rank, (value, place) in enumerate(known):
        least = max(least, min(1.0, value * (len(known) - rank)))
        corrected[place] = least
    return corrected


def sentences(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the numbers carry, one sentence a pair, and what they leave out."""
    told = [_sentence(pair) for pair in pairs]
    if any(pair.get("method") == "clips" and pair["p"] is not None for pair in pairs):
        told.append(
            "Fewer than 8 groups were tested, so clips were taken as independent: on other cameras the differences "
            "may be others, and p is too small for them."
        )
    single = [pair for pair in pairs if pair.get("one_seed")]
    if any(not pair.get("same_training") for pair in single):
        told.append("With one seed the luck of training is not in these p values: another seed may turn them round.")
    if any(pair.get("same_training") for pair in single):
        told.append("Of one seed these are differences of one training's weights: another training may show others.")
    return told


def _sentence(pair: Mapping[str, Any]) -> str:
    a, b, difference = pair["a"], pair["b"], pair["difference"]
    if pair["p_holm"] is None:
        return f"Of {a} and {b} nothing can be said: there are too few test videos."
    if pair["interval"] is None:
        return f"{a} and {b} are right on the same videos with every seed."
    low, high = pair["interval"]
    numbers = f"{100 * abs(difference):.1f} points of accuracy"
    bounds = (low, high) if difference >= 0 else (-high, -low)
    interval = f"95 % interval {100 * bounds[0]:+.1f} to {100 * bounds[1]:+.1f}".replace("-", "−")
    p = f"p {_number(pair['p'])}, {_number(pair['p_holm']).removeprefix('= ')} after Holm's correction"
    if pair["p_holm"] >= ALPHA:
        return f"{a} and {b} are not distinguishable here ({numbers} apart, {interval}; {p})."
    better, worse = (a, b) if difference > 0 else (b, a)
    where = " on these groups" if pair.get("method") == "clips" else ""
    return f"{better} is right more often than {worse}{where}, by {numbers} ({interval}; {p})."


def _number(p: float) -> str:
    return "below .001" if p < 0.001 else "= 1" if p > 0.9995 else f"= {p:.3f}".replace("0.", ".")
