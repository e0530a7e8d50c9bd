"""Means, paired tests and what is said of them."""

import numpy as np
import pytest
from scipy import stats

from railsformer.compare.statistics import SeedRuns, compare_pairs, holm, paired_difference, sentences, spread_of

GROUPS = [f"camera {index // 10}" for index in range(200)]


def _runs(name, *shares, seed=0, num_videos=200):
    """A variant that is right on a share of the videos, with a draw of its own for each seed."""
    rng = np.random.default_rng(seed)
    return SeedRuns(
        name, {index: (rng.random(num_videos) < share).astype(float) for index, share in enumerate(shares)}
    )


def test_the_spread_is_that_of_seeds_and_unknown_of_one():
    assert spread_of([0.5, 0.7]) == {"mean": 0.6, "spread": pytest.approx(0.02**0.5), "values": [0.5, 0.7]}
    assert spread_of([0.5])["spread"] is None
    assert spread_of([]) == {"mean": None, "spread": None, "values": []}


def test_holm_multiplies_step_by_step_and_never_falls():
    assert holm([0.01, 0.04, 0.03, None]) == pytest.approx([0.03, 0.06, 0.06, None])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_clear_difference_is_found_and_named():
    pairs = compare_pairs([_runs("worse", 0.4, 0.42, 0.41), _runs("better", 0.9, 0.91, 0.92, seed=1)], GROUPS)
    assert pairs[0]["difference"] == pytest.approx(-0.5, abs=0.08)
    assert pairs[0]["p_holm"] == pairs[0]["p"] < 0.001
    low, high = pairs[0]["interval"]
    assert low < pairs[0]["difference"] < high < 0
    assert (pairs[0]["method"], pairs[0]["seeds"]) == ("groups", [0, 1, 2])
    told = sentences(pairs)
    assert len(told) == 1
    assert told[0].startswith("better is right more often than worse, by ")
    assert "p below .001" in told[0]


def test_equal_variants_are_not_told_apart():
    one = _runs("a", 0.6, 0.6, 0.6)
    other = SeedRuns("b", {seed: np.roll(right, 100) for seed, right in one.right.items()})  # as many, other videos
    pairs = compare_pairs([one, other], GROUPS)
    assert pairs[0]["difference"] == pytest.approx(0)
    assert pairs[0]["p_holm"] == pytest.approx(1)
    assert sentences(pairs)[0].startswith("a and b are not distinguishable here (")


def test_chance_is_taken_for_a_difference_about_as_often_as_stated():
    """200 draws of two equal variants whose trainings differ: 5 % of them are to be found different, give or take."""
    found = 0
    for draw in range(200):
        rng = np.random.default_rng([3, draw])
        levels = rng.normal(0.6, 0.05, size=(2, 3))
        one, other = (_runs("x", *levels[side], seed=1000 * draw + side, num_videos=120) for side in (0, 1))
        found += paired_difference(one, other, GROUPS[:120])["p"] < 0.05
    assert found <= stats.binom.ppf(0.999, 200, 0.05)


def test_seeds_that_differ_widen_the_interval():
    rng = np.random.default_rng(0)
    base = (rng.random(200) < 0.6).astype(float)
    steady = SeedRuns("steady", dict.fromkeys(range(3), base))
    better = base.copy()
    better[np.flatnonzero(base == 0)[:30]] = 1
    lucky = SeedRuns("lucky", {0: base, 1: better, 2: better})
    always = SeedRuns("always", dict.fromkeys(range(3), better))
    assert paired_difference(lucky, steady, GROUPS)["p"] > paired_difference(always, steady, GROUPS)["p"]
    widths = [np.ptp(paired_difference(one, steady, GROUPS)["interval"]) for one in (lucky, always)]
    assert widths[0] > widths[1]
    weights = [paired_difference(one, steady, GROUPS, same_training=True) for one in (lucky, always)]
    assert np.ptp(weights[0]["interval"]) > np.ptp(weights[1]["interval"])
    assert np.ptp(weights[1]["interval"]) == pytest.approx(widths[1])


def test_what_trainings_share_is_taken_out_of_a_difference_of_their_own_weights():
    """Three trainings of very different worth, each of which loses the same by other views."""
    rng = np.random.default_rng(0)
    filmed = {seed: (rng.random(200) < share).astype(float) for seed, share in enumerate((0.3, 0.6, 0.9))}
    other = {seed: right.copy() for seed, right in filmed.items()}
    for right in other.values():
        right[rng.choice(np.flatnonzero(right), 30, replace=False)] = 0
    runs = SeedRuns("filmed", filmed), SeedRuns("other", other)
    same, apart = (paired_difference(*runs, GROUPS, same_training=same) for same in (True, False))
    assert same["p"] < 0.05 < apart["p"]


def test_an_effect_that_varies_over_trainings_is_found_by_chance_about_as_often_as_stated():
    """400 draws: in each of three trainings other views help or harm, and on average they do neither."""
    found = 0
    for draw in range(400):
        rng = np.random.default_rng([5, draw])
        one, other = {}, {}
        for seed, effect in enumerate(rng.normal(0, 0.1, size=3)):
            levels = rng.random(120)
            one[seed], other[seed] = ((levels < 0.6 + shift).astype(float) for shift in (0.0, effect))
        found += (
            paired_difference(SeedRuns("a", one), SeedRuns("b", other), GROUPS[:120], same_training=True)["p"] < 0.05
        )
    assert stats.binom.ppf(0.001, 400, 0.03) <= found <= stats.binom.ppf(0.999, 400, 0.05)


def test_the_exact_test_of_each_seed_stands_beside():
    one = SeedRuns("a", {0: np.array([1.0] * 9 + [0.0] * 9)})
    other = SeedRuns("b", {0: np.array([0.0] * 9 + [0.0] * 9)})
    found = paired_difference(one, other, None)
    assert found["mcnemar"] == [
        {"seed": 0, "only_this_right": 9, "only_other_right": 0, "p_value": pytest.approx(2 * 0.5**9)}
    ]
    assert found["method"] == "clips"


def test_what_was_not_read_counts_for_neither():
    right = np.array([1.0, np.nan, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    other = np.array([1.0, 1.0, np.nan, 0.0, 1.0, 0.0, 0.0, 1.0])
    found = paired_difference(SeedRuns("a", {0: right}), SeedRuns("b", {0: other}), None)
    assert found["difference"] == pytest.approx(1 / 6)
    with pytest.raises(ValueError, match="a and b share no test video that both could read"):
        paired_difference(SeedRuns("a", {0: right[1:2]}), SeedRuns("b", {0: other[1:2]}), None)


def test_nothing_is_said_of_too_few_videos_and_agreement_is_named():
    three = SeedRuns("a", {0: np.ones(3)}), SeedRuns("b", {0: np.zeros(3)})
    pairs = compare_pairs(three, None)
    assert (pairs[0]["p"], pairs[0]["interval"], pairs[0]["p_holm"]) == (None, None, None)
    assert sentences(pairs)[0] == "Of a and b nothing can be said: there are too few test videos."
    same = compare_pairs([_runs("a", 0.5), _runs("b", 0.5)], GROUPS)
    assert same[0]["p"] == 1
    assert sentences(same)[0] == "a and b are right on the same videos with every seed."
    apart = compare_pairs([SeedRuns("a", {0: np.ones(20)}), SeedRuns("b", {0: np.zeros(20)})], None)
    assert apart[0]["p"] == pytest.approx(2 * 0.5**20)
    assert apart[0]["interval"] == [pytest.approx(2 * 0.025 ** (1 / 20) - 1), 1]
    assert sentences(apart)[0].startswith("a is right more often than b on these groups, by 100.0 points of accuracy")


def test_one_seed_and_few_groups_are_said():
    told = sentences(compare_pairs([_runs("a", 0.5), _runs("b", 0.6, seed=2)], ["one camera"] * 200))
    assert "Fewer than 8 groups were tested" in told[1]
    assert told[2].startswith("With one seed the luck of training is not in these p values")
    solved = SeedRuns("solved", {0: _runs("x", 0.5).right[0]}, is_drawn=False)
    assert len(sentences(compare_pairs([_runs("a", 0.5, 0.6), solved], GROUPS))) == 1
    weights = compare_pairs([_runs("a", 0.5), _runs("b", 0.6, seed=2)], GROUPS, same_training=True)
    assert sentences(weights)[1].startswith("Of one seed these are differences of one training's weights")
