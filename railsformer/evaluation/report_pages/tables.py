"""Sections of the report, the same for the page and for Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from railsformer.evaluation.report_pages.canvas import Drawing

__all__ = ["Section", "Table"]


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
