"""The content of metrics.json, version 2, as `evaluate` writes it: what reports and cards are tested with."""

import copy
from typing import Any

LABELS = ["Track-Excavator", "Bucket-Worker", "Cabin-Worker", "Other"]

_ON_SPLIT = {
    "recall": 0.8,
    "precision": 0.6666666667,
    "false_alarms_per_hour": 14.117647,
    "num_positives": 10,
    "num_negatives": 17,
    "negative_hours": 0.2833333,
    "intervals": {"recall": [0.49, 0.943], "precision": [0.391, 0.862], "false_alarms_per_hour": [3.8465, 36.146]},
}
_ON_CALIBRATION = {**_ON_SPLIT, "recall": 0.9, "intervals": {**_ON_SPLIT["intervals"], "recall": [0.596, 0.982]}}

METRICS_2: dict[str, Any] = {
    "version": 2,
    "accuracy": 0.666666667,
    "balanced_accuracy": 0.6,
    "f1_macro": 0.6012345678,
    "f1_weighted": 0.65,
    "f1_micro": 0.666666667,
    "top_k": {"2": 0.851851852, "3": 1.0},
    "map": 0.71,
    "calibration_error": 0.12,
    "per_class": {
        "Track-Excavator": {"precision": 0.7, "recall": 0.8, "f1": 0.747, "average_precision": 0.82, "support": 10},
        "Bucket-Worker": {"precision": 0.5, "recall": 0.5, "f1": 0.5, "average_precision": 0.55, "support": 2},
        "Cabin-Worker": {"precision": None, "recall": None, "f1": None, "average_precision": None, "support": 0},
        "Other": {"precision": 0.7, "recall": 0.6, "f1": 0.646, "average_precision": 0.76, "support": 15},
    },
    "confusion_matrix": {"labels": LABELS, "matrix": [[8, 0, 0, 2], [0, 1, 0, 1], [0, 0, 0, 0], [4, 1, 1, 9]]},
    "absent_labels": ["Cabin-Worker"],
    "num_videos": 27,
    "num_unread": 1,
    "unread": [
        {
            "video": "gate_secret_0007.mp4",
            "reason_class": "truncated",
            "reason": "/srv/gate_secret_0007.mp4 is cut",
        }
    ],
    "intervals": {
        "level": 0.95,
        "method": "clips",
        "num_groups": 2,
        "resamples": 2000,
        "note": "within these cameras only",
        "figures": {
            "accuracy": [0.478, 0.814],
            "balanced_accuracy": [0.42, 0.76],
            "f1_macro": [0.41, 0.75],
            "f1_weighted": [0.45, 0.81],
            "f1_micro": [0.478, 0.814],
            "map": None,
            "calibration_error": [0.07, 0.24],
        },
        "per_class": {
            "Track-Excavator": {
                "precision": [0.4, 0.89],
                "recall": [0.49, 0.943],
                "f1": [0.5, 0.9],
                "average_precision": [0.6, 0.96],
            },
            "Bucket-Worker": {"precision": None, "recall": None, "f1": None, "average_precision": None},
            "Cabin-Worker": {"precision": None, "recall": None, "f1": None, "average_precision": None},
            "Other": {
                "precision": [0.42, 0.88],
                "recall": [0.357, 0.802],
                "f1": [0.4, 0.8],
                "average_precision": [0.5, 0.93],
            },
        },
    },
    "calibration": {
        "split": "validation",
        "num_videos": 31,
        "temperature": 1.3125,
        "before": {"calibration_error": 0.12, "negative_log_likelihood": 0.95, "brier": 0.49},
        "after": {"calibration_error": 0.08, "negative_log_likelihood": 0.9, "brier": 0.47},
        "reliability": {
            "before": [{"low": 0.5, "high": 1.0, "confidence": 0.8, "accuracy": 0.68, "count": 27}],
            "after": [{"low": 0.5, "high": 1.0, "confidence": 0.74, "accuracy": 0.68, "count": 27}],
        },
    },
    "operating_points": {
        "split": "validation",
        "labels": {
            "Track-Excavator": {
                "threshold": 0.3125,
                "target": "recall>=0.9",
                "reached": True,
                "on_calibration": _ON_CALIBRATION,
                "on_split": _ON_SPLIT,
            },
            "Bucket-Worker": {
                "threshold": 0.0625,
                "target": "false_alarms_per_hour<=1",
                "reached": False,
                "on_calibration": _ON_CALIBRATION,
                "on_split": {
                    **_ON_SPLIT,
                    "num_positives": 2,
                    "intervals": {"recall": None, "precision": None, "false_alarms_per_hour": [0.5, 9.0]},
                },
            },
        },
    },
    "slices": [
        {
            "column": "camera",
            "value": "gate",
            "num_videos": 12,
            "accuracy": 0.5,
            "balanced_accuracy": 0.45,
            "f1_macro": 0.4,
            "interval": [0.254, 0.746],
            "recall": {"Track-Excavator": 0.6, "Bucket-Worker": 0.5, "Cabin-Worker": None, "Other": 0.4},
            "supports": {"Track-Excavator": 5, "Bucket-Worker": 2, "Cabin-Worker": 0, "Other": 5},
        },
        {
            "column": "camera",
            "value": "bridge",
            "num_videos": 15,
            "accuracy": 0.8,
            "balanced_accuracy": 0.75,
            "f1_macro": 0.72,
            "interval": [0.548, 0.93],
            "recall": {"Track-Excavator": 1.0, "Bucket-Worker": None, "Cabin-Worker": None, "Other": 0.7},
            "supports": {"Track-Excavator": 5, "Bucket-Worker": 0, "Cabin-Worker": 0, "Other": 10},
        },
    ],
    "worst_slice": {"column": "camera", "value": "gate", "f1_macro": 0.4, "num_videos": 12},
    "mistakes": [
        {
            "video": "gate_secret_0003.mp4",
            "file": "/srv/footage/gate_secret_0003.mp4",
            "label": "Other",
            "prediction": "Track-Excavator",
            "score": 0.97,
            "label_score": 0.02,
            "duration_seconds": 10.0,
            "start_seconds": 0.0,
            "end_seconds": 10.0,
            "group": "gate",
        }
    ],
    "costs": None,
    "protocol": {
        "num_clips": 3,
        "num_crops": 1,
        "view_average": "probabilities",
        "frame_order": "forwards",
        "sampling": {
            "num_frames": 8,
            "frame_interval": 32,
            "nominal_fps": 30.0,
            "short_video": "hold",
            "clip_sampling": "interval",
        },
        "pixels": {"crop_px": 224, "short_side_px": 256, "mean": [0.45, 0.45, 0.45], "std": [0.225, 0.225, 0.225]},
        "split_kind": "by camera (6 groups)",
        "groups": ["bridge", "gate"],
        "decoder": "av 17.1.0",
        "mixed_splits": {
            "state": "clean",
            "num_exact": 0,
            "num_near": 0,
            "videos": [],
            "reason": "no fingerprint of the split is among those of training",
        },
    },
    "split": "test",
    "dataset": "/srv/footage/yard",
    "dataset_fingerprint": "abc123",
    "model": "/home/someone/runs/first",
    "versions": {"railsformer": "0.1.0", "torch": "2.13.0"},
    "run": {"seconds": 12.0, "num_processes": 1, "device": "cpu", "videos_per_second": 2.25},
    "compare": None,
}


def metrics_2(**changes: Any) -> dict[str, Any]:
    """A copy of the metrics, with changes of its top level."""
    return {**copy.deepcopy(METRICS_2), **changes}


def mixed_splits(state: str, *, reason: str, videos: list[str] | None = None) -> dict[str, Any]:
    """The protocol of a report that found videos of its split in training, or could not tell."""
    names = videos or []
    found = {"state": state, "num_exact": len(names), "num_near": 1 if names else 0, "videos": names, "reason": reason}
    return {**copy.deepcopy(METRICS_2["protocol"]), "mixed_splits": found}
