"""The repository's own comparisons, each made by one command; the same command goes on where it was stopped.

    python benchmarks/comparisons.py toy --output_dir DIR
    python benchmarks/comparisons.py tankyard --videos TANKYARD --image_model DINOV2_SMALL --output_dir DIR
    python benchmarks/comparisons.py cost --output_dir DIR [--peer_python PEER/bin/python]

`toy` renders one site of the toy yard (one camera, 64 recordings of other days, weather and machines), builds a
dataset split by recording, and trains the five schemes and the three position embeddings with three seeds each; then
it tests divided attention with more clips and crops, and plays the test clips shuffled, reversed and as one picture.
`tankyard` does the schemes on real railway CCTV, tested on a camera that training never saw. `cost` needs no data.
Each leaves DIR/compare/compare.md, .html, .json and figures. Further flags go to `railsformer compare` as they are,
such as --seeds 0. `toy` also leaves DIR/compare/scenes.md, accuracy by scene.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from railsformer.cli import main as railsformer
from railsformer.data.clips import load_video_dataset
from railsformer.data.toy_yard import render_toy_yard
from railsformer.evaluation.report_pages.predictions import read_predictions

RECIPES = Path(__file__).parent / "recipes"
DEMO_TRUNK = Path(__file__).parents[1] / "railsformer" / "model" / "demo_trunk"
TEST_CAMERA, VALIDATION_CAMERA = "inside_turquoise_bridge_0", "outside_station_outside_0"


def run(*words: str | Path) -> None:
    """Run a verb, and end with its exit code if it fails."""
    if code := railsformer([str(word) for word in words]):
        sys.exit(code)


def build(videos: Path, table: Path, dataset: Path, *flags: str) -> Path:
    """The dataset, unless it is there."""
    if not (dataset / "dataset.json").is_file():
        run("build", videos, "--annotations", table, "--output_dir", dataset, *flags)
    return dataset


def compare_toy(options: argparse.Namespace, flags: list[str]) -> None:
    """Schemes, positions and time order on one rendered site."""
    yard = options.output_dir / "yard"
    if not (yard / "annotations.csv").is_file():
        render_toy_yard(yard, num_recordings=64, seed=2, pairs_per_scene=4, idle_per_recording=2, num_cameras=1)
    split = ("--group_by", "recording", "--splits", "0.65", "0.1", "0.25")
    dataset = build(yard, yard / "annotations.csv", options.output_dir / "toy_yard", *split)
    what = ("--what", "accuracy", "positions", "views", "probe", "--views", "1x1", "5x1", "1x3", "--model", DEMO_TRUNK)
    compare(options, *what, "--dataset", dataset, "--config", RECIPES / "toy_comparison.yaml", *flags)
    tell_scenes(dataset, options.output_dir / "compare")


def tell_scenes(dataset: Path, folder: Path) -> None:
    """Accuracy by scene, mean over seeds: a scene's hazards and their twins are half and half, so blind is .5."""
    scenes = np.array(load_video_dataset(dataset).split("test")["scene"])
    names = sorted(set(scenes))
    found: dict[str, list[list[float]]] = {}
    for path in sorted(folder.glob("cells/accuracy/*/report/predictions.csv")):
        said = read_predictions(path)
        right = said.scores.argmax(axis=1) == said.references
        of_seed = [float(right[scenes == name].mean()) for name in names]
        found.setdefault(path.parts[-3].rpartition("-seed")[0], []).append(of_seed)
    rows = [["variant", "seeds", *names], ["---", "---:", *["---:"] * len(names)]]
    for name, seeds in found.items():
        rows.append([name, str(len(seeds)), *(f"{value:.2f}".replace("0.", ".") for value in np.mean(seeds, axis=0))])
    (folder / "scenes.md").write_text("".join(f"| {' | '.join(row)} |\n" for row in rows), encoding="utf-8")


def compare_tankyard(options: argparse.Namespace, flags: list[str]) -> None:
    """Schemes and time order on a camera that training never saw."""
    if options.videos is None or options.image_model is None:
        sys.exit("comparisons: tankyard needs --videos (with clips.csv) and --image_model (DINOv2-small)")
    sides = ("--test_groups", TEST_CAMERA, "--validation_groups", VALIDATION_CAMERA)
    table = options.videos / "clips.csv"
    dataset = build(options.videos, table, options.output_dir / "tankyard", "--group_by", "camera", *sides)
    what = ("--what", "accuracy", "probe", "--image_model", options.image_model)
    compare(options, *what, "--dataset", dataset, "--config", RECIPES / "tankyard_comparison.yaml", *flags)


def compare_cost(options: argparse.Namespace, flags: list[str]) -> None:
    """What every network costs."""
    compare(options, "--what", "cost", *flags)


def compare(options: argparse.Namespace, *words: str | Path) -> None:
    """`railsformer compare` into the output folder."""
    run("compare", *words, "--output_dir", options.output_dir / "compare")


def main() -> None:
    """Parse the flags and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = {"toy": compare_toy, "tankyard": compare_tankyard, "cost": compare_cost}
    parser.add_argument("which", choices=list(which))
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--videos", type=Path, help="tankyard: folder with clips.csv")
    parser.add_argument("--image_model", help="tankyard: what every scheme starts from")
    options, flags = parser.parse_known_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    which[options.which](options, flags)


if __name__ == "__main__":
    main()
