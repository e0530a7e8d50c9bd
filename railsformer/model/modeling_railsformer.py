"""TimeSformer with five attention schemes over one attention module.

What differs from the stock class: tokens are grouped by the input's own shape, space_only averages its frames,
sparse_local_global and axial exist, attention runs through transformers' attention interface (SDPA by default), and
`output_attentions` gives every step. Parameter names are stock's.

Dimensions: B batch, T frames, C channels, H and W patches down and across, D hidden size, G groups, N tokens in a
group. The token sequence at the module's boundary is CLS first, then patch-major: (h w t), as in HF checkpoints.

Source: arXiv 2102.05095v4; facebookresearch/TimeSformer a5ef29a; transformers' timesformer.
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import psutil
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import can_return_tuple

from .configuration_railsformer import RailsformerConfig
from .token_grouping import STEPS, TokenGrouping
from .weights import (
    TRUNK_SIZES,
    WeightReport,
    adapt_state_dict,
    changed_config,
    check_image_model_type,
    config_on_disk,
    image_model_config,
    image_model_state_dict,
    loading_errors,
)

logger = logging.getLogger(__name__)

__all__ = ["RailsformerForVideoClassification", "RailsformerModel", "RailsformerPreTrainedModel"]


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention with its matrix: query, key and value (B, heads, N, d) -> (B, N, heads, d) and (B, heads, N, N)."""
    weights = query @ key.transpose(-2, -1) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = F.softmax(weights, dim=-1)
    context = F.dropout(weights, p=dropout, training=module.training) @ value
    return context.transpose(1, 2).contiguous(), weights


class RailsformerPatchEmbeddings(nn.Module):
    """Pixels to patch vectors, frame by frame."""

    def __init__(self, config: RailsformerConfig) -> None:
        super().__init__()
        self.projection = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
        )

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(b t) c y x -> (b t) (h w) d."""
        return self.projection(pixel_values).flatten(2).transpose(1, 2)


class RailsformerEmbeddings(nn.Module):
    """Patches, CLS, position table and time table.

    A table that `position_embedding` leaves out is a buffer of zeros where stock would have a parameter: it is saved,
    so that stock loads the checkpoint and gives our logits, and never trained.
    """

    position_embeddings: torch.Tensor
    time_embeddings: torch.Tensor

    def __init__(self, config: RailsformerConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embeddings = RailsformerPatchEmbeddings(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        height, width = config.grid
        space_table = torch.zeros(1, 1 + height * width, config.hidden_size)
        self._add_table("position_embeddings", space_table, learned=config.position_embedding != "none")
        self.pos_drop = nn.Dropout(config.hidden_dropout_prob)
        self.time_drop = nn.Dropout(config.hidden_dropout_prob)
        if config.attention_type != "space_only":
            time_table = torch.zeros(1, config.num_frames, config.hidden_size)
            self._add_table("time_embeddings", time_table, learned=config.position_embedding == "space_time")

    def _add_table(self, name: str, table: torch.Tensor, *, learned: bool) -> None:
        if learned:
            self.register_parameter(name, nn.Parameter(table))
        else:
            self.register_buffer(name, table)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, T, C, Y, X) pixels -> (B, 1 + H*W*T, D), or (B*T, 1 + H*W, D) for space_only."""
        config = self.config
        batch, frames = pixel_values.shape[:2]
        patches = self.patch_embeddings(pixel_values.flatten(0, 1))
        cls: torch.Tensor = self.cls_token
        if config.position_embedding != "none":
            cls = cls + self.position_embeddings[:, :1]
            patches = patches + self.position_embeddings[:, 1:]
        if config.attention_type == "space_only":
            cls = cls.expand(batch * frames, -1, -1)
            return self.pos_drop(torch.cat((cls, patches), dim=1))
        patches = self.pos_drop(patches)
        # (b t) (h w) d -> b (h w) t d
        patches = patches.view(batch, frames, *patches.shape[1:]).transpose(1, 2)
        if config.position_embedding == "space_time":
            patches = patches + self.time_embeddings.unsqueeze(1)
        patches = self.time_drop(patches).reshape(batch, -1, config.hidden_size)
        return torch.cat((self.pos_drop(cls.expand(batch, -1, -1)), patches), dim=1)


class RailsformerSelfAttention(nn.Module):
    """Multi-head attention within groups, through transformers' attention interface."""

    def __init__(self, config: RailsformerConfig) -> None:
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.qkv = nn.Linear(config.hidden_size, config.hidden_size * 3, bias=config.qkv_bias)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, *, output_attentions: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B', N, D) -> (B', N, D) and, on request, (B', heads, N, N)."""
        batch, tokens, width = hidden_states.shape
        # b n (3 heads d) -> 3 b heads n d
        qkv = self.qkv(hidden_states).view(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        implementation = "eager" if output_attentions else self.config._attn_implementation
        if attention_mask is not None and "flash" in implementation:
            implementation = "sdpa"  # flash kernels take no mask, which groups of unequal size need
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        context, weights = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, is_causal=False
        )
        return context.reshape(batch, tokens, width), weights if output_attentions else None


class RailsformerSelfOutput(nn.Module):
    """Output projection of an attention step; the residual is added in the layer."""

    def __init__(self, config: RailsformerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B', N, D) -> (B', N, D)."""
        return self.dropout(self.dense(hidden_states))


class RailsformerAttention(nn.Module):
    """Attention and output projection under stock's names."""

    def __init__(self, config: RailsformerConfig) -> None:
        super().__init__()
        self.attention = RailsformerSelfAttention(config)
        self.output = RailsformerSelfOutput(config)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, *, output_attentions: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B', N, D) -> (B', N, D) and, on request, (B', heads, N, N)."""
        context, weights = self.attention(hidden_states, attention_mask, output_attentions=output_attentions)
        return self.output(context), weights


class RailsformerIntermediate(nn.Module):
    """First half of the MLP."""

    def __init__(self, config: RailsformerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, N, D) -> (B, N, intermediate_size)."""
        return self.dropout(self.activation(self.dense(hidden_states)))


class RailsformerOutput(nn.Module):
    """Second half of the MLP; the residual is added in the layer."""

    def __init__(self, config: RailsformerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, N, intermediate_size) -> (B, N, D)."""
        return self.dropout(self.dense(hidden_states))


class RailsformerExtraDense(nn.Linear):
    """The dense layer behind every step but a block's last; zero in a fresh model.

    At zero the earlier steps are silent, so that a model started from images begins as that image model.
    """


class RailsformerDropPath(nn.Module):
    """Stochastic depth, one draw a row of the regrouped batch, as in stock (arXiv 1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the input, or in training the input with whole rows dropped and the rest scaled up."""
        if self.rate == 0.0 or not self.training:
            return hidden_states
        shape = (hidden_states.shape[0],) + (1,) * (hidden_states.ndim - 1)
        kept = torch.rand(shape, device=hidden_states.device) >= self.rate
        return hidden_states * (kept.to(hidden_states.dtype) / (1.0 - self.rate))


class FoldingReport(NamedTuple):
    """What `fold_for_inference` saved."""

    parameters_before: int
    parameters_after: int
    saved_macs: int  # multiply-accumulates of one view, patches only


class RailsformerLayer(GradientCheckpointingLayer):
    """One block: the scheme's attention steps, then the MLP, all pre-norm and residual."""

    def __init__(self, config: RailsformerConfig, layer_index: int) -> None:
        super().__init__()
        for step in STEPS[config.attention_type][:-1]:
            norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
            self.add_module(f"{step.prefix}layernorm", norm)
            self.add_module(f"{step.prefix}attention", RailsformerAttention(config))
            self.add_module(f"{step.prefix}dense", RailsformerExtraDense(config.hidden_size, config.hidden_size))
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = RailsformerAttention(config)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = RailsformerIntermediate(config)
        self.output = RailsformerOutput(config)
        self.layer_index = layer_index
        self.set_drop_path(config)

    def fold(self) -> int:
        """Merge extra dense layers into the output projections before them; return how many."""
        extra = {name: module for name, module in self.named_children() if isinstance(module, RailsformerExtraDense)}
        for name, dense in extra.items():
            projection = self.get_submodule(f"{name.removesuffix('dense')}attention.output.dense")
            weight, bias = projection.weight.double(), projection.bias.double()
            projection.bias.copy_(dense.weight.double() @ bias + dense.bias.double())
            projection.weight.copy_(dense.weight.double() @ weight)
            self.add_module(name, nn.Identity())
        return len(extra)

    def set_drop_path(self, config: RailsformerConfig) -> None:
        """Stochastic depth grows linearly from 0 in the first block to the config's rate in the last."""
        depth = self.layer_index / max(1, config.num_hidden_layers - 1)
        self.drop_path = RailsformerDropPath(config.stochastic_depth_rate * depth)

    def forward(
        self,
        hidden_states: torch.Tensor,
        groupings: Sequence[TokenGrouping],
        paddings: Sequence[torch.Tensor | None],
        *,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """(B, 1 + H*W*T, D) -> the same shape, and one attention tensor a step where asked for."""
        maps: tuple[torch.Tensor, ...] = ()
        for grouping, padding in zip(groupings, paddings, strict=True):
            residual, weights = self._attend(hidden_states, grouping, padding, output_attentions=output_attentions)
            hidden_states = hidden_states + residual
            if weights is not None:
                maps += (weights,)
        mlp = self.output(self.intermediate(self.layernorm_after(hidden_states)))
        return hidden_states + self.drop_path(mlp), maps

    def _attend(
        self,
        hidden_states: torch.Tensor,
        grouping: TokenGrouping,
        padding: torch.Tensor | None,
        *,
        output_attentions: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The residual of one step, (B, 1 + H*W*T, D), and its maps (B, G, heads, N, N) where asked for."""
        step = grouping.step
        norm = self.get_submodule(f"{step.prefix}layernorm" if step.prefix else "layernorm_before")
        attention = self.get_submodule(f"{step.prefix}attention")
        normed = norm(hidden_states)
        # b (h w t) d -> (b g) n d, with a copy of CLS in front of every group it takes part in
        groups = grouping.cut(normed[:, 1:])
        if step.with_cls:
            cls = normed[:, :1].unsqueeze(1).expand(-1, grouping.num_groups, -1, -1)
            groups = torch.cat((cls, groups), dim=2)
        mask = None if padding is None else _padding_mask(padding, groups)
        context, weights = attention(groups.flatten(0, 1), mask, output_attentions=output_attentions)
        context = self.drop_path(context).view_as(groups)
        if step.with_cls:
            cls_residual = context[:, :, 0].mean(dim=1, keepdim=True)
            residual = torch.cat((cls_residual, grouping.join(context[:, :, 1:])), dim=1)
        else:
            residual = grouping.join(context)
        if step.prefix:
            residual = self.get_submodule(f"{step.prefix}dense")(residual)
        if not step.with_cls:
            residual = F.pad(residual, (0, 0, 1, 0))  # CLS passes through unchanged
        if weights is not None:
            weights = weights.unflatten(0, groups.shape[:2])
            if padding is not None:  # the rows of padded queries; their columns are zero already
                weights = weights.masked_fill(padding[None, :, None, :, None], 0.0)
        return residual, weights


class RailsformerEncoder(nn.Module):
    """The blocks in order."""

    def __init__(self, config: RailsformerConfig) -> None:
        super().__init__()
        self.config = config
        self.steps = STEPS[config.attention_type]
        self.layer = nn.ModuleList([RailsformerLayer(config, index) for index in range(config.num_hidden_layers)])
        self.gradient_checkpointing = False

    def forward(
        self,
        hidden_states: torch.Tensor,
        grid: tuple[int, int, int],
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        """Return the last hidden states, all hidden states and all attention maps (empty unless asked for)."""
        all_hidden: list[torch.Tensor] = []
        all_maps: list[torch.Tensor] = []
        groupings = [TokenGrouping(step, grid) for step in self.steps]
        if output_attentions:
            self._check_that_maps_fit(hidden_states, groupings)
        paddings = [grouping.padding(hidden_states.device) for grouping in groupings]
        for layer in self.layer:
            if output_hidden_states:
                all_hidden.append(hidden_states)
            hidden_states, maps = layer(hidden_states, groupings, paddings, output_attentions=output_attentions)
            all_maps.extend(maps)
        if output_hidden_states:
            all_hidden.append(hidden_states)
        return hidden_states, all_hidden, all_maps

    def _check_that_maps_fit(self, hidden_states: torch.Tensor, groupings: Sequence[TokenGrouping]) -> None:
        """Refuse maps that memory cannot hold, before it overflows.

        Raises:
            ValueError: With the estimate.
        """
        heads, batch = self.config.num_attention_heads, hidden_states.shape[0]
        cells = sum(each.num_groups * (each.group_size + each.step.with_cls) ** 2 for each in groupings)
        blocks = self.config.num_hidden_layers
        needed = blocks * batch * heads * cells * hidden_states.element_size()
        if hidden_states.device.type == "cuda":
            free = torch.cuda.mem_get_info(hidden_states.device)[0]
        else:
            free = psutil.virtual_memory().available
        if needed > free:
            raise ValueError(
                f"output_attentions needs about {needed / 2**30:.1f} GiB for {blocks} blocks, {batch} x {heads} heads "
                f"and {cells:,} cells a block; {free / 2**30:.1f} GiB are free: ask for fewer clips or frames"
            )


class RailsformerPreTrainedModel(PreTrainedModel):
    """Weights, initialisation and what the Trainer needs to know."""

    config: RailsformerConfig
    config_class = RailsformerConfig
    base_model_prefix = "timesformer"
    main_input_name = "pixel_values"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["RailsformerLayer"]  # noqa: RUF012  (the name and type that transformers expects)
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # The loss below is a mean over its batch. Stock's `**kwargs` makes the Trainer believe that the model divides by
    # num_items_in_batch, which multiplies loss and gradient by processes times accumulation steps.
    accepts_loss_kwargs = False
    _folded: bool = False  # by fold_for_inference

    # What may change on loading: tables are resized, missing steps copied, a head of other labels newly drawn.
    _adaptable = (
        *("num_frames", "image_size", "attention_type", "position_embedding"),
        *("num_labels", "id2label", "label2id"),
    )

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, antialias: bool = False, **kwargs: Any
    ) -> Any:
        """Load a TimeSformer checkpoint, of stock's or ours, also at another clip size, scheme or label set.

        Args:
            pretrained_model_name_or_path: Folder or Hub id.
            *args: As in transformers.
            antialias: Whether a resized position table is low-pass filtered; off as in transformers' image models.
            **kwargs: As in transformers. `num_frames`, `image_size`, `attention_type`, `position_embedding`,
                `num_labels`, `id2label` and `label2id` may differ from the checkpoint's. `dtype` is float32 unless
                given, whatever the checkpoint was saved in: training in float16 weights fails.

        Raises:
            FileNotFoundError: If there is no such checkpoint.
            ValueError: If the checkpoint is no TimeSformer, is of another width or depth than asked for, or leaves
                part of the trunk unset.
        """
        changes = {key: kwargs.pop(key) for key in (*cls._adaptable, *TRUNK_SIZES) if key in kwargs}
        wants_info = kwargs.pop("output_loading_info", False)
        if "torch_dtype" not in kwargs:
            kwargs.setdefault("dtype", torch.float32)
        if "config" not in kwargs:
            found = config_on_disk(pretrained_model_name_or_path, kwargs)
            if found.get("model_type") not in ("timesformer", "railsformer"):
                raise ValueError(
                    f"{pretrained_model_name_or_path} is a {found.get('model_type')!r} checkpoint, not a TimeSformer; "
                    f"for an image transformer use from_image_model (--image_model)"
                )
        with loading_errors(pretrained_model_name_or_path):
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
        unset = sorted(name for name in info["missing_keys"] if not name.startswith("classifier."))
        if unset:
            raise ValueError(
                f"{pretrained_model_name_or_path} lacks {len(unset)} tensors of the trunk, {unset[0]} first; "
                f"it is not a checkpoint of attention_type {model.config.attention_type}"
            )
        if any(getattr(model.config, key) != value for key, value in changes.items()):
            config = changed_config(model.config, changes)
            target = cls(config).to(device=model.device, dtype=model.dtype)
            report = adapt_state_dict(model.state_dict(), target, model.config, antialias=antialias)
            _log_report(pretrained_model_name_or_path, report)
            model = target.train(model.training)
        return (model, info) if wants_info else model

    @torch.no_grad()
    def fold_for_inference(self) -> FoldingReport:
        """Merge each step's output projection with its extra dense layer, in place, for evaluation only.

        Both are linear with nothing between them outside training, so the logits stay the same (to 1e-5 in float32).
        A folded model cannot be trained or saved: stock transformers would miss the layers.

        Returns:
            Parameters and multiply-accumulates a view, before and after.
        """
        before = sum(parameter.numel() for parameter in self.parameters())
        tokens, merged_layers = self.config.num_frames * self.config.grid[0] * self.config.grid[1], 0
        for layer in (module for module in self.modules() if isinstance(module, RailsformerLayer)):
            merged_layers += layer.fold()
        if merged_layers:
            self._folded = True
        self.eval().requires_grad_(False)
        after = sum(parameter.numel() for parameter in self.parameters())
        return FoldingReport(before, after, saved_macs=merged_layers * tokens * self.config.hidden_size**2)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As stock; a folded model is refused.

        Raises:
            ValueError: If `fold_for_inference` was called.
        """
        if self._folded:
            raise ValueError("a folded model cannot be saved: load the checkpoint again and fold it where it runs")
        super().save_pretrained(*args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, RailsformerExtraDense):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, RailsformerEmbeddings):
            init.trunc_normal_(module.cls_token, std=std)
            if self.config.position_embedding != "none":
                init.trunc_normal_(module.position_embeddings, std=std)
            if self.config.attention_type != "space_only":
                init.zeros_(module.time_embeddings)


class RailsformerModel(RailsformerPreTrainedModel):
    """The trunk: clips in, token features out."""

    def __init__(self, config: RailsformerConfig) -> None:
        super().__init__(config)
        self.embeddings = RailsformerEmbeddings(config)
        self.encoder = RailsformerEncoder(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The patch projection."""
        return self.embeddings.patch_embeddings

    def _check_input(self, pixel_values: torch.Tensor) -> None:
        config = self.config
        height, width = config.image_height_width
        expected = (config.num_frames, config.num_channels, height, width)
        if pixel_values.ndim != 5:
            raise ValueError(
                f"pixel_values must have 5 dimensions (batch, frames, channels, height, width), "
                f"got shape {tuple(pixel_values.shape)}"
            )
        if tuple(pixel_values.shape[1:]) != expected:
            names = ("num_frames", "num_channels", "height", "width")
            wrong = [
                f"{name} must be {want} for this checkpoint, got {got}"
                for name, want, got in zip(names, expected, pixel_values.shape[1:], strict=True)
                if want != got
            ]
            raise ValueError(
                f"pixel_values: {'; '.join(wrong)}; load with from_pretrained(..., num_frames=, image_size=) to "
                f"resize the tables"
            )

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> BaseModelOutput:
        """Run the trunk.

        Args:
            pixel_values: Normalised frames, shape (B, T, C, height, width).
            output_attentions: Also return attention maps, a flat tuple block by block and step by step, each
                (B, groups, heads, N, N); computed eagerly for this call.
            output_hidden_states: Also return the tokens before every block and after the last.

        Returns:
            `last_hidden_state` of shape (B, 1 + H*W*T, D), CLS first and patch-major; for space_only, whose tokens
            are averaged over the frames before the final norm, (B, 1 + H*W, D).

        Raises:
            ValueError: If rank, frame count, channels or size are not the checkpoint's.
        """
        self._check_input(pixel_values)
        config = self.config
        batch, frames = pixel_values.shape[:2]
        space_only = config.attention_type == "space_only"
        grid = (*config.grid, 1 if space_only else frames)
        hidden_states, all_hidden, maps = self.encoder(
            self.embeddings(pixel_values),
            grid,
            output_attentions=config.output_attentions if output_attentions is None else output_attentions,
            output_hidden_states=config.output_hidden_states if output_hidden_states is None else output_hidden_states,
        )
        if space_only:
            hidden_states = hidden_states.unflatten(0, (batch, frames)).mean(dim=1)
            # (b t) 1 heads n n -> b t heads n n: a frame is a group
            maps = [weights.squeeze(1).unflatten(0, (batch, frames)) for weights in maps]
        return BaseModelOutput(
            last_hidden_state=self.layernorm(hidden_states),
            hidden_states=tuple(all_hidden) or None,
            attentions=tuple(maps) or None,
        )


class RailsformerForVideoClassification(RailsformerPreTrainedModel):
    """The trunk with a linear head on CLS."""

    def __init__(self, config: RailsformerConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.timesformer = RailsformerModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @classmethod
    def from_image_model(cls, name_or_path: Any, *, antialias: bool = False, **config: Any) -> Self:
        """Start from an image transformer: a ViT, DeiT or DINOv2 model in transformers' layout.

        Every step of a block copies the image model's attention and the extra dense layers are zero, so that a fresh
        divided or space_only model shown identical frames gives the image model's own CLS output.

        Args:
            name_or_path: Folder or Hub id of the image model.
            antialias: Whether a resized position table is low-pass filtered; off as the image models do it.
            **config: Keys of `RailsformerConfig`, such as num_frames, image_size, attention_type, num_labels.

        Raises:
            ValueError: If the image model is of a family whose layout is not known.
        """
        image_config = config_on_disk(name_or_path, {})
        check_image_model_type(image_config.get("model_type"))
        with loading_errors(name_or_path):
            image_model = AutoModel.from_pretrained(name_or_path, dtype=torch.float32)
        target = cls(image_model_config(image_model.config, **config))
        source_config = image_model_config(image_model.config, attention_type="space_only")
        report = adapt_state_dict(image_model_state_dict(image_model), target, source_config, antialias=antialias)
        _log_report(name_or_path, report)
        return target.eval()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> ImageClassifierOutput:
        """Classify clips.

        Args:
            pixel_values: Normalised frames, shape (B, T, C, height, width).
            labels: Class indices, shape (B,); with them `loss` is the mean cross-entropy over the batch.
            output_attentions: As in `RailsformerModel.forward`.
            output_hidden_states: As in `RailsformerModel.forward`.

        Returns:
            `logits` of shape (B, num_labels), and `loss` where labels are given.

        Raises:
            ValueError: If the clips do not fit the checkpoint, a label is no class, or clips that come with labels
                hold values that are not finite.
        """
        if labels is not None and not torch.compiler.is_compiling():
            self._check_batch(pixel_values, labels)
        trunk = self.timesformer(
            pixel_values,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(trunk.last_hidden_state[:, 0])
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=trunk.hidden_states, attentions=trunk.attentions
        )

    def _check_batch(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> None:
        if labels.shape != pixel_values.shape[:1]:
            raise ValueError(
                f"labels must have one class index a clip, shape ({len(pixel_values)},), got {tuple(labels.shape)}"
            )
        wrong = (labels < 0) | (labels >= self.num_labels)
        if wrong.any():
            raise ValueError(f"labels must be in 0..{self.num_labels - 1}, got {labels[wrong][0].item()}")
        if not pixel_values.isfinite().all():
            bad = (~pixel_values.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()
            raise ValueError(f"pixel_values of clips {bad} of this batch hold NaN or infinite values")


def _padding_mask(padding: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Additive mask (B*G, 1, N, N) that hides the padded keys of groups (B, G, N, D); rows are a view of one."""
    batch, _, tokens, _ = groups.shape
    row = torch.zeros_like(padding, dtype=groups.dtype).masked_fill(padding, torch.finfo(groups.dtype).min)
    return row.expand(batch, -1, -1).flatten(0, 1)[:, None, None, :].expand(-1, -1, tokens, -1)


def _log_report(name: Any, report: WeightReport) -> None:
    """Say once what was not simply taken over."""
    if rows := report.table():
        logger.info("Weights of %s:\n%s", name, rows)
