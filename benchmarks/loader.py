"""A DataLoader over a dataset folder: clips/s, memory a worker, and whether it stays flat.

    python benchmarks/loader.py --dataset DATASET --clips 5000

Training clips of 8 x 3 x 224 x 224 float32, drawn again and again, by 2 workers that live throughout. PSS counts a
page that several processes share in equal parts, RSS in full.
"""

import argparse
import time
from collections.abc import Iterator

import torch

from railsformer.data.clips import ClipDataset, collate_clips, load_video_dataset
from railsformer.data.loader_memory import measure_loader_memory
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings, TrainingAugmentation


class _Draws(torch.utils.data.Sampler[int]):
    """Indices 0, 1, …: past the end of the rows they are further draws of the same videos."""

    def __init__(self, num_clips: int) -> None:
        self.num_clips = num_clips

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.num_clips))

    def __len__(self) -> int:
        return self.num_clips


def main() -> None:
    """Parse the flags, load, print a row each thousand clips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="dataset folder")
    parser.add_argument("--split", default="train")
    parser.add_argument("--clips", type=int, default=5_000)
    parser.add_argument("--every", type=int, default=1_000, help="clips between two rows of the table")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    clips = ClipDataset(
        load_video_dataset(options.dataset).split(options.split),
        sampling=ClipSampling(num_frames=8, frame_interval=32),
        pixels=PixelSettings(crop_px=224, short_side_px=224),
        augmentation=TrainingAugmentation(256, 320),
    )
    loader = torch.utils.data.DataLoader(
        clips,
        batch_size=options.batch_size,
        sampler=_Draws(options.clips),
        num_workers=options.workers,
        collate_fn=collate_clips,
        persistent_workers=True,
    )
    print("| clips | clips/s | RSS a worker, MiB | PSS a worker, MiB | RSS of the main process, MiB |")
    print("|---|---|---|---|---|")
    done, began = 0, time.perf_counter()
    for memory in measure_loader_memory(loader, measure_every=max(1, options.every // options.batch_size)):
        speed = (memory.num_clips - done) / (time.perf_counter() - began)
        resident = sum(worker.resident_mib for worker in memory.workers) / len(memory.workers)
        fair = sum(worker.fair_mib for worker in memory.workers) / len(memory.workers)
        print(
            f"| {memory.num_clips} | {speed:.1f} | {resident:.0f} | {fair:.0f} | {memory.main.resident_mib:.0f} |",
            flush=True,
        )
        done, began = memory.num_clips, time.perf_counter()


if __name__ == "__main__":
    main()
