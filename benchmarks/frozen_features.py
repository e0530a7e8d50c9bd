"""The bar that fine-tuning must clear: balanced logistic regression on frozen image features, cameras left out.

    python benchmarks/frozen_features.py --clips CLIPS --image_model MODEL --cache features.npz

CLIPS is a folder with clips.csv (file_name, label, camera). Each clip is 8 frames, the middles of 8 equal parts of the
video, squeezed to 140 x 182 px, normalised as on ImageNet. A frame's feature is the CLS token beside the mean patch
token after the last norm. A clip's feature is five of these in a row: mean of the first two frames, mean of the last
two, standard deviation over the frames (spread), last two less first two, mean absolute step from frame to frame.
Columns are standardised on the training side; the regression has C = 0.01. Each of the cameras named is tested on by
what all others trained; there is nothing to choose, so there is no validation.

About five minutes on one core for 400 clips; the features are kept in the cache, and the table then takes seconds.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoModel

from railsformer.data.probe import probe_video
from railsformer.data.transforms import IMAGENET_MEAN_STD
from railsformer.data.video import read_frames
from railsformer.evaluation.linear_probe import fit_linear_probe
from railsformer.evaluation.metrics import VideoClassificationMetrics
from railsformer.training.crossval_table import FIGURES

CAMERAS = ("inside_gate_0", "inside_rusty_bridge_0", "inside_turquoise_bridge_0", "outside_station_outside_0")
NUM_FRAMES, HEIGHT_PX, WIDTH_PX = 8, 140, 182
REGULARISATION = 0.01


def read_clips(folder: Path) -> list[dict[str, str]]:
    """Rows of clips.csv."""
    with (folder / "clips.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@torch.inference_mode()
def frame_features(path: Path, model: torch.nn.Module) -> np.ndarray:
    """CLS and mean patch token of every frame of a video's clip, shape (num_frames, 2 * hidden_size)."""
    duration = probe_video(path, thorough=False).duration_seconds
    frames = np.stack(list(read_frames(path, (np.arange(NUM_FRAMES) + 0.5) / NUM_FRAMES * duration)))
    images = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    size = (HEIGHT_PX, WIDTH_PX)
    images = torch.nn.functional.interpolate(images, size=size, mode="bilinear", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in IMAGENET_MEAN_STD)
    tokens = model((images - mean) / std).last_hidden_state
    return torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1).numpy()


def clip_feature(frames: np.ndarray) -> np.ndarray:
    """Five summaries of a clip's frames, (num_frames, width) to (5 * width,)."""
    first, last = frames[:2].mean(0), frames[-2:].mean(0)
    return np.concatenate([first, last, frames.std(0), last - first, np.abs(np.diff(frames, axis=0)).mean(0)])


def load_features(folder: Path, rows: list[dict[str, str]], *, image_model: str, cache: Path) -> np.ndarray:
    """Features of all clips, from the cache where it is of these clips, shape (num_clips, 5 * width).

    Raises:
        ValueError: If the cache is of other clips or another model.
    """
    names = [row["file_name"] for row in rows]
    key = json.dumps([Path(image_model).name, NUM_FRAMES, HEIGHT_PX, WIDTH_PX])
    if cache.is_file():
        with np.load(cache) as stored:
            if stored["names"].tolist() != names or str(stored["key"]) != key:
                raise ValueError(f"{cache} holds features of other clips or another model; remove it or name another")
            features: np.ndarray = stored["frames"]
    else:
        model = AutoModel.from_pretrained(image_model).eval()
        bar = tqdm(names, desc="frozen features", unit="clip")
        features = np.stack([frame_features(folder / name, model) for name in bar])
        np.savez(cache, names=np.array(names), key=np.array(key), frames=features)
    return np.stack([clip_feature(frames) for frames in features])


def leave_cameras_out(features: np.ndarray, rows: list[dict[str, str]], cameras: list[str]) -> dict[str, dict]:
    """Figures of each camera by a regression on all other cameras.

    Raises:
        ValueError: If a camera has no clip.
    """
    names = sorted({row["label"] for row in rows})
    labels = np.array([names.index(row["label"]) for row in rows])
    camera_of = np.array([row["camera"] for row in rows])
    figures = {}
    for camera in cameras:
        tested = camera_of == camera
        if not tested.any():
            raise ValueError(f"camera '{camera}' has no clip; there are {', '.join(sorted(set(camera_of)))}")
        probe = fit_linear_probe(features[~tested], labels[~tested], regularisation=REGULARISATION)
        figures[camera] = VideoClassificationMetrics(keep_in_memory=True).compute(
            predictions=probe.predict(features[tested]), references=labels[tested], label_names=names
        )
    return figures


def table(figures: dict[str, dict]) -> str:
    """The figures by camera and their means, in Markdown."""
    labels = list(next(iter(figures.values()))["per_class"])
    lines = [
        f"| test camera | clips | {' | '.join([*FIGURES.values(), *(f'F1 {label}' for label in labels)])} |",
        "|---" * (5 + len(labels)) + "|",
    ]
    for camera, found in figures.items():
        by_label = [
            f"{row['f1']:.3f} ({row['support']})" if row["support"] else "–" for row in found["per_class"].values()
        ]
        cells = [camera, str(found["num_videos"]), *(f"{found[key]:.3f}" for key in FIGURES), *by_label]
        lines.append(f"| {' | '.join(cells)} |")
    means = [f"{np.mean([found[key] for found in figures.values()]):.3f}" for key in FIGURES]
    return "\n".join([*lines, f"| **mean** | | {' | '.join(means)} |" + " |" * len(labels)])


def main() -> None:
    """Parse the flags, take or read the features, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True, help="folder with clips.csv")
    parser.add_argument("--image_model", required=True, help="DINOv2 or another image transformer")
    parser.add_argument("--cache", type=Path, required=True, help=".npz file for the features")
    parser.add_argument("--cameras", nargs="+", default=list(CAMERAS), help="cameras to test on, one after the other")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    rows = read_clips(options.clips)
    features = load_features(options.clips, rows, image_model=options.image_model, cache=options.cache)
    figures = leave_cameras_out(features, rows, options.cameras)
    print(table(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
