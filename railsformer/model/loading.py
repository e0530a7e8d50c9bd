"""What from_pretrained is asked for and what it finds: configs and keywords, refused by name or split in two."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedConfig

from .configuration_railsformer import RailsformerConfig

__all__ = [
    "IMAGE_MODEL_TYPES",
    "TRUNK_SIZES",
    "ExportedModelError",
    "changed_config",
    "check_config",
    "check_image_keywords",
    "check_image_model_type",
    "check_not_exported",
    "check_video_model_type",
    "config_on_disk",
    "loading_errors",
    "split_config",
    "torch_dtype",
]

IMAGE_MODEL_TYPES = ("vit", "deit", "dinov2")
# Config keys that a checkpoint fixes.
TRUNK_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "patch_size",
    "num_channels",
    "qkv_bias",
    "hidden_act",
)


class ExportedModelError(ValueError):
    """PyTorch is to load what `railsformer export` wrote, which holds no weights for it."""


def check_not_exported(name: Any, subfolder: str = "") -> None:
    """Refuse an exported model, a folder or its file.

    Raises:
        ExportedModelError: If it is one.
    """
    path = Path(name, subfolder)
    is_file = path.suffix == ".onnx" and path.is_file()
    has_file = any((path / place).is_file() for place in ("model.onnx", "onnx/model.onnx"))
    if is_file or (has_file and not any(any(path.glob(f"*.{kind}*")) for kind in ("safetensors", "bin"))):
        raise ExportedModelError(
            f"{name} is an exported model without PyTorch weights; name the run it was exported from"
        )


def config_on_disk(name: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The raw config of a folder or Hub repository.

    Raises:
        ExportedModelError: If it is an exported model.
        FileNotFoundError: If there is no model.
    """
    where = {key: kwargs[key] for key in ("revision", "subfolder", "cache_dir", "token") if key in kwargs}
    check_not_exported(name, where.get("subfolder", ""))
    if Path(name).is_file():
        raise ValueError(f"{name} is a file; name the folder that holds config.json and the weights")
    if Path(name).is_dir() and not (Path(name) / where.get("subfolder", "") / "config.json").is_file():
        raise FileNotFoundError(f"{name}: no model here, config.json is missing; name a run or checkpoint folder")
    try:
        with loading_errors(name):
            return PreTrainedConfig.get_config_dict(name, **where)[0]
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(f"{name}: no model here and none on the Hub under this name ({reason})") from error


@contextmanager
def loading_errors(name: Any) -> Iterator[None]:
    """Turn what a damaged folder makes the libraries raise into one line that names the folder.

    Raises:
        ValueError: If weights or config cannot be read or do not fit each other, or a keyword is not known.
    """
    try:
        yield
    except TypeError as error:
        found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if found is None:
            raise _unreadable(name, error) from error
        raise ValueError(
            f"{found[1]!r} is no option of from_pretrained and no key of the config{_nearest(found[1])}"
        ) from error
    except (SafetensorError, RuntimeError, StrictDataclassError, AttributeError) as error:
        raise _unreadable(name, error) from error


def _unreadable(name: Any, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())[:300]
    return ValueError(
        f"{name}: config and weights cannot be read or do not fit each other ({reason}); copy the folder again"
    )


def _config_keys() -> list[str]:
    return [*RailsformerConfig.__dataclass_fields__, "num_labels", "output_attentions", "attn_implementation"]


def _nearest(key: str) -> str:
    near = difflib.get_close_matches(key, _config_keys(), n=1)
    return f"; did you mean {near[0]}?" if near else "; leave it out"


def check_image_keywords(keywords: Iterable[str]) -> None:
    """Refuse what is no key of the config, which the config itself would keep without a word.

    Raises:
        ValueError: With the key that was probably meant.
    """
    for key in keywords:
        if key not in _config_keys():
            raise ValueError(f"{key!r} is no key of the config{_nearest(key)}")


def torch_dtype(value: Any) -> torch.dtype:
    """A dtype given as itself or by name.

    Raises:
        ValueError: If it is none.
    """
    found = getattr(torch, value, None) if isinstance(value, str) else value
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype must be a floating point type such as float32 or bfloat16, got {value!r}")
    return found


def check_config(
    config_class: type[RailsformerConfig], name: Any, found: dict[str, Any], keywords: dict[str, Any]
) -> None:
    """Refuse a bad value where it stands: a keyword by its name, the folder's own by the folder.

    Args:
        config_class: Class of the config.
        name: Folder or Hub id, for the message.
        found: The raw config on disk.
        keywords: What `from_pretrained` was given; only keys of the config matter here.

    Raises:
        ValueError: If the config would not be accepted.
    """
    keys = set(_config_keys()) - {"dtype", "attn_implementation", "output_attentions"}
    asked = {key: value for key, value in keywords.items() if key in keys}
    with loading_errors(name):
        try:
            config_class.from_dict(found, **asked)
        except ValueError as error:
            if str(error).split()[0] in asked:
                raise
            raise _unreadable(name, error) from error


def split_config(
    config_class: type[RailsformerConfig], name: Any, wanted: Any, keywords: dict[str, Any], changes: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Split a `config=` in the checkpoint's own shape, to read its weights with, and what it asks to change.

    Placeholder names of labels ask for their number only.

    Args:
        config_class: Class of the config.
        name: Folder or Hub id of the checkpoint.
        wanted: The config that was given.
        keywords: The other keywords; keys of the config are taken out of them and go before `wanted`.
        changes: What keywords ask to change, which goes before `wanted` too.

    Returns:
        The config to read with, and all changes; `wanted` as it is where the folder has no config of its own.
    """
    try:
        found = config_on_disk(name, keywords)
    except FileNotFoundError:
        return wanted, changes
    check_video_model_type(name, found)
    source = config_class.from_dict(found)
    own_keys = [key for key in keywords if key in config_class.__dataclass_fields__ and key != "dtype"]
    own = {key: keywords.pop(key) for key in own_keys}
    shape = ("num_frames", "image_size", "attention_type", "position_embedding", "negative_labels", *TRUNK_SIZES)
    asked = {key: getattr(wanted, key) for key in shape if hasattr(wanted, key)}
    asked.update((key, own.pop(key)) for key in shape if key in own)
    kept = {key: getattr(source, key) for key in (*shape, "id2label", "label2id")}
    unnamed = wanted.id2label == {index: f"LABEL_{index}" for index in range(wanted.num_labels)}
    relabelled = any(key in changes for key in ("num_labels", "id2label", "label2id"))
    if relabelled or (unnamed and not asked.get("negative_labels")):
        asked.pop("negative_labels", None)
    if not relabelled:
        asked.update({"num_labels": wanted.num_labels} if unnamed else {"id2label": wanted.id2label})
    config = config_class.from_dict({**wanted.to_dict(), **kept}, **own)
    config._attn_implementation = wanted._attn_implementation
    return config, {**asked, **changes}


def check_video_model_type(name: Any, found: Mapping[str, Any]) -> None:
    """Refuse a folder whose config is of another network.

    Raises:
        ValueError: With what it is.
    """
    if found.get("model_type") not in ("timesformer", "railsformer"):
        raise ValueError(
            f"{name} is a {found.get('model_type')!r} checkpoint, not a TimeSformer; for an image transformer use "
            f"from_image_model (--image_model)"
        )


def check_image_model_type(model_type: Any) -> None:
    """Refuse an image model whose layout is not known.

    Raises:
        ValueError: With the families that are.
    """
    if model_type not in IMAGE_MODEL_TYPES:
        raise ValueError(f"image model type must be one of {', '.join(IMAGE_MODEL_TYPES)}, got {model_type!r}")


def changed_config(config: RailsformerConfig, changes: dict[str, Any]) -> RailsformerConfig:
    """The config with changes, checked; labels that are asked for in any way replace all old ones."""
    changed = type(config).from_dict(config.to_dict(), **changes)
    changed._attn_implementation = config._attn_implementation
    changed._name_or_path = config._name_or_path
    return changed
