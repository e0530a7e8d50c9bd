"""What the Trainer tells us while it runs."""

from collections.abc import Sequence
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_callback import ProgressCallback

from railsformer.data.clips import ClipDataset
from railsformer.training.mixing import MixedClips

__all__ = ["EpochCallback", "ReadableProgress", "check_reporters"]

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


class EpochCallback(TrainerCallback):
    """Tells the training clips which epoch they belong to, also after a resume."""

    def __init__(self, clips: ClipDataset | MixedClips) -> None:
        self.clips = clips

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the epoch; `state.epoch` is a fraction where a run resumes half way."""
        self.clips.set_epoch(int((state.epoch or 0.0) + 1e-6))


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
            self.training_bar.write(
                f"epoch {logs['epoch']:.3g} of {state.num_train_epochs:.3g}: validation macro F1 "
                f"{logs['eval_f1_macro']:.3f}, accuracy {logs['eval_accuracy']:.3f}, loss {logs['eval_loss']:.3f}"
            )
