"""A run that stands still ends, and one that was killed ends where it would have ended."""

import json
import math
import shutil

import pytest

from railsformer.training.arguments import parse_settings
from railsformer.training.callbacks import evaluations_since_best
from railsformer.training.resume import checkpoints_of
from railsformer.training.trainer import train

TINY = ["--from_scratch", "--hidden_size", "32", "--num_hidden_layers", "1", "--num_attention_heads", "2"]
TINY += ["--intermediate_size", "64", "--image_size", "32", "--num_frames", "2", "--frame_interval", "15"]
TINY += ["--use_cpu", "true", "--disable_tqdm", "true", "--learning_rate", "1e-5", "--dataloader_num_workers", "0"]
TINY += ["--per_device_train_batch_size", "12", "--num_threads", "1"]
STOPPING = ["--num_train_epochs", "9", "--early_stopping_patience", "2", "--save_total_limit", "9"]


def _train(dataset, run_dir, *flags):
    return train(parse_settings([*TINY, "--dataset", str(dataset), "--output_dir", str(run_dir), *flags]))


def _state(run_dir):
    return json.loads((run_dir / "trainer_state.json").read_text())


@pytest.mark.parametrize(
    ("values", "greater", "expected"),
    [
        ([], True, 0),
        ([0.3], True, 0),
        ([0.3, 0.5], True, 0),
        ([0.5, 0.3, 0.4], True, 2),
        ([0.5, 0.5], True, 1),  # as good is not better
        ([0.5, 0.3, 0.4], False, 1),
        ([math.nan, math.nan], True, 1),
        ([math.nan, 0.2], True, 0),
    ],
)
def test_evaluations_since_the_best_are_read_off_the_log(values, greater, expected):
    log = [{"eval_f1_macro": value, "step": step} for step, value in enumerate(values, start=1)]
    log = [{"loss": 1.0, "step": 1}, {"eval_f1_macro": 9.0, "step": 0}, *log]
    assert evaluations_since_best(log, "f1_macro", greater_is_better=greater) == expected
    assert evaluations_since_best([*log, *log], "eval_f1_macro", greater_is_better=greater) == expected


@pytest.fixture(scope="module")
def stopped_early(yard_dataset, tmp_path_factory):
    """A run that stood still from its first epoch on, with all of its checkpoints."""
    run_dir = tmp_path_factory.mktemp("early") / "run"
    _train(yard_dataset, run_dir, *STOPPING)
    return run_dir


def test_a_run_that_stands_still_ends_and_keeps_its_best(stopped_early):
    state = _state(stopped_early)
    assert (state["best_global_step"], state["global_step"]) == (2, 6)
    best = stopped_early / "checkpoint-2" / "model.safetensors"
    assert best.read_bytes() == (stopped_early / "model.safetensors").read_bytes()
    assert best.read_bytes() != (stopped_early / "checkpoint-6" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("step", [2, 4, 6])  # of the last one, patience is spent before the first step
def test_resumed_from_any_checkpoint_it_keeps_the_same_weights(step, stopped_early, yard_dataset, tmp_path):
    for checkpoint in checkpoints_of(stopped_early):
        if int(checkpoint.name.removeprefix("checkpoint-")) <= step:
            shutil.copytree(checkpoint, tmp_path / "run" / checkpoint.name)
    summary = _train(yard_dataset, tmp_path / "run", *STOPPING, "--resume")
    whole, resumed = _state(stopped_early), _state(tmp_path / "run")
    assert (resumed["best_global_step"], resumed["global_step"]) == (2, 6)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (stopped_early, tmp_path / "run")]
    assert weights[0] == weights[1]
    assert summary.validation["epoch"] == 1
    scores = [
        [log["eval_f1_macro"] for log in state["log_history"] if "eval_f1_macro" in log] for state in (whole, resumed)
    ]
    assert scores[0] == scores[1]


def test_without_the_best_a_run_whose_patience_is_spent_keeps_its_last_weights(stopped_early, yard_dataset, tmp_path):
    shutil.copytree(stopped_early / "checkpoint-6", tmp_path / "run" / "checkpoint-6")
    _train(yard_dataset, tmp_path / "run", *STOPPING, "--resume", "--load_best_model_at_end", "false")
    last = (stopped_early / "checkpoint-6" / "model.safetensors").read_bytes()
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == last
    assert "after a resume at step 6, the last" in (tmp_path / "run" / "summary.md").read_text()


def test_a_run_that_had_made_its_last_step_makes_no_other(yard_dataset, tmp_path):
    flags = ["--max_steps", "1", "--save_strategy", "steps", "--save_steps", "1", "--eval_strategy", "no"]
    flags += ["--load_best_model_at_end", "false"]
    _train(yard_dataset, tmp_path / "whole", *flags)  # ends within an epoch of two steps
    shutil.copytree(tmp_path / "whole" / "checkpoint-1", tmp_path / "run" / "checkpoint-1")
    _train(yard_dataset, tmp_path / "run", *flags, "--resume")
    assert _state(tmp_path / "run")["global_step"] == 1
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "run")]
    assert weights[0] == weights[1]
