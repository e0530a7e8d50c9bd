"""Attention rollout and its gradient-weighted form: one row per clip, carried backwards through every step.

Each step is a matrix over the whole token sequence: what a group's tokens draw from each other, heads averaged, with
the residual connection as an identity. Multiplied through all steps of all blocks, the row of the last CLS says what
it draws from every patch of every frame. That row is all that is needed, so it is carried from the last step to the
first, group by group: no matrix over the whole sequence is ever made, unless a group is the whole sequence, and then
only for some heads and queries at a time. Attention is computed anew from the inputs that each step had.

As in the papers, everything but attention is left out: the MLP, the norms, output projections and extra dense layers.

Dimensions: B batch, T frames, h and w patches down and across, D hidden size, G groups, N tokens in a group, d size of
a head.

Source: arXiv 2005.00928 (Abnar and Zuidema 2020) for rollout; arXiv 2103.15679 (Chefer, Gur and Wolf 2021), equations
5 and 6, for the gradients.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from railsformer.model.modeling_railsformer import RailsformerForVideoClassification
from railsformer.model.token_grouping import STEPS, TokenGrouping

__all__ = ["attention_rollout", "gradient_rollout"]

# Attention weights that stand in memory at once, all heads together: 64 MiB of float32.
_MOST_WEIGHTS = 2**24


def attention_rollout(model: RailsformerForVideoClassification, pixel_values: torch.Tensor) -> torch.Tensor:
    """What the last CLS draws from each patch through attention, whatever the class (Abnar and Zuidema 2020).

    Heads are averaged, the identity is added and rows are divided by their sum, so that every step keeps the row's sum
    of 1. A CLS that every group has a copy of draws the mean of what its copies draw, as its residual does; tokens
    outside a step pass through it unchanged. space_only: each frame is a chain of its own and CLS is averaged over
    them, so that each frame counts alike before its CLS is left out.

    Args:
        model: The classifier.
        pixel_values: Normalised frames, shape (B, T, C, height, width).

    Returns:
        The row of CLS, shape (B, T, h, w), float32; with what CLS keeps for itself it would add up to 1 over a clip.
    """
    with _as_in_evaluation(model), torch.no_grad():
        calls: list[_Call] = []
        with _recording(model, calls):
            model.timesformer(pixel_values)
        return _carried_back(model, calls, pixel_values)


def gradient_rollout(
    model: RailsformerForVideoClassification, pixel_values: torch.Tensor, targets: torch.Tensor | None = None
) -> torch.Tensor:
    """What the last CLS draws from each patch through the attention that speaks for a class (Chefer et al. 2021).

    Each attention weight is multiplied by the gradient of the class's logit with respect to it, negative products are
    dropped and heads are averaged; the identity is added and rows are not divided by their sum, as in the paper. Where
    every group has a copy of CLS the products of the copies are added up: the gradients already hold the mean's share.

    Args:
        model: The classifier.
        pixel_values: Normalised frames, shape (B, T, C, height, width).
        targets: Class index of each clip, shape (B,); the class that the model predicts unless given.

    Returns:
        The row of CLS, shape (B, T, h, w), float32, non-negative, of no fixed sum.
    """
    # A caller's no_grad or inference_mode must not keep the gradients from being there.
    with _as_in_evaluation(model), torch.inference_mode(False), torch.enable_grad():
        calls: list[_Call] = []
        with _recording(model, calls, gradients=True):
            logits = model(pixel_values).logits
        # A copy: what was made in inference_mode takes no part in gradients.
        targets = logits.argmax(dim=1) if targets is None else targets.clone()
        chosen = logits.gather(1, targets[:, None]).sum()  # clips do not mix, so each gets its own gradient
        gradients = torch.autograd.grad(chosen, [call.context for call in calls if call.context is not None])
        for call, gradient in zip(calls, gradients, strict=True):
            call.context, call.gradient = None, gradient
    with torch.no_grad():
        return _carried_back(model, calls, pixel_values)


@dataclass
class _Call:
    """One attention step of one block, as it ran."""

    attention: nn.Module
    inputs: torch.Tensor  # (B*G, N, D), normed
    context: torch.Tensor | None = None  # (B*G, N, D), heads side by side; only where gradients are wanted
    gradient: torch.Tensor | None = None  # of the class's logit with respect to `context`


@contextlib.contextmanager
def _as_in_evaluation(model: nn.Module) -> Iterator[None]:
    """No dropout and no gradients of weights; every module's mode and every weight's wish for gradients come back."""
    modes = {module: module.training for module in model.modules()}
    wishes = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    for parameter, _ in wishes:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, wish in wishes:
            parameter.requires_grad_(wish)


@contextlib.contextmanager
def _recording(
    model: RailsformerForVideoClassification, calls: list[_Call], *, gradients: bool = False
) -> Iterator[None]:
    """Append every attention step that runs to `calls`, in order."""

    def note(attention: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        inputs = args[0] if args else kwargs["hidden_states"]
        calls.append(_Call(attention, inputs.detach(), output[0] if gradients else None))

    def begin_graph(_: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output.detach().requires_grad_()

    trunk = model.timesformer
    attentions = [
        layer.get_submodule(f"{step.prefix}attention.attention")
        for layer in trunk.encoder.layer
        for step in STEPS[model.config.attention_type]
    ]
    handles = [attention.register_forward_hook(note, with_kwargs=True) for attention in attentions]
    if gradients:
        handles.append(trunk.embeddings.register_forward_hook(begin_graph))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _carried_back(
    model: RailsformerForVideoClassification, calls: list[_Call], pixel_values: torch.Tensor
) -> torch.Tensor:
    """The row of the last CLS over all patches, (B, T, h, w); empties `calls` on the way."""
    config = model.config
    batch, frames = pixel_values.shape[:2]
    height, width = config.grid
    space_only = config.attention_type == "space_only"
    grid = (height, width, 1 if space_only else frames)
    groupings = [TokenGrouping(step, grid) for step in STEPS[config.attention_type]]
    chains = batch * frames if space_only else batch
    row = torch.zeros(chains, 1 + grid[0] * grid[1] * grid[2], device=pixel_values.device)
    row[:, 0] = 1.0 / frames if space_only else 1.0
    while calls:
        grouping = groupings[(len(calls) - 1) % len(groupings)]
        row = _through_step(row, calls.pop(), grouping)
    if space_only:
        return row[:, 1:].view(batch, frames, height, width)
    return row[:, 1:].view(batch, height, width, frames).permute(0, 3, 1, 2).contiguous()  # b (h w t) -> b t h w


def _through_step(row: torch.Tensor, call: _Call, grouping: TokenGrouping) -> torch.Tensor:
    """The row (B, 1 + h*w*T) times the matrix of one step, identity included."""
    with_cls, plain = grouping.step.with_cls, call.gradient is None
    rows = grouping.cut(row[:, 1:, None]).squeeze(-1)
    if with_cls:
        share = 1.0 / grouping.num_groups if plain else 1.0
        rows = torch.cat((row[:, :1, None].expand(-1, grouping.num_groups, -1) * share, rows), dim=2)
    padding = grouping.padding(row.device)
    drawn = _through_attention(rows.flatten(0, 1), call, padding).view_as(rows)
    if with_cls:
        cls, drawn = drawn[:, :, 0].sum(dim=1, keepdim=True), drawn[:, :, 1:]
    else:  # its row is the identity's, which is there twice before rows are divided by their sum
        cls = row[:, :1] if plain else torch.zeros_like(row[:, :1])
    carried = torch.cat((cls, grouping.join(drawn.unsqueeze(-1)).squeeze(-1)), dim=1)
    return (row + carried) / 2 if plain else row + carried


def _through_attention(rows: torch.Tensor, call: _Call, padding: torch.Tensor | None) -> torch.Tensor:
    """Rows (B*G, N) times the head-averaged matrices of their groups, a bounded part of the matrices at a time."""
    attention: Any = call.attention
    groups, tokens = rows.shape
    # b n (3 heads d) -> 3 b heads n d
    qkv = attention.qkv(call.inputs).view(groups, tokens, 3, attention.num_heads, attention.head_dim)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).float().unbind(0)
    gradient = call.gradient
    if gradient is not None:  # b n (heads d) -> b heads n d
        gradient = gradient.view(groups, tokens, attention.num_heads, attention.head_dim).transpose(1, 2).float()
    if padding is not None:
        padding = padding.repeat(groups // len(padding), 1)[:, None, None]
    drawn = torch.zeros_like(rows)
    for part, asking in _parts(groups, tokens, attention.num_heads):
        weights = (query[part, :, asking] * attention.scaling) @ key[part].transpose(-2, -1)
        if padding is not None:
            weights.masked_fill_(padding[part], -torch.inf)
        weights = weights.softmax(dim=-1)
        if gradient is not None:
            # context = weights @ value, so the gradient with respect to the weights is that of context times value
            weights = weights.mul_(gradient[part, :, asking] @ value[part].transpose(-2, -1)).clamp_(min=0)
        asked = rows[part, None, None, asking].expand(-1, attention.num_heads, -1, -1)
        drawn[part] += (asked @ weights).mean(dim=1).squeeze(1)
    return drawn


def _parts(groups: int, tokens: int, heads: int) -> Iterator[tuple[slice, slice]]:
    """Slices of the groups and of the queries whose weights fit in memory together."""
    groups_at_once = max(1, _MOST_WEIGHTS // (heads * tokens * tokens))
    queries_at_once = max(1, min(tokens, _MOST_WEIGHTS // (heads * tokens)))
    for group in range(0, groups, groups_at_once):
        for query in range(0, tokens, queries_at_once):
            yield slice(group, group + groups_at_once), slice(query, query + queries_at_once)
