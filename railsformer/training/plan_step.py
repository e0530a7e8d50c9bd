"""Real training steps on random pixels, for the memory planner, in a process of its own: an overflow costs nothing.

`railsformer.training.plan` runs this module with a request as JSON on stdin and reads the last line of stdout.
"""

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from railsformer.data.clips import load_video_dataset
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification
from railsformer.training.arguments import Settings, parse_settings
from railsformer.training.hf_trainer import RailsformerTrainer
from railsformer.training.memory import free_bytes, peak_rss_bytes, reset_peak_rss
from railsformer.training.start import build_model, choose_trainable

__all__ = ["count_macs", "main", "measure_steps"]


def main() -> None:
    """Measure one request and print the answer as one line of JSON."""
    request = json.load(sys.stdin)
    _be_the_first_to_go(request.get("limit_bytes"))
    try:
        answer = measure_steps(
            parse_settings(["--config", request["recipe"]]), batch_size=request["batch_size"], count=request["count"]
        )
    except (torch.OutOfMemoryError, MemoryError):
        answer = {"overflow": True}
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        answer = {"overflow": True}
    except (ValueError, OSError) as error:
        answer = {"error": " ".join(str(error).split())}
    sys.stdout.write(json.dumps(answer) + "\n")


def measure_steps(settings: Settings, *, batch_size: int, count: bool) -> dict[str, Any]:
    """Train a few steps as the run would, optimizer included, and see what they take.

    Args:
        settings: Of the run, with `output_dir` a scratch folder, and neither evaluation nor saving.
        batch_size: Clips of a forward pass.
        count: Whether to count multiply-accumulates too.

    Returns:
        `peak_bytes` of whole steps, `accumulating_peak_bytes` where gradients wait for a second pass, `pass_seconds`
        and `optimizer_seconds`, the least of several; `parameters`, `trained_parameters`, `trained_bytes`; `device`;
        `free_bytes` of a GPU before the model came; and `macs` of a clip.
    """
    run = settings.run
    if run.device.type == "cpu":
        torch.set_num_threads(run.num_threads or 1)
    model = build_model(settings.model, load_video_dataset(str(settings.data.dataset)))
    choose_trainable(model, run)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    answer: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_parameters": sum(parameter.numel() for parameter in trained),
        "trained_bytes": sum(parameter.numel() * parameter.element_size() for parameter in trained),
        "device": str(run.device),
        "macs": count_macs(model) if count else None,
    }
    if run.device.type == "cuda":
        answer["free_bytes"] = free_bytes(run.device)
    if run.activation_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=run.activation_checkpointing_kwargs)
    trainer = RailsformerTrainer(model=model, args=run)
    steps = _Steps(trainer, batch_size=batch_size)
    _reset_peak(run.device)
    steps.run(passes=1)  # makes the optimizer's moments
    plain = steps.run(passes=1)
    answer["peak_bytes"] = _peak(run.device)
    accumulating = steps.run(passes=2)
    answer["accumulating_peak_bytes"] = _peak(run.device)
    answer["pass_seconds"], answer["optimizer_seconds"] = (
        min(seconds) for seconds in zip(plain, accumulating, strict=True)
    )
    return answer


def count_macs(model: RailsformerForVideoClassification) -> int:
    """Multiply-accumulates of one clip forward, counted without computing them."""
    config = model.config
    height, width = config.image_height_width
    with torch.device("meta"):
        twin = RailsformerForVideoClassification(config).eval()
        twin.set_attn_implementation("eager")  # what a fused kernel does is not counted on every device
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            twin(torch.zeros(1, config.num_frames, config.num_channels, height, width))
    return counter.get_total_flops() // 2


class _Steps:
    """Training steps of one batch size, with the run's own optimizer, precision and clipping."""

    def __init__(self, trainer: RailsformerTrainer, *, batch_size: int) -> None:
        config = trainer.model.config
        height, width = config.image_height_width
        self.trainer, self.device = trainer, trainer.args.device
        self.model = trainer.model.to(self.device).train()
        self.shape = (batch_size, config.num_frames, config.num_channels, height, width)
        self.labels = torch.zeros(batch_size, dtype=torch.long, device=self.device)
        self.optimizer = trainer.create_optimizer()

    def run(self, *, passes: int) -> tuple[float, float]:
        """One optimizer step over this many accumulated passes; seconds of the last pass, and of the optimizer."""
        for _ in range(passes):
            began = self._now()
            # As in a run, where this batch is still held while the next one is made.
            pixel_values = torch.randn(self.shape).to(self.device)
            with self.trainer.accelerator.autocast():
                loss = self.model(pixel_values=pixel_values, labels=self.labels).loss
            (loss / passes).backward()
            passed = self._now()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.trainer.args.max_grad_norm or 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return passed - began, self._now() - passed

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        reset_peak_rss()


def _peak(device: torch.device) -> int:
    """What the allocator of a GPU took from it at most; of a CPU the whole process."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else peak_rss_bytes()


def _be_the_first_to_go(limit_bytes: int | None) -> None:
    """Where memory runs out, this process ends, and none that matters."""
    score = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError):  # no such file outside Linux, read-only in some containers
        score.write_text("1000", encoding="ascii")
    if limit_bytes is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


if __name__ == "__main__":
    main()
