"""Two runs side by side on the videos that both scored."""

from collections.abc import Mapping
from typing import Any

from railsformer.evaluation.report_pages.tables import Table
from railsformer.evaluation.report_pages.words import TOO_FEW, UNKNOWN, counted, decimal, figure_name

__all__ = ["ERRORS", "compare_lines", "compare_table"]

ERRORS = ("calibration_error", "negative_log_likelihood", "brier")  # figures that are better where they are lower
_LEVEL = 0.05


def compare_lines(compare: Mapping[str, Any]) -> list[str]:
    """What the paired tests say, in sentences."""
    lines = [f"The other run is {compare['other']}; {_videos(compare)} were scored by both and are compared here."]
    test = compare["mcnemar"]
    if not test:
        return [*lines, f"Which of them is right more often: {TOO_FEW}."]
    this, other, chance = test["only_this_right"], test["only_other_right"], test["p_value"]
    if chance is None:
        verdict = TOO_FEW
    elif this + other == 0:
        verdict = "neither is right more often"
    elif chance < _LEVEL:
        verdict = f"{'this' if this > other else 'the other'} run is right more often, beyond what chance explains"
    else:
        verdict = "chance alone could explain the difference"
    told = (
        ""
        if chance is None
        else f" (McNemar's exact test, p = {'under 0.001' if chance < 0.001 else f'{chance:.3f}'})"
    )
    told = told.replace("= under", "under")
    return [*lines, f"Only this run is right on {this}, only the other on {other}: {verdict}{told}."]


def compare_table(compare: Mapping[str, Any]) -> Table:
    """Figures of both runs, the difference and its interval."""
    rows = [
        [
            figure_name(name),
            decimal(entry["this"]),
            decimal(entry["other"]),
            UNKNOWN if entry["difference"] is None else f"{entry['difference']:+.3f}",
            _signed(entry["interval"]),
            _winner(name, entry),
        ]
        for name, entry in compare["figures"].items()
    ]
    head = ["figure", "this", "other", "difference", "95 % interval", "better"]
    return Table("This run and the other, paired bootstrap", head, rows)


def _videos(compare: Mapping[str, Any]) -> str:
    return counted(compare["num_shared_videos"], "video", "videos")


def _signed(interval: list[float] | None) -> str:
    return TOO_FEW if interval is None else f"{interval[0]:+.3f} to {interval[1]:+.3f}"


def _winner(name: str, entry: Mapping[str, Any]) -> str:
    """Which run is better by this figure."""
    interval = entry["interval"]
    if interval is None:
        return TOO_FEW
    if interval[0] <= 0 <= interval[1]:
        return "not told apart"
    return "this" if (interval[0] > 0) != (name in ERRORS) else "other"
