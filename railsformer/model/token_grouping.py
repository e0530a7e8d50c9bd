"""Which tokens attend to each other: every scheme as a list of steps, every step as a grouping of the token grid.

Dimensions: B batch, T frames, H and W patches down and across, D hidden size, G groups, N tokens in a group. The token
sequence is CLS first, then patch-major: (h w t). Source: arXiv 2102.05095v4, section 3 and figure 3; facebookresearch/
TimeSformer a5ef29a for CLS.
"""

from typing import Literal, NamedTuple

import torch
from torch.nn import functional as F

__all__ = ["GROUPINGS", "STEPS", "Step", "TokenGrouping", "token_groups"]

# How an axis of the (H, W, T) token grid takes part in a grouping:
#   group    every position is a group of its own        member   all positions share a group
#   half     two groups: first half, second half         residue  two groups: even positions, odd positions
Role = Literal["group", "member", "half", "residue"]
# Grouping -> roles of (h, w, t).
GROUPINGS: dict[str, tuple[Role, Role, Role]] = {
    "time": ("group", "group", "member"),  # one patch position over the frames
    "space": ("member", "member", "group"),  # each frame
    "joint": ("member", "member", "member"),  # everything
    "local": ("half", "half", "member"),  # a quadrant over all frames
    "global": ("residue", "residue", "residue"),  # every second patch along all three axes
    "width": ("group", "member", "group"),  # one frame and row
    "height": ("member", "group", "group"),  # one frame and column
}


class Step(NamedTuple):
    """One attention step of a block: the prefix of its parameters, its grouping, whether CLS takes part."""

    prefix: str
    grouping: str
    with_cls: bool


# Attention type -> steps in order. The last step of a block has no prefix and no extra dense layer.
# space_only runs each frame as a sample of its own, so its one step is joint over that frame.
STEPS: dict[str, tuple[Step, ...]] = {
    "divided_space_time": (Step("temporal_", "time", False), Step("", "space", True)),
    "joint_space_time": (Step("", "joint", True),),
    "space_only": (Step("", "joint", True),),
    "sparse_local_global": (Step("local_", "local", True), Step("", "global", True)),
    "axial": (Step("temporal_", "time", False), Step("width_", "width", True), Step("", "height", True)),
}


class TokenGrouping:
    """Cuts patches (B, H*W*T, D) into groups (B, G, N, D) and puts them back; short groups are padded at their end.

    An axis of size s is split in (outer, inner): group (s, 1), member (1, s), half (2, s/2), residue (s/2, 2). For
    `half` the outer part names the group; for `residue` the inner one does. Odd sizes are padded to even ones first;
    an axis of one position is never split, so no group is empty.
    """

    def __init__(self, step: Step, grid: tuple[int, int, int]) -> None:
        """Plan the regrouping of one step for a grid of (H, W, T) patches."""
        self.step = step
        self.grid = grid
        self.split: list[int] = []
        group_dims: list[int] = []
        member_dims: list[int] = []
        for axis, (role, size) in enumerate(zip(GROUPINGS[step.grouping], grid, strict=True)):
            outer_dim, inner_dim = 1 + 2 * axis, 2 + 2 * axis
            parts = min(2, size)
            length = -(-size // parts)
            self.split += {
                "group": (size, 1),
                "member": (1, size),
                "half": (parts, length),
                "residue": (length, parts),
            }[role]
            names_group = inner_dim if role == "residue" else outer_dim
            group_dims.append(names_group)
            member_dims.append(outer_dim + inner_dim - names_group)
        # Frames outermost among the groups, so that a group index reads (t, h, w); members stay (h, w, t).
        group_dims = [group_dims[2], group_dims[0], group_dims[1]]
        self.order = [0, *group_dims, *member_dims, 7]
        self.inverse = [self.order.index(dim) for dim in range(8)]
        sizes = [1, *self.split]
        self.num_groups = sizes[group_dims[0]] * sizes[group_dims[1]] * sizes[group_dims[2]]
        self.group_size = sizes[member_dims[0]] * sizes[member_dims[1]] * sizes[member_dims[2]]
        self.padded = tuple(self.split[2 * axis] * self.split[2 * axis + 1] for axis in range(3))
        self.is_padded = self.padded != grid

    def cut(self, patches: torch.Tensor) -> torch.Tensor:
        """b (h w t) d -> b g n d."""
        batch, _, width = patches.shape
        if self.is_padded:
            patches = patches.view(batch, *self.grid, width)
            missing = [pad - size for pad, size in zip(self.padded, self.grid, strict=True)]
            patches = F.pad(patches, (0, 0, 0, missing[2], 0, missing[1], 0, missing[0]))
        patches = patches.reshape(batch, *self.split, width).permute(self.order)
        return patches.reshape(batch, self.num_groups, self.group_size, width)

    def join(self, groups: torch.Tensor) -> torch.Tensor:
        """b g n d -> b (h w t) d, padding dropped."""
        batch, _, _, width = groups.shape
        sizes = [batch, *self.split, width]
        patches = groups.reshape([sizes[dim] for dim in self.order]).permute(self.inverse)
        if self.is_padded:
            height, across, frames = self.grid
            patches = patches.reshape(batch, *self.padded, width)[:, :height, :across, :frames]
        return patches.reshape(batch, -1, width)

    def padding(self, device: torch.device) -> torch.Tensor | None:
        """True where a group holds padding, shape (G, N) with CLS counted where it takes part; None without any."""
        return self.indices().to(device) < 0 if self.is_padded else None

    def indices(self) -> torch.Tensor:
        """Indices into the token sequence (0 is CLS, -1 padding), shape (G, N), CLS first where it takes part."""
        height, across, frames = self.grid
        tokens = torch.arange(1, 1 + height * across * frames, dtype=torch.float64).view(1, -1, 1)
        table = self.cut(tokens).squeeze(-1).squeeze(0).long()
        table[table == 0] = -1
        if self.step.with_cls:
            table = torch.cat((torch.zeros(self.num_groups, 1, dtype=torch.long), table), dim=1)
        return table


def token_groups(attention_type: str, num_frames: int, height: int, width: int) -> list[torch.Tensor]:
    """Tell which tokens attend to each other, step by step of one block.

    Args:
        attention_type: One of the five schemes.
        num_frames: Frames of the clip.
        height: Patches down.
        width: Patches across.

    Returns:
        One table a step, shape (groups, N): indices into the token sequence, 0 is CLS and -1 padding. For space_only
        the sequence is that of one frame, CLS and its H*W patches, and stands for every frame.

    Raises:
        ValueError: If the scheme is unknown.
    """
    if attention_type not in STEPS:
        raise ValueError(f"attention_type must be one of {', '.join(STEPS)}, got {attention_type!r}")
    frames = 1 if attention_type == "space_only" else num_frames
    return [TokenGrouping(step, (height, width, frames)).indices() for step in STEPS[attention_type]]
