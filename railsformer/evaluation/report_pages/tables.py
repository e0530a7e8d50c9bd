"""Sections of the report, the same for the page and for Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from railsformer.evaluation.report_pages.canvas import Drawing

__all__ = ["MAX_LISTED", "Section", "Table", "rest_of"]

MAX_LISTED = 40


@dataclass(frozen=True)
class Table:
    """Cells of text.

    Attributes:
        caption: What it shows.
        head: Names of the columns.
        rows: The first cell names the row.
        words: Cells hold words, not figures.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        anchor: Of its heading.
        title: Its heading.
        lines: Sentences.
        drawings: Figures.
        tables: Below the figures.
    """

    anchor: str
    title: str
    lines: Sequence[str] = ()
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()


def rest_of(entries: Sequence[Any]) -> str:
    """What the caption of a table says where it is cut off."""
    return f", the first {MAX_LISTED} of {len(entries)}" if len(entries) > MAX_LISTED else ""
