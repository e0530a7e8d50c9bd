"""Frames to `pixel_values`, as the stock image processor of the saved model does it.

Pictures are resized by Pillow, bilinear with antialiasing, like `VideoMAEImageProcessorPil`, so that what we evaluate
is what stock transformers computes from the same frames.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.utils import cached_file

__all__ = ["PixelSettings", "TrainingAugmentation", "evaluation_crops", "evaluation_pixels", "training_pixels"]

TIMESFORMER_MEAN_STD = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
IMAGENET_MEAN_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class PixelSettings:
    """Size and normalisation of a model's input: what preprocessor_config.json holds.

    Args:
        crop_px: Side of the square that the model sees.
        short_side_px: Short side to which a picture is resized before the centre crop.
        mean: Per channel, of pixels in [0, 1].
        std: Per channel.

    Raises:
        ValueError: If the crop is larger than the resized picture.
    """

    crop_px: int
    short_side_px: int
    mean: tuple[float, ...] = TIMESFORMER_MEAN_STD[0]
    std: tuple[float, ...] = TIMESFORMER_MEAN_STD[1]

    def __post_init__(self) -> None:
        if not 0 < self.crop_px <= self.short_side_px:
            raise ValueError(f"short_side_px must be at least crop_px {self.crop_px}, got {self.short_side_px}")

    @classmethod
    def from_pretrained(cls, name: str | Path) -> "PixelSettings":
        """Read preprocessor_config.json of a model folder or Hub repository.

        Raises:
            FileNotFoundError: If it has none.
        """
        if Path(name).name.startswith("checkpoint-") and not Path(name, "preprocessor_config.json").is_file():
            name = Path(name).parent  # a run's checkpoints share its processor
        try:
            path = cached_file(str(name), "preprocessor_config.json")
        except OSError as error:
            raise FileNotFoundError(
                f"{name}: no preprocessor_config.json; it must say how the model's pixels are sized and normalised: "
                "name a run folder, or copy it from the base model"
            ) from error
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "PixelSettings":
        """From the keys of an image processor's config; TimeSformer's values where it has none.

        Raises:
            ValueError: If the model's input is not square.
        """
        short_side = _side(config, "size") or 224
        crop_side = _side(config, "crop_size") if config.get("do_center_crop", True) else None
        mean, std = TIMESFORMER_MEAN_STD
        if config.get("do_normalize", True):
            mean, std = tuple(config.get("image_mean") or mean), tuple(config.get("image_std") or std)
        else:
            mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        return cls(crop_px=min(crop_side or short_side, short_side), short_side_px=short_side, mean=mean, std=std)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write preprocessor_config.json, which stock `AutoImageProcessor` and `pipeline` read."""
        config = {
            "image_processor_type": "VideoMAEImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": self.short_side_px},
            "resample": 2,
            "do_center_crop": True,
            "crop_size": {"height": self.crop_px, "width": self.crop_px},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }
        path = Path(folder) / "preprocessor_config.json"
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class TrainingAugmentation:
    """What training varies; one draw a clip, the same for all of its frames.

    Args:
        min_short_side_px: Smallest short side of the jitter, before a random crop.
        max_short_side_px: Largest.
        flip: Mirror half of the clips; wrong where left and right are the label.
        light: Strength of random brightness, contrast and gamma; 0 leaves the light as it is.
        grey: Share of clips shown without colour.

    Raises:
        ValueError: If a value is out of range.
    """

    min_short_side_px: int
    max_short_side_px: int
    flip: bool = False
    light: float = 0.0
    grey: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.min_short_side_px <= self.max_short_side_px:
            raise ValueError(
                f"max_short_side_px must be at least min_short_side_px {self.min_short_side_px}, "
                f"got {self.max_short_side_px}"
            )
        for name in ("light", "grey"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)!r}")


def evaluation_pixels(frames: np.ndarray, settings: PixelSettings) -> torch.Tensor:
    """Resize the short side, crop the centre, normalise.

    Args:
        frames: RGB, uint8, shape (T, height, width, 3).
        settings: The model's input.

    Returns:
        `pixel_values`, float32, shape (T, 3, crop_px, crop_px).
    """
    pictures = _resize_short_side(frames, settings.short_side_px)
    height, width = pictures[0].shape[:2]
    top, left = (height - settings.crop_px) // 2, (width - settings.crop_px) // 2
    crop = slice(top, top + settings.crop_px), slice(left, left + settings.crop_px)
    return _normalise(np.stack([picture[crop] for picture in pictures]), settings)


def evaluation_crops(frames: np.ndarray, settings: PixelSettings) -> torch.Tensor:
    """Resize the short side to the crop, take three crops along the long side, normalise.

    Left, centre and right of a wide picture, top, centre and bottom of a high one: together they show all of it up to
    an aspect of 3, as in TimeSformer's tests (facebookresearch/TimeSformer, TEST.NUM_SPATIAL_CROPS 3). The short side
    is `crop_px`, not `short_side_px`. The three crops of a square picture are the same: they change no score there and
    cost three forward passes.

    Args:
        frames: RGB, uint8, shape (T, height, width, 3).
        settings: The model's input.

    Returns:
        `pixel_values`, float32, shape (3, T, 3, crop_px, crop_px), in that order of crops.
    """
    side = settings.crop_px
    pictures = np.stack(_resize_short_side(frames, side))
    height, width = pictures.shape[1:3]
    free_y, free_x = height - side, width - side  # at least one of them is 0
    corners = ((0, 0), (free_y // 2, free_x // 2), (free_y, free_x))
    crops = [pictures[:, top : top + side, left : left + side] for top, left in corners]
    return torch.stack([_normalise(crop, settings) for crop in crops])


def training_pixels(
    frames: np.ndarray, settings: PixelSettings, augmentation: TrainingAugmentation, rng: np.random.Generator
) -> torch.Tensor:
    """Jitter the short side, crop at random, vary the light, normalise: one draw for all frames of the clip.

    Args:
        frames: RGB, uint8, shape (T, height, width, 3).
        settings: The model's input.
        augmentation: What varies.
        rng: Source of every draw.

    Returns:
        `pixel_values`, float32, shape (T, 3, crop_px, crop_px).
    """
    height, width = frames.shape[1:3]
    short_side = int(rng.integers(augmentation.min_short_side_px, augmentation.max_short_side_px + 1))
    # Crop and resize in one: the crop's side in source pixels, then straight to crop_px.
    side = min(settings.crop_px / max(short_side, settings.crop_px), 1.0) * min(height, width)
    left, top = rng.random() * (width - side), rng.random() * (height - side)
    box = (left, top, min(left + side, width), min(top + side, height))  # rounding must not leave the picture
    target = (settings.crop_px, settings.crop_px)
    pictures = np.stack(
        [np.asarray(Image.fromarray(frame).resize(target, Image.Resampling.BILINEAR, box=box)) for frame in frames]
    )
    if rng.random() < 0.5 and augmentation.flip:
        pictures = pictures[:, :, ::-1]
    return _normalise(_vary_light(pictures, augmentation, rng), settings)


def _resize_short_side(frames: np.ndarray, short_side_px: int) -> list[np.ndarray]:
    """Pictures (height, width, 3) resized so that the shorter of height and width is `short_side_px`."""
    height, width = frames.shape[1:3]
    short = min(height, width)
    # The long side is cut, not rounded, as transformers' get_resize_output_image_size does.
    new_height = short_side_px if height == short else int(short_side_px * height / width)
    new_width = short_side_px if width == short else int(short_side_px * width / height)
    size = (new_width, new_height)
    return [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR)) for frame in frames]


def _side(config: dict[str, Any], key: str) -> int | None:
    """Side in px of a square given as a number, a short side, or height and width."""
    size = config.get(key) or {}
    if isinstance(size, int):
        return size
    if size.get("height") != size.get("width"):
        raise ValueError(f"{key} must be square, got {size['height']} x {size['width']} px (height x width)")
    return size.get("shortest_edge") or size.get("height")


def _vary_light(pictures: np.ndarray, augmentation: TrainingAugmentation, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, gamma and loss of colour, through one table of 256 entries."""
    brightness, contrast, gamma = rng.uniform(-1, 1, size=3) * augmentation.light
    colourless = rng.random() < augmentation.grey
    if augmentation.light:
        levels = (np.arange(256) / 255.0) ** (2.0**gamma)
        levels = (levels - 0.5) * (1 + 0.5 * contrast) + 0.5 + 0.3 * brightness
        pictures = (np.clip(levels, 0, 1) * 255).round().astype(np.uint8)[pictures]
    if colourless:
        luma = pictures @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        pictures = np.repeat(luma.round().astype(np.uint8)[..., None], 3, axis=-1)
    return pictures


def _normalise(pictures: np.ndarray, settings: PixelSettings) -> torch.Tensor:
    """uint8 (T, y, x, 3) -> float32 (T, 3, y, x)."""
    pixels = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).float().div_(255)
    return pixels.sub_(_column(settings.mean)).div_(_column(settings.std))


def _column(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
