import numpy as np
import pytest
from scipy import stats

from railsformer.evaluation.pairing import compare_predictions, mcnemar_test, shared_videos


def _runs(size=200, *, seed=0, ours=1.5, theirs=1.5):
    """Two runs on the same videos, each with noise of its own and some in common."""
    rng = np.random.default_rng(seed)
    references, common = rng.integers(0, 3, size), rng.normal(size=(size, 3))
    both = []
    for strength in (ours, theirs):
        powers = np.exp(common + rng.normal(size=(size, 3)) * 0.7 + strength * np.eye(3)[references])
        both.append(powers / powers.sum(axis=1, keepdims=True))
    return (*both, references)


@pytest.mark.parametrize(("ours", "theirs"), [(0, 0), (1, 0), (5, 5), (9, 1), (2, 12), (30, 14)])
def test_mcnemar_against_the_tails_of_the_binomial(ours, theirs):
    right = np.array([True] * ours + [False] * theirs + [True] * 7 + [False] * 3)
    other = np.array([False] * ours + [True] * theirs + [True] * 7 + [False] * 3)
    total = ours + theirs
    expected = min(1.0, 2 * stats.binom.cdf(min(ours, theirs), total, 0.5)) if total else 1.0
    assert mcnemar_test(right, other) == {
        "only_this_right": ours,
        "only_other_right": theirs,
        "p_value": pytest.approx(expected),
    }


def test_a_better_run_is_seen_as_better():
    scores, other, references = _runs(ours=3.0, theirs=1.0)
    groups = np.arange(200) // 10
    found = compare_predictions(scores, other, references, groups.tolist(), resamples=500)
    accuracy = found["figures"]["accuracy"]
    assert accuracy["this"] == pytest.approx((scores.argmax(axis=1) == references).mean())
    assert accuracy["other"] == pytest.approx((other.argmax(axis=1) == references).mean())
    assert accuracy["difference"] == pytest.approx(accuracy["this"] - accuracy["other"])
    assert 0 < accuracy["interval"][0] < accuracy["difference"] < accuracy["interval"][1]
    assert found["mcnemar"]["p_value"] < 0.001
    assert found["num_shared_videos"] == 200
    assert "top_2" in found["figures"]
    assert "top_3" not in found["figures"]  # three labels


def test_swapping_the_runs_turns_the_signs():
    scores, other, references = _runs(seed=4, ours=2.0)
    there, back = (
        compare_predictions(*pair, references, None, resamples=300) for pair in ((scores, other), (other, scores))
    )
    for name, row in there["figures"].items():
        assert back["figures"][name]["difference"] == pytest.approx(-row["difference"])
        assert back["figures"][name]["interval"] == pytest.approx([-row["interval"][1], -row["interval"][0]])
    assert there["mcnemar"]["p_value"] == back["mcnemar"]["p_value"]


def test_pairing_is_sharper_than_two_intervals():
    scores, other, references = _runs(seed=1, size=400)
    found = compare_predictions(scores, other, references, None, figures=("accuracy",), resamples=500)
    low, high = found["figures"]["accuracy"]["interval"]
    alone = np.sqrt(2 * 0.25 * 0.75 / 400) * 1.96 * 2  # of two independent accuracies of about .75
    assert high - low < alone


def test_a_run_beside_itself_has_nothing_to_say():
    scores, _, references = _runs(size=30)
    found = compare_predictions(scores, scores, references, None, resamples=100)
    assert found["figures"]["f1_macro"]["difference"] == 0
    assert found["figures"]["f1_macro"]["interval"] is None
    assert found["mcnemar"] == {"only_this_right": 0, "only_other_right": 0, "p_value": 1.0}


def test_few_videos_and_one_class():
    scores, other, _ = _runs(size=4)
    found = compare_predictions(scores, other, np.zeros(4, dtype=int), None, resamples=100)
    assert found["figures"]["accuracy"]["interval"] is None
    assert found["figures"]["map"] == {"this": None, "other": None, "difference": None, "interval": None}


@pytest.mark.slow
@pytest.mark.parametrize("by_groups", [True, False])
def test_the_interval_of_a_difference_of_nothing_holds_nothing(by_groups):
    held = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        references, groups = rng.integers(0, 3, 120), np.arange(120) // 10
        cameras = rng.normal(size=(2, 12, 1))[:, groups] if by_groups else np.zeros((2, 120, 1))
        both = []
        for offset in cameras:
            powers = np.exp(rng.normal(size=(120, 3)) + (1.5 + offset) * np.eye(3)[references])
            both.append(powers / powers.sum(axis=1, keepdims=True))
        found = compare_predictions(
            *both, references, groups.tolist() if by_groups else None, figures=("accuracy", "f1_macro"), resamples=500
        )
        held += [row["interval"][0] <= 0 <= row["interval"][1] for row in found["figures"].values()]
    assert 0.91 <= np.mean(held) <= 0.99


def test_shared_videos_are_found_in_the_order_of_the_first():
    rows, other_rows = shared_videos(
        ["a", "b", "c", "d"], ["x", "y", "x", "x"], other_names=["d", "e", "b"], other_labels=["x", "x", "y"]
    )
    assert rows.tolist() == [1, 3]
    assert other_rows.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("other_names", "other_labels", "message"),
    [
        (["c"], ["x"], r"the two evaluations share no video \(2 and 1\)"),
        (["a"], ["y"], "video 'a' is x here and y in the other evaluation"),
        (["a", "a"], ["x", "x"], "video 'a' stands twice in the other evaluation"),
    ],
)
def test_pairs_that_are_refused(other_names, other_labels, message):
    with pytest.raises(ValueError, match=message):
        shared_videos(["a", "b"], ["x", "x"], other_names=other_names, other_labels=other_labels)


def test_other_inputs_that_are_refused():
    scores, other, references = _runs(size=10)
    with pytest.raises(ValueError, match=r"must score the same videos and labels, got shapes \(10, 3\) and \(9, 3\)"):
        compare_predictions(scores, other[:9], references, None)
    with pytest.raises(ValueError, match=r"figures must be among .* got 'recall'"):
        compare_predictions(scores, other, references, None, figures=("recall",))
    other[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"row 3 is .* of sum nan"):
        compare_predictions(scores, other, references, None)
