"""The Trainer of a run that must survive: lost clips, divergence, SIGTERM, kills, and how fast it goes."""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from accelerate.utils import gather_object
from torch.nn import functional as F
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from railsformer.data.clips import LOST_LABEL
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


class _Divergence(NamedTuple):
    """What is no number at a step, and the rows of the clips that may have made it so."""

    what: Literal["loss", "gradient norm"]
    value: float
    video_index: list[int]


class GuardedTrainer(RailsformerTrainer):
    """Our Trainer with what a long run needs.

    The loss of a step is the mean over the clips that could be read, over all processes and accumulation steps: their
    number goes to `compute_loss`, and a lost clip has LOST_LABEL. The figures of an evaluation are those of the videos
    that could be read. Batches come from `collate_training_clips`, in evaluation of `KeptPlaces`.

    Args:
        identity: What must be the same for a run to go on from a checkpoint of this one.
        lost_clips: The count of training clips that could not be read.
        lost_videos: The same of validation videos.
        eval_collator: Collator of evaluation batches.
    """

    data_collator: Any

    def __init__(
        self,
        *args: Any,
        identity: Mapping[str, Any],
        lost_clips: LostClips,
        lost_videos: LostClips,
        eval_collator: Callable[..., dict[str, Any]],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._eval_collator = eval_collator
        self.identity, self.lost_clips, self.lost_videos = dict(identity), lost_clips, lost_videos
        self.stop = StopRequest()
        self.pace, self.whole_pace = Pace(), Pace()
        self._began = 0.0
        self._batches: list[_Batch] = []
        self._clips_of_step: list[int] = []
        self._diverged: _Divergence | None = None
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
        self._clips_of_step = [index for batch in self._batches for index in batch.video_index]
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
            raise self.lost_clips.refusal(
                self._run_dir,
                what=f"clips of epoch {self.lost_clips.epoch}",
                is_main_process=self.is_world_process_zero(),
            )
        return batch_samples, max(num_clips - num_lost, 1)  # of a step that lost every clip the loss is 0

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As stock; a loss that is not a number is remembered with its clips until every process has made its step."""
        batch = self._batches.pop(0)
        loss = cast(torch.Tensor, super().training_step(*args, **kwargs))
        if self._diverged is None and not torch.isfinite(loss):
            self._diverged = _Divergence("loss", float(loss), batch.video_index)
        return loss

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """As stock; a norm that is not a number is remembered: with it the step would end the weights."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # With float16 such norms are how the scale of the loss is found; those steps are left out anyway.
        if norm is not None and self._diverged is None and self.accelerator.mixed_precision != "fp16":
            value = float(norm)
            if not math.isfinite(value):
                self._diverged = _Divergence("gradient norm", value, self._clips_of_step)
        return norm

    def prediction_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As stock; videos that could not be read are noted, and what the model must not see is put aside."""
        self.lost_videos.add(inputs.pop("lost", ()))
        inputs.pop("video_index", None)
        return super().prediction_step(model, inputs, *args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As stock, over the videos that could be read; how many could not goes to `num_lost`.

        Raises:
            ValueError: If too many could not, or the figure that chooses the epoch cannot be computed.
        """
        output = super().evaluation_loop(*args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        read = np.asarray(output.label_ids) != LOST_LABEL
        if num_lost := int((~read).sum()):
            # every evaluation is counted by itself
            too_many = self.lost_videos.count(num_lost, epoch=self.lost_videos.epoch + 1)
            if too_many or not read.any():
                main = self.is_world_process_zero()
                raise self.lost_videos.refusal(self._run_dir, what="validation videos", is_main_process=main)
            logits, labels = (torch.from_numpy(part[read]) for part in (output.predictions, output.label_ids))
            output.metrics[f"{prefix}_loss"] = F.cross_entropy(logits.float(), labels).item()
            output.metrics[f"{prefix}_num_lost"] = num_lost
        figure = str(self.args.metric_for_best_model).removeprefix("eval_")
        if f"{prefix}_{figure}" not in output.metrics:
            raise ValueError(
                f"metric_for_best_model {figure} cannot be computed on the {int(read.sum())} validation videos that "
                f"could be read, at step {self.state.global_step}; name another one, or repair the dataset"
            )
        return output

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """As stock; not one step more where the run was over when the checkpoint that it resumes from was written."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    def agree(self) -> None:
        """Before the weights change: are loss and gradient numbers in all processes, and is one told to stop?

        Raises:
            ValueError: If training diverged, with step and clips.
        """
        diverged, asked = self._summed(int(self._diverged is not None), int(self.stop.asked))
        self._stopping = bool(asked)
        if diverged:
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
        clips: Any = self.train_dataset
        own = [] if self._diverged is None else [self._diverged]
        found = gather_object([(what, value, [clips.file_of(index) for index in rows]) for what, value, rows in own])
        # The gradient is that of all processes: where a loss is no number, its own clips are to blame.
        found = [one for one in found if one[0] == "loss"] or found
        what, value, _ = found[0]
        files = list(dict.fromkeys(file for _, _, some in found for file in some))
        folder = self._run_dir / "diverged"
        kept = f"the weights before this step are in {folder}"
        try:
            self.save_model(str(folder))
            if self.is_world_process_zero():
                facts = {"step": self.state.global_step + 1, what: str(value), "clips": files}
                (folder / "clips.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", "utf-8")
        except DiskFullError:  # which must not hide what happened
            kept = "the disk has no room for the weights before this step"
        more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
        return ValueError(
            f"the {what} is {value} at step {self.state.global_step + 1}: training diverged; lower learning_rate "
            f"{self.args.learning_rate:g}; clips of this batch: {', '.join(files[:_NAMED])}{more}; {kept}"
        )

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """As stock, into a folder that tells which run it is of."""
        lost = {"lost_clips": self.lost_clips.state(), "lost_videos": self.lost_videos.state()}
        progress = {"num_processes": self.args.world_size, **lost}
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
            progress = read_record(Path(checkpoint))["progress"]
            for name, counted in (("lost_clips", self.lost_clips), ("lost_videos", self.lost_videos)):
                if progress.get(name):
                    counted.restore(progress[name], is_main_process=self.is_world_process_zero())
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
