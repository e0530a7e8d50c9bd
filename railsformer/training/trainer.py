"""A fine-tuning run with the Hugging Face Trainer: from settings to a folder that stock transformers loads."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml
from accelerate import PartialState
from transformers import EvalPrediction, Trainer, set_seed
from transformers.trainer_callback import ProgressCallback

from railsformer.data.clips import ClipDataset, VideoDataset, collate_clips, load_video_dataset
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import IMAGENET_MEAN_STD, PixelSettings, TrainingAugmentation
from railsformer.evaluation.metrics import VideoClassificationMetrics
from railsformer.evaluation.report import check_output_dir
from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification
from railsformer.training.arguments import DataArguments, ModelArguments, RunArguments, Settings
from railsformer.training.callbacks import EpochCallback, ReadableProgress
from railsformer.training.licenses import non_commercial_notice

__all__ = ["RailsformerTrainer", "TrainingSummary", "train"]

logger = logging.getLogger(__name__)

DEFAULT_FRAME_INTERVAL = 32
SETTINGS_FILE = "train_config.yaml"


@dataclass(frozen=True)
class TrainingSummary:
    """What came out of a run.

    Args:
        run_dir: Folder with model, processor and settings.
        base: What it started from; None from scratch.
        dataset: Name of the dataset.
        dataset_fingerprint: Its fingerprint.
        split_kind: What keeps its splits apart.
        labels: Label names in the order of their indices.
        validation: Figures of the chosen epoch on validation.
        is_main_process: Whether this process is the one that writes.
    """

    run_dir: Path
    base: str | None
    dataset: str
    dataset_fingerprint: str
    split_kind: str
    labels: tuple[str, ...]
    validation: dict[str, float]
    is_main_process: bool


class EpochSampler(torch.utils.data.Sampler[int]):
    """The order of an epoch, a function of (seed, epoch) alone, so that processes and resumed runs agree.

    Args:
        clips: Training clips; they know the epoch.
        groups: Group of each clip, for `balance`.
        seed: Seed of the order.
        balance: Draw labels evenly, and groups evenly within a label, with replacement.
    """

    def __init__(self, clips: ClipDataset, *, groups: list[str], seed: int, balance: bool) -> None:
        self.clips, self.groups, self.seed, self.balance = clips, groups, seed, balance

    def __len__(self) -> int:
        return len(self.clips)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.clips.epoch])
        if not self.balance:
            yield from rng.permutation(len(self)).tolist()
            return
        cells: dict[int, dict[str, list[int]]] = {}
        for index, (label, group) in enumerate(zip(self.clips.labels, self.groups, strict=True)):
            cells.setdefault(label, {}).setdefault(group, []).append(index)
        weights = np.zeros(len(self))
        for by_group in cells.values():
            for members in by_group.values():
                weights[members] = 1 / (len(cells) * len(by_group) * len(members))
        yield from rng.choice(len(self), size=len(self), p=weights / weights.sum()).tolist()


class RailsformerTrainer(Trainer):
    """The stock Trainer with our order of clips and a learning rate of its own for the head."""

    train_sampler: EpochSampler
    optimizer: torch.optim.Optimizer | None

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        return self.train_sampler

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As stock, with the head's parameters in groups of their own."""
        factor = self.args.head_learning_rate_factor
        if self.optimizer is not None or factor == 1.0:
            return cast(torch.optim.Optimizer, super().create_optimizer(model))
        target = self.model if model is None else model
        decayed = set(self.get_decay_parameter_names(target))
        groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
        for name, parameter in target.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(("classifier." in name, name in decayed), []).append(parameter)
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, target)
        optimizer = optimizer_class(
            [
                {
                    "params": parameters,
                    "weight_decay": self.args.weight_decay if decays else 0.0,
                    "lr": self.args.learning_rate * (factor if is_head else 1.0),
                }
                for (is_head, decays), parameters in groups.items()
            ],
            **options,
        )
        self.optimizer = optimizer
        return cast(torch.optim.Optimizer, optimizer)


def train(settings: Settings) -> TrainingSummary:
    """Fine-tune and leave a run folder that is ready for the Hub.

    Args:
        settings: What `parse_settings` gave.

    Returns:
        Where the run is and what it reached on validation.

    Raises:
        FileExistsError: If the run folder holds something.
        FileNotFoundError: If dataset or base are not there.
        ValueError: If a split is missing or empty, or settings do not fit the base.
        VideoDecodeError: If a video turns out unreadable.
    """
    state = PartialState()
    run = settings.run
    run_dir = Path(str(run.output_dir))
    if state.is_main_process:
        check_output_dir(run_dir)
    state.wait_for_everyone()
    _set_num_threads(run, local_processes=int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    dataset = load_video_dataset(str(settings.data.dataset))
    training_rows, validation_rows = dataset.split("train"), dataset.split("validation")
    base = settings.model.model or settings.model.image_model
    if base and state.is_main_process and (notice := non_commercial_notice(base)):
        logger.warning("%s", notice)
    set_seed(run.seed)
    model = build_model(settings.model, dataset)
    pixels = choose_pixels(settings.model, settings.data, model.config)
    _choose_trainable(model, run)
    sampling = ClipSampling(model.config.num_frames, model.config.frame_interval, float(model.config.nominal_fps))
    clips = ClipDataset(
        training_rows,
        sampling=sampling,
        pixels=pixels,
        augmentation=choose_augmentation(settings.data, pixels),
        seed=run.seed,
    )
    trainer = RailsformerTrainer(
        model=model,
        args=run,
        train_dataset=clips,
        eval_dataset=ClipDataset(validation_rows, sampling=sampling, pixels=pixels),
        data_collator=collate_clips,
        compute_metrics=_figures_of(dataset.labels),
        callbacks=[EpochCallback(clips)],
    )
    trainer.train_sampler = EpochSampler(
        clips,
        groups=[str(group) for group in training_rows["group"]]
        if "group" in training_rows.column_names
        else [""] * len(clips),
        seed=run.seed,
        balance=settings.data.class_balance == "sampler",
    )
    if any(isinstance(callback, ProgressCallback) for callback in trainer.callback_handler.callbacks):
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(ReadableProgress)
    trainer.train()
    validation = _best_figures(trainer)
    trainer.save_model(str(run_dir))
    if trainer.is_world_process_zero():
        pixels.save_pretrained(run_dir)
        _save_settings(run_dir, settings, dataset)
        trainer.state.save_to_json(str(run_dir / "trainer_state.json"))
    state.wait_for_everyone()
    return TrainingSummary(
        run_dir=run_dir,
        base=base,
        dataset=dataset.name,
        dataset_fingerprint=dataset.fingerprint,
        split_kind=dataset.split_kind,
        labels=dataset.labels,
        validation=validation,
        is_main_process=trainer.is_world_process_zero(),
    )


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
    config.nominal_fps = arguments.nominal_fps
    if arguments.frame_interval is not None:
        config.frame_interval = arguments.frame_interval
    if arguments.stochastic_depth_rate:
        config.stochastic_depth_rate = arguments.stochastic_depth_rate
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
    """The recipe's augmentation; the paper's jitter (256 to 320 px for a crop of 224) where it gives none."""
    return TrainingAugmentation(
        min_short_side_px=data.min_short_side_px or round(pixels.crop_px * 256 / 224),
        max_short_side_px=data.max_short_side_px or round(pixels.crop_px * 320 / 224),
        flip=data.flip,
        light=data.light,
        grey=data.grey,
    )


def _choose_trainable(model: RailsformerForVideoClassification, run: RunArguments) -> None:
    """Freeze what `trainable` leaves out."""
    if run.trainable == "all":
        return
    first_block = model.config.num_hidden_layers - (run.trainable_blocks or model.config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        in_time = "time_embeddings" in name or (
            any(part.startswith("temporal_") for part in parts) and int(parts[parts.index("layer") + 1]) >= first_block
        )
        parameter.requires_grad_(name.startswith("classifier.") or (run.trainable == "time" and in_time))


def _figures_of(labels: tuple[str, ...]) -> Any:
    """`compute_metrics` for the Trainer, through the same module as the report."""

    def figures(prediction: EvalPrediction) -> dict[str, float]:
        computed = VideoClassificationMetrics(keep_in_memory=True).compute(
            predictions=np.argmax(prediction.predictions, axis=-1),
            references=prediction.label_ids,
            label_names=list(labels),
        )
        return {key: value for key, value in (computed or {}).items() if isinstance(value, float)}

    return figures


def _best_figures(trainer: Trainer) -> dict[str, float]:
    """The validation figures of the epoch that was kept."""
    best_step = trainer.state.best_global_step or trainer.state.global_step
    entries = [log for log in trainer.state.log_history if "eval_f1_macro" in log]
    chosen = [log for log in entries if log["step"] == best_step] or entries[-1:]
    return {key.removeprefix("eval_"): value for key, value in chosen[0].items()} if chosen else {}


def _save_settings(run_dir: Path, settings: Settings, dataset: VideoDataset) -> None:
    """What was asked for, and what it met, beside the model."""
    content = {
        **settings.resolved,
        "dataset_fingerprint": dataset.fingerprint,
        "railsformer_version": version("railsformer"),
    }
    (run_dir / SETTINGS_FILE).write_text(yaml.safe_dump(content, sort_keys=True, allow_unicode=True), encoding="utf-8")


def _set_num_threads(run: RunArguments, *, local_processes: int) -> None:
    """On CPU, all cores: `accelerate launch` sets OMP_NUM_THREADS to 1, which halves the speed without a word."""
    if run.device.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(run.num_threads or max(1, cores // local_processes))
