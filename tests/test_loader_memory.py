"""What loader processes hold."""

import datasets
import numpy as np
import pytest
import torch
from videos import write_video

from railsformer.data.clips import ClipDataset, collate_clips
from railsformer.data.loader_memory import measure_loader_memory
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings, TrainingAugmentation


class _Hoarder(torch.utils.data.Dataset):
    """Keeps 0.5 MiB of every clip that it gives."""

    def __init__(self):
        self.kept = []

    def __len__(self):
        return 7

    def __getitem__(self, index):
        self.kept.append(np.full(2**19, index, dtype=np.uint8))
        return {"pixel_values": torch.zeros(1, 3, 4, 4), "labels": 0}


def _measure(clips, *, num_clips, measure_every):
    """Give the clips again and again to the same two workers, in batches of four."""
    loader = torch.utils.data.DataLoader(
        clips,
        batch_size=4,
        sampler=[index % len(clips) for index in range(num_clips)],
        num_workers=2,
        collate_fn=collate_clips,
    )
    return list(measure_loader_memory(loader, measure_every=measure_every))


@pytest.mark.slow
def test_loader_workers_keep_nothing_of_a_clip(tmp_path):
    videos = [
        str(write_video(tmp_path / f"{index}.mp4", num_frames=10 + index, width=48, height=48)) for index in range(3)
    ]
    clips = ClipDataset(
        datasets.Dataset.from_dict(
            {"video": videos, "label": [0, 1, 0]},
            features=datasets.Features(
                {"video": datasets.Video(decode=False), "label": datasets.ClassLabel(names=["no", "yes"])}
            ),
        ),
        sampling=ClipSampling(num_frames=3, frame_interval=6),
        pixels=PixelSettings(112, 112),
        augmentation=TrainingAugmentation(112, 128),
    )
    measured = _measure(clips, num_clips=1500, measure_every=75)
    assert [one.num_clips for one in measured] == [300, 600, 900, 1200, 1500]
    settled, last = measured[2], measured[-1]
    assert len(settled.workers) == len(last.workers) == 2
    for before, after in zip(settled.workers, last.workers, strict=True):
        assert before.own_mib > 0
        assert after.own_mib - before.own_mib < 50  # 300 clips a worker, if kept, would be 129 MiB
    assert last.main.own_mib - settled.main.own_mib < 50


def test_a_leak_in_a_worker_is_seen():
    measured = _measure(_Hoarder(), num_clips=202, measure_every=10)
    assert [one.num_clips for one in measured] == [40, 80, 120, 160, 200, 202]  # what is left over counts too
    for before, after in zip(measured[0].workers, measured[-1].workers, strict=True):
        assert after.own_mib - before.own_mib > 25  # 80 clips of half a MiB and what was fetched ahead
