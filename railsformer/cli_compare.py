"""The verb `compare`: its flags, and what it prints. Heavy imports happen when it runs, so that --help is instant."""

import argparse
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["add_compare", "run_compare"]

_WHAT = ("cost", "accuracy", "positions", "views", "probe")


def add_compare(verbs: "argparse._SubParsersAction[Any]", *, run: Callable[[argparse.Namespace], None]) -> None:
    """Add the verb with its flags; `run` is what it does."""
    compare = verbs.add_parser(
        "compare",
        help="the paper's comparison, run again: attention schemes, 3D CNNs, positions, views, time order",
        epilog="The same command goes on where it was stopped, and what is finished is not done again. Several "
        "commands with one --output_dir fill one report.",
    )
    compare.add_argument(
        "--what",
        required=True,
        nargs="+",
        choices=_WHAT,
        help="cost: parameters, multiply-accumulates, time and memory; accuracy: every scheme trained under one "
        "recipe; positions: the position embeddings; views: clips and crops of divided attention; probe: the test "
        "clips shuffled, reversed, and as one frame",
    )
    compare.add_argument("--output_dir", required=True, help="folder of the comparison: absent, empty, or begun")
    _add_training(compare)
    compare.add_argument(
        "--peer_python",
        metavar="PYTHON",
        help="interpreter of an environment with pytorchvideo and torchvision, for the 3D CNNs (default: their rows "
        "say that they were not measured)",
    )
    compare.add_argument(
        "--memory_gib",
        type=float,
        help="memory that a network may take (default: nine tenths of what is free). On a GPU it limits the GPU's "
        "memory in cost, and the machine's in training, where nothing is limited unless this is given",
    )
    compare.add_argument("--num_threads", type=int, help="threads of cost (default: all cores)")
    compare.add_argument(
        "--quick", action="store_true", help="let cost measure tiny networks, only to see that everything runs"
    )
    compare.add_argument(
        "--retry",
        action="store_true",
        help="try again what failed or ran out of memory; what was interrupted, or lacked a library, needs no flag",
    )
    compare.set_defaults(run=run)


def _add_training(compare: argparse.ArgumentParser) -> None:
    training = compare.add_argument_group("training", "all parts but cost train networks, or need trained ones")
    training.add_argument("--dataset", help="dataset folder or Hub id")
    training.add_argument(
        "--config", help="the one recipe of all: YAML with keys of `railsformer train` (default: configs/compare.yaml)"
    )
    start = training.add_mutually_exclusive_group()
    start.add_argument(
        "--model",
        help="space_only or divided checkpoint that every scheme starts from, of a divided one its spatial part "
        "(default: what the recipe names)",
    )
    start.add_argument("--image_model", help="image model that every scheme starts from")
    training.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    training.add_argument(
        "--schemes", nargs="+", metavar="SCHEME", help="default: all five; for positions and views alone, divided"
    )
    training.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="trainings at a time, each with its share of cores and of free memory (--memory_gib is each one's): tiny "
        "networks do not fill many cores (default: 1)",
    )
    training.add_argument(
        "--views",
        nargs="+",
        type=_view,
        metavar="CLIPSxCROPS",
        help="of --what views, the first is what the others are compared with (default: 1x1 3x1 5x1 10x1 1x3 3x3 5x3 "
        "10x3)",
    )
    training.add_argument(
        "--other_models",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="other video models, such as VideoMAE or V-JEPA 2",
    )
    training.add_argument(
        "--peer_weights",
        metavar="FILE",
        help="state dict of pytorchvideo's create_slowfast, for a second row of the 3D CNN beside that from scratch",
    )
    frozen = training.add_mutually_exclusive_group()
    frozen.add_argument(
        "--no_frozen", action="store_true", help="leave out the start as it is under logistic regression"
    )
    frozen.add_argument(
        "--frozen_model",
        metavar="MODEL",
        help="model that is measured as it is under logistic regression (default: the start)",
    )


def _view(text: str) -> tuple[int, int]:
    clips, _, crops = text.partition("x")
    if not (clips.isdecimal() and crops.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be clips x crops such as 5x3, got {text!r}")
    return int(clips), int(crops)


def run_compare(parsed: argparse.Namespace) -> str:
    """Compare, and return what to print: short answers, and where the report is."""
    from railsformer.cli_evaluate import quiet_transformers
    from railsformer.compare.comparison import ComparisonSettings, run_comparison
    from railsformer.compare.report import short_answers

    quiet_transformers()
    chosen = {"views": tuple(parsed.views)} if parsed.views else {}
    settings = ComparisonSettings(
        what=tuple(name for name in _WHAT if name in parsed.what),
        dataset=parsed.dataset,
        config=parsed.config,
        start=parsed.model or parsed.image_model,
        seeds=tuple(parsed.seeds),
        schemes=tuple(parsed.schemes) if parsed.schemes else None,
        other_models=tuple(parsed.other_models),
        peer_python=parsed.peer_python,
        peer_weights=parsed.peer_weights,
        frozen=not parsed.no_frozen,
        frozen_model=parsed.frozen_model,
        memory_gib=parsed.memory_gib,
        num_threads=parsed.num_threads,
        retry=parsed.retry,
        jobs=parsed.jobs,
        quick=parsed.quick,
        **chosen,
    )
    content = run_comparison(parsed.output_dir, settings, command=parsed.command, progress=sys.stderr.isatty())
    told = [f"{question}: {answer}" for question, answer in short_answers(content)]
    return "\n".join([*told, f"report: {parsed.output_dir}/compare.html"])
