"""Decoding speed of originals and proxies beside the peers: one core, the same clips, the same eight instants.

    python -m venv PEERS && PEERS/bin/pip install decord2 opencv-python-headless av torch torchcodec
    python benchmarks/decoding.py --videos FOLDER --output_dir DIR --clips 60 --peer_python PEERS/bin/python

Each reader is a process of its own, held to one core and one thread, and gives uint8 RGB of shape (8, height, width,
3). After one pass to warm up (files are in the page cache from then on), passes over all clips alternate between the
readers, and the median counts. Each peer stands at its fastest documented setting for eight pictures spread over a
clip: OpenCV grabs every picture and converts only the wanted ones (faster than seeking by POS_FRAMES here), decord2
takes all of them in one `get_batch`, PyAV is the loop of the Hugging Face guide with one thread, torchcodec seeks
approximately. DIR keeps the proxies, so that a second run goes on from them, and table.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SUFFIXES = {".mp4", ".mkv", ".avi", ".mov", ".mpeg"}
NUM_FRAMES = 8
PEERS = ("opencv", "decord2", "pyav", "torchcodec")


def read_opencv(path: str, indices: Sequence[int], seconds: Sequence[float]) -> Any:
    """OpenCV: decode in order, convert only what is wanted."""
    import cv2  # type: ignore[import-not-found,unused-ignore]
    import numpy as np

    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    pictures = []
    for index in range(indices[-1] + 1):
        capture.grab()
        if index in indices:
            pictures.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
    capture.release()
    return np.stack(pictures)


def read_decord2(path: str, indices: Sequence[int], seconds: Sequence[float]) -> Any:
    """decord2: one batch by index."""
    import decord  # type: ignore[import-not-found]

    return decord.VideoReader(path, num_threads=1).get_batch(list(indices)).asnumpy()


def read_pyav(path: str, indices: Sequence[int], seconds: Sequence[float]) -> Any:
    """PyAV as in the Hugging Face video classification guide."""
    import av
    import numpy as np

    with av.open(path) as container:
        container.streams.video[0].thread_count = 1
        frames = []
        for index, frame in enumerate(container.decode(video=0)):
            if index > indices[-1]:
                break
            if index in indices:
                frames.append(frame)
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


def read_torchcodec(path: str, indices: Sequence[int], seconds: Sequence[float]) -> Any:
    """torchcodec: a batch by time."""
    from torchcodec.decoders import VideoDecoder  # type: ignore[import-not-found]

    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="approximate")
    return decoder.get_frames_played_at(list(seconds)).data.numpy()


def read_railsformer(path: str, indices: Sequence[int], seconds: Sequence[float]) -> Any:
    """This package: by time, whatever the file."""
    import torch

    from railsformer.data.video import read_frames

    return torch.from_numpy(read_frames(path, seconds)).numpy()


READERS: dict[str, Callable[[str, Sequence[int], Sequence[float]], Any]] = {
    "opencv": read_opencv,
    "decord2": read_decord2,
    "pyav": read_pyav,
    "torchcodec": read_torchcodec,
    "railsformer": read_railsformer,
}


def serve(name: str) -> None:
    """Read clips as told on stdin: `time` answers with the seconds of a pass, `save FOLDER` keeps the pictures."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    read = READERS[name]
    clips: list[dict[str, Any]] = json.loads(input())
    try:
        read(clips[0]["path"], clips[0]["indices"], clips[0]["seconds"])
    except (ImportError, OSError, RuntimeError) as error:
        print(json.dumps({"error": str(error).splitlines()[0]}), flush=True)
        return
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        command, _, folder = line.strip().partition(" ")
        began, cpu_began = time.perf_counter(), time.process_time()
        for number, clip in enumerate(clips):
            pictures = read(clip["path"], clip["indices"], clip["seconds"])
            if command == "save":
                import numpy as np

                np.save(Path(folder) / f"{name}-{number}.npy", pictures)
        answer = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu_began}
        print(json.dumps(answer), flush=True)


class Reader:
    """A reader in a process of its own.

    Args:
        name: One of READERS.
        kind: What it reads, for the table.
        python: Interpreter that has it.
        clips: `path`, `indices` and `seconds` of each clip.
    """

    def __init__(self, name: str, kind: str, python: str, clips: Sequence[dict[str, Any]]) -> None:
        self.name, self.kind = name, kind
        self.passes: list[dict[str, float]] = []
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [python, __file__, "--serve", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | threads,
        )
        self.error = self.ask(json.dumps(list(clips))).get("error")

    def ask(self, line: str) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        return json.loads(answer) if answer else {"error": "it ended"}

    def clips_per_second(self, num_clips: int, clock: str = "seconds") -> float:
        """Median over the passes."""
        return num_clips / statistics.median(timing[clock] for timing in self.passes)


def find_clips(folder: Path, most: int) -> list[Path]:
    """Every nth video of the folder, at most `most`."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise SystemExit(f"--videos {folder} holds no videos; name another folder")
    return [paths[index * len(paths) // most] for index in range(min(most, len(paths)))]


def plan(path: Path) -> dict[str, Any]:
    """The middle picture of each of eight equal parts of a clip: their places, and instants at which they show."""
    from railsformer.data.video import iterate_frames

    times = [seconds for seconds, _ in iterate_frames(path)]
    indices = [int((part + 0.5) * len(times) / NUM_FRAMES) for part in range(NUM_FRAMES)]
    ends = [*times[1:], times[-1] + 0.02]
    return {
        "path": str(path),
        "indices": indices,
        "seconds": [(times[index] + ends[index]) / 2 for index in indices],
        "stream_bytes": stream_bytes(path),
    }


def stream_bytes(path: Path) -> int:
    """Bytes of the pictures alone, without sound and container."""
    from railsformer.data.video import find_video_stream, open_video

    with open_video(path) as container:
        return sum(packet.size for packet in container.demux(find_video_stream(container, path)))


def make_proxies(clips: Sequence[dict[str, Any]], folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Proxies of every preset, read at the originals' instants."""
    from railsformer.data.proxies import PROXY_PRESETS, ProxyFacts, ProxyJob, encode_proxies

    made = {}
    for name, settings in PROXY_PRESETS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        targets = [folder / name / f"{number:05d}{settings.suffix}" for number in range(len(clips))]
        jobs = [
            ProxyJob(Path(clip["path"]), target, settings=settings)
            for clip, target in zip(clips, targets, strict=True)
        ]
        for facts in encode_proxies(jobs, progress=True):
            if not isinstance(facts, ProxyFacts):
                raise SystemExit(str(facts))
        made[f"{name} proxy ({settings.kind})"] = [
            {**clip, "path": str(target), "stream_bytes": stream_bytes(target)}
            for clip, target in zip(clips, targets, strict=True)
        ]
    return made


def picture_differences(readers: Sequence[Reader], num_clips: int, folder: Path) -> dict[str, str]:
    """Largest and mean grey-level difference of railsformer's pictures of the originals from each peer's."""
    import numpy as np

    for reader in readers:
        reader.ask(f"save {folder}")
    differences: dict[str, str] = {}
    for reader in readers:
        largest, means, num_equal = 0, [], 0
        for number in range(num_clips):
            ours, theirs = (
                np.load(folder / f"{name}-{number}.npy").astype(np.int16) for name in ("railsformer", reader.name)
            )
            if ours.shape != theirs.shape:
                return {**differences, reader.name: f"shape {theirs.shape}"}
            apart = np.abs(ours - theirs)
            largest, num_equal = max(largest, int(apart.max())), num_equal + (apart.max() == 0)
            means.append(float(apart.mean()))
        differences[reader.name] = f"{largest} (mean {statistics.mean(means):.3f}; {num_equal} of {num_clips} equal)"
    return differences


def proxy_difference(clips: Sequence[dict[str, Any]]) -> str:
    """How far a proxy's pictures are from the same pictures of the source: in mean colour, and pixel by pixel."""
    import numpy as np

    from railsformer.data.video import iterate_frames, read_frames

    colours, pixels = [], []
    for clip in clips:
        times = [seconds for seconds, _ in iterate_frames(clip["path"])][::8]  # of its own, where both show the same
        proxy, source = read_frames(clip["path"], times), read_frames(clip["source"], times)
        if proxy.shape != source.shape:
            return "of another size than the originals"
        apart = proxy.astype(np.int16) - source
        colours.append(float(np.abs(apart.mean(axis=(1, 2))).mean()))
        pixels.append(float(np.abs(apart).mean()))
    return (
        f"mean colour {statistics.mean(colours):.2f} grey levels from the same pictures of the originals "
        f"(worst clip {max(colours):.2f}), single pixels {statistics.mean(pixels):.2f}"
    )


def table(readers: Sequence[Reader], clips: dict[str, list[dict[str, Any]]], differences: dict[str, str]) -> str:
    """The Markdown table."""
    num_clips = len(clips["original"])
    fastest = max(
        (reader for reader in readers if reader.name in PEERS), key=lambda one: one.clips_per_second(num_clips)
    )
    file_bytes = {kind: sum(Path(clip["path"]).stat().st_size for clip in rows) for kind, rows in clips.items()}
    picture_bytes = {kind: sum(clip["stream_bytes"] for clip in rows) for kind, rows in clips.items()}
    lines = [
        f"| reader | reads | clips/s | x {fastest.name} on originals | clips per CPU second | "
        "file bytes, x originals | picture bytes, x originals | grey levels from ours, largest |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for reader in readers:
        speed = reader.clips_per_second(num_clips)
        cells = [
            reader.name,
            reader.kind,
            f"{speed:.1f}",
            f"{speed / fastest.clips_per_second(num_clips):.2f}",
            f"{reader.clips_per_second(num_clips, 'cpu_seconds'):.1f}",
            f"{file_bytes[reader.kind] / file_bytes['original']:.2f}",
            f"{picture_bytes[reader.kind] / picture_bytes['original']:.2f}",
            differences.get(reader.name, "") if reader.kind == "original" else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the flags, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="folder of videos")
    parser.add_argument("--output_dir", type=Path, help="where proxies and the table go")
    parser.add_argument("--clips", type=int, default=60, help="how many of the videos")
    parser.add_argument("--passes", type=int, default=5, help="timed passes of each reader")
    parser.add_argument("--peer_python", help="interpreter of an environment that has the peers")
    parser.add_argument("--serve", choices=READERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    if not options.videos or not options.output_dir:
        parser.error("--videos and --output_dir are needed")
    print(measure(options))


def measure(options: argparse.Namespace) -> str:
    """Encode what is missing, run all readers, return the table."""
    options.output_dir.mkdir(parents=True, exist_ok=True)
    clips = {"original": [plan(path) for path in find_clips(options.videos, options.clips)]}
    clips |= make_proxies(clips["original"], options.output_dir)
    readers = [Reader("railsformer", kind, sys.executable, rows) for kind, rows in clips.items()]
    if options.peer_python:
        readers += [Reader(name, "original", options.peer_python, clips["original"]) for name in PEERS]
    absent = [f"{reader.name} did not load: {reader.error}" for reader in readers if reader.error]
    readers = [reader for reader in readers if not reader.error]
    if not any(reader.name in PEERS for reader in readers):
        raise SystemExit("no peer could be run; --peer_python must name an interpreter that has one")
    for number in range(options.passes + 1):
        for reader in readers:
            timing = reader.ask("time")
            if number:  # the first warms up
                reader.passes.append(timing)
    pictures = options.output_dir / "pictures"
    pictures.mkdir(exist_ok=True)
    on_originals = [reader for reader in readers if reader.kind == "original"]
    differences = picture_differences(on_originals, len(clips["original"]), pictures)
    for file in pictures.glob("*.npy"):
        file.unlink()
    lines = [table(readers, clips, differences), *absent]
    for kind, rows in list(clips.items())[1:]:
        pairs = [{**row, "source": one["path"]} for row, one in zip(rows, clips["original"], strict=True)]
        lines.append(f"{kind}: {proxy_difference(pairs)}")
    text = "\n\n".join(lines)
    (options.output_dir / "table.md").write_text(text + "\n", encoding="utf-8")
    return text


if __name__ == "__main__":
    main()
