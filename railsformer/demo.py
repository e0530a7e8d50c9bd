"""The whole way on a rendered railway yard: what a newcomer sees first, offline, in minutes on a laptop."""

import csv
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from railsformer.data.clips import ClipDataset, VideoDataset, load_video_dataset
from railsformer.data.probe import available_cores
from railsformer.data.sampling import ClipSampling
from railsformer.data.toy_yard import render_toy_yard
from railsformer.data.transforms import PixelSettings
from railsformer.evaluation.linear_probe import linear_probe
from railsformer.evaluation.report import evaluate_model
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

__all__ = ["run_demo"]

PACKAGE = Path(__file__).parent
TRUNK = PACKAGE / "model" / "demo_trunk"
MARKER = ".railsformer_demo"
NUM_RECORDINGS = 192
SPLITS = (0.77, 0.05, 0.18)
SEED = 1

WELCOME = """
Welcome to railsformer.

In the next minutes this machine renders a small railway yard, builds a dataset from its videos, fine-tunes a video
transformer on it and tells you how far the result can be trusted, on recordings that training never saw.
Nothing is downloaded.

The yard has four classes: an excavator on the track, a bucket near a worker, a worker beside the cabin, and Other.
What happens is told by motion alone. Every hazard has a twin labelled Other, made of the same pictures in the opposite
order: the excavator leaves the track, the bucket swings away, the worker walks off. A model that looks at pictures but
not at their order gets exactly half of the twins right.
"""
NEXT_STEPS = """
Next, with your own videos:

  1. Put them into one folder a class (or list them in a table with the columns file_name and label), and say what
     must not lie on both sides of the split: a camera, a recording, a shift.
       railsformer build VIDEOS --output_dir DATASET --group_by folder
  2. Fine-tune, from a pretrained image model that any use is allowed of:
       accelerate launch scripts/finetune.py --config configs/dinov2_small_time.yaml --dataset DATASET --output_dir RUN
  3. Measure on the cameras that you held back:
       railsformer evaluate --model RUN --dataset DATASET --split test --output_dir REPORT

README.md explains each step. railsformer is a tool to find and measure hazards in footage, never a certified safety
function.
"""


@dataclass(frozen=True)
class Outcome:
    """Accuracies of one way to train, on the same test videos."""

    name: str
    all_videos: float
    twins: float
    twins_without_motion: float | None = None


def run_demo(output_dir: str | Path, *, run_verb: Callable[[Sequence[str]], int]) -> None:
    """Render, build, fine-tune, evaluate and compare; prints as it goes.

    Args:
        output_dir: Folder to work in. What an earlier demo left there is replaced.
        run_verb: Runs a command line without the program's name and returns its exit code.

    Raises:
        FileExistsError: If the folder holds something that no demo wrote.
        ValueError: If a step fails; its own message stands above.
    """
    folder = _prepare(Path(output_dir))
    began = time.monotonic()
    print(WELCOME)
    _step(1, f"Render {NUM_RECORDINGS} recordings, each with a camera, a light and a frame rate of its own")
    render_toy_yard(folder / "yard", num_recordings=NUM_RECORDINGS, seed=SEED)

    _step(2, "Build a dataset: whole recordings go to training, validation or test, none to two of them")
    table, dataset = folder / "yard" / "annotations.csv", folder / "dataset"
    _run(run_verb, "build", folder / "yard", "--annotations", table, "--group_by", "recording", "--splits", *SPLITS,
         "--no_proxy", "--output_dir", dataset)  # fmt: skip

    _step(3, "Fine-tune: the trunk has seen moving shapes, never a yard; its head is new")
    _finetune(folder, "run", "--model", str(TRUNK))

    _step(4, "Evaluate on the test recordings")
    run, report = folder / "run", folder / "report"
    _run(run_verb, "evaluate", "--model", run, "--dataset", dataset, "--split", "test", "--output_dir", report)
    still = evaluate_model(
        run, dataset=dataset, output_dir=folder / "report_middle_frame", frame_order="middle", progress=True
    )
    tuned = _outcome(folder, "run", report, without_motion=still.output_dir)

    _step(5, "Compare: the same trunk left as it is, and the same network from random weights with the same recipe")
    frozen = _probe(folder)
    _finetune(folder, "run_from_scratch", *_scratch_flags())
    scratch_report = evaluate_model(
        folder / "run_from_scratch", dataset=dataset, output_dir=folder / "report_from_scratch", progress=True
    ).output_dir
    scratch = _outcome(folder, "run_from_scratch", scratch_report)
    _print_outcomes([tuned, frozen, scratch])
    print(f"\nDone in {(time.monotonic() - began) / 60:.1f} minutes.")
    print(f"Report: {folder / 'report' / 'report.html'}\nModel:  {folder / 'run'}")
    print(NEXT_STEPS)


def _prepare(folder: Path) -> Path:
    """An empty folder of the demo's own."""
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / MARKER).is_file():
            raise FileExistsError(f"{folder} holds something that is not a demo's; give another --output_dir")
        print(f"Replacing the earlier demo in {folder}.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    return folder


def _step(number: int, what: str) -> None:
    print(f"\n[{number}/5] {what}", flush=True)


def _run(run_verb: Callable[[Sequence[str]], int], verb: str, *arguments: str | float | Path) -> None:
    """Show a command and run it as the command line would.

    Raises:
        ValueError: If it fails; its reason stands above.
    """
    words = [verb, *map(str, arguments)]
    print(f"      $ {shlex.join(['railsformer', *words])}", flush=True)
    if run_verb(words):
        raise ValueError(f"the demo stops: `railsformer {verb}` failed, the reason stands above")


def _finetune(folder: Path, name: str, *start: str) -> None:
    """`accelerate launch scripts/finetune.py`, as a user would type it.

    Raises:
        ValueError: If it fails; its reason stands above.
    """
    script = PACKAGE.parent / "scripts" / "finetune.py"
    target = [str(script)] if script.is_file() else ["--module", "railsformer.cli", "train"]
    command = ["launch", "--quiet", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no"]
    command += ["--dynamo_backend", "no", "--num_cpu_threads_per_process", str(available_cores()), *target]
    command += ["--config", str(_recipe()), *start]
    command += ["--dataset", str(folder / "dataset"), "--output_dir", str(folder / name)]
    print(f"      $ {shlex.join(['accelerate', *command])}", flush=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli"]
    if subprocess.run([*launcher, *command], env=environment, check=False).returncode:
        raise ValueError("the demo stops: fine-tuning failed, the reason stands above")


def _recipe() -> Path:
    """configs/demo.yaml of the checkout, or of the installed package."""
    candidates = (PACKAGE.parent / "configs" / "demo.yaml", PACKAGE / "configs" / "demo.yaml")
    return next((path for path in candidates if path.is_file()), candidates[0])


def _scratch_flags() -> list[str]:
    """Flags that make a random model of the trunk's own sizes."""
    config = RailsformerForVideoClassification.from_pretrained(TRUNK).config
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size")
    flags = [word for name in sizes for word in (f"--{name}", str(getattr(config, name)))]
    return ["--from_scratch", *flags]


def _outcome(folder: Path, name: str, report_dir: Path, *, without_motion: Path | None = None) -> Outcome:
    """Accuracies of a run on the test recordings, with motion and, where that was measured, without."""
    twins = _is_twin(load_video_dataset(folder / "dataset"))
    right = _is_right(report_dir)
    return Outcome(
        name=name,
        all_videos=float(right.mean()),
        twins=float(right[twins].mean()),
        twins_without_motion=float(_is_right(without_motion)[twins].mean()) if without_motion else None,
    )


def _is_right(report_dir: Path) -> np.ndarray:
    """Whether each test video was recognised, in the order of the split, shape (num_videos,)."""
    with (report_dir / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return np.array([row["label"] == row["prediction"] for row in csv.DictReader(file)])


def _is_twin(dataset: VideoDataset) -> np.ndarray:
    """Whether each test video is a hazard or its twin, shape (num_videos,)."""
    return np.array([scene != "idle" for scene in dataset.split("test")["scene"]])


def _probe(folder: Path) -> Outcome:
    """The trunk as it is, with logistic regression on top."""
    dataset = load_video_dataset(folder / "dataset")
    # The run's config holds the recipe's clip; the trunk's weights are the untouched ones.
    config = RailsformerForVideoClassification.from_pretrained(folder / "run").config
    trunk = RailsformerForVideoClassification.from_pretrained(
        TRUNK, num_frames=config.num_frames, image_size=config.image_size
    )
    sampling = ClipSampling.from_config(config)
    pixels = PixelSettings.from_pretrained(folder / "run")
    training, test = (
        ClipDataset(dataset.split(split), sampling=sampling, pixels=pixels) for split in ("train", "test")
    )
    right = linear_probe(trunk, training=training, test=test, num_workers=2, progress=True) == np.asarray(test.labels)
    return Outcome("trunk", float(right.mean()), float(right[_is_twin(dataset)].mean()))


def _print_outcomes(outcomes: Sequence[Outcome]) -> None:
    titles = {
        "run": "fine-tuned",
        "trunk": "trunk frozen, logistic regression on top",
        "run_from_scratch": "from random weights, same recipe",
    }
    print(f"\n{'accuracy on test recordings':42} {'all':>6} {'twins':>6} {'twins, middle frame only':>25}")
    for outcome in outcomes:
        still = "" if outcome.twins_without_motion is None else f"{outcome.twins_without_motion:.3f}"
        print(f"{titles[outcome.name]:42} {outcome.all_videos:6.3f} {outcome.twins:6.3f} {still:>25}")
    print("Blind to order, a model gets .500 of the twins.")
