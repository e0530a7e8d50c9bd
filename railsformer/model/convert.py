"""Checkpoints of facebookresearch/TimeSformer (`.pyth`) and mmaction2 (`.pth`) in our layout, which is stock's.

Read with weights_only=True: nothing is unpickled but tensors and plain values. A key that is not known is refused by
name, so that no weight is dropped in silence.
"""

import logging
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .configuration_railsformer import RailsformerConfig
from .modeling_railsformer import RailsformerForVideoClassification

logger = logging.getLogger(__name__)

__all__ = ["ConvertedCheckpoint", "convert_checkpoint"]

HEAD_DIM = 64  # of every public TimeSformer; the number of heads cannot be read off the weights
EMBEDDINGS = "timesformer.embeddings"

# Foreign name -> ours; N stands for the number of a block.
OFFICIAL = {
    "cls_token": f"{EMBEDDINGS}.cls_token",
    "pos_embed": f"{EMBEDDINGS}.position_embeddings",
    "time_embed": f"{EMBEDDINGS}.time_embeddings",
    "patch_embed.proj": f"{EMBEDDINGS}.patch_embeddings.projection",
    "norm": "timesformer.layernorm",
    "head": "classifier",
    "blocks.N.norm1": "layernorm_before",
    "blocks.N.attn.qkv": "attention.attention.qkv",
    "blocks.N.attn.proj": "attention.output.dense",
    "blocks.N.temporal_norm1": "temporal_layernorm",
    "blocks.N.temporal_attn.qkv": "temporal_attention.attention.qkv",
    "blocks.N.temporal_attn.proj": "temporal_attention.output.dense",
    "blocks.N.temporal_fc": "temporal_dense",
    "blocks.N.norm2": "layernorm_after",
    "blocks.N.mlp.fc1": "intermediate.dense",
    "blocks.N.mlp.fc2": "output.dense",
}
_MM_COMMON = {
    "backbone.cls_token": f"{EMBEDDINGS}.cls_token",
    "backbone.pos_embed": f"{EMBEDDINGS}.position_embeddings",
    "backbone.time_embed": f"{EMBEDDINGS}.time_embeddings",
    "backbone.patch_embed.projection": f"{EMBEDDINGS}.patch_embeddings.projection",
    "backbone.norm": "timesformer.layernorm",
    "cls_head.fc_cls": "classifier",
    "backbone.transformer_layers.layers.N.ffns.0.layers.0.0": "intermediate.dense",
    "backbone.transformer_layers.layers.N.ffns.0.layers.1": "output.dense",
}
_MM_LAYER = "backbone.transformer_layers.layers.N"
MMACTION2_DIVIDED = {
    **_MM_COMMON,
    f"{_MM_LAYER}.attentions.0.norm": "temporal_layernorm",
    f"{_MM_LAYER}.attentions.0.attn.in_proj": "temporal_attention.attention.qkv",
    f"{_MM_LAYER}.attentions.0.attn.out_proj": "temporal_attention.output.dense",
    f"{_MM_LAYER}.attentions.0.temporal_fc": "temporal_dense",
    f"{_MM_LAYER}.attentions.1.norm": "layernorm_before",
    f"{_MM_LAYER}.attentions.1.attn.in_proj": "attention.attention.qkv",
    f"{_MM_LAYER}.attentions.1.attn.out_proj": "attention.output.dense",
    f"{_MM_LAYER}.ffns.0.norm": "layernorm_after",
}
MMACTION2_ONE_STEP = {
    **_MM_COMMON,
    f"{_MM_LAYER}.norms.0": "layernorm_before",
    f"{_MM_LAYER}.attentions.0.attn.in_proj": "attention.attention.qkv",
    f"{_MM_LAYER}.attentions.0.attn.out_proj": "attention.output.dense",
    f"{_MM_LAYER}.norms.1": "layernorm_after",
}


class ConvertedCheckpoint(NamedTuple):
    """A model in our layout, and how its makers normalised pixels: mean and standard deviation of every channel."""

    model: RailsformerForVideoClassification
    origin: str
    mean: float
    std: float

    def card(self, file_name: str) -> str:
        """README.md: where the weights come from, and the licence of the published ones."""
        license_id = "cc-by-nc-4.0" if self.origin == "facebookresearch/TimeSformer" else "apache-2.0"
        return (
            f"---\nlicense: {license_id}\nlibrary_name: transformers\npipeline_tag: video-classification\n---\n\n"
            f"Converted from `{file_name}`, a checkpoint in the layout of {self.origin}. The licence above is that of "
            f"the checkpoints published there; for weights of your own, state yours.\n"
        )


def convert_checkpoint(path: str | Path) -> ConvertedCheckpoint:
    """Read a foreign checkpoint of divided, joint or space-only attention.

    Args:
        path: A `.pyth` of facebookresearch/TimeSformer or a `.pth` of mmaction2.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it is neither, holds a key that is not known, or lacks a tensor or has it in another shape. A
            head alone may be missing: it is newly drawn, and the log says so.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise ValueError(
            f"{path}: cannot be read as tensors and plain values alone ({str(error).splitlines()[0]}); "
            f"expected a TimeSformer .pyth or an mmaction2 .pth"
        ) from error
    if isinstance(content, Mapping) and "model_state" in content:
        return _convert_official(_tensors(content, "model_state", path), path)
    if isinstance(content, Mapping) and "state_dict" in content:
        return _convert_mmaction2(_tensors(content, "state_dict", path), path)
    keys = ", ".join(map(str, list(content)[:3])) if isinstance(content, Mapping) else type(content).__name__
    raise ValueError(f"{path}: expected the key model_state (TimeSformer) or state_dict (mmaction2), got {keys}")


def _tensors(content: Mapping[str, Any], key: str, path: str | Path) -> Mapping[str, torch.Tensor]:
    """The weights under a key.

    Raises:
        ValueError: If there is something else, or something else among them.
    """
    weights = content[key]
    if not isinstance(weights, Mapping):
        raise ValueError(f"{path}: {key} must hold tensors by name, got {type(weights).__name__}")
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(f"{path}: key {name!r} of {key} must hold a tensor, got {type(value).__name__}")
    return weights


def _convert_official(weights: Mapping[str, torch.Tensor], path: str | Path) -> ConvertedCheckpoint:
    state = _rename({name.removeprefix("model."): value for name, value in weights.items()}, OFFICIAL, path)
    return ConvertedCheckpoint(_build(state, path), "facebookresearch/TimeSformer", 0.45, 0.225)


def _convert_mmaction2(weights: Mapping[str, torch.Tensor], path: str | Path) -> ConvertedCheckpoint:
    divided = any(".temporal_fc." in name for name in weights)
    # PyTorch's attention has in_proj_weight where a linear layer has weight.
    plain = {name.replace("in_proj_", "in_proj."): value for name, value in weights.items()}
    state = _rename(plain, MMACTION2_DIVIDED if divided else MMACTION2_ONE_STEP, path)
    return ConvertedCheckpoint(_build(state, path), "open-mmlab/mmaction2", 0.5, 0.5)


def _rename(
    weights: Mapping[str, torch.Tensor], names: Mapping[str, str], path: str | Path
) -> dict[str, torch.Tensor]:
    """Our names for foreign ones.

    Raises:
        ValueError: If a name is not in the table.
    """
    state = {}
    for name, value in weights.items():
        stem, _, kind = name.rpartition(".")
        if kind not in ("weight", "bias"):
            stem, kind = name, ""
        block = re.search(r"(?:blocks|layers)\.(\d+)\.", stem)
        pattern = stem if block is None else f"{stem[: block.start(1)]}N{stem[block.end(1) :]}"
        if pattern not in names:
            raise ValueError(f"{path}: key {name!r} is not known; expected a divided, joint or space_only TimeSformer")
        ours = names[pattern] if block is None else f"timesformer.encoder.layer.{block[1]}.{names[pattern]}"
        state[f"{ours}.{kind}" if kind else ours] = value.float()
    return state


def _build(state: dict[str, torch.Tensor], path: str | Path) -> RailsformerForVideoClassification:
    """A model whose config is read off the weights' shapes.

    Raises:
        ValueError: If a tensor is missing or does not fit the others.
    """
    blocks = {int(name.split(".")[3]) for name in state if name.startswith("timesformer.encoder.layer.")}
    if not blocks or f"{EMBEDDINGS}.patch_embeddings.projection.weight" not in state:
        raise ValueError(f"{path}: holds no transformer blocks or no patch embedding; expected a whole TimeSformer")
    try:
        model = RailsformerForVideoClassification(RailsformerConfig(**_read_shape(state, len(blocks))))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    expected = model.state_dict()
    for name, value in state.items():
        if name in expected and value.shape != expected[name].shape:
            raise ValueError(
                f"{path}: {name!r} must have shape {tuple(expected[name].shape)} beside the other tensors, "
                f"got {tuple(value.shape)}"
            )
    headless = not any(name.startswith("classifier.") for name in state)
    missing, unexpected = model.load_state_dict(state, strict=False)
    lacking = [name for name in missing if not (headless and name.startswith("classifier."))]
    if lacking or unexpected:
        raise ValueError(f"{path}: lacks {lacking[0]!r}" if lacking else f"{path}: {unexpected[0]!r} has no place")
    if headless:
        logger.warning("%s holds no head: that of the converted model is newly drawn, for 2 labels", path)
    return model.eval()


def _read_shape(state: Mapping[str, torch.Tensor], num_blocks: int) -> dict[str, Any]:
    """Keys of the config that the shapes of the tensors tell."""
    hidden_size, channels, patch_size, _ = _dimensions(state, f"{EMBEDDINGS}.patch_embeddings.projection.weight", 4)
    num_patches = _dimensions(state, f"{EMBEDDINGS}.position_embeddings", 3)[1] - 1
    side = round(max(0, num_patches) ** 0.5)
    if side * side != num_patches:
        raise ValueError(f"'{EMBEDDINGS}.position_embeddings' must be of a square of patches, got {num_patches}")
    divided = any(".temporal_attention." in name for name in state)
    has_times, has_head = f"{EMBEDDINGS}.time_embeddings" in state, "classifier.weight" in state
    return {
        "attention_type": "divided_space_time" if divided else "joint_space_time" if has_times else "space_only",
        "num_frames": _dimensions(state, f"{EMBEDDINGS}.time_embeddings", 3)[1] if has_times else 8,
        "image_size": side * patch_size,
        "patch_size": patch_size,
        "num_channels": channels,
        "hidden_size": hidden_size,
        "num_hidden_layers": num_blocks,
        "num_attention_heads": max(1, hidden_size // HEAD_DIM),
        "intermediate_size": _dimensions(state, "timesformer.encoder.layer.0.intermediate.dense.weight", 2)[0],
        "num_labels": _dimensions(state, "classifier.weight", 2)[0] if has_head else 2,
    }


def _dimensions(state: Mapping[str, torch.Tensor], name: str, count: int) -> tuple[int, ...]:
    """The shape of a tensor that must be there with so many dimensions."""
    if name not in state:
        raise ValueError(f"lacks {name!r}")
    if state[name].ndim != count:
        raise ValueError(f"{name!r} must have {count} dimensions, got shape {tuple(state[name].shape)}")
    return tuple(state[name].shape)
