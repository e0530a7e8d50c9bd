"""A model with all that its scores need: sampling, pixels, temperature and thresholds, as in training."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast, get_args, overload

import numpy as np
import torch

from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings
from railsformer.evaluation.calibration import apply_temperature
from railsformer.evaluation.operating_points_file import (
    OPERATING_POINTS_NAME,
    OperatingPointsFile,
    find_operating_points,
    read_operating_points,
)
from railsformer.inference.onnx_backend import SUBFOLDER, OnnxNetwork
from railsformer.inference.regions import Region
from railsformer.inference.views import VideoViews, Viewing, frame_views, read_views
from railsformer.model.loading import torch_dtype
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

__all__ = ["Backend", "Prediction", "Predictor", "check_top_k"]

# What runs the network: PyTorch, or onnxruntime a file that `railsformer export` wrote.
Backend = Literal["torch", "onnx"]


@dataclass(frozen=True)
class Prediction:
    """What the model says of one video.

    Args:
        label: With the highest score.
        scores: Calibrated, the highest first, all of sum 1; fewer where only the top k were asked for.
        decisions: Whether each label's score reaches its threshold, of labels that have one; None where the model has
            no operating points.
        duration_seconds: Of the video; None for frames without times.
        clips_seconds: First and last instant of each clip that was looked at; empty for frames without times.
    """

    label: str
    scores: dict[str, float]
    decisions: dict[str, bool] | None
    duration_seconds: float | None
    clips_seconds: tuple[tuple[float, float], ...]


class Predictor:
    """A model that takes videos or frames.

    Args:
        model: With its head; or an exported one.
        name: Where it comes from, for messages.
        sampling: Its config's.
        pixels: Its preprocessor's.
        operating_points: Temperature and thresholds; None leaves scores as they are and decides nothing.
        device: Where it runs; the accelerator where there is one unless given.
        batch_size: Most views (clips x crops) of a forward pass.

    Raises:
        ValueError: If batch_size < 1, or an exported model shall run elsewhere than on the CPU.
    """

    def __init__(
        self,
        model: RailsformerForVideoClassification | OnnxNetwork,
        *,
        name: str,
        sampling: ClipSampling,
        pixels: PixelSettings,
        operating_points: OperatingPointsFile | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 8,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.device = _device("cpu" if device is None and isinstance(model, OnnxNetwork) else device)
        if isinstance(model, OnnxNetwork):
            if self.device.type != "cpu":
                raise ValueError(f"device must be cpu with backend onnx, got {device!r}; leave it out")
            # It answers every call that is made here; what needs more (gradients, maps) loads a model of its own.
            self.model = cast(RailsformerForVideoClassification, model)
        else:
            self.model = model.to(self.device).eval()
        self.name, self.sampling, self.pixels, self.batch_size = name, sampling, pixels, batch_size
        self.labels: tuple[str, ...] = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
        self.negative_labels = tuple(getattr(model.config, "negative_labels", None) or ())
        self.operating_points = operating_points
        self.temperature = operating_points.temperature if operating_points else 1.0
        self.thresholds = dict(operating_points.thresholds) if operating_points else None

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        batch_size: int = 8,
        backend: Backend = "torch",
    ) -> "Predictor":
        """Load a run folder, a checkpoint or a Hub repository.

        Sampling comes from the config, pixels from the preprocessor, temperature and thresholds from
        operating_points.json where the folder has one. An exported model holds all of it itself; an
        operating_points.json beside its file is newer and goes first.

        Args:
            name: Folder or Hub id; with backend onnx also a file.
            device: Where it runs; the accelerator where there is one unless given.
            dtype: Of the weights; float32 unless given.
            batch_size: Most views (clips x crops) of a forward pass.
            backend: `torch`, or `onnx` for what `railsformer export` wrote.

        Raises:
            FileNotFoundError: If there is no model, or it has no preprocessor_config.json.
            ValueError: If it is damaged, has no head, is an exported model (`ExportedModelError`) that PyTorch is to
                run, or the backend is unknown or its package missing.
        """
        if backend not in get_args(Backend):
            raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
        if backend == "onnx":
            return _exported(cls, name, device=device, dtype=dtype, batch_size=batch_size)
        options: dict[str, Any] = {} if dtype is None else {"dtype": torch_dtype(dtype)}
        model, info = RailsformerForVideoClassification.from_pretrained(name, output_loading_info=True, **options)
        if info["missing_keys"]:
            raise ValueError(f"{name} has no head (classifier.weight is missing); fine-tune it first")
        labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
        return cls(
            model,
            name=str(name),
            sampling=ClipSampling.from_config(model.config),
            pixels=PixelSettings.from_pretrained(name),
            operating_points=_operating_points(name, labels),
            device=device,
            batch_size=batch_size,
        )

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a sequence of str, too; it is one file here
        self,
        videos: str | Path | np.ndarray,
        *,
        seconds: Sequence[float] | np.ndarray | None = None,
        num_clips: int = 1,
        num_crops: int = 1,
        top_k: int | None = None,
        region: Region | None = None,
    ) -> Prediction: ...

    @overload
    def __call__(
        self,
        videos: Sequence[str | Path],
        *,
        num_clips: int = 1,
        num_crops: int = 1,
        top_k: int | None = None,
        region: Region | None = None,
    ) -> list[Prediction]: ...

    def __call__(
        self,
        videos: str | Path | Sequence[str | Path] | np.ndarray,
        *,
        seconds: Sequence[float] | np.ndarray | None = None,
        num_clips: int = 1,
        num_crops: int = 1,
        top_k: int | None = None,
        region: Region | None = None,
    ) -> Prediction | list[Prediction]:
        """Predict.

        Args:
            videos: A file, several files, or frames: RGB, uint8, shape (N, height, width, 3).
            seconds: When each of the frames begins, ascending, shape (N,). Without times the frames are the clip, and
                there must be as many as the model takes.
            num_clips: Clips a video, spread over its length, their scores averaged.
            num_crops: Crops of a clip: 1, the centre, or 3 along the long side, their scores averaged.
            top_k: Scores to return; all if not given.
            region: What of the picture is looked at; all if not given.

        Returns:
            A prediction, or one a file where several were given.

        Raises:
            FileNotFoundError: If there is no such file.
            VideoDecodeError: If a file cannot be read.
            ValueError: If an argument is out of range, or frames have another shape or number.
        """
        check_top_k(top_k)
        viewing = Viewing(self.sampling, self.pixels, num_clips, num_crops, region)
        if isinstance(videos, np.ndarray):
            return self.predict_views([frame_views(videos, seconds, viewing)], top_k=top_k)[0]
        if seconds is not None:
            raise ValueError("seconds are for frames; a file has its own times")
        if isinstance(videos, str | Path):
            return self.predict_views([read_views(videos, viewing)], top_k=top_k)[0]
        size = max(1, self.batch_size // (num_clips * num_crops))
        predictions: list[Prediction] = []
        for first in range(0, len(videos), size):
            views = [read_views(path, viewing) for path in videos[first : first + size]]
            predictions += self.predict_views(views, top_k=top_k)
        return predictions

    def predict_views(self, videos: Sequence[VideoViews], *, top_k: int | None = None) -> list[Prediction]:
        """Predictions of videos that are decoded already, their views batched together."""
        if not videos:
            return []
        each = self._softmax(torch.cat([views.pixel_values for views in videos]))
        ends = np.cumsum([len(views.pixel_values) for views in videos])
        means = np.stack([few.mean(axis=0) for few in np.split(each, ends[:-1])])
        scores = apply_temperature(means, self.temperature)
        return [self._prediction(row, views, top_k) for row, views in zip(scores, videos, strict=True)]

    def score_pixels(self, pixel_values: torch.Tensor) -> np.ndarray:
        """Calibrated scores of views.

        Args:
            pixel_values: Shape (B, T, 3, y, x), any B.

        Returns:
            One row a view in the order of `labels`, each of sum 1, float64, shape (B, num_labels).

        Raises:
            ValueError: If scores are not numbers.
        """
        return apply_temperature(self._softmax(pixel_values), self.temperature)

    @property
    def points_advice(self) -> str:
        """How a model without operating points gets some."""
        if isinstance(self.model, OnnxNetwork):
            return "evaluate the run and export it again, or put its operating_points.json beside the file"
        return "evaluate it to get some"

    def decide(self, scores: np.ndarray) -> dict[str, bool] | None:
        """Which thresholds one row of calibrated scores reaches; None without operating points."""
        if self.thresholds is None:
            return None
        return {name: bool(scores[self.labels.index(name)] >= least) for name, least in self.thresholds.items()}

    @torch.inference_mode()
    def _softmax(self, pixel_values: torch.Tensor) -> np.ndarray:
        """The only place where the network runs: scores before the temperature, shape (B, num_labels)."""
        logits = [
            self.model(pixel_values=few.to(self.device, self.model.dtype)).logits.float().cpu()
            for few in (pixel_values.split(self.batch_size) if len(pixel_values) else ())
        ]
        scores = torch.cat(logits).softmax(dim=-1).double().numpy() if logits else np.empty((0, len(self.labels)))
        if not np.isfinite(scores).all():
            raise ValueError(
                f"{self.name}: the scores are not numbers (NaN); its weights are damaged or its training diverged"
            )
        return scores

    def _prediction(self, scores: np.ndarray, views: VideoViews, top_k: int | None) -> Prediction:
        order = np.argsort(-scores, kind="stable")
        return Prediction(
            label=self.labels[order[0]],
            scores={self.labels[index]: float(scores[index]) for index in order[:top_k]},
            decisions=self.decide(scores),
            duration_seconds=views.duration_seconds,
            clips_seconds=views.clips_seconds,
        )


def check_top_k(top_k: int | None) -> None:
    """Refuse a number of scores below 1.

    Raises:
        ValueError: If it is.
    """
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")


def _exported(
    cls: type[Predictor],
    name: str | Path,
    *,
    device: str | torch.device | None,
    dtype: torch.dtype | str | None,
    batch_size: int,
) -> Predictor:
    """The predictor of an exported model."""
    if dtype is not None:
        raise ValueError(f"dtype is fixed in an exported model, got {dtype}; leave it out")
    network = OnnxNetwork(name)
    labels = [network.config.id2label[index] for index in range(network.config.num_labels)]
    path = find_operating_points(network.path.parent)
    if path is None and network.path.parent.name == SUBFOLDER:  # of a run, which `evaluate` writes to
        path = find_operating_points(network.path.parent.parent)
    points = None if path is None else read_operating_points(path, label_names=labels)
    points = _points_inside(network, labels) if points is None else points
    return cls(
        network,
        name=str(network.path),  # not the folder's: scores of its PyTorch model or its int8 file are others
        sampling=network.sampling,
        pixels=network.pixels,
        operating_points=points,
        device=device,
        batch_size=batch_size,
    )


def _points_inside(network: OnnxNetwork, labels: Sequence[str]) -> OperatingPointsFile | None:
    """The operating points that an exported file holds itself; None where it holds none.

    Raises:
        ValueError: If they are damaged; it names the exported file.
    """
    if network.operating_points is None:
        return None
    with TemporaryDirectory() as folder:  # for their check, which reads a file
        path = Path(folder, OPERATING_POINTS_NAME)
        path.write_text(json.dumps(network.operating_points), encoding="utf-8")
        try:
            return read_operating_points(path, label_names=labels)
        except ValueError as error:
            told = str(error).replace(str(path), OPERATING_POINTS_NAME).partition("; ")[0]
            raise ValueError(
                f"{network.path}: the operating points in it are not right ({told}); export the run again, or put its "
                f"{OPERATING_POINTS_NAME} beside the file"
            ) from error


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} is not there ({reason}); leave it out or name another") from error


def _operating_points(name: str | Path, labels: Sequence[str]) -> OperatingPointsFile | None:
    path = find_operating_points(name)
    return None if path is None else read_operating_points(path, label_names=labels)
