"""The variants that are trained for the comparison of accuracy, each a whole recipe of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from railsformer.compare.cells import Variant
from railsformer.compare.starts import Start, file_hash, find_frozen_start, weights_hash
from railsformer.model.configuration_railsformer import ATTENTION_TYPES, POSITION_EMBEDDINGS
from railsformer.model.loading import config_on_disk
from railsformer.training.arguments import STARTS

__all__ = ["Peer", "Plan", "View", "plan_variants", "why_without"]

View = tuple[int, int]  # clips, crops
FROZEN_NAME = "frozen start + logistic regression"
PEER_NETWORK = "3D CNN (SlowFast R50, pytorchvideo)"
PEER_NAME = f"{PEER_NETWORK}, from scratch"
NEUTRAL_RECIPE = "configs/compare.yaml"
DIVIDED = "divided_space_time"
# What each cell has of its own, or what makes no sense in one.
_OWN = ("dataset", "output_dir", "seed", *STARTS, "attention_type", "position_embedding")
_REFUSED = {
    "resume": "a comparison goes on where it was; call it again with the same --output_dir",
    "resume_from_checkpoint": "a comparison goes on where it was; call it again with the same --output_dir",
}
# What a head that is solved on finished embeddings passes over.
_OF_TRAINING = (
    "trainable", "trainable_blocks", "mixup_alpha", "repeated_augmentation", "focal_gamma", "label_smoothing_factor",
    "layer_decay", "early_stopping_patience", "lora_rank", "lora_alpha", "lora_targets", "embedding_draws",
)  # fmt: skip
# Of a recipe, what the 3D CNN's training does not have, and the value with which that makes no difference.
_NOT_OF_PEER = {
    "mixup_alpha": 0, "focal_gamma": 0, "head_learning_rate_factor": 1, "layer_decay": 1, "stochastic_depth_rate": 0,
    "time_table": "zeros",
    "early_stopping_patience": None, "optim": "adamw_torch", "lr_scheduler_type": "cosine",
    "metric_for_best_model": "f1_macro",
}  # fmt: skip
_CLIP = ("num_frames", "frame_interval", "nominal_fps", "short_video", "clip_sampling")


@dataclass(frozen=True)
class Peer:
    """Where a 3D CNN comes from.

    Attributes:
        python: Interpreter of an environment with pytorchvideo; None where there is none.
        weights: State dict that a second row starts from; None leaves that row empty.

    Raises:
        FileNotFoundError: If there are no such weights.
    """

    python: str | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        """Fail before hours of work."""
        if self.weights is not None and not Path(self.weights).is_file():
            raise FileNotFoundError(
                f"--peer_weights must be a file with a state dict, got {self.weights}: no such file"
            )


NO_PEER = Peer()


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Raises:
        ValueError: If a value is unknown, given twice or out of range, or there is no scheme or seed.
    """

    schemes: tuple[str, ...]
    positions: tuple[str, ...]
    views: tuple[View, ...]
    other_models: tuple[str, ...]
    seeds: tuple[int, ...]
    frozen: bool = True
    probe: bool = True
    frozen_model: str | None = None

    def __post_init__(self) -> None:
        """Check every list."""
        for name, known in (("schemes", ATTENTION_TYPES), ("positions", POSITION_EMBEDDINGS)):
            for value in getattr(self, name):
                if value not in known:
                    raise ValueError(f"--{name} must be of {', '.join(known)}, got {value!r}")
        for name in ("schemes", "positions", "views", "other_models", "seeds"):
            values = getattr(self, name)
            if twice := [value for index, value in enumerate(values) if value in values[:index]]:
                raise ValueError(f"--{name} must differ from each other, got {twice[0]!r} twice")
        if not self.schemes or not self.seeds or min(self.seeds) < 0:
            given = [" ".join(map(str, values)) or "none" for values in (self.schemes, self.seeds)]
            raise ValueError(
                f"a comparison needs a scheme and a seed of 0 or more, got --schemes {given[0]} and --seeds {given[1]}"
            )
        for clips, crops in self.views:
            if clips < 1 or crops not in (1, 3):
                raise ValueError(f"--views must be 1 or more clips x 1 or 3 crops, got {clips} x {crops}")


def plan_variants(plan: Plan, recipe: Mapping[str, Any], start: Start, *, peer: Peer = NO_PEER) -> dict[str, Variant]:
    """All that is trained, by key: a scheme, `position:NAME`, `frozen`, `other:NAME`, `peer`, `peer_weights`.

    Divided attention with the position embedding of the recipe is one variant under two keys.

    Raises:
        ValueError: If the recipe has a key that a comparison decides, or trains what not every scheme has.
    """
    for name, reason in _REFUSED.items():
        if recipe.get(name):
            raise ValueError(f"{name} must not be in the recipe of a comparison: {reason}")
    if recipe.get("trainable") == "time" and set(plan.schemes) != {DIVIDED}:
        raise ValueError(
            "trainable time trains only time attention, which not every scheme has, and so favours those that do; "
            f"take a recipe with trainable all, such as {NEUTRAL_RECIPE}, or --schemes divided_space_time alone"
        )
    common = {key: value for key, value in recipe.items() if key not in _OWN} | dict(start.keys)
    base = _position_of(recipe, start)
    recipes = {name: {**common, "position_embedding": base, "attention_type": name} for name in ATTENTION_TYPES}
    known = {"start_weights": start.weights} if start.weights else {}
    variants = {name: Variant(name, recipes[name], identity=known) for name in plan.schemes}
    divided = Variant(DIVIDED, recipes[DIVIDED], identity=known)
    for name in plan.positions:
        own = {**divided.recipe, "position_embedding": name}
        other = Variant(f"{DIVIDED}-position_{name}", own, identity=known)
        variants[f"position:{name}"] = divided if name == base else other
    if plan.frozen and plan.frozen_model is not None:
        variants["frozen"] = _frozen_model(plan.frozen_model, common, start, plan)
    elif plan.frozen and not start.is_random:
        variants["frozen"] = replace(_frozen(common, plan), identity=known)
    for name in plan.other_models:
        variants[f"other:{name}"] = _other(name, recipes[DIVIDED])
    if peer.python:
        variants["peer"] = _peer(recipes[DIVIDED], peer, weights=None)
        if peer.weights:
            variants["peer_weights"] = _peer(recipes[DIVIDED], peer, weights=peer.weights)
    return variants


def why_without(plan: Plan, start: Start, peer: Peer) -> dict[str, str]:
    """Rows that are not trained for want of something, with the reason."""
    found = {}
    if plan.frozen and plan.frozen_model is None and start.is_random:
        found[FROZEN_NAME] = "the start is random weights, which tell nothing of a picture; give --frozen_model"
    weights_name = f"{PEER_NETWORK}, from given weights"
    if not peer.python:
        why = "no --peer_python was given: a 3D CNN comes from pytorchvideo, in an environment of its own"
        found |= dict.fromkeys((PEER_NAME, weights_name), why)
    elif not peer.weights:
        found[weights_name] = "no --peer_weights given"
    return found


def _peer(recipe: Mapping[str, Any], peer: Peer, *, weights: str | None) -> Variant:
    """SlowFast from random or given weights; its note says what differs from the schemes' training."""
    left_out = [key for key, neutral in _NOT_OF_PEER.items() if recipe.get(key, neutral) not in (neutral, None)]
    told = [
        "random weights"
        if weights is None
        else f"weights of {Path(weights).name}, its head random where labels differ",
        "the same clips, epochs, batch, label smoothing and class weights; AdamW with a cosine at the recipe's "
        "learning rate, which was chosen for none of the networks here; its slow pathway sees every fourth frame; the "
        "epoch is chosen by macro F1",
    ]
    if left_out:
        told.append(f"without the recipe's {', '.join(left_out)}")
    options, identity = {"peer_python": str(peer.python)}, {}
    if weights is not None:
        options["peer_weights"] = str(Path(weights).resolve())
        identity["peer_weights_hash"] = file_hash(Path(weights))
    name = PEER_NAME if weights is None else f"{PEER_NETWORK}, from {Path(weights).name}"
    return Variant(name, recipe, kind="peer", options=options, note="; ".join(told), identity=identity)


def _frozen_model(name: str, common: Mapping[str, Any], start: Start, plan: Plan) -> Variant:
    """As `_frozen` of another model than the schemes' start, on the same clips, of a size that its patches fill."""
    frozen, patch = find_frozen_start(name)
    base = config_on_disk(start.keys["model"], {}) if "model" in start.keys else {}
    own = {key: base[key] for key in (*_CLIP, "image_size") if base.get(key) is not None}
    own |= {key: value for key, value in common.items() if key not in STARTS} | dict(frozen.keys)
    note, side = "nothing is drawn: another seed gives the same", own.get("image_size", 224)
    if isinstance(patch, int) and isinstance(side, int) and side % patch:
        own["image_size"] = max(patch, side // patch * patch)
        note += f"; at {own['image_size']} px, which its patches of {patch} px fill"
    identity = {"start_weights": frozen.weights} if frozen.weights else {}
    made = replace(_frozen(own, plan), name=f"frozen {frozen.told} + logistic regression", note=note)
    return replace(made, identity=identity)


def _frozen(common: Mapping[str, Any], plan: Plan) -> Variant:
    """Each picture's embedding by the start as it is, averaged over the clip, and a head solved on them."""
    own = {key: value for key, value in common.items() if key not in _OF_TRAINING}
    own |= {"attention_type": "space_only", "trainable": "head", "cache_embeddings": True}
    own.setdefault("embedding_views", 3)
    return Variant(
        FROZEN_NAME,
        own,
        seeds=plan.seeds[:1],
        note="nothing is drawn: another seed gives the same",
    )


def _other(name: str, recipe: Mapping[str, Any]) -> Variant:
    located = str(Path(name).resolve()) if Path(name).exists() else name
    return Variant(
        f"{Path(name).name} (other model)" if Path(name).exists() else name,
        recipe,
        kind="other",
        options={"base": located},
        note="its own weights, frames and size; the recipe was chosen without it",
        identity={"start_weights": weights} if (weights := weights_hash(located)) else {},
    )


def _position_of(recipe: Mapping[str, Any], start: Start) -> str:
    """The position embedding of every scheme: the recipe's, the start's or both tables."""
    if recipe.get("position_embedding"):
        return str(recipe["position_embedding"])
    if "model" in start.keys:
        return str(config_on_disk(start.keys["model"], {}).get("position_embedding", "space_time"))
    return "space_time"
