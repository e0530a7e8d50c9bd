"""report.html: one file that needs no network, for a phone, a desk and paper."""

import base64
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from railsformer.data.analysis.figures import printable
from railsformer.evaluation.report_pages.contact_sheet import jpeg_bytes

__all__ = ["render_html"]

_TEMPLATES = Path(__file__).parent / "templates"


def render_html(content: Mapping[str, Any]) -> str:
    """Render the page.

    Args:
        content: What `page_content` returns.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        finalize=_printed,
    )
    environment.filters |= {"bar": _bar, "soft": _soft}
    environment.globals |= {
        "svg": partial(_data_uri, kind="svg+xml"),
        "jpeg": lambda picture: _data_uri(jpeg_bytes(picture), kind="jpeg"),
    }
    return environment.get_template("report.html").render(content)


def _printed(value: object) -> object:
    """Text of one line each, a number and its percent sign kept together."""
    if type(value) is not str:
        return value
    return Markup(re.sub(r"(\d) %", r"\1&nbsp;%", str(escape(printable(value)))))


def _soft(name: str) -> Markup:
    """A name that may go on in the next line after an underscore or a slash."""
    return Markup(re.sub(r"([_/])", r"\1<wbr>", str(escape(printable(name)))))


def _data_uri(content: bytes, *, kind: str) -> Markup:
    return Markup(f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}")


def _bar(share: float, interval: Sequence[float] | None) -> Markup:
    """Styles that draw a share and its interval on a line from 0 to 100 %."""
    low, high = interval or (share, share)
    return Markup(f"--at:{100 * share:.1f}%;--low:{100 * low:.1f}%;--wide:{100 * max(0.0, high - low):.1f}%")
