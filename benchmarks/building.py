"""How many files a second `railsformer build` takes, with one worker and with two, stage by stage.

    python benchmarks/building.py --videos FOLDER --annotations FOLDER/clips.csv --output_dir DIR

Every build is a process of its own on a fresh output folder; the sources are in the page cache after the first.
"""

import argparse
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

STAGES = ("checking videos", "looking for copies", "encoding proxies", "storing videos")


def build(videos: Path, annotations: Path | None, folder: Path, *, workers: int, proxy: str) -> tuple[float, str]:
    """Run one build; return its seconds and what it wrote to stderr."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "railsformer.cli", "build", str(videos), "--output_dir", str(folder)]
    command += ["--num_workers", str(workers), *(["--no_proxy"] if proxy == "none" else ["--proxy", proxy])]
    if annotations:
        command += ["--annotations", str(annotations)]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.splitlines()[-1])
    return time.perf_counter() - began, done.stderr


def stage_seconds(progress: str, stage: str) -> str:
    """Seconds of a stage as its bar told them last."""
    told = re.findall(rf"{stage}: 100%[^\r\n]*\[([\d:]+)<", progress)
    if not told:
        return "–"
    seconds = 0
    for part in told[-1].split(":"):
        seconds = 60 * seconds + int(part)
    return str(seconds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--proxies", nargs="+", default=["small", "fast", "none"])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    options = parser.parse_args()
    source_bytes = sum(path.stat().st_size for path in options.videos.rglob("*") if path.suffix == ".mp4")
    print("| proxy | workers | seconds | files/s | bytes of the originals | " + " | ".join(STAGES) + " |")
    print("|" + "---|" * (5 + len(STAGES)))
    for proxy in options.proxies:
        for workers in options.workers:
            folder = options.output_dir / f"{proxy}-{workers}"
            seconds, progress = build(options.videos, options.annotations, folder, workers=workers, proxy=proxy)
            videos = [path for path in folder.glob("data/*/*") if not path.name.startswith("metadata")]
            factor = sum(path.stat().st_size for path in videos) / source_bytes
            stages = " | ".join(stage_seconds(progress, stage) for stage in STAGES)
            rate = len(videos) / seconds
            print(f"| {proxy} | {workers} | {seconds:.0f} | {rate:.1f} | {factor:.1f} x | {stages} |", flush=True)


if __name__ == "__main__":
    main()
