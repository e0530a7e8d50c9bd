"""report.md: the same report where only text can go."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from railsformer.data.analysis.figures import printable

__all__ = ["render_markdown"]

_TEMPLATES = Path(__file__).parent / "templates"


def render_markdown(content: Mapping[str, Any]) -> str:
    """Render the text.

    Args:
        content: What `page_content` returns.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _cell
    return environment.get_template("report.md").render(content)


def _cell(value: object) -> str:
    """Text that can neither end a cell nor begin HTML, a link or emphasis."""
    return re.sub(r"([\\`*_\[\]|<>#~$])", r"\\\1", printable(str(value)).replace("&", "&amp;"))
