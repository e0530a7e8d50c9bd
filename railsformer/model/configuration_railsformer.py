"""Configuration of the TimeSformer family: the stock keys, the two missing schemes, positions and clips in time."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import TimesformerConfig

ATTENTION_TYPES = ("divided_space_time", "joint_space_time", "space_only", "sparse_local_global", "axial")
POSITION_EMBEDDINGS = ("space_time", "space", "none")
SHORT_VIDEO_RULES = ("hold", "loop", "stretch")
CLIP_RULES = ("interval", "segments")
# Schemes that the stock class computes as we do, so that a checkpoint may say `timesformer` and be loaded without us.
STOCK_ATTENTION_TYPES = ("divided_space_time", "joint_space_time")

_NAMED = {
    "attention_type": ATTENTION_TYPES,
    "position_embedding": POSITION_EMBEDDINGS,
    "short_video": SHORT_VIDEO_RULES,
    "clip_sampling": CLIP_RULES,
}
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
_SHARES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "stochastic_depth_rate")
# What a checkpoint that stock cannot compute carries: its code, which imports nothing else of this package.
_CODE_FILES = (
    "configuration_railsformer.py",
    "layers_railsformer.py",
    "loading.py",
    "modeling_railsformer.py",
    "token_grouping.py",
    "weights.py",
)
_AUTO_MAP = {
    "AutoConfig": "configuration_railsformer.RailsformerConfig",
    "AutoModel": "modeling_railsformer.RailsformerModel",
    "AutoModelForVideoClassification": "modeling_railsformer.RailsformerForVideoClassification",
}

__all__ = [
    "ATTENTION_TYPES",
    "CLIP_RULES",
    "POSITION_EMBEDDINGS",
    "SHORT_VIDEO_RULES",
    "STOCK_ATTENTION_TYPES",
    "RailsformerConfig",
]


def _plain_errors(cls: Any) -> Any:
    """A value of the wrong type is a ValueError of one line, as every other value that is refused."""
    assign = cls.__setattr__

    def checked(self: Any, name: str, value: Any) -> None:
        try:
            assign(self, name, value)
        except StrictDataclassFieldValidationError as error:
            kind = cls.__dataclass_fields__[name].type
            expected = kind.__name__ if isinstance(kind, type) else kind
            fix = "; set stochastic_depth_rate instead" if name == "drop_path_rate" else ""
            raise ValueError(f"{name} must be {expected}, got {value!r}{fix}") from error

    cls.__setattr__ = checked
    return cls


@_plain_errors
@strict
class RailsformerConfig(TimesformerConfig):
    """A `TimesformerConfig` that also says how a clip is cut from time.

    Args (beyond stock's):
        attention_type: One of `ATTENTION_TYPES`.
        position_embedding: `space_time` (both tables), `space` (no time table) or `none` (neither; CLS included).
        image_size: Side in pixels, or (height, width). Only square models load in stock transformers.
        frame_interval: Steps of the nominal rate between neighbouring frames of a clip.
        nominal_fps: Rate in frames per second in which `frame_interval` counts, whatever the video's own.
        short_video: What fills a clip that is longer than its video: `hold` the last picture, `loop`, or `stretch` (a
            smaller interval).
        clip_sampling: `interval` (frames a fixed time apart) or `segments` (one frame from each of num_frames equal
            parts of the video).
        stochastic_depth_rate: Drop path of the last block; linear from 0 in the first. Stock's `drop_path_rate` stays
            0, because stock takes no fraction there (it is typed int).
        negative_labels: Names of the classes that mean 'nothing dangerous'.

    Of `id2label` and `label2id` one is enough; where they differ, as stock leaves them, `id2label` holds.

    Raises:
        ValueError: If a value is outside what is named above; the message gives the name and the value.
    """

    model_type = "railsformer"

    position_embedding: str = "space_time"
    frame_interval: int = 32
    nominal_fps: float | int = 30.0
    short_video: str = "hold"
    clip_sampling: str = "interval"
    stochastic_depth_rate: float | int = 0.0
    negative_labels: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Check what the stock class leaves unchecked."""
        self._complete_labels(kwargs.get("num_labels"))
        super().__post_init__(**kwargs)
        self._check_numbers()
        self._check_shape()
        self._check_negative_labels()

    def _complete_labels(self: Any, num_labels: int | None) -> None:
        names = self.id2label if self.id2label is not None else _named(self.label2id or {})
        if not names:
            return
        if num_labels not in (None, len(names)):
            raise ValueError(
                f"num_labels must agree with the {len(names)} names of the labels, got {num_labels!r}; leave it out"
            )
        self.id2label = {int(index): name for index, name in names.items()}
        self.label2id = {name: index for index, name in self.id2label.items()}

    def _check_numbers(self) -> None:
        from transformers.activations import ACT2FN  # brings torch, which a config alone does not need

        for name, known in _NAMED.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if not isinstance(self.patch_size, int):
            raise ValueError(f"patch_size must be one integer (square patches), got {self.patch_size!r}")
        for name in _POSITIVE:
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be {'positive' if value <= 0 else 'finite'}, got {value!r}")
        for name in _SHARES:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)!r}")
        if self.drop_path_rate:
            raise ValueError(
                f"drop_path_rate must stay 0, got {self.drop_path_rate!r}; set stochastic_depth_rate instead"
            )
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act must be one of {', '.join(sorted(ACT2FN))}, got {self.hidden_act!r}")

    def _check_shape(self) -> None:
        if not isinstance(self.image_size, int) and len(self.image_size) != 2:
            raise ValueError(f"image_size must be one side or (height, width), got {self.image_size!r}")
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

    def _check_negative_labels(self) -> None:
        names = list((self.id2label or {}).values())
        if names == [f"LABEL_{index}" for index in range(len(names))]:
            return  # stock's placeholders: the labels are still to come
        unknown = [name for name in self.negative_labels or [] if name not in names]
        if unknown:
            raise ValueError(
                f"negative_labels must be names of labels ({', '.join(map(str, names[:8]))}), got {unknown[0]!r}"
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
        """Seconds from the first frame of a clip to the end of its last interval, with clip_sampling `interval`."""
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
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As stock, but keywords are checked as what stands in the file is, and new labels replace all old ones.

        Args:
            config_dict: The settings, as in config.json.
            **kwargs: Keys of the config that replace them, and what stock takes.

        Raises:
            ValueError: If a value is refused, or the label keywords contradict each other.
        """
        known = {*cls.__dataclass_fields__, "num_labels"} - {"dtype"}
        asked = {key: kwargs.pop(key) for key in list(kwargs) if key in known}
        return super().from_dict(_with_labels(config_dict, asked), **kwargs)

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """As stock, but a `timesformer` checkpoint is ours too and needs no warning about its type."""
        config, unused = super().get_config_dict(*args, **kwargs)
        if cls is RailsformerConfig and config.get("model_type") == TimesformerConfig.model_type:
            config["model_type"] = cls.model_type
        return config, unused


def _named(label2id: Mapping[str, Any]) -> dict[int, str]:
    """Names by index."""
    return dict(sorted((int(index), name) for name, index in label2id.items()))


def _with_labels(settings: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with what is asked for; labels asked for in any way replace all that is said of the old ones."""
    ids = {int(index): name for index, name in (asked.get("id2label") or {}).items()}
    names = _named(asked.get("label2id") or {})
    if ids and names and ids != names:
        raise ValueError(f"label2id must be id2label turned round, got {asked['label2id']!r}; leave it out")
    wanted = ids or names
    if sorted(wanted) != list(range(len(wanted))) or len(set(wanted.values())) != len(wanted):
        raise ValueError(f"labels must have names of their own and the indices 0, 1, 2, ..., got {wanted!r}")
    merged = {**settings, **asked}
    count, old = asked.get("num_labels"), settings.get("id2label")
    if not wanted and (count is None or old is None or count == len(old)):
        return merged
    merged["id2label"], merged["label2id"] = wanted or None, None
    if count is None:
        merged.pop("num_labels", None)
    if "negative_labels" not in asked:
        kept = [name for name in settings.get("negative_labels") or [] if name in wanted.values()]
        merged["negative_labels"] = kept or None
    return merged
