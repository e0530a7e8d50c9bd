"""What the Trainer tells us while it runs."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from railsformer.data.clips import ClipDataset

__all__ = ["EpochCallback", "ReadableProgress"]


class EpochCallback(TrainerCallback):
    """Tells the training clips which epoch they belong to, also after a resume."""

    def __init__(self, clips: ClipDataset) -> None:
        self.clips = clips

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the epoch; `state.epoch` is a fraction where a run resumes half way."""
        self.clips.set_epoch(int((state.epoch or 0.0) + 1e-6))


class ReadableProgress(ProgressCallback):
    """The stock bar, with one short line an evaluation instead of printed dictionaries."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show loss and learning rate in the bar, and the figures of an evaluation as a line."""
        if not state.is_world_process_zero or self.training_bar is None or logs is None:
            return
        if "loss" in logs:
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.3f}", lr=f"{logs['learning_rate']:.1e}")
        if "eval_f1_macro" in logs:
            self.training_bar.write(
                f"epoch {logs['epoch']:.0f} of {args.num_train_epochs:.0f}: validation macro F1 "
                f"{logs['eval_f1_macro']:.3f}, accuracy {logs['eval_accuracy']:.3f}, loss {logs['eval_loss']:.3f}"
            )
