"""One evaluation over several real processes, which talk over gloo."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from railsformer.data.clips import load_video_dataset
from railsformer.data.transforms import PixelSettings
from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

SCRIPT = Path(__file__).with_name("evaluate_in_processes.py")


def _launch(num_processes, *arguments):
    """Run the program under torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [*command, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, env=environment, check=False
    )


@pytest.fixture(scope="module")
def model(yard_dataset, tmp_path_factory):
    names = dict(enumerate(load_video_dataset(yard_dataset).labels))
    torch.manual_seed(0)
    config = RailsformerConfig(
        image_size=32, patch_size=16, num_frames=2, frame_interval=15, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=32, initializer_range=0.5, id2label=names,
        label2id={name: index for index, name in names.items()}, negative_labels=["Other"],
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("model")
    RailsformerForVideoClassification(config).save_pretrained(folder)
    PixelSettings(32, 32).save_pretrained(folder)
    return folder


def _assert_alike(one, other, place="metrics"):
    """Equal to six decimals."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            _assert_alike(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), place
        for index, (ours, theirs) in enumerate(zip(one, other, strict=True)):
            _assert_alike(ours, theirs, f"{place}[{index}]")
    elif isinstance(one, float):
        assert math.isclose(one, other, rel_tol=0, abs_tol=5e-7), place
    else:
        assert one == other, place


@pytest.mark.slow
def test_two_processes_give_the_metrics_of_one(model, yard_dataset, tmp_path):
    dataset = tmp_path / "dataset"
    shutil.copytree(yard_dataset, dataset)
    victims = sorted((dataset / "data" / "test").glob("*.mp4"))
    victims[1].write_bytes(b"overwritten")
    found = []
    for num_processes in (1, 2):
        report = tmp_path / f"report{num_processes}"
        flags = ["--num_clips", 3, "--num_crops", 3, "--batch_size", 6, "--num_workers", 1]
        done = _launch(num_processes, "--model", model, "--dataset", dataset, "--output_dir", report, *flags)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("report: ") == 1  # one process speaks
        found.append(json.loads((report / "metrics.json").read_text(encoding="utf-8")))
    runs = [metrics.pop("run") for metrics in found]
    assert [run["num_processes"] for run in runs] == [1, 2]
    assert [one["video"] for one in found[1]["unread"]] == [victims[1].name]
    _assert_alike(*found)


@pytest.mark.slow
def test_processes_refuse_together_in_one_line(model, yard_dataset, tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "mine.txt").write_text("mine")
    done = _launch(2, "--model", model, "--dataset", yard_dataset, "--output_dir", tmp_path / "report")
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("railsformer: error: ")]
    assert len(lines) == 1
    assert "already holds something" in lines[0]
