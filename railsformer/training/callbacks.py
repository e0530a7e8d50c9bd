"""What the Trainer tells us while it runs."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_callback import ProgressCallback

from railsformer.data.clips import ClipDataset
from railsformer.training.mixing import MixedClips

__all__ = [
    "EarlyStopping", "EpochCallback", "ReadableProgress", "check_reporters", "closing_bars",
    "evaluations_since_best",
]  # fmt: skip

_PACKAGES = {"comet_ml": "comet-ml", "azure_ml": "azureml-mlflow", "flyte": "flytekit"}


def check_reporters(names: Sequence[str]) -> None:
    """Check before the first step that what a run reports to is installed.

    Args:
        names: report_to, as TrainingArguments resolved it.

    Raises:
        ValueError: If a name is unknown, or its package is not installed.
    """
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(f"report_to must be of {', '.join(INTEGRATION_TO_CALLBACK)}, all or none, got {name!r}")
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (ImportError, RuntimeError) as error:
            raise ValueError(
                f"report_to {name} needs a package that is not installed; pip install {_PACKAGES.get(name, name)}, or "
                "leave it out"
            ) from error


def evaluations_since_best(log_history: Sequence[Mapping[str, Any]], figure: str, *, greater_is_better: bool) -> int:
    """Evaluations after the best one; 0 where the last is better than all before it, or there is none.

    Args:
        log_history: Of the Trainer's state. One of step 0 is passed over: no checkpoint could be kept of it.
        figure: metric_for_best_model. One that is not a number is worse than any.
        greater_is_better: Its direction.
    """
    key = f"eval_{figure.removeprefix('eval_')}"
    sign = 1.0 if greater_is_better else -1.0
    # By step: an evaluation that a resumed run repeats is the same one.
    values = {log["step"]: sign * log[key] for log in log_history if key in log and log["step"] > 0}
    scores = [-math.inf if math.isnan(value) else value for value in values.values()]
    return len(scores) - 1 - scores.index(max(scores)) if scores else 0


class EarlyStopping(TrainerCallback):
    """Ends a run after some evaluations in a row without a better figure.

    How many there were is read off the log that every checkpoint keeps, so that a resumed run ends where one never
    killed does, and takes no further step where its checkpoint was the last. (transformers' own callback counts from
    nothing after a resume.)

    Args:
        patience: How many evaluations.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop at once where the checkpoint's run had come to its end."""
        self.on_evaluate(args, state, control)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop where patience is spent."""
        waited = evaluations_since_best(
            state.log_history, str(args.metric_for_best_model), greater_is_better=bool(args.greater_is_better)
        )
        if waited >= self.patience:
            control.should_training_stop = True


class EpochCallback(TrainerCallback):
    """Tells the training clips which epoch they belong to, also after a resume."""

    def __init__(self, clips: ClipDataset | MixedClips) -> None:
        self.clips = clips

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the epoch; `state.epoch` is a fraction where a run resumes half way."""
        self.clips.set_epoch(int((state.epoch or 0.0) + 1e-6))


@contextmanager
def closing_bars(callbacks: Iterable[TrainerCallback]) -> Iterator[None]:
    """Close progress bars also where a run ends in an error, which then stands on a line of its own."""
    try:
        yield
    finally:
        for callback in callbacks:
            if isinstance(callback, ReadableProgress):
                callback.close()


class ReadableProgress(ProgressCallback):
    """The stock bar, with the pace of training, and one short line an evaluation instead of printed dictionaries."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar where the run begins, so that the time left after a resume is that of its own steps."""
        self.current_step = state.global_step
        if state.is_world_process_zero:
            self.training_bar = tqdm(
                total=state.max_steps, initial=state.global_step, dynamic_ncols=True, unit="step", smoothing=0.1
            )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show loss, learning rate, pace and the wait for data; and the figures of an evaluation as a line."""
        if not state.is_world_process_zero or self.training_bar is None or logs is None:
            return
        if "loss" in logs:
            shown = {"loss": f"{float(logs['loss']):.3f}", "lr": f"{logs['learning_rate']:.1e}"}
            if "clips_per_second" in logs:
                shown["clips/s"] = f"{logs['clips_per_second']:.3g}"
                shown["data wait"] = f"{logs['data_wait_share']:.0%}"
            self.training_bar.set_postfix(shown)
        if "eval_f1_macro" in logs:
            unread = f", {logs['eval_num_lost']} video(s) unread" if "eval_num_lost" in logs else ""
            self.training_bar.write(
                f"epoch {logs['epoch']:.3g} of {state.num_train_epochs:.3g}: validation macro F1 "
                f"{logs['eval_f1_macro']:.3f}, accuracy {logs['eval_accuracy']:.3f}, loss {logs['eval_loss']:.3f}"
                f"{unread}"
            )

    def close(self) -> None:
        """Close what is open."""
        for name in ("prediction_bar", "training_bar"):
            if (bar := getattr(self, name)) is not None:
                bar.close()
            setattr(self, name, None)
