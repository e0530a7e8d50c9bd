"""The network beside stock transformers: logits, parameters, multiply-accumulates, time, memory, growth.

    python benchmarks/network.py                 every table, about three quarters of an hour on two cores
    python benchmarks/network.py --tables joint  one of: counts, logits, joint, training, frames, crops

Every measured cell runs in a process of its own, float32, after one warm-up. Memory is the peak of the resident set
over what stood before the first pass: weights and pixels, and for training also gradients.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import TimesformerConfig, TimesformerForVideoClassification

from railsformer.model.configuration_railsformer import ATTENTION_TYPES, RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

PAPER = {  # parameters (174 classes, 8 frames) and GMACs a view of arXiv 2102.05095; see docs for the sources
    "space_only": (85_932_462, 141),
    "joint_space_time": (85_938_606, 180),
    "divided_space_time": (121_392_558, 196),
    "sparse_local_global": (121_392_558, None),
    "axial": (156_846_510, None),
}
FRAMES, CROPS = (8, 16, 32, 64, 96), (112, 224, 336, 448)


def build(maker: str, **shape: Any) -> torch.nn.Module:
    """Return a base model of ours or of stock transformers, with random weights."""
    if maker == "stock":
        return TimesformerForVideoClassification(TimesformerConfig(num_labels=174, **shape))
    return RailsformerForVideoClassification(RailsformerConfig(num_labels=174, **shape))


def measure_cell(cell: dict[str, Any]) -> dict[str, float]:
    """Run one cell in this process.

    Args:
        cell: `maker`, `mode` (forward, training or checkpointed), `repeats`, and the model's shape.

    Returns:
        Median seconds and peak MiB.
    """
    shape = {key: value for key, value in cell.items() if key not in ("maker", "mode", "repeats")}
    torch.manual_seed(0)
    model = build(cell["maker"], **shape)
    config: Any = model.config
    pixel_values = torch.randn(1, config.num_frames, 3, config.image_size, config.image_size)
    if cell["mode"] == "forward":
        run = _forward(model.eval(), pixel_values)
    else:
        if cell["mode"] == "checkpointed":
            model.gradient_checkpointing_enable()  # type: ignore[operator]
        run = _training_step(model.train(), pixel_values)
    _reset_peak()
    before = psutil.Process().memory_info().rss
    seconds = []
    for _ in range(cell["repeats"] + 1):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    timed = seconds[1:] or seconds
    return {"seconds": statistics.median(timed), "mib": (_peak_bytes() - before) / 2**20}


def _forward(model: torch.nn.Module, pixel_values: torch.Tensor) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode():
            model(pixel_values)

    return run


def _training_step(model: torch.nn.Module, pixel_values: torch.Tensor) -> Callable[[], None]:
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    labels = torch.tensor([1])

    def run() -> None:
        model(pixel_values, labels=labels).loss.backward()

    return run


def _reset_peak() -> None:
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def _peak_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def cell_in_its_own_process(*, limit_gib: float = 20, **cell: Any) -> dict[str, float] | None:
    """Measure a cell under a memory limit; None where it overflows."""
    code = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({int(limit_gib * 2**30)},) * 2); "
    code += f"import sys; sys.argv = ['network.py', '--cell', {json.dumps(cell)!r}]; "
    code += f"import runpy; runpy.run_path({__file__!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    return json.loads(done.stdout.splitlines()[-1])


def table_counts() -> list[list[str]]:
    """Parameters and multiply-accumulates, counted on the meta device."""
    rows = [["scheme", "parameters", "paper", "GMACs a view", "paper"]]
    for scheme, (parameters, gmacs) in PAPER.items():
        with torch.device("meta"):
            model = build("ours", attention_type=scheme).eval()
            model.set_attn_implementation("eager")  # type: ignore[operator]
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                model(torch.zeros(1, 8, 3, 224, 224))
        counted = sum(parameter.numel() for parameter in model.parameters())
        rows.append(
            [scheme, f"{counted:,}", f"{parameters:,}", f"{counter.get_total_flops() / 2e9:.1f}", str(gmacs or "–")]
        )
    return rows


def table_logits() -> list[list[str]]:
    """Largest difference of logits from stock at base size, same weights, one clip."""
    rows = [["scheme", "max |difference| of logits"]]
    for scheme in ("divided_space_time", "joint_space_time"):
        stock = build("stock", attention_type=scheme).eval()
        with torch.no_grad():
            for parameter in stock.parameters():
                parameter.normal_(0, 0.02)
        ours = build("ours", attention_type=scheme).eval()
        ours.load_state_dict(stock.state_dict())
        pixel_values = torch.randn(1, 8, 3, 224, 224)
        with torch.inference_mode():
            difference = (ours(pixel_values).logits - stock(pixel_values).logits).abs().max().item()
        rows.append([scheme, f"{difference:.1e}"])
    return rows


def table_joint() -> list[list[str]]:
    """Joint attention where stock's matrices hurt."""
    rows = [["cell", "stock s", "ours s", "faster", "stock MiB", "ours MiB", "share"]]
    shape: dict[str, Any] = {
        "attention_type": "joint_space_time",
        "num_hidden_layers": 4,
        "mode": "forward",
        "repeats": 3,
    }
    for frames in (8, 32):
        stock = cell_in_its_own_process(maker="stock", num_frames=frames, **shape)
        ours = cell_in_its_own_process(maker="ours", num_frames=frames, **shape)
        rows.append([f"4 base blocks, {frames} frames of 224 px", *_compare(stock, ours)])
    large: dict[str, Any] = {"attention_type": "joint_space_time", "num_frames": 96, "mode": "forward", "repeats": 0}
    ours = cell_in_its_own_process(maker="ours", **large)
    row = _compare(None, ours)
    row[3] = f"one matrix {12 * (96 * 196 + 1) ** 2 * 4 / 2**20:.0f}"
    rows.append(["12 base blocks, 96 frames of 224 px", *row])
    return rows


def table_training() -> list[list[str]]:
    """A base model trains one divided clip of 8 frames of 224 px."""
    rows = [["cell", "stock s", "ours s", "faster", "stock MiB", "ours MiB", "share"]]
    stock = cell_in_its_own_process(maker="stock", mode="training", repeats=3)
    rows.append(["training step", *_compare(stock, cell_in_its_own_process(maker="ours", mode="training", repeats=3))])
    checkpointed = cell_in_its_own_process(maker="ours", mode="checkpointed", repeats=1)
    rows.append(["with activation checkpointing", *_compare(stock, checkpointed)])
    return rows


def table_growth(axis: str) -> list[list[str]]:
    """Forward time and memory of every scheme, and stock's two, against frames (112 px) or crops (8 frames)."""
    points = FRAMES if axis == "frames" else CROPS
    heading = [f"{point} {'frames' if axis == 'frames' else 'px'}" for point in points]
    rows = [["scheme", *heading, "time grows with", "memory grows with"]]
    models = [("ours", scheme) for scheme in ATTENTION_TYPES]
    models += [("stock", scheme) for scheme in ("divided_space_time", "joint_space_time")]
    for maker, scheme in models:
        cells = []
        for point in points:
            shape: dict[str, Any] = {"image_size": point, "attention_type": scheme}
            if axis == "frames":
                shape |= {"num_frames": point, "image_size": 112}
            cells.append(cell_in_its_own_process(maker=maker, mode="forward", repeats=2, **shape))
        sizes = points if axis == "frames" else [(point // 16) ** 2 for point in points]
        exponents = [_exponent(sizes, [cell[key] if cell else None for cell in cells]) for key in ("seconds", "mib")]
        shown = [f"{cell['seconds']:.2f} s, {cell['mib']:.0f} MiB" if cell else "overflow" for cell in cells]
        letter = "F" if axis == "frames" else "N"
        grows = [f"{letter}^{exponent}" for exponent in exponents]
        rows.append([scheme if maker == "ours" else f"stock {scheme}", *shown, *grows])
        print("  ".join(rows[-1]), file=sys.stderr, flush=True)
    return rows


def _compare(stock: dict[str, float] | None, ours: dict[str, float] | None) -> list[str]:
    both = stock is not None and ours is not None
    return [
        f"{stock['seconds']:.2f}" if stock else "–",
        f"{ours['seconds']:.2f}" if ours else "overflow",
        f"{stock['seconds'] / ours['seconds']:.2f}x" if both and stock and ours else "–",
        f"{stock['mib']:.0f}" if stock else "–",
        f"{ours['mib']:.0f}" if ours else "overflow",
        f"{ours['mib'] / stock['mib']:.2f}" if both and stock and ours else "–",
    ]


def _exponent(points: Sequence[int], seconds: Sequence[float | None]) -> str:
    """Slope of log cost over log size, by least squares; over crops the size is the patches of a frame."""
    pairs = [
        (math.log(point), math.log(value)) for point, value in zip(points, seconds, strict=True) if value is not None
    ]
    if len(pairs) < 2:
        return "–"
    mean_x, mean_y = (statistics.mean(values) for values in zip(*pairs, strict=True))
    slope = sum((x - mean_x) * (y - mean_y) for x, y in pairs) / sum((x - mean_x) ** 2 for x, _ in pairs)
    return f"{slope:.2f}"


def print_table(title: str, rows: list[list[str]]) -> None:
    """Print Markdown."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows[1:]:
        print("| " + " | ".join(row) + " |")
    sys.stdout.flush()


TABLES: dict[str, tuple[str, Callable[[], list[list[str]]]]] = {
    "counts": ("Parameters and multiply-accumulates (base, 8 x 224 px, 174 classes)", table_counts),
    "logits": ("Logits against stock (base, 8 x 224 px)", table_logits),
    "joint": ("Joint attention, forward", table_joint),
    "training": ("Training, divided, base, one clip of 8 x 224 px", table_training),
    "frames": ("Forward against frames, base, 112 px", lambda: table_growth("frames")),
    "crops": ("Forward against crops, base, 8 frames", lambda: table_growth("crops")),
}


def main() -> None:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--cell", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if options.cell:
        print(json.dumps(measure_cell(options.cell)))
        return
    processor = platform.processor() or platform.machine()
    print(f"{len(os.sched_getaffinity(0))} cores ({processor}), torch {torch.__version__}, float32")
    for name in options.tables:
        title, table = TABLES[name]
        print_table(title, table())


if __name__ == "__main__":
    main()
