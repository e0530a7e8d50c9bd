"""TimeSformer with five attention schemes over one attention module.

What differs from the stock class: tokens are grouped by the input's own shape, space_only averages its frames,
sparse_local_global and axial exist, attention runs through transformers' attention interface (SDPA by default), and
`output_attentions` gives every step. Parameter names are stock's.

Dimensions: B batch, T frames, C channels, H and W patches down and across, D hidden size, G groups, N tokens in a
group. The token sequence at the module's boundary is CLS first, then patch-major: (h w t), as in HF checkpoints.

Source: arXiv 2102.05095v4; facebookresearch/TimeSformer a5ef29a; transformers' timesformer.
"""

import logging
from typing import Any, NamedTuple, Self

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, ImageClassifierOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import can_return_tuple

from .configuration_railsformer import RailsformerConfig
from .layers_railsformer import RailsformerEmbeddings, RailsformerEncoder, RailsformerExtraDense, RailsformerLayer
from .loading import (
    TRUNK_SIZES,
    changed_config,
    check_config,
    check_image_keywords,
    check_image_model_type,
    check_video_model_type,
    config_on_disk,
    loading_errors,
    split_config,
    torch_dtype,
)
from .weights import (
    WeightReport,
    adapt_state_dict,
    check_image_weights,
    check_trunk_use,
    image_model_config,
    image_model_state_dict,
)

logger = logging.getLogger(__name__)

# No label is ever ignored: with torch's own -100 such a label would vanish from a compiled model's mean.
_IGNORE_NOTHING = torch.iinfo(torch.int64).min

__all__ = ["RailsformerForVideoClassification", "RailsformerModel", "RailsformerPreTrainedModel"]


class FoldingReport(NamedTuple):
    """What `fold_for_inference` saved."""

    parameters_before: int
    parameters_after: int
    saved_macs: int  # multiply-accumulates of one view, patches only


class RailsformerPreTrainedModel(PreTrainedModel):
    """Weights, initialisation and what the Trainer needs to know."""

    config: RailsformerConfig
    config_class = RailsformerConfig
    base_model_prefix = "timesformer"
    main_input_name = "pixel_values"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["RailsformerLayer"]  # noqa: RUF012  (the name and type that transformers expects)
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # The loss below is a mean over its batch. Stock's `**kwargs` makes the Trainer believe that the model divides by
    # num_items_in_batch, which multiplies loss and gradient by processes times accumulation steps.
    accepts_loss_kwargs = False

    # What may change on loading: tables are resized, missing steps copied, a head of other labels newly drawn.
    _adaptable = (
        *("num_frames", "image_size", "attention_type", "position_embedding"),
        *("num_labels", "id2label", "label2id"),
    )

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, antialias: bool = False, **kwargs: Any
    ) -> Any:
        """Load a TimeSformer checkpoint, of stock's or ours, also at another clip size, scheme or label set.

        Args:
            pretrained_model_name_or_path: Folder or Hub id.
            *args: As in transformers.
            antialias: Whether a resized position table is low-pass filtered; off as in transformers' image models.
            **kwargs: As in transformers. `num_frames`, `image_size`, `attention_type`, `position_embedding`,
                `num_labels`, `id2label` and `label2id` may differ from the checkpoint's, given here or in a `config`.
                `dtype` is float32 unless given, whatever the checkpoint was saved in: training in float16 weights
                fails.

        Raises:
            FileNotFoundError: If there is no such checkpoint.
            ValueError: If the checkpoint is no TimeSformer, is of another width or depth than asked for, leaves part
                of the trunk unset, or holds more than a tenth of tensors that its own config has no place for; or if
                a keyword is not known or its value not allowed.
        """
        changes = {key: kwargs.pop(key) for key in (*cls._adaptable, *TRUNK_SIZES) if key in kwargs}
        wants_info = kwargs.pop("output_loading_info", False)
        if "torch_dtype" not in kwargs:
            kwargs.setdefault("dtype", torch.float32)
        wanted = kwargs.get("config")
        if wanted is None:
            found = config_on_disk(pretrained_model_name_or_path, kwargs)
            check_video_model_type(pretrained_model_name_or_path, found)
            check_config(cls.config_class, pretrained_model_name_or_path, found, kwargs)
        elif isinstance(wanted, PreTrainedConfig) and pretrained_model_name_or_path is not None:
            kwargs["config"], changes = split_config(
                cls.config_class, pretrained_model_name_or_path, wanted, kwargs, changes
            )
        with loading_errors(pretrained_model_name_or_path):
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
        missing = {*info["missing_keys"], *(each[0] for each in info["mismatched_keys"])}
        unset = sorted(name for name in missing if not name.startswith("classifier."))
        if unset:
            raise ValueError(
                f"{pretrained_model_name_or_path} lacks {len(unset)} tensors of the trunk, {unset[0]} first, "
                f"or has them in another shape; it is not a checkpoint of attention_type {model.config.attention_type}"
            )
        placed = sum(not name.startswith("classifier.") for name in model.state_dict())
        check_trunk_use(pretrained_model_name_or_path, used=placed, unused=sorted(info["unexpected_keys"]))
        left_out = _clear_left_out_tables(model)
        report = WeightReport(new=sorted(missing))
        if any(getattr(model.config, key) != value for key, value in changes.items()):
            config = changed_config(model.config, changes)
            target = cls(config).to(device=model.device, dtype=model.dtype)
            report = adapt_state_dict(model.state_dict(), target, model.config, antialias=antialias)
            model = target.train(model.training)
        report.unused += left_out + sorted(info["unexpected_keys"])
        _log_report(pretrained_model_name_or_path, report)
        return (model, info) if wants_info else model

    @torch.no_grad()
    def fold_for_inference(self) -> FoldingReport:
        """Merge each step's output projection with its extra dense layer, in place, for evaluation only.

        Both are linear with nothing between them outside training, so the logits stay the same (to 1e-5 in float32).
        A folded model cannot be trained or saved: stock transformers would miss the layers.

        Returns:
            Parameters and multiply-accumulates a view, before and after.
        """
        before = sum(parameter.numel() for parameter in self.parameters())
        tokens, merged_layers = self.config.num_frames * self.config.grid[0] * self.config.grid[1], 0
        for layer in (module for module in self.modules() if isinstance(module, RailsformerLayer)):
            merged_layers += layer.fold()
        self.eval().requires_grad_(False)
        after = sum(parameter.numel() for parameter in self.parameters())
        return FoldingReport(before, after, saved_macs=merged_layers * tokens * self.config.hidden_size**2)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As stock; a folded model is refused, and tables that `position_embedding` leaves out are saved as zeros.

        Raises:
            ValueError: If `fold_for_inference` was called, on this model or a part of it.
        """
        if any(isinstance(module, RailsformerLayer) and module.folded for module in self.modules()):
            raise ValueError("a folded model cannot be saved: load the checkpoint again and fold it where it runs")
        _clear_left_out_tables(self)  # whatever load_state_dict put there: stock would add it
        super().save_pretrained(*args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, RailsformerExtraDense):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, RailsformerEmbeddings):
            init.trunc_normal_(module.cls_token, std=std)
            if self.config.position_embedding != "none":
                init.trunc_normal_(module.position_embeddings, std=std)
            if self.config.attention_type != "space_only":
                init.zeros_(module.time_embeddings)


class RailsformerModel(RailsformerPreTrainedModel):
    """The trunk: clips in, token features out."""

    def __init__(self, config: RailsformerConfig) -> None:
        super().__init__(config)
        self.embeddings = RailsformerEmbeddings(config)
        self.encoder = RailsformerEncoder(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The patch projection."""
        return self.embeddings.patch_embeddings

    def _check_input(self, pixel_values: torch.Tensor) -> None:
        config = self.config
        height, width = config.image_height_width
        expected = (config.num_frames, config.num_channels, height, width)
        if pixel_values.ndim != 5:
            raise ValueError(
                f"pixel_values must have 5 dimensions (batch, frames, channels, height, width), "
                f"got shape {tuple(pixel_values.shape)}"
            )
        if tuple(pixel_values.shape[1:]) != expected:
            names = ("num_frames", "num_channels", "height", "width")
            wrong = [
                f"{name} must be {want} for this checkpoint, got {got}"
                for name, want, got in zip(names, expected, pixel_values.shape[1:], strict=True)
                if want != got
            ]
            raise ValueError(
                f"pixel_values: {'; '.join(wrong)}; load with from_pretrained(..., num_frames=, image_size=) to "
                f"resize the tables"
            )

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> BaseModelOutput:
        """Run the trunk.

        Args:
            pixel_values: Normalised frames, shape (B, T, C, height, width).
            output_attentions: Also return attention maps, a flat tuple block by block and step by step, each
                (B, groups, heads, N, N); computed eagerly for this call.
            output_hidden_states: Also return the tokens before every block and after the last.

        Returns:
            `last_hidden_state` of shape (B, 1 + H*W*T, D), CLS first and patch-major; for space_only, whose tokens
            are averaged over the frames before the final norm, (B, 1 + H*W, D).

        Raises:
            ValueError: If rank, frame count, channels or size are not the checkpoint's.
        """
        self._check_input(pixel_values)
        config = self.config
        batch, frames = pixel_values.shape[:2]
        space_only = config.attention_type == "space_only"
        grid = (*config.grid, 1 if space_only else frames)
        hidden_states, all_hidden, maps = self.encoder(
            self.embeddings(pixel_values),
            grid,
            output_attentions=config.output_attentions if output_attentions is None else output_attentions,
            output_hidden_states=config.output_hidden_states if output_hidden_states is None else output_hidden_states,
        )
        if space_only:
            hidden_states = hidden_states.unflatten(0, (batch, frames)).mean(dim=1)
            # (b t) 1 heads n n -> b t heads n n: a frame is a group
            maps = [weights.squeeze(1).unflatten(0, (batch, frames)) for weights in maps]
        return BaseModelOutput(
            last_hidden_state=self.layernorm(hidden_states),
            hidden_states=tuple(all_hidden) or None,
            attentions=tuple(maps) or None,
        )


class RailsformerForVideoClassification(RailsformerPreTrainedModel):
    """The trunk with a linear head on CLS."""

    def __init__(self, config: RailsformerConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.timesformer = RailsformerModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @classmethod
    def from_image_model(cls, name_or_path: Any, *, antialias: bool = False, **config: Any) -> Self:
        """Start from an image transformer: a ViT, DeiT or DINOv2 model in transformers' layout.

        Every step of a block copies the image model's attention and the extra dense layers are zero, so that a fresh
        divided or space_only model shown identical frames gives the image model's own CLS output (of a DeiT with a
        distillation token nearly so: that token is left out, and the log says it).

        Args:
            name_or_path: Folder or Hub id of the image model.
            antialias: Whether a resized position table is low-pass filtered; off as the image models do it.
            **config: Keys of `RailsformerConfig`, such as num_frames, image_size, attention_type, num_labels; `dtype`
                is float32 unless given.

        Raises:
            ValueError: If the image model is of a family whose layout is not known, leaves part of the trunk unset or
                mostly has no place in it, or if a keyword is no key of the config.
        """
        dtype = torch_dtype(config.pop("dtype", config.pop("torch_dtype", torch.float32)))
        check_image_keywords(config)
        image_config = config_on_disk(name_or_path, {})
        check_image_model_type(image_config.get("model_type"))
        with loading_errors(name_or_path):
            image_model, info = AutoModel.from_pretrained(name_or_path, dtype=torch.float32, output_loading_info=True)
        target = cls(image_model_config(image_model.config, **config))
        source_config = image_model_config(image_model.config, attention_type="space_only")
        source, unused = image_model_state_dict(image_model)
        check_image_weights(name_or_path, image_model, info, unused)
        report = adapt_state_dict(source, target, source_config, antialias=antialias)
        report.unused += unused
        _log_report(name_or_path, report)
        target.config.dtype = dtype
        return target.to(dtype).eval()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> ImageClassifierOutput:
        """Classify clips.

        Args:
            pixel_values: Normalised frames, shape (B, T, C, height, width).
            labels: Class indices, shape (B,); with them `loss` is the mean cross-entropy over the batch.
            output_attentions: As in `RailsformerModel.forward`.
            output_hidden_states: As in `RailsformerModel.forward`.

        Returns:
            `logits` of shape (B, num_labels), and `loss` where labels are given.

        Raises:
            ValueError: If the clips do not fit the checkpoint, a label is no class, or clips that come with labels
                hold values that are not finite. Under torch.compile values are not looked at beforehand: a label
                that is no class raises in the loss, and pixels that are not finite give a loss that is not.
        """
        if labels is not None and not torch.compiler.is_compiling():
            self._check_batch(pixel_values, labels)
        trunk = self.timesformer(
            pixel_values,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(trunk.last_hidden_state[:, 0])
        loss = None if labels is None else F.cross_entropy(logits, labels, ignore_index=_IGNORE_NOTHING)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=trunk.hidden_states, attentions=trunk.attentions
        )

    def _check_batch(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> None:
        if labels.shape != pixel_values.shape[:1]:
            raise ValueError(
                f"labels must have one class index a clip, shape ({len(pixel_values)},), got {tuple(labels.shape)}"
            )
        wrong = (labels < 0) | (labels >= self.num_labels)
        if wrong.any():
            raise ValueError(f"labels must be in 0..{self.num_labels - 1}, got {labels[wrong][0].item()}")
        if not pixel_values.isfinite().all():
            bad = (~pixel_values.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()
            raise ValueError(f"pixel_values of clips {bad} of this batch hold NaN or infinite values")


def _clear_left_out_tables(model: nn.Module) -> list[str]:
    """Zero the tables that `position_embedding` leaves out; return the names of those that held something."""
    return [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if isinstance(module, RailsformerEmbeddings)
        for name in module.clear_left_out_tables()
    ]


def _log_report(name: Any, report: WeightReport) -> None:
    """Say once what was not simply taken over; a warning, since such a model is not yet the checkpoint's."""
    if rows := report.table():
        logger.warning("Weights of %s:\n%s", name, rows)
