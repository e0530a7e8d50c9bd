"""One start for every scheme: weights of pictures alone, so that none begins nearer to its end than another."""

import contextlib
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from transformers.utils.hub import cached_file

from railsformer.data.folders import whole_folder
from railsformer.data.transforms import PixelSettings
from railsformer.model.loading import IMAGE_MODEL_TYPES, config_on_disk
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification
from railsformer.training.arguments import STARTS

__all__ = ["Start", "file_hash", "find_frozen_start", "find_start", "weights_hash"]

logger = logging.getLogger(__name__)

SOURCE_FILE = "source.txt"
_HUB_WEIGHTS = "model.safetensors"
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class Start:
    """What every scheme starts from.

    Attributes:
        keys: Of a recipe: `model`, `image_model` or `from_scratch`.
        told: What it is, in one sentence for the report.
        weights: Short hash of its weights; None where they are random or cannot be told.
    """

    keys: Mapping[str, Any]
    told: str
    weights: str | None = None

    @property
    def is_random(self) -> bool:
        """Whether it is random weights."""
        return "from_scratch" in self.keys


def find_start(name: str | Path | None, recipe: Mapping[str, Any], *, folder: Path) -> Start:
    """The start of a comparison: an image model, a space_only checkpoint, the spatial part of a divided one, or none.

    Args:
        name: Folder or Hub id; None takes the recipe's.
        recipe: Keys of the recipe.
        folder: Where the spatial part of a divided checkpoint goes; one that is there is taken over.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If recipe and name give none, or the checkpoint was trained with a scheme that it would favour.
    """
    given = {key: recipe[key] for key in STARTS if recipe.get(key)}
    if name is None:
        if len(given) != 1:
            raise ValueError(
                f"a comparison needs one start for every scheme: give --model or --image_model, got "
                f"{' and '.join(given) or 'none'} in the recipe"
            )
        if "from_scratch" in given:
            return Start({"from_scratch": True}, "random weights of each seed")
        name = next(iter(given.values()))
    located = str(Path(name).resolve()) if Path(name).exists() else str(name)
    found = config_on_disk(located, {})
    shown = Path(located).name if Path(located).is_dir() else located
    copies, weights = "every attention step copies its attention", weights_hash(located)
    if found.get("model_type") in IMAGE_MODEL_TYPES:
        return Start({"image_model": located}, f"the image model {shown}: {copies}", weights)
    scheme = found.get("attention_type", "divided_space_time")
    if scheme == "space_only":
        return Start({"model": located}, f"the space_only checkpoint {shown}: {copies}", weights)
    if scheme != "divided_space_time":
        raise ValueError(
            f"{name} was trained with {scheme}, which would favour that scheme over the others: its attention has "
            "learned to look where only that scheme looks; start from an image model, a space_only or a divided one"
        )
    reduced = _spatial_part(located, weights, folder)
    told = (
        f"the spatial part of the divided checkpoint {shown}: its time attention and time table are left out, so that "
        "every attention step copies the spatial one; that part was trained beside time attention"
    )
    return Start({"model": str(reduced.resolve())}, told, weights_hash(reduced))


def find_frozen_start(name: str) -> tuple[Start, int | None]:
    """A model whose embeddings of single pictures a head is solved on, and its patches' side in pixels.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If its attention has learned to look over frames.
    """
    located = str(Path(name).resolve()) if Path(name).exists() else name
    found, shown = config_on_disk(located, {}), Path(name).name
    patch = found.get("patch_size", 16)
    if found.get("model_type") in IMAGE_MODEL_TYPES:
        return Start({"image_model": located}, shown, weights_hash(located)), patch
    if (scheme := found.get("attention_type", "divided_space_time")) not in ("space_only", "divided_space_time"):
        raise ValueError(
            f"--frozen_model must look at single pictures, got {name}, which was trained with {scheme}; name an image "
            "model, a space_only or a divided checkpoint"
        )
    return Start({"model": located}, shown, weights_hash(located)), patch


def weights_hash(name: str | Path) -> str | None:
    """Short hash of the weights of a folder or Hub id; None where there are none under the usual names."""
    files: list[Path] = []
    if Path(name).is_dir():
        files = sorted(path for pattern in _WEIGHTS for path in Path(name).glob(pattern))
    else:
        with contextlib.suppress(OSError, ValueError):  # not at hand, or split: the id alone names it
            held = try_to_load_from_cache(str(name), _HUB_WEIGHTS)
            if found := held if isinstance(held, str) else cached_file(str(name), _HUB_WEIGHTS):
                files = [Path(found)]
    return file_hash(*files) if files else None


def file_hash(*files: Path) -> str:
    """The first digits of the hash of what files hold."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()[:16]


def _spatial_part(name: str, weights: str | None, folder: Path) -> Path:
    """A space_only checkpoint of a divided one's patches, positions, spatial attention and MLPs, without a head.

    Raises:
        ValueError: If the folder holds the part of another checkpoint.
    """
    if (folder / SOURCE_FILE).is_file():
        held, *hashes = (folder / SOURCE_FILE).read_text(encoding="utf-8").split("\n")
        if held != name:
            raise ValueError(
                f"{folder} was made from {held}, now the start is {name}; take the old one or another --output_dir"
            )
        known = hashes[0] if hashes else ""  # a comparison of earlier versions kept none
        if known and weights and known != weights:
            raise ValueError(
                f"{folder} was made from {held} with weights {known}, now it has weights {weights}; take the old ones "
                "or another --output_dir"
            )
        return folder
    state = torch.get_rng_state()
    torch.manual_seed(0)  # of the head, which no training takes over
    model = RailsformerForVideoClassification.from_pretrained(
        name, attention_type="space_only", id2label={0: "LABEL_0", 1: "LABEL_1"}
    )
    torch.set_rng_state(state)
    model.config.negative_labels = None
    pixels = PixelSettings.from_pretrained(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as whole:
        model.save_pretrained(whole)
        pixels.save_pretrained(whole)
        (whole / SOURCE_FILE).write_text(f"{name}\n{weights or ''}\n", encoding="utf-8")
    logger.info("%s is divided: every scheme starts from its spatial part, %s", name, folder)
    return folder
