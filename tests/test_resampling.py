import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from railsformer.evaluation.metrics import VideoClassificationMetrics
from railsformer.evaluation.resampling import draw_resamples, resampled_figures
from railsformer.evaluation.score_metrics import VideoScoreMetrics


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 40), st.booleans(), st.booleans())
def test_every_resample_has_the_figures_of_the_modules(seed, num_labels, size, by_groups, coarse):
    rng = np.random.default_rng(seed)
    scores, references = rng.dirichlet(np.ones(num_labels), size), rng.integers(0, num_labels, size)
    if coarse:
        scores = np.round(scores, 1) + 0.01
        scores /= scores.sum(axis=1, keepdims=True)
    names = [str(index) for index in range(num_labels)]
    groups = (np.arange(size) % 9).tolist() if by_groups else None
    drawn = draw_resamples(size, groups, resamples=2, seed=seed)
    found = resampled_figures(scores, references, drawn)
    for row, counts in enumerate(drawn.counts):
        videos = np.repeat(np.arange(size), counts[drawn.units].astype(int))
        given = {"references": references[videos], "label_names": names}
        plain = VideoClassificationMetrics(keep_in_memory=True).compute(predictions=scores[videos], **given)
        ranked = VideoScoreMetrics(keep_in_memory=True).compute(predictions=scores[videos], **given)
        modules = plain | ranked | {f"top_{k}": value for k, value in ranked["top_k"].items()}
        for name, values in found.overall.items():
            _same(values[row], modules[name])
        for index, label in enumerate(names):
            _same(found.per_class["average_precision"][row, index], ranked["average_precision"][label])
            for name in ("precision", "recall", "f1"):
                value = plain["per_class"][label][name]
                if name == "precision" and not (scores[videos].argmax(axis=1) == index).any():
                    value = None  # the modules say 0 of a class that was never predicted
                _same(found.per_class[name][row, index], value)


def _same(ours, expected):
    assert ours == pytest.approx(np.nan if expected is None else expected, nan_ok=True)


def test_the_first_row_is_the_evaluation_and_the_others_are_as_large():
    drawn = draw_resamples(30, None, resamples=50, seed=1)
    assert drawn.counts.shape == (51, 30)
    assert (drawn.counts[0] == 1).all()
    assert (drawn.counts.sum(axis=1) == 30).all()
    assert (drawn.method, drawn.num_groups) == ("clips", 0)


@pytest.mark.parametrize(("num_groups", "method", "units"), [(7, "clips", 24), (8, "groups", 8)])
def test_groups_are_drawn_whole_from_eight_on(num_groups, method, units):
    drawn = draw_resamples(24, [f"camera {index % num_groups}" for index in range(24)], resamples=5, seed=0)
    assert (drawn.method, drawn.num_groups, drawn.counts.shape[1]) == (method, num_groups, units)


def test_the_same_seed_draws_the_same():
    first, again, other = (draw_resamples(20, None, resamples=9, seed=seed).counts for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()


def test_inputs_that_are_refused():
    with pytest.raises(ValueError, match="groups must be one a video, got 2 for 3 videos"):
        draw_resamples(3, ["a", "b"], resamples=1, seed=0)
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        draw_resamples(3, None, resamples=0, seed=0)
    with pytest.raises(ValueError, match="references must hold at least one video, got none"):
        draw_resamples(0, None, resamples=1, seed=0)


def test_groups_may_be_an_array():
    names = np.repeat(np.arange(9), 3)
    drawn, listed = (draw_resamples(27, groups, resamples=20, seed=0) for groups in (names, names.tolist()))
    assert drawn.num_groups == 9
    np.testing.assert_array_equal(drawn.counts, listed.counts)
