"""What watching an hour costs: windows a second, times real time, the share of decoding, and memory over the hour.

    python benchmarks/watching.py --videos TANKYARD --annotations TANKYARD/clips.csv --output_dir DIR

Stitches clips into one long H.264 video with a table of what is when (DIR/VIDEO.truth.csv), watches it in a process of
its own (`watch_video`, pages included) while reading that process's memory, and compares with the plain loop, which
opens the video again for every window. The model is tiny, so that reading the video is what counts.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import torch

from railsformer.data.transforms import PixelSettings, evaluation_pixels
from railsformer.data.video import VideoDecodeError, iterate_frames, open_video, read_frames, upright_rgb
from railsformer.inference.predictor import Predictor
from railsformer.inference.windows import WindowPlan, decode_pictures, iterate_windows
from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

FPS, WIDTH, HEIGHT = 25, 320, 240
NEGATIVE = "no_action"
MIB = 2**20


def stitch(videos: Path, rows: Sequence[dict[str, str]], target: Path, *, seconds: float) -> Path:
    """Encode clips one after the other, again from the first where they do not suffice; returns the table of truth.

    Neighbours of one label are one event.
    """
    truth: list[tuple[str, float, float]] = []
    shown = 0
    partial = target.with_suffix(".part")
    with av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "23", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        while shown < seconds * FPS:
            before = shown
            for row in rows:
                start = shown / FPS
                for picture in _resampled(videos / row["file_name"]):
                    container.mux(stream.encode(picture))
                    shown += 1
                if row["label"] != NEGATIVE and shown / FPS > start:
                    if truth and (truth[-1][0], truth[-1][2]) == (row["label"], start):
                        start = truth.pop()[1]
                    truth.append((row["label"], start, shown / FPS))
                if shown >= seconds * FPS:
                    break
            if shown == before:
                raise SystemExit(f"{videos}: no clip could be read")
        container.mux(stream.encode(None))
    partial.rename(target)
    table = target.with_suffix(".truth.csv")
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("video", "label", "start_seconds", "end_seconds"))
        writer.writerows((target.name, label, f"{start:.3f}", f"{end:.3f}") for label, start, end in truth)
    return table


def _resampled(path: Path) -> Iterator[av.VideoFrame]:
    """The pictures of a clip, FPS a second, all of one size; what is damaged is where it ends."""
    due, held = 0, None
    try:
        for seconds, frame in iterate_frames(path):
            if held is not None:
                while due / FPS < seconds:
                    yield av.VideoFrame.from_ndarray(held, format="rgb24").reformat(WIDTH, HEIGHT)
                    due += 1
            held = upright_rgb(frame)
    except VideoDecodeError:
        pass
    if held is not None:
        yield av.VideoFrame.from_ndarray(held, format="rgb24").reformat(WIDTH, HEIGHT)


def write_tiny_model(folder: Path, labels: Sequence[str]) -> Path:
    """A random network of 8 frames of 96 px, two layers of 64."""
    torch.manual_seed(0)
    config = RailsformerConfig(
        image_size=96,
        patch_size=16,
        num_frames=8,
        frame_interval=10,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        negative_labels=[NEGATIVE],
    )
    folder.mkdir(parents=True, exist_ok=True)
    RailsformerForVideoClassification(config).save_pretrained(folder)
    PixelSettings(96, 96).save_pretrained(folder)
    return folder


def watch_in_process(model: Path, video: Path, output: Path, overlap: float, threads: int) -> tuple[dict, list]:
    """Watch in a process of its own; what it told, and its memory over the footage: (seconds, MiB) rows."""
    code = (
        "import json, sys, torch\n"
        "from railsformer.inference.predictor import Predictor\n"
        "from railsformer.inference.watch import WatchSettings, watch_video\n"
        "torch.set_num_threads(int(sys.argv[5]))\n"
        "predictor = Predictor.from_pretrained(sys.argv[1])\n"
        "window = predictor.sampling.span_seconds + predictor.sampling.step_seconds\n"
        "settings = WatchSettings(stride_seconds=window * (1 - float(sys.argv[4])), batch_size=16)\n"
        "done = watch_video(predictor, sys.argv[2], output_dir=sys.argv[3], settings=settings)\n"
        "print(json.dumps([len(done.timeline), done.seconds, float(done.timeline.end_seconds.max()),"
        " done.timeline.stride_seconds]))\n"
    )
    words = [str(model), str(video), str(output), str(overlap), str(threads)]
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True)
    log = output / ".railsformer-building" / "parts" / "scores.jsonl"
    memory: list[tuple[float, float]] = []
    while process.poll() is None:
        try:
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            memory.append((_reached_seconds(log), pages * os.sysconf("SC_PAGE_SIZE") / MIB))
        except (OSError, IndexError, ValueError):
            pass
        time.sleep(0.1)
    told = process.communicate()[0]
    if process.returncode:
        raise SystemExit("watching failed; the reason stands above")
    windows, seconds, footage, stride = json.loads(told.splitlines()[-1])
    return {"windows": windows, "seconds": seconds, "footage": footage, "stride": stride}, memory


def _reached_seconds(log: Path) -> float:
    """Footage that is scored, from the last whole line of the log."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().split(b"\n")
    rows = [line for line in lines[:-1] if line.startswith(b"[")]
    return float(rows[-1].split(b",")[1]) if rows else 0.0


def plain_loop(predictor: Predictor, video: Path, plan: WindowPlan, starts: Sequence[float]) -> np.ndarray:
    """Open the video, read the window's pictures, score; for each window anew."""
    rows = []
    for start in starts:
        times = predictor.sampling.evaluation_times(0.0, plan.window_seconds)[0] + start
        pixels = evaluation_pixels(read_frames(video, times), predictor.pixels)
        rows.append(predictor.score_pixels(pixels[None])[0])
    return np.array(rows)


def main() -> None:
    """Stitch, watch, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True, help="CSV with file_name, label and camera")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--camera", help="stitch clips of this camera alone (default: all)")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--overlap", type=float, default=0.75)
    parser.add_argument("--plain_windows", type=int, default=300, help="windows of the plain loop (default: 300)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    with options.annotations.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if options.camera in (None, row["camera"])]
    video = options.output_dir / f"{options.camera or 'all'}_{options.minutes:g}min.mp4"
    if not video.is_file():
        began = time.perf_counter()
        stitch(options.videos, rows, video, seconds=60 * options.minutes)
        print(f"stitched {video.name} in {time.perf_counter() - began:.0f} s, {video.stat().st_size / MIB:.0f} MiB")
    model = write_tiny_model(options.output_dir / "tiny", sorted({row["label"] for row in rows}))
    output = options.output_dir / f"watched_{time.strftime('%H%M%S')}"
    told, memory = watch_in_process(model, video, output, options.overlap, options.threads)
    compare(Predictor.from_pretrained(model), video, told, num_plain=options.plain_windows)
    print_memory(memory, told["footage"])


def compare(predictor: Predictor, video: Path, told: dict, *, num_plain: int) -> None:
    """The table of speeds."""
    plan = WindowPlan.for_model(predictor.name, predictor.sampling, stride_seconds=told["stride"])
    began = time.perf_counter()
    with open_video(video) as container:
        num_pictures = sum(1 for _ in container.decode(video=0))
    decoding = time.perf_counter() - began
    began = time.perf_counter()
    for _ in decode_pictures(video, wanted=lambda *_: False):
        pass
    reading = time.perf_counter() - began
    began = time.perf_counter()
    for _ in iterate_windows(video, plan, predictor.sampling, predictor.pixels):
        pass
    cutting = time.perf_counter() - began
    indices = np.linspace(0, told["windows"] - 8, num_plain).astype(int)
    began = time.perf_counter()
    plain_loop(predictor, video, plan, (indices * plan.stride_seconds).tolist())
    plain = (time.perf_counter() - began) / num_plain
    ours = told["seconds"] / told["windows"]
    print(f"\n{video.name}: {told['footage'] / 60:.1f} minutes, {num_pictures} pictures, windows of "
          f"{plan.window_seconds:.2f} s every {plan.stride_seconds:.2f} s: {told['windows']}\n")  # fmt: skip
    print("| way | windows/s | times real time |\n|---|---|---|")
    for name, cost in (("watch, pages included", ours), ("plain loop", plain)):
        print(f"| {name} | {1 / cost:.1f} | {plan.stride_seconds / cost:.1f} |")
    print(f"\nwatch is {plain / ours:.1f} times as fast (the plain loop measured on {num_plain} windows)")
    print(
        f"of {told['seconds']:.1f} s: decoding alone {decoding:.1f} s ({decoding / told['seconds']:.0%}), with times "
        f"and damage looked at {reading:.1f} s, with windows and pixels {cutting:.1f} s; a thread of its own does "
        "these while windows are scored"
    )


def print_memory(memory: Sequence[tuple[float, float]], footage: float) -> None:
    """Memory over the footage; the pages are written after its end."""
    print("\n| minute of footage | MiB |\n|---|---|")
    marks = [mark for mark in (1, 5, 15, 30, 45, 59.5) if 60 * mark < footage]
    at = []
    for mark in marks or [footage / 120]:
        value = next((mib for seconds, mib in memory if seconds >= 60 * mark), memory[-1][1])
        at.append(value)
        print(f"| {mark:g} | {value:.0f} |")
    most = max(mib for _, mib in memory)
    first = marks[0] if marks else 0
    print(f"\nfrom minute {first:g} on {at[-1] - at[0]:+.0f} MiB; most, pages included: {most:.0f} MiB")


if __name__ == "__main__":
    main()
