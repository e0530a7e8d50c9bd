"""What evaluation costs beyond decoding and the forward passes: seconds of both, and of the figures and pages after.

    python benchmarks/evaluating.py --videos 500 --clips 3

Encodes small videos, takes a tiny model, and goes through the same views three ways, in turns: a bare loop that
decodes and computes logits, `score_videos`, and `evaluate_model` with its report. Without workers the CPU seconds of
this process are all there are, and a busy machine changes them less than the wall-clock time.
"""

import argparse
import csv
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch
import yaml

from railsformer.data.clips import ClipDataset, collate_clips, load_video_dataset
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings
from railsformer.evaluation.report import evaluate_model
from railsformer.evaluation.views import score_videos
from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

LABELS = ("hazard", "other")
DISTINCT_VIDEOS = 20
SECONDS, FPS = 4, 8
WIDTH, HEIGHT = 160, 120


def encode_video(path: Path, seed: int) -> None:
    """A bright square that moves over coarse noise."""
    rng = np.random.default_rng(seed)
    background = rng.integers(40, 200, (HEIGHT // 20, WIDTH // 20, 3)).repeat(20, axis=0).repeat(20, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "23"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = FPS
        for index in range(SECONDS * FPS):
            picture = background.astype(np.uint8)
            left = (seed * 7 + index * 4) % (WIDTH - 30)
            picture[40:70, left : left + 30] = 250
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))


def write_dataset(folder: Path, num_videos: int) -> Path:
    """A test split in the layout of `build`, without validation: one split is scored."""
    place = folder / "data" / "test"
    place.mkdir(parents=True)
    for seed in range(min(DISTINCT_VIDEOS, num_videos)):
        encode_video(folder / f"{seed}.mp4", seed)
    with (place / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "label", "group", "start_seconds", "end_seconds"])
        for index in range(num_videos):
            shutil.copyfile(folder / f"{index % DISTINCT_VIDEOS}.mp4", place / f"{index}.mp4")
            writer.writerow([f"{index}.mp4", LABELS[index % 2], f"camera{index % 10}", 0.0, float(SECONDS)])
    names = dict(enumerate(LABELS))
    features = [
        {"name": "video", "dtype": "video"},
        {"name": "label", "dtype": {"class_label": {"names": {str(key): name for key, name in names.items()}}}},
        {"name": "group", "dtype": "string"},
        {"name": "start_seconds", "dtype": "float64"},
        {"name": "end_seconds", "dtype": "float64"},
    ]
    data_files = [{"split": "test", "path": "data/test/**"}]
    config = {"config_name": "default", "data_files": data_files, "features": features}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': [config]})}---\n")
    (folder / "dataset.json").write_text(json.dumps({"fingerprint": "", "split_kind": "by camera"}))
    return folder


def write_model(folder: Path, side_px: int) -> Path:
    """A tiny model with its pixels."""
    names = dict(enumerate(LABELS))
    config = RailsformerConfig(
        image_size=side_px, patch_size=16, num_frames=8, frame_interval=12, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=64, id2label=names,
        label2id={name: index for index, name in names.items()}, negative_labels=["other"],
    )  # fmt: skip
    RailsformerForVideoClassification(config).save_pretrained(folder)
    PixelSettings(side_px, side_px).save_pretrained(folder)
    return folder


@torch.inference_mode()
def bare_loop(
    model: RailsformerForVideoClassification, clips: ClipDataset, *, batch_size: int, num_workers: int
) -> None:
    """Decode every clip, and compute its logits."""
    loader: torch.utils.data.DataLoader = torch.utils.data.DataLoader(
        clips, batch_size=batch_size, num_workers=num_workers, collate_fn=collate_clips
    )
    for batch in loader:
        model(pixel_values=batch["pixel_values"])


def measure(action: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and CPU seconds of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Parse the flags, encode, measure in turns, print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=500)
    parser.add_argument("--clips", type=int, default=3, help="views a video")
    parser.add_argument("--side_px", type=int, default=64, help="of the model's input")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--no_report", action="store_true", help="leave evaluate_model out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        dataset = write_dataset(folder / "dataset", options.videos)
        home = write_model(folder / "model", options.side_px)
        model = RailsformerForVideoClassification.from_pretrained(home).eval()
        clips = ClipDataset(
            load_video_dataset(dataset).split("test"),
            sampling=ClipSampling.from_config(model.config),
            pixels=PixelSettings.from_pretrained(home),
            num_clips=options.clips,
        )
        feeding = {"batch_size": options.batch_size, "num_workers": options.workers}
        reports = iter(range(options.turns))
        ways: dict[str, Callable[[], object]] = {
            "decoding and forward alone": lambda: bare_loop(model, clips, **feeding),
            "score_videos": lambda: score_videos(model, clips, **feeding),
            "evaluate_model, report and all": lambda: evaluate_model(
                home, dataset=dataset, output_dir=folder / f"report{next(reports)}", num_clips=options.clips, **feeding
            ),
        }
        if options.no_report:
            del ways["evaluate_model, report and all"]
        bare_loop(model, clips, **feeding)  # files and caches warm for all
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(options.turns):
            for name, way in ways.items():
                taken[name].append(measure(way))
    medians = {name: np.median(np.array(seconds), axis=0) for name, seconds in taken.items()}
    bare = medians["decoding and forward alone"]
    print(f"{options.videos} videos x {options.clips} views, {options.workers} workers, median of {options.turns}\n")
    print(f"{'':32} {'wall s':>8} {'of bare':>8} {'CPU s':>8} {'of bare':>8}")
    for name, (wall, cpu) in medians.items():
        print(f"{name:32} {wall:8.2f} {wall / bare[0]:8.3f} {cpu:8.2f} {cpu / bare[1]:8.3f}")


if __name__ == "__main__":
    main()
