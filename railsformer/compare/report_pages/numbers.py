"""Figures of a comparison in words and digits; what was not measured says so."""

from collections.abc import Mapping
from typing import Any

__all__ = [
    "ALPHA",
    "NOT_MEASURED",
    "chance",
    "figure",
    "figure_title",
    "gibibytes",
    "giga",
    "mean_of",
    "minutes",
    "percent_difference",
    "plain",
    "points",
    "seconds",
    "share",
    "share_with_spread",
    "signed_interval",
    "tera",
    "values_of",
    "whole",
]

NOT_MEASURED = "not measured"
ALPHA = 0.05
_PLAIN = {
    "divided_space_time": "divided",
    "joint_space_time": "joint",
    "sparse_local_global": "sparse",
    "space_only": "space only",
}
_TITLES = {
    "parameters": "parameters",
    "macs_a_view": "GMACs a view",
    "macs_all_views": "TMACs, all views",
    "comparisons_a_patch": "comparisons a patch",
    "forward_seconds": "forward pass",
    "training_step_seconds": "training step",
    "forward_peak_bytes": "peak memory, forward",
    "training_peak_bytes": "peak memory, training",
}


def whole(value: float | None) -> str:
    """A count with its thousands apart."""
    return NOT_MEASURED if value is None else f"{value:,.0f}"


def giga(value: float | None) -> str:
    """Billions, with three digits where they are few."""
    return NOT_MEASURED if value is None else _three(value / 1e9)


def tera(value: float | None) -> str:
    """Thousands of billions with two decimals, as the paper gives them."""
    return NOT_MEASURED if value is None else f"{value / 1e12:.2f}" if value >= 1e10 else f"{value / 1e12:.2g}"


def gibibytes(value: float | None) -> str:
    """Bytes of memory in GiB."""
    return NOT_MEASURED if value is None else f"{_three(value / 2**30)} GiB"


def seconds(value: float | None) -> str:
    """A time with three digits."""
    return NOT_MEASURED if value is None else f"{_three(value)} s"


def minutes(value: float | None) -> str:
    """A longer time, told in seconds in minutes or hours."""
    if value is None:
        return NOT_MEASURED
    if value < 90:
        return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 5400 else f"{value / 3600:.1f} h"


def plain(value: Any) -> Any:
    """A section with the schemes by their short names in every text."""
    if isinstance(value, str):
        for key, name in _PLAIN.items():
            value = value.replace(key, name)
        return value
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def share(value: float | None, *, digits: int = 3) -> str:
    """A share as in papers: `.873`, and 1 with noughts."""
    return NOT_MEASURED if value is None else f"{value:.{digits}f}".removeprefix("0")


def mean_of(value: Any) -> float | None:
    """The mean of a figure that was measured with several seeds; one that was measured once is its own."""
    return value.get("mean") if isinstance(value, Mapping) else value


def values_of(value: Any) -> list[float]:
    """A figure of every seed."""
    if isinstance(value, Mapping):
        found = value.get("values") or []
        return [float(one) for one in (found.values() if isinstance(found, Mapping) else found)]
    return [] if value is None else [float(value)]


def share_with_spread(value: Any) -> str:
    """Mean and standard deviation over seeds: `.873 ± .021`; of one seed, the figure alone."""
    mean = mean_of(value)
    spread = value.get("spread") if isinstance(value, Mapping) else None
    return share(mean) if mean is None or spread is None else f"{share(mean)} ± {share(spread)}"


def points(value: float | None) -> str:
    """A difference of shares in points of a hundred, with its sign."""
    return NOT_MEASURED if value is None else _signed(f"{100 * value:+.1f}")


def signed_interval(interval: Any) -> str:
    """Both ends of the interval of a difference, in points."""
    return "too little to say" if interval is None else f"{points(interval[0])} to {points(interval[1])}"


def chance(p: float | None) -> str:
    """A p value: three decimals, and never nought."""
    if p is None:
        return "too little to say"
    if p < 0.001 or p > 0.9995:
        return "below .001" if p < 0.001 else "1"
    digits = 4 if abs(p - ALPHA) < 0.0005 else 3  # on which side of .05 it lies
    return f"{p:.{digits}f}".removeprefix("0")


def percent_difference(value: float) -> str:
    """A share of the paper's figure, with its sign: `+4.2 %`; nought where nothing differs."""
    if value == 0:
        return "none"
    return f"{_signed(f'{100 * value:+.1f}')} %" if abs(value) >= 5e-4 else "under 0.1 %"


def figure_title(key: str) -> str:
    """The name of a figure of cost, with its unit."""
    return _TITLES.get(key, key.replace("_", " "))


def figure(key: str, value: float | None) -> str:
    """A figure of cost in the unit of its title."""
    if key == "parameters" and isinstance(value, float):  # as a paper rounds it
        return f"{value / 1e6:.1f} M"
    if key in ("parameters", "comparisons_a_patch"):
        return whole(value)
    known = {"macs_a_view": giga, "macs_all_views": tera}
    known |= dict.fromkeys(("forward_peak_bytes", "training_peak_bytes"), gibibytes)
    return known.get(key, seconds)(value)


def _three(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def _signed(text: str) -> str:
    """A true minus, and nought without a sign."""
    return text[1:] if not text.strip("+-0.") else text.replace("-", "\N{MINUS SIGN}")
