"""Where the seconds of a training step go: what share lies outside forward, backward and optimizer.

    python benchmarks/step_time.py --dataset DATASET --image_model MODEL [--steps 40] [any flag of `railsformer train`]

A real run of `railsformer.training.trainer.train`, whose calls are timed from outside in the same process; each part
counts its own seconds without those of parts within it. Counted is from the end of step 1 to the end of the last one;
epochs that begin in between, with workers that start anew, are within. Evaluation and checkpoints are taken out and
listed. Data workers take the same cores as the network on a machine of few: what that costs lies within forward and
backward. So the same steps are done once more at the end, on one batch that is at hand, with no workers beside.

DATASET must be a folder of `railsformer build` with proxies to measure what a run has.
"""

import argparse
import functools
import os
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from railsformer.training import trainer as training
from railsformer.training.arguments import parse_settings
from railsformer.training.guarded_trainer import GuardedTrainer

WORK = ("forward and loss", "backward", "clip, optimizer, zero_grad")
WAITS = ("wait for data within an epoch", "wait for the first clips of an epoch")
OUTSIDE = (*WAITS, "copy to the device", "callbacks", "log", "schedule and everything else")
APART = ("evaluation", "checkpoint")
DEFAULTS = {
    "num_frames": "8",
    "image_size": "126",
    "clip_sampling": "segments",
    "trainable": "time",
    "per_device_train_batch_size": "8",
    "per_device_eval_batch_size": "8",
    "dataloader_num_workers": "2",
}


class Stopwatch:
    """Seconds by part; a part within a part counts for itself alone, but not within what is taken out."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._last = time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what runs within for `name`."""
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def read(self) -> defaultdict[str, float]:
        """Seconds of every part up to now."""
        self._turn()
        return self.seconds.copy()

    def time_calls(self, owner: Any, method: str, part: str) -> None:
        """Count the calls of one object's method for `part`."""
        inner = getattr(owner, method)

        @functools.wraps(inner)  # it carries the mark that torch's schedules look for
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(part):
                return inner(*args, **kwargs)

        setattr(owner, method, timed)

    def _turn(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        apart = [name for name in self._open if name in APART]
        name = (apart or self._open[-1:] or list(OUTSIDE[-1:]))[0]
        self.seconds[name] += now - self._last
        self._last = now


class StepClock(TrainerCallback):
    """Hangs the stopwatch into a Trainer and keeps what it shows at the end of the first and of the last step."""

    def __init__(self, trainer: GuardedTrainer) -> None:
        self.trainer, self.watch = trainer, Stopwatch()
        self.first = self.last = self.watch.read()
        self.first_step = self.last_step = 0
        self._epoch_begins = False
        self.batch: tuple[dict[str, Any], Any] | None = None
        for method, part in (
            ("_prepare_inputs", "copy to the device"),
            ("compute_loss", WORK[0]),
            ("_clip_grad_norm", WORK[2]),
            ("log", "log"),
            ("evaluate", "evaluation"),
            ("_save_checkpoint", "checkpoint"),
        ):
            self.watch.time_calls(trainer, method, part)
        self.watch.time_calls(trainer.accelerator, "backward", WORK[1])
        self.watch.time_calls(trainer.callback_handler, "call_event", "callbacks")
        self._time_waits()
        self._keep_batch()
        self._mark_steps()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Workers start with the first clips."""
        self._epoch_begins = True

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The optimizer exists from here on. The schedule is saved with all that hangs on it, so it is not timed."""
        for owner, method in ((self.trainer.optimizer, "step"), (self.trainer.model_wrapped, "zero_grad")):
            self.watch.time_calls(owner, method, WORK[2])

    def _time_waits(self) -> None:
        inner = self.trainer.get_batch_samples

        def timed(*args: Any, **kwargs: Any) -> Any:
            part, self._epoch_begins = WAITS[self._epoch_begins], False
            with self.watch.part(part):
                return inner(*args, **kwargs)

        setattr(self.trainer, "get_batch_samples", timed)  # noqa: B010

    def _keep_batch(self) -> None:
        inner: Callable[..., Any] = self.trainer.compute_loss

        def kept(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if model.training:
                self.batch = dict(inputs), kwargs.get("num_items_in_batch")
            return inner(model, inputs, *args, **kwargs)

        setattr(self.trainer, "compute_loss", kept)  # noqa: B010

    def _mark_steps(self) -> None:
        """A step ends where the Trainer has logged it; the end of an epoch comes by once more, without a new step."""
        inner = self.trainer._maybe_log_save_evaluate

        def marked(*args: Any, **kwargs: Any) -> Any:
            result = inner(*args, **kwargs)
            step = self.trainer.state.global_step
            if step != self.last_step:
                self.last, self.last_step = self.watch.read(), step
                if not self.first_step:
                    self.first, self.first_step = self.last, step
            return result

        setattr(self.trainer, "_maybe_log_save_evaluate", marked)  # noqa: B010

    def repeat_at_hand(self, steps: int) -> float:
        """Seconds of a step of forward, backward and optimizer alone, on the last batch; one step to warm up."""
        assert self.batch is not None
        trainer, (inputs, num_items) = self.trainer, self.batch
        model: Any = trainer.model_wrapped
        model.train()
        before = self.watch.read()
        for step in range(steps + 1):
            if step == 1:
                before = self.watch.read()
            loss = trainer.compute_loss(model, inputs, num_items_in_batch=num_items)
            trainer.accelerator.backward(loss)
            trainer._clip_grad_norm(model)
            trainer.optimizer.step()  # type: ignore[union-attr]
            model.zero_grad()
        after = self.watch.read()
        return sum(after[part] - before[part] for part in WORK) / steps

    @property
    def spent(self) -> dict[str, float]:
        """Seconds of every part between the end of the first step and the end of the last."""
        return {part: self.last[part] - self.first[part] for part in (*WORK, *OUTSIDE, *APART)}


def measure(argv: list[str]) -> StepClock:
    """Train with the flags of `railsformer train` under the clock."""
    clocks: list[StepClock] = []
    build = training.build_trainer

    def clocked(*args: Any, **kwargs: Any) -> GuardedTrainer:
        trainer = build(*args, **kwargs)
        clocks.append(StepClock(trainer))
        trainer.add_callback(clocks[0])
        return trainer

    training.build_trainer = clocked
    try:
        training.train(parse_settings(argv))
    finally:
        training.build_trainer = build
    return clocks[0]


def table(clock: StepClock) -> str:
    """Seconds of a step by part and their shares, in Markdown; what was taken out below."""
    spent, steps = clock.spent, clock.last_step - clock.first_step
    whole = sum(spent[part] for part in (*WORK, *OUTSIDE))
    outside = sum(spent[part] for part in OUTSIDE)
    lines = ["| part | seconds a step | share |", "|---|---|---|"]
    rows = [(part, spent[part]) for part in (*WORK, *OUTSIDE)]
    rows += [("**whole step**", whole), ("**outside forward, backward and optimizer**", outside)]
    lines += [f"| {part} | {seconds / steps:.4f} | {seconds / whole:.2%} |" for part, seconds in rows]
    apart = ", ".join(f"{part} {spent[part]:.1f} s" for part in APART)
    return "\n".join([*lines, "", f"{steps} steps after the first. Taken out: {apart}."])


def main() -> None:
    """Parse the flags, train, print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--dataset", required=True, help="dataset folder with proxies")
    parser.add_argument("--image_model", help="trunk, such as a folder of dinov2-small; or --model")
    parser.add_argument("--steps", type=int, default=40, help="of training, the first of them not counted")
    parser.add_argument("--steps_at_hand", type=int, default=8, help="on one batch, to compare")
    parser.add_argument("--output_dir", type=Path, help="folder of the run (default: a temporary one)")
    options, flags = parser.parse_known_args()
    if options.steps < 2:
        parser.error(f"--steps must be at least 2, the first is not counted; got {options.steps}")
    given = {flag.removeprefix("--").partition("=")[0] for flag in flags if flag.startswith("--")}
    own = {"dataset": options.dataset, "image_model": options.image_model, "max_steps": str(options.steps)}
    defaults = {} if "config" in given else {name: value for name, value in DEFAULTS.items() if name not in given}
    values = {name: value for name, value in (own | defaults).items() if value}
    with tempfile.TemporaryDirectory() as scratch:
        values["output_dir"] = str(options.output_dir or Path(scratch, "run"))
        argv = [word for name, value in values.items() for word in (f"--{name}", value)]
        clock = measure([*argv, *flags])
    args = clock.trainer.args
    cores, processor = len(os.sched_getaffinity(0)), platform.processor() or platform.machine()
    print(
        f"{cores} cores ({processor}), torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads; "
        f"batches of {args.train_batch_size}, {args.dataloader_num_workers} workers\n\n{table(clock)}"
    )
    if options.steps_at_hand:
        at_hand = clock.repeat_at_hand(options.steps_at_hand)
        work = sum(clock.spent[part] for part in WORK) / (clock.last_step - clock.first_step)
        print(f"Forward, backward and optimizer of one batch at hand, no workers beside: {at_hand:.4f} s a step;")
        print(f"in the run {work:.4f} s.")


if __name__ == "__main__":
    main()
