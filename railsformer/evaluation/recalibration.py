"""Temperature and operating points of one evaluation: fitted on a split of their own, kept with the run."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from railsformer.evaluation.operating_points_file import OPERATING_POINTS_NAME, write_operating_points

__all__ = ["Calibrated", "calibrate", "calibration_note", "is_for_run", "read_targets", "store_operating_points"]

_RUN_FILE = "run.json"
_CHECKPOINT = "checkpoint-"


def read_targets(
    texts: Sequence[str], *, label_names: Sequence[str], negative_labels: Sequence[str]
) -> dict[str, Target]:
    """The target of each hazard, from `recall>=0.9`, `false_alarms_per_hour<=1` or either after `LABEL:`.

    Raises:
        ValueError: If a text is no target, or for a label that is no hazard.
    """
    return targets_of_labels([Target.parse(text) for text in texts], hazard_labels(label_names, negative_labels))


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
    if calibration_split not in (*dataset.splits, "validation"):  # a dataset without validation is no mistake
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
        dataset_fingerprint: Of its dataset.
        calibration: Part of metrics.json.
        operating_points: Part of metrics.json.
    """

    temperature: float
    points: Mapping[str, OperatingPoint]
    split: str
    dataset_fingerprint: str
    calibration: dict[str, Any]
    operating_points: dict[str, Any]

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
    `recalibrate` fitted on another.

    Returns:
        Whether they were written.
    """
    folder = Path(model)
    if not _is_writable(folder):
        return False
    if not recalibrate and not (
        is_for_run(folder, calibrated.dataset_fingerprint)
        and _fitted_on(folder) in (None, calibrated.dataset_fingerprint)
    ):
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
