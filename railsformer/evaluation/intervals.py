"""How sure a figure is: intervals by bootstrap over whole groups, Wilson's for proportions, Garwood's for rates.

What is drawn. Clips of one camera or recording resemble each other, so that resampling clips makes a figure look surer
than it is. With at least 8 groups whole groups are drawn. With fewer, clips are, and the interval then speaks of these
cameras only (`note`).

How an interval is taken from the resamples. Plain percentiles of few groups are too narrow. They are widened as by
Hesterberg 2015 ('What teachers should know about the bootstrap', expanded percentile interval): Student's t for the
normal, and sqrt(n / (n - 1)), n being the groups that hold the class. The calibration error is biased upwards by
chance, and in a resample once more, so plain percentiles miss the truth nearly always. Its lower limit is the basic
interval's (the upper percentile mirrored at the estimate) less the bias among the resamples, its upper the upper
percentile less that bias: rather too wide, because on few videos the bias itself is known poorly.

Plain proportions. Where clips are drawn, accuracy, top-k, recall and precision take Wilson's interval (1927), which
holds for few videos and near 0 and 1. Where groups are drawn they are bootstrapped like the rest.

No spread. If every resample gives the same value, as when all is right, the bootstrap would claim certainty. A
proportion of 0 or 1 then takes Wilson's interval with the groups (or videos) as its observations. F1 of 1 takes it
through the proportion tp / (tp + fp + fn), average precision of 1 through the share of positives above every negative,
and a mean over classes the mean of the classes' limits, which is on the safe side. Other figures without spread get
None.

Too few to say is None: a figure of fewer than 5 videos (of the class, or predicted as it), or of fewer than 5 groups
where groups are drawn. Five of five right leaves Wilson's interval at .57 to 1; with four, even that goes down to .51,
which says no more than a coin. Four groups have 35 different resamples, too few for the outer percentiles. A mean over
classes is None where one of its classes has fewer than 5 videos or groups.

How often the intervals hold the truth is measured by benchmarks/intervals.py. Known to be short of their level:
figures near 1 on a dozen groups (most of all average precision), where a bad camera has simply not been seen yet.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from railsformer.evaluation.resampling import ResampledFigures, Resamples, draw_resamples, resampled_figures
from railsformer.evaluation.score_metrics import check_scores

__all__ = [
    "CLIPS_NOTE",
    "FIGURES",
    "MIN_SUPPORT",
    "PER_CLASS_FIGURES",
    "bootstrap_intervals",
    "expanded_percentiles",
    "grouped_ratio_interval",
    "poisson_rate_interval",
    "rate_interval",
    "share_interval",
    "wilson_interval",
]

MIN_SUPPORT = 5  # videos and groups below which a figure says nothing
CLIPS_NOTE = "within these cameras only"
FIGURES = (
    "accuracy",
    "balanced_accuracy",
    "f1_macro",
    "f1_weighted",
    "f1_micro",
    "top_2",
    "top_3",
    "top_4",
    "top_5",
    "map",
    "calibration_error",
    "negative_log_likelihood",
    "brier",
)
PER_CLASS_FIGURES = ("precision", "recall", "f1", "average_precision")
_PROPORTIONS = ("accuracy", "f1_micro", "top_2", "top_3", "top_4", "top_5", "precision", "recall")
_CLASS_MEANS = {"balanced_accuracy": "recall", "f1_macro": "f1", "f1_weighted": "f1", "map": "average_precision"}

Interval = list[float]  # low, high


def wilson_interval(
    successes: float, total: float, *, level: float = 0.95, least: int = MIN_SUPPORT
) -> Interval | None:
    """Interval of a proportion of independent videos.

    Source: Wilson 1927, Probable inference, the law of succession, and statistical inference.

    Args:
        successes: Videos that were right, 0 to total.
        total: Videos.
        level: Share of cases in which the truth shall lie inside.
        least: Total below which there is nothing to say.

    Returns:
        Low and high, 0 to 1, or None if total is below `least` or 0.

    Raises:
        ValueError: If successes are not within 0 to total, or level not between 0 and 1.
    """
    _check_level(level)
    if not 0 <= successes <= total:
        raise ValueError(f"successes must lie in 0 to total {total}, got {successes}")
    if total < max(least, 1):
        return None
    z = stats.norm.ppf((1 + level) / 2)
    share = successes / total
    centre = share + z**2 / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    low, high = (centre - half) / (1 + z**2 / total), (centre + half) / (1 + z**2 / total)
    return [0.0 if successes == 0 else float(low), 1.0 if successes == total else float(high)]


def poisson_rate_interval(events: int, hours: float, *, level: float = 0.95) -> Interval | None:
    """Exact interval of a rate of independent events, such as false alarms per hour.

    Source: Garwood 1936, Fiducial limits for the Poisson distribution; Clopper and Pearson's of 1934 for counts.

    Args:
        events: Events seen.
        hours: Time watched.
        level: Share of cases, at least, in which the truth lies inside.

    Returns:
        Low and high in events per hour, or None if no time was watched.

    Raises:
        ValueError: If events or hours are negative, hours not finite, or level not between 0 and 1.
    """
    _check_level(level)
    if events < 0 or not 0 <= hours < math.inf:
        raise ValueError(f"events and hours must be 0 or more, got {events} events in {hours} hours")
    if hours == 0:
        return None
    low = stats.chi2.ppf((1 - level) / 2, 2 * events) / 2 if events else 0.0
    high = stats.chi2.ppf((1 + level) / 2, 2 * events + 2) / 2
    return [float(low / hours), float(high / hours)]


def expanded_percentiles(values: np.ndarray, *, level: float, num_units: int) -> Interval:
    """Percentiles of resampled values, widened for few units (Hesterberg 2015).

    Args:
        values: One a resample; NaN are left out.
        level: Share of cases in which the truth shall lie inside.
        num_units: Units that were drawn and hold the figure, at least 2.

    Returns:
        Low and high.
    """
    reach = math.sqrt(num_units / (num_units - 1)) * stats.t.ppf((1 + level) / 2, num_units - 1)
    tail = stats.norm.sf(reach)
    low, high = np.quantile(values[np.isfinite(values)], [tail, 1 - tail])
    return [float(low), float(high)]


def grouped_ratio_interval(
    parts: np.ndarray, wholes: np.ndarray, drawn: Resamples, *, level: float = 0.95, least: int = MIN_SUPPORT
) -> Interval | None:
    """Interval of a sum over another, such as hits over positives, or false alarms over hours, by whole groups.

    Args:
        parts: What each video adds above the line, shape (num_videos,).
        wholes: And below it; at least 0.
        drawn: Resamples of these videos.
        level: Share of cases in which the truth shall lie inside.
        least: Groups that must hold something below the line.

    Returns:
        Low and high; None with too few groups, or where no resample differs from another.
    """
    num_units = len(np.unique(drawn.units[wholes > 0]))
    if num_units < least:
        return None
    above, below = drawn.sums(np.stack([parts, wholes], axis=1).astype(float)).T
    values = np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)
    return None if _without_spread(values) else expanded_percentiles(values[1:], level=level, num_units=num_units)


def share_interval(
    parts: np.ndarray, wholes: np.ndarray, drawn: Resamples | None, *, level: float = 0.95
) -> Interval | None:
    """Interval of a share of videos, such as hits of positives.

    Args:
        parts: Whether each video counts above the line, shape (num_videos,).
        wholes: And below it.
        drawn: Resamples of whole groups, of which one counts once where all say the same. None takes videos as
            independent: Wilson's.
        level: Share of cases in which the truth shall lie inside.
    """
    part, whole = int(parts.sum()), int(wholes.sum())
    if drawn is None or not whole:
        return wilson_interval(part, whole, level=level)
    num_groups = len(np.unique(drawn.units[wholes]))
    found = grouped_ratio_interval(parts, wholes, drawn, level=level)
    return found or wilson_interval(part / whole * num_groups, num_groups, level=level)


def rate_interval(
    events: np.ndarray, hours: np.ndarray, drawn: Resamples | None, *, level: float = 0.95
) -> Interval | None:
    """Interval of events per hour; groups that differ make it wider than chance alone does.

    Args:
        events: Whether each video is one, shape (num_videos,).
        hours: What each video adds to the time watched.
        drawn: Resamples of whole groups. None takes events as independent: the exact interval of Poisson counts.
        level: Share of cases in which the truth shall lie inside.
    """
    exact = poisson_rate_interval(int(events.sum()), float(hours.sum()), level=level)
    if drawn is None or exact is None:
        return exact
    if len(np.unique(drawn.units[hours > 0])) < MIN_SUPPORT:
        return None
    found = grouped_ratio_interval(events, hours, drawn, level=level)
    return [min(exact[0], found[0]), max(exact[1], found[1])] if found else exact


def bootstrap_intervals(
    scores: np.ndarray,
    references: np.ndarray,
    groups: Sequence[object] | None,
    *,
    label_names: Sequence[str],
    figures: Sequence[str] = (*FIGURES, *PER_CLASS_FIGURES),
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Intervals of the figures of one evaluation; how they are taken is said at the top of this module.

    Args:
        scores: One row a video, each of sum 1, shape (num_videos, num_labels).
        references: True class indices, shape (num_videos,).
        groups: Recording or camera of each video, or None where unknown.
        label_names: Names of all classes in the order of their indices.
        figures: Names of `FIGURES` and `PER_CLASS_FIGURES`; a top_k at or above the number of labels is left out.
        level: Share of cases in which the truth shall lie inside.
        resamples: Resamples to draw.
        seed: Of the resamples: the same seed gives the same intervals.

    Returns:
        `level`, `method` (groups or clips), `num_groups` (0: unknown), `resamples`, `note`, `figures` (name to
        [low, high] or None, too few to say) and `per_class` (label to the same).

    Raises:
        ValueError: If scores are not softmax rows, groups not one a video, or a figure is unknown.
    """
    _check_level(level)
    unknown = [name for name in figures if name not in (*FIGURES, *PER_CLASS_FIGURES)]
    if unknown:
        raise ValueError(
            f"figures must be among {', '.join((*FIGURES, *PER_CLASS_FIGURES))}, got {unknown[0]!r}; leave it out"
        )
    scores, references = check_scores(scores, references, num_labels=len(label_names))
    drawn = draw_resamples(len(references), groups, resamples=resamples, seed=seed)
    sampled = resampled_figures(
        scores, references, drawn, ranking=any(name in ("map", "average_precision") for name in figures)
    )
    maker = _IntervalMaker(scores, references, drawn, sampled, level=level)
    return {
        "level": level,
        "method": drawn.method,
        "num_groups": drawn.num_groups,
        "resamples": resamples,
        "note": CLIPS_NOTE if drawn.method == "clips" else None,
        "figures": {name: maker.overall(name) for name in figures if name in sampled.overall},
        "per_class": {
            label: {name: maker.of_class(name, index) for name in figures if name in sampled.per_class}
            for index, label in enumerate(label_names)
        },
    }


class _IntervalMaker:
    """Picks the right interval for each figure of one evaluation."""

    def __init__(
        self,
        scores: np.ndarray,
        references: np.ndarray,
        drawn: Resamples,
        sampled: ResampledFigures,
        *,
        level: float,
    ) -> None:
        self._drawn, self._sampled, self._level = drawn, sampled, level
        indices = np.arange(scores.shape[1])
        self._true = references[:, None] == indices  # N L
        self._predicted = scores.argmax(axis=1)[:, None] == indices
        self._held: list[int] = np.flatnonzero(self._true.any(axis=0)).tolist()

    def overall(self, name: str) -> Interval | None:
        values = self._sampled.overall[name]
        if not np.isfinite(values[0]):
            return None
        if name in _CLASS_MEANS:
            return self._class_mean(values, _CLASS_MEANS[name])
        everything = np.ones(len(self._true), dtype=bool)
        if name in _PROPORTIONS:
            return self._proportion(values, everything)
        if not self._enough(everything) or _without_spread(values):
            return None
        low, high = self._percentiles(values, everything)
        if name == "calibration_error":
            estimate, bias = float(values[0]), float(values[1:].mean() - values[0])
            return [max(0.0, 2 * estimate - high - bias), max(estimate, high - bias)]
        return [low, high]

    def of_class(self, name: str, label: int) -> Interval | None:
        values = self._sampled.per_class[name][:, label]
        if not np.isfinite(values[0]):
            return None
        videos = self._videos_of(name, label)
        if name in _PROPORTIONS:
            return self._proportion(values, videos)
        if not self._enough(videos):
            return None
        if not _without_spread(values):
            return self._percentiles(values, videos)
        if values[0] != 1:
            return None
        low, high = self._unanimous(1.0, videos) or [0.0, 1.0]
        return [2 * low / (1 + low), high] if name == "f1" else [low, high]

    def _class_mean(self, values: np.ndarray, name: str) -> Interval | None:
        """As sure as the rarest class."""
        if not all(self._enough(self._true[:, label]) for label in self._held):
            return None
        if not _without_spread(values):
            rarest = min(self._held, key=lambda label: self._num_units(self._true[:, label]))
            return self._percentiles(values, self._true[:, rarest])
        limits = [self.of_class(name, label) for label in self._held]
        known = [limit for limit in limits if limit is not None]
        return np.mean(known, axis=0).tolist() if len(known) == len(limits) else None

    def _proportion(self, values: np.ndarray, videos: np.ndarray) -> Interval | None:
        total = int(videos.sum())
        if not self._enough(videos):
            return None
        if self._drawn.method == "clips":
            return wilson_interval(round(float(values[0]) * total), total, level=self._level)
        if _without_spread(values):
            return self._unanimous(float(values[0]), videos)
        return self._percentiles(values, videos)

    def _unanimous(self, share: float, videos: np.ndarray) -> Interval | None:
        """Of a share without spread, a group counting as one observation."""
        total = self._num_units(videos)
        return wilson_interval(share * total, total, level=self._level)

    def _percentiles(self, values: np.ndarray, videos: np.ndarray) -> Interval:
        return expanded_percentiles(values[1:], level=self._level, num_units=self._num_units(videos))

    def _videos_of(self, name: str, label: int) -> np.ndarray:
        """The videos that a figure of a class counts."""
        if name == "precision":
            return self._predicted[:, label]
        return self._true[:, label] | self._predicted[:, label] if name == "f1" else self._true[:, label]

    def _num_units(self, videos: np.ndarray) -> int:
        return len(np.unique(self._drawn.units[videos]))

    def _enough(self, videos: np.ndarray) -> bool:
        return self._num_units(videos) >= MIN_SUPPORT  # a unit holds a video or more


def _without_spread(values: np.ndarray) -> bool:
    values = values[np.isfinite(values)]
    return bool(np.ptp(values) < 1e-12)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
