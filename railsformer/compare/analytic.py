"""What a clip costs by arithmetic, from the schemes' groups of tokens: a curve needs no machine that holds it.

Multiply-accumulates are those of linear layers, of the patch convolution and of attention's two products. Norms,
softmax, activations, biases and sums are not counted, as they are not in the paper. Padded tokens are counted: they
are computed. All bytes are float32, of a batch of one.
"""

from dataclasses import dataclass

from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.token_grouping import GROUPINGS, STEPS, Step, TokenGrouping

__all__ = ["AnalyticCost", "analytic_cost"]

_FLOAT_BYTES = 4
# Softmax reads one matrix and writes another; backward likewise holds the gradients of both.
_MATRICES_AT_WORK = 2


@dataclass(frozen=True)
class AnalyticCost:
    """Of one clip.

    Attributes:
        macs: Multiply-accumulates of a forward pass.
        parameters: Of the network at this clip.
        comparisons_a_patch: Tokens that a patch is compared with in a block, itself and CLS among them; mean over the
            patches.
        matrix_bytes: Attention matrices of a block's largest step: heads x N x N of each group, where they are made.
        kept_matrix_bytes: Of all steps and blocks, as backward needs them.
        saved_bytes: All other activations that backward needs.
        working_bytes: The largest intermediate results of a forward pass, without matrices.
    """

    macs: int
    parameters: int
    comparisons_a_patch: float
    matrix_bytes: int
    kept_matrix_bytes: int
    saved_bytes: int
    working_bytes: int

    def forward_bytes(self, *, materialised: bool) -> int:
        """Weights and what a forward pass works on, with attention matrices or without (SDPA)."""
        weights = _FLOAT_BYTES * self.parameters
        return weights + self.working_bytes + materialised * _MATRICES_AT_WORK * self.matrix_bytes

    def training_bytes(self, *, materialised: bool) -> int:
        """Weights, momentum, and the larger of all gradients and of what backward begins with."""
        weights = _FLOAT_BYTES * self.parameters
        kept = self.saved_bytes + self.working_bytes
        if materialised:
            kept += self.kept_matrix_bytes + _MATRICES_AT_WORK * self.matrix_bytes
        return 2 * weights + max(weights, kept)


def analytic_cost(config: RailsformerConfig, *, num_frames: int, image_size: int) -> AnalyticCost:
    """Cost of a network at a clip of this size.

    Args:
        config: Of the network; its own clip size is not looked at.
        num_frames: Frames of the clip.
        image_size: Side of its pictures in pixels, a multiple of the patch size.
    """
    hidden, inner, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    side = image_size // config.patch_size
    # space_only runs each frame as a clip of its own.
    clips, frames = (num_frames, 1) if config.attention_type == "space_only" else (1, num_frames)
    patches = side * side * frames
    tokens = 1 + patches
    macs = 2 * tokens * hidden * inner  # MLP
    saved = 2 * tokens * (hidden + 1) + 2 * tokens * inner
    working = tokens * (2 * hidden + 2 * inner)
    matrices = []
    for step in STEPS[config.attention_type]:
        grouping = TokenGrouping(step, (side, side, frames))
        group = grouping.group_size + step.with_cls
        rows = grouping.num_groups * group
        dense_rows = (tokens if step.with_cls else patches) if step.prefix else 0
        macs += 4 * rows * hidden**2 + 2 * rows * group * hidden + dense_rows * hidden**2
        # Before the norm with its mean and deviation; normed; query, key, value; context; the softmax's sums.
        saved += tokens * (hidden + 2) + rows * (5 * hidden + heads) + dense_rows * hidden
        working = max(working, 2 * tokens * hidden + 5 * rows * hidden)
        matrices.append(heads * rows * group)
    blocks = config.num_hidden_layers
    patch_values = config.num_channels * config.patch_size**2
    embedding = clips * patches * hidden * patch_values
    return AnalyticCost(
        macs=embedding + blocks * clips * macs + hidden * config.num_labels,
        parameters=_parameters(config, num_frames=num_frames, patches=side * side),
        comparisons_a_patch=sum(_compared(step, (side, side, frames)) for step in STEPS[config.attention_type]),
        matrix_bytes=_FLOAT_BYTES * clips * max(matrices),
        kept_matrix_bytes=_FLOAT_BYTES * clips * blocks * sum(matrices),
        saved_bytes=_FLOAT_BYTES * clips * (blocks * saved + tokens * (hidden + 2) + patches * patch_values),
        working_bytes=_FLOAT_BYTES * clips * working,
    )


def _parameters(config: RailsformerConfig, *, num_frames: int, patches: int) -> int:
    hidden, inner = config.hidden_size, config.intermediate_size
    dense = hidden**2 + hidden
    step = 2 * hidden + 3 * hidden**2 + 3 * hidden * config.qkv_bias + dense
    count = len(STEPS[config.attention_type])
    block = count * step + (count - 1) * dense + 2 * hidden + 2 * hidden * inner + inner + hidden
    tables = 0 if config.position_embedding == "none" else (1 + patches) * hidden
    if config.position_embedding == "space_time" and config.attention_type != "space_only":
        tables += num_frames * hidden
    embedding = hidden * config.num_channels * config.patch_size**2 + hidden + hidden + tables
    head = 2 * hidden + hidden * config.num_labels + config.num_labels
    return embedding + config.num_hidden_layers * block + head


def _compared(step: Step, grid: tuple[int, int, int]) -> float:
    """Tokens of a patch's group that are no padding, mean over the patches: a product over the axes."""
    product = 1.0
    for role, size in zip(GROUPINGS[step.grouping], grid, strict=True):
        larger, smaller = -(-size // 2), size // 2
        product *= {
            "group": 1.0,
            "member": float(size),
            "half": (larger**2 + smaller**2) / size,
            "residue": (larger**2 + smaller**2) / size,
        }[role]
    return product + step.with_cls
