"""The parts of the network: embeddings, attention within groups, blocks, and the encoder that runs them.

Parameter names are stock's, so checkpoints are too. Dimensions: B batch, T frames, H and W patches down and across, D
hidden size, G groups, N tokens in a group.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_railsformer import RailsformerConfig
from .token_grouping import STEPS, TokenGrouping

__all__ = ["RailsformerEmbeddings", "RailsformerEncoder", "RailsformerExtraDense", "RailsformerLayer"]


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

    @torch.no_grad()
    def clear_left_out_tables(self) -> list[str]:
        """Set the tables that are left out to zero, whatever was loaded into them; return which held something."""
        filled = [name for name, table in self.named_buffers(recurse=False) if table.any()]
        for table in self.buffers(recurse=False):
            table.zero_()
        return filled

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
        if attention_mask is not None and implementation not in ("eager", "sdpa"):
            # Groups of unequal size need a mask: flash kernels take none, flex reads past the end of this one.
            implementation = "sdpa"
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
        self.folded = False
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
            self.folded = True
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
        free = _free_bytes(hidden_states.device)
        if free is not None and needed > free:
            raise ValueError(
                f"output_attentions needs about {needed / 2**30:.1f} GiB for {blocks} blocks, {batch} x {heads} heads "
                f"and {cells:,} cells a block; {free / 2**30:.1f} GiB are free: ask for fewer clips or frames"
            )


def _free_bytes(device: torch.device) -> int | None:
    """Memory that is free on a device; None where that cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        import psutil
    except ImportError:  # a checkpoint's code runs where this package is not installed
        return None
    return psutil.virtual_memory().available


def _padding_mask(padding: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Additive mask (B*G, 1, N, N) that hides the padded keys of groups (B, G, N, D); rows are a view of one."""
    batch, _, tokens, _ = groups.shape
    row = torch.zeros_like(padding, dtype=groups.dtype).masked_fill(padding, torch.finfo(groups.dtype).min)
    return row.expand(batch, -1, -1).flatten(0, 1)[:, None, None, :].expand(-1, -1, tokens, -1)
