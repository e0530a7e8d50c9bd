"""Cost against frames and crop for every scheme, and where memory ends: with attention matrices, and without."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from railsformer.compare.analytic import AnalyticCost, analytic_cost
from railsformer.model.configuration_railsformer import ATTENTION_TYPES, RailsformerConfig

__all__ = ["AXES", "cost_curves", "largest_that_fits"]

Axis = Literal["frames", "crop"]
Pass = Literal["forward", "training"]
# Points, and what the other axis stays at: the clip of the paper's base model.
AXES: dict[Axis, tuple[int, ...]] = {
    "frames": (8, 16, 24, 32, 48, 64, 80, 96),
    "crop": (112, 160, 224, 288, 336, 384, 448),
}
_BASE_FRAMES, _BASE_CROP, _PATCH = 8, 224, 16
_STEP = {"frames": 1, "crop": _PATCH}
_CARDS_GIB = (16, 24, 80)
_FREE = "free on this machine"
_FURTHEST = 1_000_000
_GIB = 2**30
_NOT_COUNTED = (
    "Bytes are arithmetic (float32, one clip, SGD with momentum): weights, momentum, gradients, what backward keeps, "
    "and the largest intermediate results; what libraries, allocators and other processes hold comes on top. With "
    "attention matrices, each head holds N x N numbers a group, two such at a time in a forward pass, and one a block "
    "and step until backward has used it. SDPA makes none."
)


def cost_curves(*, free_bytes: int) -> dict[str, Any]:
    """Everything of the base model's cost that is a matter of arithmetic.

    Args:
        free_bytes: Memory of this machine, or of its GPU, that a process may have.

    Returns:
        `frames` and `crop`: `points` and for each scheme `macs`, `comparisons_a_patch`, `matrix_bytes` (a block's
        largest step), `kept_matrix_bytes` (all steps and blocks), `training_bytes` with matrices and with SDPA;
        `growth`: exponents over the tokens at the far end; `limits`: the longest and largest clips that fit; and
        `sentences`.
    """
    configs = {scheme: RailsformerConfig(attention_type=scheme, num_labels=174) for scheme in ATTENTION_TYPES}
    curves: dict[str, Any] = {"protocol": _NOT_COUNTED}
    for axis, points in AXES.items():
        costs = {scheme: [_at(config, axis, point) for point in points] for scheme, config in configs.items()}
        curves[axis] = {
            "points": list(points),
            "schemes": {scheme: _series(values) for scheme, values in costs.items()},
            "growth": {scheme: _growth(axis, points, values) for scheme, values in costs.items()},
        }
    curves["frames"]["image_size"], curves["crop"]["num_frames"] = _BASE_CROP, _BASE_FRAMES
    memories = [(_FREE, free_bytes / _GIB), *((f"{gib} GiB", float(gib)) for gib in _CARDS_GIB)]
    curves["limits"] = [
        _limit(config, axis=axis, mode=mode, memory=name, gib=gib)
        for name, gib in memories
        for mode in ("training", "forward")
        for axis in AXES
        for config in configs.values()
    ]
    curves["sentences"] = _sentences(curves)
    return curves


def largest_that_fits(
    config: RailsformerConfig, *, axis: Axis, mode: Pass, limit_bytes: float, materialised: bool
) -> int | None:
    """The longest clip of 224 px, or the largest crop of 8 frames, that a memory holds.

    Args:
        config: Of the network.
        axis: Which of the two grows.
        mode: A forward pass, or a training step.
        limit_bytes: The memory.
        materialised: Whether attention makes its matrices.

    Returns:
        Frames or pixels; None where not even one frame, or one patch, fits.
    """

    def fits(steps: int) -> bool:
        cost = _at(config, axis, steps * _STEP[axis])
        needed = cost.training_bytes if mode == "training" else cost.forward_bytes
        return needed(materialised=materialised) <= limit_bytes

    return _bisect(fits, unit=_STEP[axis])


def _bisect(fits: Callable[[int], bool], *, unit: int) -> int | None:
    low, high = 0, 1
    while high < _FURTHEST and fits(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * unit or None


def _at(config: RailsformerConfig, axis: Axis, point: int) -> AnalyticCost:
    if axis == "frames":
        return analytic_cost(config, num_frames=point, image_size=_BASE_CROP)
    return analytic_cost(config, num_frames=_BASE_FRAMES, image_size=point)


def _series(costs: Sequence[AnalyticCost]) -> dict[str, list[float]]:
    return {
        "macs": [cost.macs for cost in costs],
        "comparisons_a_patch": [cost.comparisons_a_patch for cost in costs],
        "matrix_bytes": [cost.matrix_bytes for cost in costs],
        "kept_matrix_bytes": [cost.kept_matrix_bytes for cost in costs],
        "training_bytes_materialised": [cost.training_bytes(materialised=True) for cost in costs],
        "training_bytes_sdpa": [cost.training_bytes(materialised=False) for cost in costs],
    }


def _growth(axis: Axis, points: Sequence[int], costs: Sequence[AnalyticCost]) -> dict[str, float]:
    """Slopes of log cost over log tokens between the last two points; 1 is linear, 2 the square."""
    tokens = math.log(points[-1] / points[-2]) * (2 if axis == "crop" else 1)
    series = _series(costs[-2:])
    return {
        name: round(math.log(series[name][1] / series[name][0]) / tokens, 2) for name in ("macs", "kept_matrix_bytes")
    }


def _limit(config: RailsformerConfig, *, axis: Axis, mode: Pass, memory: str, gib: float) -> dict[str, Any]:
    with_matrices, without = (
        largest_that_fits(config, axis=axis, mode=mode, limit_bytes=gib * _GIB, materialised=materialised)
        for materialised in (True, False)
    )
    return {
        "memory": memory,
        "gib": round(gib, 2),
        "mode": mode,
        "axis": axis,
        "scheme": config.attention_type,
        "materialised": with_matrices,
        "sdpa": without,
    }


def _sentences(curves: Mapping[str, Any]) -> list[str]:
    """What the paper's out-of-memory figure says, with this memory's numbers."""
    told = []
    for limit in curves["limits"]:
        if limit["mode"] == "training" and limit["scheme"] == "joint_space_time":
            fixed, unit = ("224 px", "frames") if limit["axis"] == "frames" else ("8 frames", "px")
            ends = [f"{limit[key]:,} {unit}" if limit[key] else "nothing" for key in ("materialised", "sdpa")]
            told.append(
                f"{_memory_name(limit)}: a training step of joint attention on a clip of {fixed} fits up to {ends[0]} "
                f"with attention matrices, up to {ends[1]} without."
            )
    for axis, heading in (("frames", "frames"), ("crop", "patches")):
        growth = curves[axis]["growth"]
        told.append(
            f"At the far end multiply-accumulates grow with the {heading} to the power "
            f"{growth['joint_space_time']['macs']:.2f} for joint attention and "
            f"{growth['divided_space_time']['macs']:.2f} for divided; attention matrices to the power "
            f"{growth['joint_space_time']['kept_matrix_bytes']:.2f} and "
            f"{growth['divided_space_time']['kept_matrix_bytes']:.2f}."
        )
    return told


def _memory_name(limit: Mapping[str, Any]) -> str:
    return f"Free here, {limit['gib']:.1f} GiB" if limit["memory"] == _FREE else str(limit["memory"])
