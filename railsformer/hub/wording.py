"""How cards and public reports write names, figures and settings: no path of this machine, no torn table."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

__all__ = ["cell", "figure", "figure_with_interval", "is_on_hub", "rows", "shown", "span", "without_paths"]

# An absolute path in running text: it begins a word, and a slash stands inside it or before its name.
_PATH = re.compile(r"(?<![\w.:/~-])(?:~|[A-Za-z]:)?[/\\](?:[^\s'\"`:;,)]*[/\\])?([^\s'\"`:;,)/\\]+)")


def is_on_hub(name: str) -> bool:
    """Return whether a name is a Hub repository: user/name, and no such folder here."""
    if Path(name).exists() or name.count("/") != 1:
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def shown(name: str) -> str:
    """Return the name of a Hub repository, or of a local folder without the way to it."""
    return name if is_on_hub(name) else PurePath(name).name or name


def without_paths(text: str) -> str:
    """Return a sentence in which absolute paths are cut down to their last name."""
    return _PATH.sub(r"\1", text)


def cell(value: object) -> str:
    """Return text that cannot break out of a table's cell."""
    return str(value).replace("|", "\\|").replace("\n", " ")


def rows(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return settings as the rows of a table; those that are not set are left out."""
    return [(cell(name), cell(_public_value(value))) for name, value in values.items() if value is not None]


def figure(value: float | None) -> str:
    """Return a figure to three places; a dash where there is none."""
    return f"{value:.3f}" if value is not None and math.isfinite(value) else "–"


def span(interval: Sequence[float] | None) -> str:
    """Return an interval to two places; `too few` where it could not be told."""
    return f"{interval[0]:.2f} to {interval[1]:.2f}" if interval is not None else "too few"


def figure_with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    """Return a figure with its interval behind it; a dash alone where there is no figure."""
    text = figure(value)
    return text if text == "–" else f"{text} ({span(interval)})"


def _public_value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str | PurePath):
        return PurePath(value).name if PurePath(value).is_absolute() else str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_public_value(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return " / ".join(_public_value(item) for item in value)
    return json.dumps(value, ensure_ascii=False, default=str)
