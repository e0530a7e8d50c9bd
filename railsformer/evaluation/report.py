"""What a model does on one split: metrics.json, predictions.csv, report.md and a confusion matrix to look at."""

import csv
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from railsformer.data.clips import ClipDataset, FrameOrder, VideoDataset, load_video_dataset
from railsformer.data.folders import check_output_dir, whole_folder
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings
from railsformer.evaluation.metrics import VideoClassificationMetrics
from railsformer.evaluation.views import VideoScores, ViewAverage, best_device, score_videos
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

__all__ = ["EvaluationReport", "evaluate_model", "per_class_table"]

MAX_NAMED_GROUPS = 20
PACKAGES = ("railsformer", "torch", "transformers", "datasets", "evaluate", "scikit-learn", "av")
_RIGHT, _WRONG = np.array([0.04, 0.33, 0.62]), np.array([0.83, 0.36, 0.05])  # told apart by the colour-blind too


@dataclass(frozen=True)
class EvaluationReport:
    """Where the report is and what it says.

    Args:
        output_dir: Folder with metrics.json, predictions.csv, report.md and confusion_matrix.png.
        metrics: Content of metrics.json.
    """

    output_dir: Path
    metrics: dict[str, Any]


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
    batch_size: int = 8,
    num_workers: int = 2,
    progress: bool = False,
) -> EvaluationReport:
    """Evaluate a model on one split and write the report.

    Sampling comes from the model's config and pixels from its preprocessor, so that they are those of its training.

    Args:
        model: Run folder, checkpoint folder or Hub id.
        dataset: Dataset folder or Hub id.
        output_dir: Folder to write; must be absent or empty.
        split: Split to evaluate.
        num_clips: Clips a video, spread over its length.
        num_crops: Crops of a clip: 1, the centre, or 3 along the long side.
        average: What is averaged over clips and crops: softmax scores or logits.
        frame_order: `middle` shows the middle frame in every place, which leaves no motion to go by.
        batch_size: Most views (clips x crops) of a forward pass.
        num_workers: Processes that decode.
        progress: Show a bar.

    Raises:
        FileExistsError: If `output_dir` holds something.
        FileNotFoundError: If model or dataset are not there.
        PermissionError: If `output_dir` cannot be written.
        ValueError: If num_clips or num_crops are out of range, the split is missing or empty, or has a label that the
            model does not know, or the model has no head.
        VideoDecodeError: If a video cannot be read.
    """
    if num_clips < 1:
        raise ValueError(f"num_clips must be at least 1, got {num_clips}")
    if num_crops not in (1, 3):
        raise ValueError(f"num_crops must be 1 or 3, got {num_crops}")
    folder = check_output_dir(output_dir)
    loaded = load_video_dataset(dataset)
    rows = loaded.split(split)
    classifier = _load_classifier(model).to(best_device())
    config = classifier.config
    sampling = ClipSampling.from_config(config)
    pixels = PixelSettings.from_pretrained(model)
    label_names = [config.id2label[index] for index in range(config.num_labels)]
    order = _label_order(loaded, label_names, model=str(model))
    clips = ClipDataset(
        rows, sampling=sampling, pixels=pixels, num_clips=num_clips, num_crops=num_crops, frame_order=frame_order
    )
    scores = score_videos(
        classifier, clips, batch_size=batch_size, num_workers=num_workers, average=average, progress=progress
    )
    scores = VideoScores(scores.probabilities, order[scores.references])
    figures = VideoClassificationMetrics(keep_in_memory=True).compute(
        predictions=scores.predictions, references=scores.references, label_names=label_names
    )
    protocol = {
        "num_clips": num_clips,
        "num_crops": num_crops,
        "view_average": average,
        "frame_order": frame_order,
        "sampling": asdict(sampling),
        "pixels": {**asdict(pixels), "mean": list(pixels.mean), "std": list(pixels.std)},
        "split_kind": loaded.split_kind,
        "groups": _groups_of(rows),
        "decoder": f"av {version('av')}",
        "device": str(classifier.device),
    }
    metrics = {
        **(figures or {}),
        "split": split,
        "protocol": protocol,
        "dataset": str(dataset),
        "dataset_fingerprint": loaded.fingerprint,
        "model": str(model),
        "versions": {name: version(name) for name in PACKAGES},
    }
    _write(folder, metrics, clips, scores, label_names)
    return EvaluationReport(folder, metrics)


def _groups_of(rows: datasets.Dataset) -> list[str] | None:
    """Cameras or recordings of the split, where they are few enough to name."""
    groups = sorted({str(group) for group in rows["group"]}) if "group" in rows.column_names else []
    return groups if 0 < len(groups) <= MAX_NAMED_GROUPS else None


def _load_classifier(name: str | Path) -> RailsformerForVideoClassification:
    """The model with its own head.

    Raises:
        ValueError: If it has none; a newly drawn one would score at random.
    """
    model, info = RailsformerForVideoClassification.from_pretrained(name, output_loading_info=True)
    if info["missing_keys"]:
        raise ValueError(f"{name} has no head (classifier.weight is missing); fine-tune it first")
    return model


def _label_order(loaded: VideoDataset, label_names: Sequence[str], *, model: str) -> np.ndarray:
    """The model's index of each of the dataset's labels.

    Raises:
        ValueError: If the model does not know one of them.
    """
    unknown = [name for name in loaded.labels if name not in label_names]
    if unknown:
        raise ValueError(
            f"label {unknown[0]!r} of {loaded.name} is not known to {model}, which has {', '.join(label_names)}; "
            f"evaluate a model that was trained on these labels"
        )
    return np.array([label_names.index(name) for name in loaded.labels])


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


def _write(
    folder: Path, metrics: dict[str, Any], clips: ClipDataset, scores: VideoScores, label_names: Sequence[str]
) -> None:
    """Write the whole report or nothing."""
    with whole_folder(folder) as whole:
        _write_predictions(whole / "predictions.csv", clips, scores, label_names)
        _draw_confusion_matrix(whole / "confusion_matrix.png", metrics)
        (whole / "report.md").write_text(_markdown(metrics), encoding="utf-8")
        text = json.dumps(metrics, indent=2, ensure_ascii=False)
        (whole / "metrics.json").write_text(text + "\n", encoding="utf-8")


def _write_predictions(path: Path, clips: ClipDataset, scores: VideoScores, label_names: Sequence[str]) -> None:
    """One row a video: its metadata, the true label, the prediction and every score."""
    columns = [name for name in clips.rows.column_names if name not in ("video", "label")]
    metadata = clips.rows.select_columns(columns)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "label", "prediction", *columns, *(f"score_{name}" for name in label_names)])
        for index, row in enumerate(metadata):
            video = Path(clips.rows[index]["video"]["path"] or "").name
            truth, guess = label_names[scores.references[index]], label_names[scores.predictions[index]]
            values = [f"{value:.6f}" for value in scores.probabilities[index]]
            writer.writerow([video, truth, guess, *(row[name] for name in columns), *values])


def _markdown(metrics: Mapping[str, Any]) -> str:
    """report.md: figures first, then how they were obtained."""
    protocol = metrics["protocol"]
    sampling, pixels = protocol["sampling"], protocol["pixels"]
    rows = [
        f"| {name} | "
        + " | ".join("–" if row[key] is None else f"{row[key]:.3f}" for key in ("precision", "recall", "f1"))
        + f" | {row['support']} |"
        for name, row in metrics["per_class"].items()
    ]
    absent = metrics["absent_labels"]
    notes = [f"Not in this split, and so without figures: {', '.join(absent)}."] if absent else []
    if protocol["frame_order"] != "forwards":
        notes.append(
            "Every frame was replaced by the clip's middle one: these figures say what is seen without motion."
        )
    return "\n".join(
        [
            f"# {metrics['split']} of {metrics['dataset']}",
            "",
            f"Model `{metrics['model']}`, {metrics['num_videos']} videos, split {protocol['split_kind']}.",
            "",
            "| accuracy | balanced accuracy | macro F1 | weighted F1 |",
            "|---|---|---|---|",
            "| "
            + " | ".join(f"{metrics[key]:.3f}" for key in ("accuracy", "balanced_accuracy", "f1_macro", "f1_weighted"))
            + " |",
            "",
            "| class | precision | recall | F1 | videos |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "![Confusion matrix](confusion_matrix.png)",
            "",
            *notes,
            "",
            "## How it was measured",
            "",
            f"- Each video counts once: {protocol['num_clips']} clip(s) x {protocol['num_crops']} crop(s), "
            f"{protocol['view_average']} averaged.",
            f"- {_clip_sentence(sampling)}",
            f"- {_crop_sentence(pixels, protocol['num_crops'])}",
            f"- Dataset fingerprint `{metrics['dataset_fingerprint'] or 'none stated'}`.",
            "- " + ", ".join(f"{name} {number}" for name, number in metrics["versions"].items()) + ".",
            "",
        ]
    )


def _clip_sentence(sampling: Mapping[str, Any]) -> str:
    """How a clip was cut from time."""
    num_frames, interval, fps = (sampling[key] for key in ("num_frames", "frame_interval", "nominal_fps"))
    if sampling["clip_sampling"] == "segments":
        return (
            f"A clip is {num_frames} frames, one from each of {num_frames} equal parts, picked by presentation time."
        )
    rule = {"hold": "holds its last picture", "loop": "begins again", "stretch": "is shown with a smaller interval"}
    return (
        f"A clip is {num_frames} frames, {interval / fps:.3f} s apart ({interval} steps at {fps:g} fps), picked by "
        f"presentation time; a shorter video {rule[sampling['short_video']]}."
    )


def _crop_sentence(pixels: Mapping[str, Any], num_crops: int) -> str:
    """How a picture was resized and cropped."""
    if num_crops == 1:
        return f"Short side {pixels['short_side_px']} px, centre crop {pixels['crop_px']} px."
    return f"Short side {pixels['crop_px']} px, {num_crops} crops of {pixels['crop_px']} px along the long side."


def _draw_confusion_matrix(path: Path, metrics: Mapping[str, Any]) -> None:
    """Right answers in blue, mistakes in orange, each as strong as its share of the row; nothing where nothing is."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = metrics["confusion_matrix"]["labels"]
    counts = np.array(metrics["confusion_matrix"]["matrix"])
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    side = 1.0 + 1.05 * len(labels)
    figure = Figure(figsize=(side + 1.2, side + 0.4), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    inks = np.where(np.eye(len(labels), dtype=bool)[..., None], _RIGHT, _WRONG)
    axes.imshow(1 - shares[..., None] * (1 - inks))
    columns = [_wrapped(name, 13) for name in labels]
    rows = [f"{_wrapped(name, 20)}\nn = {total}" for name, total in zip(labels, totals, strict=True)]
    axes.set_xticks(range(len(labels)), columns, fontsize=9)
    axes.set_yticks(range(len(labels)), rows, fontsize=9)
    axes.set_xlabel("predicted", fontsize=11, labelpad=10)
    axes.set_ylabel("true", fontsize=11, labelpad=10)
    figure.suptitle(
        f"{metrics['split']}: {metrics['num_videos']} videos, macro F1 {metrics['f1_macro']:.2f}", fontsize=12
    )
    for row, column in zip(*counts.nonzero(), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "#22313f"
        style = {"ha": "center", "color": colour}
        axes.text(column, row + 0.02, str(counts[row, column]), style, va="bottom", fontsize=13, weight="bold")
        axes.text(column, row + 0.08, f"{shares[row, column]:.0%}", style, va="top", fontsize=9)
    edges = np.arange(len(labels) + 1) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="#d5dbe0", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.savefig(path)


def _wrapped(name: str, width: int) -> str:
    """A label over at most four lines, broken at spaces, hyphens and underscores."""
    lines = textwrap.wrap(name.replace("_", "_ "), width, max_lines=4, placeholder=" …")
    return "\n".join(lines).replace("_ ", "_")
