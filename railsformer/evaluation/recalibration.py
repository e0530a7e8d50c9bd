"""Temperature and operating points of one evaluation: fitted on a split of their own, kept with the run."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from railsformer.data.clips import FrameOrder, VideoDataset
from railsformer.evaluation.calibration import apply_temperature, calibration_summary, fit_temperature
from railsformer.evaluation.measured_split import MeasuredSplit
from railsformer.evaluation.operating_points import (
    OperatingPoint,
    ScoredSplit,
    Target,
    choose_operating_points,
    hazard_labels,
    measure_threshold,
    operating_points_summary,
    targets_of_labels,
)
from railsformer.evaluation.operating_points_file import (
    OPERATING_POINTS_NAME,
    OperatingPointsFile,
    find_operating_points,
    read_operating_points,
    write_operating_points,
)

__all__ = [
    "DEFAULT_SPLIT",
    "Calibrated",
    "apply_stored",
    "calibrate",
    "calibration_note",
    "is_for_run",
    "points_in_use",
    "points_to_measure",
    "read_targets",
    "store_operating_points",
]

DEFAULT_SPLIT = "validation"

_RUN_FILE = "run.json"
_CHECKPOINT = "checkpoint-"


def read_targets(
    texts: Sequence[str],
    *,
    label_names: Sequence[str],
    negative_labels: Sequence[str],
    in_use: OperatingPointsFile | None = None,
) -> dict[str, Target]:
    """The target of each hazard, from `recall>=0.9`, `false_alarms_per_hour<=1` or either after `LABEL:`.

    Args:
        texts: What is asked for.
        label_names: Of the model.
        negative_labels: Those of them that are no hazards.
        in_use: Thresholds that the model is used with; a hazard that nothing was asked for keeps its target.

    Raises:
        ValueError: If a text is no target, or for a label that is no hazard.
    """
    targets, hazards = [Target.parse(text) for text in texts], hazard_labels(label_names, negative_labels)
    asked = {target.label for target in targets}
    if in_use and None not in asked:
        kept = {name: text for name, text in in_use.targets.items() if name in hazards and name not in asked}
        targets += [replace(Target.parse(text), label=name) for name, text in kept.items()]
    return targets_of_labels(targets, hazards)


def points_in_use(model: str | Path, *, label_names: Sequence[str]) -> OperatingPointsFile | None:
    """The operating points that a model is used with; None where there are none, or damaged ones."""
    path = find_operating_points(model)
    try:
        return None if path is None else read_operating_points(path, label_names=label_names)
    except ValueError:
        return None


def points_to_measure(
    model: str | Path, dataset: VideoDataset, *, label_names: Sequence[str]
) -> OperatingPointsFile | None:
    """The operating points that a model is used with, where these are what there is to measure on a dataset.

    So it is on a dataset that is not the run's own (of a model that does not say what it was trained on: not that of
    its operating points), and where there is no validation to fit them on.

    Raises:
        ValueError: If they are damaged or for another model.
    """
    path = find_operating_points(model)
    if path is None:
        return None
    own = _trained_on(Path(model))
    own = _fitted_on(path.parent) if own is None else own
    if own in (None, dataset.fingerprint) and len(dataset.splits.get(DEFAULT_SPLIT, ())):
        return None
    return read_operating_points(path, label_names=label_names)


def calibration_note(
    model: str | Path,
    dataset: VideoDataset,
    split: str,
    *,
    calibration_split: str,
    frame_order: FrameOrder,
    recalibrate: bool,
) -> str | None:
    """Why nothing can be fitted on the calibration split; None where it can.

    Args:
        model: What is evaluated: on the videos that it was trained on its scores are surer than on others.
        dataset: What it is evaluated on.
        split: The split that is measured.
        calibration_split: The one to fit on.
        frame_order: Only frames in their order show what the model is used on.
        recalibrate: The fit is what was asked for, so that there is no going without.

    Raises:
        ValueError: If it cannot be fitted or kept, and `recalibrate` asks for it, no split has that name, or the run's
            facts are damaged.
    """
    note, trained_on = None, _trained_on(Path(model))
    if calibration_split not in (*dataset.splits, DEFAULT_SPLIT):  # a dataset without validation is no mistake
        raise ValueError(
            f"calibration_split must be one of {dataset.name}'s splits ({', '.join(dataset.splits)}), "
            f"got {calibration_split!r}"
        )
    if frame_order != "forwards":
        note = (
            f"nothing was fitted: with frame_order {frame_order} the scores are not those that the model is used with"
        )
    elif calibration_split == split:
        note = f"nothing was fitted: {split} is what is measured, and nothing is fitted on that"
    elif len(dataset.splits.get(calibration_split, ())) == 0:
        note = f"nothing was fitted: the dataset has no video in a split {calibration_split!r}"
    elif calibration_split == "train" and dataset.fingerprint and dataset.fingerprint == trained_on:
        note = "nothing was fitted: the run was trained on train, where its scores are surer than on other videos"
    if note and recalibrate:
        fix = (
            f"name another split with --calibration_split or --split ({dataset.name} has {', '.join(dataset.splits)})"
            if frame_order == "forwards"
            else "leave --frame_order out"
        )
        raise ValueError(f"--recalibrate: {note}; {fix}")
    if recalibrate and not _is_writable(Path(model)):
        raise ValueError(
            f"--recalibrate: {model} must be a folder that you may write to, since the operating points go into it; "
            "copy or download the model to one"
        )
    return note


@dataclass(frozen=True)
class Calibrated:
    """What was fitted.

    Args:
        temperature: Of the scores.
        points: Threshold of each hazard.
        split: What it was fitted on.
        dataset_fingerprint: Of its dataset; None where nobody knows.
        evaluated: What it was measured on, with the scores after the temperature.
        calibration: Part of metrics.json.
        operating_points: Part of metrics.json.
    """

    temperature: float
    points: Mapping[str, OperatingPoint]
    split: str
    dataset_fingerprint: str | None
    evaluated: ScoredSplit
    calibration: dict[str, Any]
    operating_points: dict[str, Any]

    @property
    def thresholds(self) -> dict[str, float]:
        """Label to threshold, of those that have one."""
        return {name: point.threshold for name, point in self.points.items() if point.threshold is not None}

    def write(self, folder: Path) -> Path:
        """Write operating_points.json into a folder, over one that is there."""
        return write_operating_points(
            folder,
            self.points,
            temperature=self.temperature,
            split=self.split,
            dataset_fingerprint=self.dataset_fingerprint,
        )


def calibrate(fitted_on: MeasuredSplit, measured: MeasuredSplit, targets: Mapping[str, Target]) -> Calibrated:
    """Fit temperature and thresholds on one split, and measure on another what they do.

    Args:
        fitted_on: The calibration split.
        measured: The evaluated split.
        targets: Of each hazard, as `read_targets` gives them.
    """
    labels = measured.label_names
    temperature = fit_temperature(fitted_on.probabilities, fitted_on.references)
    chosen_on, used_on = (
        part.scored(apply_temperature(part.probabilities, temperature)) for part in (fitted_on, measured)
    )
    points = choose_operating_points(chosen_on, label_names=labels, targets=targets)
    return Calibrated(
        temperature=temperature,
        points=points,
        split=fitted_on.name,
        dataset_fingerprint=fitted_on.dataset.fingerprint,
        evaluated=used_on,
        calibration=calibration_summary(
            measured.probabilities,
            measured.references,
            temperature=temperature,
            split=fitted_on.name,
            num_videos=len(fitted_on.references),
        ),
        operating_points=_with_counts(
            operating_points_summary(
                points, calibration=chosen_on, evaluated=used_on, label_names=labels, split=fitted_on.name
            ),
            used_on,
            labels,
        ),
    )


def apply_stored(stored: OperatingPointsFile, measured: MeasuredSplit, *, hazards: Sequence[str]) -> Calibrated:
    """Measure what the temperature and thresholds do that a model is used with; nothing is fitted.

    Args:
        stored: As `points_to_measure` gives them.
        measured: The evaluated split.
        hazards: Labels that should alarm; of one without a threshold nothing is known.
    """
    labels = measured.label_names
    used_on = measured.scored(apply_temperature(measured.probabilities, stored.temperature))
    points = {
        name: OperatingPoint(stored.thresholds.get(name), stored.targets.get(name), reached=None)
        for name in dict.fromkeys((*hazards, *stored.thresholds))
    }
    return Calibrated(
        temperature=stored.temperature,
        points=points,
        split=stored.split,
        dataset_fingerprint=stored.dataset_fingerprint,
        evaluated=used_on,
        calibration=calibration_summary(
            measured.probabilities,
            measured.references,
            temperature=stored.temperature,
            split=stored.split,
            num_videos=None,
        ),
        operating_points=_with_counts(
            operating_points_summary(
                points, calibration=None, evaluated=used_on, label_names=labels, split=stored.split
            ),
            used_on,
            labels,
        ),
    )


def _with_counts(summary: dict[str, Any], used_on: ScoredSplit, label_names: Sequence[str]) -> dict[str, Any]:
    """Say of a label without a threshold how many videos it has on the evaluated split, its figures unknown."""
    for name, point in summary["labels"].items():
        if point["on_split"] is None:
            counts = measure_threshold(used_on, label=label_names.index(name), threshold=1.0)
            unknown = dict.fromkeys(counts["intervals"])
            point["on_split"] = counts | unknown | {"intervals": unknown}
    return summary


def store_operating_points(calibrated: Calibrated, model: str | Path, *, recalibrate: bool) -> bool:
    """Write operating_points.json into the run, where it is a local folder and they are meant for it.

    What was fitted on another dataset than the run's own replaces nothing unless `recalibrate` asks for it: a look at
    another camera must not change the thresholds that are in use. Nor does the run's own dataset replace what
    `recalibrate` fitted on another, nor what was fitted on its test split, which has to stay for measuring.

    Returns:
        Whether they were written.
    """
    folder = Path(model)
    if not _is_writable(folder):
        return False
    fingerprint = calibrated.dataset_fingerprint
    meant = is_for_run(folder, fingerprint or "") and _fitted_on(folder) in (None, fingerprint)
    if not recalibrate and (calibrated.split == "test" or not meant):
        return False
    calibrated.write(folder)
    return True


def _fitted_on(folder: Path) -> str | None:
    """Fingerprint of the dataset that the operating points of a folder were fitted on; None where there are none."""
    try:
        content = json.loads((folder / OPERATING_POINTS_NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return content.get("dataset_fingerprint") if isinstance(content, dict) else None


def _is_writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK)


def is_for_run(folder: Path, dataset_fingerprint: str) -> bool:
    """Whether a dataset is the one that a run was trained for; so for a model that does not say."""
    return _trained_on(folder) in (None, dataset_fingerprint)


def _trained_on(folder: Path) -> str | None:
    """Fingerprint of the dataset of a run, or of a checkpoint's; None where it does not say."""
    home = folder.resolve().parent if folder.name.startswith(_CHECKPOINT) else folder
    path = next((place / _RUN_FILE for place in (folder, home) if (place / _RUN_FILE).is_file()), None)
    if path is None:
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({' '.join(str(error).split())}); restore it") from error
    if not isinstance(facts, dict):
        raise ValueError(f"{path} is damaged (it holds no object); restore it")
    return str(facts.get("dataset_fingerprint", ""))
