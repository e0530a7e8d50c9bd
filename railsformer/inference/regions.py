"""What part of a camera's picture is looked at: polygons or a mask, drawn once for a fixed camera."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, UnidentifiedImageError

from railsformer.data.transforms import PixelSettings

__all__ = ["Region"]

_SHAPE = "polygons are [[[x, y], [x, y], [x, y], ...], ...] with x and y from 0 (left, top) to 1 (right, bottom)"
_LOOKED_AT = 128  # grey level of a mask from which on a pixel is looked at

Polygon = tuple[tuple[float, float], ...]


@dataclass(frozen=True, eq=False)
class Region:
    """The part of a picture that is looked at, whatever the picture's size.

    Args:
        polygons: Corners in shares of width and height; what lies in any of them is looked at.
        picture: A mask instead, bool, shape (height, width).

    Raises:
        ValueError: If neither or both are given, or nothing at all would be looked at.
    """

    polygons: tuple[Polygon, ...] = ()
    picture: np.ndarray | None = None
    _masks: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if bool(self.polygons) == (self.picture is not None):
            raise ValueError(f"a region is either polygons or a mask, got {'both' if self.polygons else 'neither'}")
        if not self.mask(256, 256).any():
            raise ValueError("the region holds nothing to look at; draw it larger")

    @classmethod
    def read(cls, source: str | Path) -> "Region":
        """Read a region.

        Args:
            source: JSON text of polygons, a JSON file of them, or a picture (PNG) in which white is looked at.

        Raises:
            FileNotFoundError: If it is a name and there is no such file.
            ValueError: If it is no region.
        """
        text = str(source).strip()
        if text.startswith("["):
            return cls(polygons=_polygons(text, "region"))
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"region {path}: no such file; name a JSON file, a PNG mask, or give the polygons")
        if path.suffix.lower() == ".json":
            return cls(polygons=_polygons(path.read_text(encoding="utf-8", errors="replace"), f"region {path}"))
        try:
            with Image.open(path) as picture:
                return cls(picture=np.asarray(_flat(picture)) >= _LOOKED_AT)
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
            raise ValueError(f"region {path}: no picture ({error}); name a .json file or a PNG mask") from error

    def mask(self, height: int, width: int) -> np.ndarray:
        """Whether each pixel of a picture is looked at, shape (height, width)."""
        if (height, width) not in self._masks:
            self._masks[height, width] = self._draw(height, width)
        return self._masks[height, width]

    @property
    def digest(self) -> str:
        """What is looked at, whatever file or text says so."""
        return hashlib.sha256(np.packbits(self.mask(256, 256)).tobytes()).hexdigest()

    def fill(self, rgb: np.ndarray, pixels: PixelSettings) -> np.ndarray:
        """Paint what is outside in the mean colour of the model's training, which it sees as zero.

        Args:
            rgb: Pictures, uint8, shape (..., height, width, 3).
            pixels: The model's input.

        Returns:
            New pictures of the same shape.
        """
        mean = np.round(255 * np.asarray(pixels.mean)).astype(np.uint8)
        return np.where(self.mask(*rgb.shape[-3:-1])[..., None], rgb, mean)

    def _draw(self, height: int, width: int) -> np.ndarray:
        if self.picture is not None:
            mask = Image.fromarray(self.picture.astype(np.uint8) * 255)
            return np.asarray(mask.resize((width, height), Image.Resampling.NEAREST)) > 0
        canvas = Image.new("L", (width, height), 0)
        for polygon in self.polygons:
            # The centre of pixel i lies at i + 0.5.
            ImageDraw.Draw(canvas).polygon([(x * width - 0.5, y * height - 0.5) for x, y in polygon], fill=255)
        return np.asarray(canvas) > 0


def _flat(picture: Image.Image) -> Image.Image:
    """Grey levels; what is transparent is black."""
    layers = picture.convert("LA")
    return Image.composite(layers.getchannel("L"), Image.new("L", picture.size, 0), layers.getchannel("A"))


def _polygons(text: str, name: str) -> tuple[Polygon, ...]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name} is no JSON ({error}); {_SHAPE}") from error
    if isinstance(content, list) and content and _is_point(content[0]):
        content = [content]  # one polygon, without the outer brackets
    if not isinstance(content, list) or not content:
        raise ValueError(f"{name}: {_SHAPE}, got {_short(content)}")
    return tuple(_polygon(polygon, name) for polygon in content)


def _polygon(content: Any, name: str) -> Polygon:
    if not isinstance(content, list) or len(content) < 3 or not all(map(_is_point, content)):
        raise ValueError(f"{name}: a polygon has at least three points; {_SHAPE}, got {_short(content)}")
    if not all(0 <= value <= 1 for point in content for value in point):
        raise ValueError(f"{name}: {_SHAPE}, got {_short(content)}; divide px by the picture's width and height")
    return tuple((float(x), float(y)) for x, y in content)


def _is_point(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) == 2 and all(_is_number(each) for each in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
