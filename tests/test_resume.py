"""Checkpoints that are whole or not, runs that go on or are refused, and a disk that has no room."""

import json
import logging
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from railsformer.training.arguments import parse_settings
from railsformer.training.guarded_trainer import GuardedTrainer
from railsformer.training.resume import newest_whole_checkpoint, read_record, refuse_another_run, what_is_missing
from railsformer.training.trainer import train

TINY = ["--from_scratch", "--hidden_size", "32", "--num_hidden_layers", "2", "--num_attention_heads", "2"]
TINY += ["--intermediate_size", "64", "--image_size", "48", "--num_frames", "4", "--frame_interval", "15"]
TINY += ["--use_cpu", "true", "--disable_tqdm", "true", "--learning_rate", "1e-3", "--dataloader_num_workers", "0"]
TINY += ["--stochastic_depth_rate", "0.3", "--eval_strategy", "no", "--load_best_model_at_end", "false"]
TINY += ["--save_strategy", "steps", "--save_steps", "2", "--save_total_limit", "9", "--max_steps", "4"]


def _train(dataset, run_dir, *flags):
    base = ["--dataset", str(dataset), "--output_dir", str(run_dir), "--per_device_train_batch_size", "4"]
    return train(parse_settings([*TINY, *base, *flags]))


def _weights(run_dir):
    return load_file(run_dir / "model.safetensors")


def _same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def finished(yard_dataset, tmp_path_factory):
    """A run of four steps that kept checkpoints 2 and 4."""
    run_dir = tmp_path_factory.mktemp("resume") / "run"
    _train(yard_dataset, run_dir)
    return run_dir


@pytest.fixture
def stopped(finished, tmp_path):
    """The same as it was before its end: two checkpoints and nothing else."""
    for name in ("checkpoint-2", "checkpoint-4"):
        shutil.copytree(finished / name, tmp_path / "run" / name)
    return tmp_path / "run"


def _cut(file):
    file.write_bytes(file.read_bytes()[:-40])


DAMAGES = {
    "checkpoint-is-incomplete.txt is there": lambda folder: (folder / "checkpoint-is-incomplete.txt").touch(),
    "trainer_state.json is missing or torn": lambda folder: _cut(folder / "trainer_state.json"),
    "its weights are missing": lambda folder: (folder / "model.safetensors").unlink(),
    "model.safetensors is torn": lambda folder: _cut(folder / "model.safetensors"),
    "optimizer.pt is missing or torn": lambda folder: _cut(folder / "optimizer.pt"),
    "scheduler.pt is missing or torn": lambda folder: (folder / "scheduler.pt").unlink(),
    "rng_state.pth is missing or torn": lambda folder: (folder / "rng_state.pth").unlink(),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_a_checkpoint_that_is_not_whole_is_passed_over_with_a_word(reason, stopped, caplog):
    assert what_is_missing(stopped / "checkpoint-4") is None
    DAMAGES[reason](stopped / "checkpoint-4")
    assert what_is_missing(stopped / "checkpoint-4") == reason
    with caplog.at_level(logging.WARNING):
        assert newest_whole_checkpoint(stopped) == stopped / "checkpoint-2"
    assert f"checkpoint-4 is passed over: {reason}" in caplog.text


def test_a_torn_checkpoint_that_is_named_is_refused(stopped, yard_dataset):
    _cut(stopped / "checkpoint-4" / "model.safetensors")
    with pytest.raises(ValueError, match=r"checkpoint-4 cannot be resumed: model.safetensors is torn"):
        _train(yard_dataset, stopped, "--resume_from_checkpoint", str(stopped / "checkpoint-4"))


def test_a_resumed_run_ends_in_the_same_weights(finished, stopped, yard_dataset):
    _cut(stopped / "checkpoint-4" / "optimizer.pt")
    _train(yard_dataset, stopped, "--resume")
    assert _same(_weights(finished), _weights(stopped))


def test_without_a_checkpoint_resume_starts_anew(finished, yard_dataset, tmp_path):
    _train(yard_dataset, tmp_path / "run", "--resume")
    assert _same(_weights(finished), _weights(tmp_path / "run"))


def test_a_finished_run_is_not_resumed(finished, yard_dataset):
    with pytest.raises(ValueError, match=r"holds a finished run, there is nothing to resume"):
        _train(yard_dataset, finished, "--resume")


def test_a_folder_that_is_no_run_is_not_resumed(yard_dataset, tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match="already holds something"):
        _train(yard_dataset, tmp_path, "--resume")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--per_device_train_batch_size", "2"], r"its global_batch_size is 4, this run's is 2; batch x processes"),
        (
            ["--attention_type", "space_only"],
            r"its attention_type is 'divided_space_time', this run's is 'space_only'",
        ),
        (["--seed", "7"], r"its seed is 42, this run's is 7; a resumed run must be the same run; give --seed 42 as"),
        (["--num_attention_heads", "4"], r"its num_attention_heads is 2, this run's is 4"),
        (["--frame_interval", "7"], r"its frame_interval is 15, this run's is 7"),
        (["--light", "0.5"], r"its light is 0.0, this run's is 0.5"),
        (["--optim", "sgd"], r"its optim is 'adamw_torch_fused', this run's is 'sgd'"),
        (["--time_table", "sinusoidal"], r"its time_table is 'zeros', this run's is 'sinusoidal'"),
        (["--learning_rate", "0.1"], r"its learning_rate is 0.001, this run's is 0.1"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_before_the_first_step(flags, message, stopped, yard_dataset):
    with pytest.raises(ValueError, match=message):
        _train(yard_dataset, stopped, "--resume", *flags)
    assert not (stopped / "model.safetensors").exists()


def test_other_labels_or_data_are_refused_by_name(stopped):
    checkpoint = stopped / "checkpoint-4"
    identity = read_record(checkpoint)["identity"]
    refuse_another_run(checkpoint, identity)
    with pytest.raises(ValueError, match=r"its labels is Bucket-Worker, .*, this run's is Walker; the head would"):
        refuse_another_run(checkpoint, {**identity, "labels": ["Walker"]})
    with pytest.raises(ValueError, match=r"its dataset_fingerprint is .* this run's is 'other'"):
        refuse_another_run(checkpoint, {**identity, "dataset_fingerprint": "other"})
    record = checkpoint / "railsformer_run.json"
    record.write_text(json.dumps({"identity": {**identity, "time_table": "zeros"}, "progress": {}}))
    of_before = json.loads(record.read_text())
    del of_before["identity"]["time_table"]  # as versions that knew no other left it
    record.write_text(json.dumps(of_before))
    with pytest.raises(ValueError, match=r"its time_table is 'zeros', this run's is 'sinusoidal'"):
        refuse_another_run(checkpoint, {**identity, "time_table": "sinusoidal"})
    (checkpoint / "railsformer_run.json").unlink()  # a checkpoint of the stock Trainer tells labels and scheme
    with pytest.raises(ValueError, match=r"its attention_type is 'divided_space_time', this run's is 'axial'"):
        refuse_another_run(checkpoint, {**identity, "attention_type": "axial"})


def _signal_at(step, number, monkeypatch):
    agree = GuardedTrainer.agree

    def struck(trainer):
        if trainer.state.global_step + 1 == step:
            os.kill(os.getpid(), number)
        agree(trainer)

    monkeypatch.setattr(GuardedTrainer, "agree", struck)


def test_sigterm_saves_and_leaves_with_a_code_of_its_own(finished, yard_dataset, tmp_path, monkeypatch, caplog):
    before = signal.getsignal(signal.SIGTERM)
    _signal_at(3, signal.SIGTERM, monkeypatch)
    with pytest.raises(SystemExit) as ended:
        _train(yard_dataset, tmp_path / "run", "--save_total_limit", "1")
    monkeypatch.undo()
    assert ended.value.code == 143
    assert "checkpoint-3 is saved: go on with --resume" in caplog.text
    assert signal.getsignal(signal.SIGTERM) == before
    assert what_is_missing(tmp_path / "run" / "checkpoint-3") is None
    _train(yard_dataset, tmp_path / "run", "--resume")
    assert _same(_weights(finished), _weights(tmp_path / "run"))


@pytest.mark.slow
def test_sigterm_at_the_end_of_an_epoch_leaves_after_validation(yard_dataset, tmp_path, monkeypatch):
    flags = ["--eval_strategy", "epoch", "--save_strategy", "epoch", "--load_best_model_at_end", "true"]
    flags += ["--max_steps", "4", "--per_device_train_batch_size", "12", "--save_total_limit", "1"]
    _train(yard_dataset, tmp_path / "whole", *flags)
    _signal_at(2, signal.SIGTERM, monkeypatch)
    with pytest.raises(SystemExit):
        _train(yard_dataset, tmp_path / "run", *flags)
    monkeypatch.undo()
    state = json.loads((tmp_path / "run" / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["best_global_step"] == 2
    (tmp_path / "run").rename(tmp_path / "moved")  # the best checkpoint is found where the run is now
    _train(yard_dataset, tmp_path / "moved", *flags, "--resume")
    ends = [json.loads((tmp_path / name / "trainer_state.json").read_text()) for name in ("whole", "moved")]
    assert ends[0]["best_global_step"] == ends[1]["best_global_step"]
    assert _same(_weights(tmp_path / "whole"), _weights(tmp_path / "moved"))


def test_an_interrupted_run_says_how_to_go_on(yard_dataset, tmp_path, monkeypatch, caplog):
    _signal_at(4, signal.SIGINT, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        _train(yard_dataset, tmp_path / "run")
    monkeypatch.undo()
    assert "checkpoint-2 is whole: go on with --resume" in caplog.text
    assert not (tmp_path / "run" / "checkpoint-4").exists()


def test_a_disk_without_room_is_found_before_the_first_step(yard_dataset, tmp_path):
    flags = ["--max_steps", "100000000", "--save_steps", "1", "--save_total_limit", "90000000"]
    with pytest.raises(
        ValueError, match=r"has \d+\.\d\d GiB for this run, which needs \d+\.\d\d GiB: 90000001 checkp"
    ):
        _train(yard_dataset, tmp_path / "run", *flags)
    assert not (tmp_path / "run").exists()
