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

import railsformer.evaluation.metrics as module
from railsformer.evaluation.metrics import VideoClassificationMetrics

NAMES = ["Track-Excavator", "Bucket-Worker", "Cabin-Worker", "Other"]


def _compute(predictions, references, names=NAMES):
    return VideoClassificationMetrics(keep_in_memory=True).compute(
        predictions=predictions, references=references, label_names=names
    )


def test_figures_by_hand():
    figures = _compute([0, 0, 1, 1, 1, 3], [0, 0, 0, 1, 1, 1])
    assert figures == {
        "accuracy": pytest.approx(4 / 6),
        "balanced_accuracy": pytest.approx(2 / 3),
        "f1_macro": pytest.approx((0.8 + 2 / 3) / 2),
        "f1_weighted": pytest.approx((0.8 + 2 / 3) / 2),
        "f1_micro": pytest.approx(4 / 6),
        "per_class": {
            "Track-Excavator": {
                "precision": 1.0,
                "recall": pytest.approx(2 / 3),
                "f1": pytest.approx(0.8),
                "support": 3,
            },
            "Bucket-Worker": {
                "precision": pytest.approx(2 / 3),
                "recall": pytest.approx(2 / 3),
                "f1": pytest.approx(2 / 3),
                "support": 3,
            },
            "Cabin-Worker": {"precision": None, "recall": None, "f1": None, "support": 0},
            "Other": {"precision": None, "recall": None, "f1": None, "support": 0},
        },
        "confusion_matrix": {"labels": NAMES, "matrix": [[2, 1, 0, 0], [0, 2, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]},
        "absent_labels": ["Cabin-Worker", "Other"],
        "num_videos": 6,
    }


@pytest.mark.parametrize("seed", range(12))
def test_equal_to_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    num_labels, size = int(rng.integers(2, 7)), int(rng.integers(1, 60))
    held = rng.choice(num_labels, size=int(rng.integers(1, num_labels + 1)), replace=False)  # others are absent
    true, guess = rng.choice(held, size), rng.integers(0, num_labels, size)
    names = [f"label {index}" for index in range(num_labels)]
    figures = _compute(guess, true, names)
    present = sorted(set(true.tolist()))
    options = {"labels": present, "zero_division": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that were predicted and never true
        assert figures["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(true, guess))
    assert figures["accuracy"] == pytest.approx(sk.accuracy_score(true, guess))
    assert figures["f1_macro"] == pytest.approx(sk.f1_score(true, guess, average="macro", **options))
    assert figures["f1_weighted"] == pytest.approx(sk.f1_score(true, guess, average="weighted", **options))
    assert figures["f1_micro"] == pytest.approx(sk.f1_score(true, guess, average="micro"))
    assert figures["confusion_matrix"]["matrix"] == sk.confusion_matrix(true, guess, labels=range(num_labels)).tolist()
    for index, name in enumerate(names):
        row = figures["per_class"][name]
        if index not in present:
            assert row == {"precision": None, "recall": None, "f1": None, "support": 0}
            assert name in figures["absent_labels"]
            continue
        one = {"labels": [index], "average": "macro", "zero_division": 0}
        assert row["precision"] == pytest.approx(sk.precision_score(true, guess, **one))
        assert row["recall"] == pytest.approx(sk.recall_score(true, guess, **one))
        assert row["f1"] == pytest.approx(sk.f1_score(true, guess, **one))
        assert row["support"] == int((true == index).sum())
    assert figures["num_videos"] == size


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.data())
def test_equal_to_torchmetrics(data):
    torchmetrics = pytest.importorskip("torchmetrics.functional.classification")
    num_labels = data.draw(st.integers(3, 6))
    indices = st.lists(st.integers(0, num_labels - 1), min_size=1, max_size=40)
    true = data.draw(indices)
    guess = data.draw(st.lists(st.integers(0, num_labels - 1), min_size=len(true), max_size=len(true)))
    figures = _compute(guess, true, [str(index) for index in range(num_labels)])
    theirs = {"preds": torch.tensor(guess), "target": torch.tensor(true), "num_classes": num_labels}
    assert figures["accuracy"] == pytest.approx(float(torchmetrics.multiclass_accuracy(**theirs, average="micro")))
    assert figures["f1_micro"] == pytest.approx(float(torchmetrics.multiclass_f1_score(**theirs, average="micro")))
    matrix = torchmetrics.multiclass_confusion_matrix(**theirs)
    assert figures["confusion_matrix"]["matrix"] == matrix.tolist()
    f1, recall, precision = (
        getattr(torchmetrics, f"multiclass_{name}")(**theirs, average=None)
        for name in ("f1_score", "recall", "precision")
    )
    for index, row in enumerate(figures["per_class"].values()):
        if row["support"]:
            assert row["f1"] == pytest.approx(float(f1[index]))
            assert row["recall"] == pytest.approx(float(recall[index]))
            assert row["precision"] == pytest.approx(float(precision[index]))


def test_rows_of_scores_stand_for_their_highest():
    scores = [[0.2, 0.3, 0.5, 0], [0.4, 0.4, 0.1, 0.1]]
    assert _compute(scores, [2, 1]) == _compute([2, 0], [2, 1])
    assert _compute(np.array(scores, dtype=np.float32), [2, 1]) == _compute([2, 0], [2, 1])


def test_evaluate_loads_the_file_as_it_stands(tmp_path):
    guess, true = [0, 1, 2, 2], [0, 1, 1, 2]
    loaded = evaluate.load(module.__file__, keep_in_memory=True)
    assert loaded.compute(predictions=guess, references=true, label_names=NAMES) == _compute(guess, true)
    loaded.add_batch(predictions=guess[:2], references=true[:2])
    loaded.add_batch(predictions=guess[2:], references=true[2:])
    assert loaded.compute(label_names=NAMES) == _compute(guess, true)


@pytest.mark.slow
def test_evaluate_loads_a_copy_without_us_and_without_a_network(tmp_path):
    folder = tmp_path / "yard_metrics"
    folder.mkdir()
    (folder / "yard_metrics.py").write_text(Path(module.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    code = """
import sys
sys.modules["railsformer"] = None
import evaluate
metric = evaluate.load(sys.argv[1])
print(metric.compute(predictions=[0, 1], references=[0, 0], label_names=["no", "yes"])["accuracy"])
"""
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "0.5"


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([0, 4], [0, 1], r"predictions must lie in 0 to 3 \(4 labels\), got 0 to 4"),
        ([0, -1], [0, 1], r"predictions must lie in 0 to 3 \(4 labels\), got -1 to 0"),
        ([0, 1], [0, 7], r"references must lie in 0 to 3 \(4 labels\), got 0 to 7"),
        ([], [], "references must hold at least one video, got none"),
        (
            [[0.5, 0.5]],
            [0],
            r"predictions must be class indices or rows of 4 scores, one a label, row 0 is \[0.5, 0.5\]",
        ),
        ([[0.5, 0.5, 0, float("nan")]], [0], "predictions must be class indices or rows of 4 scores, .* row 0 is"),
    ],
)
def test_values_that_are_refused(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        _compute(predictions, references)


def test_names_that_are_given_twice():
    with pytest.raises(ValueError, match="label_names must differ from each other, got 'a' twice"):
        _compute([0, 1], [0, 1], ["a", "a"])
