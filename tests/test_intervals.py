import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from railsformer.evaluation.intervals import (
    FIGURES,
    PER_CLASS_FIGURES,
    bootstrap_intervals,
    expanded_percentiles,
    poisson_rate_interval,
    wilson_interval,
)

NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def yards():
    """The simulation of the benchmark, which prints the table of the docs."""
    path = Path(__file__).parent.parent / "benchmarks" / "intervals.py"
    spec = importlib.util.spec_from_file_location("benchmark_intervals", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def _evaluation(size=60, *, sure=1.5, seed=0):
    rng = np.random.default_rng(seed)
    references = np.arange(size) % 3
    powers = np.exp(rng.normal(size=(size, 3)) + sure * np.eye(3)[references])
    return powers / powers.sum(axis=1, keepdims=True), references


def _perfect(size):
    references = np.arange(size) % 3
    return 0.7 * np.eye(3)[references] + 0.1, references


def _intervals(scores, references, groups=None, **options):
    return bootstrap_intervals(scores, references, groups, label_names=NAMES, **({"resamples": 200} | options))


# Newcombe 1998, table I, method 3.
@pytest.mark.parametrize(
    ("successes", "total", "expected"),
    [(81, 263, [0.2553, 0.3662]), (15, 148, [0.0624, 0.1605]), (0, 20, [0.0, 0.1611]), (1, 29, [0.0061, 0.1718])],
)
def test_wilson_against_published_values(successes, total, expected):
    assert wilson_interval(successes, total) == pytest.approx(expected, abs=5e-5)


def test_wilson_against_scipy():
    for successes, total in ((5, 5), (0, 7), (3, 11), (90, 91)):
        theirs = stats.binomtest(successes, total).proportion_ci(0.9, method="wilson")
        assert wilson_interval(successes, total, level=0.9) == pytest.approx([theirs.low, theirs.high])


def test_four_videos_are_too_few_to_say():
    assert wilson_interval(4, 4) is None
    assert wilson_interval(5, 5) == pytest.approx([0.5655, 1.0], abs=1e-4)
    assert wilson_interval(1, 1, least=1) is not None
    assert wilson_interval(0, 0, least=0) is None


# Garwood 1936: limits of a Poisson mean at 95 %.
@pytest.mark.parametrize(("events", "expected"), [(0, [0, 3.689]), (1, [0.0253, 5.572]), (10, [4.795, 18.39])])
def test_false_alarm_rates_against_published_values(events, expected):
    assert poisson_rate_interval(events, 1.0) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert poisson_rate_interval(events, 4.0) == pytest.approx([limit / 4 for limit in expected], rel=1e-3, abs=1e-4)


def test_no_time_watched_is_too_little_to_say():
    assert poisson_rate_interval(0, 0.0) is None


def test_wilson_holds_its_level_exactly_counted(yards):
    for total in (5, 10, 30, 100):
        covered = [yards.wilson_coverage(total, share) for share in np.linspace(0.01, 0.99, 99)]
        assert 0.94 <= np.mean(covered) <= 0.965
        assert min(covered) >= 0.83  # known of Wilson near 0 and 1


def test_the_poisson_interval_never_falls_below_its_level(yards):
    for rate in (0.05, 0.3, 1.0, 4.0, 25.0):
        assert yards.poisson_coverage(rate, 2.0) >= 0.95


def test_percentiles_are_widened_for_few_units():
    values = np.random.default_rng(0).normal(size=100_000)
    many, few = (expanded_percentiles(values, level=0.95, num_units=units) for units in (10_000, 8))
    assert many == pytest.approx([-1.96, 1.96], abs=0.03)
    reach = np.sqrt(8 / 7) * stats.t.ppf(0.975, 7)
    assert few == pytest.approx([-reach, reach], abs=0.08)


def test_clips_take_wilson_for_proportions_and_hold_the_estimate():
    scores, references = _evaluation()
    found = _intervals(scores, references)
    right = scores.argmax(axis=1) == references
    assert found["figures"]["accuracy"] == wilson_interval(right.sum(), 60)
    assert found["per_class"]["b"]["recall"] == wilson_interval(right[references == 1].sum(), 20)
    predicted = scores.argmax(axis=1) == 2
    assert found["per_class"]["c"]["precision"] == wilson_interval(right[predicted].sum(), predicted.sum())
    assert list(found["figures"]) == [name for name in FIGURES if name not in ("top_3", "top_4", "top_5")]
    assert list(found["per_class"]["a"]) == list(PER_CLASS_FIGURES)
    for low, high in found["figures"].values():
        assert 0 <= low < high


@pytest.mark.parametrize(
    ("num_groups", "method", "note"),
    [(3, "clips", "within these cameras only"), (7, "clips", "within these cameras only"), (8, "groups", None)],
)
def test_few_groups_are_labelled(num_groups, method, note):
    scores, references = _evaluation()
    found = _intervals(scores, references, [f"camera {index // 3 % num_groups}" for index in range(60)])
    assert (found["method"], found["num_groups"], found["note"]) == (method, num_groups, note)
    assert (found["level"], found["resamples"]) == (0.95, 200)


def test_unknown_groups_count_as_these_cameras_only():
    found = _intervals(*_evaluation())
    assert (found["method"], found["num_groups"], found["note"]) == ("clips", 0, "within these cameras only")


def test_clips_that_agree_within_groups_widen_the_interval():
    scores, references = _perfect(120)
    wrong = np.arange(120) // 10 < 3  # three of twelve cameras are wrong throughout
    scores[wrong] = np.roll(scores[wrong], 1, axis=1)
    groups = (np.arange(120) // 10).tolist()
    (low, high), (low_of_clips, high_of_clips) = (
        _intervals(scores, references, some)["figures"]["accuracy"] for some in (groups, None)
    )
    assert high - low > 2 * (high_of_clips - low_of_clips)


def test_all_right_is_never_certain():
    scores, references = _perfect(90)
    by_clips = _intervals(scores, references)
    by_groups = _intervals(scores, references, (np.arange(90) // 9).tolist())
    assert by_clips["figures"]["accuracy"] == wilson_interval(90, 90)
    assert by_groups["figures"]["accuracy"] == wilson_interval(10, 10)
    for found, units in ((by_clips, 30), (by_groups, 10)):
        low = wilson_interval(units, units)[0]
        assert found["per_class"]["a"]["recall"] == [low, 1.0]
        assert found["per_class"]["a"]["average_precision"] == [low, 1.0]
        assert found["per_class"]["a"]["f1"] == pytest.approx([2 * low / (1 + low), 1.0])
        assert found["figures"]["balanced_accuracy"] == pytest.approx([low, 1.0])
        assert found["figures"]["f1_macro"] == pytest.approx([2 * low / (1 + low), 1.0])
        assert found["figures"]["brier"] is None  # every video has the same


def test_all_wrong_is_never_certain():
    scores, references = _perfect(90)
    found = _intervals(np.roll(scores, 1, axis=1), references)
    assert found["figures"]["accuracy"] == wilson_interval(0, 90)
    assert found["per_class"]["a"]["f1"] is None


def test_a_class_of_few_videos_says_nothing_and_neither_do_means_over_classes():
    scores, references = _evaluation(40)
    references = np.where((references == 1) & (np.arange(40) > 10), 0, references)  # four of b are left
    assert (references == 1).sum() == 4
    found = _intervals(scores, references)
    assert found["per_class"]["b"]["recall"] is None
    assert found["per_class"]["b"]["average_precision"] is None
    assert found["per_class"]["a"]["recall"] is not None
    assert found["figures"]["f1_macro"] is None
    assert found["figures"]["accuracy"] is not None


def test_a_class_in_few_groups_says_nothing():
    scores, references = _evaluation(90)
    groups = np.where(references == 1, np.arange(90) % 4, np.arange(90) % 10)  # thirty of b, on four cameras
    found = _intervals(scores, references, groups.tolist())
    assert found["method"] == "groups"
    assert found["per_class"]["b"]["recall"] is None
    assert found["per_class"]["a"]["recall"] is not None
    assert found["figures"]["balanced_accuracy"] is None


def test_a_split_with_one_class():
    scores, _ = _evaluation(20)
    found = _intervals(scores, np.zeros(20, dtype=int))
    assert found["figures"]["map"] is None
    assert found["per_class"]["a"]["average_precision"] is None
    assert found["per_class"]["a"]["recall"] == found["figures"]["accuracy"]
    assert found["per_class"]["b"] == dict.fromkeys(PER_CLASS_FIGURES)


def test_one_video_says_nothing():
    found = _intervals(*_evaluation(1))
    assert set(found["figures"].values()) == {None}


def test_the_same_seed_gives_the_same_and_asked_figures_only():
    scores, references = _evaluation()
    first, again, other = (
        _intervals(scores, references, seed=seed, figures=("f1_macro", "recall")) for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other
    assert list(first["figures"]) == ["f1_macro"]
    assert list(first["per_class"]["a"]) == ["recall"]


def test_inputs_that_are_refused():
    scores, references = _evaluation(10)
    with pytest.raises(ValueError, match=r"figures must be among accuracy, .* got 'f2'"):
        _intervals(scores, references, figures=("f2",))
    with pytest.raises(ValueError, match="level must lie between 0 and 1, got 95"):
        _intervals(scores, references, level=95)
    with pytest.raises(ValueError, match="groups must be one a video, got 3 for 10 videos"):
        _intervals(scores, references, ["a", "b", "c"])
    with pytest.raises(ValueError, match="successes must lie in 0 to total 3, got 4"):
        wilson_interval(4, 3)
    with pytest.raises(ValueError, match="events and hours must be 0 or more, got 1 events in -1 hours"):
        poisson_rate_interval(1, -1)
    scores[4, 0] = np.nan
    with pytest.raises(ValueError, match=r"row 4 is .* of sum nan"):
        _intervals(scores, references)


@pytest.mark.parametrize(
    ("cameras", "each"), [pytest.param(8, 20, marks=pytest.mark.slow), pytest.param(20, 10, marks=pytest.mark.long)]
)
def test_intervals_over_groups_hold_for_cameras_never_seen(yards, cameras, each):
    found = yards.coverage(cameras=cameras, each=each, spread=1.0, repeats=300, resamples=500)
    ours, clips = found["our_intervals"], found["clip_percentiles"]
    for name in ("accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "map", "brier"):
        assert 0.88 <= ours[name][0] <= 0.99, name  # 95 % is aimed at; few groups cost some points
        assert clips[name][0] <= 0.82, name  # what clips drawn one by one would claim
    for name in PER_CLASS_FIGURES:
        assert 0.89 <= np.mean([ours[f"{name} {label}"][0] for label in yards.LABELS]) <= 0.99, name
    assert ours["calibration_error"][0] >= 0.9


@pytest.mark.long
@pytest.mark.parametrize(("cameras", "each", "spread"), [(4, 30, 1.0), (120, 1, 0.0)])
def test_intervals_over_clips_hold_where_clips_are_independent(yards, cameras, each, spread):
    ours = yards.coverage(
        cameras=cameras, each=each, spread=spread, repeats=300, resamples=500, methods=(yards.our_intervals,)
    )["our_intervals"]
    for name in ("accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "map", "brier"):
        assert 0.9 <= ours[name][0] <= 1.0, name
    for name in PER_CLASS_FIGURES:
        assert 0.9 <= np.mean([ours[f"{name} {label}"][0] for label in yards.LABELS]) <= 0.99, name
    assert ours["calibration_error"][0] >= 0.9


@pytest.mark.slow
def test_intervals_at_thresholds_hold_for_cameras_never_seen(yards):
    found = yards.points_coverage(cameras=12, each=20, spread=1.0, repeats=120)
    for name in yards.POINT_FIGURES:
        assert 0.88 <= found["ours"][name][0] <= 0.99, name
        assert found["clips"][name][0] <= 0.87, name
        assert found["ours"][name][1] > 0.95, name
