"""Occlusion of space-time cubes: how far the target's score falls when a part of the clip is taken away.

It looks at nothing but pixels in and scores out, so it owes nothing to attention and checks the maps that do.

Dimensions: B batch, T frames, C channels, H and W patches down and across, M masks.

Source: Zeiler & Fergus 2014 (arXiv 1311.2901, section 4.1), with cubes of patches over frames for squares.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Literal, get_args

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

__all__ = [
    "Cube",
    "Fill",
    "Measure",
    "cell_grid",
    "default_cube",
    "evaluating",
    "filled_clips",
    "masked_scores",
    "occlude",
    "occluding_cubes",
]

Fill = Literal["mean", "blur"]
Measure = Literal["probability", "log_odds"]
Cube = tuple[int, int, int]  # frames, patches down, patches across

_FILLS: tuple[str, ...] = get_args(Fill)
_MEASURES: tuple[str, ...] = get_args(Measure)
_BLUR_SHARE = 1 / 12  # of the short side: the blur's standard deviation; nothing smaller than a wagon is left


@torch.no_grad()
def occlude(
    model: RailsformerForVideoClassification,
    pixel_values: torch.Tensor,
    target: int | torch.Tensor,
    *,
    cube: Cube | None = None,
    stride: Cube | None = None,
    fill: Fill = "mean",
    measure: Measure = "log_odds",
    batch_size: int = 8,
) -> torch.Tensor:
    """Relevance of every cell: how far the target's score falls when cubes that cover the cell are filled.

    Args:
        model: The classifier. Runs in evaluation mode and is left as it was.
        pixel_values: Normalised clips, shape (B, T, C, height, width).
        target: Class index, one for all clips or shape (B,).
        cube: Frames, patches down and patches across of what is taken away at once; `default_cube` unless given.
        stride: Steps between cubes along the same three axes, at most the cube's size; the cube's own size unless
            given, so that cubes do not overlap. The last cube of an axis ends at its end.
        fill: 'mean', the clip's mean colour, or 'blur', every frame strongly blurred (coarse motion stays).
        measure: Of the fall: 'log_odds' (log p / (1 - p), which still tells cells apart where p is near 1) or
            'probability'.
        batch_size: Filled clips in a forward pass.

    Returns:
        Mean fall over the cubes that cover a cell, float32, shape (B, T, H, W), on the model's device. Positive: the
        cell speaks for the target; negative: the score rises without it. Not normalised. The cost is one clip's
        forward pass a cube and one more a clip.

    Raises:
        ValueError: If the clips do not fit the model, the target is no class, or cube, stride, fill, measure or
            batch_size are not allowed.
    """
    grid = cell_grid(model, pixel_values)
    pixel_values = pixel_values.to(next(model.parameters()))
    masks = occluding_cubes(grid, cube=cube, stride=stride)
    nothing = torch.zeros(1, *grid, dtype=torch.bool)
    targets = _targets(model, target, len(pixel_values))
    maps = []
    for clip, class_index in zip(pixel_values, targets, strict=True):
        scores = masked_scores(
            model,
            clip,
            torch.cat((nothing, masks)),
            class_index,
            filled=filled_clips(clip[None], fill)[0],
            measure=measure,
            batch_size=batch_size,
        )
        falls = scores[0] - scores[1:]
        covered = masks.to(scores.dtype)
        maps.append((torch.tensordot(falls, covered, dims=1) / covered.sum(dim=0)).float())
    return torch.stack(maps).to(pixel_values.device)


def default_cube(grid: tuple[int, int, int]) -> Cube:
    """A quarter of the frames, a sixth of the height and of the width: at most 144 cubes, whatever the clip's size.

    Args:
        grid: Frames, patches down and patches across.
    """
    frames, height, width = grid
    return -(-frames // 4), -(-height // 6), -(-width // 6)


def occluding_cubes(
    grid: tuple[int, int, int], *, cube: Cube | None = None, stride: Cube | None = None
) -> torch.Tensor:
    """Every cube's cells; together they cover every cell.

    Args:
        grid: Frames, patches down and patches across.
        cube: As in `occlude`.
        stride: As in `occlude`.

    Returns:
        True inside the cube, shape (M, T, H, W).

    Raises:
        ValueError: If cube is not 1 to the grid's size or stride not 1 to the cube's along every axis.
    """
    cube = default_cube(grid) if cube is None else cube
    stride = cube if stride is None else stride
    _check_cube("cube", cube, grid, "the clip's")
    _check_cube("stride", stride, cube, "the cube's")
    # size 5, cube 2, stride 2: starts 0 2 3, so that the last one ends at the end and is as large as the others
    starts = [
        sorted({min(start, size - length) for start in range(0, size, step)})
        for size, length, step in zip(grid, cube, stride, strict=True)
    ]
    corners = list(product(*starts))
    masks = torch.zeros(len(corners), *grid, dtype=torch.bool)
    for mask, (frame, row, column) in zip(masks, corners, strict=True):
        mask[frame : frame + cube[0], row : row + cube[1], column : column + cube[2]] = True
    return masks


def cell_grid(model: RailsformerForVideoClassification, pixel_values: torch.Tensor) -> tuple[int, int, int]:
    """Frames, patches down and patches across of clips of shape (B, T, C, height, width).

    Raises:
        ValueError: If the clips have another number of dimensions or hold values that are not finite.
    """
    if pixel_values.ndim != 5:
        raise ValueError(
            f"pixel_values must have 5 dimensions (batch, frames, channels, height, width), "
            f"got shape {tuple(pixel_values.shape)}"
        )
    if not pixel_values.isfinite().all():
        raise ValueError("pixel_values hold NaN or infinite values; nothing can be explained of such a clip")
    patch = model.config.patch_size
    return pixel_values.shape[1], pixel_values.shape[3] // patch, pixel_values.shape[4] // patch


def filled_clips(pixel_values: torch.Tensor, fill: Fill) -> torch.Tensor:
    """What stands where cells are taken away.

    Args:
        pixel_values: Shape (B, T, C, height, width).
        fill: 'mean', each clip's mean per channel, or 'blur', a Gaussian over a twelfth of the short side.

    Returns:
        Same shape.

    Raises:
        ValueError: If fill is neither.
    """
    if fill not in _FILLS:
        raise ValueError(f"fill must be one of {', '.join(_FILLS)}, got {fill!r}")
    if fill == "mean":
        return pixel_values.mean(dim=(1, 3, 4), keepdim=True).expand_as(pixel_values)
    batch, _, channels, height, width = pixel_values.shape
    sigma = max(min(height, width) * _BLUR_SHARE, 1.0)
    radius = min(round(2.5 * sigma), height - 1, width - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32, device=pixel_values.device)
    kernel = (-0.5 * (offsets / sigma) ** 2).exp()
    kernel = (kernel / kernel.sum()).expand(channels, 1, -1)
    frames = F.pad(pixel_values.flatten(0, 1).float(), (radius,) * 4, mode="reflect")
    frames = F.conv2d(frames, kernel[:, :, :, None], groups=channels)  # down
    frames = F.conv2d(frames, kernel[:, :, None, :], groups=channels)  # across
    return frames.unflatten(0, (batch, -1)).to(pixel_values.dtype)


@torch.no_grad()
def masked_scores(
    model: RailsformerForVideoClassification,
    clip: torch.Tensor,
    masks: torch.Tensor,
    target: int,
    *,
    filled: torch.Tensor,
    measure: Measure = "probability",
    temperature: float = 1.0,
    batch_size: int = 8,
) -> torch.Tensor:
    """The target's score with some cells taken away, one forward pass of a clip for each mask.

    Args:
        model: As in `occlude`.
        clip: Shape (T, C, height, width).
        masks: True where a cell is taken away, shape (M, T, H, W).
        target: Class index.
        filled: What stands there, shape of the clip.
        measure: As in `occlude`.
        temperature: Logits are divided by it.
        batch_size: Masks in a forward pass; only so many clips stand in memory.

    Returns:
        Scores on the CPU, float64, shape (M,).

    Raises:
        ValueError: If measure or batch_size is not allowed, or a score is not finite.
    """
    if measure not in _MEASURES:
        raise ValueError(f"measure must be one of {', '.join(_MEASURES)}, got {measure!r}")
    if not _is_whole(batch_size) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number, at least 1, got {batch_size!r}; leave it out for 8")
    parameter = next(model.parameters())
    clip, filled = clip.to(parameter), filled.to(parameter)
    scores = []
    with evaluating(model):
        for chunk in masks.split(batch_size):
            pixels = _pixel_masks(chunk.to(clip.device), model.config.patch_size, clip)
            logits = model(torch.where(pixels, filled, clip)).logits.double().cpu() / temperature
            scores.append(_target_scores(logits, target, measure))
    result = torch.cat(scores)
    if not result.isfinite().all():
        raise ValueError(f"the model's score of class {target} is not finite on this clip; its weights may hold NaN")
    return result


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout inside; afterwards every module is in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _check_cube(name: str, sizes: Cube, limits: Cube, whose: str) -> None:
    is_three = isinstance(sizes, Sequence) and len(sizes) == 3 and all(map(_is_whole, sizes))
    if not is_three or not all(1 <= size <= limit for size, limit in zip(sizes, limits, strict=True)):
        raise ValueError(
            f"{name} must be frames, patches down and patches across: three whole numbers, each from 1 to {whose} "
            f"{tuple(limits)}, got {sizes!r}"
        )


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _targets(model: RailsformerForVideoClassification, target: int | torch.Tensor, batch: int) -> list[int]:
    """One class index a clip."""
    given = torch.as_tensor(target).flatten().tolist()
    targets = given * batch if len(given) == 1 else given
    count = model.config.num_labels
    if len(targets) != batch:
        raise ValueError(f"target must be one class index or one a clip ({batch}), got {len(targets)}")
    if wrong := [index for index in targets if not 0 <= index < count]:
        raise ValueError(f"target must be a class index in 0..{count - 1}, got {wrong[0]}")
    return targets


def _target_scores(logits: torch.Tensor, target: int, measure: Measure) -> torch.Tensor:
    """Logits (M, num_labels) -> the target's probability or log odds (M,)."""
    if measure == "probability":
        return logits.softmax(dim=-1)[:, target]
    if logits.shape[-1] == 1:
        raise ValueError("a model of one label has no log odds: its probability is always 1; train it with two labels")
    others = torch.cat((logits[:, :target], logits[:, target + 1 :]), dim=-1)
    return logits[:, target] - others.logsumexp(dim=-1)


def _pixel_masks(masks: torch.Tensor, patch: int, clip: torch.Tensor) -> torch.Tensor:
    """Cells (M, T, H, W) -> pixels (M, T, 1, height, width); pixels beyond the last whole patch stay."""
    pixels = masks.repeat_interleave(patch, dim=-2).repeat_interleave(patch, dim=-1)
    height, width = clip.shape[-2:]
    return F.pad(pixels, (0, width - pixels.shape[-1], 0, height - pixels.shape[-2]))[:, :, None]
