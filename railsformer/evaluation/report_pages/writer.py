"""Everything of a report that is read by people, and metrics.json beside it."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from railsformer.evaluation.report_pages.canvas import Drawing
from railsformer.evaluation.report_pages.contact_sheet import (
    Frames,
    Strip,
    draw_contact_sheet,
    make_strips,
    verdict,
    when,
)
from railsformer.evaluation.report_pages.figures import draw_figures
from railsformer.evaluation.report_pages.first_screen import banners, facts, hazard_labels, hazards, mistake_kind
from railsformer.evaluation.report_pages.html import render_html
from railsformer.evaluation.report_pages.markdown import render_markdown
from railsformer.evaluation.report_pages.predictions import Predictions, write_predictions
from railsformer.evaluation.report_pages.schema import check_numbers
from railsformer.evaluation.report_pages.sections import make_sections, method
from railsformer.evaluation.report_pages.words import clock, counted

__all__ = ["page_content", "write_report"]


def write_report(
    folder: Path,
    metrics: dict[str, Any],
    predictions: Predictions,
    *,
    mistakes_frames: Sequence[Frames | None] = (),
) -> list[Path]:
    """Write metrics.json, predictions.csv, report.html, report.md, the figures as PNG and SVG, and mistakes.png.

    Args:
        folder: Is there already.
        metrics: Content of metrics.json, version 2; see `load_schema`.
        predictions: Of the same videos.
        mistakes_frames: Pictures of each entry of `mistakes`, None where they cannot be read; or nothing at all.

    Returns:
        The files that were written.

    Raises:
        ValueError: If a figure is NaN or infinite, or there are frames but not one entry a mistake.
    """
    check_numbers(metrics)
    strips = make_strips(metrics["mistakes"], mistakes_frames)
    drawings = draw_figures(metrics, predictions)
    content = page_content(metrics, drawings, strips)
    files = {
        "metrics.json": (json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False) + "\n"),
        "report.html": render_html(content),
        "report.md": render_markdown(content),
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", errors="replace")
    pictures = {f"{drawing.name}.png": drawing.png for drawing in drawings}
    pictures |= {f"{drawing.name}.svg": drawing.svg for drawing in drawings}
    if content["has_sheet"]:
        pictures["mistakes.png"] = draw_contact_sheet(strips)
    for name, picture in pictures.items():
        (folder / name).write_bytes(picture)
    write_predictions(folder / "predictions.csv", predictions)
    return [folder / name for name in (*files, *pictures, "predictions.csv")]


def page_content(metrics: dict[str, Any], drawings: Sequence[Drawing], strips: Sequence[Strip]) -> dict[str, Any]:
    """What both templates show.

    Args:
        metrics: Content of metrics.json.
        drawings: What `draw_figures` returns.
        strips: What `make_strips` returns.
    """
    model, dataset = (Path(metrics[key]).name or metrics[key] for key in ("model", "dataset"))
    videos = counted(metrics["num_videos"], "video", "videos")
    if not hazards(metrics):
        meaning = "No label of this model is a hazard."
    elif metrics["operating_points"]:
        meaning = (
            "Found: its score reaches the threshold of the class. The hazard of which most is missed comes first."
        )
    else:
        meaning = "Found: named as the likeliest class. The hazard of which most is missed comes first."
    return {
        "title": f"What {model} finds in {dataset}",
        "lead": f"{videos} of the {metrics['split']} split, made {metrics['protocol']['split_kind']}.",
        "banners": banners(metrics),
        "meaning": meaning,
        "hazards": hazards(metrics),
        "facts": facts(metrics),
        "sections": make_sections(metrics, drawings),
        "strips": strips,
        "has_sheet": any(strip.picture is not None for strip in strips),
        "clock": clock,
        "kind": partial(mistake_kind, hazards=hazard_labels(metrics)),
        "verdict": verdict,
        "when": when,
        "method": method(metrics),
    }
