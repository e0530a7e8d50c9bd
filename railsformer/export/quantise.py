"""Weights and matrix products in 8 bits, and what that costs: measured on videos, not promised."""

import json
import logging
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import numpy as np
import torch

from railsformer.data.clips import ClipDataset, VideoDataset, load_video_dataset
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings
from railsformer.evaluation.metrics import VideoClassificationMetrics
from railsformer.evaluation.views import score_videos
from railsformer.inference.model_identity import public_name
from railsformer.inference.onnx_backend import METADATA_PREFIX
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

__all__ = ["Quantised", "check_dataset", "compare_on_split", "median_seconds", "quantise"]

_TIMED_PASSES = 5


@dataclass(frozen=True)
class Quantised:
    """An int8 file.

    Args:
        file: Its name.
        bytes: Its size.
        precision: As the file says it.
    """

    file: str
    bytes: int
    precision: str


def quantise(path: Path, output: Path) -> Path:
    """Write an ONNX file again with the matrix products by weights in 8 bits (dynamic quantisation).

    Weights are rounded once, to 7 bits per output channel, signed and symmetric; activations when they come, per
    tensor, which needs no calibration clips. The patch projection (a convolution), attention between tokens, norms and
    softmax stay in float32.

    Args:
        path: Of the float32 file.
        output: Of the new one, whose metadata differs in the precision alone.

    Returns:
        `output`.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-untyped]
    from onnxruntime.quantization.shape_inference import quant_pre_process  # type: ignore[import-untyped]

    external = path.with_name(f"{path.name}.data").is_file()
    root, level = logging.getLogger(), logging.getLogger().level
    try:
        root.setLevel(logging.ERROR)  # it advises on the root logger
        with TemporaryDirectory() as scratch:
            prepared = Path(scratch) / "prepared.onnx"
            quant_pre_process(path, prepared, skip_symbolic_shape=True, save_as_external_data=external)
            quantize_dynamic(
                prepared,
                output,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                reduce_range=True,  # 7 bits: without VNNI, sums of two 8-bit products overflow 16 bits in silence
                use_external_data_format=external,
            )
    finally:
        root.setLevel(level)
    source, model = (onnx.load(each, load_external_data=False) for each in (path, output))
    told = {each.key: each.value for each in source.metadata_props}
    onnx.helper.set_model_props(model, told | {METADATA_PREFIX + "precision": json.dumps("int8")})
    onnx.save(model, output)
    return output


def check_dataset(
    dataset: str | Path, split: str, *, model: RailsformerForVideoClassification, name: str
) -> tuple[VideoDataset, datasets.Dataset]:
    """Load what int8 is measured on, before the work.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it has no such split, or a label that the model does not know.
    """
    loaded = load_video_dataset(dataset)
    known = list(model.config.id2label.values())
    unknown = [label for label in loaded.labels if label not in known]
    if unknown:
        raise ValueError(
            f"label {unknown[0]!r} of {dataset} is not known to {name}, which has {', '.join(known)}; name the "
            "dataset that it was trained on"
        )
    return loaded, loaded.split(split)


def compare_on_split(
    networks: Mapping[str, Any],
    dataset: tuple[VideoDataset, datasets.Dataset],
    *,
    sampling: ClipSampling,
    pixels: PixelSettings,
    max_videos: int | None = None,
) -> dict[str, Any]:
    """Score the same videos (one clip, centre crop) with several networks of one model.

    Args:
        networks: Name to network; the first is what the others are compared with.
        dataset: As `check_dataset` gives it.
        sampling: The model's.
        pixels: The model's.
        max_videos: So many videos at most, evenly spread over the split; all unless given.

    Returns:
        Number of videos, and a network's accuracy, macro F1, share of videos with the first network's label, largest
        difference of a score from its, and median seconds a clip (batch 1).

    Raises:
        ValueError: If no video could be read, or scores are not numbers.
    """
    loaded, rows = dataset
    if max_videos is not None and max_videos < len(rows):
        rows = rows.select(np.linspace(0, len(rows) - 1, max_videos).round().astype(int).tolist())
    clips = ClipDataset(rows, sampling=sampling, pixels=pixels)
    config = next(iter(networks.values())).config
    names = [config.id2label[index] for index in range(config.num_labels)]
    order = np.array([names.index(label) for label in loaded.labels])
    found: dict[str, Any] = {}
    first: np.ndarray | None = None
    for name, network in networks.items():
        scores = score_videos(network, clips)
        read = scores.is_read
        if not read.any():
            reason = scores.unread[0].reason
            raise ValueError(f"{loaded.name}: none of {len(rows)} videos could be read, first {reason}")
        each = scores.probabilities[read]
        first = each if first is None else first
        found[name] = _compared(each, first, references=order[scores.references[read]], label_names=names)
    clip = clips[int(np.flatnonzero(read)[0])]["pixel_values"][None]
    for name, network in networks.items():
        found[name]["seconds_per_clip"] = median_seconds(partial(network, pixel_values=clip))
    return {
        "dataset": public_name(loaded.name),
        "dataset_fingerprint": loaded.fingerprint,
        "num_videos": int(read.sum()),
        "num_threads": torch.get_num_threads(),
        "networks": found,
    }


def _compared(
    scores: np.ndarray, first: np.ndarray, *, references: np.ndarray, label_names: list[str]
) -> dict[str, float]:
    """Accuracy of scores (num_videos, num_labels), and how far they are from those of the first network."""
    predicted = scores.argmax(axis=1)
    figures = VideoClassificationMetrics().compute(
        predictions=predicted.tolist(), references=references.tolist(), label_names=label_names
    )
    return {
        "accuracy": figures["accuracy"],
        "f1_macro": figures["f1_macro"],
        "same_label": float((predicted == first.argmax(axis=1)).mean()),
        "largest_score_difference": float(np.abs(scores - first).max()),
    }


@torch.inference_mode()
def median_seconds(call: Callable[[], Any], *, passes: int = _TIMED_PASSES) -> float:
    """Median time of a call, after one that is not counted."""
    call()
    seconds = []
    for _ in range(passes):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
