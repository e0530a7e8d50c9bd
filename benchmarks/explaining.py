"""What a map costs: attention rollout beside an eager forward pass, and its peak memory.

    python benchmarks/explaining.py                 every table
    python benchmarks/explaining.py --tables time   one of: time, base, memory

Every cell runs in its own process, float32, random weights; seconds are medians of `--repeats` runs after one more.
Memory is the peak of the resident set, weights and pixels and Python included, of a process that does nothing else.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from railsformer.explain.rollout import attention_rollout, gradient_rollout
from railsformer.model.configuration_railsformer import ATTENTION_TYPES, RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification


def measure_cell(cell: dict[str, Any]) -> dict[str, float]:
    """Run one cell in this process.

    Args:
        cell: `what` (eager, rollout or gradient_rollout; or several, to take turns), `repeats`, and the model's shape.

    Returns:
        Median seconds of each, and peak GiB of the process.
    """
    shape = {key: value for key, value in cell.items() if key not in ("what", "repeats")}
    torch.manual_seed(0)
    model = RailsformerForVideoClassification(RailsformerConfig(num_labels=4, **shape)).eval()
    config = model.config
    pixel_values = torch.randn(1, config.num_frames, 3, *config.image_height_width)
    runs: dict[str, Callable[[], Any]] = {
        "eager": lambda: _eager(model, pixel_values),
        "rollout": lambda: attention_rollout(model, pixel_values),
        "gradient_rollout": lambda: gradient_rollout(model, pixel_values),
    }
    seconds: dict[str, list[float]] = {what: [] for what in cell["what"]}
    for _ in range(cell["repeats"] + 1):  # in turns, so that a busy moment falls on all
        for what, each in seconds.items():
            began = time.perf_counter()
            runs[what]()
            each.append(time.perf_counter() - began)
    found = {what: statistics.median(each[1:] or each) for what, each in seconds.items()}
    return found | {"gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def _eager(model: RailsformerForVideoClassification, pixel_values: torch.Tensor) -> None:
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        model(pixel_values)
    model.set_attn_implementation("sdpa")  # the rollouts run the model as it is used


def cell_in_its_own_process(**cell: Any) -> dict[str, float]:
    """Measure a cell in a fresh process."""
    command = [sys.executable, __file__, "--cell", json.dumps(cell)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def table_time(repeats: int) -> list[list[str]]:
    """Every scheme at base width with two blocks."""
    rows = [["scheme", "eager forward", "rollout", "times", "gradient_rollout", "times"]]
    for scheme in ATTENTION_TYPES:
        shape = {"attention_type": scheme, "num_hidden_layers": 2}
        rows.append([scheme, *_times(repeats, shape)])
    return rows


def table_base(repeats: int) -> list[list[str]]:
    """The whole base model, divided, 8 frames of 224 px."""
    heading = ["scheme", "eager forward", "rollout", "times", "gradient_rollout", "times"]
    return [heading, ["divided_space_time", *_times(repeats, {"attention_type": "divided_space_time"})]]


def _times(repeats: int, shape: dict[str, Any]) -> list[str]:
    found = cell_in_its_own_process(what=["eager", "rollout", "gradient_rollout"], repeats=repeats, **shape)
    columns = [f"{found['eager']:.2f} s"]
    for what in ("rollout", "gradient_rollout"):
        columns += [f"{found[what]:.2f} s", f"{found[what] / found['eager']:.2f}"]
    return columns


def table_memory(_: int) -> list[list[str]]:
    """The whole base model, joint, 32 frames of 224 px: 6,273 tokens, of whose maps one block alone holds 1.8 GiB."""
    rows = [["method", "seconds", "peak GiB"]]
    for what in ("rollout", "gradient_rollout"):
        shape = {"attention_type": "joint_space_time", "num_frames": 32}
        found = cell_in_its_own_process(what=[what], repeats=0, **shape)
        rows.append([what, f"{found[what]:.1f}", f"{found['gib']:.2f}"])
    return rows


def print_table(title: str, rows: list[list[str]]) -> None:
    """Print Markdown."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows[1:]:
        print("| " + " | ".join(row) + " |")
    sys.stdout.flush()


TABLES: dict[str, tuple[str, Callable[[int], list[list[str]]]]] = {
    "time": ("One clip of 8 x 224 px, base width, 2 blocks", table_time),
    "base": ("One clip of 8 x 224 px, base, 12 blocks", table_base),
    "memory": ("One clip of 32 x 224 px, joint, base, 12 blocks", table_memory),
}


def main() -> None:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of a cell (5)")
    parser.add_argument("--cell", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(measure_cell(options.cell)))
        return
    processor = platform.processor() or platform.machine()
    print(f"{len(os.sched_getaffinity(0))} cores ({processor}), torch {torch.__version__}, float32")
    for name in options.tables:
        title, table = TABLES[name]
        print_table(title, table(options.repeats))


if __name__ == "__main__":
    main()
