"""The variants that are trained for the comparison of accuracy, each a whole recipe of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from railsformer.compare.cells import Variant
from railsformer.compare.starts import Start
from railsformer.model.configuration_railsformer import ATTENTION_TYPES, POSITION_EMBEDDINGS
from railsformer.model.loading import config_on_disk
from railsformer.training.arguments import STARTS

__all__ = ["PEER_NAME", "Plan", "View", "plan_variants"]

View = tuple[int, int]  # clips, crops
PEER_NAME = "3D CNN (SlowFast R50, pytorchvideo), from scratch"
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


def plan_variants(
    plan: Plan, recipe: Mapping[str, Any], start: Start, *, peer_python: str | None = None
) -> dict[str, Variant]:
    """All that is trained, by key: a scheme, `position:NAME`, `frozen`, `other:NAME`, `peer`.

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
            "take a recipe with trainable all, or --schemes divided_space_time alone"
        )
    common = {key: value for key, value in recipe.items() if key not in _OWN} | dict(start.keys)
    base = _position_of(recipe, start)
    chosen = {"position_embedding": base}
    variants = {name: Variant(name, {**common, **chosen, "attention_type": name}) for name in plan.schemes}
    divided = Variant(DIVIDED, {**common, **chosen, "attention_type": DIVIDED})
    for name in plan.positions:
        own = {**divided.recipe, "position_embedding": name}
        variants[f"position:{name}"] = divided if name == base else Variant(f"{DIVIDED}-position_{name}", own)
    if plan.frozen and not start.is_random:
        variants["frozen"] = _frozen(common, plan)
    for name in plan.other_models:
        variants[f"other:{name}"] = _other(name, {**common, **chosen, "attention_type": DIVIDED})
    if peer_python:
        variants["peer"] = Variant(
            PEER_NAME,
            {**common, **chosen, "attention_type": DIVIDED},
            kind="peer",
            options={"peer_python": peer_python},
            note="random weights; the same clips, epochs and batch, AdamW at the recipe's learning rate, which was "
            "chosen for none of the networks here",
        )
    return variants


def _frozen(common: Mapping[str, Any], plan: Plan) -> Variant:
    """Each picture's embedding by the start as it is, averaged over the clip, and a head solved on them."""
    own = {key: value for key, value in common.items() if key not in _OF_TRAINING}
    own |= {"attention_type": "space_only", "trainable": "head", "cache_embeddings": True}
    own.setdefault("embedding_views", 3)
    return Variant(
        "frozen start + logistic regression",
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
    )


def _position_of(recipe: Mapping[str, Any], start: Start) -> str:
    """The position embedding of every scheme: the recipe's, the start's or both tables."""
    if recipe.get("position_embedding"):
        return str(recipe["position_embedding"])
    if "model" in start.keys:
        return str(config_on_disk(start.keys["model"], {}).get("position_embedding", "space_time"))
    return "space_time"
