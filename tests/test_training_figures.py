"""Figures that choose an epoch: the report's own, in their own direction, refused where they cannot be had."""

import json

import numpy as np
import pytest
from scipy.special import softmax

from railsformer.evaluation.metrics import VideoClassificationMetrics
from railsformer.evaluation.score_metrics import VideoScoreMetrics
from railsformer.training.arguments import LABEL_FIGURES, LOWER_IS_BETTER, SELECTION_FIGURES, parse_settings
from railsformer.training.figures import check_selection, score_figures, validation_figures
from railsformer.training.trainer import train

LABELS = ("fall", "idle", "intrusion", "fire")
TINY = ["--from_scratch", "--hidden_size", "32", "--num_hidden_layers", "1", "--num_attention_heads", "2"]
TINY += ["--intermediate_size", "64", "--image_size", "32", "--num_frames", "2", "--frame_interval", "15"]
TINY += ["--use_cpu", "true", "--disable_tqdm", "true", "--learning_rate", "1e-2", "--dataloader_num_workers", "0"]
TINY += ["--per_device_train_batch_size", "12", "--num_threads", "1"]


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32) * 3


REFERENCES = np.arange(20) % 3  # none of them a fire


def test_they_are_those_of_the_reports_modules(logits):
    figures = score_figures(logits, REFERENCES, label_names=LABELS)
    whole = VideoScoreMetrics().compute(
        predictions=softmax(logits.astype(np.float64), axis=1), references=REFERENCES, label_names=list(LABELS)
    )
    for name in ("map", "calibration_error", "negative_log_likelihood", "brier"):
        assert figures[name] == pytest.approx(whole[name]), name
    assert {name: figures[f"top_k/{name}"] for name in whole["top_k"]} == whole["top_k"]
    for label in LABELS[:3]:
        assert figures[f"average_precision/{label}"] == pytest.approx(whole["average_precision"][label])
    assert "average_precision/fire" not in figures
    figures |= validation_figures(logits.argmax(axis=1), REFERENCES, label_names=LABELS)
    counted = VideoClassificationMetrics().compute(
        predictions=logits.argmax(axis=1), references=REFERENCES, label_names=list(LABELS)
    )
    assert figures["f1_micro"] == counted["f1_micro"]
    assert {name for name in SELECTION_FIGURES if name != "loss"} <= set(figures)
    assert {f"{kind}/idle" for kind in LABEL_FIGURES} <= set(figures)


def test_what_cannot_be_computed_is_left_out(logits):
    assert score_figures(logits[:, :1], REFERENCES * 0, label_names=["fall"]) == {}
    assert score_figures(np.where(logits > 3, np.nan, logits), REFERENCES, label_names=LABELS) == {}
    alone = score_figures(logits, REFERENCES * 0, label_names=LABELS)
    assert not {name for name in alone if name.startswith(("map", "average_precision"))}
    assert "brier" in alone


@pytest.mark.parametrize(
    ("figure", "present", "message"),
    [
        ("average_precision/fire", [0, 1], r"must be of a label that validation holds \(fall, idle\)"),
        ("recall/arson", [0, 1], r"must be of a label that validation holds"),
        ("top_k/4", [0, 1], r"top_k/K with K from 2 to 3 for 4 labels, got 'top_k/4'"),
        ("top_k/1", [0, 1], r"top_k/K with K from 2 to 3"),
        ("map", [1, 1], r"map ranks videos of one label against others, and all of validation are idle"),
        ("average_precision/idle", [1, 1], r"ranks videos of one label against others"),
    ],
)
def test_what_validation_cannot_give_is_refused_before_the_first_step(figure, present, message):
    with pytest.raises(ValueError, match=message):
        check_selection(figure, label_names=LABELS, validation_labels=present)


@pytest.mark.parametrize("figure", [*SELECTION_FIGURES, "eval_map", "top_k/3", "average_precision/idle", "f1/fall"])
def test_every_other_figure_is_taken(figure):
    check_selection(figure, label_names=LABELS, validation_labels=[0, 1])
    flags = ["--from_scratch", "--dataset", "data", "--output_dir", "run", "--metric_for_best_model", figure]
    assert parse_settings(flags).run.greater_is_better == (figure not in LOWER_IS_BETTER)


def test_a_run_keeps_the_epoch_of_least_calibration_error(yard_dataset, tmp_path):
    flags = ["--dataset", str(yard_dataset), "--output_dir", str(tmp_path / "run"), "--num_train_epochs", "3"]
    summary = train(parse_settings([*TINY, *flags, "--metric_for_best_model", "calibration_error"]))
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    errors = [log["eval_calibration_error"] for log in state["log_history"] if "eval_calibration_error" in log]
    assert len(set(errors)) == 3
    assert state["best_metric"] == min(errors) == summary.validation["calibration_error"]
    last = state["log_history"][-2]
    assert last["eval_negative_log_likelihood"] == pytest.approx(last["eval_loss"], abs=1e-4)
    text = (tmp_path / "run" / "summary.md").read_text()
    assert f"calibration_error {min(errors):.3f}" in text.splitlines()[2]
    assert "| calibration_error |" in text
