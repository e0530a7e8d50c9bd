"""What a run starts from: the model at the wanted clip size, its pixels, and which of its weights are trained."""

from typing import Any

from railsformer.data.clips import VideoDataset
from railsformer.data.transforms import IMAGENET_MEAN_STD, PixelSettings, TrainingAugmentation
from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification
from railsformer.training.arguments import DataArguments, ModelArguments, RunArguments

__all__ = ["build_model", "choose_augmentation", "choose_pixels", "choose_trainable"]


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


def choose_trainable(model: RailsformerForVideoClassification, run: RunArguments) -> None:
    """Freeze what `trainable` leaves out.

    Raises:
        ValueError: If there are fewer blocks than `trainable_blocks`.
    """
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
