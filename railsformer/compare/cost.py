"""What every network costs on this machine, beside the paper's figures."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm import tqdm

from railsformer.compare.analytic import analytic_cost
from railsformer.compare.cost_figures import draw_cost_figures
from railsformer.compare.curves import cost_curves
from railsformer.compare.machine import USABLE_SHARE, library_versions, processor
from railsformer.compare.measuring import run_cell
from railsformer.compare.peers import PEER_LIBRARIES, cost_command, why_no_peer
from railsformer.compare.variants import Variant, cost_variants, differences_from_paper
from railsformer.data.files import whole_file
from railsformer.data.probe import available_cores
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification
from railsformer.training.memory import free_bytes
from railsformer.training.plan_step import count_macs

__all__ = ["measure_cost"]

_MEASURED_SECONDS = 5.0  # a row that took less was there already, or only counted
_BUSY_SHARE = 0.25
_COUNTED = (
    "Multiply-accumulates of linear layers, convolutions and both products of attention (as if its matrices were "
    "made), counted by torch's flop counter; norms, softmax, activations, biases and pooling are not counted. The "
    "paper's FLOPs are multiply-accumulates too. Parameters are all, trained or not, with the head for 174 classes "
    "(3D CNNs: 400). Comparisons a patch are the tokens of its groups in a block, CLS where it takes part."
)
_MEASURED = (
    "Random weights and pixels, float32, a batch of one; a training step is forward, backward and SGD with momentum. "
    "Every cell ran alone in a process of its own; seconds are the median of the repeats after one untimed pass. Peak "
    "memory is the most of that process over what stood before the model was built: weights and activations, and in "
    "training gradients and momentum. 3D CNNs run with the torch of their own environment, which their rows tell."
)


def measure_cost(
    output_dir: str | Path,
    *,
    memory_gib: float | None = None,
    peer_python: str | Path | None = None,
    quick: bool = False,
    retry: bool = False,
    num_threads: int | None = None,
    progress: bool = False,
    on_row: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Count, measure and draw what every scheme, clip and 3D CNN costs; what is in `output_dir` is not done again.

    Args:
        output_dir: Of the comparison; cells go to cells/cost, pictures to figures.
        memory_gib: What a cell may take at most; nine tenths of what is free if not given. One that overflows is
            recorded so, and the rest goes on.
        peer_python: Python of an environment with pytorchvideo; without it the rows of 3D CNNs say why they are empty.
        quick: Tiny networks, for tests.
        retry: Try again the cells that failed.
        num_threads: Of a cell on a CPU; all cores that this process may use if not given.
        progress: Show a bar.
        on_row: Given the section so far after each row that was measured.

    Returns:
        `protocol`, `num_waiting` (rows still to be measured), `rows` (a `Variant` each, with its figures, the paper's,
        and `differences`), `curves` (see `cost_curves`), `sentences`, and `figures`: file names below figures/ with
        title and alternative text. `draw_cost_figures(curves, rows)` draws them again.

    Raises:
        ValueError: If memory_gib or num_threads is not positive.
    """
    for name, value in (("memory_gib", memory_gib), ("num_threads", num_threads)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    free = free_bytes(device)
    bench = _Bench(
        folder=Path(output_dir) / "cells" / "cost",
        device=device.type,
        limit_bytes=int(free * USABLE_SHARE if memory_gib is None else memory_gib * 2**30),
        num_threads=num_threads or available_cores(),
        peer_python=peer_python,
        retry=retry,
    )
    variants, curves = cost_variants(quick=quick), cost_curves(free_bytes=free)
    rows: list[dict[str, Any]] = []

    def section() -> dict[str, Any]:
        protocol = _protocol(bench, rows, free=free, quick=quick)
        told = {"rows": list(rows), "curves": curves, "sentences": _row_sentences(rows)}
        return {"protocol": protocol, "num_waiting": len(variants) - len(rows), **told}

    for variant in tqdm(variants, desc="cost", unit="row", disable=not progress):
        began = time.monotonic()
        rows.append(bench.row(variant))
        if on_row is not None and time.monotonic() - began > _MEASURED_SECONDS:
            on_row(section())
    return section() | {"figures": _write_figures(Path(output_dir) / "figures", curves, rows)}


@dataclass(frozen=True)
class _Bench:
    """Where and how cells are measured."""

    folder: Path
    device: str
    limit_bytes: int
    num_threads: int
    peer_python: str | Path | None
    retry: bool

    def row(self, variant: Variant) -> dict[str, Any]:
        """All figures of one network; None for what is not known, and `not_measured` says why."""
        counts, reasons = self._counts(variant)
        row: dict[str, Any] = {
            "name": variant.name,
            "family": variant.family,
            "scheme": variant.scheme,
            "num_frames": variant.config["num_frames"],
            "image_size": variant.config["image_size"],
            "num_labels": variant.config["num_labels"],
            "views": variant.num_views,
            **counts,
            "macs_all_views": counts["macs_a_view"] and counts["macs_a_view"] * variant.num_views,
            "out_of_memory": [],
        }
        versions: dict[str, str] | None = None
        for mode, seconds in (("forward", "forward_seconds"), ("training", "training_step_seconds")):
            wanted = mode in variant.measured and counts["parameters"] is not None
            answer = self._cell(variant, mode) if wanted else {}
            timed = answer.get("seconds")
            row[seconds] = statistics.median(timed) if timed else None
            row[f"{seconds}_range"] = [min(timed), max(timed)] if timed else None
            row[f"{mode}_repeats"] = len(timed) if timed else 0
            row[f"{mode}_peak_bytes"] = answer.get("peak_bytes")
            versions = answer.get("versions", versions)
            row[f"{mode}_others_busy"] = answer.get("others_busy")
            if "failed" in answer:
                reasons.append(f"{'training step' if mode == 'training' else 'forward pass'}: {answer['failed']}")
                row["out_of_memory"] += [seconds.removesuffix("_seconds")] * answer.get("overflow", False)
        row["not_measured"] = "; ".join(filter(None, (variant.not_measured, *reasons))) or None
        row["versions"] = versions
        row["note"] = _peer_note(row) if variant.is_peer else None
        row["paper"] = dict(variant.paper)
        row["differences"] = [asdict(difference) for difference in differences_from_paper(row)]
        return row

    def _counts(self, variant: Variant) -> tuple[dict[str, Any], list[str]]:
        if not variant.is_peer:
            config = variant.model_config()
            with torch.device("meta"):
                model = RailsformerForVideoClassification(config)
            frames, side = config.num_frames, variant.config["image_size"]
            compared = analytic_cost(config, num_frames=frames, image_size=side).comparisons_a_patch
            parameters = sum(parameter.numel() for parameter in model.parameters())
            return _counted(parameters, count_macs(model), compared), []
        reason = why_no_peer(self.peer_python)
        answer: dict[str, Any] = self._cell(variant, "count") if reason is None else {"failed": reason}
        failed = [answer["failed"]] if "failed" in answer else []
        return _counted(answer.get("parameters"), answer.get("macs"), None), failed

    def _cell(self, variant: Variant, mode: str) -> dict[str, Any]:
        config = dict(variant.config) | ({} if variant.is_peer else {"attention_type": variant.scheme})
        request = {
            "config": config,
            "mode": mode,
            "repeats": variant.repeats.get(mode, 0),
            "device": self.device,
            "num_threads": self.num_threads,
            "limit_bytes": self.limit_bytes,
        }
        identity: dict[str, Any] = {"hardware": _hardware(self.device), "versions": library_versions()}
        if variant.is_peer:
            identity["peer_python"] = str(self.peer_python)
        command = cost_command(self.peer_python if variant.is_peer else None)
        folder = self.folder / f"{variant.folder_name}_{mode}"
        return run_cell(folder, command, request, identity=identity, retry=self.retry)


def _peer_note(row: Mapping[str, Any]) -> str | None:
    """With which libraries a 3D CNN was timed, since they are not those of the other rows."""
    if row["forward_seconds"] is None and row["training_step_seconds"] is None:
        return None
    ours, found = library_versions()["torch"], row["versions"] or {}
    told = ", ".join(f"{name} {found[name]}" for name in PEER_LIBRARIES if name in found)
    return f"timed with {told or 'a torch whose version was not kept'}, the other networks with torch {ours}"


def _counted(parameters: int | None, macs: int | None, comparisons: float | None) -> dict[str, Any]:
    return {"parameters": parameters, "macs_a_view": macs, "comparisons_a_patch": comparisons}


def _protocol(bench: _Bench, rows: Sequence[Mapping[str, Any]], *, free: int, quick: bool) -> dict[str, Any]:
    busy = [
        f"{row['name']} ({mode})"
        for row in rows
        for mode in ("forward", "training")
        if (row[f"{mode}_others_busy"] or 0) > _BUSY_SHARE
    ]
    return {
        "data": "random pixels and random weights",
        "split": "none",
        "seeds": [0],
        "budget": "one clip at a time, after one untimed pass the repeats that each row tells",
        "hardware": _hardware(bench.device) | ({"threads": bench.num_threads} if bench.device == "cpu" else {}),
        "device": bench.device,
        "memory_limit_gib": round(bench.limit_bytes / 2**30, 2),
        "free_gib": round(free / 2**30, 2),
        "batch_size": 1,
        "dtype": "float32",
        "counted": _COUNTED,
        "measured": _MEASURED,
        "paper": "arXiv 2102.05095v4",
        "measured_while_others_worked": busy,
        "quick": quick,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": library_versions(),
    }


def _row_sentences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the rows say of the paper's counts."""
    exact = [row for row in rows if isinstance(row["paper"].get("parameters"), int)]
    equal = [row for row in exact if row["parameters"] == row["paper"]["parameters"]]
    marked = [(row["name"], one) for row in rows for one in row["differences"] if one["marked"]]
    told = []
    if exact:
        told.append(f"Parameters equal the paper's to the integer in {len(equal)} of {len(exact)} rows that it tells.")
    compared = sum(row[what] is not None for row in rows for what in row["paper"])
    if compared:
        told.append(f"{len(marked)} of {compared} figures differ from the paper's by more than 2 %.")
    told += [f"{name}, {one['what']}: {one['share']:+.1%}; {one['why']}." for name, one in marked]
    return told


def _write_figures(folder: Path, curves: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for drawing in draw_cost_figures(curves, rows):
        with whole_file(folder / f"{drawing.name}.png") as partial:
            partial.write_bytes(drawing.png)
        written.append({"file": f"{drawing.name}.png", "title": drawing.title, "alt": drawing.alt})
    return written


def _hardware(device: str) -> dict[str, Any]:
    """The GPU, or the processor, its cores for this process, and its memory."""
    if device == "cuda":
        facts = torch.cuda.get_device_properties(0)
        return {"gpus": facts.name, "memory_gib": round(facts.total_memory / 2**30)}
    total = psutil.virtual_memory().total
    return {"processor": processor(), "cores": available_cores(), "memory_gib": round(total / 2**30)}
