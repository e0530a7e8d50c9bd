"""How much memory training takes, measured on the device before it begins, and the setting that fits."""

import gc
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from railsformer.data.probe import available_cores
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification
from railsformer.training.arguments import RunArguments, Settings
from railsformer.training.memory import free_bytes

__all__ = [
    "MemoryPlan",
    "PlannedSetting",
    "StepCost",
    "fit_step_cost",
    "is_overflow",
    "overflow_advice",
    "plan_memory",
    "warn_if_large",
]

logger = logging.getLogger(__name__)

# Left to the loader's workers, to evaluation, and to what an allocator cannot use.
USABLE_SHARE = 0.9
# A run whose counted bytes stay below this share of the free memory is not worth half a minute of measuring.
WORTH_MEASURING_SHARE = 0.5
MEASURED_BATCHES = (1, 2)
MAX_TABLE_BATCH = 64
# Of the run itself: the scratch process neither evaluates, saves nor reports, and stands alone.
_OVERRIDES: dict[str, Any] = {
    "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "report_to": "none",
    "disable_tqdm": True,
}  # fmt: skip
_LEFT_OUT = (
    "resume", "resume_from_checkpoint", "early_stopping_patience", "gradient_checkpointing", "deepspeed", "fsdp",
    "fsdp_config",
)  # fmt: skip
_OVERFLOW_WORDS = (
    "allocate memory", "MemoryError", "bad_alloc", "can't start new thread", "failed to map segment",
    "Resource temporarily unavailable",
)  # fmt: skip
_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class _Line:
    """A value that grows by the clip."""

    fixed: float
    per_clip: float

    def at(self, batch_size: int) -> float:
        return self.fixed + self.per_clip * batch_size


@dataclass(frozen=True)
class StepCost:
    """What a training step takes, as straight lines over the clips of a forward pass.

    Args:
        peak: Bytes, where every step is one pass.
        accumulating_peak: Bytes, where gradients wait in memory for a further pass.
        pass_seconds: Forward and backward.
        optimizer_seconds: The rest of a step.
    """

    peak: _Line
    accumulating_peak: _Line
    pass_seconds: _Line
    optimizer_seconds: float

    def peak_bytes(self, batch_size: int, *, passes: int = 1) -> int:
        """Most memory of a step of this many passes."""
        return round((self.peak if passes == 1 else self.accumulating_peak).at(batch_size))

    def step_seconds(self, batch_size: int, *, passes: int = 1) -> float:
        """Time of a step of this many passes, clips at hand."""
        return passes * self.pass_seconds.at(batch_size) + self.optimizer_seconds


@dataclass(frozen=True)
class PlannedSetting:
    """One way to take the recipe's step.

    Args:
        mode: Of `MemoryPlan.costs`.
        batch_size: Clips of a forward pass of a process.
        passes: Accumulated forward passes of a step.
        peak_bytes: Predicted.
        step_seconds: Predicted.
        fits: Whether it stays within the usable share of the free memory.
    """

    mode: str
    batch_size: int
    passes: int
    peak_bytes: int
    step_seconds: float
    fits: bool


@dataclass(frozen=True)
class MemoryPlan:
    """What was measured, and what follows from it.

    Args:
        device: Where it was measured.
        free_bytes: For one process, before training.
        parameters: Of the model.
        trained_parameters: Those that are not frozen.
        macs: Multiply-accumulates of one clip forward; None if not counted.
        batch_size: The recipe's clips of a forward pass of a process.
        passes: The recipe's accumulated passes of a step.
        mode: The recipe's.
        costs: By mode; None where not even one clip fits.
        flags: What switches each mode on.
        confirmed: The recommended setting as it was measured; None where it was not run.
    """

    device: str
    free_bytes: int
    parameters: int
    trained_parameters: int
    macs: int | None
    batch_size: int
    passes: int
    mode: str
    costs: Mapping[str, StepCost | None]
    flags: Mapping[str, Mapping[str, bool]]
    confirmed: PlannedSetting | None = None

    @property
    def usable_bytes(self) -> int:
        """What a setting may take at most to be said to fit."""
        return int(self.free_bytes * USABLE_SHARE)

    def setting(self, mode: str, batch_size: int) -> PlannedSetting | None:
        """The recipe's step in batches of this size; None where the step cannot be cut so, or nothing fits."""
        cost, clips = self.costs[mode], self.batch_size * self.passes
        if cost is None or clips % batch_size:
            return None
        passes = clips // batch_size
        peak = cost.peak_bytes(batch_size, passes=passes)
        seconds = cost.step_seconds(batch_size, passes=passes)
        return PlannedSetting(mode, batch_size, passes, peak, seconds, peak <= self.usable_bytes)

    @property
    def chosen(self) -> PlannedSetting | None:
        """The recipe's own setting; None where not even one clip fits."""
        return self.setting(self.mode, self.batch_size)

    @property
    def recommended(self) -> PlannedSetting | None:
        """The recipe's own setting where it fits, otherwise the fastest that does and takes the same step."""
        if self.chosen and self.chosen.fits:
            return self.chosen
        settings = [self.setting(mode, size) for mode in self.costs for size in self._batch_sizes(cut_only=True)]
        fitting = [setting for setting in settings if setting and setting.fits]
        return min(fitting, key=lambda setting: setting.step_seconds, default=None)

    def flags_of(self, setting: PlannedSetting) -> str:
        """The flags that choose a setting."""
        switches = {
            "per_device_train_batch_size": setting.batch_size,
            "gradient_accumulation_steps": setting.passes,
            **{name: str(value).lower() for name, value in self.flags[setting.mode].items()},
        }
        return " ".join(f"--{name} {value}" for name, value in switches.items())

    def table(self) -> str:
        """Everything as text, a line a batch size."""
        macs = f"; {self.macs / 1e9:,.1f} GMACs a clip forward" if self.macs is not None else ""
        lines = [
            f"{self.parameters:,} parameters, {self.trained_parameters:,} trained{macs}",
            f"{self.device}: {_gib(self.free_bytes)} free for a process, of which {_gib(self.usable_bytes)} are "
            "counted on; a step is the recipe's, of "
            f"{self.batch_size * self.passes} clips a process",
            "",
            f"{'batch size':<16}" + "".join(f"{mode:<28}" for mode in self.costs),
        ]
        for size in self._batch_sizes():
            lines.append(f"{size:<16}" + "".join(f"{self._cell(mode, size):<28}" for mode in self.costs))
        lines.append(f"{'a clip takes':<16}" + "".join(f"{_per_clip(cost):<28}" for cost in self.costs.values()))
        lines.append(f"{'largest batch':<16}" + "".join(f"{self._largest(cost):<28}" for cost in self.costs.values()))
        lines += ["", self.sentence()]
        if self.confirmed and self.confirmed.fits:
            taken = f"{_gib(self.confirmed.peak_bytes)}, {self.confirmed.step_seconds:.2g} s a step without its loader"
            lines.append(f"run to make sure: {taken}")
        elif self.confirmed:
            lines.append("run to make sure: it overflowed all the same; take a smaller batch")
        return "\n".join(line.rstrip() for line in lines)

    def sentence(self) -> str:
        """One line: whether the recipe fits, and what would."""
        usable, chosen, found = _gib(self.usable_bytes), self.chosen, self.recommended
        if chosen and chosen.fits:
            return f"the recipe fits: {_gib(chosen.peak_bytes)} of {usable}; {self.flags_of(chosen)}"
        needs = f"needs {_gib(chosen.peak_bytes)}" if chosen else "overflows with one clip"
        start = f"batches of {self.batch_size} ({self.mode}) {needs}, {usable} can be used on {self.device}"
        if found is None:
            return f"{start}; nothing fits: lower image_size or num_frames, or train less of it (--trainable time)"
        return (
            f"{start}; the same step fits with {self.flags_of(found)} ({_gib(found.peak_bytes)}, "
            f"{found.step_seconds:.2g} s a step)"
        )

    def _batch_sizes(self, *, cut_only: bool = False) -> list[int]:
        """Powers of two and the recipe's own; with `cut_only` all into which the recipe's step can be cut."""
        clips = self.batch_size * self.passes
        if cut_only:
            return [size for size in range(1, clips + 1) if clips % size == 0]
        powers = [2**power for power in range(7) if 2**power <= min(max(8, clips), MAX_TABLE_BATCH)]
        return sorted({*powers, self.batch_size})

    def _cell(self, mode: str, size: int) -> str:
        cost, setting = self.costs[mode], self.setting(mode, size)
        if cost is None:
            return "does not fit"
        if setting is None:
            peak = cost.peak_bytes(size)
            return f"{_gib(peak)} {'fits' if peak <= self.usable_bytes else 'too much'}"
        return f"{_gib(setting.peak_bytes)} {'fits' if setting.fits else 'too much'}, {setting.step_seconds:.2g} s"

    def _largest(self, cost: StepCost | None) -> str:
        if cost is None or cost.peak.at(1) > self.usable_bytes:
            return "none"
        return f"{int((self.usable_bytes - cost.peak.fixed) / cost.peak.per_clip)}" if cost.peak.per_clip else "any"


def plan_memory(
    settings: Settings, *, modes: tuple[str, ...] | None = None, free: int | None = None, confirm: bool = False
) -> MemoryPlan:
    """Measure real training steps at batches of one and two in processes of their own, and say what fits.

    Args:
        settings: Of the run; its folder is not touched.
        modes: Which to measure; all that make sense on the device if not given.
        free: Bytes that one process may use; what the device has free if not given.
        confirm: Whether to run the recommended setting too, and to tell what it took.

    Raises:
        RuntimeError: If a measuring process ends for another reason than memory.
        ValueError: If the settings do not fit the dataset or the base, in the words of the run itself.
    """
    run = settings.run
    if free is None and run.device.type == "cpu":
        # This process hands its own memory back, or goes on in the place of the one that is measured.
        free = (free_bytes(run.device) + _own_rss_bytes()) // _local_processes()
    flags = _modes(run)
    costs: dict[str, StepCost | None] = {}
    facts: dict[str, Any] = {}
    for mode in modes or tuple(flags):
        measured: dict[int, dict[str, Any]] = {}
        for size in MEASURED_BATCHES:
            answer = _measure(settings, mode, flags[mode], size=size, limit_bytes=free)
            facts = {**answer, **{key: value for key, value in facts.items() if value is not None}}
            if answer.get("overflow"):
                break
            measured[size] = answer
        costs[mode] = fit_step_cost(measured, copies_bytes=_copies_bytes(run, facts)) if measured else None
    plan = MemoryPlan(
        device=str(facts.get("device", run.device)),
        free_bytes=int(facts.get("free_bytes", 0) if free is None else free),
        parameters=int(facts.get("parameters", 0)),
        trained_parameters=int(facts.get("trained_parameters", 0)),
        macs=facts.get("macs"),
        batch_size=run.per_device_train_batch_size,
        passes=run.gradient_accumulation_steps,
        mode=_own_mode(run),
        costs=costs,
        flags=flags,
    )
    found = plan.recommended if confirm else None
    if found is None:
        return plan
    answer = _measure(settings, found.mode, flags[found.mode], size=found.batch_size, limit_bytes=free)
    return replace(plan, confirmed=_confirmed(found, answer, copies_bytes=_copies_bytes(run, facts)))


def _confirmed(found: PlannedSetting, answer: Mapping[str, Any], *, copies_bytes: int) -> PlannedSetting:
    """The recommended setting with what it took, instead of what was predicted."""
    if answer.get("overflow"):
        return replace(found, fits=False)
    peak = answer["peak_bytes" if found.passes == 1 else "accumulating_peak_bytes"] + copies_bytes
    seconds = found.passes * answer["pass_seconds"] + answer["optimizer_seconds"]
    return replace(found, peak_bytes=int(peak), step_seconds=seconds)


def fit_step_cost(measured: Mapping[int, Mapping[str, Any]], *, copies_bytes: int = 0) -> StepCost:
    """Straight lines through what `plan_step` measured at each batch size.

    Args:
        measured: Answers by batch size, one or two; of one alone everything is taken to grow with the clips, which
            predicts too much rather than too little.
        copies_bytes: Added to both peaks: what a process holds beside others and not alone.
    """

    def line(key: str, extra: int = 0) -> _Line:
        (small, low), (large, high) = min(measured.items()), max(measured.items())
        if small == large:
            return _Line(extra, low[key] / small)
        per_clip = max(0.0, (high[key] - low[key]) / (large - small))
        if low[key] < per_clip * small:
            return _Line(extra, high[key] / large)
        return _Line(low[key] - per_clip * small + extra, per_clip)

    largest, answer = max(measured.items())
    on_cpu = answer.get("device") == "cpu"  # which is busy with two clips already, and shared with others: no line
    return StepCost(
        peak=line("peak_bytes", copies_bytes),
        accumulating_peak=line("accumulating_peak_bytes", copies_bytes),
        pass_seconds=_Line(0.0, answer["pass_seconds"] / largest) if on_cpu else line("pass_seconds"),
        optimizer_seconds=answer["optimizer_seconds"],
    )


def warn_if_large(settings: Settings, model: RailsformerForVideoClassification) -> MemoryPlan | None:
    """Before the first step: where memory looks short, measure, and say in one line what would fit.

    A run whose counted bytes are far below the free memory is let through at once, without measuring.

    Args:
        settings: Of the run.
        model: That will be trained, with its frozen parts frozen; still on the CPU.

    Returns:
        The plan where one was measured.
    """
    run = settings.run
    free = free_bytes(run.device) // (1 if run.device.type == "cuda" else _local_processes())
    if _counted_bytes(model, run) < WORTH_MEASURING_SHARE * free:
        return None
    plan = plan_memory(settings, modes=(_own_mode(run),))
    if plan.chosen is None or not plan.chosen.fits:
        plan = plan_memory(settings)
        logger.warning("%s", plan.sentence())
    return plan


def is_overflow(error: BaseException) -> bool:
    """Whether an error says that a GPU, or this process on a CPU, has no more memory."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error)


def overflow_advice(settings: Settings, error: BaseException) -> str:
    """One line for a run that overflowed its device, after what it held there was freed.

    Args:
        settings: Of the run.
        error: What was raised; the frames that it passed are cleared.
    """
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    torch.cuda.empty_cache()
    run = settings.run
    clips = run.per_device_train_batch_size * run.gradient_accumulation_steps
    try:
        return f"out of memory: {plan_memory(settings).sentence()}"
    except (RuntimeError, ValueError, OSError):  # the advice must not hide what happened
        return (
            f"out of memory with batches of {run.per_device_train_batch_size} on {run.device}; try "
            f"--per_device_train_batch_size 1 --gradient_accumulation_steps {clips} --activation_checkpointing true"
        )


def _modes(run: RunArguments) -> dict[str, dict[str, bool]]:
    modes = {"plain": {"activation_checkpointing": False}, "checkpointing": {"activation_checkpointing": True}}
    if run.device.type == "cuda" and not (run.bf16 or run.fp16) and torch.cuda.is_bf16_supported():
        modes |= {
            "bf16": {"activation_checkpointing": False, "bf16": True},
            "bf16 + checkpointing": {"activation_checkpointing": True, "bf16": True},
        }
    return modes


def _own_mode(run: RunArguments) -> str:
    return "checkpointing" if run.activation_checkpointing else "plain"


def _copies_bytes(run: RunArguments, facts: Mapping[str, Any]) -> int:
    """DistributedDataParallel holds every gradient once more, in the buckets that it sends."""
    return int(facts.get("trained_bytes", 0)) if run.world_size > 1 else 0


def _local_processes() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _measure(
    settings: Settings, mode: str, flags: Mapping[str, bool], *, size: int, limit_bytes: int | None
) -> dict[str, Any]:
    """Run `plan_step` once; on a CPU its data ends where free memory does, before the machine begins to swap.

    Raises:
        RuntimeError: If it fails for another reason than memory.
        ValueError: If it refuses the settings.
    """
    run = settings.run
    logger.info("measuring a training step: %s, batch of %d", mode, size)
    given = {name: value for name, value in settings.given.items() if name not in _LEFT_OUT}
    values: dict[str, Any] = {**given, **_OVERRIDES, **flags}
    values["num_threads"] = run.num_threads or max(1, available_cores() // _local_processes())
    limited = run.device.type == "cpu" and sys.platform == "linux"
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.yaml"
        values["output_dir"] = str(Path(folder) / "run")
        recipe.write_text(json.dumps(values, default=str), encoding="utf-8")  # JSON is YAML
        request = {"recipe": str(recipe), "batch_size": size, "count": size == 1}
        request["limit_bytes"] = limit_bytes if limited else None
        done = subprocess.run(
            [sys.executable, "-m", "railsformer.training.plan_step"],
            input=json.dumps(request), capture_output=True, text=True, check=False, env=dict(_environment()),
        )  # fmt: skip
    # Killed by the kernel where memory ends; or stopped by the limit, which libraries meet in words of their own.
    if done.returncode == -signal.SIGKILL or (
        done.returncode and any(word in done.stderr for word in _OVERFLOW_WORDS)
    ):
        return {"overflow": True}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise RuntimeError(f"the process that measures a training step failed: {last}")
    answer: dict[str, Any] = json.loads(lines[-1])
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer


def _environment() -> Iterator[tuple[str, str]]:
    """Ours, without what makes a process one of several, and with the folder that this package comes from."""
    for name, value in os.environ.items():
        if name not in _LAUNCHER and not name.startswith(("TORCHELASTIC_", "ACCELERATE_USE_", "FSDP_")):
            yield name, value
    root = str(Path(__file__).parents[2])
    yield "PYTHONPATH", os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))


def _counted_bytes(model: RailsformerForVideoClassification, run: RunArguments) -> int:
    """Weights, gradients, two moments and the tensors that backward needs, counted in a tenth of a second.

    A rough number: it only decides whether to measure. Saved tensors are counted twice where they share memory.
    """
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    weights = sum(parameter.nbytes for parameter in model.parameters())
    states = sum(3 * parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    config, saved = model.config, 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal saved
        saved += 0 if isinstance(tensor, torch.nn.Parameter) else tensor.nbytes
        return tensor

    height, width = config.image_height_width
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # a run draws the same whether or not it is counted
        twin = RailsformerForVideoClassification(config).train()
        for name, parameter in twin.named_parameters():
            parameter.requires_grad_(trained.get(name, True))
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            twin(torch.zeros(1, config.num_frames, config.num_channels, height, width))
    if run.activation_checkpointing:  # one block at a time
        saved //= max(1, config.num_hidden_layers)
    return weights + states + saved * run.per_device_train_batch_size


def _own_rss_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


def _per_clip(cost: StepCost | None) -> str:
    return f"{cost.peak.per_clip / 2**20:,.1f} MiB" if cost else ""
