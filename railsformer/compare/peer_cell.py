"""A 3D CNN on the schemes' clips: they are dumped here, and trained on in the peer's environment.

`railsformer.compare.cells` runs this module with `--peer_python` and the flags of `railsformer train`.
"""

import argparse
import json
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from railsformer.compare import peer_train
from railsformer.compare.other_models import scheme_sampling, write_facts
from railsformer.compare.peers import PEER_FOLDER
from railsformer.compare.score_cell import PREDICTIONS_FILE, end_with_errors
from railsformer.data.clips import LOST_LABEL, ClipDataset, VideoDataset, load_video_dataset
from railsformer.data.files import whole_file
from railsformer.data.probe import available_cores
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings
from railsformer.evaluation.measured_split import MeasuredSplit
from railsformer.evaluation.report_pages.predictions import write_predictions
from railsformer.evaluation.views import VideoScores
from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.loading import config_on_disk
from railsformer.training.arguments import Settings, parse_settings
from railsformer.training.run_folder import claimed_folder
from railsformer.training.start import choose_clips, choose_loss

__all__ = ["dump_clips", "main"]

DUMPED_FILE = "request.json"
MOST_BYTES = 4 * 2**30  # of dumped training clips; beyond, epochs see the same draws again
_INTERRUPTED = (-signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGINT)
_FRAMES_A_SLOW_ONE = 4  # SlowFast's slow pathway takes every fourth frame


def main() -> int:
    """Train and test; 2 after an error, which is told in one line."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--peer_python", required=True)
    parser.add_argument("--peer_weights")
    own, flags = parser.parse_known_args()
    flags = [flag for flag in flags if flag != "--resume"]
    return end_with_errors(lambda: _train_and_test(own.peer_python, own.peer_weights, parse_settings(flags)))


def _train_and_test(peer_python: str, peer_weights: str | None, settings: Settings) -> None:
    if settings.run.trainable != "all" or settings.run.lora_rank is not None:
        raise ValueError(
            "the 3D CNN is trained whole or not at all; take a recipe with trainable all and no lora_rank"
        )
    run_dir = Path(str(settings.run.output_dir))
    with claimed_folder(run_dir, resume=False, resume_from=None):
        pass  # only to refuse what another process writes
    folder = run_dir.parent / PEER_FOLDER
    dataset = load_video_dataset(str(settings.data.dataset))
    if not (folder / DUMPED_FILE).is_file():
        shutil.rmtree(folder, ignore_errors=True)
        dump_clips(settings, dataset, folder)
    _train_peer(peer_python, folder / DUMPED_FILE, peer_weights)
    _write_report(dataset, folder, run_dir.parent / "report")
    run_dir.mkdir(parents=True, exist_ok=True)
    write_facts(run_dir, json.loads((folder / "facts.json").read_text(encoding="utf-8")))
    shutil.rmtree(folder)  # gigabytes that can be made again


def _train_peer(peer_python: str, request: Path, weights: str | None) -> None:
    """Run `peer_train` in the peer's environment, which ends with this process.

    Raises:
        SystemExit: If it was told to end: so is this process, then.
        ValueError: If it failed.
    """
    script = str(Path(peer_train.__file__).resolve())
    last = ""
    command = [peer_python, "-I", script, str(request.resolve()), *([weights] if weights else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr or ():
            sys.stderr.write(line)
            last = line.strip() or last
    if process.returncode in _INTERRUPTED:
        raise SystemExit(process.returncode if process.returncode > 0 else 128 - process.returncode)
    if process.returncode:
        reason = last.removeprefix("railsformer: error: ")
        raise ValueError(f"the 3D CNN's training ended with code {process.returncode}: {reason}")


def dump_clips(settings: Settings, dataset: VideoDataset, folder: Path) -> None:
    """Write what the schemes see as uint8: training clips epoch by epoch in their order, and evaluation clips.

    Mixup is left out: the peer takes pictures as they are.

    Args:
        settings: The recipe.
        dataset: With train, validation and test.
        folder: For the arrays and, last of all, the request of `peer_train`.
    """
    run, data = settings.run, settings.data
    folder.mkdir(parents=True, exist_ok=True)
    sampling = scheme_sampling(settings)
    frames = math.ceil(sampling["num_frames"] / _FRAMES_A_SLOW_ONE) * _FRAMES_A_SLOW_ONE
    start = config_on_disk(settings.model.model, {}) if settings.model.model else {}
    side = settings.model.image_size or start.get("image_size") or 224
    config = RailsformerConfig(**{**sampling, "num_frames": frames}, image_size=side, patch_size=1)
    pixels = PixelSettings(crop_px=side, short_side_px=data.eval_short_side_px or side)
    data.mixup_alpha = 0.0
    batch_size = run.per_device_train_batch_size * run.gradient_accumulation_steps
    chosen = choose_clips(settings, dataset.split("train"), config=config, pixels=pixels, batch_size=batch_size)
    epochs = math.ceil(
        run.num_train_epochs if run.max_steps <= 0 else run.max_steps * batch_size / len(chosen.sampler)
    )
    bytes_a_draw = len(chosen.sampler) * frames * side * side * 3
    num_draws = max(1, min(epochs, MOST_BYTES // bytes_a_draw))
    for epoch in range(num_draws):
        chosen.clips.set_epoch(epoch)
        _dump(chosen.clips, list(chosen.sampler), f"train-{epoch}", f"labels-{epoch}", folder, pixels, settings)
    for split in ("validation", "test"):
        clips = ClipDataset(dataset.split(split), sampling=ClipSampling.from_config(config), pixels=pixels)
        _dump(clips, list(range(len(clips))), f"clips-{split}", f"labels-{split}", folder, pixels, settings)
    request = {
        "model": {
            "builder": "slowfast_8x8_r50",
            "num_frames": frames,
            "image_size": side,
            "num_labels": len(dataset.labels),
        },
        "epochs": epochs,
        "num_draws": num_draws,
        **_of_recipe(settings, dataset),
    }
    with whole_file(folder / DUMPED_FILE) as partial:
        partial.write_text(json.dumps(request, indent=2) + "\n", encoding="utf-8")


def _of_recipe(settings: Settings, dataset: VideoDataset) -> dict[str, Any]:
    """What of the recipe the peer's training goes by."""
    run, labels = settings.run, dataset.split("train")["label"]
    loss = choose_loss(settings.data, run, labels=list(labels), num_labels=len(dataset.labels))
    return {
        "batch_size": run.per_device_train_batch_size * run.gradient_accumulation_steps,
        "learning_rate": run.learning_rate,
        "weight_decay": run.weight_decay,
        "warmup": run.warmup_steps,
        "label_smoothing": loss.label_smoothing,
        "class_weights": loss.class_weights,
        "seed": run.seed,
        "num_threads": run.num_threads or available_cores(),
    }


def _dump(
    clips: Any, order: list[int], name: str, labels_name: str, folder: Path, pixels: PixelSettings, settings: Settings
) -> None:
    """Clips in an order as one array; lost ones keep their place only in evaluation, where none may be lost."""
    loader: torch.utils.data.DataLoader = torch.utils.data.DataLoader(
        clips, sampler=order, batch_size=None, num_workers=settings.run.dataloader_num_workers
    )
    frames, side = clips.sampling.num_frames, pixels.crop_px
    array = np.lib.format.open_memmap(
        folder / f"{name}.npy", mode="w+", dtype=np.uint8, shape=(len(order), frames, side, side, 3)
    )
    std, mean = (torch.tensor(values).view(3, 1, 1) for values in (pixels.std, pixels.mean))
    labels: list[int] = []
    for clip in loader:
        if int(clip["labels"]) == LOST_LABEL:
            continue
        levels = ((clip["pixel_values"] * std + mean) * 255).round().clamp(0, 255)
        array[len(labels)] = levels.to(torch.uint8).permute(0, 2, 3, 1).numpy()
        labels.append(int(clip["labels"]))
    array.flush()
    np.save(folder / f"{labels_name}.npy", np.array(labels, dtype=np.int64))


def _write_report(dataset: VideoDataset, folder: Path, report: Path) -> None:
    scores = VideoScores(np.load(folder / "scores.npy"), np.asarray(dataset.split("test")["label"]))
    measured = MeasuredSplit("test", dataset, scores=scores, label_names=list(dataset.labels))
    report.mkdir(parents=True, exist_ok=True)
    with whole_file(report / PREDICTIONS_FILE) as partial:
        write_predictions(partial, measured.predictions())


if __name__ == "__main__":
    sys.exit(main())
