"""Configuration of the TimeSformer family: the stock keys, the two missing schemes, positions and clips in time."""

import os
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import TimesformerConfig

ATTENTION_TYPES = ("divided_space_time", "joint_space_time", "space_only", "sparse_local_global", "axial")
POSITION_EMBEDDINGS = ("space_time", "space", "none")
# Schemes that the stock class computes as we do, so that a checkpoint may say `timesformer` and be loaded without us.
STOCK_ATTENTION_TYPES = ("divided_space_time", "joint_space_time")

_POSITIVE = (
    "num_frames",
    "frame_interval",
    "nominal_fps",
    "patch_size",
    "num_channels",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_labels",
)
# What a checkpoint that stock cannot compute carries: its code, which imports nothing else of this package.
_CODE_FILES = (
    "configuration_railsformer.py",
    "layers_railsformer.py",
    "modeling_railsformer.py",
    "token_grouping.py",
    "weights.py",
)
_AUTO_MAP = {
    "AutoConfig": "configuration_railsformer.RailsformerConfig",
    "AutoModel": "modeling_railsformer.RailsformerModel",
    "AutoModelForVideoClassification": "modeling_railsformer.RailsformerForVideoClassification",
}

__all__ = ["ATTENTION_TYPES", "POSITION_EMBEDDINGS", "STOCK_ATTENTION_TYPES", "RailsformerConfig"]


@strict
class RailsformerConfig(TimesformerConfig):
    """A `TimesformerConfig` that also says how a clip is cut from time.

    Args (beyond stock's):
        attention_type: One of `ATTENTION_TYPES`.
        position_embedding: `space_time` (both tables), `space` (no time table) or `none` (neither; CLS included).
        image_size: Side in pixels, or (height, width). Only square models load in stock transformers.
        frame_interval: Steps of the nominal rate between neighbouring frames of a clip.
        nominal_fps: Rate in frames per second in which `frame_interval` counts, whatever the video's own.
        stochastic_depth_rate: Drop path of the last block; linear from 0 in the first. Stock's `drop_path_rate` stays
            0, because stock takes no fraction there (it is typed int).
        negative_labels: Names of the classes that mean 'nothing dangerous'.

    Raises:
        ValueError: If a value is outside what is named above; the message gives the name and the value.
    """

    model_type = "railsformer"

    position_embedding: str = "space_time"
    frame_interval: int = 32
    nominal_fps: float | int = 30.0
    stochastic_depth_rate: float | int = 0.0
    negative_labels: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Check what the stock class leaves unchecked."""
        super().__post_init__(**kwargs)
        if self.attention_type not in ATTENTION_TYPES:
            raise ValueError(
                f"attention_type must be one of {', '.join(ATTENTION_TYPES)}, got {self.attention_type!r}"
            )
        if self.position_embedding not in POSITION_EMBEDDINGS:
            expected = ", ".join(POSITION_EMBEDDINGS)
            raise ValueError(f"position_embedding must be one of {expected}, got {self.position_embedding!r}")
        if not isinstance(self.patch_size, int):
            raise ValueError(f"patch_size must be one integer (square patches), got {self.patch_size!r}")
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}")
        for side in self.image_height_width:
            if side <= 0 or side % self.patch_size:
                raise ValueError(
                    f"image_size must be a multiple of patch_size {self.patch_size}, got {self.image_size!r}; "
                    f"pixels that do not fill a patch would be lost"
                )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads {self.num_attention_heads}, "
                f"got {self.hidden_size}"
            )
        if not 0 <= self.stochastic_depth_rate < 1:
            raise ValueError(f"stochastic_depth_rate must be in [0, 1), got {self.stochastic_depth_rate!r}")
        if self.drop_path_rate:
            raise ValueError(
                f"drop_path_rate must stay 0, got {self.drop_path_rate!r}; set stochastic_depth_rate instead"
            )

    @property
    def image_height_width(self) -> tuple[int, int]:
        """Height and width in pixels."""
        if isinstance(self.image_size, int):
            return self.image_size, self.image_size
        height, width = self.image_size
        return height, width

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along the height and the width."""
        height, width = self.image_height_width
        return height // self.patch_size, width // self.patch_size

    @property
    def clip_seconds(self) -> float:
        """Seconds from the first frame of a clip to the end of its last interval."""
        return self.num_frames * self.frame_interval / self.nominal_fps

    @property
    def loads_in_stock(self) -> bool:
        """Whether stock `timesformer` gives this model's logits."""
        height, width = self.image_height_width
        return self.attention_type in STOCK_ATTENTION_TYPES and height == width

    def to_dict(self) -> dict[str, Any]:
        """The stock dictionary; what stock computes alike calls itself `timesformer`, the rest names its code."""
        output = super().to_dict()
        if not self.loads_in_stock:
            output["auto_map"] = dict(_AUTO_MAP)
        else:
            output.pop("auto_map", None)
            output["model_type"] = TimesformerConfig.model_type
            output["image_size"] = self.image_height_width[0]
            names = output.get("architectures") or []
            output["architectures"] = [name.replace("Railsformer", "Timesformer") for name in names] or None
        return output

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """As stock; a model that stock cannot compute takes its code along, for `trust_remote_code=True`."""
        if not self.loads_in_stock and self._auto_class is None:  # loaded as such code, transformers copies it itself
            folder = Path(save_directory)
            folder.mkdir(parents=True, exist_ok=True)
            for name in _CODE_FILES:
                shutil.copyfile(Path(__file__).with_name(name), folder / name)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """As stock, but a `timesformer` checkpoint is ours too and needs no warning about its type."""
        config, unused = super().get_config_dict(*args, **kwargs)
        if cls is RailsformerConfig and config.get("model_type") == TimesformerConfig.model_type:
            config["model_type"] = cls.model_type
        return config, unused
