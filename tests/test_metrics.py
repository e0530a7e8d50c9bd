import subprocess
import sys
import warnings
from pathlib import Path

import evaluate
import numpy as np
import pytest
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
    ],
)
def test_values_that_are_refused(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        _compute(predictions, references)


def test_names_that_are_given_twice():
    with pytest.raises(ValueError, match="label_names must differ from each other, got 'a' twice"):
        _compute([0, 1], [0, 1], ["a", "a"])
