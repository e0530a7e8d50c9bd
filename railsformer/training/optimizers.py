"""Which learning rate and weight decay each parameter has."""

import re
from typing import Any

from torch import nn

__all__ = ["block_of", "parameter_groups"]

_BLOCK = re.compile(r"(?:^|\.)encoder\.layer\.(\d+)\.")
_EMBEDDINGS = re.compile(r"(?:^|\.)embeddings\.")
_HEAD = re.compile(r"(?:^|\.)classifier\.")
_TABLES = ("cls_token", "position_embeddings", "time_embeddings")


def block_of(name: str, *, num_blocks: int) -> int:
    """Depth of a parameter: 0 for the embeddings, 1 to num_blocks for the blocks, num_blocks + 1 for norm and head."""
    if block := _BLOCK.search(name):
        return int(block[1]) + 1
    return 0 if _EMBEDDINGS.search(name) else num_blocks + 1


def parameter_groups(
    model: nn.Module,
    *,
    num_blocks: int,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    head_factor: float = 1.0,
) -> list[dict[str, Any]]:
    """Groups for a torch optimizer, over the parameters that are trained.

    The learning rate falls by layer_decay from each block to the one below it (BEiT, arXiv 2106.08254): the head has
    all of it, times head_factor, and the embeddings the least. Norms, biases, CLS and the position and time tables
    are not decayed: pulled to zero they would lose what they hold, not what they overfit.

    Args:
        model: The model, also one that is wrapped.
        num_blocks: Its blocks.
        learning_rate: Of the top of the trunk.
        weight_decay: Of all weights that are matrices.
        layer_decay: In (0, 1]; 1 turns it off.
        head_factor: Learning rate of the head over that of the top of the trunk.

    Returns:
        Groups with `params`, `lr` and `weight_decay`, from the lowest depth to the highest, the head last.
    """
    groups: dict[tuple[int, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_head = bool(_HEAD.search(name))
        decays = parameter.ndim > 1 and not name.endswith(_TABLES)
        depth = block_of(name, num_blocks=num_blocks) if layer_decay != 1.0 else 0
        groups.setdefault((depth, is_head, decays), []).append(parameter)
    top = num_blocks + 1 if layer_decay != 1.0 else 0
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decays else 0.0,
            "lr": learning_rate * layer_decay ** (top - depth) * (head_factor if is_head else 1.0),
        }
        for (depth, is_head, decays), parameters in sorted(groups.items(), key=lambda group: group[0])
    ]
