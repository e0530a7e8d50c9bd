"""What a run starts from: the model at the wanted clip size, its pixels, and which of its weights are trained."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import datasets
import torch

from railsformer.data.clips import ClipDataset, VideoDataset, collate_training_clips
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import IMAGENET_MEAN_STD, PixelSettings, TrainingAugmentation
from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification
from railsformer.training.arguments import DataArguments, ModelArguments, RunArguments, Settings
from railsformer.training.lora import add_lora
from railsformer.training.losses import ClipLoss, effective_number_weights
from railsformer.training.mixing import MixedClips, collate_mixed_clips
from railsformer.training.samplers import EpochSampler, even_chances

__all__ = [
    "TrainingClips",
    "build_model",
    "choose_augmentation",
    "choose_clips",
    "choose_loss",
    "choose_pixels",
    "choose_trainable",
    "fill_time_table",
    "groups_of",
]

DEFAULT_BETA = 0.999


class TrainingClips(NamedTuple):
    """What training shows.

    Args:
        clips: The clips; mixed where the recipe says so.
        sampler: Their order.
        collate: Makes a batch of them.
    """

    clips: ClipDataset | MixedClips
    sampler: EpochSampler
    collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]


def build_model(arguments: ModelArguments, dataset: VideoDataset) -> RailsformerForVideoClassification:
    """The model to train: base weights at the wanted clip size, a new head with the dataset's labels.

    Raises:
        FileNotFoundError: If the base is not there.
        ValueError: If the base does not fit.
    """
    shape: dict[str, Any] = {
        name: getattr(arguments, name)
        for name in ("attention_type", "num_frames", "image_size", "position_embedding")
        if getattr(arguments, name) is not None
    }
    names = dict(enumerate(dataset.labels))
    labels: dict[str, Any] = {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    cls = RailsformerForVideoClassification
    if arguments.model:
        model = cls.from_pretrained(arguments.model, **shape, **labels)
    elif arguments.image_model:
        defaults: dict[str, Any] = {"num_frames": 8, "image_size": 224, "attention_type": "divided_space_time"}
        model = cls.from_image_model(arguments.image_model, **{**defaults, **shape}, **labels)
    else:
        sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size")
        sized = {name: getattr(arguments, name) for name in sizes}
        model = cls(RailsformerConfig(**sized, **shape, **labels))
    if arguments.time_table == "sinusoidal":
        fill_time_table(model)
    negatives = arguments.negative_labels or [name for name in dataset.labels if name == "Other"]
    unknown = set(negatives) - set(dataset.labels)
    if unknown:
        raise ValueError(
            f"negative_labels must be labels of the dataset ({', '.join(dataset.labels)}), got {sorted(unknown)[0]!r}"
        )
    config = model.config
    config.negative_labels = negatives
    for name in ("nominal_fps", "frame_interval", "short_video", "clip_sampling", "stochastic_depth_rate"):
        if getattr(arguments, name) is not None:
            setattr(config, name, getattr(arguments, name))
    if arguments.stochastic_depth_rate is not None:
        for layer in model.timesformer.encoder.layer:
            layer.set_drop_path(config)
    return model


@torch.no_grad()
def fill_time_table(model: RailsformerForVideoClassification) -> bool:
    """Give a learned time table of zeros sines and cosines over the clip, as large as the position table's rows.

    From zeros the table has to grow before attention can tell frames apart. Frequencies go from half a wave over the
    clip to a wave of four frames; each column's mean over time is taken off, so that on average a clip's patches stay
    what the start makes of them.

    Args:
        model: Changed in place; a table that holds something, is left out or has one frame stays as it is.

    Returns:
        Whether the table was filled.
    """
    embeddings = model.timesformer.embeddings
    table = dict(embeddings.named_parameters(recurse=False)).get("time_embeddings")
    if table is None or table.shape[1] == 1 or table.any():
        return False
    num_frames, width = table.shape[1:]
    frequency = (num_frames / 2) ** torch.linspace(0, 1, (width + 1) // 2)
    angle = torch.arange(num_frames)[:, None] / num_frames * math.pi * frequency
    waves = torch.cat((angle.sin(), angle.cos()), dim=1)[:, :width]
    waves -= waves.mean(dim=0)
    rows = embeddings.position_embeddings[0, 1:].float()
    size = rows.square().mean().sqrt() if rows.any() else torch.tensor(float(model.config.initializer_range))
    table.copy_(waves * (size / waves.square().mean().sqrt()))
    return True


def choose_pixels(arguments: ModelArguments, data: DataArguments, config: RailsformerConfig) -> PixelSettings:
    """Size from the model, normalisation from the base: .45/.225 for TimeSformer, the image model's own otherwise."""
    crop = config.image_height_width[0]
    short_side = data.eval_short_side_px or crop
    base = arguments.model or arguments.image_model
    try:
        found = PixelSettings.from_pretrained(base) if base else PixelSettings(crop, crop)
        mean, std = found.mean, found.std
    except FileNotFoundError:
        if arguments.model:
            raise
        mean, std = IMAGENET_MEAN_STD
    return PixelSettings(crop_px=crop, short_side_px=short_side, mean=mean, std=std)


def choose_augmentation(data: DataArguments, pixels: PixelSettings) -> TrainingAugmentation:
    """The recipe's augmentation; the paper's jitter (256 to 320 px for a crop of 224) where it gives none.

    Raises:
        ValueError: If the jitter's range is empty or reaches below the crop.
    """
    if data.min_short_side_px is not None and data.min_short_side_px < pixels.crop_px:
        raise ValueError(
            f"min_short_side_px must be at least the crop of {pixels.crop_px} px, got {data.min_short_side_px}"
        )
    return TrainingAugmentation(
        min_short_side_px=data.min_short_side_px or round(pixels.crop_px * 256 / 224),
        max_short_side_px=data.max_short_side_px or round(pixels.crop_px * 320 / 224),
        flip=data.flip,
        light=data.light,
        grey=data.grey,
    )


def choose_clips(
    settings: Settings, rows: datasets.Dataset, *, config: RailsformerConfig, pixels: PixelSettings, batch_size: int
) -> TrainingClips:
    """The training clips of a recipe, their order and how they become a batch.

    Args:
        settings: The recipe.
        rows: Rows of the training split.
        config: Of the model.
        pixels: The model's input.
        batch_size: Clips of an optimizer step over all processes and accumulation steps.

    Raises:
        ValueError: If the augmentation does not fit the pixels, or a step cannot hold a clip's repeated draws.
    """
    data, seed = settings.data, settings.run.seed
    plain = ClipDataset(
        rows,
        sampling=ClipSampling.from_config(config),
        pixels=pixels,
        augmentation=choose_augmentation(data, pixels),
        seed=seed,
        keep_lost=True,
    )
    groups, balance = groups_of(rows), data.class_balance in ("sampler", "both")
    clips: ClipDataset | MixedClips = plain
    collate: Callable[..., dict[str, Any]] = collate_training_clips
    if data.mixup_alpha:
        chances = even_chances(plain.labels, groups) if balance else None
        clips = MixedClips(plain, alpha=data.mixup_alpha, partner_chances=chances)
        collate = collate_mixed_clips
    sampler = EpochSampler(
        clips, groups=groups, seed=seed, balance=balance, batch_size=batch_size, repeats=data.repeated_augmentation
    )
    return TrainingClips(clips, sampler, collate)


def groups_of(rows: datasets.Dataset) -> list[str]:
    """Group of each row: its camera or recording, or nothing where the dataset has no such column."""
    return [str(group) for group in rows["group"]] if "group" in rows.column_names else [""] * len(rows)


def choose_trainable(model: RailsformerForVideoClassification, run: RunArguments) -> None:
    """Freeze what `trainable` leaves out, or all but adapters, head and time table with `lora_rank`.

    Raises:
        ValueError: If there are fewer blocks than `trainable_blocks`, or adapters do not fit.
    """
    if run.lora_rank is not None:
        add_lora(model, run)
        return
    if run.trainable == "all":
        return
    blocks = model.config.num_hidden_layers
    if (run.trainable_blocks or 0) > blocks:
        raise ValueError(f"trainable_blocks must be at most {blocks}, the model's blocks, got {run.trainable_blocks}")
    first_block = blocks - (run.trainable_blocks or blocks)
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        in_time = "time_embeddings" in name or (
            any(part.startswith("temporal_") for part in parts) and int(parts[parts.index("layer") + 1]) >= first_block
        )
        parameter.requires_grad_(name.startswith("classifier.") or (run.trainable == "time" and in_time))


def choose_loss(data: DataArguments, run: RunArguments, *, labels: Sequence[int], num_labels: int) -> ClipLoss:
    """The training loss of a recipe.

    Args:
        data: With class_balance and effective_number_beta.
        run: With focal_gamma and label_smoothing_factor.
        labels: Class index of each clip of the training split: every process computes the same weights from them.
        num_labels: Number of classes.
    """
    weights = None
    if data.class_balance in ("loss", "both"):
        beta = DEFAULT_BETA if data.effective_number_beta is None else data.effective_number_beta
        chosen = effective_number_weights(
            labels, num_labels=num_labels, beta=beta, drawn_evenly=data.class_balance == "both"
        )
        weights = tuple(chosen.tolist())
    return ClipLoss(weights, focal_gamma=run.focal_gamma, label_smoothing=run.label_smoothing_factor)
