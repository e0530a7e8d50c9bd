"""Events in hours of the toy yard: how many are found, and how many alarms an hour are false.

    python benchmarks/toy_events.py --output_dir DIR

Trains the demo's trunk on clips of the toy yard and on stretches of some shifts, chooses thresholds and dwell on other
shifts, and measures on others again. No two have a camera or a look in common. What a step has finished is kept: the
same command goes on. DIR/figures holds what `railsformer evaluate --events` writes.
"""

import argparse
import csv
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import railsformer.cli
from railsformer.data.toy_shift import render_toy_shifts
from railsformer.data.toy_yard import HAZARDS, render_toy_yard
from railsformer.demo import TRUNK
from railsformer.inference.event_quality import TrueEvent, WatchedVideo, read_true_events, sweep_events
from railsformer.inference.event_report import evaluate_events, event_table
from railsformer.inference.event_wishes import EventWishes
from railsformer.inference.events import EventSettings, prepare_scores
from railsformer.inference.predictor import Predictor
from railsformer.inference.timeline import Smoothing, read_timeline
from railsformer.inference.watch import WatchSettings, watch_video

REPOSITORY = Path(__file__).parent.parent
TRAINING_SEED, CHOOSING_SEED, TEST_SEED = 20_260_401, 20_260_402, 20_260_403
STRIDE_SECONDS, SMOOTH_SECONDS, MERGE_GAP_SECONDS = 0.5, 1.0, 2.0
DWELLS_SECONDS = (0.0, 0.5, 1.0, 1.5, 2.0)
THRESHOLDS = (*(round(0.05 * step, 2) for step in range(1, 20)), 0.97, 0.98, 0.99)
HAZARDS_OF_A_SHIFT = 8
FPS = 10


def write_training_table(source: Path, truth: Path, *, seed: int) -> Path:
    """Clips of the yard, and of each shift the motions, the rests about them and as many stretches of nothing."""
    rows: list[dict[str, Any]] = []
    with (source / "yard" / "annotations.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.append({"file_name": f"yard/{row['file_name']}", "label": row["label"], "group": row["recording"]})
    rng = np.random.default_rng(seed)
    motions = read_true_events(truth) if truth.is_file() else []
    for video in sorted({motion.video for motion in motions}):
        own = [motion for motion in motions if motion.video == video]
        stretches = [stretch for motion in own for stretch in stretches_about(motion)]
        for before, after in pairwise(own):
            if after.start_seconds - before.end_seconds > 14:
                start = float(rng.uniform(before.end_seconds + 5, after.start_seconds - 9))
                stretches.append(("Other", start, start + 3.2))
        name = Path(video).stem
        for label, start, end in stretches:
            times = {"start_seconds": round(start, 3), "end_seconds": round(end, 3)}
            rows.append({"file_name": f"shifts/{video}", "label": label, "group": name, **times})
    table = source / "training.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("file_name", "label", "start_seconds", "end_seconds", "group"), restval="")
        writer.writeheader()
        writer.writerows(rows)
    return table


def stretches_about(motion: TrueEvent) -> list[tuple[str, float, float]]:
    """The motion with a little rest, and the rests before and after it."""
    start, end = motion.start_seconds - 0.2, motion.end_seconds + 0.2
    return [("Other", start - 3.2, start), (motion.label, start, end), ("Other", end, end + 3.2)]


def train(folder: Path, *, recordings: int, shifts: int, minutes: float, epochs: int, bf16: bool) -> Path:
    """The run folder of a model of the yard."""
    source, run = folder / "source", folder / "run"
    if not (source / "yard" / "annotations.csv").is_file():
        render_toy_yard(source / "yard", num_recordings=recordings, seed=1)
    truth = source / "shifts" / "truth.csv"
    if shifts and not truth.is_file():
        render(source / "shifts", shifts=shifts, minutes=minutes, seed=TRAINING_SEED)
    if not (folder / "dataset").is_dir():
        table = write_training_table(source, truth, seed=TRAINING_SEED)
        words = ["build", str(source), "--annotations", str(table), "--group_by", "group"]
        words += ["--splits", "0.88", "0.06", "0.06", "--no_proxy", "--output_dir", str(folder / "dataset")]
        if railsformer.cli.main(words):
            raise SystemExit("the dataset could not be built; the reason stands above")
    if not (run / "config.json").is_file():
        command = [sys.executable, str(REPOSITORY / "scripts" / "finetune.py")]
        command += ["--config", str(REPOSITORY / "configs" / "demo.yaml"), "--model", str(TRUNK)]
        command += ["--dataset", str(folder / "dataset"), "--output_dir", str(run)]
        command += ["--num_train_epochs", str(epochs), "--bf16", str(bf16).lower()]
        command += ["--light", "0.5", "--grey", "0.3"]  # no camera of the test is one of those trained on
        subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    return run


def render(folder: Path, *, shifts: int, minutes: float, seed: int) -> Path:
    """Shifts with their table, unless they are there."""
    table = folder / "truth.csv"
    if not table.is_file():
        hazards = max(1, round(HAZARDS_OF_A_SHIFT * minutes / 20))
        render_toy_shifts(
            folder, num_shifts=shifts, seed=seed, duration_seconds=60 * minutes, hazards=hazards, fps=FPS
        )
    return table


def watch(predictor: Predictor, folder: Path, output: Path, wishes: EventWishes) -> list[Path]:
    """Watch every shift of a folder; what was watched takes its scores."""
    settings = WatchSettings(
        stride_seconds=STRIDE_SECONDS, smooth_seconds=SMOOTH_SECONDS, wishes=wishes, batch_size=32
    )
    outputs, footage, seconds = [], 0.0, 0.0
    for video in sorted((folder / "videos").glob("*.mp4")):
        summary = watch_video(predictor, video, output_dir=output / video.stem, settings=settings, progress=True)
        outputs.append(summary.output_dir)
        if summary.windows_scored:
            footage, seconds = footage + summary.footage_seconds, seconds + summary.seconds
    if seconds:
        print(f"watched {footage / 3600:.2f} hours in {seconds:.0f} s, {footage / seconds:.0f} times real time")
    return outputs


def choose(outputs: Sequence[Path], truth: Path, *, false_alarms_per_hour: float) -> EventWishes:
    """Thresholds and the dwell that find most on the choosing shifts within the false alarms, shared out evenly."""
    events = [event for event in read_true_events(truth) if event.label != "Other"]
    videos = []
    for output in outputs:
        line = read_timeline(output)
        own = tuple(event for event in events if Path(event.video).name == Path(line.video).name)
        videos.append(WatchedVideo(prepare_scores(line, Smoothing(SMOOTH_SECONDS)), own))
    hazards = tuple(HAZARDS.values())
    how = EventSettings({}, merge_gap_seconds=MERGE_GAP_SECONDS, min_dwell_seconds=DWELLS_SECONDS[0])
    rows = sweep_events(videos, hazards, how, thresholds=THRESHOLDS, dwells_seconds=DWELLS_SECONDS)
    best: tuple[tuple[float, float], EventWishes] | None = None
    for dwell in DWELLS_SECONDS:
        points = {}
        for label in hazards:
            own_rows = [row for row in rows if row["label"] == label and row["min_dwell_seconds"] == dwell]
            good = [row for row in own_rows if row["false_alarms_per_hour"] <= false_alarms_per_hour / len(hazards)]
            points[label] = _middle_of_best(good or [min(own_rows, key=lambda row: row["false_alarms_per_hour"])])
        merit = (
            sum(point["num_found"] for point in points.values()),
            -sum(point["num_false_alarms"] for point in points.values()),
        )
        thresholds: dict[str | None, float] = {label: point["threshold"] for label, point in points.items()}
        wishes = EventWishes(thresholds, min_dwell_seconds=dwell, merge_gap_seconds=MERGE_GAP_SECONDS)
        if best is None or merit > best[0]:
            best = (merit, wishes)
    assert best is not None
    print(f"chosen on {len(videos)} shifts: found {best[0][0]} of {len(events)}, {-best[0][1]} false; {best[1]}")
    return best[1]


def _middle_of_best(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the rows that find most with the fewest false alarms the one in the middle: the least touchy."""
    merit = max((row["num_found"], -row["num_false_alarms"]) for row in rows)
    best = [row for row in rows if (row["num_found"], -row["num_false_alarms"]) == merit]
    return best[len(best) // 2]


def main() -> None:
    """Render, train, choose, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--run", type=Path, help="a model of the toy yard; trained here if not given")
    parser.add_argument("--recordings", type=int, default=400, help="of clips to train on (default: 400)")
    parser.add_argument("--training_shifts", type=int, default=48, help="each has a camera of its own (default: 48)")
    parser.add_argument("--training_minutes", type=float, default=5.0, help="of each (default: 5)")
    parser.add_argument("--choosing_shifts", type=int, default=12)
    parser.add_argument("--test_shifts", type=int, default=12)
    parser.add_argument("--minutes", type=float, default=15.0, help="of each choosing and test shift (default: 15)")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--bf16", action="store_true", help="twice as fast where the processor multiplies in bfloat16")
    parser.add_argument("--false_alarms_per_hour", type=float, default=1.0, help="to choose for (default: 1)")
    options = parser.parse_args()
    folder, began = options.output_dir, time.monotonic()
    run = options.run or train(
        folder,
        recordings=options.recordings,
        shifts=options.training_shifts,
        minutes=options.training_minutes,
        epochs=options.epochs,
        bf16=options.bf16,
    )
    predictor = Predictor.from_pretrained(run)
    choosing = render(folder / "choosing", shifts=options.choosing_shifts, minutes=options.minutes, seed=CHOOSING_SEED)
    test = render(folder / "test", shifts=options.test_shifts, minutes=options.minutes, seed=TEST_SEED)
    outputs = watch(predictor, choosing.parent, folder / "watched_choosing", EventWishes({None: 0.5}))
    wishes = choose(outputs, choosing, false_alarms_per_hour=options.false_alarms_per_hour)
    outputs = watch(predictor, test.parent, folder / "watched_test", wishes)
    number = 1 + sum(1 for _ in folder.glob("figures*"))
    content = evaluate_events(test, timelines=outputs, output_dir=folder / f"figures{number}")
    print(event_table(content))
    overall = content["overall"]
    enough = (overall["recall"] or 0) >= 0.9 and overall["false_alarms_per_hour"] <= 2
    print(f"at least .9 found with at most 2 false alarms an hour: {'yes' if enough else 'NO'}")
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
