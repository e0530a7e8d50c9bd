"""The questions that a user has before picking a network, answered as far as the numbers carry."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from railsformer.compare.report_pages.accuracy_sections import is_told_apart, pair_summary
from railsformer.compare.report_pages.cost_sections import curve_sentences
from railsformer.compare.report_pages.numbers import (
    giga,
    mean_of,
    seconds,
    share,
    share_with_spread,
    tera,
    values_of,
)

__all__ = ["answers"]

_MOST_PAIRS, _MOST_ROWS = 2, 5


def answers(content: Mapping[str, Any], *, only_measured: bool = False) -> list[tuple[str, str]]:
    """Question and answer; one whose part was not measured says how to measure it.

    Args:
        content: Of compare.json, with plain names.
        only_measured: Leave out questions whose part is not there.
    """
    questions: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
        "Which attention": ("accuracy", _which),
        "What it costs": ("cost", _cost),
        "Where memory ends": ("cost", _memory),
        "Why not a 3D CNN": ("cost", lambda _: _peers(content)),
        "Position embeddings": ("positions", _pairs_told),
        "More clips and crops": ("views", _pairs_told),
        "Time order": ("probe", _order),
    }
    return [
        (question, answer(content[part]) if part in content else f"Not measured yet: --what {part} answers it.")
        for question, (part, answer) in questions.items()
        if part in content or not only_measured
    ]


def _which(section: Mapping[str, Any]) -> str:
    measured = [row for row in section["rows"] if values_of(row.get("accuracy"))]
    if not measured:
        return "Nothing was measured; the table says why."
    told = ", ".join(f"{row['name']} {share_with_spread(row['accuracy'])}" for row in measured[:_MOST_ROWS])
    rest = f" and {len(measured) - _MOST_ROWS} more below" if len(measured) > _MOST_ROWS else ""
    return f"Accuracy: {told}{rest}. {_pairs_told(section)}"


def _pairs_told(section: Mapping[str, Any]) -> str:
    """How many pairs are told apart, and those with the largest difference."""
    pairs = section.get("pairs") or []
    if not pairs:
        return "Nothing to compare: fewer than two were measured."
    apart = sorted(filter(is_told_apart, pairs), key=lambda pair: -abs(pair["difference"]))
    if not apart:
        return pair_summary(pairs)
    named = "; ".join(map(_pair, apart[:_MOST_PAIRS]))
    return f"{pair_summary(pairs)} {'The largest' if len(apart) > _MOST_PAIRS else 'Told apart'}: {named}."


def _pair(pair: Mapping[str, Any]) -> str:
    better, worse = (pair["a"], pair["b"]) if pair["difference"] > 0 else (pair["b"], pair["a"])
    ends = sorted(abs(100 * end) for end in pair.get("interval") or ())
    interval = f" ({ends[0]:.1f} to {ends[1]:.1f})" if ends else ""
    return f"{better} over {worse} by {100 * abs(pair['difference']):.1f} points{interval}"


def _cost(cost: Mapping[str, Any]) -> str:
    """Joint, divided and space only where they are there; else the cheapest and the dearest."""
    counted = [row for row in cost["rows"] if row.get("macs_a_view") is not None]
    if not counted:
        return "Nothing was counted; the table says why."
    told = [_of_scheme(counted, scheme) for scheme in ("joint", "divided", "space only")]
    shown = [row for row in told if row is not None] or [
        min(counted, key=lambda row: row["macs_a_view"]),
        max(counted, key=lambda row: row["macs_a_view"]),
    ]
    return "; ".join(map(_row_cost, shown)) + "."


def _of_scheme(rows: Sequence[Mapping[str, Any]], scheme: str) -> Mapping[str, Any] | None:
    """The first row of a scheme: the base clip stands first."""
    return next((row for row in rows if row.get("scheme") == scheme), None)


def _row_cost(row: Mapping[str, Any]) -> str:
    told = f"{row['name']}: {giga(row['macs_a_view'])} GMACs a view"
    timed = {"forward_seconds": "forward", "training_step_seconds": "a training step"}
    parts = [f"{seconds(row[key])} {name}" for key, name in timed.items() if row.get(key) is not None]
    return ", ".join([told, *parts])


def _memory(cost: Mapping[str, Any]) -> str:
    told = curve_sentences(cost)
    return told[0] if told else "No curves were drawn."


def _peers(content: Mapping[str, Any]) -> str:
    """What the paper's 3D CNNs cost here, and what one of them tells where it was trained."""
    rows = [row for row in content["cost"]["rows"] if row.get("family") == "3d_cnn"]
    if not rows:
        return "Still to be measured." if content["cost"].get("num_waiting") else "None was asked for."
    divided = _of_scheme([row for row in content["cost"]["rows"] if row.get("family") == "base"], "divided")
    shown = [*rows, *([divided] if divided else [])]
    counted = [
        f"{row['name']} {tera(row['macs_all_views'])} TMACs in {row['views']} views"
        for row in shown if row.get("macs_all_views") is not None
    ]  # fmt: skip
    if all(row.get("macs_all_views") is None for row in rows):
        return f"Not measured: {rows[0].get('not_measured') or 'no reason is known'}."
    trained = [row for row in content.get("accuracy", {}).get("rows", ()) if row["name"].startswith("3D CNN")]
    told = [
        f"{row['name']}: accuracy {share(mean_of(row['accuracy']))}" for row in trained
        if values_of(row.get("accuracy"))
    ]  # fmt: skip
    return f"{'; '.join(counted)}. {'; '.join(told) or 'Accuracy of one was not measured here'}."


def _order(probe: Mapping[str, Any]) -> str:
    """How much accuracy each loses when frames are shuffled."""
    losses = []
    for row in probe["rows"]:
        as_filmed, shuffled = (mean_of((row.get(order) or {}).get("accuracy")) for order in ("forwards", "shuffled"))
        if as_filmed is not None and shuffled is not None:
            losses.append(f"{row['name']} {share(as_filmed)} to {share(shuffled)}")
    if not losses:
        return "Nothing was measured; the table says why."
    return f"Accuracy as filmed, and with the frames shuffled: {', '.join(losses)}."
