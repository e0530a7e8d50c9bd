"""What a model does on one split: it is scored once, and everything that the report says follows from the scores."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import datasets
import numpy as np

from railsformer.data.clips import ClipDataset, FrameOrder, VideoDataset, load_video_dataset
from railsformer.data.folders import check_output_dir, whole_folder
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings
from railsformer.evaluation.intervals import bootstrap_intervals
from railsformer.evaluation.leaks import LeakCheck, find_leaks
from railsformer.evaluation.measured_split import MeasuredSplit
from railsformer.evaluation.metrics import VideoClassificationMetrics
from railsformer.evaluation.mistakes import confident_mistakes, cost_figures, read_costs
from railsformer.evaluation.operating_points import hazard_labels
from railsformer.evaluation.operating_points_file import OperatingPointsFile
from railsformer.evaluation.other_report import OtherReport, check_shared, compare_reports, read_other_report
from railsformer.evaluation.processes import Process, on_main_process, this_process, use_cores
from railsformer.evaluation.recalibration import (
    DEFAULT_SPLIT,
    Calibrated,
    apply_stored,
    calibrate,
    calibration_note,
    points_in_use,
    points_to_measure,
    read_targets,
    store_operating_points,
)
from railsformer.evaluation.report_pages import write_report
from railsformer.evaluation.score_metrics import VideoScoreMetrics
from railsformer.evaluation.slices import check_columns, choose_columns, measure_slices, worst_slice
from railsformer.evaluation.views import ViewAverage, score_videos
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

__all__ = ["EvaluationReport", "evaluate_model", "per_class_table"]

METRICS_VERSION = 2
MAX_NAMED_GROUPS = 20
_USED_VIEWS = (1, 1, "probabilities")  # clips, crops and average of predict and watch
PACKAGES = ("railsformer", "torch", "transformers", "datasets", "evaluate", "scikit-learn", "av")


@dataclass(frozen=True)
class EvaluationReport:
    """Where the report is and what it says.

    Args:
        output_dir: Folder with metrics.json, predictions.csv, the pages and figures, and operating_points.json.
        metrics: Content of metrics.json.
        stored_in_run: Whether operating_points.json went into the model's folder, too.
        replaced: The operating points that were there before; None where there were none, or where they stay.
    """

    output_dir: Path
    metrics: dict[str, Any]
    stored_in_run: bool = False
    replaced: OperatingPointsFile | None = None


def evaluate_model(
    model: str | Path,
    *,
    dataset: str | Path,
    output_dir: str | Path,
    split: str = "test",
    num_clips: int = 1,
    num_crops: int = 1,
    average: ViewAverage = "probabilities",
    frame_order: FrameOrder = "forwards",
    calibration_split: str | None = None,
    targets: Sequence[str] = (),
    recalibrate: bool = False,
    slice_by: Sequence[str] = (),
    cost: str | Path | None = None,
    compare: str | Path | None = None,
    leak_check: LeakCheck = "near",
    batch_size: int = 8,
    num_workers: int = 2,
    progress: bool = False,
) -> EvaluationReport:
    """Evaluate a model on one split and write the report.

    Sampling comes from the model's config and pixels from its preprocessor, so that they are those of its training.
    Temperature and operating points are fitted on `calibration_split`, never on what is measured. On a dataset that is
    not the run's own, and on one without validation, those are measured that the model is used with, where it has any:
    unless `calibration_split`, `targets` or `recalibrate` asks for a fit. Under torchrun or `accelerate launch` the
    processes share the videos; each of them must call this, and all return the same report.

    Args:
        model: Run folder, checkpoint folder or Hub id.
        dataset: Dataset folder or Hub id.
        output_dir: Folder to write; must be absent or empty.
        split: Split to evaluate.
        num_clips: Clips a video, spread over its length.
        num_crops: Crops of a clip: 1, the centre, or 3 along the long side.
        average: What is averaged over clips and crops: softmax scores or logits.
        frame_order: `middle` shows the middle frame in every place, which leaves no motion to go by; `shuffled` and
            `reversed` leave its pictures and take its course. Nothing is fitted then, nothing written into the run.
        calibration_split: Split that temperature and operating points are fitted on; None is validation.
        targets: What operating points shall reach: `recall>=0.9`, `false_alarms_per_hour<=1`, or with a label in
            front, `LABEL:recall>=0.9`. A hazard that none is given for keeps what the model's threshold in use was
            set for, else takes `recall>=0.9`.
        recalibrate: Fit for another camera than the training's: `calibration_split` must be there, and the operating
            points go into the run although the dataset is another one. Of one clip and one crop, as predict and watch
            score.
        slice_by: Columns to give the figures by; all that cut the videos into a few parts where empty.
        cost: CSV table of what each confusion costs.
        compare: Report folder of another model on the same videos.
        leak_check: How far to look for videos that the run saw, see `find_leaks`.
        batch_size: Most views (clips x crops) of a forward pass.
        num_workers: Processes that decode, for each process of the launch.
        progress: Show a bar.

    Raises:
        FileExistsError: If `output_dir` holds something.
        FileNotFoundError: If model, dataset, cost table or the other report are not there.
        PermissionError: If `output_dir` cannot be written.
        ValueError: If an argument is out of range or unknown, a split is missing or empty, has a label that the model
            does not know, or more than half of it cannot be read, or the model has no head.
    """
    _check_arguments(num_clips, num_crops, frame_order=frame_order, leak_check=leak_check)
    used_views = (num_clips, num_crops, average) == _USED_VIEWS
    if recalibrate and not used_views:
        raise ValueError(
            f"--recalibrate sets thresholds for predict and watch, which score one view, got num_clips {num_clips}, "
            f"num_crops {num_crops} and average {average}; leave --num_clips, --num_crops and --average out"
        )
    began, process = time.monotonic(), this_process()
    use_cores(process)
    folder = on_main_process(lambda: check_output_dir(output_dir))
    loaded = load_video_dataset(dataset)
    rows = loaded.split(split)
    fit_on = calibration_split or DEFAULT_SPLIT
    note = calibration_note(
        model, loaded, split, calibration_split=fit_on, frame_order=frame_order, recalibrate=recalibrate
    )
    network = _load_classifier(model).to(process.device)
    label_names = _label_names(network)
    _check_labels(loaded, label_names, model=str(model))
    negatives = list(getattr(network.config, "negative_labels", None) or [])
    in_use = points_in_use(model, label_names=label_names)
    wanted = read_targets(targets, label_names=label_names, negative_labels=negatives, in_use=in_use)
    asked = recalibrate or targets or calibration_split is not None or not used_views or frame_order != "forwards"
    stored = None if asked else points_to_measure(model, loaded, label_names=label_names)
    costs = None if cost is None else read_costs(cost, label_names=label_names)
    other = None if compare is None else read_other_report(compare, label_names=label_names)
    if other:
        check_shared(other, rows, labels=loaded.labels)
    check_columns(slice_by, rows.column_names)
    views = _Views(
        ClipSampling.from_config(network.config), PixelSettings.from_pretrained(model), num_clips, num_crops, average,
        frame_order,
    )  # fmt: skip
    feeding: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers, "progress": progress}
    measured = _measure(network, loaded, split, views, **feeding)
    fitted_on = None if note or stored else _measure(network, loaded, fit_on, views, **feeding)
    facts: dict[str, Any] = {
        "split": split,
        "protocol": views.protocol()
        | {
            "split_kind": loaded.split_kind,
            "groups": _groups_of(measured),
            "negative_labels": negatives,
            "thresholds": "stored" if stored else "fitted" if fitted_on else None,
            "calibration_note": _stored_note(stored, loaded, split) if stored else note,
        },
        "dataset": str(dataset),
        "dataset_fingerprint": loaded.fingerprint,
        "model": str(model),
        "run": _run_facts(began, process, [part for part in (measured, fitted_on) if part]),
        "versions": {name: version(name) for name in PACKAGES},
    }

    def write() -> EvaluationReport:
        facts["protocol"]["mixed_splits"] = find_leaks(model, loaded, split, check=leak_check, progress=progress)
        calibrated = None if fitted_on is None else calibrate(fitted_on, measured, wanted)
        if stored:
            calibrated = apply_stored(stored, measured, hazards=hazard_labels(label_names, negatives))
        figures, rows_of_mistakes = _figures(measured, calibrated, slice_by=slice_by, costs=costs, other=other)
        report = EvaluationReport(folder, {"version": METRICS_VERSION, **figures, **facts})
        _write(report, measured, calibrated, rows_of_mistakes)
        # Thresholds of scores that predict and watch do not make, of several views, stay in the report.
        fitted = calibrated if used_views and not stored else None
        if fitted and store_operating_points(fitted, model, recalibrate=recalibrate):
            return replace(report, stored_in_run=True, replaced=in_use)
        return report

    return on_main_process(write)


@dataclass(frozen=True)
class _Views:
    """How videos become views, and these one score."""

    sampling: ClipSampling
    pixels: PixelSettings
    num_clips: int
    num_crops: int
    average: ViewAverage
    frame_order: FrameOrder

    def clips(self, rows: datasets.Dataset) -> ClipDataset:
        """The clips of a split."""
        return ClipDataset(
            rows,
            sampling=self.sampling,
            pixels=self.pixels,
            num_clips=self.num_clips,
            num_crops=self.num_crops,
            frame_order=self.frame_order,
        )

    def protocol(self) -> dict[str, Any]:
        """Part of metrics.json."""
        return {
            "num_clips": self.num_clips,
            "num_crops": self.num_crops,
            "view_average": self.average,
            "frame_order": self.frame_order,
            "sampling": asdict(self.sampling),
            "pixels": {**asdict(self.pixels), "mean": list(self.pixels.mean), "std": list(self.pixels.std)},
            "decoder": f"av {version('av')}",
        }


def _measure(
    network: RailsformerForVideoClassification,
    loaded: VideoDataset,
    split: str,
    views: _Views,
    *,
    batch_size: int,
    num_workers: int,
    progress: bool,
) -> MeasuredSplit:
    """Score a split.

    Raises:
        ValueError: If more than half of it cannot be read.
    """
    scores = score_videos(
        network,
        views.clips(loaded.split(split)),
        batch_size=batch_size,
        num_workers=num_workers,
        average=views.average,
        progress=progress,
    )
    measured = MeasuredSplit(
        split, loaded, scores=scores, label_names=_label_names(network), frame_order=views.frame_order
    )
    measured.check_read()
    return measured


def per_class_table(metrics: Mapping[str, Any]) -> str:
    """The figures by class and overall, as lines of plain text."""
    width = max(len("weighted F1"), *(len(name) for name in metrics["per_class"]))
    lines = [f"{'':{width}}  precision  recall      F1  videos"]
    for name, row in metrics["per_class"].items():
        cells = [f"{row[key]:.3f}" if row[key] is not None else "-" for key in ("precision", "recall", "f1")]
        lines.append(f"{name:{width}}  {cells[0]:>9}  {cells[1]:>6}  {cells[2]:>6}  {row['support']:>6}")
    lines.append("")
    overall = {
        "accuracy": "accuracy",
        "balanced accuracy": "balanced_accuracy",
        "macro F1": "f1_macro",
        "weighted F1": "f1_weighted",
    }
    lines += [f"{title:{max(width, 17)}}  {metrics[key]:.3f}" for title, key in overall.items()]
    return "\n".join(lines)


def _check_arguments(num_clips: int, num_crops: int, *, frame_order: str, leak_check: str) -> None:
    if num_clips < 1:
        raise ValueError(f"num_clips must be at least 1, got {num_clips}")
    if num_crops not in (1, 3):
        raise ValueError(f"num_crops must be 1 or 3, got {num_crops}")
    for name, value, known in (("frame_order", frame_order, FrameOrder), ("leak_check", leak_check, LeakCheck)):
        if value not in get_args(known):
            raise ValueError(f"{name} must be one of {', '.join(get_args(known))}, got {value!r}")


def _stored_note(stored: OperatingPointsFile, loaded: VideoDataset, split: str) -> str:
    """Where thresholds come from that were not fitted here."""
    known = bool(stored.dataset_fingerprint) and stored.dataset_fingerprint == loaded.fingerprint
    place = f"{stored.split} of {'this' if known else 'another'} dataset"
    note = f"nothing was fitted: temperature and thresholds are those that the model is used with, set on {place}"
    if known and stored.split == split:
        note += ", on these very videos, so that what they do here flatters them"
    return note


def _load_classifier(name: str | Path) -> RailsformerForVideoClassification:
    """The model with its own head.

    Raises:
        ValueError: If it has none; a newly drawn one would score at random.
    """
    model, info = RailsformerForVideoClassification.from_pretrained(name, output_loading_info=True)
    if info["missing_keys"]:
        raise ValueError(f"{name} has no head (classifier.weight is missing); fine-tune it first")
    return model


def _label_names(network: RailsformerForVideoClassification) -> list[str]:
    return [network.config.id2label[index] for index in range(network.config.num_labels)]


def _check_labels(loaded: VideoDataset, label_names: Sequence[str], *, model: str) -> None:
    """Refuse a dataset with a label that the model does not know."""
    unknown = [name for name in loaded.labels if name not in label_names]
    if unknown:
        raise ValueError(
            f"label {unknown[0]!r} of {loaded.name} is not known to {model}, which has {', '.join(label_names)}; "
            f"evaluate a model that was trained on these labels"
        )


def _groups_of(measured: MeasuredSplit) -> list[str] | None:
    """Cameras or recordings of the split, where they are few enough to name."""
    if "group" not in measured.rows.column_names:
        return None
    groups = sorted({str(group) for group in measured.rows["group"]})
    return groups if 0 < len(groups) <= MAX_NAMED_GROUPS else None


def _run_facts(began: float, process: Process, parts: Sequence[MeasuredSplit]) -> dict[str, Any]:
    """What may differ from one evaluation of the same model to the next."""
    seconds = time.monotonic() - began
    num_videos = sum(len(part.rows) for part in parts)
    return {
        "seconds": round(seconds, 3),
        "num_processes": process.count,
        "device": str(process.device),
        "videos_per_second": round(num_videos / seconds, 3),
    }


def _figures(
    measured: MeasuredSplit,
    calibrated: Calibrated | None,
    *,
    slice_by: Sequence[str],
    costs: np.ndarray | None,
    other: OtherReport | None,
) -> tuple[dict[str, Any], list[int]]:
    """What metrics.json says of the videos, and the rows of the mistakes that it lists."""
    labels, references = measured.label_names, measured.references
    figures = _basic_figures(measured)
    read_columns = {name: measured.of_read(values) for name, values in measured.columns.items()}
    slices = measure_slices(
        read_columns,
        references,
        measured.probabilities.argmax(axis=1),
        label_names=labels,
        names=choose_columns(read_columns, slice_by),
        groups=measured.groups,
        evaluated=calibrated.evaluated if calibrated else None,
        thresholds=calibrated.thresholds if calibrated else None,
    )
    mistakes = confident_mistakes(
        measured.scores.probabilities,
        measured.scores.references,
        label_names=labels,
        videos=measured.videos,
        files=measured.files,
        columns=measured.columns,
        durations_seconds=measured.durations_seconds,
    )
    figures |= {
        "unread": measured.unread(),
        "num_unread": len(measured.scores.unread),
        "intervals": bootstrap_intervals(measured.probabilities, references, measured.groups, label_names=labels),
        "calibration": calibrated.calibration if calibrated else None,
        "operating_points": calibrated.operating_points if calibrated else None,
        "slices": slices,
        "worst_slice": worst_slice(slices),
        "mistakes": [entry for _, entry in mistakes],
        "costs": None if costs is None else cost_figures(costs, figures["confusion_matrix"]["matrix"], labels),
        "compare": None if other is None else compare_reports(measured, other),
    }
    return figures, [row for row, _ in mistakes]


def _basic_figures(measured: MeasuredSplit) -> dict[str, Any]:
    """Through the modules that are pushed to the Hub, so that anybody can compute the same."""
    labels, references = measured.label_names, measured.references
    compute: Callable[..., dict[str, Any] | None] = VideoClassificationMetrics(keep_in_memory=True).compute
    figures = compute(predictions=measured.probabilities.argmax(axis=1), references=references, label_names=labels)
    compute = VideoScoreMetrics(keep_in_memory=True).compute
    ranked = compute(predictions=measured.probabilities, references=references, label_names=labels)
    figures, ranked = dict(figures or {}), dict(ranked or {})
    for name, value in ranked["average_precision"].items():
        figures["per_class"][name]["average_precision"] = value
    return figures | {name: ranked[name] for name in ("top_k", "map", "calibration_error")}


def _write(
    report: EvaluationReport, measured: MeasuredSplit, calibrated: Calibrated | None, rows_of_mistakes: Sequence[int]
) -> None:
    """Write the whole report or nothing."""
    with whole_folder(report.output_dir) as whole:
        write_report(
            whole,
            report.metrics,
            measured.predictions(),
            mistakes_frames=[measured.frames(row) for row in rows_of_mistakes],
        )
        if calibrated:
            calibrated.write(whole)
