"""Events on a camera that the model has not seen: one long video of each camera, of its clips in random order.

    python benchmarks/stitched_cameras.py --folds FOLDS --videos TANKYARD --annotations TANKYARD/clips.csv \
        --output_dir DIR

FOLDS is what benchmarks/leave_one_camera_out.py left. Thresholds are fitted on the validation cameras of each fold
(`railsformer evaluate`), the held-out camera's clips are stitched with known times, watched and scored
(`railsformer evaluate --events`). What is finished is kept: the same command goes on.
"""

import argparse
import csv
import json
import random
import shutil
from pathlib import Path

from watching import NEGATIVE, stitch

import railsformer.cli
from railsformer.data.video import VideoDecodeError, iterate_frames
from railsformer.inference.event_report import METRICS_NAME, event_table


def run(*words: str | Path) -> None:
    """A command of the package; its error line has been printed where it fails."""
    if code := railsformer.cli.main([str(word) for word in words]):
        raise SystemExit(code)


def measure(fold: Path, rows: list[dict[str, str]], videos: Path, output: Path, *, seed: int, target: str) -> Path:
    """Thresholds, video, timeline and figures of one camera; returns the folder of the figures."""
    output.mkdir(parents=True, exist_ok=True)
    model = output / "model"
    if not model.is_dir():  # the points go into the run's folder: into a copy, not into the benchmark's
        shutil.copytree(fold / f"seed-{seed}" / "run", model, ignore=shutil.ignore_patterns("checkpoint-*"))
        config = json.loads((model / "config.json").read_text(encoding="utf-8")) | {"negative_labels": [NEGATIVE]}
        (model / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if not (output / "report").is_dir():
        words: list[str | Path] = ["--model", model, "--dataset", fold / "dataset", "--output_dir", output / "report"]
        run("evaluate", *words, "--target", target)
    video = output / f"{output.name}.mp4"
    truth = video.with_suffix(".truth.csv")
    if not video.is_file():
        shuffled = random.Random(seed).sample(rows, len(rows))
        stitch(videos, shuffled, video, seconds=_once(videos, shuffled))
    run("watch", video, "--model", model, "--output_dir", output / "timeline", "--camera", output.name)
    figures = output / "figures"
    if not figures.is_dir():
        run("evaluate", "--events", truth, "--timeline", output / "timeline", "--output_dir", figures)
    return figures


def _once(videos: Path, rows: list[dict[str, str]]) -> float:
    """Seconds of all clips: each is shown once."""
    seconds = 0.0
    for row in rows:
        try:
            seconds += max((shown for shown, _ in iterate_frames(videos / row["file_name"])), default=0.0)
        except VideoDecodeError:
            continue
    return seconds


def main() -> None:
    """Measure camera by camera, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=Path, required=True)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True, help="CSV with file_name, label and camera")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", default="recall>=0.9", help="of the thresholds, on the validation cameras")
    options = parser.parse_args()
    with options.annotations.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for fold in sorted(options.folds.glob("fold-*")):
        camera = fold.name.removeprefix("fold-")
        own = [row for row in rows if row["camera"] == camera]
        figures = measure(
            fold, own, options.videos, options.output_dir / camera, seed=options.seed, target=options.target
        )
        content = json.loads((figures / METRICS_NAME).read_text(encoding="utf-8"))
        print(f"\n{camera}, {len(own)} clips\n\n{event_table(content)}", flush=True)


if __name__ == "__main__":
    main()
