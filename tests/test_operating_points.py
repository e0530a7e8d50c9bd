from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from railsformer.evaluation.intervals import wilson_interval
from railsformer.evaluation.operating_points import (
    DEFAULT_TARGET,
    OperatingPoint,
    ScoredSplit,
    Target,
    choose_operating_points,
    choose_threshold,
    hazard_labels,
    measure_threshold,
    operating_points_summary,
    targets_of_labels,
)

NAMES = ["Track-Excavator", "Bucket-Worker", "Other"]
MINUTE = 60.0


def _recall(scores, positives, threshold):
    return (scores[positives] >= threshold).mean()


def _false_alarms_per_hour(scores, positives, hours, threshold):
    return (scores[~positives] >= threshold).sum() / hours


@st.composite
def one_label(draw):
    size = draw(st.integers(2, 30))
    coarse = st.integers(0, 10).map(lambda tenth: tenth / 10)  # many equal scores, 0 and 1 among them
    scores = np.array(draw(st.lists(st.one_of(coarse, st.floats(0, 1)), min_size=size, max_size=size)))
    positives = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    durations = np.array(draw(st.lists(st.floats(1, 600), min_size=size, max_size=size)))
    return scores, positives, durations


def _thresholds(scores):
    """Every threshold above 0 that differs in its alarms, and one above all."""
    return sorted({*scores[scores > 0].tolist(), *(np.nextafter(score, 2) for score in scores if score < 1), 1.0})


@settings(max_examples=200, deadline=None, derandomize=True)
@given(one_label(), st.sampled_from([0.1, 0.5, 0.7, 0.9, 1.0]))
def test_recall_threshold_against_brute_force(label, value):
    scores, positives, durations = label
    point = choose_threshold(scores, positives, durations, Target("recall", value))
    if not positives.any():
        assert point == OperatingPoint(None, f"recall>={value}", reached=False)
        return
    good = [t for t in _thresholds(scores) if _recall(scores, positives, t) >= value]
    assert point.reached == bool(good)
    best = max(good) if good else max(_thresholds(scores), key=lambda t: (_recall(scores, positives, t), -t))
    assert 0 < point.threshold <= 1
    assert ((scores >= point.threshold) == (scores >= best)).all()  # the same alarms as the best of all


@settings(max_examples=200, deadline=None, derandomize=True)
@given(one_label(), st.sampled_from([0.0, 1.0, 10.0, 60.0]))
def test_false_alarm_threshold_against_brute_force(label, value):
    scores, positives, durations = label
    point = choose_threshold(scores, positives, durations, Target("false_alarms_per_hour", value))
    if positives.all():
        assert point == OperatingPoint(None, f"false_alarms_per_hour<={value}", reached=False)
        return
    hours = durations[~positives].sum() / 3600
    good = [t for t in _thresholds(scores) if _false_alarms_per_hour(scores, positives, hours, t) <= value]
    assert point.reached == bool(good)
    best = min(good) if good else 1.0
    assert 0 < point.threshold <= 1
    assert ((scores >= point.threshold) == (scores >= best)).all()


def test_thresholds_lie_half_way_to_the_next_lower_score():
    scores = np.array([0.9, 0.8, 0.6, 0.5, 0.2])
    positives = np.array([True, True, False, True, False])
    durations = np.full(5, 30 * MINUTE)
    assert choose_threshold(scores, positives, durations, Target("recall", 0.6)).threshold == pytest.approx(0.7)
    assert choose_threshold(scores, positives, durations, Target("recall", 0.9)).threshold == pytest.approx(0.35)
    rate = choose_threshold(scores, positives, durations, Target("false_alarms_per_hour", 0))
    assert rate.threshold == pytest.approx(0.7)


def test_neighbouring_floats_keep_the_upper_as_threshold():
    low = 0.5
    high = float(np.nextafter(low, 1))
    point = choose_threshold(np.array([high, low]), np.array([True, False]), np.full(2, MINUTE), Target("recall", 1.0))
    assert point.threshold == high


def test_a_target_out_of_reach_gives_the_nearest_threshold():
    certain = np.array([1.0, 1.0, 0.4])
    alarms = choose_threshold(
        certain, np.array([True, False, False]), np.full(3, MINUTE), Target("false_alarms_per_hour", 0)
    )
    assert not alarms.reached
    assert 0.4 < alarms.threshold <= 1
    nothing = choose_threshold(
        np.array([0.0, 0.3, 0.6]), np.array([True, True, False]), np.full(3, MINUTE), Target("recall", 1.0)
    )
    assert not nothing.reached
    assert 0 < nothing.threshold <= 0.3  # the zero is out of reach, the other is not


def test_a_negative_of_unknown_length_does_not_count_in_the_rate():
    scores, positives = np.array([0.9, 0.8, 0.1]), np.array([True, False, False])
    durations = np.array([60.0, np.nan, 3600.0])
    point = choose_threshold(scores, positives, durations, Target("false_alarms_per_hour", 0))
    assert point.threshold == pytest.approx(0.45)
    split = ScoredSplit(np.stack([scores, 1 - scores], axis=1), np.array([0, 1, 1]), durations)
    found = measure_threshold(split, label=0, threshold=0.45)
    assert (found["false_alarms_per_hour"], found["negative_hours"], found["precision"]) == (0.0, 1.0, 0.5)


def _split(size=12, *, references=None, seconds=300.0):
    scores = np.random.default_rng(3).dirichlet(np.ones(3), size)
    references = np.arange(size) % 3 if references is None else np.asarray(references)
    return ScoredSplit(scores, references, np.full(size, seconds))


def test_what_a_threshold_does_by_hand():
    scores = np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.9, 0.1], [0.2, 0.8]])
    found = measure_threshold(
        ScoredSplit(scores, np.array([0, 0, 0, 1, 1]), np.full(5, 900.0)), label=0, threshold=0.6
    )
    assert found == {
        "recall": pytest.approx(2 / 3),
        "precision": pytest.approx(2 / 3),
        "false_alarms_per_hour": pytest.approx(2.0),
        "num_positives": 3,
        "num_negatives": 2,
        "negative_hours": pytest.approx(0.5),
        # three videos are too few to say; one event in half an hour is 0.05 to 11.1 an hour
        "intervals": {
            "recall": None,
            "precision": None,
            "false_alarms_per_hour": pytest.approx([0.0506, 11.143], rel=1e-3),
        },
    }


def test_no_positives_no_alarms_and_no_negative_footage_are_null():
    found = measure_threshold(_split(6, references=[2] * 6), label=0, threshold=1.0)
    assert (found["recall"], found["precision"], found["num_positives"]) == (None, None, 0)
    assert found["false_alarms_per_hour"] == 0
    found = measure_threshold(_split(6, references=[0] * 6), label=0, threshold=0.1)
    assert (found["false_alarms_per_hour"], found["negative_hours"]) == (None, 0.0)
    assert found["intervals"]["false_alarms_per_hour"] is None
    assert found["recall"] is not None


def _cameras(num_cameras, seed):
    """Twenty videos of ten seconds a camera; some cameras are good for the model, some are bad."""
    rng = np.random.default_rng(seed)
    cameras = np.repeat(np.arange(num_cameras), 20)
    references = (rng.random(len(cameras)) < 0.6).astype(int)
    logits = np.where(references == 1, 1.0, -2.0) + rng.normal(size=num_cameras)[cameras]
    scores = 1 / (1 + np.exp(-logits - rng.normal(size=len(cameras))))
    return np.stack([1 - scores, scores], axis=1), references, np.full(len(cameras), 10.0), cameras.tolist()


def test_what_is_known_of_a_threshold_is_as_sure_as_the_cameras_agree():
    *videos, cameras = _cameras(12, 0)
    by_video, by_camera = (
        measure_threshold(ScoredSplit(*videos, groups), label=1, threshold=0.5) for groups in (None, cameras)
    )
    naive, grouped = by_video.pop("intervals"), by_camera.pop("intervals")
    assert by_video == by_camera
    for name, (low, high) in grouped.items():
        assert low < by_camera[name] < high
        assert high - low > naive[name][1] - naive[name][0]
    assert grouped["recall"][0] < naive["recall"][0] < naive["recall"][1] < grouped["recall"][1]
    few = measure_threshold(ScoredSplit(*videos, [name % 7 for name in cameras]), label=1, threshold=0.5)
    assert few["intervals"] == naive


def test_a_camera_counts_once_where_all_of_them_say_the_same():
    scores, references = np.array([[0.1, 0.9]] * 36), np.ones(36, dtype=int)
    found = measure_threshold(
        ScoredSplit(scores, references, np.full(36, 9.0), [index // 4 for index in range(36)]), label=1, threshold=0.5
    )
    assert found["intervals"]["recall"] == wilson_interval(9, 9)
    one_camera = np.where(np.arange(36) < 4, 1, 0)
    found = measure_threshold(
        ScoredSplit(scores, one_camera, np.full(36, 9.0), [index // 4 for index in range(36)]), label=1, threshold=0.5
    )
    assert found["recall"] == 1
    assert found["intervals"]["recall"] is None  # four videos, but one camera


def test_intervals_at_a_threshold_hold_for_cameras_that_were_not_there():
    truth = NormalDist(0, 2**0.5).cdf(1.0)  # logits of positives have this spread over cameras and videos
    held = []
    for seed in range(200):
        low, high = measure_threshold(ScoredSplit(*_cameras(12, seed)), label=1, threshold=0.5)["intervals"]["recall"]
        held.append(low <= truth <= high)
    assert np.mean(held) >= 0.88


def test_points_are_chosen_on_one_split_and_measured_on_another():
    calibration, evaluated = _split(30), _split(9, seconds=60.0)
    hazards = hazard_labels(NAMES, ["Other"])
    targets = targets_of_labels([Target.parse("Bucket-Worker:false_alarms_per_hour<=2")], hazards)
    points = choose_operating_points(calibration, label_names=NAMES, targets=targets)
    summary = operating_points_summary(
        points, calibration=calibration, evaluated=evaluated, label_names=NAMES, split="validation"
    )
    assert summary["split"] == "validation"
    assert list(summary["labels"]) == ["Track-Excavator", "Bucket-Worker"]
    excavator, bucket = summary["labels"].values()
    assert excavator["target"] == "recall>=0.9"
    assert excavator["reached"]
    assert excavator["on_calibration"]["recall"] >= 0.9
    assert bucket["on_calibration"]["false_alarms_per_hour"] <= 2
    assert bucket["on_split"] == measure_threshold(evaluated, label=1, threshold=bucket["threshold"])
    assert excavator["on_split"]["num_positives"] == 3


def test_a_split_with_one_class_leaves_the_other_hazards_without_a_threshold():
    calibration = _split(6, references=[0] * 6)
    points = choose_operating_points(
        calibration, label_names=NAMES, targets=targets_of_labels([], ["Track-Excavator", "Bucket-Worker"])
    )
    assert points["Track-Excavator"].reached
    assert points["Bucket-Worker"] == OperatingPoint(None, "recall>=0.9", reached=False)
    summary = operating_points_summary(
        points, calibration=calibration, evaluated=_split(), label_names=NAMES, split="validation"
    )
    assert summary["labels"]["Bucket-Worker"]["on_calibration"] is None
    assert summary["labels"]["Bucket-Worker"]["on_split"] is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("recall>=0.9", Target("recall", 0.9)),
        ("recall>=.9", Target("recall", 0.9)),
        ("false_alarms_per_hour<=1", Target("false_alarms_per_hour", 1.0)),
        ("Bucket-Worker:recall>=1", Target("recall", 1.0, "Bucket-Worker")),
        ("camera 2: gate:recall>=0.5", Target("recall", 0.5, "camera 2: gate")),
    ],
)
def test_targets_are_read(text, expected):
    assert Target.parse(text) == expected
    assert Target.parse(str(expected)) == Target(expected.figure, expected.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recall", "target must be recall>=0.9, .* got 'recall'"),
        ("recall<=0.9", "target must be .* got 'recall<=0.9'"),
        ("precision>=0.9", "target must be .* got 'precision>=0.9'"),
        ("recall>=high", "target must be .* got 'recall>=high'"),
        ("recall>=90", "target recall must be above 0 and at most 1, got 90"),
        ("recall>=0", "target recall must be above 0 and at most 1, got 0"),
        ("recall>=nan", "target recall must be above 0 and at most 1, got nan"),
        ("false_alarms_per_hour<=-1", "target false_alarms_per_hour must be 0 or more, got -1"),
        ("", "target must be .* got ''"),
    ],
)
def test_targets_that_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Target.parse(text)


def test_each_hazard_takes_its_own_target_then_the_common_one_then_the_default():
    own, common = Target("recall", 0.5, "a"), Target("false_alarms_per_hour", 2.0)
    assert targets_of_labels([common, own], ["a", "b"]) == {"a": own, "b": common}
    assert targets_of_labels([own], ["a", "b"]) == {"a": own, "b": DEFAULT_TARGET}
    with pytest.raises(ValueError, match=r"target Other:recall>=0.5 is for a label that is no hazard .* are a, b"):
        targets_of_labels([Target("recall", 0.5, "Other")], ["a", "b"])
    with pytest.raises(ValueError, match=r"target recall>=0.7 is the second one for a; give one each"):
        targets_of_labels([own, Target("recall", 0.7, "a")], ["a", "b"])
    assert hazard_labels(["a", "b"], None) == ["a", "b"]


def test_splits_that_are_refused():
    scores, references = np.full((2, 2), 0.5), np.array([0, 1])
    with pytest.raises(ValueError, match=r"rows sum to 1, row 0 is .* of sum nan"):
        ScoredSplit(np.array([[np.nan, 0.5], [0.5, 0.5]]), references, np.ones(2))
    with pytest.raises(ValueError, match="durations_seconds must be one a video, got 1 for 2 videos"):
        ScoredSplit(scores, references, np.ones(1))
    with pytest.raises(
        ValueError, match=r"durations_seconds must be 0 or more, or NaN where unknown, got -1.0 in row 1"
    ):
        ScoredSplit(scores, references, np.array([1.0, -1.0]))
