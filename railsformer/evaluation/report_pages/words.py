"""Figures in words and digits; what is not known says so."""

from collections.abc import Mapping, Sequence
from typing import Any

from railsformer.data.analysis.figures import printable

__all__ = [
    "TOO_FEW",
    "UNKNOWN",
    "clock",
    "counted",
    "decimal",
    "figure_name",
    "length",
    "listed",
    "of_count",
    "percent",
    "rate",
    "span",
    "target_kept",
    "target_words",
    "with_interval",
]

TOO_FEW = "too few to say"
UNKNOWN = "not known"
_NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1_macro": "macro F1",
    "f1_weighted": "weighted F1",
    "f1_micro": "micro F1",
    "map": "mean average precision",
    "calibration_error": "calibration error",
    "negative_log_likelihood": "negative log-likelihood",
    "brier": "Brier score",
    "f1": "F1",
    "average_precision": "average precision",
    "false_alarms_per_hour": "false alarms an hour",
}


def figure_name(key: str) -> str:
    """A figure's name for people."""
    return _NAMES.get(key, key.replace("_", " "))


def decimal(value: float | None, *, unknown: str = UNKNOWN) -> str:
    """A figure between 0 and 1 with three decimals."""
    return unknown if value is None else f"{value:.3f}"


def percent(value: float | None, *, unit: bool = True) -> str:
    """A share in percent; 100 and 0 only where it is all or nothing."""
    if value is None:
        return UNKNOWN
    digits = 0 if value in (0, 1) or 0.01 <= value <= 0.99 else 1
    text = f"{100 * min(max(value, 0.001), 0.999) if digits else 100 * value:.{digits}f}"
    return f"{text} %" if unit else text


def rate(value: float | None) -> str:
    """A number of things an hour, two digits where it is small."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if value >= 9.95 or value == 0 else f"{value:.2g}"


def span(interval: Sequence[float] | None, *, of: str = "share") -> str:
    """Both ends of an interval, of a `share` in percent, a `rate` or a `decimal`."""
    if interval is None:
        return TOO_FEW
    low, high = interval
    if of == "share":
        return f"{percent(low, unit=False)} to {percent(high, unit=False)} %"
    if of == "rate":
        return f"{rate(low)} to {rate(high)}"
    return f"{low:.2f} to {high:.2f}"


def with_interval(value: float | None, interval: Sequence[float] | None, *, of: str = "decimal") -> str:
    """A figure and its interval in one cell of a table."""
    if value is None:
        return UNKNOWN
    told = {"decimal": f"{value:.2f}", "share": percent(value), "rate": rate(value)}[of]
    return f"{told} ({span(interval, of=of)})"


def of_count(share: float | None, count: int) -> str:
    """`8 of 12`."""
    return UNKNOWN if share is None or not count else f"{round(share * count)} of {count}"


def counted(count: int, one: str, several: str) -> str:
    """A number and its noun."""
    return f"{count:,} {one if count == 1 else several}"


def length(hours: float | None) -> str:
    """Footage in hours, minutes or seconds."""
    if hours is None:
        return UNKNOWN
    if hours >= 1:
        return f"{hours:.1f} hours"
    return f"{hours * 60:.0f} minutes" if hours >= 2 / 60 else f"{hours * 3600:.0f} seconds"


def clock(seconds: float) -> str:
    """An instant of a file: `8.5 s`, or `19:30.0` from a minute on."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)}:{seconds % 60:04.1f}"


def listed(names: Sequence[Any], *, most: int = 6) -> str:
    """The first names and how many more there are."""
    shown = ", ".join(printable(str(name)) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def target_words(target: str | None) -> str:
    """`recall>=0.9` as `recall of at least 90 %`."""
    for key, sign, told in (("recall", ">=", "recall of at least"), ("false_alarms_per_hour", "<=", "at most")):
        if target and target.replace(" ", "").startswith(key + sign):
            try:
                value = float(target.replace(" ", "")[len(key + sign) :])
            except ValueError:
                break
            if key == "recall":
                return f"{told} {percent(value)}"
            return f"{told} {rate(value)} false {'alarm' if value == 1 else 'alarms'} an hour"
    return target or UNKNOWN


def target_kept(target: str | None, figures: Mapping[str, Any]) -> bool | None:
    """Whether figures keep a target; None where that cannot be told."""
    for sign in (">=", "<="):
        key, found, bound = (target or "").replace(" ", "").partition(sign)
        value = figures.get(key)
        if found and value is not None:
            try:
                return bool(value >= float(bound) if sign == ">=" else value <= float(bound))
            except ValueError:
                return None
    return None
