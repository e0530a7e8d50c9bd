"""What the variants tell: accuracy with its spread, differences with p and interval, and the order of the frames."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from railsformer.compare.report_pages.figures import ORDERS
from railsformer.compare.report_pages.numbers import (
    ALPHA,
    NOT_MEASURED,
    chance,
    mean_of,
    minutes,
    points,
    share,
    share_with_spread,
    signed_interval,
    values_of,
)
from railsformer.compare.report_pages.protocol import protocol_line
from railsformer.compare.statistics import sentences
from railsformer.evaluation.report_pages.canvas import Drawing
from railsformer.evaluation.report_pages.tables import Section, Table

__all__ = ["TITLES", "accuracy_section", "is_told_apart", "pair_lines", "pair_summary", "probe_section"]

_MOST_SENTENCES = 4  # about pairs that are not told apart
# Anchor, heading and what a row is called, by the part of compare.json.
TITLES = {
    "accuracy": ("Accuracy under one recipe", "variant"),
    "positions": ("Position embeddings", "position embedding"),
    "views": ("Clips and crops", "clips x crops"),
}


def accuracy_section(part: str, section: Mapping[str, Any], drawings: Sequence[Drawing]) -> Section:
    """One part of trained variants.

    Args:
        part: `accuracy`, `positions` or `views`.
        section: Of compare.json.
        drawings: Of it.
    """
    title, noun = TITLES[part]
    rows, pairs = section["rows"], section.get("pairs") or []
    lines = [protocol_line(section["protocol"]), *pair_lines(section)]
    return Section(part, title, lines, drawings, [_scores(rows, noun), *_differences(pairs), *_notes(rows, noun)])


def probe_section(probe: Mapping[str, Any], drawings: Sequence[Drawing]) -> Section:
    """The same clips in four orders.

    Args:
        probe: Section `probe` of compare.json.
        drawings: Of it.
    """
    rows = probe["rows"]
    measured = [row for row in rows if any(row.get(order) for order in ORDERS)]
    told = [*filter(None, map(_order_sentence, measured)), *pair_lines(probe)]
    head = ["variant", *(name for name, *_ in ORDERS.values())]
    changed = [order for order in ORDERS if order != "forwards"]
    tables = [
        _order_table("Accuracy by the order of the frames", head, measured, "accuracy", list(ORDERS)),
        _order_table("Macro F1 by the order of the frames", head, measured, "f1_macro", list(ORDERS)),
        _order_table(
            "Share of decisions that are another than as filmed",
            ["variant", *(ORDERS[order][0] for order in changed)], measured, "changed", changed,
        ),
        *_differences(probe.get("pairs") or ()),
        *_notes(rows, "variant"),
    ]  # fmt: skip
    return Section(
        "probe", "What the order of the frames is worth", [protocol_line(probe["protocol"]), *told], drawings, tables
    )


def is_told_apart(pair: Mapping[str, Any]) -> bool:
    """Whether two variants differ beyond what chance explains, after Holm's correction."""
    return pair.get("p_holm") is not None and pair["p_holm"] < ALPHA


def pair_summary(pairs: Sequence[Mapping[str, Any]]) -> str:
    """How many of the pairs are told apart, in one sentence."""
    known = [pair for pair in pairs if pair.get("p_holm") is not None]
    if not known:
        return "Nothing can be said of any pair: there are too few test videos."
    apart = sum(map(is_told_apart, known))
    least = f"p {_equals(min(pair['p_holm'] for pair in known))}"
    if len(pairs) == 1:
        return f"The two {'can' if apart else 'cannot'} be told apart here: {least}."
    if not apart:
        return f"None of the {len(pairs)} pairs can be told apart here: {least} at the least, after Holm's correction."
    below = f"p after Holm's correction below {share(ALPHA, digits=2)}"
    return f"{apart} of the {len(pairs)} pairs can be told apart here ({below})."


def pair_lines(section: Mapping[str, Any]) -> list[str]:
    """What the pairs carry: those told apart, those that are not, then what is to be borne in mind."""
    pairs = section.get("pairs") or []
    if not pairs:
        return []
    every = list(section.get("sentences") or sentences(pairs))
    told, notes = every[: len(pairs)], every[len(pairs) :]
    apart = [sentence for pair, sentence in zip(pairs, told, strict=False) if is_told_apart(pair)]
    alike = [sentence for pair, sentence in zip(pairs, told, strict=False) if not is_told_apart(pair)]
    if len(apart) > _MOST_SENTENCES:
        apart = _by_worse(list(filter(is_told_apart, pairs)))
    if len(alike) > _MOST_SENTENCES:
        alike = _together([pair for pair in pairs if not is_told_apart(pair)])
    return [pair_summary(pairs), *apart, *alike, *notes]


def _by_worse(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence for each variant that others outdo; the table has interval and p of each."""
    better: dict[str, list[str]] = {}
    for pair in pairs:
        names = (pair["a"], pair["b"]) if pair["difference"] > 0 else (pair["b"], pair["a"])
        better.setdefault(names[1], []).append(f"{names[0]} ({points(abs(pair['difference']))} points)")
    return [f"Right more often than {worse}: {', '.join(names)}." for worse, names in better.items()]


def _together(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is not told apart, in one sentence, and what is too little to say anything of in another."""
    known = [pair for pair in pairs if pair.get("p_holm") is not None]
    unknown = "; ".join(f"{pair['a']} and {pair['b']}" for pair in pairs if pair.get("p_holm") is None)
    by_first: dict[str, list[str]] = {}
    for pair in known:
        by_first.setdefault(pair["a"], []).append(f"{pair['b']} (p {_equals(pair['p_holm'])})")
    named = "; ".join(f"{first} from {', '.join(others)}" for first, others in by_first.items())
    found = [f"Not distinguishable here: {named}."] if known else []
    return [*found, f"Nothing can be said of {unknown}: there is too little."] if unknown else found


def _equals(p: float) -> str:
    told = chance(p)
    return told if told.startswith("below") else f"= {told}"


def _scores(rows: Sequence[Mapping[str, Any]], noun: str) -> Table:
    head = [noun, "seeds", "accuracy", "lowest to highest", "macro F1", "time"]
    cells = [
        [
            row["name"],
            str(len(row.get("seeds") or ())) if values_of(row.get("accuracy")) else "0",
            share_with_spread(row.get("accuracy")),
            _range(row.get("accuracy")),
            share_with_spread(row.get("f1_macro")),
            minutes(mean_of(row.get("seconds"))),
        ]
        for row in rows
    ]
    return Table("On the same test videos: mean ± standard deviation over seeds", head, cells)


def _range(value: Any) -> str:
    values = values_of(value)
    if not values:
        return NOT_MEASURED
    return f"{share(min(values))} to {share(max(values))}" if len(values) > 1 else "one seed"


def _differences(pairs: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    if not pairs:
        return
    head = ["pair", "points", "95 % interval", "p", "p after Holm"]
    cells = [
        [
            f"{pair['a']} − {pair['b']}",
            points(pair["difference"]),
            signed_interval(pair.get("interval")),
            chance(pair.get("p")),
            chance(pair.get("p_holm")),
        ]
        for pair in pairs
    ]
    yield Table("Differences in points of accuracy, on the same test videos", head, cells)


def _notes(rows: Sequence[Mapping[str, Any]], noun: str) -> Iterator[Table]:
    """Why something was not measured, and what else one must know of a row."""
    cells = []
    for row in rows:
        missing, note = row.get("not_measured"), row.get("note")
        told = [f"not measured: {missing}" if missing else "", note or ""]
        if any(told):
            cells.append([row["name"], "; ".join(filter(None, told))])
    if cells:
        yield Table("Notes, and what was not measured", [noun, "note"], cells, words=True)


def _order_table(
    caption: str, head: Sequence[str], rows: Sequence[Mapping[str, Any]], key: str, orders: Sequence[str]
) -> Table:
    cells = [[row["name"], *(share_with_spread((row.get(order) or {}).get(key)) for order in orders)] for row in rows]
    return Table(caption, head, cells)


def _order_sentence(row: Mapping[str, Any]) -> str | None:
    """How far accuracy falls without the order of the frames, and without any motion."""
    as_filmed = mean_of((row.get("forwards") or {}).get("accuracy"))
    falls = []
    for order, words in (("shuffled", "with its frames shuffled"), ("middle", "with one frame repeated")):
        value = mean_of((row.get(order) or {}).get("accuracy"))
        if value is not None and as_filmed is not None:
            falls.append(f"{share(value)} {words}")
    return f"{row['name']}: accuracy {share(as_filmed)} as filmed, {' and '.join(falls)}." if falls else None
