"""What the learned position tables know: how alike places of the picture, and instants of a clip, are to the model.

Dimensions: H and W patches down and across, N = H * W, T frames, D hidden size.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from railsformer.data.analysis.figures import printable
from railsformer.data.folders import check_output_dir, whole_folder
from railsformer.explain.position_pictures import draw_space_distances, draw_space_maps, draw_time_maps
from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

__all__ = [
    "PositionsReport",
    "cosine_similarity",
    "describe_tables",
    "patch_distances",
    "similarity_by_distance",
    "write_positions",
]

_FAR = 0.5  # of the picture's or the clip's length: what counts as far apart
_TELLS_NOTHING = 0.1  # rank correlation with distance below which a table orders next to nothing


@dataclass(frozen=True)
class PositionsReport:
    """Cosine similarities of the rows of the position tables.

    Args:
        model: Name of the run.
        grid: Patches down and across.
        patch_px: Side of a patch.
        num_frames: Of a clip.
        frame_seconds: Between neighbouring frames; None where that depends on the video.
        space: Of patches, row by row of the picture, shape (N, N), NaN where a row of the table is zero; None where
            there is no table to compare.
        time: Of frames, shape (T, T), in the same way.
        space_words: Sentences on the space table.
        time_words: Sentences on the time table.
    """

    model: str
    grid: tuple[int, int]
    patch_px: int
    num_frames: int
    frame_seconds: float | None
    space: np.ndarray | None
    time: np.ndarray | None
    space_words: tuple[str, ...]
    time_words: tuple[str, ...]

    def lines(self) -> list[str]:
        """Sentences to print."""
        return [*self.space_words, *self.time_words]

    def to_dict(self) -> dict[str, Any]:
        """What positions.json holds."""
        height, width = self.grid
        return {
            "version": 1,
            "model": self.model,
            "grid": [height, width],
            "num_frames": self.num_frames,
            "frame_seconds": self.frame_seconds,
            "space": None if self.space is None else _figures(self.space, patch_distances(self.grid)),
            "time": None if self.time is None else _figures(self.time, _frame_distances(self.num_frames)),
            "lines": self.lines(),
        }


def write_positions(model_name: str | Path, output_dir: str | Path) -> PositionsReport:
    """Write pictures of the position tables, their similarities and a page of text.

    The folder gets positions.md, positions.json, positions.npz, and what the tables allow of space_maps.png,
    space_distance.png and time_maps.png.

    Args:
        model_name: Run folder, checkpoint or Hub id; it needs no head.
        output_dir: Empty or not there yet.

    Returns:
        What was found; `.lines()` are the sentences to print.

    Raises:
        FileExistsError: If output_dir holds something.
        FileNotFoundError: If there is no such model.
        ValueError: If the model is damaged, or has no position table at all.
    """
    check_output_dir(output_dir)
    report = describe_tables(RailsformerForVideoClassification.from_pretrained(model_name), name=str(model_name))
    with whole_folder(output_dir) as folder:
        pictures = _pictures(report)
        for file_name, picture in pictures.items():
            (folder / file_name).write_bytes(picture)
        arrays = {name: found for name, found in (("space", report.space), ("time", report.time)) if found is not None}
        np.savez_compressed(folder / "positions.npz", grid=np.array(report.grid), **arrays)  # type: ignore[arg-type]
        text = json.dumps(report.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)
        (folder / "positions.json").write_text(text + "\n", encoding="utf-8")
        (folder / "positions.md").write_text(_page(report, pictures), encoding="utf-8")
    return report


def describe_tables(model: RailsformerForVideoClassification, *, name: str) -> PositionsReport:
    """Compare the rows of a model's position tables.

    Args:
        model: With at least one table.
        name: Where it comes from, for messages.

    Raises:
        ValueError: If it has no table at all, or a table holds values that are not numbers.
    """
    config, embeddings = model.config, model.timesformer.embeddings
    if config.position_embedding == "none":
        raise ValueError(
            f"{name} has no position tables (position_embedding is none), so there is nothing to draw; name a model "
            "trained with position_embedding space_time or space"
        )
    space = _table(embeddings.position_embeddings[0, 1:], f"{name}: the space table")  # without CLS
    space_similarity = cosine_similarity(space) if space.any() else None
    time_similarity, missing = None, _missing_time_table(config)
    if not missing:
        time = _table(embeddings.time_embeddings[0], f"{name}: the time table")
        time_similarity = cosine_similarity(time) if time.any() and len(time) > 1 else None
        missing = "" if time.any() else _never_trained("time")
        if not missing and len(time) == 1:
            missing = "Time table: clips have one frame, so there is nothing to compare."
    fixed_rate = config.clip_sampling == "interval"
    return PositionsReport(
        model=_shown_name(name),
        grid=config.grid,
        patch_px=config.patch_size,
        num_frames=config.num_frames,
        frame_seconds=config.frame_interval / config.nominal_fps if fixed_rate else None,
        space=space_similarity,
        time=time_similarity,
        space_words=_space_words(space_similarity, config),
        time_words=(missing,) if missing or time_similarity is None else _time_words(time_similarity),
    )


def cosine_similarity(table: np.ndarray) -> np.ndarray:
    """Cosine of the angle between each two rows.

    Args:
        table: Shape (rows, D).

    Returns:
        From -1 to 1, 1 on the diagonal, NaN in rows and columns of a row of zeros; shape (rows, rows), float32.
    """
    table = np.asarray(table, dtype=np.float64)
    lengths = np.linalg.norm(table, axis=1, keepdims=True)
    unit = np.divide(table, lengths, out=np.full_like(table, np.nan), where=lengths > 0)
    return np.clip(unit @ unit.T, -1.0, 1.0).astype(np.float32)


def patch_distances(grid: tuple[int, int]) -> np.ndarray:
    """Distance in patches between the middles of each two patches, shape (N, N)."""
    places = np.stack(np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij"), axis=-1).reshape(-1, 2)
    return np.linalg.norm((places[:, None] - places[None]).astype(np.float32), axis=-1)


def similarity_by_distance(similarity: np.ndarray, distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean similarity and its spread at each whole distance from 1 on.

    Args:
        similarity: Shape (n, n); NaN counts for nothing.
        distances: Shape (n, n); rounded to whole ones.

    Returns:
        Distances, shape (d,), and mean, tenth and ninetieth percentile of the similarity there, shape (d, 3).
    """
    upper = np.triu_indices(len(similarity), 1)
    values, steps = similarity[upper], np.rint(distances[upper]).astype(int)
    values, steps = values[~np.isnan(values)], steps[~np.isnan(values)]
    there = np.unique(steps)
    told = [(values[steps == step].mean(), *np.percentile(values[steps == step], (10, 90))) for step in there]
    return there, np.array(told, dtype=np.float64).reshape(-1, 3)


def _figures(similarity: np.ndarray, distances: np.ndarray) -> dict[str, Any]:
    """Figures of one table for JSON."""
    steps, told = similarity_by_distance(similarity, distances)
    near, far, order = _near_far_order(similarity, distances)
    return {
        "neighbours": _rounded(near),
        "far": _rounded(far),
        "rank_correlation_with_distance": _rounded(order),
        "zero_rows": int(np.isnan(similarity.diagonal()).sum()),
        "by_distance": [
            {"distance": int(step), "mean": _rounded(mean), "low": _rounded(low), "high": _rounded(high)}
            for step, (mean, low, high) in zip(steps, told, strict=True)
        ],
    }


def _near_far_order(similarity: np.ndarray, distances: np.ndarray) -> tuple[float, float, float]:
    """Mean similarity of neighbours and of what is far apart, and its rank correlation with distance; NaN if none."""
    upper = np.triu_indices(len(similarity), 1)
    values, apart = similarity[upper], distances[upper]
    values, apart = values[~np.isnan(values)], apart[~np.isnan(values)]
    if not len(values):
        return np.nan, np.nan, np.nan
    near, far = apart <= 1, apart >= max(2.0, _FAR * apart.max())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of equal distances, or equal similarities, there is no order
        order = float(stats.spearmanr(apart, values).statistic)
    return _mean(values[near]), _mean(values[far]), order


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def _table(rows: Any, what: str) -> np.ndarray:
    table = rows.detach().float().cpu().numpy()
    if not np.isfinite(table).all():
        raise ValueError(f"{what} holds values that are not numbers (NaN); its training diverged, or copy it again")
    return table


def _missing_time_table(config: RailsformerConfig) -> str:
    """Why there is no time table; empty where there is one."""
    if config.attention_type == "space_only":
        return "Time table: there is none; space_only looks at each frame by itself and averages over them."
    if config.position_embedding == "space":
        return "Time table: there is none; the model was made with position_embedding space."
    return ""


def _never_trained(which: str) -> str:
    return f"The {which} table is all zero: it was never trained, so there is nothing to compare."


def _space_words(similarity: np.ndarray | None, config: RailsformerConfig) -> tuple[str, ...]:
    if similarity is None:
        return (_never_trained("space"),)
    height, width = config.grid
    head = f"Space table, {height} x {width} patches of {config.patch_size} px: "
    return _words(similarity, patch_distances(config.grid), head, "neighbouring patches", "half the picture")


def _time_words(similarity: np.ndarray) -> tuple[str, ...]:
    head = f"Time table, {len(similarity)} frames: "
    distances = _frame_distances(len(similarity))
    return _words(similarity, distances, head, "neighbouring frames", "half the clip")


def _words(similarity: np.ndarray, distances: np.ndarray, head: str, near_ones: str, far: str) -> tuple[str, ...]:
    near_mean, far_mean, order = _near_far_order(similarity, distances)
    words = [f"{head}mean cosine similarity {near_mean:.2f} of {near_ones}"]
    if np.isnan(near_mean):
        words = [f"{head}no two rows that are not zero"]
    if not np.isnan(far_mean):
        words[0] += f", {far_mean:.2f} of those at least {far} apart"
    words[0] += "."
    if not np.isnan(order):
        verdict = f"Rank correlation of similarity with distance {order:.2f}"
        if abs(order) < _TELLS_NOTHING:
            verdict += ": next to no order, as in a table that was drawn at random"
        elif order > 0:
            verdict += ": what is far apart is more alike than what is near"
        words.append(verdict + ".")
    if zeros := int(np.isnan(similarity.diagonal()).sum()):
        words.append(f"{zeros} of its {len(similarity)} rows are zero and have no similarity.")
    return tuple(words)


def _frame_distances(num_frames: int) -> np.ndarray:
    frames = np.arange(num_frames, dtype=np.float32)
    return np.abs(frames[:, None] - frames[None])


def _shown_name(name: str) -> str:
    """Its last two folders: where it lies on this machine is nobody's business where the page is sent."""
    return printable("/".join(Path(name).parts[-2:]) if Path(name).is_absolute() else name)


def _pictures(report: PositionsReport) -> dict[str, bytes]:
    pictures = {}
    if report.space is not None and len(report.space) > 1:
        steps, told = similarity_by_distance(report.space, patch_distances(report.grid))
        pictures["space_maps.png"] = draw_space_maps(report.space, report.grid, model=report.model)
        pictures["space_distance.png"] = draw_space_distances(
            report.space, report.grid, steps=steps, told=told, model=report.model
        )
    if report.time is not None:
        steps, told = similarity_by_distance(report.time, _frame_distances(report.num_frames))
        pictures["time_maps.png"] = draw_time_maps(
            report.time, steps=steps, told=told, frame_seconds=report.frame_seconds, model=report.model
        )
    return pictures


_CAPTIONS = {
    "space_maps.png": "Each small map belongs to the patch at its dot and shows how alike its row of the space table "
    "is to those of all patches. A table that knows the picture's layout shows a bright spot about each dot; bright "
    "rows or columns say that it tells one direction better than the other.",
    "space_distance.png": "The same by distance: how fast likeness fades, in all directions, along rows and along "
    "columns.",
    "time_maps.png": "Rows of the time table against each other. Bright along the diagonal: neighbouring frames are "
    "alike and the order of frames is known. One colour all over: the model hardly tells one instant from another "
    "by this table. A run with time_table sinusoidal begins with a table that knows the order.",
}


def _page(report: PositionsReport, pictures: dict[str, bytes]) -> str:
    parts = [f"# Position tables of {report.model}", "\n".join(f"- {line}" for line in report.lines())]
    parts += [f"![{_CAPTIONS[name].split('.')[0]}]({name})\n\n{_CAPTIONS[name]}" for name in pictures]
    parts.append(
        "Similarity is the cosine of the angle between two rows, from -1 to 1; the row of CLS is left out. The tables "
        "say what a place or an instant adds to a token before the first block, not what the model looks at: a model "
        "can tell places apart by what they show, too. positions.npz holds the similarities (`space`, patches row by "
        "row of the picture, and `time`), positions.json the figures above."
    )
    return "\n\n".join(parts) + "\n"
