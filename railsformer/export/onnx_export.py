"""A run as an ONNX file that says itself how it is to be used, checked against PyTorch before it appears."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from railsformer.data.folders import check_output_dir, whole_folder
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings
from railsformer.evaluation.operating_points_file import (
    OPERATING_POINTS_NAME,
    find_operating_points,
    read_operating_points,
)
from railsformer.export.quantise import Quantised, check_dataset, compare_on_split, quantise
from railsformer.inference.model_identity import public_name
from railsformer.inference.onnx_backend import METADATA_PREFIX, MODEL_NAME, OnnxNetwork, import_onnxruntime
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

__all__ = ["DEFAULT_OPSET", "EXPORT_NAME", "INT8_NAME", "OPSETS", "TOLERANCE", "ExportReport", "export_onnx"]

DEFAULT_OPSET = 18
# Below 18 the exporter would have to convert back, which need not succeed; above 23 it knows no operators yet.
OPSETS = range(18, 24)
TOLERANCE = 1e-4  # most that a logit may differ from PyTorch's
EXPORT_NAME = "export.json"
INT8_NAME = "model.int8.onnx"
_CHECKED_BATCHES = (1, 2, 3)
_SEED = 0
_PACKAGES = ("railsformer", "torch", "transformers", "onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Args:
        output_dir: Folder with model.onnx, its configs, and export.json.
        content: Of export.json.
    """

    output_dir: Path
    content: dict[str, Any]


@dataclass(frozen=True)
class _Source:
    """A trained model and what stands beside it."""

    name: str
    public_name: str  # what the export tells of it: no place on this machine
    model: RailsformerForVideoClassification
    pixels: PixelSettings
    sampling: ClipSampling
    operating_points: dict[str, Any] | None


def export_onnx(
    model: str | Path,
    *,
    output_dir: str | Path,
    opset: int = DEFAULT_OPSET,
    batch: int | None = None,
    int8: bool = False,
    dataset: str | Path | None = None,
    split: str = "validation",
    max_videos: int | None = None,
    external_data: bool = False,
) -> ExportReport:
    """Write a model as ONNX, with what it needs to be used in the file's metadata.

    Weights are float32, whatever they were trained in, and folded (`fold_for_inference`). The file is run by
    onnxruntime on random clips beside the unfolded PyTorch model; if a logit differs by more than `TOLERANCE`, nothing
    is left.

    Args:
        model: Run folder, checkpoint or Hub id.
        output_dir: Must be absent or empty; a model folder of its own afterwards.
        opset: Of the standard operators, one of `OPSETS`.
        batch: Clips a forward pass; None lets any number in.
        int8: Also write model.int8.onnx with weights and matrix products in 8 bits.
        dataset: What the cost of int8 is measured on; needed with it.
        split: Of the dataset.
        max_videos: Measure on so many videos of the split at most, spread over it; all unless given.
        external_data: Keep the weights in a file of their own, as a model beyond 2 GB does in any case.

    Returns:
        Where it is, and what export.json says.

    Raises:
        FileExistsError: If `output_dir` holds something.
        FileNotFoundError: If the model or dataset is not there, or the model has no preprocessor_config.json.
        ValueError: If an argument is out of range, a package is missing, or the model cannot be exported or differs
            from PyTorch afterwards.
    """
    _check_arguments(opset, batch, int8=int8, dataset=dataset, max_videos=max_videos)
    _check_packages()
    folder = check_output_dir(output_dir)
    source = _load(model)
    rows = check_dataset(dataset, split, model=source.model, name=source.name) if dataset is not None else None
    clips = _random_clips(source.model, max(_CHECKED_BATCHES) if batch is None else 2 * batch)
    expected = _logits(source.model, clips)
    if not np.isfinite(expected).all():
        raise ValueError(
            f"{source.name}: its scores are not numbers; its weights are damaged or its training diverged"
        )
    with whole_folder(folder) as scratch:
        folded = source.model.fold_for_inference()
        network = _write_file(source, scratch / MODEL_NAME, opset=opset, batch=batch, external_data=external_data)
        differences = _check_outputs(network, clips, expected, name=source.name)
        content = _facts(source, network, differences)
        content["folded_parameters"] = folded.parameters_before - folded.parameters_after
        if rows is not None:
            small = quantise(network.path, scratch / INT8_NAME)
            content["int8"] = _measure_int8(source, network, small, rows, max_videos=max_videos)
        _copy_companions(source, scratch)
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (scratch / EXPORT_NAME).write_text(text + "\n", encoding="utf-8")
        del network
    return ExportReport(Path(output_dir), content)


def _check_arguments(
    opset: int, batch: int | None, *, int8: bool, dataset: str | Path | None, max_videos: int | None
) -> None:
    if opset not in OPSETS:
        age = "too old" if opset < OPSETS.start else "too new"
        raise ValueError(
            f"opset {opset} is {age}: it must be {OPSETS.start} to {OPSETS.stop - 1}; leave --opset out for "
            f"{DEFAULT_OPSET}"
        )
    if batch is not None and batch < 1:
        raise ValueError(f"batch must be at least 1, or dynamic, got {batch}")
    if int8 and dataset is None:
        raise ValueError("--int8 needs --dataset: what 8 bits cost is measured on its validation split")
    if dataset is not None and not int8:
        raise ValueError(f"--dataset {dataset} is what --int8 is measured on; add --int8 or leave it out")
    if max_videos is not None and not int8:
        raise ValueError(f"--max_videos {max_videos} is for measuring --int8; add --int8 or leave it out")
    if max_videos is not None and max_videos < 1:
        raise ValueError(f"--max_videos must be at least 1, got {max_videos}")


def _check_packages() -> None:
    import_onnxruntime()
    for name in ("onnx", "onnxscript"):
        try:
            __import__(name)
        except ImportError as error:
            raise ValueError(f"{name} is missing ({error}); pip install 'railsformer[onnx]'") from error


def _load(name: str | Path) -> _Source:
    model, info = RailsformerForVideoClassification.from_pretrained(
        name, output_loading_info=True, dtype=torch.float32
    )
    if info["missing_keys"]:
        raise ValueError(f"{name} has no head (classifier.weight is missing); fine-tune it first")
    model = model.cpu().eval()
    points, path = None, find_operating_points(name)
    if path is not None:
        read_operating_points(path, label_names=list(model.config.id2label.values()))  # refuses what is damaged
        points = json.loads(path.read_text(encoding="utf-8"))
    return _Source(
        str(name),
        public_name(name),
        model,
        PixelSettings.from_pretrained(name),
        ClipSampling.from_config(model.config),
        points,
    )


def _random_clips(model: RailsformerForVideoClassification, count: int) -> torch.Tensor:
    """Normal noise of the model's own size, shape (count, T, C, y, x)."""
    config = model.config
    generator = torch.Generator().manual_seed(_SEED)
    shape = (count, config.num_frames, config.num_channels, *config.image_height_width)
    return torch.randn(shape, generator=generator)


@torch.inference_mode()
def _logits(model: RailsformerForVideoClassification, clips: torch.Tensor) -> np.ndarray:
    return torch.cat([model(pixel_values=one).logits for one in clips.split(1)]).numpy()


class _Logits(nn.Module):
    """Pixels to logits and nothing else."""

    def __init__(self, model: RailsformerForVideoClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values).logits


def _program(source: _Source, *, opset: int, batch: int | None) -> torch.onnx.ONNXProgram:
    """Trace and translate.

    Raises:
        ValueError: If the exporter cannot.
    """
    clips = _random_clips(source.model, batch or 2)
    shapes = ({0: torch.export.Dim("batch", min=1)},) if batch is None else None
    try:
        with _quiet():
            program = torch.onnx.export(
                _Logits(source.model),
                (clips,),
                input_names=["pixel_values"],
                output_names=["logits"],
                opset_version=opset,
                dynamic_shapes=shapes,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split())[:300]
        raise ValueError(f"{source.name} cannot be exported to ONNX: {type(cause).__name__}: {reason}") from error
    assert program is not None  # the dynamo exporter returns one
    return program


def _forget_traces(program: torch.onnx.ONNXProgram) -> None:
    """Drop what the exporter notes of each node: stack traces with this machine's paths, larger than the graph."""
    graph = program.model.graph
    graph.metadata_props.clear()
    for node in graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()


@contextmanager
def _quiet() -> Iterator[None]:
    """No news of the exporter about operators that the model does not use."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for each in loggers:
                each.setLevel(logging.ERROR)
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def _write_file(source: _Source, path: Path, *, opset: int, batch: int | None, external_data: bool) -> OnnxNetwork:
    """Export, with the metadata, and open what was written."""
    program = _program(source, opset=opset, batch=batch)
    _forget_traces(program)
    program.model.metadata_props.update(_metadata(source, opset=opset))
    program.save(path, external_data=external_data)
    return OnnxNetwork(path)


def _facts(source: _Source, network: OnnxNetwork, differences: Mapping[str, float]) -> dict[str, Any]:
    """Content of export.json before int8 is measured."""
    config = source.model.config
    batch = network.batch or "dynamic"
    return {
        "version": 1,
        "source": source.public_name,
        "file": network.path.name,
        "bytes": sum(each.stat().st_size for each in network.files),
        "opset": network.opset,
        "batch": batch,
        "precision": network.precision,
        "attention_type": config.attention_type,
        "input_shape": [batch, config.num_frames, config.num_channels, *config.image_height_width],
        "tolerance": TOLERANCE,
        "largest_difference": dict(differences),
        "versions": _versions(),
        "int8": None,
    }


def _metadata(source: _Source, *, opset: int) -> dict[str, str]:
    """What the file says of itself: JSON texts by key."""
    config = source.model.config
    facts: dict[str, Any] = {
        "labels": [config.id2label[index] for index in range(config.num_labels)],
        "negative_labels": list(getattr(config, "negative_labels", None) or []),
        "pixels": asdict(source.pixels),
        "sampling": asdict(source.sampling),
        "operating_points": source.operating_points,
        "attention_type": config.attention_type,
        "precision": "float32",
        "opset": opset,
        "source": source.public_name,
        "versions": _versions(),
        "config": config.to_dict() | {"_name_or_path": source.public_name},
    }
    return {METADATA_PREFIX + key: json.dumps(value, ensure_ascii=False) for key, value in facts.items()}


def _versions() -> dict[str, str]:
    return {name: version(name) for name in _PACKAGES}


def _check_outputs(network: OnnxNetwork, clips: torch.Tensor, expected: np.ndarray, *, name: str) -> dict[str, float]:
    """Largest difference of a logit by number of clips a forward pass.

    Raises:
        ValueError: If one is beyond the tolerance, or not a number.
    """
    sizes: Sequence[int] = _CHECKED_BATCHES if network.batch is None else (network.batch, len(clips))
    found: dict[str, float] = {}
    for size in dict.fromkeys(sizes):
        logits = np.asarray(network(clips[:size]).logits)
        found[str(size)] = difference = float(np.abs(logits - expected[:size]).max())
        if not difference <= TOLERANCE:
            raise ValueError(
                f"{name}: its ONNX file differs from PyTorch by {difference:.2g} in a logit ({size} random clips), "
                f"more than {TOLERANCE:g}; nothing was written: try another --opset"
            )
    return found


def _measure_int8(
    source: _Source, network: OnnxNetwork, small: Path, rows: Any, *, max_videos: int | None
) -> dict[str, Any]:
    """Entry of export.json: what int8 costs and gains beside float32 and PyTorch, which is folded like them."""
    quantised = OnnxNetwork(small)
    content = Quantised(small.name, small.stat().st_size, quantised.precision)
    networks: Mapping[str, Any] = {"pytorch": source.model, "onnx": network, "int8": quantised}
    measured = compare_on_split(networks, rows, sampling=source.sampling, pixels=source.pixels, max_videos=max_videos)
    return asdict(content) | measured


def _copy_companions(source: _Source, folder: Path) -> None:
    """Make the folder one that names its model without the file: configs and operating points."""
    source.model.config.save_pretrained(folder)
    source.pixels.save_pretrained(folder)
    if source.operating_points is not None:
        text = json.dumps(source.operating_points, indent=2, ensure_ascii=False)
        (folder / OPERATING_POINTS_NAME).write_text(text + "\n", encoding="utf-8")
