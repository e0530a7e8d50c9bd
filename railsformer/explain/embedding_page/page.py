"""embeddings.html and what it knows: places, colours by column, thumbnails and neighbours, as JSON."""

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from railsformer.data.analysis.figures import printable
from railsformer.evaluation.report_pages.words import counted, percent
from railsformer.explain.clusters import Clusters, neighbour_words
from railsformer.inference.colours import NEGATIVE_COLOUR, label_colours
from railsformer.inference.timeline_pages.page_data import island

__all__ = ["EmbeddedVideos", "render_embeddings"]

_TEMPLATES = Path(__file__).parent / "templates"
# After Okabe and Ito and ColorBrewer: told apart side by side, and as points on white.
_PALETTE = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
    *("#6a3d9a", "#7a5c4a", "#a3a300", "#e7298a", "#333f4a", "#17a2a2"),
)
_STEPS = ("#440154", "#3b528b", "#21918c", "#5ec962", "#d8c500")  # of numbers, the lowest first
_OTHER, _UNKNOWN = "#9aa6b0", "#c4ccd3"
_NONE = "(none)"
_NOT_COLOURED = ("file_name", "source", "start_seconds", "end_seconds")
_NAMED_COLOURS = 8  # hazards that `label_colours` tells apart


@dataclass(frozen=True)
class EmbeddedVideos:
    """Videos that have an embedding, one row each.

    Args:
        embeddings: Shape (n, D).
        splits: Where they are from.
        files: File names.
        labels: What they are.
        predictions: What the model says.
        scores: Calibrated score of that, shape (n,).
        thumbnails: JPEG of the middle frame.
        columns: Their metadata.
    """

    embeddings: np.ndarray
    splits: list[str]
    files: list[str]
    labels: list[str]
    predictions: list[str]
    scores: np.ndarray
    thumbnails: list[bytes]
    columns: dict[str, list[Any]]


def render_embeddings(
    videos: EmbeddedVideos,
    places: Mapping[str, np.ndarray],
    *,
    cameras: Sequence[str] | None,
    camera_column: str,
    neighbours: np.ndarray,
    clusters: Sequence[Clusters],
    headline: Clusters,
    facts: Mapping[str, Any],
    label_order: Sequence[str],
    negative_labels: Sequence[str],
) -> str:
    """Render the page.

    Args:
        videos: What it shows.
        places: Two-dimensional places by name of the projection, each (n, 2), the first one shown first.
        cameras: Camera of each video; None where they are not known.
        camera_column: Where that comes from.
        neighbours: Indices of the nearest other videos of each, shape (n, k).
        clusters: Measured of all videos and of each split.
        headline: The one among them that stands on top.
        facts: embeddings.json.
        label_order: Labels of the model, in its order.
        negative_labels: Those that mean 'nothing'.
    """
    columns = _columns(videos, cameras, camera_column, label_order, negative_labels)
    data = {
        "places": {name: np.round(_unit(each), 4).tolist() for name, each in places.items()},
        "axes": {
            "PCA": [f"first axis, {percent(facts['pca']['explained_variance'][0])} of the variance",
                    f"second axis, {percent(facts['pca']['explained_variance'][1])}"],
        },
        "columns": columns,
        "files": [printable(name) for name in videos.files],
        "splits": [printable(name) for name in videos.splits],
        "labels": [printable(name) for name in videos.labels],
        "predictions": [printable(name) for name in videos.predictions],
        "scores": [round(float(score), 3) for score in videos.scores],
        "cameras": None if cameras is None else list(cameras),
        "cameraWord": "camera" if camera_column == "group" else camera_column,
        "neighbours": neighbours.tolist(),
        "thumbnails": [base64.b64encode(picture).decode("ascii") for picture in videos.thumbnails],
    }  # fmt: skip
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    script = (_TEMPLATES / "embeddings.js").read_text(encoding="utf-8")
    text = environment.get_template("embeddings.html").render(
        title=f"Embeddings of {facts['dataset']}",
        lead=_lead(facts),
        headline=headline.sentence,
        warns=headline.follows_camera or headline.one_label_a_camera,
        notes=[line for line in facts["lines"] if line not in {each.sentence for each in clusters}],
        others=[each.sentence for each in clusters if each is not headline],
        rows=[_row(each) for each in clusters],
        camera_word=data["cameraWord"],
        unread=facts["unread"],
        tsne=facts["tsne"],
        seed=facts["seed"],
        style=Markup((_TEMPLATES / "embeddings.css").read_text(encoding="utf-8")),
        data=Markup(island(data)),
        script=Markup(script),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return text.encode("utf-8", "replace").decode()


def _lead(facts: Mapping[str, Any]) -> str:
    splits = ", ".join(f"{name} {count}" for name, count in facts["splits"].items())
    whole = sum(facts["splits"].values())
    return (
        f"Model {facts['model']}. {facts['num_videos']} of {counted(whole, 'video', 'videos')} ({splits}); each point "
        "is one clip as the model's last layer sees it."
    )


def _row(clusters: Clusters) -> dict[str, str]:
    def told(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    return {
        "videos": clusters.videos,
        "count": str(clusters.num_videos),
        "label": told(clusters.silhouette_label),
        "camera": told(clusters.silhouette_camera),
        "same_label": neighbour_words(clusters.same_label),
        "same_camera": neighbour_words(clusters.same_camera),
        "elsewhere": neighbour_words(clusters.same_label_elsewhere),
    }


def _unit(places: np.ndarray) -> np.ndarray:
    """Places in a square from -1 to 1, both axes on one scale."""
    middle = (places.max(axis=0) + places.min(axis=0)) / 2
    reach = float(np.abs(places - middle).max()) or 1.0
    return (places - middle) / reach


def _columns(
    videos: EmbeddedVideos,
    cameras: Sequence[str] | None,
    camera_column: str,
    label_order: Sequence[str],
    negative_labels: Sequence[str],
) -> list[dict[str, Any]]:
    """What points can be coloured by: label, prediction, right or wrong, camera, split, and other metadata."""
    names = [name for name in label_order if name in {*videos.labels, *videos.predictions}]
    names += sorted({*videos.labels} - {*names})
    colours = _label_colours(names, negative_labels)
    known = set(label_order)
    verdicts = [
        "right" if label == guess else "wrong" if label in known else "label unknown to the model"
        for label, guess in zip(videos.labels, videos.predictions, strict=True)
    ]
    right_wrong = {"right": "#0072b2", "wrong": "#d55e00", "label unknown to the model": _OTHER}
    found = [
        _column("Label", videos.labels, colours),
        _column("Prediction", videos.predictions, colours),
        _column("Right or wrong", verdicts, right_wrong),
    ]
    if cameras is not None:
        title = "Camera (group)" if camera_column == "group" else f"{camera_column} (camera)"
        found.append(_column(title, list(cameras)))
    if len(set(videos.splits)) > 1:
        found.append(_column("Split", videos.splits))
    seen = {_parts(each["codes"]) for each in found}
    for name, values in videos.columns.items():
        column = None if name in (camera_column, *_NOT_COLOURED) else _of_metadata(name, values)
        if column and _parts(column["codes"]) not in seen:  # a camera stands in two columns, often
            seen.add(_parts(column["codes"]))
            found.append(column)
    return found


def _label_colours(names: Sequence[str], negative_labels: Sequence[str]) -> dict[str, str]:
    hazards = [name for name in names if name not in negative_labels]
    if len(hazards) <= _NAMED_COLOURS:
        return label_colours(names, negative_labels)
    colours = {name: _PALETTE[place % len(_PALETTE)] for place, name in enumerate(hazards)}
    return {name: colours.get(name, NEGATIVE_COLOUR) for name in names}


def _of_metadata(name: str, values: Sequence[Any]) -> dict[str, Any] | None:
    """A column to colour by; None where it has one value, or names nearly every video."""
    there = [value for value in values if not _is_nothing(value)]
    distinct = len({str(value) for value in there})
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in there)
    if distinct < 2 or not all(isinstance(value, str | int | float | bool) for value in there):
        return None
    if numbers and distinct > len(_STEPS):
        return _of_numbers(name, values)
    if distinct > min(max(len(_PALETTE), len(values) // 3), len(values) // 2):
        return None
    return _column(printable(name), [_NONE if _is_nothing(value) else str(value) for value in values])


def _parts(codes: Sequence[int]) -> tuple[int, ...]:
    """The same for columns that cut the videos into the same parts."""
    order = {code: place for place, code in enumerate(dict.fromkeys(codes))}
    return tuple(order[code] for code in codes)


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _of_numbers(name: str, values: Sequence[Any]) -> dict[str, Any] | None:
    """Numbers cut into parts of about as many videos."""
    there = np.array([float(value) for value in values if not _is_nothing(value)])
    edges = np.unique(np.quantile(there, np.linspace(0, 1, len(_STEPS) + 1)))
    words = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges.tolist())]
    if len(words) < 2:  # nearly all of one value
        return None
    told = []
    for value in values:
        part = None if _is_nothing(value) else int(np.searchsorted(edges[1:-1], float(value), side="right"))
        told.append(_NONE if part is None else words[part])
    shown = _STEPS if len(words) > 2 else (_STEPS[0], _STEPS[3])
    colours = {word: shown[place] for place, word in enumerate(dict.fromkeys(words))}
    return _column(printable(name), told, colours)


def _column(title: str, values: Sequence[str], colours: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Categories with their colours and counts, and the category of each video; rare ones together where many."""
    counts = Counter(values)
    if colours is None:
        kept = [name for name, _ in counts.most_common() if name != _NONE]
        shown = sorted(kept) if len(kept) <= len(_PALETTE) else kept[: len(_PALETTE) - 1]
        names = {name: _PALETTE[place] for place, name in enumerate(shown)}
        rest = len(kept) - len(shown)
        if rest:
            names[f"{rest} others"] = _OTHER
        told = [value if value in names or value == _NONE else f"{rest} others" for value in values]
    else:
        names, told = {name: colour for name, colour in colours.items() if counts[name]}, list(values)
    if _NONE in told:
        names[_NONE] = _UNKNOWN
    totals, order = Counter(told), {name: place for place, name in enumerate(names)}
    categories = [{"name": printable(name), "colour": colour, "count": totals[name]} for name, colour in names.items()]
    return {"title": title, "categories": categories, "codes": [order[value] for value in told]}
