"""Fine-tuning beside the way of Hugging Face's video classification guide: seconds and figures, in one run.

    python benchmarks/task_guide.py --dataset DATASET --output_dir DIR [--model CHECKPOINT] [--videos VIDEOS]

The guide (docs/source/en/tasks/video_classification.md of transformers) with today's API: stock
TimesformerForVideoClassification, stock Trainer, and the PyAV reader of the TimeSformer page, once with the Trainer's
default of no data workers and once with as many as ours. Both start from the same folder of weights, head included,
and see the same splits of DATASET (a folder of `railsformer build`), batch size, epochs, learning rate, warm-up,
optimizer, seed, length of a clip, range of crops and mirroring, in float32. Every step of every arm is a process of
its own, one after another, and its files lie in DIR. All arms read the files of DATASET, unless --videos names the
folder it was built of: then the guide reads the originals, as its readers would; the seconds of the build count for
nobody. Without --model a small network with random weights is taken, which says much about seconds and little about
figures.
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

FIGURES = ("accuracy", "balanced_accuracy", "f1_macro")
NOMINAL_FPS = 30.0
SMALL: dict[str, Any] = {
    "hidden_size": 192,
    "num_hidden_layers": 6,
    "num_attention_heads": 3,
    "intermediate_size": 768,
    "num_frames": 8,
    "image_size": 112,
}
DIFFERENCES = """
What differs by design:

- the guide keeps the epoch of the best validation accuracy, ours that of the best macro F1;
- the guide counts a clip in frames ({sample_rate} apart, {frame_seconds:.2f} s at {fps:g} frames a second), ours in
  seconds ({our_seconds:.2f} s apart) whatever the rate of a file;
- the guide's reader fails on a video that is no longer than the clip; here it takes the clip as long as the video is,
  and ours holds the last picture;
- the guide validates on every clip of a video one after another; here, like ours, on the one in the middle;
- the guide's random scale, crop and flip come from pytorchvideo, which no longer runs; here they are the same
  operations in torch, and validation and test go through the stock image processor;
- the guide loads `accuracy` from the Hub; here every figure of every arm comes from the `evaluate` module of this
  package.
"""


@dataclass(frozen=True)
class Comparison:
    """What all arms share."""

    dataset: str
    videos: str | None
    start: str  # folder of the weights that every arm starts from
    metric: str  # file of the `evaluate` module
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    sample_rate: int  # frames of a file between two of a clip, as the guide's reader counts
    frame_interval: int  # the same at 30 frames a second, as ours does


def rows_of(comparison: Comparison, split: str) -> list[dict[str, Any]]:
    """Files of a split with the indices of their labels: those of the dataset, or the originals.

    Raises:
        FileNotFoundError: If an original is not there.
        ValueError: If one original holds several segments, which the guide's reader cannot cut out.
    """
    folder = Path(comparison.dataset, "data", split)
    label2id = {name: index for index, name in enumerate(labels_of(comparison.dataset))}
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    paths = [folder / row["file_name"] for row in rows]
    if comparison.videos:
        paths = [Path(comparison.videos, row["source"]) for row in rows]
        if len(set(paths)) < len(paths):
            raise ValueError(f"--videos {comparison.videos}: some file holds several segments; leave --videos out")
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such video; --videos must be the folder that DATASET was built of")
    return [{"path": str(path), "label": label2id[row["label"]]} for path, row in zip(paths, rows, strict=True)]


def labels_of(dataset: str) -> list[str]:
    """Label names in the order of their indices."""
    labels: list[str] = json.loads(Path(dataset, "dataset.json").read_text(encoding="utf-8"))["labels"]
    return labels


# The guide's arm. The two functions below are those of the TimeSformer page, but for the clip in the middle and the
# videos that are no longer than a clip.


def read_video_pyav(container: Any, indices: np.ndarray) -> np.ndarray:
    """Decode from the first frame to the last index, keep the frames at the indices: (num_frames, y, x, 3)."""
    frames = []
    container.seek(0)
    start_index, end_index = indices[0], indices[-1]
    for index, frame in enumerate(container.decode(video=0)):
        if index > end_index:
            break
        if index >= start_index and index in indices:
            frames.append(frame)
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


def sample_frame_indices(clip_len: int, frame_sample_rate: int, seg_len: int, *, middle: bool = False) -> np.ndarray:
    """Indices of a random clip, or of the one in the middle, shape (clip_len,)."""
    converted_len = min(int(clip_len * frame_sample_rate), seg_len - 1)
    end_idx = (seg_len + converted_len) // 2 if middle else np.random.randint(converted_len, seg_len)
    start_idx = end_idx - converted_len
    indices = np.linspace(start_idx, end_idx, num=clip_len)
    return np.clip(indices, start_idx, end_idx - 1).astype(np.int64)


def guide_clips(comparison: Comparison, split: str, *, model: Any, processor: Any) -> Any:
    """A split as the guide's dataset."""
    import av
    import torch

    class Videos(torch.utils.data.Dataset):
        def __init__(self) -> None:
            self.rows = rows_of(comparison, split)

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> dict[str, Any]:
            row = self.rows[index]
            training = split == "train"
            with av.open(row["path"]) as container:
                indices = sample_frame_indices(
                    clip_len=model.config.num_frames,
                    frame_sample_rate=comparison.sample_rate,
                    seg_len=container.streams.video[0].frames,
                    middle=not training,
                )
                video = read_video_pyav(container, indices)
            if training:
                return {"video": guide_transform(video, processor), "label": row["label"]}
            pixels = processor(list(video), return_tensors="pt")["pixel_values"][0]
            return {"video": pixels.permute(1, 0, 2, 3), "label": row["label"]}

    return Videos()


def guide_transform(video: np.ndarray, processor: Any) -> Any:
    """The guide's training chain: normalise, random short side, crop and flip, (T, y, x, 3) -> (3, T, y, x)."""
    import torch

    clip = torch.from_numpy(video).permute(3, 0, 1, 2) / 255.0
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (processor.image_mean, processor.image_std))
    clip = (clip - mean) / std
    side = processor.crop_size["height"]
    # The guide's 256 to 320 px are for a crop of 224 px.
    short_side = int(torch.randint(round(side * 256 / 224), round(side * 320 / 224) + 1, (1,)))
    height, width = clip.shape[-2:]
    scale = short_side / min(height, width)
    size = (max(short_side, int(height * scale)), max(short_side, int(width * scale)))
    clip = torch.nn.functional.interpolate(clip, size=size, mode="bilinear", align_corners=False)
    top, left = (int(torch.randint(0, length - side + 1, (1,))) for length in size)
    clip = clip[:, :, top : top + side, left : left + side]
    return clip.flip(-1) if torch.rand(1) < 0.5 else clip


def collate_fn(examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The guide's collator."""
    import torch

    pixel_values = torch.stack([example["video"].permute(1, 0, 2, 3) for example in examples])
    return {"pixel_values": pixel_values, "labels": torch.tensor([example["label"] for example in examples])}


def guide_trainer(comparison: Comparison, folder: Path, *, start: str, num_workers: int) -> tuple[Any, Any]:
    """The guide's Trainer and its function that gives the clips of a split."""
    import evaluate
    from transformers import AutoImageProcessor, TimesformerForVideoClassification, Trainer, TrainingArguments

    processor = AutoImageProcessor.from_pretrained(start)
    model = TimesformerForVideoClassification.from_pretrained(start)
    metric, labels = evaluate.load(comparison.metric), labels_of(comparison.dataset)

    def compute_metrics(eval_pred: Any) -> dict[str, float]:
        predictions = np.argmax(eval_pred.predictions, axis=1)
        found = metric.compute(predictions=predictions, references=eval_pred.label_ids, label_names=labels)
        return {name: found[name] for name in FIGURES}

    def clips(split: str) -> Any:
        return guide_clips(comparison, split, model=model, processor=processor)

    args = TrainingArguments(
        str(folder),
        remove_unused_columns=False,
        eval_strategy="epoch",
        save_strategy="epoch",
        learning_rate=comparison.learning_rate,
        per_device_train_batch_size=comparison.batch_size,
        per_device_eval_batch_size=comparison.batch_size,
        warmup_steps=0.1,  # the guide's warmup_ratio: a number below 1 is a share of all steps
        logging_steps=10,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        num_train_epochs=comparison.epochs,
        seed=comparison.seed,
        dataloader_num_workers=num_workers,
    )
    trainer = Trainer(
        model,
        args,
        train_dataset=clips("train"),
        eval_dataset=clips("validation"),
        processing_class=processor,
        compute_metrics=compute_metrics,
        data_collator=collate_fn,
    )
    return trainer, clips


def guide_train(comparison: Comparison, folder: Path, num_workers: int) -> None:
    """Train and save, as the guide does."""
    trainer, _ = guide_trainer(comparison, folder, start=comparison.start, num_workers=num_workers)
    trainer.train()
    trainer.save_model()
    trainer.save_state()


def guide_test(comparison: Comparison, folder: Path, num_workers: int) -> None:
    """Score the saved model on the test split."""
    trainer, clips = guide_trainer(comparison, folder / "test", start=str(folder), num_workers=num_workers)
    found = trainer.evaluate(clips("test"), metric_key_prefix="test")
    figures = {name: found[f"test_{name}"] for name in FIGURES}
    (folder / "test_figures.json").write_text(json.dumps(figures) + "\n", encoding="utf-8")


STEPS: dict[str, Callable[[Comparison, Path, int], None]] = {"guide_train": guide_train, "guide_test": guide_test}


# The comparison.


def prepare(options: argparse.Namespace) -> Comparison:
    """Save the weights that every arm starts from, head included, and say what all arms share."""
    import torch
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    import railsformer.evaluation.metrics as metrics
    from railsformer.data.transforms import PixelSettings

    labels = dict(enumerate(labels_of(options.dataset)))
    names: dict[str, Any] = {"id2label": labels, "label2id": {name: index for index, name in labels.items()}}
    torch.manual_seed(options.seed)
    if options.model:
        model = TimesformerForVideoClassification.from_pretrained(
            options.model, ignore_mismatched_sizes=True, dtype=torch.float32, **names
        )
        pixels = PixelSettings.from_pretrained(options.model)
    else:
        model = TimesformerForVideoClassification(TimesformerConfig(**SMALL, **names))
        pixels = PixelSettings(SMALL["image_size"], SMALL["image_size"])
    start = options.output_dir / "start"
    model.save_pretrained(start)
    pixels.save_pretrained(start)
    shared = Comparison(
        dataset=str(options.dataset),
        videos=options.videos,
        start=str(start),
        metric=str(metrics.__file__),
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
        sample_rate=1,
        frame_interval=options.frame_interval,
    )
    rate = max(1, round(options.frame_interval / NOMINAL_FPS * median_fps(shared)))
    return Comparison(**{**asdict(shared), "sample_rate": rate})


def median_fps(comparison: Comparison) -> float:
    """Frames a second of the training files that the guide reads; every file is read once, so that none is cold."""
    import av

    rates: list[float] = []
    for split in ("validation", "test", "train"):
        rates = []
        for row in rows_of(comparison, split):
            Path(row["path"]).read_bytes()
            with av.open(row["path"]) as container:
                rates.append(float(container.streams.video[0].average_rate or NOMINAL_FPS))
    return float(np.median(rates))


def our_commands(comparison: Comparison, folder: Path, num_workers: int) -> list[list[str]]:
    """`railsformer train`, then `railsformer evaluate`."""
    batch, workers = str(comparison.batch_size), str(num_workers)
    verb = [sys.executable, "-m", "railsformer.cli"]
    flags = {
        "model": comparison.start,
        "dataset": comparison.dataset,
        "output_dir": str(folder),
        "num_train_epochs": str(comparison.epochs),
        "learning_rate": repr(comparison.learning_rate),
        "per_device_train_batch_size": batch,
        "per_device_eval_batch_size": batch,
        "dataloader_num_workers": workers,
        "seed": str(comparison.seed),
        "frame_interval": str(comparison.frame_interval),
        "flip": "true",
    }
    train = [*verb, "train", *(word for name, value in flags.items() for word in (f"--{name}", value))]
    where = ["--model", str(folder), "--dataset", comparison.dataset, "--output_dir", str(folder / "report")]
    return [train, [*verb, "evaluate", *where, "--batch_size", batch, "--num_workers", workers]]


def guide_commands(comparison: Comparison, folder: Path, num_workers: int) -> list[list[str]]:
    """This file once more, to train and to test."""
    shared = json.dumps(asdict(comparison))
    words = ["--shared", shared, "--output_dir", str(folder), "--num_workers", str(num_workers)]
    return [[sys.executable, str(Path(__file__).resolve()), "--step", step, *words] for step in STEPS]


def run_arm(commands: list[list[str]], folder: Path) -> list[float]:
    """Seconds of each command, from its start to its end; what they print goes to FOLDER.log.

    Raises:
        RuntimeError: If one fails, with the end of its log.
    """
    # A launcher's number of threads would bind the guide's arm alone: ours sets its own.
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    log, seconds = folder.with_suffix(".log"), []
    with log.open("w", encoding="utf-8") as file:
        for command in commands:
            began = time.perf_counter()
            done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False)
            seconds.append(time.perf_counter() - began)
            if done.returncode:
                raise RuntimeError(f"{folder.name} failed, see {log}:\n{log.read_text(encoding='utf-8')[-1500:]}")
    return seconds


def outcome(folder: Path, seconds: list[float], *, num_clips: int) -> dict[str, float]:
    """Seconds and test figures of an arm that is done.

    Args:
        folder: What it saved.
        seconds: Of training and of testing, whole processes.
        num_clips: Clips that training showed.
    """
    history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    training = next(entry["train_runtime"] for entry in history if "train_runtime" in entry)
    validation = sum(entry.get("eval_runtime", 0.0) for entry in history)
    report = folder / "report" / "metrics.json"
    figures = json.loads((report if report.is_file() else folder / "test_figures.json").read_text(encoding="utf-8"))
    return {
        "whole": seconds[0],
        "training": training - validation,
        "validation": validation,
        "clips_per_second": num_clips / (training - validation),
        "test": seconds[1],
        **{name: figures[name] for name in FIGURES},
    }


def table(outcomes: dict[str, dict[str, float]]) -> str:
    """Markdown; ratios are over the last row."""
    ours = list(outcomes.values())[-1]
    lines = [
        "| | start to saved model, s | ratio | training and saving, s | ratio | clips/s | validation, s | test, s "
        "| accuracy | balanced accuracy | macro F1 |",
        "|---" * 11 + "|",
    ]
    for name, row in outcomes.items():
        cells = [
            f"{row['whole']:.0f}",
            f"{row['whole'] / ours['whole']:.2f}x",
            f"{row['training']:.0f}",
            f"{row['training'] / ours['training']:.2f}x",
            f"{row['clips_per_second']:.2f}",
            f"{row['validation']:.0f}",
            f"{row['test']:.0f}",
            *(f"{row[figure]:.3f}" for figure in FIGURES),
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def compare(options: argparse.Namespace) -> None:
    """Run every arm and print the table."""
    from importlib.metadata import version

    options.output_dir.mkdir(parents=True)
    comparison = prepare(options)
    sizes = {split: len(rows_of(comparison, split)) for split in ("train", "validation", "test")}
    workers = options.num_workers
    arms = {
        "the guide, 0 workers": ("guide_0", guide_commands, 0),
        f"the guide, {workers} workers": (f"guide_{workers}", guide_commands, workers),
        f"railsformer, {workers} workers": ("railsformer", our_commands, workers),
    }
    cores, processor = len(os.sched_getaffinity(0)), platform.processor() or platform.machine()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "av"))
    reads = "the originals" if comparison.videos else "the dataset's files"
    print(
        f"{cores} cores ({processor}), {versions}, float32; {Path(comparison.dataset).name}: "
        + ", ".join(f"{size} {split}" for split, size in sizes.items())
        + f"; {comparison.epochs} epochs, batches of {comparison.batch_size}, learning rate "
        f"{comparison.learning_rate:g}, seed {comparison.seed}; the guide reads {reads}\n",
        flush=True,
    )
    outcomes = {}
    for name, (folder_name, commands, num_workers) in arms.items():
        folder = options.output_dir / folder_name
        seconds = run_arm(commands(comparison, folder, num_workers), folder)
        outcomes[name] = outcome(folder, seconds, num_clips=sizes["train"] * comparison.epochs)
        print(f"{name}: {sum(seconds):.0f} s", file=sys.stderr, flush=True)
    print(table(outcomes))
    (options.output_dir / "outcomes.json").write_text(json.dumps(outcomes, indent=2) + "\n", encoding="utf-8")
    rate, fps = comparison.sample_rate, median_fps(comparison)
    num_frames = json.loads(Path(comparison.start, "config.json").read_text(encoding="utf-8"))["num_frames"]
    # linspace from a clip's first frame to its end stretches the guide's step a little.
    guide_step = rate * num_frames / max(num_frames - 1, 1) / fps
    our_step = comparison.frame_interval / NOMINAL_FPS
    print(DIFFERENCES.format(sample_rate=rate, fps=fps, frame_seconds=guide_step, our_seconds=our_step))


def main() -> None:
    """Parse the flags, compare; or do one step of the guide's arm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", help="dataset folder of `railsformer build`")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of all runs; must be absent")
    parser.add_argument("--model", help="TimeSformer checkpoint to start from; a small one with random weights if not")
    parser.add_argument("--videos", help="folder that the dataset was built of: the guide reads the originals")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--learning_rate", type=float, default=5e-5, help="default: the guide's")
    parser.add_argument("--frame_interval", type=int, default=15, help="30ths of a second between frames of a clip")
    parser.add_argument("--num_workers", type=int, default=2, help="data workers of ours and the guide's second arm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--shared", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        STEPS[options.step](Comparison(**options.shared), options.output_dir, options.num_workers)
        return
    if not options.dataset:
        parser.error("--dataset must name a folder that `railsformer build` wrote")
    try:
        compare(options)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
