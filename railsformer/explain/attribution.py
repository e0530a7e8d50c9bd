"""Relevance of every patch of every frame to what the model said, by a method chosen by name.

Dimensions: B batch, T frames, h and w patches down and across.
"""

import inspect
from collections.abc import Collection, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch

from railsformer.explain.occlusion import occlude
from railsformer.explain.rollout import attention_rollout, gradient_rollout
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

__all__ = ["METHODS", "Method", "Target", "attribute", "target_indices"]

Method = Literal["rollout", "gradient_rollout", "occlusion"]
METHODS: tuple[str, ...] = get_args(Method)
# One class for all clips, by index or name; one a clip; or None, the class that the model predicts for each.
Target = int | str | Sequence[int | str] | torch.Tensor | np.ndarray | np.integer | None
_OCCLUSION_OPTIONS = [
    name
    for name, parameter in inspect.signature(occlude).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
]


def attribute(
    model: RailsformerForVideoClassification,
    pixel_values: torch.Tensor,
    method: str = "rollout",
    target: Target = None,
    **options: Any,
) -> torch.Tensor:
    """Say how much every patch of every frame counted.

    Args:
        model: The classifier; its weights, modes and gradients are left as they are.
        pixel_values: Normalised frames, shape (B, T, C, height, width), as the model takes them.
        method: `rollout` follows attention and knows no class; `gradient_rollout` keeps the attention that speaks for
            the class; `occlusion` covers cubes of the clip and looks at the score, whatever the attention.
        target: Class to explain: an index or a name, one of them a clip, or None for the predicted class. Whole
            numbers of numpy and torch are indices, too, such as `logits.argmax()`.
        **options: Of `railsformer.explain.occlusion.occlude`; the rollouts have none.

    Returns:
        Relevance, shape (B, T, h, w), float32, on the model's device. Of the rollouts it is non-negative and adds up
        to 1 over each clip: what the head's token holds of itself is left out and the patches' shares are divided by
        their sum. It says where, never how much: a clip with a faint reason and one with a strong one both add up to
        1. A gradient_rollout in which no attention speaks for the class is all zero. Of occlusion it is signed and
        not normalised: the fall of the class's score when the cell is covered.

    Raises:
        ValueError: If the model is of another kind, the method, the class or an option is unknown or of an odd type,
            or the clips are none, do not fit the model or hold values that are not finite.
    """
    _check_clips(pixel_values)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    known = _OCCLUSION_OPTIONS if method == "occlusion" else []
    if unknown := [name for name in options if name not in known]:
        raise ValueError(f"options of {method} are {', '.join(known) or 'none'}, got {unknown[0]}; leave it out")
    _check_model(model)
    pixel_values = pixel_values.to(device=model.device, dtype=model.dtype)
    if method == "occlusion":
        return occlude(model, pixel_values, target_indices(model, pixel_values, target), **options).float()
    classes = None if target is None else target_indices(model, pixel_values, target)
    row = (
        attention_rollout(model, pixel_values)
        if method == "rollout"
        else gradient_rollout(model, pixel_values, classes)
    )
    total = row.flatten(1).sum(dim=1).view(-1, 1, 1, 1)
    return torch.where(total > 0, row / total, torch.zeros_like(row))


def target_indices(
    model: RailsformerForVideoClassification, pixel_values: torch.Tensor, target: Target = None
) -> torch.Tensor:
    """Return the class index of each clip that `target` means, shape (B,), int64; None costs one forward pass.

    Raises:
        ValueError: If the model lacks the class, or their number is not the clips'.
    """
    _check_clips(pixel_values)
    clips = len(pixel_values)
    if target is None:
        return _predicted(model, pixel_values)
    plain = _plain(target)
    if isinstance(plain, str) or not isinstance(plain, Collection):
        targets = [plain] * clips
    elif isinstance(plain, Sequence) and len(plain) == clips:
        targets = [_plain(each) for each in plain]
    else:
        kind = type(target).__name__
        raise ValueError(f"target must be one class or one a clip ({clips}), got {len(plain)} ({kind})")
    return torch.tensor([_class_index(model, each) for each in targets], device=model.device)


def _check_model(model: torch.nn.Module) -> None:
    # By name: a model loaded with trust_remote_code is of a class of its own.
    if all(each.__name__ != RailsformerForVideoClassification.__name__ for each in type(model).__mro__):
        raise ValueError(
            f"model must be a RailsformerForVideoClassification, got {type(model).__name__}; "
            f"load the checkpoint with RailsformerForVideoClassification.from_pretrained"
        )


def _plain(value: Any) -> Any:
    """Numbers of numpy and torch as Python's, whatever else as it is."""
    return value.tolist() if isinstance(value, torch.Tensor | np.ndarray | np.generic) else value


def _check_clips(pixel_values: torch.Tensor) -> None:
    if not isinstance(pixel_values, torch.Tensor):
        raise ValueError(
            f"pixel_values must be a torch.Tensor (batch, frames, channels, height, width), got "
            f"{type(pixel_values).__name__}; give torch.as_tensor of it"
        )
    if pixel_values.ndim != 5 or not pixel_values.is_floating_point():
        raise ValueError(
            f"pixel_values must be normalised frames as floating point, of 5 dimensions (batch, frames, channels, "
            f"height, width), got {pixel_values.dtype} of shape {tuple(pixel_values.shape)}; prepare them as the "
            f"model's processor does"
        )
    if not len(pixel_values):
        raise ValueError(f"pixel_values hold no clip (shape {tuple(pixel_values.shape)}); give at least one")
    if not pixel_values.isfinite().all():
        bad = (~pixel_values.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()
        raise ValueError(f"pixel_values of clips {bad} of this batch hold NaN or infinite values")


def _predicted(model: RailsformerForVideoClassification, pixel_values: torch.Tensor) -> torch.Tensor:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            return model(pixel_values.to(device=model.device, dtype=model.dtype)).logits.argmax(dim=1)
    finally:
        for module, mode in modes.items():
            module.training = mode


def _class_index(model: RailsformerForVideoClassification, target: Any) -> int:
    names: dict[int, str] = model.config.id2label
    if isinstance(target, int | str) and not isinstance(target, bool):  # 1.0 may be a score or a threshold
        for index, name in names.items():
            if target in (name, index):
                return index
    known = ", ".join(map(str, names.values()))
    raise ValueError(
        f"target must be a label of the model ({known}) or an index in 0..{len(names) - 1}, got {target!r}; give a "
        f"name, a whole number, or None for the class that the model predicts"
    )
