"""What a dataset holds, measured clip by clip, and the figures over all clips that the report shows."""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from tqdm import tqdm

from railsformer.data.analysis.companions import Companions
from railsformer.data.clips import VideoDataset, video_file
from railsformer.data.probe import VideoFacts, available_cores, probe_video
from railsformer.data.sampling import ClipSampling
from railsformer.data.video import VideoDecodeError, read_frames

__all__ = [
    "CHANGE_GREY_LEVELS",
    "DEFAULT_CLIP",
    "MOTION_GAP_SECONDS",
    "ClipFacts",
    "changed_share",
    "default_clip_seconds",
    "describe_clips",
    "label_told_by",
    "measure_clips",
    "picture_times",
    "read_pictures",
]

DEFAULT_CLIP = ClipSampling(num_frames=8, frame_interval=32)  # what `railsformer train` takes unless told otherwise
NUM_PAIRS = 4
MOTION_GAP_SECONDS = 0.5
CHANGE_GREY_LEVELS = 8.0
# A slower camera shows the same picture at both ends of the gap.
_SLOWEST_FPS = 1 / MOTION_GAP_SECONDS
# Averaging to about this many cells a row takes the noise of sensor and codec out.
_LONG_SIDE_CELLS = 160
# In longer files a seek to each pair is cheaper than decoding all that lies between.
_SEEK_BEYOND_SECONDS = 60.0
_NUM_FOLDS = 5
_MAX_BINS = 10
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class ClipFacts:
    """What is known of one row of the dataset.

    Attributes:
        name: `<split>/<file name>`.
        split: Its side.
        index: Row of its split.
        label: Name of its class.
        group: What the split keeps together; None where the dataset has no such column.
        source: File that the clip was cut from; None where the dataset has no such column.
        duration_seconds: None where it is not known.
        num_frames: Pictures; of a part of a file what its rate makes of its length.
        fps: Average pictures a second of the source.
        variable_rate: Whether that rate varies; None where nobody has looked.
        size: Width and height of the upright picture of the source in px.
        brightness: Mean luma of the pictures looked at, 0 to 255.
        motion: Share of the picture that changes within MOTION_GAP_SECONDS; None where the clip is too short or slow.
        problem: Why it cannot be read; empty where it can.
        problem_class: Its kind, as in quarantine.csv.
    """

    name: str
    split: str
    index: int
    label: str
    group: str | None
    source: str | None
    duration_seconds: float | None = None
    num_frames: int | None = None
    fps: float | None = None
    variable_rate: bool | None = None
    size: tuple[int, int] | None = None
    brightness: float | None = None
    motion: float | None = None
    problem: str = ""
    problem_class: str = ""


def measure_clips(
    dataset: VideoDataset, companions: Companions, *, num_workers: int | None = None, progress: bool = False
) -> list[ClipFacts]:
    """Look at eight pictures of every clip, in threads; a clip that cannot be read says why.

    Args:
        dataset: Its rows.
        companions: Their probe spares a second look at every file.
        num_workers: Threads; None means one for each core.
        progress: Whether to draw a bar on stderr.

    Returns:
        One entry a row, split by split, in the order of the rows.
    """
    known = _known_facts(dataset)
    executor = ThreadPoolExecutor(num_workers or available_cores())
    measure = partial(_measure_clip, dataset=dataset, probe=companions.probe)
    try:
        results = executor.map(measure, known)
        return list(tqdm(results, total=len(known), desc="looking at clips", unit="clip", disable=not progress))
    finally:
        executor.shutdown(cancel_futures=True)


def read_pictures(rows: datasets.Dataset, index: int, times_seconds: Sequence[float] | np.ndarray) -> np.ndarray:
    """Pictures of one row, uint8, shape (N, height, width, 3); see `read_frames`."""
    with video_file(rows[index]["video"], index=index) as path:
        return read_frames(path, times_seconds)


def picture_times(duration_seconds: float) -> np.ndarray:
    """Instants of four pairs that are MOTION_GAP_SECONDS apart, spread evenly, shape (8,); four instants if too short.

    10 s: 1.19 and 1.69, 3.56 and 4.06, 5.94 and 6.44, 8.31 and 8.81.
    """
    middles = (np.arange(NUM_PAIRS) + 0.5) / NUM_PAIRS
    slack = duration_seconds - MOTION_GAP_SECONDS
    if slack <= 0:
        return middles * max(duration_seconds, 0.0)
    return (middles[:, None] * slack + np.array([0.0, MOTION_GAP_SECONDS])).ravel()


def changed_share(first: np.ndarray, second: np.ndarray) -> float:
    """Share of the picture that differs by more than CHANGE_GREY_LEVELS, from 0 to 1.

    A lamp that flickers or an exposure that follows the sun changes all grey levels alike: the gain and offset that
    fit the calmer half of the picture are taken out first.

    Args:
        first: RGB picture, uint8, shape (height, width, 3).
        second: The same camera's picture a moment later.
    """
    before, after = _cells(first), _cells(second)
    residual = after - before - np.median(after - before)
    for _ in range(2):
        calm = np.abs(residual) <= np.median(np.abs(residual))
        known, seen = before[calm], after[calm]
        spread = float(known.std())
        # Where all that is calm is of one grey, only the offset can be told.
        gain = float(np.cov(known, seen, bias=True)[0, 1]) / spread**2 if spread > 1.0 else 1.0
        residual = after - (gain * (before - known.mean()) + seen.mean())
    return float(np.mean(np.abs(residual) > CHANGE_GREY_LEVELS))


def _known_facts(dataset: VideoDataset) -> list[tuple[ClipFacts, float | None]]:
    """What the table says of every row, and the seconds where it tells them."""
    known = []
    for split, rows in dataset.splits.items():
        wanted = ("label", "group", "source", "start_seconds", "end_seconds")
        table = rows.select_columns([name for name in wanted if name in rows.column_names]).to_list()
        for index, row in enumerate(table):
            group, source = row.get("group"), row.get("source")
            facts = ClipFacts(
                name=f"{split}/row {index}",
                split=split,
                index=index,
                label=dataset.labels[row["label"]],
                group=None if group is None else str(group),
                source=None if source is None else str(source),
            )
            end = row.get("end_seconds")
            known.append((facts, None if end is None else float(end) - float(row.get("start_seconds") or 0.0)))
    return known


def _measure_clip(
    known: tuple[ClipFacts, float | None], *, dataset: VideoDataset, probe: Mapping[str, VideoFacts]
) -> ClipFacts:
    """Add what the file itself tells."""
    facts, duration = known
    values = dict(vars(facts))
    video = dataset.splits[facts.split][facts.index]["video"]
    if video.get("path"):
        values["name"] = f"{facts.split}/{Path(video['path']).name}"
    try:
        with video_file(video, index=facts.index) as path:
            told = probe.get(facts.source or "") or probe_video(path, thorough=False)
            duration = duration if duration is not None else told.duration_seconds
            width, height = told.width, told.height
            turned = round(told.rotation_degrees / 90) % 2
            values |= {
                "duration_seconds": duration,
                "num_frames": _count_frames(told, duration),
                "fps": told.fps,
                "variable_rate": told.variable_rate,
                "size": (height, width) if turned else (width, height),
            }
            values |= _look(path, duration, told.fps)
    except FileNotFoundError:
        values |= {"problem": "the file is gone", "problem_class": "missing"}
    except VideoDecodeError as error:
        values |= {"problem": error.reason, "problem_class": error.reason_class}
    return ClipFacts(**values)


def _count_frames(told: VideoFacts, duration: float) -> int | None:
    """Pictures of a clip: all of its source, or the part that its length and the rate tell."""
    if math.isclose(duration, told.duration_seconds, abs_tol=0.01):
        return told.num_frames
    return round(duration * told.fps) if told.fps else None


def _look(path: Path, duration: float, fps: float | None) -> dict[str, float | None]:
    """Brightness and motion."""
    times = picture_times(duration)
    if duration > _SEEK_BEYOND_SECONDS:
        pictures = np.concatenate([read_frames(path, pair) for pair in times.reshape(NUM_PAIRS, -1)])
    else:
        pictures = read_frames(path, times)
    motion = None
    if len(times) == 2 * NUM_PAIRS and (fps is None or fps >= _SLOWEST_FPS):
        motion = float(np.mean([changed_share(*pair) for pair in zip(pictures[::2], pictures[1::2], strict=True)]))
    return {"brightness": float(np.mean([_cells(picture).mean() for picture in pictures])), "motion": motion}


def _cells(picture: np.ndarray) -> np.ndarray:
    """Luma averaged over square cells, float32, shape (rows, columns)."""
    height, width = picture.shape[:2]
    side = min(max(1, math.ceil(max(height, width) / _LONG_SIDE_CELLS)), height, width)
    rows, columns = height // side, width // side
    luma = picture[: rows * side, : columns * side].astype(np.float32) @ _LUMA
    return luma.reshape(rows, side, columns, side).mean(axis=(1, 3))


def describe_clips(dataset: VideoDataset, clips: Sequence[ClipFacts], companions: Companions) -> dict[str, Any]:
    """Return the figures over all clips, the content of statistics.json but for settings and advice.

    Clips that cannot be read count in the balance and nowhere else.
    """
    splits, labels = list(dataset.splits), list(dataset.labels)
    readable = [clip for clip in clips if not clip.problem]
    grouped: dict[str, list[ClipFacts]] = defaultdict(list)
    for clip in clips:
        if clip.group is not None:
            grouped[clip.group].append(clip)
    groups = sorted(grouped)
    sides = {group: {clip.split for clip in grouped[group]} for group in groups}
    return {
        "version": 1,
        "dataset": dataset.name,
        "dataset_fingerprint": dataset.fingerprint,
        "split_kind": dataset.split_kind,
        "labels": labels,
        "splits": splits,
        "num_clips": len(clips),
        "num_groups": len(groups),
        "groups_by_split": {side: sum(side in sides[group] for group in groups) for side in splits},
        "groups_on_several_sides": sum(len(sides[group]) > 1 for group in groups),
        # Every file a group of its own: then a group tells nothing of the camera.
        "recordings_unknown": "recordings unknown" in dataset.split_kind or len(groups) in (0, len(clips)),
        "balance": {
            "by_split": {side: _count([c for c in clips if c.split == side], labels) for side in splits},
            "by_group": {group: _count(grouped[group], labels) for group in groups},
        },
        "duration_seconds": _by_label_and_split(readable, "duration_seconds", labels, splits),
        "num_shorter_than_default_clip": _count_short(readable),
        "num_frames": _by_label_and_split(readable, "num_frames", labels, splits),
        "brightness": _by_label_and_split(readable, "brightness", labels, splits),
        "dark_quarter": _dark_quarter(readable, splits),
        "motion": _by_label_and_split(readable, "motion", labels, splits),
        "rates": _tally([None if clip.fps is None else f"{round(clip.fps, 2):g}" for clip in readable]),
        "num_variable_rate": _count_variable(readable),
        "sizes": _tally([clip.size and f"{clip.size[0]}x{clip.size[1]}" for clip in readable]),
        "label_told_by": _told(readable, labels),
        "copies": _copies(companions, num_test=sum(clip.split == "test" for clip in clips)),
        "quarantine": {
            "num_files": len(companions.quarantine),
            "by_reason_class": _tally([row.reason_class for row in companions.quarantine]),
        },
        "unreadable": _unreadable(clips),
    }


def default_clip_seconds() -> float:
    """Length of the default clip, the time that its last picture stands included."""
    return DEFAULT_CLIP.num_frames * DEFAULT_CLIP.step_seconds


def label_told_by(values: Sequence[Hashable], labels: Sequence[str]) -> float:
    """Share of clips whose label one guesses from another property alone: the commonest label among equal values.

    Each fifth is guessed from the other four, so that a property which is new in every clip tells nothing.

    Args:
        values: The property of each clip.
        labels: Its label.
    """
    kinds = {value: number for number, value in enumerate(dict.fromkeys(values))}
    names = {label: number for number, label in enumerate(sorted(set(labels)))}
    rows, columns = np.array([kinds[value] for value in values]), np.array([names[label] for label in labels])
    folds = np.random.default_rng(0).permutation(len(rows)) % _NUM_FOLDS
    right = 0
    for fold in range(_NUM_FOLDS):
        counts = np.zeros((len(kinds), len(names)))
        seen = folds != fold
        np.add.at(counts, (rows[seen], columns[seen]), 1)
        counts += counts.sum(axis=0) / (1 + counts.sum())  # breaks ties, and stands in where a value was never seen
        right += int(np.sum(counts.argmax(axis=1)[rows[~seen]] == columns[~seen]))
    return right / len(rows)


def _unreadable(clips: Sequence[ClipFacts]) -> list[dict[str, str | None]]:
    return [
        {
            "name": clip.name,
            "label": clip.label,
            "group": clip.group,
            "reason_class": clip.problem_class,
            "reason": clip.problem,
        }
        for clip in clips
        if clip.problem
    ]


def _count(clips: Sequence[ClipFacts], labels: Sequence[str]) -> dict[str, int]:
    counts = Counter(clip.label for clip in clips)
    return {label: counts[label] for label in labels}


def _tally(values: Sequence[str | None]) -> dict[str, int]:
    """How often each value occurs, the most frequent first; unknown ones as 'unknown'."""
    counts = Counter("unknown" if value is None else value for value in values)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _by_label_and_split(
    clips: Sequence[ClipFacts], name: str, labels: Sequence[str], splits: Sequence[str]
) -> dict[str, Any]:
    def over(chosen: Sequence[ClipFacts]) -> dict[str, float] | None:
        return _distribution([value for clip in chosen if (value := getattr(clip, name)) is not None])

    return {
        "all": over(clips),
        "by_label": {label: over([clip for clip in clips if clip.label == label]) for label in labels},
        "by_split": {side: over([clip for clip in clips if clip.split == side]) for side in splits},
    }


def _distribution(values: Sequence[float]) -> dict[str, float] | None:
    """Mean and quantiles; None where there is no value."""
    if not values:
        return None
    shares = {"min": 0.0, "p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
    quantiles = {name: round(float(np.quantile(values, share)), 4) for name, share in shares.items()}
    return {"count": len(values), "mean": round(float(np.mean(values)), 4), **quantiles}


def _dark_quarter(clips: Sequence[ClipFacts], splits: Sequence[str]) -> dict[str, Any] | None:
    """How the darkest quarter of all clips lies on the sides; None without clips."""
    known = [(clip.split, clip.brightness) for clip in clips if clip.brightness is not None]
    if not known:
        return None
    limit = float(np.quantile([value for _, value in known], 0.25))
    shares = {}
    for side in splits:
        dark = [value <= limit for split, value in known if split == side]
        shares[side] = round(sum(dark) / len(dark), 4) if dark else None
    return {"at_most": round(limit, 4), "share_by_split": shares}


def _told(clips: Sequence[ClipFacts], labels: Sequence[str]) -> dict[str, float]:
    """How well single properties tell the label, beside always naming the commonest one; empty without clips."""
    if not clips:
        return {}
    names = [clip.label for clip in clips]
    properties: dict[str, Sequence[Hashable]] = {
        "group": [clip.group for clip in clips],
        "size": [clip.size for clip in clips],
        "brightness": _bins([clip.brightness for clip in clips]),
        "duration": _bins([clip.duration_seconds for clip in clips]),
    }
    told = {name: round(label_told_by(values, names), 4) for name, values in properties.items()}
    return {"commonest_label": round(max(Counter(names).values()) / len(names), 4), **told}


def _count_short(clips: Sequence[ClipFacts]) -> int:
    limit = default_clip_seconds()
    return sum(clip.duration_seconds is not None and clip.duration_seconds < limit for clip in clips)


def _count_variable(clips: Sequence[ClipFacts]) -> int | None:
    """Clips whose rate varies; None where nobody has looked."""
    told = [clip.variable_rate for clip in clips if clip.variable_rate is not None]
    return sum(told) if told else None


def _bins(values: Sequence[float | None]) -> list[int]:
    """Tenths of the range of ranks (fewer for few clips); -1 where there is no value."""
    known = [value for value in values if value is not None]
    if not known:
        return [-1] * len(values)
    num_bins = max(1, min(_MAX_BINS, len(known) // 10))
    edges = np.quantile(known, np.arange(1, num_bins) / num_bins)
    return [-1 if value is None else int(np.searchsorted(edges, value)) for value in values]


def _copies(companions: Companions, *, num_test: int) -> dict[str, Any] | None:
    """The audit in numbers; without one, the exact copies across sides that dataset.json counts; None without both."""
    audit = companions.audit
    if not audit:
        across = companions.facts.get("copies_on_several_sides")
        return {"audited": 0, "exact_on_several_sides": across} if isinstance(across, int) else None
    exact, near, drawn = (audit.get(name) or {} for name in ("exact_copies", "near_copies", "random_split"))
    clusters, test_rows = exact.get("clusters") or [], drawn.get("test_rows") or 0
    leaked = {
        name: round(float(drawn[name]) / test_rows, 4) if test_rows and drawn.get(name) is not None else None
        for name in ("exact_leaked", "near_leaked", "same_group")
    }
    return {
        "audited": 1,
        "exact_clusters": len(clusters),
        "files_in_exact_clusters": sum(map(len, clusters)),
        "near_pairs": len(near.get("pairs") or []),
        "exact_on_several_sides": exact.get("on_several_sides", 0),
        "near_on_several_sides": near.get("on_several_sides", 0),
        "groups_on_several_sides": audit.get("groups_on_several_sides", 0),
        "label_conflicts": len(audit.get("label_conflicts") or []),
        "num_left_out": len(audit.get("left_out") or []),
        "test_rows": num_test,
        "random_split": {"draws": drawn.get("draws", 0), "share_of_test": leaked},
    }
