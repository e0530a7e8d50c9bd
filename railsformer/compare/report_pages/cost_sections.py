"""What the networks cost: counted, measured, and beside the paper."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from railsformer.compare.report_pages.numbers import (
    NOT_MEASURED,
    figure,
    figure_title,
    gibibytes,
    giga,
    percent_difference,
    seconds,
    tera,
    whole,
)
from railsformer.compare.report_pages.protocol import cost_protocol, protocol_line
from railsformer.evaluation.report_pages.canvas import Drawing
from railsformer.evaluation.report_pages.tables import Section, Table

__all__ = ["cost_sections", "curve_sentences", "marked_differences"]

_PASSES = {"forward_seconds": "forward pass", "training_step_seconds": "training step"}
_PEAKS = {"forward_seconds": "forward_peak_bytes", "training_step_seconds": "training_peak_bytes"}


def cost_sections(cost: Mapping[str, Any], drawings: Sequence[Drawing]) -> list[Section]:
    """What is counted and measured, the curves, and the paper beside it.

    Args:
        cost: Section `cost` of compare.json.
        drawings: Curves.
    """
    rows = cost["rows"]
    line, of_curves = protocol_line(cost_protocol(cost)), curve_sentences(cost)
    of_rows = [sentence for sentence in cost.get("sentences", ()) if sentence not in of_curves]
    found = [Section("cost", "What they cost", [line], (), [_counted(rows), *_measured(rows), *_told_of(rows)])]
    if drawings:
        tables = [_limits(cost["curves"]["limits"])]
        found.append(Section("curves", "Where memory ends", [line, *_not_in_table(cost)], drawings, tables))
    if any(row.get("paper") for row in rows):
        found.append(
            Section("paper", "Beside the paper", [line, *(of_rows or [_paper_sentence(cost)])], (), list(_paper(rows)))
        )
    return found


def marked_differences(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """The differences from the paper that are marked, with the names of their rows."""
    every = ((row["name"], found) for row in rows for found in row.get("differences") or ())
    return [(name, found) for name, found in every if found.get("marked", True)]


def _told_differences(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """All that are given a reason: the marked ones, and those of what is counted to the integer."""
    for row in rows:
        for found in row.get("differences") or ():
            apart = percent_difference(found["share"]) + (", over 2 %" if found.get("marked", True) else "")
            yield [row["name"], figure_title(found["what"]), apart, found["why"]]


def _counted(rows: Sequence[Mapping[str, Any]]) -> Table:
    head = ["network", "parameters", "GMACs a view", "views", "TMACs, all views", "comparisons a patch"]
    cells = [
        [
            row["name"],
            whole(row.get("parameters")),
            giga(row.get("macs_a_view")),
            whole(row.get("views")),
            tera(row.get("macs_all_views")),
            _comparisons(row),
        ]
        for row in rows
    ]
    return Table("Counted", head, cells)


def _comparisons(row: Mapping[str, Any]) -> str:
    """A 3D CNN compares nothing."""
    value = row.get("comparisons_a_patch")
    return whole(value) if value is not None else "none" if row.get("parameters") is not None else NOT_MEASURED


def _measured(rows: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    timed = [row for row in rows if any(row.get(key) is not None or _overflow(row, key) for key in _PASSES)]
    if not timed:
        return
    head = ["network", "forward pass", "peak memory, forward", "training step", "peak memory, training"]
    cells = [[row["name"], *(cell for key in _PASSES for cell in (_time(row, key), _peak(row, key)))] for row in timed]
    yield Table("Measured, one clip at a time; median of repeats", head, cells)


def _time(row: Mapping[str, Any], key: str) -> str:
    return "out of memory" if _overflow(row, key) else seconds(row.get(key))


def _peak(row: Mapping[str, Any], key: str) -> str:
    return "out of memory" if _overflow(row, key) else gibibytes(row.get(_PEAKS[key]))


def _overflow(row: Mapping[str, Any], key: str) -> bool:
    """Whether that figure is missing because memory ended."""
    return row.get(key) is None and f"{_PASSES[key]}: out of memory" in str(row.get("not_measured"))


def _told_of(rows: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """Why something is missing in a row, and what else one must know of it; what is said of several shares a line."""
    captions = {"not_measured": ("Not measured, and why", "reason"), "note": ("Notes", "note")}
    for key, (caption, noun) in captions.items():
        told: dict[str, list[str]] = {}
        for row in rows:
            if row.get(key):
                told.setdefault(str(row[key]), []).append(row["name"])
        if told:
            cells = [["; ".join(names), words] for words, names in told.items()]
            yield Table(caption, ["network", noun], cells, words=True)


def curve_sentences(cost: Mapping[str, Any]) -> list[str]:
    """What the curves say of memory and growth."""
    return list((cost.get("curves") or {}).get("sentences", ()))


def _not_in_table(cost: Mapping[str, Any]) -> list[str]:
    """What the curves say, without the memories that only the table lists: all but that of this machine."""
    memories = list(dict.fromkeys(limit["memory"] for limit in cost["curves"]["limits"]))
    return [line for line in curve_sentences(cost) if not line.startswith(tuple(memories[1:]))]


def _limits(limits: Sequence[Mapping[str, Any]]) -> Table:
    """The largest clip of a training step in each memory, with attention matrices and without."""
    columns = {
        ("frames", "materialised"): "frames, matrices",
        ("frames", "sdpa"): "frames, SDPA",
        ("crop", "materialised"): "side, matrices",
        ("crop", "sdpa"): "side, SDPA",
    }
    found: dict[tuple[str, str], dict[tuple[str, str], int | None]] = {}
    for limit in limits:
        if limit["mode"] == "training":
            memory = limit["memory"] if "GiB" in limit["memory"] else f"{limit['gib']:.1f} GiB, {limit['memory']}"
            row = found.setdefault((memory, limit["scheme"]), {})
            row |= {(limit["axis"], kind): limit[kind] for kind in ("materialised", "sdpa")}
    cells = [
        [f"{memory}: {scheme}", *(_largest(row.get(column), column[0]) for column in columns)]
        for (memory, scheme), row in found.items()
        if scheme in ("joint", "divided")
    ]
    caption = (
        "The largest clip whose training step fits, base model: frames of 224 px, or the side of 8 frames; attention "
        "with its matrices made, and with SDPA"
    )
    return Table(caption, ["memory", *columns.values()], cells)


def _largest(value: int | None, axis: str) -> str:
    return "none" if value is None else f"{value:,} px" if axis == "crop" else f"{value:,}"


def _paper_sentence(cost: Mapping[str, Any]) -> str:
    count = len(marked_differences(cost["rows"]))
    if not count:
        return "No figure that the paper states differs from ours by over 2 %."
    return (
        f"{count} figure{' differs' if count == 1 else 's differ'} from the paper's by over 2 %, each with its reason."
    )


def _paper(rows: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    cells = []
    for row in rows:
        for key, theirs in (row.get("paper") or {}).items():
            ours = row.get(key)
            apart = NOT_MEASURED if ours is None else percent_difference(ours / theirs - 1)
            cells.append([f"{row['name']}: {figure_title(key)}", figure(key, ours), figure(key, theirs), apart])
    yield Table("Every figure that the paper states", ["figure", "here", "paper", "difference"], cells)
    if reasons := list(_told_differences(rows)):
        head = ["network", "figure", "difference", "why"]
        yield Table("Differences over 2 % or of exact counts, and why", head, reasons, words=True)
