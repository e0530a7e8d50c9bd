"""Training files that turn out unreadable: what they cost, who is told, and when the run ends."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from railsformer.data.clips import LostClip, load_video_dataset
from railsformer.data.video import VideoDecodeError
from railsformer.training.arguments import parse_settings
from railsformer.training.bad_clips import LostClips
from railsformer.training.trainer import train

ROOT = Path(__file__).parent.parent
TINY = ["--from_scratch", "--hidden_size", "32", "--num_hidden_layers", "2", "--num_attention_heads", "2"]
TINY += ["--intermediate_size", "64", "--image_size", "48", "--num_frames", "4", "--frame_interval", "15"]
TINY += ["--use_cpu", "true", "--disable_tqdm", "true", "--learning_rate", "1e-3", "--dataloader_num_workers", "0"]
TINY += ["--save_strategy", "no", "--load_best_model_at_end", "false", "--logging_steps", "1"]


def _train(dataset, run_dir, *flags):
    return train(parse_settings([*TINY, "--dataset", str(dataset), "--output_dir", str(run_dir), *flags]))


def _losses(run_dir):
    state = json.loads((run_dir / "trainer_state.json").read_text())
    return [log["loss"] for log in state["log_history"] if "loss" in log]


def _damaged(dataset, folder, *, split, number):
    """A copy of a dataset of which some files of one split have turned to rubbish, and their paths."""
    shutil.copytree(dataset, folder)
    rows = load_video_dataset(folder).split(split)
    files = [Path(row["video"]["path"]) for row in rows][:number]
    for file in files:
        file.write_bytes(b"rubbish" * 100)
    return folder, [str(file) for file in files]


@pytest.fixture(scope="module")
def damaged(yard_dataset, tmp_path_factory):
    """Three training files that cannot be read, of about twenty."""
    return _damaged(yard_dataset, tmp_path_factory.mktemp("damaged") / "dataset", split="train", number=3)


def test_a_bad_file_costs_its_clips_and_is_listed(damaged, tmp_path, caplog):
    dataset, files = damaged
    flags = ["--num_train_epochs", "2", "--per_device_train_batch_size", "4", "--eval_strategy", "no"]
    _train(dataset, tmp_path / "run", *flags, "--max_lost_share", "0.5")
    listed = json.loads((tmp_path / "run" / "run.json").read_text())["lost_clips"]
    assert sorted(entry["file"] for entry in listed) == sorted(files)
    assert all(entry["count"] >= 2 and entry["reason"] for entry in listed)  # once an epoch at least
    assert all(caplog.text.count(f"{file}: lost from training") == 1 for file in files)


def test_past_the_share_the_run_stops_with_the_list(damaged, tmp_path):
    dataset, files = damaged
    flags = ["--num_train_epochs", "1", "--per_device_train_batch_size", "4", "--eval_strategy", "no"]
    with pytest.raises(
        ValueError, match=r"2 of the 2\d clips of epoch 0 could not be read, more than max_lost_share "
    ):
        _train(dataset, tmp_path / "run", *flags)
    listed = json.loads((tmp_path / "run" / "lost_clips.json").read_text())
    assert {entry["file"] for entry in listed} <= set(files)


def test_a_bad_validation_video_is_refused_by_name(yard_dataset, tmp_path):
    dataset, files = _damaged(yard_dataset, tmp_path / "dataset", split="validation", number=1)
    with pytest.raises(VideoDecodeError, match=Path(files[0]).name):
        _train(dataset, tmp_path / "run", "--max_steps", "1", "--eval_strategy", "steps", "--eval_steps", "1")


def test_the_loss_is_the_mean_over_the_clips_that_are_there_however_a_step_is_cut(damaged, tmp_path):
    flags = ["--max_steps", "6", "--eval_strategy", "no", "--max_lost_share", "1"]
    for size in (1, 2, 4):  # of one clip alone, some passes hold nothing that can be read
        cut = ["--per_device_train_batch_size", str(size), "--gradient_accumulation_steps", str(4 // size)]
        _train(damaged[0], tmp_path / str(size), *flags, *cut)
    whole = _losses(tmp_path / "4")
    assert _losses(tmp_path / "1") == pytest.approx(whole, abs=1e-5)
    assert _losses(tmp_path / "2") == pytest.approx(whole, abs=1e-5)


@pytest.mark.slow
def test_two_processes_lose_clips_as_one_does(damaged, tmp_path):
    flags = ["--max_steps", "6", "--eval_strategy", "no", "--max_lost_share", "1", "--dataset", damaged[0]]
    script = ROOT / "scripts" / "finetune.py"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", script]
    command = [*launch, *TINY, *flags, "--output_dir", tmp_path / "two", "--per_device_train_batch_size", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    _train(*damaged[:1], tmp_path / "one", *flags[:6], "--per_device_train_batch_size", "2")
    assert _losses(tmp_path / "two") == pytest.approx(_losses(tmp_path / "one"), abs=1e-5)
    two, one = (json.loads((tmp_path / name / "run.json").read_text())["lost_clips"] for name in ("two", "one"))
    assert two == one


def test_the_count_goes_on_from_a_checkpoint(caplog):
    lost = LostClips(clips_of_epoch=100, max_share=0.02)
    lost.add([LostClip(3, "a.mp4", "cut off")])
    assert not lost.count(2, epoch=1)
    again = LostClips(clips_of_epoch=100, max_share=0.02)
    again.restore(json.loads(json.dumps(lost.state())), is_main_process=True)
    again.add([LostClip(3, "a.mp4", "cut off")])
    assert again.gathered() == [{"file": "a.mp4", "count": 2, "reason": "cut off"}]
    assert caplog.text.count("a.mp4: lost from training") == 1
    assert again.count(1, epoch=1)
    assert not again.count(1, epoch=2)
