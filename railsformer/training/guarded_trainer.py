"""The Trainer of a run that must survive: lost clips, divergence, SIGTERM, kills, and how fast it goes."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from railsformer.data.folders import DiskFullError
from railsformer.training.bad_clips import LostClips
from railsformer.training.hf_trainer import RailsformerTrainer
from railsformer.training.resume import read_record, what_is_missing, write_record
from railsformer.training.run_folder import saving
from railsformer.training.stopping import RunTerminatedError, StopRequest, start_worker

__all__ = ["GuardedTrainer", "Pace"]

_NAMED = 8


@dataclass
class Pace:
    """How training steps went since it was last reset, in this process.

    Args:
        seconds: From asking for a step's clips to the end of the step; evaluation and saving left out.
        waited_seconds: Of them, waiting for clips.
        num_clips: Clips over all processes.
    """

    seconds: float = 0.0
    waited_seconds: float = 0.0
    num_clips: int = 0

    def figures(self) -> dict[str, float]:
        """`clips_per_second` and `data_wait_share`; nothing before the first step."""
        if not self.seconds:
            return {}
        return {
            "clips_per_second": self.num_clips / self.seconds,
            "data_wait_share": self.waited_seconds / self.seconds,
        }


class _Batch(NamedTuple):
    """One forward pass of this process: the rows of its clips, and how many could not be read."""

    video_index: list[int]
    num_lost: int


class GuardedTrainer(RailsformerTrainer):
    """Our Trainer with what a long run needs.

    The loss of a step is the mean over the clips that could be read, over all processes and accumulation steps: their
    number goes to `compute_loss`, and a lost clip has LOST_LABEL. Batches come from `collate_training_clips`.

    Args:
        identity: What must be the same for a run to go on from a checkpoint of this one.
        lost_clips: The count of clips that could not be read.
        eval_collator: Collator of evaluation batches.
    """

    data_collator: Any

    def __init__(
        self,
        *args: Any,
        identity: Mapping[str, Any],
        lost_clips: LostClips,
        eval_collator: Callable[..., dict[str, Any]],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._eval_collator = eval_collator
        self.identity, self.lost_clips = dict(identity), lost_clips
        self.stop = StopRequest()
        self.pace, self.whole_pace = Pace(), Pace()
        self._began = 0.0
        self._batches: list[_Batch] = []
        self._not_finite: tuple[float, list[int]] | None = None
        self._stopping = False
        self.add_callback(_Guard(self))

    def get_eval_dataloader(self, eval_dataset: Any = None) -> torch.utils.data.DataLoader:
        """As stock, with a collator of its own."""
        training = self.data_collator
        self.data_collator = self._eval_collator
        try:
            return _with_lasting_workers(super().get_eval_dataloader(eval_dataset))
        finally:
            self.data_collator = training

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """As stock, with workers that outlive the signal which asks the run to save."""
        return _with_lasting_workers(super().get_train_dataloader())

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], int]:
        """As stock, with the number of clips of all processes that could be read, and the seconds of waiting counted.

        What the model must not see is put aside.
        """
        self._began = time.perf_counter()
        batch_samples = list(islice(epoch_iterator, num_batches))
        waited = time.perf_counter() - self._began
        lost = [batch.pop("lost") for batch in batch_samples]
        self._batches = [
            _Batch(batch.pop("video_index"), len(missing)) for batch, missing in zip(batch_samples, lost, strict=True)
        ]
        for missing in lost:
            self.lost_clips.add(missing)
        num_clips, num_lost = self._summed(
            sum(len(batch.video_index) for batch in self._batches), sum(batch.num_lost for batch in self._batches)
        )
        for pace in (self.pace, self.whole_pace):
            pace.waited_seconds += waited
            pace.num_clips += num_clips
        clips: Any = self.train_dataset
        if num_lost and self.lost_clips.count(num_lost, epoch=clips.epoch):
            raise self.lost_clips.refusal(self._run_dir, is_main_process=self.is_world_process_zero())
        return batch_samples, max(num_clips - num_lost, 1)  # of a step that lost every clip the loss is 0

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As stock; a loss that is not a number is remembered with its clips until every process has made its step."""
        batch = self._batches.pop(0)
        loss = cast(torch.Tensor, super().training_step(*args, **kwargs))
        if self._not_finite is None and not torch.isfinite(loss):
            self._not_finite = (float(loss), batch.video_index)
        return loss

    def agree(self) -> None:
        """Before the weights change: do all processes have a loss that is a number, and is one told to stop?

        Raises:
            ValueError: If training diverged, with step and clips.
        """
        not_finite, asked = self._summed(int(self._not_finite is not None), int(self.stop.asked))
        self._stopping = bool(asked)
        if not_finite:
            raise self._divergence()

    def step_ended(self) -> None:
        """Add the step's seconds."""
        seconds = time.perf_counter() - self._began
        for pace in (self.pace, self.whole_pace):
            pace.seconds += seconds

    def stop_after(self, state: TrainerState, *, is_epoch_end: bool, control: TrainerControl) -> None:
        """Where a stop is asked for: save now. At the end of an epoch validation comes first: it chooses the epoch."""
        at_epoch_end = abs((state.epoch or 0.0) - round(state.epoch or 0.0)) < 1e-6
        if self._stopping and at_epoch_end == is_epoch_end:
            control.should_save = True

    def leave_if_asked(self) -> None:
        """After a checkpoint is whole in every process.

        Raises:
            RunTerminatedError: If a stop was asked for.
        """
        if self._stopping:
            self.accelerator.wait_for_everyone()
            raise RunTerminatedError(self._run_dir / f"checkpoint-{self.state.global_step}")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As stock, with the pace since the last line of training."""
        if "loss" in logs:
            logs.update(self.pace.figures())
            self.pace = Pace()
        super().log(logs, start_time)

    @property
    def _run_dir(self) -> Path:
        return Path(str(self.args.output_dir))

    def _summed(self, *numbers: int) -> list[int]:
        """Each number summed over all processes."""
        if self.args.world_size == 1:
            return list(numbers)
        total = self.accelerator.reduce(torch.tensor(numbers, device=self.args.device), reduction="sum")
        return [int(number) for number in total.tolist()]

    def _divergence(self) -> ValueError:
        """Keep the weights before the step and the clips that it was made of. Every process must call it."""
        value, indices = self._not_finite or (float("nan"), [])
        clips: Any = self.train_dataset
        found = [clips.file_of(index) for index in indices] if self._not_finite else []
        files = list(dict.fromkeys(gather_object(found)))
        folder = self._run_dir / "diverged"
        kept = f"the weights before this step are in {folder}"
        try:
            self.save_model(str(folder))
            if self.is_world_process_zero():
                facts = {"step": self.state.global_step + 1, "loss": str(value), "clips": files}
                (folder / "clips.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", "utf-8")
        except DiskFullError:  # which must not hide what happened
            kept = "the disk has no room for the weights before this step"
        more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
        return ValueError(
            f"the loss is {value} at step {self.state.global_step + 1}: training diverged; lower learning_rate "
            f"{self.args.learning_rate:g}; clips of this batch: {', '.join(files[:_NAMED])}{more}; {kept}"
        )

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """As stock, into a folder that tells which run it is of."""
        progress = {"num_processes": self.args.world_size, "lost_clips": self.lost_clips.state()}
        folder = self._run_dir / f"checkpoint-{self.state.global_step}"
        try:
            with saving(self._run_dir, folder.name):
                if self.is_world_process_zero():
                    write_record(folder, identity=self.identity, progress=progress)
            with saving(self._run_dir, folder.name):  # of trainer_state.json, which makes it whole
                super()._save_checkpoint(model, trial)
        except DiskFullError:
            if self.is_world_process_zero() and what_is_missing(folder):
                shutil.rmtree(folder, ignore_errors=True)  # half a checkpoint only takes room
            raise

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As stock; where the disk is full, all processes say so."""
        folder = Path(output_dir or self._run_dir)
        with saving(self._run_dir, "the model" if folder == self._run_dir else folder.name):
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """As stock; where the disk is full, all processes say so."""
        with saving(self._run_dir, Path(output_dir).name):
            super()._save_optimizer_and_scheduler(output_dir)

    def _save_rng_state(self, output_dir: str) -> None:
        """As stock, then wait: what follows is the file that makes the checkpoint whole, and the older ones' end."""
        with saving(self._run_dir, Path(output_dir).name):
            super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """As stock, with the clips lost before, and the best checkpoint found where the run folder was moved."""
        begun = cast(tuple[int, int], super()._init_training_state(*args, **kwargs))
        best = self._run_dir / f"checkpoint-{self.state.best_global_step}"
        if self.state.best_global_step and best.is_dir():
            self.state.best_model_checkpoint = str(best)
        checkpoint = kwargs.get("resume_from_checkpoint", args[3] if len(args) > 3 else None)
        if checkpoint is not None:
            lost = read_record(Path(checkpoint))["progress"].get("lost_clips")
            if lost:
                self.lost_clips.restore(lost, is_main_process=self.is_world_process_zero())
        return begun


def _with_lasting_workers(loader: torch.utils.data.DataLoader) -> torch.utils.data.DataLoader:
    if loader.num_workers and getattr(loader.worker_init_fn, "func", None) is not start_worker:
        loader.worker_init_fn = partial(start_worker, loader.worker_init_fn)
    return loader


class _Guard(TrainerCallback):
    """Brings the Trainer's moments to `GuardedTrainer`."""

    def __init__(self, trainer: GuardedTrainer) -> None:
        self.trainer = trainer

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Dropout and drop path from (seed, step, process) alone, whatever came before: so runs resume exactly."""
        seed = np.random.SeedSequence([args.seed, state.global_step, args.process_index])
        torch.manual_seed(int(seed.generate_state(1, np.uint64)[0]) >> 1)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Agree on whether to go on."""
        self.trainer.agree()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add up, and stop where asked."""
        self.trainer.step_ended()
        self.trainer.stop_after(state, is_epoch_end=False, control=control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop where asked at the last step."""
        self.trainer.stop_after(state, is_epoch_end=True, control=control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Leave where asked."""
        self.trainer.leave_if_asked()
