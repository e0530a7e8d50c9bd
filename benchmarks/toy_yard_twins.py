"""Does a model see the order of frames? Fresh twins of the toy yard, as they are and with all motion taken out.

    python benchmarks/toy_yard_twins.py RUN

Renders recordings that no training saw (their seed is their own), classifies every clip of a pair, once as it is and
once with every frame replaced by the middle one, and prints accuracy with the one-sided binomial probability of doing
at least as well by tossing a coin: a model blind to order gets exactly one half of each pair right.
"""

import argparse
import csv
import math
import tempfile
from pathlib import Path

import numpy as np
import torch

from railsformer.data.probe import probe_video
from railsformer.data.sampling import ClipSampling
from railsformer.data.toy_yard import HAZARDS, render_toy_yard
from railsformer.data.transforms import PixelSettings, evaluation_pixels
from railsformer.data.video import read_frames
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

BATCH_SIZE = 32


def chance_of_at_least(right: int, total: int) -> float:
    """Return the probability of `right` or more heads in `total` tosses of a fair coin."""
    return sum(math.comb(total, count) for count in range(right, total + 1)) / 2**total


def read_twins(root: Path) -> list[dict[str, str]]:
    """Return the rows of `annotations.csv` that belong to a pair."""
    with (root / "annotations.csv").open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["scene"] != "idle"]


def classify(
    model: RailsformerForVideoClassification, files: list[Path], pixels: PixelSettings, *, only_middle: bool
) -> list[str]:
    """Return the label the model gives each file.

    Args:
        model: In eval mode.
        files: Videos.
        pixels: The model's input.
        only_middle: Show the clip's middle frame in every place.
    """
    config = model.config
    sampling = ClipSampling.from_config(config)
    names: list[str] = []
    for first in range(0, len(files), BATCH_SIZE):
        clips = []
        for file in files[first : first + BATCH_SIZE]:
            frames = read_frames(file, sampling.clip_times(_middle_start(file, sampling)))
            if only_middle:
                frames = np.broadcast_to(frames[len(frames) // 2], frames.shape)
            clips.append(evaluation_pixels(frames, pixels))
        with torch.inference_mode():
            chosen = model(pixel_values=torch.stack(clips)).logits.argmax(dim=-1)
        names += [config.id2label[index] for index in chosen.tolist()]
    return names


def _middle_start(file: Path, sampling: ClipSampling) -> float:
    """Seconds at which the clip in the middle of a file begins."""
    return float(sampling.evaluation_starts(0.0, probe_video(file).duration_seconds)[0])


def main() -> None:
    """Render, classify, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a model fine-tuned on the toy yard")
    parser.add_argument("--num_recordings", type=int, default=40, help="six clips of pairs each")
    parser.add_argument("--seed", type=int, default=20_260_101, help="of the recordings")
    parser.add_argument("--keep", type=Path, help="folder for the videos; a temporary one if not given")
    options = parser.parse_args()
    model = RailsformerForVideoClassification.from_pretrained(options.run).eval()
    pixels = PixelSettings.from_pretrained(options.run)
    with tempfile.TemporaryDirectory() as temporary:
        root = options.keep or Path(temporary)
        render_toy_yard(root, num_recordings=options.num_recordings, seed=options.seed, idle_per_recording=0)
        rows = read_twins(root)
        files = [root / row["file_name"] for row in rows]
        shown = {
            "as it is": classify(model, files, pixels, only_middle=False),
            "middle frame only": classify(model, files, pixels, only_middle=True),
        }
    print(f"{len(rows)} twin clips of {options.num_recordings} recordings, seed {options.seed}")
    print(f"{'clips':<18} {'scene':<16} {'right':>9} {'accuracy':>9}  p(coin does as well)")
    for way, names in shown.items():
        for scene in ("all", *HAZARDS):
            told = [
                row["label"] == name for row, name in zip(rows, names, strict=True) if scene in ("all", row["scene"])
            ]
            right, total = sum(told), len(told)
            counts, chance = f"{right}/{total}", chance_of_at_least(right, total)
            print(f"{way:<18} {scene:<16} {counts:>9} {right / total:>9.3f}  {chance:.3g}")


if __name__ == "__main__":
    main()
