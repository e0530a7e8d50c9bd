"""A fine-tuning run with the Hugging Face Trainer: from settings to a folder that stock transformers loads."""

import json
import logging
import math
import os
from collections import Counter
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import PartialState
from transformers import EvalPrediction, Trainer, TrainerCallback, set_seed
from transformers.trainer_callback import ProgressCallback
from transformers.training_args import OptimizerNames

from railsformer.data.clips import LOST_LABEL, ClipDataset, VideoDataset, collate_training_clips, load_video_dataset
from railsformer.data.files import whole_file
from railsformer.data.folders import DiskFullError
from railsformer.data.probe import available_cores
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings
from railsformer.evaluation.leaks import earlier_trainings, write_training_videos
from railsformer.evaluation.processes import on_main_process
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification
from railsformer.training.arguments import RunArguments, Settings
from railsformer.training.bad_clips import KeptPlaces, LostClips
from railsformer.training.callbacks import (
    EarlyStopping,
    EpochCallback,
    ReadableProgress,
    check_reporters,
    closing_bars,
)
from railsformer.training.figures import check_selection, score_figures, validation_figures
from railsformer.training.frozen import fit_frozen_trunk
from railsformer.training.guarded_trainer import GuardedTrainer
from railsformer.training.licenses import license_of_base, non_commercial_notice
from railsformer.training.lora import ADAPTER_FOLDER, merge_lora
from railsformer.training.plan import is_overflow, overflow_advice, warn_if_large
from railsformer.training.recorder import RunRecorder
from railsformer.training.resume import check_room, newest_whole_checkpoint, refuse_another_run, what_is_missing
from railsformer.training.run_folder import (
    EMBEDDINGS_FOLDER,
    FACTS_FILE,
    claimed_folder,
    disk_full,
    saving,
    why_no_room,
)
from railsformer.training.start import build_model, choose_clips, choose_loss, choose_pixels, choose_trainable
from railsformer.training.stopping import RunTerminatedError
from railsformer.training.summary import write_summary

__all__ = ["TrainingSummary", "build_trainer", "check_splits", "train"]

logger = logging.getLogger(__name__)

SETTINGS_FILE = "train_config.yaml"
STATE_FILE = "trainer_state.json"
# Beyond this a step shows every clip so often that the batch cannot be meant.
MOST_BATCHES_OF_CLIPS = 10
# Settings of the Trainer that a reader looks for, also where they are transformers' defaults.
ALWAYS_SAVED = (
    "seed", "learning_rate", "weight_decay", "optim", "lr_scheduler_type", "warmup_steps", "num_train_epochs",
    "per_device_train_batch_size", "gradient_accumulation_steps", "label_smoothing_factor", "metric_for_best_model",
)  # fmt: skip
# What a resumed run must share with the checkpoint's, in the order in which differences are told.
SAME_SHAPE = (
    "attention_type", "num_frames", "patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "intermediate_size", "position_embedding", "frame_interval", "nominal_fps", "short_video", "clip_sampling",
    "stochastic_depth_rate",
)  # fmt: skip
SAME_DATA = (
    "class_balance", "effective_number_beta", "mixup_alpha", "repeated_augmentation", "min_short_side_px",
    "max_short_side_px", "eval_short_side_px", "flip", "light", "grey",
)  # fmt: skip
SAME_RUN = (
    "seed", "trainable", "trainable_blocks", "lora_rank", "lora_alpha", "lora_targets", "optim", "optim_args",
    "learning_rate", "layer_decay", "head_learning_rate_factor", "weight_decay", "lr_scheduler_type", "warmup_steps",
    "max_grad_norm", "focal_gamma", "label_smoothing_factor", "bf16", "fp16", "metric_for_best_model",
)  # fmt: skip
NAMED = ("model", "image_model", "dataset", "output_dir")


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
        lost_clips: Training files that could not be read: `file`, `count`, `reason`.
        lost_validation: The same of validation; figures are those of the other videos.
        pace: `clips_per_second` and `data_wait_share` of training steps, as the first process met them.
        class_weights: Weight of each label in the loss, where they differ.
        head: With cached embeddings, the regularisation that was taken, and the figure at each that was tried.
        cost: Seconds, memory and energy, as `RunRecorder` measured them.
    """

    run_dir: Path
    base: str | None
    dataset: str
    dataset_fingerprint: str
    split_kind: str
    labels: tuple[str, ...]
    validation: dict[str, float]
    is_main_process: bool
    lost_clips: list[dict[str, Any]] = field(default_factory=list)
    lost_validation: list[dict[str, Any]] = field(default_factory=list)
    pace: dict[str, float] = field(default_factory=dict)
    class_weights: dict[str, float] = field(default_factory=dict)
    head: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)


def train(settings: Settings) -> TrainingSummary:
    """Fine-tune and leave a run folder that is ready for the Hub.

    Args:
        settings: What `parse_settings` gave.

    Returns:
        Where the run is and what it reached on validation.

    Raises:
        FileExistsError: If the run folder holds something and nothing is resumed.
        FileNotFoundError: If dataset or base are not there.
        PermissionError: If the run folder cannot be written.
        RunTerminatedError: After SIGTERM, with a checkpoint; it is a SystemExit with code 143.
        DiskFullError: If the disk fills on the way; checkpoints that were whole before still are.
        ValueError: If a split is missing or empty, settings do not fit the base or the checkpoint, the disk is too
            small, a package is missing, training diverges, or too many clips cannot be read.
    """
    run, run_dir = settings.run, Path(str(settings.run.output_dir))
    check_reporters(run.report_to)
    with claimed_folder(run_dir, resume=run.resume, resume_from=run.resume_from_checkpoint):
        _set_num_threads(run, local_processes=int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        dataset = load_video_dataset(str(settings.data.dataset))
        check_splits(dataset, run)
        base = _announced(_located(settings.model.model or settings.model.image_model))
        set_seed(run.seed)
        model = build_model(settings.model, dataset)
        _warn_without_negatives(model)
        seen_before = earlier_trainings(settings.model.model)
        choose_trainable(model, run)
        pixels = choose_pixels(settings.model, settings.data, model.config)
        begun = TrainingSummary(
            run_dir=run_dir,
            base=base,
            dataset=str(_located(dataset.name)),
            dataset_fingerprint=dataset.fingerprint,
            split_kind=dataset.split_kind,
            labels=dataset.labels,
            validation={},
            is_main_process=PartialState().is_main_process,
        )
        summary = (_solve_head if run.cache_embeddings else _optimise)(settings, dataset, model, pixels, begun)
        with saving(run_dir, SETTINGS_FILE):
            if summary.is_main_process:
                pixels.save_pretrained(run_dir)
                write_training_videos(run_dir, dataset, earlier=seen_before)
                _save_facts(settings, summary)
        on_main_process(lambda: _summarise(run_dir))
        PartialState().wait_for_everyone()
    return summary


def _optimise(
    settings: Settings,
    dataset: VideoDataset,
    model: RailsformerForVideoClassification,
    pixels: PixelSettings,
    begun: TrainingSummary,
) -> TrainingSummary:
    """Train with the Trainer, and save the model; adapters are merged into it, and saved beside it."""
    if begun.is_main_process:
        warn_if_large(settings, model)
    run_dir = begun.run_dir
    try:
        trainer, recorder = build_trainer(settings, dataset, model, pixels), RunRecorder()
        trainer.add_callback(recorder)
        _fit(trainer, run_dir)
    except (RuntimeError, MemoryError) as error:
        if not is_overflow(error):
            raise
        raise ValueError(overflow_advice(settings, error)) from None
    except ImportError as error:
        optim = OptimizerNames(settings.run.optim).value
        raise ValueError(f"optim {optim} needs a package that is not installed: {error}") from error
    if settings.run.lora_rank is not None:
        with saving(run_dir, ADAPTER_FOLDER):
            merge_lora(model, adapter_dir=run_dir / ADAPTER_FOLDER if begun.is_main_process else None)
    trainer.save_model(str(run_dir))
    with saving(run_dir, STATE_FILE):
        if begun.is_main_process:
            trainer.state.save_to_json(str(run_dir / STATE_FILE))
    return replace(
        begun,
        validation=_kept_figures(trainer),
        lost_clips=trainer.lost_clips.gathered(),
        lost_validation=trainer.lost_videos.gathered(),
        pace=trainer.whole_pace.figures(),
        class_weights=dict(zip(dataset.labels, trainer.clip_loss.class_weights or (), strict=False)),
        cost=recorder.record,
    )


def _summarise(run_dir: Path) -> None:
    """Write the page of a finished run.

    Raises:
        DiskFullError: If there is no room for it; the run itself is whole.
    """
    try:
        write_summary(run_dir)
    except OSError as error:
        if (reason := why_no_room(error)) is None:
            raise
        code = f"from railsformer.training.summary import write_summary; write_summary({str(run_dir)!r})"
        raise DiskFullError(
            f"output_dir {run_dir}: no room on its disk for the summary ({reason}); model and figures are whole; free "
            f'some space and run python -c "{code}"'
        ) from error


def _solve_head(
    settings: Settings,
    dataset: VideoDataset,
    model: RailsformerForVideoClassification,
    pixels: PixelSettings,
    begun: TrainingSummary,
) -> TrainingSummary:
    """Fit the head on cached embeddings, and save the model."""
    recorder, device = RunRecorder(), settings.run.device
    recorder.begin(device)
    model.to(device)
    with saving(begun.run_dir, "the embeddings"):
        fit = fit_frozen_trunk(settings, dataset, model, pixels, folder=begun.run_dir / EMBEDDINGS_FOLDER)
    with saving(begun.run_dir, "the model"):
        model.save_pretrained(begun.run_dir)
    recorder.end(device)
    head = {"regularisation": fit.regularisation, "tried": fit.tried, "figure": settings.run.metric_for_best_model}
    return replace(
        begun,
        validation=fit.validation,
        lost_clips=fit.lost_clips,
        lost_validation=fit.lost_validation,
        class_weights=dict(zip(dataset.labels, fit.class_weights or (), strict=False)),
        head=head,
        cost=recorder.record,
    )


def _fit(trainer: GuardedTrainer, run_dir: Path) -> None:
    """Train, from a checkpoint where one is asked for, and say how to go on where it ends early.

    Raises:
        DiskFullError: If the disk fills.
        RunTerminatedError: After SIGTERM.
        ValueError: If the checkpoint is not whole or of another run, the disk is too small, or training fails.
    """

    def prepare() -> Path | None:
        check_room(run_dir, trainer.model, trainer.args, num_saves=_num_saves(trainer))
        checkpoint = _chosen_checkpoint(trainer.args, run_dir)
        if checkpoint:
            refuse_another_run(checkpoint, trainer.identity)
        return checkpoint

    checkpoint = on_main_process(prepare)
    try:
        with trainer.stop, closing_bars(trainer.callback_handler.callbacks):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except RunTerminatedError as error:
        if trainer.is_world_process_zero():
            logger.warning("terminated; %s is saved: go on with --resume", error.checkpoint)
        raise
    except OSError as error:  # of what this process alone writes, such as a log
        if (reason := why_no_room(error)) is None:
            raise
        raise disk_full(run_dir, error.filename or "its logs", reason) from error
    except KeyboardInterrupt:
        if trainer.is_world_process_zero():
            last = newest_whole_checkpoint(run_dir)
            logger.warning("interrupted; %s", f"{last} is whole: go on with --resume" if last else "nothing was saved")
        raise


def _chosen_checkpoint(run: RunArguments, run_dir: Path) -> Path | None:
    """The checkpoint to go on from; None starts from the beginning.

    Raises:
        ValueError: If the checkpoint that was named is not whole.
    """
    if run.resume_from_checkpoint and run.resume_from_checkpoint.lower() != "true":
        checkpoint = Path(run.resume_from_checkpoint)
        if reason := what_is_missing(checkpoint):
            raise ValueError(f"{checkpoint} cannot be resumed: {reason}; name another one, or give --resume")
        return checkpoint
    if not run.resume and not run.resume_from_checkpoint:
        return None
    newest = newest_whole_checkpoint(run_dir)
    logger.info("%s", f"going on from {newest}" if newest else "no whole checkpoint to resume: starting anew")
    return newest


def _num_saves(trainer: GuardedTrainer) -> int:
    """Checkpoints that a run writes in all."""
    run, sampler = trainer.args, trainer.train_sampler
    steps_of_epoch = len(sampler) // sampler.batch_size
    steps = run.max_steps if run.max_steps > 0 else math.ceil(run.num_train_epochs * steps_of_epoch)
    if run.save_strategy == "no":
        return 0
    if run.save_strategy == "steps":
        return int(steps // (run.save_steps if run.save_steps >= 1 else max(1, math.ceil(steps * run.save_steps))))
    return math.ceil(steps / steps_of_epoch)


def build_trainer(
    settings: Settings, dataset: VideoDataset, model: RailsformerForVideoClassification, pixels: PixelSettings
) -> GuardedTrainer:
    """The Trainer with its clips, their order, figures and progress.

    Raises:
        ValueError: If the train or validation split is missing or empty, or validation has not the chosen figure.
    """
    run = settings.run
    rows, validation_rows = dataset.split("train"), dataset.split("validation")
    batch_size = _clips_of_step(run)
    selection = str(run.metric_for_best_model)
    check_selection(selection, label_names=dataset.labels, validation_labels=validation_rows["label"])
    clips, sampler, collate = choose_clips(settings, rows, config=model.config, pixels=pixels, batch_size=batch_size)
    callbacks: list[TrainerCallback] = [EpochCallback(clips)]
    if run.early_stopping_patience is not None:
        callbacks.append(EarlyStopping(run.early_stopping_patience))
    videos = ClipDataset(validation_rows, sampling=ClipSampling.from_config(model.config), pixels=pixels)
    trainer = GuardedTrainer(
        model=model,
        args=run,
        train_dataset=clips,
        eval_dataset=KeptPlaces(videos),
        data_collator=collate,
        eval_collator=collate_training_clips,
        compute_metrics=_figures_of(dataset.labels),
        callbacks=callbacks,
        identity=_identity(settings, dataset, model, global_batch_size=batch_size),
        lost_clips=LostClips(clips_of_epoch=len(sampler), max_share=run.max_lost_share),
        lost_videos=LostClips(clips_of_epoch=len(videos), max_share=run.max_lost_share, split="validation"),
    )
    trainer.train_sampler = sampler
    trainer.clip_loss = choose_loss(settings.data, run, labels=clips.labels, num_labels=len(dataset.labels))
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(ReadableProgress)
    return trainer


def _clips_of_step(run: RunArguments) -> int:
    """Clips of an optimizer step over all processes and accumulation steps."""
    return run.train_batch_size * run.world_size * run.gradient_accumulation_steps


def check_splits(dataset: VideoDataset, run: RunArguments) -> None:
    """Refuse splits that cannot be meant, before anything is loaded or measured.

    Raises:
        ValueError: If a split is missing or empty, validation has labels that training has no clip of, or a step takes
            every clip many times.
    """
    rows, batch_size = dataset.split("train"), _clips_of_step(run)
    if not run.cache_embeddings and batch_size > MOST_BATCHES_OF_CLIPS * len(rows):
        raise ValueError(
            f"batch size x processes x gradient_accumulation_steps must be at most {MOST_BATCHES_OF_CLIPS} times the "
            f"{len(rows)} training clips, got {batch_size}; lower --per_device_train_batch_size or "
            "--gradient_accumulation_steps"
        )
    unseen = Counter(dataset.split("validation")["label"])
    for label in set(rows["label"]):
        unseen.pop(label, None)
    if unseen and not run.allow_unseen_labels:
        named = ", ".join(f"{dataset.labels[label]} ({count})" for label, count in sorted(unseen.items()))
        raise ValueError(
            f"validation of {dataset.name} has clips of labels that training has none of: {named}; build the dataset "
            "with other splits, or give --allow_unseen_labels"
        )


def _identity(
    settings: Settings, dataset: VideoDataset, model: RailsformerForVideoClassification, *, global_batch_size: int
) -> dict[str, Any]:
    """What must be the same for a run to go on from a checkpoint; how long it lasts is not."""
    config, data, run = model.config, settings.data, settings.run
    identity = {
        "labels": list(dataset.labels),
        "image_size": list(config.image_height_width),
        **{name: getattr(config, name) for name in SAME_SHAPE},
        "time_table": settings.model.time_table,
        "dataset_fingerprint": dataset.fingerprint,
        "train_clips": len(dataset.split("train")),
        **{name: getattr(data, name) for name in SAME_DATA},
        "global_batch_size": global_batch_size,
        **{name: getattr(run, name) for name in SAME_RUN},
    }
    plain: dict[str, Any] = json.loads(json.dumps(identity, default=str))
    return plain


def _figures_of(labels: tuple[str, ...]) -> Any:
    """`compute_metrics` for the Trainer, through the same modules as the report; of the videos that could be read."""

    def figures(prediction: EvalPrediction) -> dict[str, float]:
        read = prediction.label_ids != LOST_LABEL
        logits, references = prediction.predictions[read], prediction.label_ids[read]
        if not len(references):
            return {}
        predicted = np.argmax(logits, axis=-1)
        return validation_figures(predicted, references, label_names=labels) | score_figures(
            logits, references, label_names=labels
        )

    return figures


def _kept_figures(trainer: Trainer) -> dict[str, float]:
    """The validation figures of the weights that were kept: the best epoch's, or the last one's."""
    entries = [log for log in trainer.state.log_history if "eval_f1_macro" in log]
    best_step = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
    chosen = [log for log in entries if log["step"] == best_step] or entries[-1:]
    figures = chosen[0] if chosen else {}
    return {key.removeprefix("eval_"): value for key, value in figures.items() if "/" not in key}


def _save_facts(settings: Settings, summary: TrainingSummary) -> None:
    """The recipe as it was resolved, for the next run and the Hub; and what the run met, for the card."""
    recipe = {**vars(settings.model), **vars(settings.data)}
    stock = {item.name: item.default for item in fields(RunArguments)}
    run = json.loads(settings.run.to_json_string())
    recipe |= {name: run[name] for name in stock if name in settings.given or name in ALWAYS_SAVED}
    # Paths of this machine help nobody on another; what they were is in run.json, which stays here.
    kept = {name: _without_path(value) for name, value in recipe.items() if value not in (None, []) and name in NAMED}
    plain = {name: value for name, value in recipe.items() if value not in (None, []) and name not in NAMED}
    text = yaml.safe_dump({**plain, **kept}, sort_keys=True, allow_unicode=True)
    with whole_file(summary.run_dir / SETTINGS_FILE) as partial:
        partial.write_text(text, encoding="utf-8")
    facts = {
        **{key: value for key, value in asdict(summary).items() if key not in ("run_dir", "is_main_process")},
        "base_license": license_of_base(summary.base) if summary.base else None,
        "given": settings.given,
        "versions": {name: version(name) for name in ("railsformer", "torch", "transformers", "accelerate", "av")},
    }
    text = json.dumps(facts, indent=2, ensure_ascii=False, default=str)
    with whole_file(summary.run_dir / FACTS_FILE) as partial:  # last of all: a run that has it is finished
        partial.write_text(text + "\n", encoding="utf-8")


def _announced(base: str | None) -> str | None:
    """The base, after a word where its licence forbids commercial use."""
    if base and PartialState().is_main_process and (notice := non_commercial_notice(base)):
        logger.warning("%s", notice)
    return base


def _warn_without_negatives(model: RailsformerForVideoClassification) -> None:
    """Say where every label counts as a hazard: seldom meant, and told by every report and alarm to come."""
    if not model.config.negative_labels and PartialState().is_main_process:
        labels = ", ".join(model.config.id2label.values())
        logger.warning(
            "every label counts as a hazard (%s): where some of them mean 'nothing dangerous', name them with "
            "--negative_labels LABEL ..., or false alarms per hour cannot be told", labels,
        )  # fmt: skip


def _located(name: str | None) -> str | None:
    """A local folder by its whole path, so that from another folder it is not taken for a Hub repository."""
    return str(Path(name).resolve()) if name and Path(name).exists() else name


def _without_path(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _set_num_threads(run: RunArguments, *, local_processes: int) -> None:
    """On CPU, all cores: `accelerate launch` sets OMP_NUM_THREADS to 1, which halves the speed without a word."""
    if run.device.type == "cpu":
        torch.set_num_threads(run.num_threads or max(1, available_cores() // local_processes))
