"""Files that turn out unreadable: what they cost, who is told, and when the run ends."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from railsformer.data.clips import LostClip, load_video_dataset
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


ONE_EVALUATION = ["--max_steps", "1", "--eval_strategy", "steps", "--eval_steps", "1"]
HEAD = ["--trainable", "head", "--cache_embeddings", "true"]


@pytest.fixture(scope="module")
def damaged_validation(yard_dataset, tmp_path_factory):
    """One validation video that cannot be read, of seven."""
    return _damaged(yard_dataset, tmp_path_factory.mktemp("damaged") / "dataset", split="validation", number=1)


def test_bad_validation_videos_past_the_share_are_refused_by_name(damaged_validation, tmp_path):
    dataset, files = damaged_validation
    message = rf"1 of the 7 validation videos could not be read, more than max_lost_share 0.05: {files[0]} \(1x"
    with pytest.raises(ValueError, match=message):
        _train(dataset, tmp_path / "run", *ONE_EVALUATION)


def test_figures_are_those_of_the_validation_videos_that_could_be_read(
    damaged_validation, yard_dataset, tmp_path, caplog, monkeypatch
):
    dataset, files = damaged_validation
    flags = [*ONE_EVALUATION, "--max_lost_share", "0.5", "--per_device_train_batch_size", "4"]
    found = _train(dataset, tmp_path / "run", *flags, "--per_device_eval_batch_size", "3")
    assert caplog.text.count(f"{files[0]}: lost from validation") == 1
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [(one["file"], one["count"]) for one in facts["lost_validation"]] == [(files[0], 1)]
    assert facts["lost_clips"] == []
    assert found.validation["num_lost"] == 1
    text = (tmp_path / "run" / "summary.md").read_text()
    assert "1 videos of validation could not be read at least once" in text
    assert Path(files[0]).name in text

    def without_the_first(name):
        whole = load_video_dataset(name)
        rows = whole.split("validation")
        kept = rows.select(range(1, len(rows)))
        return dataclasses.replace(whole, splits={**whole.splits, "validation": kept})

    monkeypatch.setattr("railsformer.training.trainer.load_video_dataset", without_the_first)
    expected = _train(yard_dataset, tmp_path / "fewer", *flags, "--per_device_eval_batch_size", "6")
    for name in ("f1_macro", "loss", "brier", "map"):
        assert found.validation[name] == pytest.approx(expected.validation[name], abs=1e-5), name


def test_a_figure_that_the_readable_videos_cannot_give_is_told(yard_dataset, tmp_path):
    rows = load_video_dataset(yard_dataset).split("validation")
    label = next(label for label in rows["label"] if rows["label"].count(label) == 1)
    file = Path(rows[rows["label"].index(label)]["video"]["path"])
    shutil.copytree(yard_dataset, tmp_path / "dataset")
    (tmp_path / "dataset" / file.relative_to(yard_dataset)).write_bytes(b"rubbish" * 100)
    name = rows.features["label"].names[label]
    flags = ["--metric_for_best_model", f"recall/{name}", "--max_lost_share", "0.5"]
    message = rf"recall/{name} cannot be computed on the 6 validation videos that could be read"
    for more in (ONE_EVALUATION, HEAD):
        with pytest.raises(ValueError, match=message):
            _train(tmp_path / "dataset", tmp_path / more[0].strip("-"), *flags, *more)


def test_a_bad_file_costs_a_head_on_embeddings_its_clips_and_is_listed(damaged, tmp_path):
    dataset, files = damaged
    flags = [*HEAD, "--embedding_views", "2", "--embedding_draws", "1", "--class_balance", "loss"]
    summary = _train(dataset, tmp_path / "run", *flags, "--max_lost_share", "0.5")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert sorted((entry["file"], entry["count"]) for entry in facts["lost_clips"]) == [(file, 3) for file in files]
    assert facts["lost_validation"] == []
    assert "9 clips of 3 files could not be read" in (tmp_path / "run" / "summary.md").read_text()
    assert set(facts["class_weights"]) == set(summary.labels)
    assert max(facts["class_weights"].values()) > min(facts["class_weights"].values())


def test_past_the_share_a_head_on_embeddings_stops_with_the_list_and_goes_on_once_files_are_repaired(
    damaged, yard_dataset, tmp_path
):
    dataset, files = (
        tmp_path / "dataset",
        [file.replace(str(damaged[0]), str(tmp_path / "dataset")) for file in damaged[1]],
    )
    shutil.copytree(damaged[0], dataset)
    with pytest.raises(ValueError, match=r"3 of the 2\d training clips could not be read, more than max_lost_share"):
        _train(dataset, tmp_path / "run", *HEAD)
    listed = json.loads((tmp_path / "run" / "lost_clips.json").read_text())
    assert sorted(entry["file"] for entry in listed) == sorted(files)
    for file in files:
        shutil.copyfile(file.replace(str(dataset), str(yard_dataset)), file)
    _train(dataset, tmp_path / "run", *HEAD, "--resume")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["lost_clips"] == []
    _train(yard_dataset, tmp_path / "whole", *HEAD)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "whole")]
    assert weights[0] == weights[1]


def test_a_bad_validation_video_is_left_out_of_a_heads_figures(damaged_validation, tmp_path):
    dataset, files = damaged_validation
    with pytest.raises(ValueError, match=r"1 of the 7 validation videos could not be read"):
        _train(dataset, tmp_path / "refused", *HEAD)
    summary = _train(dataset, tmp_path / "run", *HEAD, "--max_lost_share", "0.5")
    assert [one["file"] for one in summary.lost_validation] == files
    supports = [value for name, value in summary.validation.items() if name.startswith("support/")]
    assert sum(supports) == 6


def test_where_every_clip_is_lost_there_is_nothing_to_go_on_with(yard_dataset, tmp_path):
    dataset, _ = _damaged(yard_dataset, tmp_path / "dataset", split="validation", number=7)
    with pytest.raises(ValueError, match="7 of the 7 validation videos could not be read, and none is left"):
        _train(dataset, tmp_path / "run", *ONE_EVALUATION, "--max_lost_share", "1")


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
    dataset, videos = _damaged(damaged[0], tmp_path / "dataset", split="validation", number=1)
    flags = ["--max_steps", "6", "--eval_strategy", "steps", "--eval_steps", "6", "--max_lost_share", "0.9"]
    flags += ["--per_device_eval_batch_size", "2", "--dataset", dataset]
    script = ROOT / "scripts" / "finetune.py"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", script]
    command = [*launch, *TINY, *flags, "--output_dir", tmp_path / "two", "--per_device_train_batch_size", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    _train(dataset, tmp_path / "one", *flags[:-2], "--per_device_train_batch_size", "2")
    assert _losses(tmp_path / "two") == pytest.approx(_losses(tmp_path / "one"), abs=1e-5)
    two, one = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("two", "one"))
    assert two["lost_clips"] == one["lost_clips"]
    assert [[entry["file"] for entry in facts["lost_validation"]] for facts in (one, two)] == [videos, videos]
    for name in ("num_lost", "f1_macro", "loss", "brier"):
        assert two["validation"][name] == pytest.approx(one["validation"][name], abs=1e-5), name


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
