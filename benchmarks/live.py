"""A live stream over the loopback, watched for minutes: memory, dropped windows, and how long alarms take.

    python benchmarks/live.py [--minutes 10] [--fps 25] [--width 640] [--height 360]

One process draws a yard, encodes it (H.264, no look-ahead) and sends it as MPEG-TS over UDP in real time; every ten
seconds or so a bright square, the hazard, lies in it for four. Another process is `railsformer watch` on that
address, with a small network whose head is set by hand to tell the two. This one reads its alarms. All clocks are the
same, and second 0 of the stream is the sender's first picture, so that a time is known for every picture:

* from picture to alarm: from handing the newest picture that the network saw to the encoder until the alarm's line is
  read here. Encoder, network, decoder, model and pipe are within; waiting for the dwell is not.
* from onset to alarm: from the first picture of the hazard. The window, smoothing and the minimum dwell are within.

Memory is that of the watching process, from minute 1 on.
"""

import argparse
import json
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
import psutil
import torch

from railsformer.data.transforms import PixelSettings, evaluation_pixels
from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

LABELS = ("idle", "hazard")
CLOCK = Fraction(1, 90_000)
HAZARD_SECONDS = 4.0
_MIB = 2**20


class Yard:
    """Pictures of a still yard with the noise of a sensor."""

    def __init__(self, width: int, height: int) -> None:
        rng = np.random.default_rng(7)
        blocks = rng.uniform(20, 120, (9, 16, 1))
        rows, columns = np.arange(height) * 9 // height, np.arange(width) * 16 // width
        idle = blocks[rows][:, columns]
        hazard = idle.copy()
        hazard[height // 4 : height * 3 // 4, width // 4 : width * 3 // 4] = 235
        noise = rng.normal(0, 3, (40, height, width, 1))
        self._pictures = [np.clip(yard + noise, 0, 255).astype(np.uint8).repeat(3, axis=-1) for yard in (idle, hazard)]

    def picture(self, kind: int, index: int) -> np.ndarray:
        """RGB, uint8, (height, width, 3)."""
        return self._pictures[kind][index * 7 % 40]


def hazards(minutes: float) -> Iterator[float]:
    """Seconds at which hazards begin: never at the same place within a window's stride."""
    rng, second = random.Random(0), 5.0
    while second < minutes * 60 - HAZARD_SECONDS - 2:
        yield round(second, 2)
        second += rng.uniform(8.0, 12.0)


def send(options: argparse.Namespace) -> None:
    """Send in real time; print when the first picture was handed to the encoder."""
    yard = Yard(options.width, options.height)
    begins = list(hazards(options.minutes))
    address = f"udp://127.0.0.1:{options.send}?pkt_size=1316"
    with av.open(address, "w", format="mpegts", container_options={"flush_packets": "1"}) as container:
        settings = {"preset": "ultrafast", "tune": "zerolatency", "crf": "23"}
        stream = container.add_stream("libx264", rate=options.fps, options=settings)
        stream.width, stream.height, stream.pix_fmt = options.width, options.height, "yuv420p"
        stream.codec_context.gop_size = 2 * options.fps
        stream.codec_context.time_base = CLOCK
        began, late = time.time() + 0.2, 0.0
        print(json.dumps({"began": began}), flush=True)
        for index in range(round(options.minutes * 60 * options.fps)):
            second = index / options.fps
            time.sleep(max(0.0, began + second - time.time()))
            late = max(late, time.time() - began - second)
            is_hazard = any(begin <= second < begin + HAZARD_SECONDS for begin in begins)
            frame = av.VideoFrame.from_ndarray(yard.picture(int(is_hazard), index), format="rgb24")
            frame.pts, frame.time_base = round(second * 90_000), CLOCK
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    print(json.dumps({"late": late}), flush=True)


def save_model(folder: Path, options: argparse.Namespace) -> None:
    """A small network that tells a hazard from an idle yard by its head alone."""
    torch.manual_seed(0)
    config = RailsformerConfig(
        image_size=112,
        patch_size=16,
        num_frames=8,
        frame_interval=8,
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=384,
        num_labels=2,
        id2label=dict(enumerate(LABELS)),
        label2id={name: index for index, name in enumerate(LABELS)},
        negative_labels=["idle"],
    )
    model = RailsformerForVideoClassification(config).eval()
    pixels, yard = PixelSettings(112, 112), Yard(options.width, options.height)
    with torch.inference_mode():
        clips = [
            evaluation_pixels(np.stack([yard.picture(kind, index) for index in range(8)]), pixels) for kind in (0, 1)
        ]
        idle, hazard = model.timesformer(torch.stack(clips)).last_hidden_state[:, 0]
        direction = (hazard - idle) / (hazard - idle).square().sum()
        middle = direction @ (idle + hazard) / 2
        model.classifier.weight.copy_(torch.stack([-direction, direction]) * 6)
        model.classifier.bias.copy_(torch.stack([middle, -middle]) * 6)
    model.save_pretrained(folder)
    pixels.save_pretrained(folder)


class Lines:
    """Messages of a process, each with the time at which its line was read."""

    def __init__(self, stream: IO[str]) -> None:
        self.messages: list[tuple[float, dict[str, Any]]] = []
        self.waiting: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            now, message = time.time(), json.loads(line)
            self.messages.append((now, message))
            self.waiting.put(message)
        self.waiting.put(None)

    def next(self) -> dict[str, Any]:
        """The next one; the benchmark ends where there is none."""
        message = self.waiting.get(timeout=120)
        if message is None:
            raise SystemExit("a process of the benchmark ended early; see what it wrote above")
        return message


def run(options: argparse.Namespace) -> None:
    """Watch a sender, and print the figures."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_model(folder / "run", options)
        command = [sys.executable, "-m", "railsformer.cli", "watch", f"udp://127.0.0.1:{port}"]
        command += ["--model", str(folder / "run"), "--output_dir", str(folder / "out"), "--threshold", "0.5"]
        command += ["--stride_seconds", str(options.stride_seconds), "--heartbeat_seconds", "5"]
        watch = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert watch.stdout is not None
        lines = Lines(watch.stdout)
        while lines.next().get("state") != "starting":
            pass
        time.sleep(2.0)  # it listens before the first picture comes
        size = ["--minutes", str(options.minutes), "--fps", str(options.fps)]
        size += ["--width", str(options.width), "--height", str(options.height)]
        sender = subprocess.Popen(
            [sys.executable, __file__, "--send", str(port), *size], stdout=subprocess.PIPE, text=True
        )
        assert sender.stdout is not None
        sent = Lines(sender.stdout)
        began = sent.next()["began"]
        memory = watch_memory(watch.pid, sender)
        watch.send_signal(signal.SIGTERM)
        code = watch.wait(timeout=60)
        late = sent.next()["late"]
    report(options, lines, memory, began=began, late=late, code=code)


def watch_memory(number: int, sender: "subprocess.Popen[str]") -> list[tuple[float, float]]:
    """Seconds and resident MiB of a process while the sender runs."""
    process, began, memory = psutil.Process(number), time.time(), []
    while sender.poll() is None:
        memory.append((time.time() - began, process.memory_info().rss / _MIB))
        time.sleep(1.0)
    return memory


def report(
    options: argparse.Namespace,
    lines: Lines,
    memory: list[tuple[float, float]],
    *,
    began: float,
    late: float,
    code: int,
) -> None:
    """Print the table."""
    starts = [(now, message) for now, message in lines.messages if message["kind"] == "event_start"]
    beat = [message for _, message in lines.messages if message["kind"] == "heartbeat"][-1]
    true = list(hazards(options.minutes))
    found = {min(true, key=lambda begin: abs(message["start_seconds"] - begin)) for _, message in starts}
    picture = [now - began - message["picture_seconds"] for now, message in starts]
    onset = [
        now - began - min(true, key=lambda begin: abs(message["start_seconds"] - begin)) for now, message in starts
    ]
    warm = [mib for second, mib in memory if second >= min(60.0, options.minutes * 30)]
    rows = {
        "pictures sent and decoded": f"{round(options.minutes * 60 * options.fps)} / {beat['pictures']}",
        "the sender was late by at most": f"{late:.3f} s",
        "hazards shown / found / alarms": f"{len(true)} / {len(found)} / {len(starts)}",
        "from picture to alarm, median / 95th percentile": _spread(picture),
        "from onset to alarm, median / 95th percentile": _spread(onset),
        "windows scored / dropped / with a gap": " / ".join(
            str(beat[name]) for name in ("windows_scored", "windows_dropped", "windows_with_gap")
        ),
        "damaged places, reconnects": f"{beat['damaged']}, {beat['connections'] - 1}",
        "memory after minute 1 / at the end / at most": f"{warm[0]:.1f} / {warm[-1]:.1f} / {max(warm):.1f} MiB",
        "exit code after SIGTERM": str(code),
    }
    print(f"{options.minutes:g} min, {options.width}x{options.height} at {options.fps} fps, a window every "
          f"{options.stride_seconds:g} s, {os.cpu_count()} cores\n")  # fmt: skip
    print("| what | figure |\n|---|---|")
    for name, figure in rows.items():
        print(f"| {name} | {figure} |")


def _spread(seconds: list[float]) -> str:
    if not seconds:
        return "no alarm"
    return f"{np.median(seconds):.3f} / {np.percentile(seconds, 95):.3f} s"


def main() -> None:
    """Send or watch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--stride_seconds", type=float, default=0.5)
    parser.add_argument("--send", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    (send if options.send else run)(options)


if __name__ == "__main__":
    main()
