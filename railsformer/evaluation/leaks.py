"""Was a video, or a copy of it, seen by the run in training? Files are compared by bytes, pictures by fingerprints."""

import hashlib
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import datasets
from transformers import PretrainedConfig

from railsformer.data.clips import VideoDataset, load_video_dataset
from railsformer.data.copies.fingerprints import Fingerprint, SegmentOfFile, fingerprint_videos
from railsformer.data.copies.search import find_copies
from railsformer.data.dataset_folder import read_dataset_facts
from railsformer.data.files import whole_file
from railsformer.data.splits.fold_datasets import read_copies

__all__ = ["TRAINING_VIDEOS_FILE", "LeakCheck", "earlier_trainings", "find_leaks", "write_training_videos"]

logger = logging.getLogger(__name__)

# `near` decodes the videos of both sides where no audit has done so; `exact` compares files by their bytes.
LeakCheck = Literal["near", "exact"]
_State = Literal["clean", "mixed", "unknown"]

TRAINING_VIDEOS_FILE = "training_videos.json"
_VERSION = 2
_SEEN_SPLITS = ("train", "validation")
_RUN_FILE = "run.json"
_NAMED = 20


def earlier_trainings(base: str | Path | None) -> list[dict[str, Any]]:
    """What the model that a run starts from was trained on by us: its own training first, then that of its base.

    Args:
        base: Run folder, a checkpoint in it, another checkpoint, or a Hub id; None for random weights.

    Returns:
        `dataset`, `dataset_fingerprint` and `videos` of each training, `videos` None where they are not listed;
        nothing for a checkpoint that is not of a run of ours.

    Raises:
        ValueError: If a file of the base is damaged.
    """
    return _trainings_of_base(base, visited=frozenset())


def write_training_videos(
    run_dir: str | Path, dataset: VideoDataset, *, earlier: Sequence[Mapping[str, Any]] = ()
) -> Path:
    """Write which videos a run saw, so that evaluations can tell whether they measure on one of them.

    Args:
        run_dir: The run folder.
        dataset: What it was trained on; of it train and validation are listed, validation chose the epoch.
        earlier: What `earlier_trainings` gave for what it started from.

    Returns:
        The path of training_videos.json.
    """
    videos = [
        {"name": name, "split": split, "sha256": digest, "group": group}
        for split in _SEEN_SPLITS
        if split in dataset.splits
        for name, digest, group in _listed(dataset.splits[split])
    ]
    home = Path(dataset.name)
    content = {
        "version": _VERSION,
        "dataset": str(home.resolve()) if home.is_dir() else dataset.name,
        "dataset_fingerprint": dataset.fingerprint,
        "median_seconds": _median_seconds(dataset),
        "videos": videos,
        "earlier": [dict(training) for training in earlier],
    }
    path = Path(run_dir) / TRAINING_VIDEOS_FILE
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _median_seconds(dataset: VideoDataset) -> float | None:
    """Usual length of a training video: the window in which a long one is looked through."""
    rows = dataset.splits.get("train")
    if rows is None or not {"start_seconds", "end_seconds"} <= set(rows.column_names):
        return None
    times = zip(rows["start_seconds"], rows["end_seconds"], strict=True)
    lengths = [end - (start or 0.0) for start, end in times if end is not None]
    return median(lengths) if lengths else None


def find_leaks(
    model: str | Path,
    dataset: VideoDataset,
    split: str,
    *,
    check: LeakCheck = "near",
    num_workers: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Compare a split with what the model's run saw, and the runs that it started from.

    Args:
        model: Run folder, a checkpoint in it, or a Hub id.
        dataset: What is evaluated.
        split: Its split.
        check: `near` also looks for copies that were encoded again, cut or resized. The audit of the dataset answers
            that without decoding where the run was trained on the same dataset; else the videos of both are decoded.
        num_workers: Processes that decode; None means one for each core.
        progress: Show a bar.

    Returns:
        `state` (`clean`, `mixed`, or `unknown` where nothing was found but not everything could be looked for),
        `num_exact`, `num_near`, `num_same_group` (videos of a camera or recording of the run's, where another dataset
        is evaluated), `videos` (the first 20 names) and `reason`.

    Raises:
        ValueError: If a file of the run or the audit is damaged.
    """
    trainings = _trainings_of(Path(model), visited=frozenset())
    rows = dataset.split(split)
    if trainings is None:
        return _verdict(_Found("unknown", "the model does not say which videos it was trained on"), rows)
    distinct: dict[str | int, dict[str, Any]] = {}
    for place, training in enumerate(trainings):  # two trainings on one dataset are compared with once
        distinct.setdefault(training["dataset_fingerprint"] or place, training)
    found = [
        _by_training(_seen(training), dataset, split, check=check, num_workers=num_workers, progress=progress)
        for training in distinct.values()
    ]
    return _verdict(_joined(found), rows)


@dataclass(frozen=True)
class _Seen:
    """What a training saw.

    Args:
        fingerprint: Of its dataset.
        hashes: SHA-256 of its files, None where it does not list them.
        groups: Its cameras or recordings.
        rows: The rows themselves, None where the dataset is not on this machine.
    """

    fingerprint: str
    hashes: frozenset[str] | None
    groups: frozenset[str]
    rows: datasets.Dataset | None


@dataclass(frozen=True)
class _Found:
    """What a split has in common with a training: rows by their index."""

    state: _State
    reason: str
    exact: frozenset[int] = field(default_factory=frozenset)
    near: frozenset[int] = field(default_factory=frozenset)
    same_group: frozenset[int] = field(default_factory=frozenset)


def _trainings_of(model: Path, *, visited: frozenset[Path]) -> list[dict[str, Any]] | None:
    """All trainings of a run, its own first; None where the folder is not of one. A checkpoint is of the one above."""
    for folder in (model, model.parent) if model.is_dir() else ():
        listed, facts = _read_json(folder / TRAINING_VIDEOS_FILE), _read_json(folder / _RUN_FILE)
        if not listed and not facts:
            continue
        told = listed or facts
        own = {
            "dataset": str(told.get("dataset") or ""),
            "dataset_fingerprint": str(told.get("dataset_fingerprint") or ""),
            "videos": listed.get("videos"),
        }
        if "earlier" in listed:
            earlier = listed["earlier"]
        elif (facts.get("given") or {}).get("image_model"):
            earlier = []
        else:  # written by an earlier version, or lost: what it started from is looked at where it lies
            looked_at = visited | {folder.resolve(), model.resolve()}
            earlier = _trainings_of_base(facts.get("base"), visited=looked_at)
        try:
            for training in (own, *earlier):
                _seen(training, with_rows=False)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{folder / TRAINING_VIDEOS_FILE} is damaged ({error!r}); remove it, the check then goes without it"
            ) from error
        return [own, *earlier]
    return None


def _trainings_of_base(base: str | Path | None, *, visited: frozenset[Path]) -> list[dict[str, Any]]:
    """As `earlier_trainings`; a folder that was looked at before counts as one that does not list its videos."""
    if base is None:
        return []
    unlisted = {"dataset": "", "dataset_fingerprint": "", "videos": None}
    if Path(base).resolve() in visited:
        return [unlisted]
    trainings = _trainings_of(Path(base), visited=visited)
    if trainings is not None:
        return trainings
    try:
        config, _ = PretrainedConfig.get_config_dict(str(base))
    except (OSError, ValueError):  # it has gone, so nobody can tell
        return [unlisted]
    # `railsformer train` alone writes a list; a run from the Hub, or without its files, leaves only this.
    return [unlisted] if isinstance(config.get("negative_labels"), list) else []


def _seen(training: Mapping[str, Any], *, with_rows: bool = True) -> _Seen:
    """A training as it was listed, with its rows where its dataset still lies in its folder as it was."""
    videos, fingerprint = training["videos"], training["dataset_fingerprint"]
    return _Seen(
        fingerprint,
        hashes=None if videos is None else frozenset(str(video["sha256"]) for video in videos),
        groups=frozenset(str(video["group"]) for video in videos or () if video["group"]),
        rows=_training_rows(training["dataset"], fingerprint) if with_rows else None,
    )


def _by_training(
    seen: _Seen, dataset: VideoDataset, split: str, *, check: LeakCheck, num_workers: int | None, progress: bool
) -> _Found:
    """What a split has in common with one training."""
    rows = dataset.split(split)
    if seen.fingerprint and seen.fingerprint == dataset.fingerprint:
        if split in _SEEN_SPLITS:
            use = "was trained on" if split == "train" else "chose its weights on"
            return _Found("mixed", f"the run {use} this very split", exact=frozenset(range(len(rows))))
        audited = _by_audit(dataset, split)
        if audited is not None:
            return audited
        seen = replace(seen, rows=_seen_rows(dataset))
    return _by_comparison(seen, rows, check=check, num_workers=num_workers, progress=progress)


def _joined(found: Sequence[_Found]) -> _Found:
    """Of several trainings: mixed where one is, else unknown where one is; the reasons are theirs."""
    order: tuple[_State, ...] = ("mixed", "unknown", "clean")
    state = min((one.state for one in found), key=order.index)
    reasons = [
        one.reason if place == 0 else f"of a training that it started from: {one.reason}"
        for place, one in enumerate(found)
        if one.state == state
    ]
    exact = frozenset[int]().union(*(one.exact for one in found))
    return _Found(
        state,
        "; ".join(dict.fromkeys(reasons)),
        exact=exact,
        near=frozenset[int]().union(*(one.near for one in found)) - exact,
        same_group=frozenset[int]().union(*(one.same_group for one in found)),
    )


def _read_json(path: Path) -> dict[str, Any]:
    """An object of a file; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({' '.join(str(error).split())}); restore it") from error
    return content if isinstance(content, dict) else {}


def _training_rows(name: str, fingerprint: str) -> datasets.Dataset | None:
    """Rows of the dataset that the run was trained on, where it still lies in its folder as it was."""
    if not Path(name).is_absolute() or not Path(name).is_dir():
        return None
    try:
        found = load_video_dataset(name)
    except (FileNotFoundError, ValueError) as error:
        logger.warning("the dataset of the training cannot be looked at for copies: %s", error)
        return None
    return _seen_rows(found) if found.fingerprint == fingerprint else None


def _seen_rows(dataset: VideoDataset) -> datasets.Dataset:
    return datasets.concatenate_datasets([dataset.splits[name] for name in _SEEN_SPLITS if name in dataset.splits])


def _by_audit(dataset: VideoDataset, split: str) -> _Found | None:
    """What the dataset's own audit says of its sides; None where there is none."""
    facts = read_dataset_facts(Path(dataset.name) / "dataset.json")
    home = Path(str(facts.get("view_of") or dataset.name))  # a fold's videos were audited where they lie
    if not (home / "audit.json").is_file():
        return None
    rows, others = dataset.split(split), _seen_rows(dataset)
    joined = datasets.concatenate_datasets([rows, others])
    leaked = _joined_to_later(read_copies(replace(dataset, name=str(home)), joined), first=len(rows))
    if not leaked:
        return _Found("clean", f"the dataset's audit found no video of {split} with a copy in training or validation")
    hashes = {digest for _, digest, _ in _listed(others)}
    digests = [digest for _, digest, _ in _listed(rows.select(leaked))]
    exact = frozenset(index for index, digest in zip(leaked, digests, strict=True) if digest and digest in hashes)
    reason = f"{len(leaked)} of {len(rows)} videos have a copy in training or validation, as the dataset's audit says"
    return _Found("mixed", reason, exact=exact, near=frozenset(leaked) - exact)


def _by_comparison(
    seen: _Seen, rows: datasets.Dataset, *, check: LeakCheck, num_workers: int | None, progress: bool
) -> _Found:
    """Bytes first; then pictures, where the videos of the training are there."""
    listed = _listed(rows)
    hashes = seen.hashes
    if hashes is None and seen.rows is not None:
        hashes = frozenset(digest for _, digest, _ in _listed(seen.rows))
    exact = {index for index, (_, digest, _) in enumerate(listed) if digest and digest in (hashes or ())}
    looked, near = False, set[int]()
    if check == "near" and seen.rows is not None and _are_files(rows) and _are_files(seen.rows):
        pictures, near = _by_pictures(rows, seen.rows, known=exact, num_workers=num_workers, progress=progress)
        exact, looked = exact | pictures, True
    same_group = frozenset(index for index, (_, _, group) in enumerate(listed) if group and group in seen.groups)
    familiar = f"; {len(same_group)} are of cameras or recordings that it knows" if same_group else ""
    if exact or near:
        reason = f"the run saw {len(exact | near)} of {len(rows)} videos, or copies of them, in training or validation"
        return _Found("mixed", reason + familiar, frozenset(exact), frozenset(near), same_group)
    if looked:
        reason = "no copy of a video that the run saw was found, by bytes and by pictures"
        return _Found("clean", reason + familiar, same_group=same_group)
    what = "no file is one that the run saw, but" if hashes is not None else "the run does not list its videos, and"
    why = (
        "pictures were not compared (--leak_check exact)"
        if check == "exact"
        else "the videos of its training are not at hand to compare pictures with"
    )
    return _Found("unknown", f"{what} {why}{familiar}", same_group=same_group)


def _by_pictures(
    rows: datasets.Dataset, seen: datasets.Dataset, *, known: set[int], num_workers: int | None, progress: bool
) -> tuple[set[int], set[int]]:
    """Rows with the same pictures as a seen one, and rows that are near copies of one, by index."""
    segments = [SegmentOfFile(Path(video["path"])) for part in (rows, seen) for video in part["video"]]
    prints = fingerprint_videos(segments, num_workers=num_workers, progress=progress)
    places = [place for place, one in enumerate(prints) if isinstance(one, Fingerprint)]
    copies = find_copies([one for one in prints if isinstance(one, Fingerprint)])
    exact = [[places[index] for index in cluster] for cluster in copies.exact]
    near = [[places[pair.first], places[pair.second]] for pair in copies.near]
    same = set(_joined_to_later(exact, first=len(rows)))
    return same, set(_joined_to_later(near, first=len(rows))) - same - known


def _joined_to_later(clusters: Sequence[Collection[int]], *, first: int) -> list[int]:
    """Members below `first` of the clusters that also hold one from `first` on, in order."""
    mixed = [cluster for cluster in clusters if min(cluster) < first <= max(cluster)]
    return sorted({member for cluster in mixed for member in cluster if member < first})


def _listed(rows: datasets.Dataset) -> list[tuple[str, str, str]]:
    """Name, SHA-256 of the stored bytes, and group of each row; no hash where the file cannot be read."""
    groups = rows["group"] if "group" in rows.column_names else [None] * len(rows)
    digests = [_sha256(video) for video in rows["video"]]
    return [
        (name, digest, "" if group is None else str(group))
        for name, digest, group in zip(_names(rows), digests, groups, strict=True)
    ]


def _sha256(video: Mapping[str, Any]) -> str:
    if video.get("bytes") is not None:
        return hashlib.sha256(video["bytes"]).hexdigest()
    try:
        with Path(video["path"]).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _names(rows: datasets.Dataset) -> list[str]:
    return [Path(video["path"] or "").name for video in rows["video"]]


def _are_files(rows: datasets.Dataset) -> bool:
    return all(video.get("bytes") is None and video.get("path") for video in rows["video"])


def _verdict(found: _Found, rows: datasets.Dataset) -> dict[str, Any]:
    videos = _names(rows.select([*sorted(found.exact), *sorted(found.near)][:_NAMED]))
    return {
        "state": found.state,
        "num_exact": len(found.exact),
        "num_near": len(found.near),
        "num_same_group": len(found.same_group),
        "videos": videos,
        "reason": found.reason,
    }
