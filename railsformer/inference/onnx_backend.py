"""A network that onnxruntime runs: found, opened, and called as the PyTorch one is, with no weights in PyTorch."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from transformers.modeling_outputs import ImageClassifierOutput

from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings
from railsformer.model.configuration_railsformer import RailsformerConfig

__all__ = ["METADATA_PREFIX", "MODEL_NAME", "SUBFOLDER", "OnnxNetwork", "find_onnx", "import_onnxruntime"]

MODEL_NAME = "model.onnx"
METADATA_PREFIX = "railsformer."
_ADVICE = "write it anew with railsformer export --format onnx"
SUBFOLDER = "onnx"  # where repositories that hold PyTorch weights, too, keep theirs


def import_onnxruntime() -> ModuleType:
    """Return onnxruntime.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError as error:
        raise ValueError(f"onnxruntime is missing ({error}); pip install 'railsformer[onnx]'") from error
    return onnxruntime


def find_onnx(name: str | Path) -> Path:
    """The file that a name stands for.

    Args:
        name: An .onnx file; a folder with model.onnx or onnx/model.onnx; or a Hub repository of such a layout.

    Raises:
        FileNotFoundError: If there is none.
    """
    path = Path(name)
    if path.suffix == ".onnx" and not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such ONNX file; correct the name, or {_ADVICE}")
        return path
    folder = path
    if not path.exists() and str(name).count("/") == 1 and not str(name).startswith((".", "/", "~")):
        try:
            folder = Path(snapshot_download(str(name), allow_patterns=["*.onnx", "*.onnx.data", "*.json"]))
        except (OSError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise FileNotFoundError(f"{name}: neither a folder nor a repository that can be had ({reason})") from error
    for place in (folder / MODEL_NAME, folder / SUBFOLDER / MODEL_NAME):
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"{name}: no {MODEL_NAME} in it, nor {SUBFOLDER}/{MODEL_NAME}, as --backend onnx needs; make one with "
        f"railsformer export --model {name} --format onnx --output_dir DIR and name DIR"
    )


class OnnxNetwork:
    """An exported model, called as a `RailsformerForVideoClassification` in evaluation mode is.

    What it needs to be used is in the file's own metadata: labels, pixels, sampling, operating points.

    Args:
        name: As for `find_onnx`.
        num_threads: Of a forward pass; as many as PyTorch takes unless given.

    Attributes:
        path: The file.
        config: Of the model that was exported.
        precision: `float32` or `int8`.
        opset: Of the file.
        sampling: How its clips are cut.
        pixels: How its pixels are sized and normalised.
        operating_points: What operating_points.json held at the export; None where there was none.
        batch: Clips that the file takes at a time; None takes any number.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If onnxruntime is missing, or the file is damaged or was not written by `railsformer export`.
    """

    dtype = torch.float32  # of what goes in and comes out; int8 files convert inside
    device = torch.device("cpu")
    training = False

    def __init__(self, name: str | Path, *, num_threads: int | None = None) -> None:
        onnxruntime = import_onnxruntime()
        self.path = find_onnx(name)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or torch.get_num_threads()
        options.log_severity_level = 3  # errors are raised; warnings are about its own optimisations
        try:
            self._session = onnxruntime.InferenceSession(
                str(self.path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no class of their own to name
            reason = " ".join(str(error).split())
            raise ValueError(f"{self.path} cannot be opened by onnxruntime ({reason[:300]}); {_ADVICE}") from error
        self._metadata = self._session.get_modelmeta().custom_metadata_map
        self.config = self._value("config", RailsformerConfig.from_dict)
        self.precision, self.opset = self._value("precision", str), self._value("opset", int)
        self.sampling = self._value("sampling", lambda told: ClipSampling(**told))
        self.pixels = self._value("pixels", _pixels)
        self.operating_points = self._value("operating_points")
        self.batch = self._check_network()

    def __call__(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        """Logits of clips.

        Args:
            pixel_values: Shape (B, T, 3, y, x), any B; a file of a fixed batch is run as often as it takes.

        Raises:
            ValueError: If the clips are not of the shape that was exported.
        """
        expected = tuple(self._session.get_inputs()[0].shape[1:])
        if pixel_values.ndim != 5 or tuple(pixel_values.shape[1:]) != expected:
            raise ValueError(
                f"pixel_values must be of shape (batch, {', '.join(map(str, expected))}) for {self.path}, got "
                f"{tuple(pixel_values.shape)}; export the model with the size and frames wanted"
            )
        clips = np.ascontiguousarray(pixel_values.detach().cpu().float().numpy())
        size = self.batch or max(1, len(clips))
        logits = [self._run(clips[first : first + size]) for first in range(0, len(clips), size)]
        joined = np.concatenate(logits) if logits else np.empty((0, self.config.num_labels), dtype=np.float32)
        return ImageClassifierOutput(logits=torch.from_numpy(joined))

    def eval(self) -> "OnnxNetwork":
        """Itself: it knows no training."""
        return self

    def train(self, mode: bool = True) -> "OnnxNetwork":
        """Itself, where that asks for evaluation.

        Raises:
            ValueError: If it asks for training.
        """
        if mode:
            raise ValueError(f"{self.path} cannot be trained; train the PyTorch model that it was exported from")
        return self

    @property
    def files(self) -> list[Path]:
        """What its scores depend on."""
        data = self.path.with_name(f"{self.path.name}.data")
        return [path for path in (self.path, data) if path.is_file()]

    def _run(self, clips: np.ndarray) -> np.ndarray:
        wanted = self.batch or len(clips)
        if len(clips) < wanted:  # the last of a fixed batch: filled up, and what filled it cut off
            filling = np.zeros((wanted - len(clips), *clips.shape[1:]), dtype=clips.dtype)
            return self._run(np.concatenate([clips, filling]))[: len(clips)]
        return self._session.run(None, {self._session.get_inputs()[0].name: clips})[0]

    def _check_network(self) -> int | None:
        """The network's fixed batch, None where it takes any; its shapes must be those that its config tells."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        config = self.config
        told = [config.num_frames, config.num_channels, *config.image_height_width], [config.num_labels]
        if [list(inputs[0].shape[1:]), list(outputs[0].shape[1:])] != list(told):
            raise ValueError(
                f"{self.path} takes clips of {inputs[0].shape[1:]} and gives {outputs[0].shape[1:]} logits, but its "
                f"metadata tells {told[0]} and {told[1]}; {_ADVICE}"
            )
        size = inputs[0].shape[0]
        return size if isinstance(size, int) else None

    def _value(self, key: str, build: Callable[[Any], Any] = lambda told: told) -> Any:
        """What the metadata tells under a key, made into what it stands for."""
        text = self._metadata.get(METADATA_PREFIX + key)
        if text is None:
            raise ValueError(
                f"{self.path} does not say its {key} (metadata {METADATA_PREFIX}{key}): it was not written by "
                f"railsformer export; {_ADVICE}"
            )
        try:
            return build(json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{self.path}: its {key} (metadata {METADATA_PREFIX}{key}) is damaged ({reason}); {_ADVICE}"
            ) from error


def _pixels(told: dict[str, Any]) -> PixelSettings:
    mean, std = (tuple(float(value) for value in told[key]) for key in ("mean", "std"))
    return PixelSettings(told["crop_px"], told["short_side_px"], mean, std)
