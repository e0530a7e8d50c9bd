import json
import subprocess
import sys
import warnings
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

import railsformer.evaluation.metrics as prediction_module
import railsformer.evaluation.score_metrics as module
from railsformer.evaluation.score_metrics import VideoScoreMetrics, calibration_error, check_scores

NAMES = ["Track-Excavator", "Bucket-Worker", "Cabin-Worker", "Other"]
SCORES = [[0.7, 0.1, 0.1, 0.1], [0.2, 0.5, 0.2, 0.1], [0.6, 0.3, 0.05, 0.05]]


def _compute(scores, references, names=NAMES):
    return VideoScoreMetrics(keep_in_memory=True).compute(predictions=scores, references=references, label_names=names)


@st.composite
def evaluations(draw):
    """Scores and references; some classes are absent, and half of the time scores are coarse, so that many tie."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_labels, size = draw(st.integers(2, 7)), draw(st.integers(1, 50))
    held = rng.choice(num_labels, size=int(rng.integers(1, num_labels + 1)), replace=False)
    scores = rng.dirichlet(np.full(num_labels, 0.7), size)
    if draw(st.booleans()):
        scores = np.round(scores, 1) + 0.01
        scores /= scores.sum(axis=1, keepdims=True)
    return scores, rng.choice(held, size)


def test_figures_by_hand():
    assert _compute(SCORES, [0, 1, 1]) == {
        "top_k": {"2": 1.0, "3": 1.0},
        "average_precision": {"Track-Excavator": 1.0, "Bucket-Worker": 1.0, "Cabin-Worker": None, "Other": None},
        "map": 1.0,
        "calibration_error": pytest.approx((0.3 + 0.5 + 0.6) / 3),  # each alone in its bin
        "negative_log_likelihood": pytest.approx(-(np.log(0.7) + np.log(0.5) + np.log(0.3)) / 3),
        "brier": pytest.approx((0.12 + 0.34 + 0.855) / 3),
    }


@settings(max_examples=60, deadline=None, derandomize=True)
@given(evaluations())
def test_equal_to_scikit_learn(evaluation):
    scores, true = evaluation
    num_labels = scores.shape[1]
    figures = _compute(scores, true, [str(index) for index in range(num_labels)])
    truth = true[:, None] == np.arange(num_labels)
    expected = {
        str(index): pytest.approx(sk.average_precision_score(truth[:, index], scores[:, index]))
        if 0 < truth[:, index].sum() < len(true)
        else None
        for index in range(num_labels)
    }
    assert figures["average_precision"] == expected
    assert list(figures["top_k"]) == [str(k) for k in range(2, min(5, num_labels - 1) + 1)]
    assert figures["negative_log_likelihood"] == pytest.approx(sk.log_loss(true, scores, labels=range(num_labels)))
    assert figures["brier"] == pytest.approx(
        sum(sk.mean_squared_error(truth[:, i], scores[:, i]) for i in range(num_labels))
    )
    if len(np.unique(scores)) == scores.size:  # scikit-learn ranks equal scores the other way round than argmax
        for k, value in figures["top_k"].items():
            assert value == pytest.approx(sk.top_k_accuracy_score(true, scores, k=int(k), labels=range(num_labels)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(evaluations())
def test_top_k_grows_from_accuracy_also_where_scores_tie(evaluation):
    scores, true = evaluation
    figures = _compute(scores, true, [str(index) for index in range(scores.shape[1])])
    steps = [sk.accuracy_score(true, scores.argmax(axis=1)), *figures["top_k"].values(), 1.0]
    assert steps == sorted(steps)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(evaluations())
def test_equal_to_torchmetrics(evaluation):
    torchmetrics = pytest.importorskip("torchmetrics.functional.classification")
    scores, true = evaluation
    num_labels = scores.shape[1]
    figures = _compute(scores, true, [str(index) for index in range(num_labels)])
    theirs = {"preds": torch.tensor(scores), "target": torch.tensor(true), "num_classes": num_labels}
    edges = np.abs(scores.max(axis=1)[:, None] - np.arange(16) / 15).min()
    if edges > 1e-6:  # on the edge of a bin it takes the upper bin and Guo et al. the lower
        ours = figures["calibration_error"]
        assert ours == pytest.approx(float(torchmetrics.multiclass_calibration_error(**theirs, n_bins=15)), abs=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes without positives
        areas = torchmetrics.multiclass_average_precision(**theirs, average=None)
    for index, value in enumerate(figures["average_precision"].values()):
        if value is not None:
            assert value == pytest.approx(float(areas[index]), abs=1e-6)
    if len(np.unique(scores)) == scores.size:
        for k, value in figures["top_k"].items():
            top = torchmetrics.multiclass_accuracy(**theirs, average="micro", top_k=int(k))
            assert value == pytest.approx(float(top))


def test_the_calibration_error_puts_an_edge_into_the_lower_bin():
    scores = np.array([[0.6, 0.4], [0.61, 0.39]])  # .6 is the edge between the ninth bin and the tenth
    assert calibration_error(scores, np.array([0, 1])) == pytest.approx((0.4 + 0.61) / 2)
    assert calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0


def test_a_split_with_one_class_has_nothing_to_rank():
    figures = _compute(SCORES[:2], [1, 1])
    assert figures["average_precision"] == dict.fromkeys(NAMES)
    assert figures["map"] is None
    assert figures["top_k"] == {"2": 1.0, "3": 1.0}  # of the three equal scores of the first video ours stands first


def test_two_labels_have_no_top_k():
    assert _compute([[0.3, 0.7], [0.6, 0.4]], [1, 0], ["no", "yes"])["top_k"] == {}


@pytest.mark.parametrize(
    ("scores", "references", "message"),
    [
        ([[0.5, 0.5, 0, float("nan")]], [0], "rows sum to 1, row 0 is .* of sum nan; take the softmax of the logits"),
        ([[0.5, 0.5, 0, 0], [2.0, -1, 0, 0]], [0, 0], r"numbers from 0 to 1 whose rows sum to 1, row 1 is"),
        ([[0.5, 0.4, 0, 0]], [0], "row 0 is .* of sum 0.9;"),
        ([[0.5, 0.5]], [0], "scores must be rows of 4 numbers, one a label, got a row of 2"),
        ([[0.5, 0.5, 0, 0]], [4], r"references must lie in 0 to 3 \(4 labels\), got 4 to 4"),
        ([], [], "references must hold at least one video, got none"),
    ],
)
def test_values_that_are_refused(scores, references, message):
    with pytest.raises(ValueError, match=message) as error:
        _compute(scores, references)
    assert "\n" not in str(error.value)


def test_other_inputs_that_are_refused():
    with pytest.raises(ValueError, match="label_names must differ from each other, got 'a' twice"):
        _compute([[0.5, 0.5]], [0], ["a", "a"])
    with pytest.raises(ValueError, match="label_names must hold at least 2 labels, got 1"):
        _compute([[1.0]], [0], ["a"])
    with pytest.raises(ValueError, match="scores and references must be of equal length, got 1 and 2"):
        check_scores([[0.5, 0.5]], [0, 1], num_labels=2)


def test_evaluate_loads_the_file_as_it_stands():
    loaded = evaluate.load(module.__file__, keep_in_memory=True)
    assert loaded.compute(predictions=SCORES, references=[0, 1, 1], label_names=NAMES) == _compute(SCORES, [0, 1, 1])
    for scores, reference in zip(SCORES, [0, 1, 1], strict=True):
        loaded.add(prediction=scores, reference=reference)
    assert loaded.compute(label_names=NAMES) == _compute(SCORES, [0, 1, 1])


def test_both_modules_combine_over_the_same_scores():
    both = evaluate.combine([prediction_module.__file__, module.__file__])
    figures = both.compute(predictions=SCORES, references=[0, 1, 1], label_names=NAMES)
    alone = prediction_module.VideoClassificationMetrics(keep_in_memory=True).compute(
        predictions=[0, 1, 0], references=[0, 1, 1], label_names=NAMES
    )
    assert figures == alone | _compute(SCORES, [0, 1, 1])  # no name stands in both, so none is prefixed
    both.add_batch(predictions=SCORES[:1], references=[0])
    both.add_batch(predictions=SCORES[1:], references=[1, 1])
    assert both.compute(label_names=NAMES) == figures


@pytest.mark.slow
def test_two_processes_give_the_figures_of_one_without_us_and_without_a_network(tmp_path):
    for source in (prediction_module.__file__, module.__file__):
        folder = tmp_path / Path(source).stem
        folder.mkdir()
        (folder / Path(source).name).write_text(Path(source).read_text(encoding="utf-8"), encoding="utf-8")
    code = """
import json, sys
sys.modules["railsformer"] = None
import evaluate
rank = int(sys.argv[1])
scores, references = [[.7, .1, .2], [.2, .5, .3], [.6, .3, .1], [.1, .1, .8], [.4, .35, .25]], [0, 1, 1, 2, 2]
options = {"label_names": ["a", "b", "c"]}
found = []
for name in ("metrics", "score_metrics"):
    one = evaluate.load(name, cache_dir="cache", experiment_id=f"alone{rank}")
    whole = one.compute(predictions=scores, references=references, **options)
    two = evaluate.load(name, cache_dir="cache", num_process=2, process_id=rank, experiment_id="together")
    found.append([whole, two.compute(predictions=scores[rank::2], references=references[rank::2], **options)])
print(json.dumps(found))
"""
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=tmp_path,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=600) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    first, second = (json.loads(output.splitlines()[-1]) for output, _ in outputs)
    for (whole, together), (_, nothing) in zip(first, second, strict=True):
        assert nothing is None  # evaluate answers on the main process alone
        assert _rounded(together) == _rounded(whole)


def _rounded(values):
    if isinstance(values, dict):
        return {name: _rounded(value) for name, value in values.items()}
    return round(values, 12) if isinstance(values, float) else values
