"""A fine-tuning run with the Hugging Face Trainer: from settings to a folder that stock transformers loads."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import EvalPrediction, Trainer, set_seed
from transformers.trainer_callback import ProgressCallback

from railsformer.data.clips import ClipDataset, VideoDataset, collate_clips, load_video_dataset
from railsformer.data.folders import check_output_dir
from railsformer.data.probe import available_cores
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings
from railsformer.evaluation.metrics import VideoClassificationMetrics
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification
from railsformer.training.arguments import RunArguments, Settings
from railsformer.training.callbacks import EpochCallback, ReadableProgress
from railsformer.training.hf_trainer import RailsformerTrainer
from railsformer.training.licenses import license_of_base, non_commercial_notice
from railsformer.training.samplers import EpochSampler
from railsformer.training.start import build_model, choose_augmentation, choose_pixels, choose_trainable

__all__ = ["TrainingSummary", "build_trainer", "train"]

logger = logging.getLogger(__name__)

SETTINGS_FILE = "train_config.yaml"
FACTS_FILE = "run.json"
RUNNING_FILE = ".running"
# Settings of the Trainer that a reader looks for, also where they are transformers' defaults.
ALWAYS_SAVED = (
    "seed", "learning_rate", "weight_decay", "optim", "lr_scheduler_type", "warmup_steps", "num_train_epochs",
    "per_device_train_batch_size", "gradient_accumulation_steps", "label_smoothing_factor", "metric_for_best_model",
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
    """

    run_dir: Path
    base: str | None
    dataset: str
    dataset_fingerprint: str
    split_kind: str
    labels: tuple[str, ...]
    validation: dict[str, float]
    is_main_process: bool


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
        ValueError: If a split is missing or empty, settings do not fit the base, or training diverges.
        VideoDecodeError: If a video turns out unreadable.
    """
    run, run_dir = settings.run, Path(str(settings.run.output_dir))
    with _claimed(run_dir, resume=bool(run.resume_from_checkpoint)):
        _set_num_threads(run, local_processes=int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        dataset = load_video_dataset(str(settings.data.dataset))
        base = _located(settings.model.model or settings.model.image_model)
        if base and PartialState().is_main_process and (notice := non_commercial_notice(base)):
            logger.warning("%s", notice)
        set_seed(run.seed)
        model = build_model(settings.model, dataset)
        choose_trainable(model, run)
        pixels = choose_pixels(settings.model, settings.data, model.config)
        trainer = build_trainer(settings, dataset, model, pixels)
        trainer.train(resume_from_checkpoint=run.resume_from_checkpoint)
        trainer.save_model(str(run_dir))
        summary = TrainingSummary(
            run_dir=run_dir,
            base=base,
            dataset=str(_located(dataset.name)),
            dataset_fingerprint=dataset.fingerprint,
            split_kind=dataset.split_kind,
            labels=dataset.labels,
            validation=_kept_figures(trainer),
            is_main_process=trainer.is_world_process_zero(),
        )
        if summary.is_main_process:
            pixels.save_pretrained(run_dir)
            trainer.state.save_to_json(str(run_dir / "trainer_state.json"))
            _save_facts(settings, summary)
        PartialState().wait_for_everyone()
    return summary


@contextmanager
def _claimed(run_dir: Path, *, resume: bool) -> Iterator[None]:
    """Hold the run folder for this run alone; every process refuses together, and a failed start leaves nothing.

    Raises:
        FileExistsError: If it holds something, or another run is writing it.
        PermissionError: If it cannot be written.
    """
    state = PartialState()
    refusal: list[OSError | None] = [None]
    if state.is_main_process:
        try:
            if not resume:
                check_output_dir(run_dir)
            run_dir.mkdir(parents=True, exist_ok=True)
            (run_dir / RUNNING_FILE).touch()
        except OSError as error:
            refusal = [error]
    broadcast_object_list(refusal)
    if refusal[0] is not None:
        raise refusal[0]
    try:
        yield
    finally:
        if state.is_main_process:
            (run_dir / RUNNING_FILE).unlink(missing_ok=True)
            if not any(run_dir.iterdir()):
                run_dir.rmdir()


def build_trainer(
    settings: Settings, dataset: VideoDataset, model: RailsformerForVideoClassification, pixels: PixelSettings
) -> RailsformerTrainer:
    """The Trainer with its clips, their order, figures and progress.

    Raises:
        ValueError: If the train or validation split is missing or empty.
    """
    run, sampling = settings.run, ClipSampling.from_config(model.config)
    rows, validation_rows = dataset.split("train"), dataset.split("validation")
    clips = ClipDataset(
        rows,
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
        groups=[str(group) for group in rows["group"]] if "group" in rows.column_names else [""] * len(rows),
        seed=run.seed,
        balance=settings.data.class_balance == "sampler",
        batch_size=run.train_batch_size * run.world_size * run.gradient_accumulation_steps,
    )
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(ReadableProgress)
    return trainer


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


def _kept_figures(trainer: Trainer) -> dict[str, float]:
    """The validation figures of the weights that were kept: the best epoch's, or the last one's."""
    entries = [log for log in trainer.state.log_history if "eval_f1_macro" in log]
    best_step = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
    chosen = [log for log in entries if log["step"] == best_step] or entries[-1:]
    return {key.removeprefix("eval_"): value for key, value in chosen[0].items()} if chosen else {}


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
    (summary.run_dir / SETTINGS_FILE).write_text(text, encoding="utf-8")
    facts = {
        **{key: value for key, value in asdict(summary).items() if key not in ("run_dir", "is_main_process")},
        "base_license": license_of_base(summary.base) if summary.base else None,
        "given": settings.given,
        "versions": {name: version(name) for name in ("railsformer", "torch", "transformers", "accelerate", "av")},
    }
    text = json.dumps(facts, indent=2, ensure_ascii=False, default=str)
    (summary.run_dir / FACTS_FILE).write_text(text + "\n", encoding="utf-8")


def _located(name: str | None) -> str | None:
    """A local folder by its whole path, so that from another folder it is not taken for a Hub repository."""
    return str(Path(name).resolve()) if name and Path(name).exists() else name


def _without_path(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _set_num_threads(run: RunArguments, *, local_processes: int) -> None:
    """On CPU, all cores: `accelerate launch` sets OMP_NUM_THREADS to 1, which halves the speed without a word."""
    if run.device.type == "cpu":
        torch.set_num_threads(run.num_threads or max(1, available_cores() // local_processes))
