"""The content of a report as evaluation hands it over, from scores drawn at random: every figure follows from them."""

import math
from collections.abc import Sequence

import numpy as np
from sklearn import metrics as sklearn_metrics

from railsformer.data.toy_yard import LABELS, plan_recording
from railsformer.data.yard_scene import draw_frames
from railsformer.evaluation.metrics import VideoClassificationMetrics
from railsformer.evaluation.report_pages import Frames, Predictions

TEMPERATURE = 1.9
CLIP_SECONDS = 30.0
THRESHOLD = 0.5


def draw_predictions(
    *, labels: Sequence[str] = LABELS, num_videos: int = 240, num_cameras: int = 9, seed: int = 0, num_unread: int = 3
) -> Predictions:
    """Scores that are mostly right, less so on dark cameras and for later labels, and surer than they should be."""
    rng = np.random.default_rng(seed)
    references = rng.integers(0, len(labels), num_videos)
    cameras = rng.integers(0, num_cameras, num_videos)
    dark = cameras % 3 == 0
    logits = rng.normal(0, 1.0, (num_videos, len(labels)))
    logits[np.arange(num_videos), references] += np.where(dark, 1.2, 3.2) - 0.8 * references / len(labels)
    scores = np.exp(3.2 * logits)  # too sure
    scores /= scores.sum(axis=1, keepdims=True)
    scores[rng.permutation(num_videos)[:num_unread]] = np.nan
    speeds = rng.gamma(2.0, 0.6, num_videos)
    return Predictions(
        label_names=list(labels),
        videos=[f"yard3_{camera:03d}_{number:04d}.mp4" for number, camera in enumerate(cameras)],
        references=references,
        scores=scores,
        metadata={
            "group": [f"yard3_{camera:03d}" for camera in cameras],
            "light": ["dark" if is_dark else "day" for is_dark in dark],
            "speed": [f"{speed:.2f}" for speed in speeds],
        },
    )


def content(predictions: Predictions, *, negative_labels: Sequence[str] = ("Other",)) -> dict:
    """metrics.json of these predictions; cheap intervals stand in for those of evaluation."""
    labels, read = list(predictions.label_names), ~np.isnan(predictions.scores).any(axis=1)
    references, scores = predictions.references[read], predictions.scores[read]
    guesses = scores.argmax(axis=1)
    told = VideoClassificationMetrics(keep_in_memory=True).compute(
        predictions=guesses, references=references, label_names=labels
    )
    onehot = np.eye(len(labels))[references]
    for index, label in enumerate(labels):
        known = told["per_class"][label]["support"] > 0
        precision = sklearn_metrics.average_precision_score(onehot[:, index], scores[:, index]) if known else None
        told["per_class"][label]["average_precision"] = precision
    known = [row["average_precision"] for row in told["per_class"].values() if row["average_precision"] is not None]
    tempered = scores ** (1 / TEMPERATURE)
    tempered /= tempered.sum(axis=1, keepdims=True)
    top = np.argsort(-scores, axis=1)
    groups = len(set(predictions.metadata["group"]))
    hazards = [label for label in labels if label not in negative_labels]
    slices = _slices(predictions, read, references, tempered, hazards)
    return told | {
        "version": 2,
        "f1_micro": told["accuracy"],
        "top_k": {str(k): _share(top[:, :k] == references[:, None]) for k in range(2, min(5, len(labels) - 1) + 1)},
        "map": float(np.mean(known)),
        "calibration_error": _reliability(scores, references)[1],
        "unread": [
            {
                "video": predictions.videos[row],
                "reason_class": "truncated",
                "reason": "the file ends after 12 of 75 pictures",
            }
            for row in np.flatnonzero(~read)
        ],
        "num_unread": int((~read).sum()),
        "intervals": {
            "level": 0.95,
            "method": "groups" if groups >= 8 else "clips",
            "num_groups": groups,
            "resamples": 2000,
            "note": None if groups >= 8 else "within these cameras only",
            "figures": {
                name: _wilson(told[name] * len(references), len(references))
                for name in ("accuracy", "balanced_accuracy", "f1_macro", "f1_weighted")
            },
            "per_class": {
                label: {
                    name: None if row[name] is None else _wilson(row[name] * row["support"], row["support"])
                    for name in ("precision", "recall", "f1", "average_precision")
                }
                for label, row in told["per_class"].items()
            },
        },
        "calibration": {
            "split": "validation",
            "num_videos": 118,
            "temperature": TEMPERATURE,
            "before": _calibration_figures(scores, references),
            "after": _calibration_figures(tempered, references),
            "reliability": {
                "before": _reliability(scores, references)[0],
                "after": _reliability(tempered, references)[0],
            },
        },
        "operating_points": {
            "split": "validation",
            "labels": {label: _operating_point(tempered, references, labels.index(label)) for label in hazards},
        },
        "slices": slices,
        "worst_slice": {key: slices[0][key] for key in ("column", "value", "f1_macro", "num_videos")},
        "mistakes": _mistakes(predictions, read),
        "costs": _costs(told["confusion_matrix"], negative_labels),
        "split": "test",
        "protocol": {
            "num_clips": 3,
            "num_crops": 1,
            "view_average": "probabilities",
            "frame_order": "forwards",
            "sampling": {
                "num_frames": 8,
                "frame_interval": 8,
                "nominal_fps": 30.0,
                "clip_sampling": "interval",
                "short_video": "hold",
            },
            "pixels": {"short_side_px": 256, "crop_px": 224, "mean": [0.45] * 3, "std": [0.225] * 3},
            "split_kind": f"by recording ({4 * groups} groups)",
            "groups": sorted(set(predictions.metadata["group"])),
            "decoder": "av 18.1.0",
            "negative_labels": list(negative_labels),
            "thresholds": "fitted",
            "calibration_note": None,
            "mixed_splits": {"state": "clean", "num_exact": 0, "num_near": 0, "videos": [], "reason": "compared all"},
        },
        "run": {"seconds": 83.2, "num_processes": 2, "device": "cpu", "videos_per_second": 2.85},
        "dataset": "/data/yard",
        "dataset_fingerprint": "d0c3b5ce61e44a74f2ed6c233b15399bd9b668a7cc40b5a893bb87f39d700042",
        "model": "runs/yard_divided_8x8",
        "versions": {"railsformer": "0.1.0", "torch": "2.13.0"},
        "compare": None,
    }  # fmt: skip


def mixed(metrics: dict, *, num_exact: int = 9, num_near: int = 3) -> dict:
    """The same report of a run that was trained on some of these videos."""
    videos = [f"yard3_000_{number:04d}.mp4" for number in range(min(20, num_exact + num_near))]
    reason = "9 files and 3 near copies of the split are in training_videos.json of the run"
    state = {"state": "mixed", "num_exact": num_exact, "num_near": num_near, "videos": videos, "reason": reason}
    return metrics | {"protocol": metrics["protocol"] | {"mixed_splits": state}}


def compared(metrics: dict) -> dict:
    """The same report beside another one."""
    figures = {
        name: {"this": metrics[name], "other": metrics[name] - gain, "difference": gain, "interval": interval}
        for name, gain, interval in (
            ("accuracy", 0.041, [0.012, 0.071]),
            ("balanced_accuracy", 0.038, [0.004, 0.069]),
            ("f1_macro", 0.022, [-0.013, 0.058]),
            ("map", -0.006, None),
        )
    }
    mcnemar = {"only_this_right": 19, "only_other_right": 9, "p_value": 0.087}
    compare = {"other": "runs/yard_frozen", "num_shared_videos": 237, "figures": figures, "mcnemar": mcnemar}
    return metrics | {"compare": compare}


def bare(metrics: dict) -> dict:
    """The same report where nothing could be computed that may be null."""
    intervals = metrics["intervals"]
    absent = metrics["confusion_matrix"]["labels"][0]
    empty = dict.fromkeys(("precision", "recall", "f1", "average_precision"))
    nothing = {label: dict(empty) for label in metrics["per_class"]}
    return metrics | {
        "per_class": metrics["per_class"] | {absent: {**empty, "support": 0}},
        "absent_labels": [absent],
        "map": None,
        "calibration_error": None,
        "top_k": dict.fromkeys(metrics["top_k"]),
        "intervals": intervals | {"figures": dict.fromkeys(intervals["figures"]), "per_class": nothing},
        "calibration": None,
        "operating_points": None,
        "protocol": metrics["protocol"] | {"groups": None, "thresholds": None},
        "slices": [],
        "worst_slice": None,
        "mistakes": [],
        "costs": None,
        "dataset_fingerprint": None,
    }


def without_thresholds(metrics: dict) -> dict:
    """The same report where the calibration split could not give the first hazard a threshold."""
    points = metrics["operating_points"]
    first = next(iter(points["labels"]))
    nothing = {"threshold": None, "reached": False, "on_calibration": None, "on_split": None}
    labels = points["labels"] | {first: points["labels"][first] | nothing}
    return metrics | {"operating_points": points | {"labels": labels}}


def stored_thresholds(metrics: dict) -> dict:
    """The same report with the thresholds that the model is used with; it has none for the first hazard."""
    first, *rest = metrics["operating_points"]["labels"]
    brought = {"reached": None, "on_calibration": None}
    labels = {label: metrics["operating_points"]["labels"][label] | brought for label in (first, *rest)}
    unknown = dict.fromkeys(("recall", "precision", "false_alarms_per_hour"))
    nothing = labels[first]["on_split"] | unknown | {"intervals": unknown}
    labels[first] = {"threshold": None, "target": None, "on_split": nothing, **brought}
    note = "nothing was fitted: temperature and thresholds are those that the model is used with"
    return metrics | {
        "operating_points": {"split": "validation", "labels": labels},
        "calibration": metrics["calibration"] | {"num_videos": None},
        "protocol": metrics["protocol"] | {"thresholds": "stored", "calibration_note": note},
    }


def toy_frames(metrics: dict) -> list[Frames | None]:
    """Pictures of the toy yard for each mistake; the second one cannot be read any more."""
    frames: list[Frames | None] = []
    for number in range(len(metrics["mistakes"])):
        _, clips = plan_recording(3, index=number % 5)
        clip = clips[number % len(clips)]
        times = np.linspace(0.3, clip.duration_seconds - 0.3, 4)
        frames.append(Frames(times, np.stack(list(draw_frames(clip.scene, times_seconds=times)))))
    frames[1:2] = [None] * len(frames[1:2])
    return frames


def _share(hits: np.ndarray) -> float:
    return float(hits.any(axis=1).mean())


def _wilson(hits: float, count: int) -> list[float] | None:
    """Too few to say below five videos."""
    if count < 5:
        return None
    share, z2 = hits / count, 1.96**2
    middle, half = share + z2 / (2 * count), 1.96 * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return [max(0.0, (middle - half) / (1 + z2 / count)), min(1.0, (middle + half) / (1 + z2 / count))]


def _reliability(scores: np.ndarray, references: np.ndarray) -> tuple[list[dict], float]:
    confidence, right = scores.max(axis=1), scores.argmax(axis=1) == references
    bins, error = [], 0.0
    for low in np.arange(0.0, 1.0, 0.1):
        inside = (confidence > low) & (confidence <= low + 0.1)
        count = int(inside.sum())
        mean, share = (float(values[inside].mean()) if count else None for values in (confidence, right))
        bins.append({"low": low, "high": low + 0.1, "confidence": mean, "accuracy": share, "count": count})
        error += abs(mean - share) * count / len(right) if count else 0.0
    return bins, error


def _calibration_figures(scores: np.ndarray, references: np.ndarray) -> dict:
    onehot = np.eye(scores.shape[1])[references]
    return {
        "calibration_error": _reliability(scores, references)[1],
        "negative_log_likelihood": float(-np.log(scores[np.arange(len(scores)), references]).mean()),
        "brier": float(((scores - onehot) ** 2).sum(axis=1).mean()),
    }


def _operating_point(scores: np.ndarray, references: np.ndarray, index: int) -> dict:
    own, alarms = references == index, scores[:, index] >= THRESHOLD
    positives, hits, false = int(own.sum()), int((own & alarms).sum()), int((~own & alarms).sum())
    hours = float((~own).sum() * CLIP_SECONDS / 3600)
    here = {
        "recall": hits / positives if positives else None,
        "precision": hits / (hits + false) if hits + false else None,
        "false_alarms_per_hour": false / hours if hours else None,
        "num_positives": positives,
        "num_negatives": int((~own).sum()),
        "negative_hours": hours,
        "intervals": {
            "recall": _wilson(hits, positives),
            "precision": _wilson(hits, hits + false),
            "false_alarms_per_hour": [0.7 * false / hours, 1.5 * false / hours] if false else None,
        },
    }
    there = here | {"recall": 0.91 if index else 0.87}
    target = "recall>=0.9" if index < 2 else "false_alarms_per_hour<=1"
    return {
        "threshold": THRESHOLD,
        "target": target,
        "reached": index > 0,
        "on_calibration": there,
        "on_split": here,
    }


def _slices(
    predictions: Predictions, read: np.ndarray, references: np.ndarray, scores: np.ndarray, hazards: Sequence[str]
) -> list[dict]:
    slices, guesses = [], scores.argmax(axis=1)
    indices = {label: list(predictions.label_names).index(label) for label in hazards}
    for column, values in predictions.metadata.items():
        read_values = [value for value, is_read in zip(values, read, strict=True) if is_read]
        if column == "speed":
            read_values = ["0 to 1.1" if float(value) < 1.1 else "1.1 to 5" for value in read_values]
        for value in sorted(set(read_values)):
            inside = np.array([other == value for other in read_values])
            told = VideoClassificationMetrics(keep_in_memory=True).compute(
                predictions=guesses[inside], references=references[inside], label_names=predictions.label_names
            )
            slices.append(
                {
                    "column": column,
                    "value": value,
                    "num_videos": int(inside.sum()),
                    **{name: told[name] for name in ("accuracy", "balanced_accuracy", "f1_macro")},
                    "interval": _wilson(told["accuracy"] * inside.sum(), int(inside.sum())),
                    "recall": {label: row["recall"] for label, row in told["per_class"].items()},
                    "supports": {label: row["support"] for label, row in told["per_class"].items()},
                    "method": "clips" if column == "group" else "groups",
                    "num_groups": 1 if column == "group" else 5,
                    "points": {
                        label: _operating_point(scores[inside], references[inside], index)["on_split"]
                        for label, index in indices.items()
                    },
                }
            )
    return sorted(slices, key=lambda entry: entry["f1_macro"])


def _mistakes(predictions: Predictions, read: np.ndarray) -> list[dict]:
    labels, mistakes = predictions.label_names, []
    for row in np.flatnonzero(read):
        scores, true = predictions.scores[row], predictions.references[row]
        guess = int(scores.argmax())
        if guess != true:
            start = 30.0 * (int(row) % 40) if row % 2 else None
            mistakes.append(
                {
                    "video": predictions.videos[row],
                    "file": f"data/test/{predictions.videos[row]}",
                    "label": labels[true],
                    "prediction": labels[guess],
                    "score": float(scores[guess]),
                    "label_score": float(scores[true]),
                    "duration_seconds": CLIP_SECONDS,
                    "start_seconds": start,
                    "end_seconds": None if start is None else start + CLIP_SECONDS,
                    "group": predictions.metadata["group"][row],
                }
            )
    return sorted(mistakes, key=lambda mistake: -mistake["score"])[:24]


def _costs(confusion: dict, negative_labels: Sequence[str]) -> dict:
    confusions = []
    for row, label in enumerate(confusion["labels"]):
        for column, prediction in enumerate(confusion["labels"]):
            count = confusion["matrix"][row][column]
            if row != column and count:
                each = 1.0 if label in negative_labels else 10.0 if prediction in negative_labels else 2.0
                cost = {"count": count, "cost_each": each, "cost": each * count}
                confusions.append({"label": label, "prediction": prediction, **cost})
    confusions.sort(key=lambda entry: -entry["cost"])
    total = sum(entry["cost"] for entry in confusions)
    return {"total": total, "per_video": total / sum(map(sum, confusion["matrix"])), "confusions": confusions}
