"""One comparison as files: compare.json, compare.html, compare.md and figures/, new after each part."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from railsformer.compare.report_pages import draw_comparison, page_content
from railsformer.compare.report_pages.answers import answers
from railsformer.compare.report_pages.numbers import plain
from railsformer.data.files import whole_file
from railsformer.evaluation.report_pages.canvas import Drawing
from railsformer.evaluation.report_pages.html import render_html
from railsformer.evaluation.report_pages.markdown import render_markdown
from railsformer.evaluation.report_pages.schema import check_numbers

__all__ = ["PARTS", "TABLE_FILE", "add_parts", "read_comparison", "short_answers", "write_comparison"]

PARTS = ("cost", "accuracy", "positions", "views", "probe")
TABLE_FILE = "compare.json"
FIGURES_FOLDER = "figures"
_VERSION = 1
_VERSIONS = ("railsformer", "torch", "transformers")


def read_comparison(output_dir: str | Path) -> dict[str, Any]:
    """Read compare.json; an empty comparison where there is none yet.

    Raises:
        ValueError: If it is damaged, or of another version.
    """
    path = Path(output_dir) / TABLE_FILE
    if not path.is_file():
        return {"version": _VERSION, "commands": []}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); remove it: what was measured stays under cells") from error
    found = content.get("version") if isinstance(content, dict) else None
    if found != _VERSION:
        raise ValueError(f"{path} must be of version {_VERSION}, got {found}; name another --output_dir")
    return dict(content)


def add_parts(
    output_dir: str | Path,
    parts: Mapping[str, Mapping[str, Any]],
    *,
    command: str | None = None,
) -> dict[str, Any]:
    """Put parts that were measured into the comparison, and write its report anew.

    Args:
        output_dir: Folder of the comparison.
        parts: Sections of compare.json by name, each with `protocol` and `rows`; they replace those that are there.
        command: What measured them.

    Returns:
        The content of compare.json.

    Raises:
        ValueError: If a part is unknown or a figure is NaN or infinite.
    """
    unknown = [name for name in parts if name not in PARTS]
    if unknown:
        raise ValueError(f"a part must be one of {', '.join(PARTS)}, got {unknown[0]!r}")
    content = read_comparison(output_dir)
    ordered = {name: dict(parts.get(name) or content[name]) for name in PARTS if name in parts or name in content}
    commands = [*content.get("commands", []), *([command] if command else [])]
    content = {
        "version": _VERSION,
        "commands": list(dict.fromkeys(commands)),
        "versions": {name: version(name) for name in _VERSIONS},
        **ordered,
    }
    write_comparison(output_dir, content)
    return content


def short_answers(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Questions and answers of the first screen, those whose part was measured.

    Args:
        content: Of compare.json.
    """
    return answers(plain(content), only_measured=True)


def write_comparison(output_dir: str | Path, content: Mapping[str, Any]) -> list[Path]:
    """Write compare.json, compare.html, compare.md and the figures, each whole or not at all.

    Args:
        output_dir: Made where it is not there.
        content: Of compare.json.

    Returns:
        The files that were written.

    Raises:
        ValueError: If a figure is NaN or infinite.
    """
    check_numbers(dict(content))
    folder = Path(output_dir)
    (folder / FIGURES_FOLDER).mkdir(parents=True, exist_ok=True)
    drawings = draw_comparison(content)
    page = page_content(content, _in_folder(drawings))
    files: dict[str, bytes] = {
        f"{FIGURES_FOLDER}/{one.name}.png": one.png for drawn in drawings.values() for one in drawn
    }
    files["compare.html"] = render_html(page).encode("utf-8", "replace")
    files["compare.md"] = render_markdown(page).encode("utf-8", "replace")
    # Last, so that whoever finds new figures in it finds them in the pages too.
    files[TABLE_FILE] = (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    for name, data in files.items():
        with whole_file(folder / name) as partial:
            partial.write_bytes(data)
    return [folder / name for name in files]


def _in_folder(drawings: Mapping[str, Sequence[Drawing]]) -> dict[str, list[Drawing]]:
    """The drawings under the names by which a page beside the folder finds them."""
    return {
        part: [replace(one, name=f"{FIGURES_FOLDER}/{one.name}") for one in drawn] for part, drawn in drawings.items()
    }
