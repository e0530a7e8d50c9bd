"""Which model scores are of: a name alone does not tell, as a folder is trained again and a Hub id moves on."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from railsformer.inference.onnx_backend import OnnxNetwork

if TYPE_CHECKING:
    from railsformer.inference.predictor import Predictor
    from railsformer.inference.regions import Region

__all__ = ["model_changed", "public_name", "score_digest"]

# Not *.bin: training_args.bin and an optimizer's state change no score.
_PARTS = (
    *("*.safetensors", "pytorch_model*.bin", "*.onnx", "*.onnx.data"),
    *("config.json", "preprocessor_config.json"),
)
_DIGEST_LETTERS = 12


def model_changed(name: str) -> dict[str, Any]:
    """What tells a model from an earlier one of the same name; JSON.

    Args:
        name: Folder, exported file or Hub id.

    Returns:
        When each of its files changed; of a Hub id the commit. Empty where there is neither.
    """
    home = Path(name)
    home = home.parent if home.is_file() else home  # an exported file
    parts = sorted({path for pattern in _PARTS for path in home.glob(pattern)}) if home.is_dir() else []
    if parts:  # a local folder goes before the Hub, as in transformers, but not one that holds no model
        return {path.name: path.stat().st_mtime_ns for path in parts}
    commit = _hub_commit(name)
    return {} if commit is None else {"commit": commit}


def score_digest(predictor: "Predictor", region: "Region | None" = None) -> str:
    """A short name of all but the video that scores and decisions depend on.

    Weights and config by their content, so that a copied folder is the same model; clips, pixels, temperature,
    thresholds, and what of the picture is looked at. Reads the weights once: a second for half a gigabyte.
    """
    told = {
        "config": _told_config(predictor.model.config),
        "sampling": repr(predictor.sampling),
        "pixels": repr(predictor.pixels),
        "temperature": predictor.temperature,
        "thresholds": predictor.thresholds,
        "region": None if region is None else region.digest,
    }
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    network: Any = predictor.model
    if isinstance(network, OnnxNetwork):
        for path in network.files:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    else:
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:_DIGEST_LETTERS]


def public_name(name: str | Path) -> str:
    """A model's or dataset's name without the place where it lies on this machine: its folder's, or the Hub id."""
    path = Path(name)
    if not path.exists():
        return path.name if path.is_absolute() else str(name)
    path = path.resolve()
    is_part = path.name.startswith("checkpoint-")  # of a run, whose name tells more
    return f"{path.parent.name}/{path.name}" if is_part else path.name


def _told_config(config: Any) -> dict[str, Any]:
    """The config without the place that it was read from and the library that wrote it."""
    kept = config.to_dict().items()
    return {key: value for key, value in kept if not key.startswith("_") and key != "transformers_version"}


def _hub_commit(name: str) -> str | None:
    """The commit of a Hub repository in the cache, None for what is none or is not there."""
    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # a path
        return None
    return Path(found).parent.name if isinstance(found, str) else None  # snapshots/COMMIT/config.json
