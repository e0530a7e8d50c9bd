import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from railsformer.evaluation.calibration import (
    TEMPERATURES,
    apply_temperature,
    calibration_summary,
    fit_temperature,
    reliability_bins,
)
from railsformer.evaluation.score_metrics import calibration_error


def _overconfident(size, *, temperature, seed=0, num_labels=4):
    """Labels drawn from scores, and those scores sharpened: the right temperature is known."""
    rng = np.random.default_rng(seed)
    honest = rng.dirichlet(np.full(num_labels, 0.8), size)
    references = (rng.random((size, 1)) > honest.cumsum(axis=1)[:, :-1]).sum(axis=1)
    return apply_temperature(honest, 1 / temperature), references


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_sharpened_the_scores_is_found(temperature):
    scores, references = _overconfident(6000, temperature=temperature)
    assert fit_temperature(scores, references) == pytest.approx(temperature, rel=0.05)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(2, 40))
def test_no_temperature_of_a_grid_is_better(seed, num_labels, size):
    rng = np.random.default_rng(seed)
    scores, references = rng.dirichlet(np.full(num_labels, 0.5), size), rng.integers(0, num_labels, size)
    found = fit_temperature(scores, references)
    assert TEMPERATURES[0] <= found <= TEMPERATURES[1]
    if (scores.argmax(axis=1) == references).all():
        assert found == 1
        return
    best = _loss(scores, references, found)
    assert all(best <= _loss(scores, references, other) + 1e-6 for other in np.geomspace(*TEMPERATURES, 60))


def _loss(scores, references, temperature):
    return -np.log(apply_temperature(scores, temperature)[np.arange(len(references)), references]).mean()


def test_predictions_and_sums_stay():
    scores, _ = _overconfident(200, temperature=3)
    scaled = apply_temperature(scores, 4.2)
    assert (scaled.argmax(axis=1) == scores.argmax(axis=1)).all()
    assert scaled.sum(axis=1) == pytest.approx(np.ones(200))
    assert apply_temperature(scores, 1.0) == pytest.approx(scores, abs=1e-9)


def test_scores_of_plain_0_and_1_stay_numbers():
    scores, references = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([0, 1, 1])
    temperature = fit_temperature(scores, references)
    assert temperature > 1
    assert np.isfinite(apply_temperature(scores, temperature)).all()


def test_all_right_leaves_the_scores_as_they_are():
    assert fit_temperature(np.array([[0.6, 0.4], [0.3, 0.7]]), np.array([0, 1])) == 1.0
    assert fit_temperature(np.array([[0.6, 0.4], [0.7, 0.3]]), np.array([0, 0])) == 1.0  # a split with one class


def test_scaling_on_one_half_helps_the_other():
    scores, references = _overconfident(2000, temperature=3)
    temperature = fit_temperature(scores[:1000], references[:1000])
    summary = calibration_summary(
        scores[1000:], references[1000:], temperature=temperature, split="validation", num_videos=1000
    )
    assert (summary["split"], summary["num_videos"], summary["temperature"]) == ("validation", 1000, temperature)
    for name in ("calibration_error", "negative_log_likelihood", "brier"):
        assert summary["after"][name] < summary["before"][name]
    assert summary["reliability"]["before"] == reliability_bins(scores[1000:], references[1000:])


def test_the_bins_make_up_the_calibration_error():
    scores, references = _overconfident(300, temperature=2)
    bins = reliability_bins(scores, references)
    assert [row["low"] for row in bins] == pytest.approx(np.arange(15) / 15)
    assert sum(row["count"] for row in bins) == 300
    filled = [row for row in bins if row["count"]]
    error = sum(row["count"] * abs(row["accuracy"] - row["confidence"]) for row in filled) / 300
    assert error == pytest.approx(calibration_error(scores, references))
    assert bins[0] == {"low": 0.0, "high": 1 / 15, "confidence": None, "accuracy": None, "count": 0}
    assert all(row["low"] < row["confidence"] <= row["high"] for row in filled)


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf")])
def test_temperatures_that_are_refused(temperature):
    with pytest.raises(ValueError, match="temperature must be a number above 0, got"):
        apply_temperature(np.array([[0.5, 0.5]]), temperature)


def test_scores_that_are_refused():
    with pytest.raises(ValueError, match=r"rows sum to 1, row 1 is .* of sum nan"):
        fit_temperature(np.array([[0.5, 0.5], [np.nan, 0.5]]), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"row 0 is .* of sum 5"):
        fit_temperature(np.array([[3.0, 2.0]]), np.array([0]))
