"""The page of a comparison: short answers first, then a section for each question."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from railsformer.compare.cost_figures import draw_cost_figures
from railsformer.compare.report_pages.accuracy_sections import TITLES, accuracy_section, probe_section
from railsformer.compare.report_pages.answers import answers
from railsformer.compare.report_pages.cost_sections import cost_sections
from railsformer.compare.report_pages.figures import draw_pairs, draw_probe, draw_seeds
from railsformer.compare.report_pages.numbers import plain
from railsformer.compare.report_pages.protocol import about, cost_protocol, hardware_words, protocol_lines, told
from railsformer.evaluation.report_pages.canvas import Drawing
from railsformer.evaluation.report_pages.first_screen import Banner
from railsformer.evaluation.report_pages.tables import Section
from railsformer.evaluation.report_pages.words import counted

__all__ = ["draw_comparison", "page_content"]

_OVER_ALL = ("cost", *TITLES, "probe")
_SHORT = {"accuracy": "Accuracy", "positions": "Positions", "views": "Views"}  # titles that fit a phone
_MEANING = (
    "Told apart: p below .05 after Holm's correction over all pairs of a table. What is not told apart may still "
    "differ: these videos and seeds do not show it."
)


def draw_comparison(content: Mapping[str, Any]) -> dict[str, list[Drawing]]:
    """Every figure for which there is something to draw, by its part.

    Args:
        content: Of compare.json.
    """
    drawn: dict[str, list[Drawing]] = {}
    if "cost" in content and (content["cost"].get("curves") or {}).get("limits"):
        drawn["cost"] = draw_cost_figures(content["cost"]["curves"], content["cost"]["rows"])
    content = plain(content)
    for part in TITLES:
        if part not in content:
            continue
        section = content[part]
        where = about(section["protocol"])
        subtitle = f"{where}; a dot a seed, a line their mean"
        found = [draw_seeds(section["rows"], name=part, title=f"{_SHORT[part]}, every seed", subtitle=subtitle)]
        if pairs := section.get("pairs"):
            words = f"{where}; 95 % intervals, filled: p below .05 (Holm)"
            heading = f"{_SHORT[part]}, told apart or not"
            found.append(draw_pairs(pairs, name=f"{part}_pairs", title=heading, subtitle=words))
        drawn[part] = [one for one in found if one is not None]
    if "probe" in content:
        subtitle = f"{about(content['probe']['protocol'])}; small marks are seeds, large ones their mean"
        found = [draw_probe(content["probe"]["rows"], subtitle=subtitle)]
        drawn["probe"] = [one for one in found if one is not None]
    return drawn


def page_content(content: Mapping[str, Any], drawings: Mapping[str, Sequence[Drawing]]) -> dict[str, Any]:
    """What the templates of a report show.

    Args:
        content: Of compare.json.
        drawings: By part, of `draw_comparison`.
    """
    commands, content = content.get("commands", ()), plain(content)
    sections: list[Section] = []
    if "cost" in content:
        sections += cost_sections(content["cost"], drawings.get("cost", ()))
    sections += [accuracy_section(part, content[part], drawings.get(part, ())) for part in TITLES if part in content]
    if "probe" in content:
        sections.append(probe_section(content["probe"], drawings.get("probe", ())))
    return {
        "title": "The paper's comparison, run again",
        "lead": _lead(content),
        "banners": _banners(content),
        "meaning": _MEANING,
        "hazards": [],
        "facts": answers(content),
        "sections": sections,
        "strips": [],
        "has_sheet": False,
        "method": _method(content, commands),
    }


def _protocol(content: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    return cost_protocol(content[part]) if part == "cost" else content[part]["protocol"]


def _lead(content: Mapping[str, Any]) -> str:
    """On what and on which machine."""
    trained = [part for part in (*TITLES, "probe") if part in content]
    parts = [*trained, *(part for part in _OVER_ALL if part in content)]
    machines = [hardware_words(_protocol(content, part).get("hardware")) for part in parts]
    data = f"On {about(content[trained[0]]['protocol'])}." if trained else "What the networks cost."
    return f"{data} Measured on {machines[0]}." if machines and machines[0] else data


def _banners(content: Mapping[str, Any]) -> list[Banner]:
    """What must be known before any figure is read."""
    found = []
    quick = [part for part in _OVER_ALL if part in content and content[part]["protocol"].get("quick")]
    if quick:
        text = (
            f"{', '.join(quick)}: tiny networks that show that the command runs. No figure of theirs means anything."
        )
        found.append(Banner("repair", "A trial run.", text))
    waiting = sum(int(content[part].get("num_waiting") or 0) for part in _OVER_ALL if part in content)
    if waiting:
        text = f"{counted(waiting, 'cell is', 'cells are')} still to be done: the same command goes on."
        found.append(Banner("beware", "Not finished.", text))
    single = [part for part in (*TITLES, "probe") if part in content and _has_one_seed(content[part]["protocol"])]
    if single:
        text = f"{', '.join(single).capitalize()}: trained once, so how far another seed would move it is not known."
        found.append(Banner("beware", "One seed.", text))
    return found


def _has_one_seed(protocol: Mapping[str, Any]) -> bool:
    return len(protocol.get("seeds") or ()) == 1


def _method(content: Mapping[str, Any], commands: Sequence[str]) -> list[str]:
    """How each part was measured, beyond what stands over its tables, and how it can be measured again."""
    of_parts: dict[str, list[str]] = {}  # what several parts share is told once
    for part in (part for part in _OVER_ALL if part in content):
        for line in protocol_lines(_protocol(content, part)):
            of_parts.setdefault(line, []).append(part)
    by_parts: dict[str, list[str]] = {}
    for line, parts in of_parts.items():
        by_parts.setdefault(", ".join(parts), []).append(line)
    lines = [f"{parts.capitalize()}. {' '.join(found)}" for parts, found in by_parts.items()]
    lines += [f"Command: {command}" for command in commands]
    if versions := told(content.get("versions")):
        lines.append(f"{versions}.")
    return [*lines, f"All figures, those of every seed too: {Path('compare.json')}."]
