"""Another video model of transformers, trained and tested as the schemes are: what a user would pick instead.

`railsformer.compare.cells` runs this module with `--base` and the flags of `railsformer train`. The model (VideoMAE,
ViViT, V-JEPA 2, stock TimeSformer: any `AutoModelForVideoClassification`) gets the same clips, order, augmentation,
loss and optimizer, with as many frames of the size that its own config states, over the same seconds.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForVideoClassification, set_seed
from transformers.modeling_outputs import ImageClassifierOutput

from railsformer.compare.score_cell import end_with_errors, score_protocol
from railsformer.data.clips import VideoDataset, load_video_dataset
from railsformer.data.files import whole_file
from railsformer.data.probe import available_cores
from railsformer.data.transforms import IMAGENET_MEAN_STD, PixelSettings
from railsformer.evaluation.processes import this_process
from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.loading import config_on_disk
from railsformer.training.arguments import Settings, parse_settings
from railsformer.training.resume import newest_whole_checkpoint, refuse_another_run
from railsformer.training.run_folder import FACTS_FILE, claimed_folder
from railsformer.training.trainer import build_trainer, check_splits

__all__ = ["OtherVideoModel", "build_other_model", "main", "scheme_sampling", "write_facts"]

_FRAMES = ("num_frames", "frames_per_clip")
_SIZES = ("image_size", "crop_size")
_SAMPLING = ("num_frames", "frame_interval", "nominal_fps", "short_video", "clip_sampling")


class OtherVideoModel(nn.Module):
    """A model of another family behind our forward signature and config.

    Args:
        inner: Takes clips of shape (B, T, C, height, width) under its own name and returns `logits`.
        config: How its clips are cut, and its labels.
    """

    accepts_loss_kwargs = False

    def __init__(self, inner: Any, config: RailsformerConfig) -> None:
        super().__init__()
        self.inner = inner
        self.config = config

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return next(self.parameters()).dtype

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """As the model within."""
        self.inner.gradient_checkpointing_enable(**options)

    activation_checkpointing_enable = gradient_checkpointing_enable

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> ImageClassifierOutput:
        """Classify clips.

        Args:
            pixel_values: Normalised frames, shape (B, T, C, height, width).
            labels: Class indices, shape (B,); with them `loss` is the mean cross-entropy over the batch.
        """
        logits = self.inner(**{self.inner.main_input_name: pixel_values}).logits
        loss = None if labels is None else nn.functional.cross_entropy(logits.float(), labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


def build_other_model(base: str, dataset: VideoDataset, settings: Settings) -> tuple[OtherVideoModel, PixelSettings]:
    """A pretrained video model with a head for the dataset's labels, and its pixels.

    Args:
        base: Folder or Hub id of any `AutoModelForVideoClassification`.
        dataset: With the labels.
        settings: Of the comparison: its clips' length in seconds is kept.

    Raises:
        OSError: If there is no such model.
        ValueError: If it is no video classifier, its input is not square, or its clip is not stated.
    """
    if settings.run.trainable != "all" or settings.run.lora_rank is not None:
        raise ValueError(f"{base} is trained whole or not at all; take a recipe with trainable all and no lora_rank")
    found = AutoConfig.from_pretrained(base)
    names = dict(enumerate(dataset.labels))
    label_ids = {name: index for index, name in names.items()}
    inner = AutoModelForVideoClassification.from_pretrained(
        base, id2label=names, label2id=label_ids, ignore_mismatched_sizes=True, dtype=torch.float32
    )
    frames, side = _clip_of(base, found)
    sampling = scheme_sampling(settings)
    if frames > 1 and sampling["clip_sampling"] == "interval":
        span = (sampling["num_frames"] - 1) * sampling["frame_interval"]
        sampling["frame_interval"] = max(1, round(span / (frames - 1)))
    config = RailsformerConfig(
        **{**sampling, "num_frames": frames},
        image_size=side,
        patch_size=1,  # nothing of ours reads it: the model within has its own
        num_hidden_layers=found.num_hidden_layers,
        id2label=names,
        label2id=label_ids,
    )
    return OtherVideoModel(inner, config), _pixels_of(base, side, settings)


def scheme_sampling(settings: Settings) -> dict[str, Any]:
    """How the schemes of the comparison cut a clip: the recipe's keys, the start's, or the defaults."""
    start = config_on_disk(settings.model.model, {}) if settings.model.model else {}
    defaults = RailsformerConfig()
    return {
        name: next(
            value
            for value in (getattr(settings.model, name), start.get(name), getattr(defaults, name))
            if value is not None
        )
        for name in _SAMPLING
    }


def _clip_of(base: str, config: Any) -> tuple[int, int]:
    """Frames and side in pixels that a config states.

    Raises:
        ValueError: If it does not, or the input is not square.
    """
    frames = next((getattr(config, name) for name in _FRAMES if hasattr(config, name)), None)
    size = next((getattr(config, name) for name in _SIZES if hasattr(config, name)), None)
    side = size[0] if isinstance(size, (list, tuple)) and len(set(size)) == 1 else size
    if not isinstance(frames, int) or not isinstance(side, int):
        raise ValueError(
            f"{base}: its config must state frames ({' or '.join(_FRAMES)}) and a square size "
            f"({' or '.join(_SIZES)}), got {frames!r} and {size!r}"
        )
    return frames, side


def _pixels_of(base: str, side: int, settings: Settings) -> PixelSettings:
    try:
        found = PixelSettings.from_pretrained(base)
        mean, std = found.mean, found.std
    except FileNotFoundError:
        mean, std = IMAGENET_MEAN_STD
    short_side = settings.data.eval_short_side_px
    return PixelSettings(side, short_side if short_side and short_side >= side else side, mean=mean, std=std)


def main() -> int:
    """Train and test; 2 after an error, which is told in one line."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--base", required=True)
    own, flags = parser.parse_known_args()
    return end_with_errors(lambda: _train_and_test(own.base, parse_settings(flags)))


def _train_and_test(base: str, settings: Settings) -> None:
    run, run_dir = settings.run, Path(str(settings.run.output_dir))
    with claimed_folder(run_dir, resume=run.resume, resume_from=None):
        if run.device.type == "cpu":
            torch.set_num_threads(run.num_threads or available_cores())
        dataset = load_video_dataset(str(settings.data.dataset))
        check_splits(dataset, run)
        set_seed(run.seed)
        model, pixels = build_other_model(base, dataset, settings)
        _scale_jitter(settings, pixels)
        trainer = build_trainer(settings, dataset, model, pixels)  # type: ignore[arg-type]
        trainer.identity["base"] = base
        checkpoint = newest_whole_checkpoint(run_dir) if run.resume else None
        if checkpoint:
            refuse_another_run(checkpoint, trainer.identity)
        with trainer.stop:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trainer.save_model(str(run_dir))
        feeding = {"batch_size": run.per_device_eval_batch_size, "num_workers": run.dataloader_num_workers}
        model.to(this_process().device)
        score_protocol(model, dataset, pixels, {}, folder=run_dir.parent / "report", feeding=feeding)
        write_facts(run_dir, {"base": base, "validation": _validation(trainer), **_size_of(model)})


def _scale_jitter(settings: Settings, pixels: PixelSettings) -> None:
    """The recipe's jitter is in pixels of the schemes' crop: the same share of this model's."""
    data, crop = settings.data, settings.model.image_size
    for name in ("min_short_side_px", "max_short_side_px"):
        value = getattr(data, name)
        if value is not None:
            setattr(data, name, max(pixels.crop_px, round(value * pixels.crop_px / crop)) if crop else None)


def _validation(trainer: Any) -> dict[str, float]:
    """Figures of the epoch that was kept."""
    entries = [log for log in trainer.state.log_history if "eval_f1_macro" in log]
    kept = [log for log in entries if log["step"] == trainer.state.best_global_step] or entries[-1:]
    return {"f1_macro": kept[0]["eval_f1_macro"]} if kept else {}


def _size_of(model: OtherVideoModel) -> dict[str, Any]:
    config = model.config
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "clip": {name: getattr(config, name) for name in (*_SAMPLING, "image_size")},
    }


def write_facts(run_dir: Path, facts: Mapping[str, Any]) -> None:
    """What a finished training leaves, last of all."""
    with whole_file(run_dir / FACTS_FILE) as partial:
        partial.write_text(json.dumps(dict(facts), indent=2, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
