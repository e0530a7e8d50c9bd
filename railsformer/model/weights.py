"""Weights from elsewhere: another clip size or scheme of the same trunk, or an image transformer.

Nothing is resized, copied, newly drawn or left out in silence: every such tensor stands in a `WeightReport`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_railsformer import RailsformerConfig
from .loading import TRUNK_SIZES, check_image_model_type

__all__ = [
    "WeightReport",
    "adapt_state_dict",
    "check_image_weights",
    "check_trunk_use",
    "image_model_config",
    "image_model_state_dict",
    "resize_position_embeddings",
    "resize_time_embeddings",
]

LEAST_USED_SHARE = 0.9  # of a source's trunk tensors
# Tensors of an image model that a trunk does without, and heads of its kin.
_OPTIONAL = ("pooler.", "embeddings.mask_token", "embeddings.distillation_token")
_IMAGE_HEADS = ("classifier", "cls_classifier", "distillation_classifier", "decoder")
EARLIER_STEPS = ("temporal_", "local_", "width_")


@dataclass
class WeightReport:
    """What became of each tensor that was not simply taken over."""

    resized: dict[str, str] = field(default_factory=dict)
    copied: dict[str, str] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def table(self) -> str:
        """One line a tensor, blocks folded together; empty where everything was taken over as it was."""
        rows = [f"  resized  {name}: {what}" for name, what in self.resized.items()]
        rows += [f"  copied   {name} from {source}" for name, source in _fold(self.copied).items()]
        rows += [f"  new      {name}" for name in _fold(dict.fromkeys(self.new, ""))]
        rows += [f"  unused   {name}" for name in _fold(dict.fromkeys(self.unused, ""))]
        return "\n".join(rows)


def _fold(names: Mapping[str, str]) -> dict[str, str]:
    """Block numbers become `*`, so that twelve blocks are one line."""

    def fold(name: str) -> str:
        return ".".join("*" if part.isdigit() else part for part in name.split("."))

    return {fold(name): fold(source) for name, source in names.items()}


def resize_time_embeddings(table: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Resize along time by linear interpolation: (1, T, D) -> (1, num_frames, D)."""
    resized = F.interpolate(table.transpose(1, 2).float(), size=num_frames, mode="linear", align_corners=False)
    return resized.transpose(1, 2).to(table.dtype)


def resize_position_embeddings(
    table: torch.Tensor, grid: tuple[int, int], *, source_grid: tuple[int, int] | None = None, antialias: bool = False
) -> torch.Tensor:
    """Resize the patch rows in two dimensions, bicubic; the CLS row stays.

    Args:
        table: Position embeddings, shape (1, 1 + h*w, D).
        grid: Patches down and across that are wanted.
        source_grid: Patches down and across of `table`; square if not given.
        antialias: Off by default, as image models in transformers resize their own tables.

    Returns:
        Shape (1, 1 + grid[0] * grid[1], D).

    Raises:
        ValueError: If the table is not square and `source_grid` is not given.
    """
    rows = table.shape[1] - 1
    if source_grid is None:
        side = round(rows**0.5)
        if side * side != rows:
            raise ValueError(f"a position table of {rows} patches is not square; give source_grid")
        source_grid = (side, side)
    if source_grid == grid:
        return table
    patches = table[:, 1:].float().unflatten(1, source_grid).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=grid, mode="bicubic", align_corners=False, antialias=antialias)
    return torch.cat((table[:, :1], patches.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)), dim=1)


def adapt_state_dict(
    source: Mapping[str, torch.Tensor],
    target: nn.Module,
    source_config: RailsformerConfig,
    *,
    antialias: bool = False,
) -> WeightReport:
    """Load `source`, a checkpoint of another clip size, scheme or label set, into `target`.

    Position tables are resized, an attention step that the source lacks starts as a copy of its spatial one, extra
    dense layers stay at zero, a head of other labels (by name and order) stays newly drawn.

    Args:
        source: State dict of a `RailsformerForVideoClassification` or of its trunk under the same names.
        target: The model to fill; its config says what is wanted.
        source_config: Config of the source, for the shape of its position table.
        antialias: Passed to `resize_position_embeddings`.

    Returns:
        What was resized, copied, newly drawn or left unused.

    Raises:
        ValueError: If the trunks differ in width, depth, heads or patch size, or the source has holes.
    """
    config: Any = target.config
    for name in TRUNK_SIZES:
        if getattr(config, name) != getattr(source_config, name):
            raise ValueError(
                f"{name} cannot change on loading: the checkpoint has {getattr(source_config, name)}, "
                f"got {getattr(config, name)}; leave it out or train from scratch"
            )
    report = WeightReport()
    learned = dict(target.named_parameters())
    state = dict(target.state_dict())
    new_head = source_config.id2label != config.id2label
    used = set()
    for name, value in state.items():
        if name not in learned:  # a table that position_embedding leaves out stays at zero
            continue
        origin = name if name in source else _spatial_name(name)
        found = source.get(origin)
        if found is None or (new_head and name.startswith("classifier.")):
            report.new.append(name)
            continue
        used.add(origin)
        if name.endswith("time_embeddings") and found.shape != value.shape:
            report.resized[name] = f"{found.shape[1]} to {value.shape[1]} frames"
            found = resize_time_embeddings(found, config.num_frames)
        elif name.endswith("position_embeddings") and source_config.grid != config.grid:
            report.resized[name] = f"{source_config.grid} to {config.grid} patches"
            found = resize_position_embeddings(found, config.grid, source_grid=source_config.grid, antialias=antialias)
        if origin != name:
            report.copied[name] = origin
        state[name] = found.to(value.dtype)
    report.unused = [name for name in source if name not in used]
    if holes := [name for name in report.new if not _may_be_new(name)]:
        raise ValueError(f"the source lacks {len(holes)} tensors of the trunk, {holes[0]} first; it is no such model")
    target.load_state_dict(state)
    return report


def _may_be_new(name: str) -> bool:
    """The head, the time table, and the extra dense layers, which start at zero."""
    extra_dense = any(f".{step}dense." in name for step in EARLIER_STEPS)
    return extra_dense or name.endswith("time_embeddings") or name.startswith("classifier.")


def check_trunk_use(name: Any, *, used: int, unused: Sequence[str]) -> None:
    """Refuse a source most of which the model has no place for: it is another network under a familiar name.

    Tensors of attention steps that the scheme asked for lacks are not counted here: leaving them out was asked for.

    Args:
        name: Folder or Hub id, for the message.
        used: How many tensors of the source's trunk have a place in the model.
        unused: Names of those that have none; heads do not count.

    Raises:
        ValueError: If fewer than nine in ten are used.
    """
    unused = [each for each in unused if not each.startswith("classifier.")]
    share = used / max(1, used + len(unused))
    if share < LEAST_USED_SHARE:
        raise ValueError(
            f"{name}: only {used} of the {used + len(unused)} tensors of its trunk fit the model ({share:.0%}, wanted "
            f"{LEAST_USED_SHARE:.0%}), {unused[0]} does not; config and weights are of different networks"
        )


def check_image_weights(name: Any, model: Any, info: Mapping[str, Any], left_over: Sequence[str]) -> None:
    """Refuse an image checkpoint that does not fill its own model, or most of which has no place in ours.

    Args:
        name: Folder or Hub id, for the message.
        model: The image model.
        info: What transformers says of its loading.
        left_over: Names of its tensors that our trunk has no place for.

    Raises:
        ValueError: If a tensor of the trunk is missing or of another shape, or fewer than nine in ten are used.
    """
    missing = {*info["missing_keys"], *(each[0] for each in info["mismatched_keys"])}
    if holes := sorted(each for each in missing if not each.startswith(_OPTIONAL)):
        raise ValueError(
            f"{name} lacks {len(holes)} tensors of the image model, {holes[0]} first, or has them in another "
            f"shape; copy the folder again"
        )
    tensors = [each for each in model.state_dict() if not each.startswith(_OPTIONAL)]
    left_over = [each for each in left_over if not each.startswith(_OPTIONAL)]
    plain = (each.removeprefix(f"{model.base_model_prefix}.") for each in sorted(info["unexpected_keys"]))
    foreign = [each for each in plain if not each.startswith((*_OPTIONAL, *_IMAGE_HEADS))]
    check_trunk_use(name, used=len(tensors) - len(left_over), unused=[*left_over, *foreign])


def _spatial_name(name: str) -> str:
    """The name of the spatial tensor that an earlier step's tensor starts from."""
    for prefix in EARLIER_STEPS:
        name = name.replace(f".{prefix}layernorm.", ".layernorm_before.").replace(
            f".{prefix}attention.", ".attention."
        )
    return name


def image_model_config(image_config: Any, **changes: Any) -> RailsformerConfig:
    """The config of a video model that starts from an image model of `image_config`.

    Args:
        image_config: Config of a ViT, DeiT or DINOv2 model.
        **changes: Keys of `RailsformerConfig` (num_frames, image_size, attention_type, ...).

    Raises:
        ValueError: If the image model is of another family or uses a gated MLP.
    """
    check_image_model_type(image_config.model_type)
    if getattr(image_config, "use_swiglu_ffn", False):
        raise ValueError(
            "image models with a gated MLP (use_swiglu_ffn) have no TimeSformer layout; take a smaller one"
        )
    hidden_size = image_config.hidden_size
    if hasattr(image_config, "mlp_ratio"):
        intermediate_size = int(hidden_size * image_config.mlp_ratio)
    else:
        intermediate_size = image_config.intermediate_size
    settings = {
        "image_size": image_config.image_size,
        "patch_size": image_config.patch_size,
        "num_channels": image_config.num_channels,
        "hidden_size": hidden_size,
        "num_hidden_layers": image_config.num_hidden_layers,
        "num_attention_heads": image_config.num_attention_heads,
        "intermediate_size": intermediate_size,
        "hidden_act": image_config.hidden_act,
        "layer_norm_eps": image_config.layer_norm_eps,
        "qkv_bias": image_config.qkv_bias,
    }
    return RailsformerConfig.from_dict(settings, **changes)


def image_model_state_dict(image_model: nn.Module) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The weights of an image transformer under the trunk's names, LayerScale folded into the projections.

    Args:
        image_model: A `ViTModel`, `DeiTModel` or `Dinov2Model`. TimeSformer has no place for DeiT's distillation
            token: it and its row of the position table are left out, and CLS, which attended to it, comes out a
            little different. (The plain DeiT checkpoints on the Hub are of type `vit` and have no such token.)

    Returns:
        State dict of a space_only trunk at the image model's own size, names beginning `timesformer.`, and the names
        of the image model's tensors that have no place in it.
    """
    weights = {name: value.detach().float() for name, value in image_model.state_dict().items()}
    special = 2 if "embeddings.distillation_token" in weights else 1
    table = weights.pop("embeddings.position_embeddings")
    state = {
        "embeddings.cls_token": weights.pop("embeddings.cls_token"),
        "embeddings.position_embeddings": torch.cat((table[:, :1], table[:, special:]), dim=1),
    }
    for part in ("embeddings.patch_embeddings.projection", "layernorm"):
        for kind in ("weight", "bias"):
            state[f"{part}.{kind}"] = weights.pop(f"{part}.{kind}")
    stem = "encoder.layer" if "encoder.layer.0.norm1.weight" in weights else "layers"
    for index in range(image_model.config.num_hidden_layers):  # type: ignore[union-attr, arg-type]
        state.update(_take_image_block(weights, f"{stem}.{index}", f"encoder.layer.{index}"))
    return {f"timesformer.{name}": value for name, value in state.items()}, list(weights)


def _take_image_block(weights: dict[str, torch.Tensor], source: str, target: str) -> dict[str, torch.Tensor]:
    """Take one block out of `weights`: three projections become one, LayerScale multiplies the rows it scaled."""
    norms = ("norm1", "norm2") if f"{source}.norm1.weight" in weights else ("layernorm_before", "layernorm_after")
    names = {
        norms[0]: "layernorm_before",
        norms[1]: "layernorm_after",
        "attention.o_proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    scaled_by = {"attention.o_proj": "layer_scale1.lambda1", "mlp.fc2": "layer_scale2.lambda1"}
    scales = {old: weights.pop(f"{source}.{name}", None) for old, name in scaled_by.items()}
    state = {}
    for kind in ("weight", "bias"):
        for old, new in names.items():
            value, scale = weights.pop(f"{source}.{old}.{kind}"), scales.get(old)
            if scale is not None:
                value = scale[:, None] * value if kind == "weight" else scale * value
            state[f"{target}.{new}.{kind}"] = value
        projections = [f"{source}.attention.{part}_proj.{kind}" for part in "qkv"]
        if projections[0] in weights:
            state[f"{target}.attention.attention.qkv.{kind}"] = torch.cat([weights.pop(name) for name in projections])
    return state
