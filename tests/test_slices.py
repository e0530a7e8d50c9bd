"""Parts of a split: how numbers are cut, what is left out, which part is the worst."""

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from railsformer.evaluation.intervals import bootstrap_intervals, wilson_interval
from railsformer.evaluation.operating_points import ScoredSplit, measure_threshold
from railsformer.evaluation.slices import choose_columns, measure_slices, worst_slice

LABELS = ["hazard", "other"]


def _measure(columns, references, predictions, names):
    return measure_slices(columns, np.array(references), np.array(predictions), label_names=LABELS, names=names)


def test_the_figures_of_a_slice_are_those_of_its_videos_alone():
    rng = np.random.default_rng(0)
    cameras = rng.choice(["a", "b", "c"], 90).tolist()
    references, predictions = rng.integers(0, 2, 90), rng.integers(0, 2, 90)
    found = _measure({"camera": cameras}, references, predictions, ["camera"])
    assert {one["value"] for one in found} == {"a", "b", "c"}
    for one in found:
        inside = np.array(cameras) == one["value"]
        true, guess = references[inside], predictions[inside]
        assert one["num_videos"] == inside.sum() == sum(one["supports"].values())
        assert one["accuracy"] == pytest.approx(accuracy_score(true, guess))
        assert one["f1_macro"] == pytest.approx(f1_score(true, guess, average="macro"))
        assert one["interval"][0] < one["accuracy"] < one["interval"][1]


def test_a_label_that_a_slice_lacks_has_no_recall_and_no_weight():
    (one,) = _measure({"camera": ["a"] * 6}, [0] * 6, [0, 0, 0, 0, 0, 1], ["camera"])
    assert one["recall"] == {"hazard": pytest.approx(5 / 6), "other": None}
    assert one["balanced_accuracy"] == pytest.approx(5 / 6)
    assert one["f1_macro"] == pytest.approx(2 * 5 / 11)


def test_numbers_are_cut_into_four_parts_of_equally_many_videos():
    seconds = [float(value) for value in range(1, 41)]
    found = _measure({"seconds": seconds}, [0] * 40, [0] * 40, ["seconds"])
    assert sorted(one["num_videos"] for one in found) == [10, 10, 10, 10]
    assert {one["value"] for one in found} == {"1 to 10", "11 to 20", "21 to 30", "31 to 40"}


def test_few_numbers_are_values_and_empty_cells_a_part_of_their_own():
    columns = {"fps": [10, 25, 25, None, math.nan, 10], "light": [3.5] * 9 + [None]}
    fps = _measure({"fps": columns["fps"]}, [0] * 6, [0] * 6, ["fps"])
    assert {one["value"]: one["num_videos"] for one in fps} == {"10": 2, "25": 2, "(none)": 2}
    light = _measure({"light": columns["light"]}, [0] * 10, [0] * 10, ["light"])
    assert {one["value"]: one["num_videos"] for one in light} == {"3.5": 9, "(none)": 1}


def test_whole_numbers_name_cameras_and_dates():
    cameras = [number for number in range(1, 10) for _ in range(6)]
    found = _measure({"camera": cameras}, [0] * 54, [0] * 54, ["camera"])
    assert {one["value"]: one["num_videos"] for one in found} == {str(number): 6 for number in range(1, 10)}
    dates = [20240101, 20240102, 1700000000001, 1700000000002]
    found = _measure({"date": dates * 5}, [0] * 20, [0] * 20, ["date"])
    assert {one["value"] for one in found} == {str(date) for date in dates}


def test_parts_of_numbers_that_lie_close_together_keep_names_of_their_own():
    found = _measure({"serial": list(range(1_000_000, 1_000_040))}, [0] * 40, [0] * 40, ["serial"])
    assert {one["value"]: one["num_videos"] for one in found} == {
        f"{1_000_000 + first} to {1_000_009 + first}": 10 for first in (0, 10, 20, 30)
    }


def test_the_worst_slice_stands_first_and_has_enough_videos():
    cameras = ["tiny"] * 2 + ["bad"] * 5 + ["good"] * 5
    references = [0, 1, *[0, 1, 0, 1, 0] * 2]
    predictions = [1, 0, *[0] * 5, 0, 1, 0, 1, 0]
    found = _measure({"camera": cameras}, references, predictions, ["camera"])
    assert [one["value"] for one in found] == ["bad", "good", "tiny"]
    assert worst_slice(found) == {
        "column": "camera",
        "value": "bad",
        "f1_macro": pytest.approx(found[0]["f1_macro"]),
        "num_videos": 5,
    }
    assert found[-1]["interval"] is None  # two videos say nothing


def test_a_column_of_one_value_has_no_worst_part():
    assert worst_slice(_measure({"camera": ["a"] * 9}, [0] * 9, [0] * 9, ["camera"])) is None
    assert worst_slice([]) is None


def test_by_default_columns_that_cut_into_a_few_parts_are_taken_once():
    columns = {
        "group": ["a", "a", "b", "b"] * 10,
        "camera": ["a", "a", "b", "b"] * 10,  # cuts as group does
        "source": [f"{index}.mp4" for index in range(40)],
        "note": [f"note {index}" for index in range(40)],  # names every video
        "site": ["yard"] * 40,
        "start_seconds": [0.0] * 40,
        "light": [float(index) for index in range(40)],
        "night": [True, False] * 20,
    }
    assert choose_columns(columns) == ["group", "light", "night"]
    assert choose_columns(columns, ["note", "camera", "note"]) == ["note", "camera"]


@pytest.mark.parametrize(("name", "message"), [("grup", "did you mean 'group'"), ("fps", "fps could not be measured")])
def test_a_column_that_is_not_there_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        choose_columns({"group": ["a"], "note": ["b"]}, [name])


def _cameras(num_cameras, each=20, seed=0):
    """Videos whose camera decides how well they are recognised: scores, references, cameras, and light by turns."""
    rng = np.random.default_rng(seed)
    cameras = np.repeat(np.arange(num_cameras), each)
    references = rng.integers(0, 2, len(cameras))
    logits = np.where(references == 0, 1.0, -1.0) * rng.normal(1.0, 1.0, num_cameras)[cameras]
    scores = 1 / (1 + np.exp(-logits - rng.normal(size=len(cameras))))
    columns = {
        "camera": [f"c{camera}" for camera in cameras],
        "light": ["dark" if number % 3 == 0 else "day" for number in range(len(cameras))],
        "side": ["north" if camera < 2 else "south" for camera in cameras],
        "site": ["yard"] * len(cameras),
    }
    return np.stack([scores, 1 - scores], axis=1), references, columns


def _found(num_cameras, **options):
    scores, references, columns = _cameras(num_cameras)
    evaluated = ScoredSplit(scores, references, np.full(len(references), 10.0), columns["camera"])
    found = measure_slices(
        columns,
        references,
        scores.argmax(axis=1),
        label_names=LABELS,
        names=list(columns),
        groups=columns["camera"],
        evaluated=evaluated,
        thresholds={"hazard": 0.6},
        **options,
    )
    return {(one["column"], one["value"]): one for one in found}, evaluated, columns


def test_a_slice_is_as_sure_as_its_cameras_agree():
    found, evaluated, columns = _found(12)
    whole = bootstrap_intervals(evaluated.scores, evaluated.references, columns["camera"], label_names=LABELS)
    assert found["site", "yard"]["interval"] == whole["figures"]["accuracy"]  # the report contradicts itself nowhere
    at_threshold = measure_threshold(evaluated, label=0, threshold=0.6)
    assert found["site", "yard"]["points"]["hazard"] == at_threshold
    for value in ("dark", "day"):
        one = found["light", value]
        low, high = one["interval"]
        naive = wilson_interval(round(one["accuracy"] * one["num_videos"]), one["num_videos"])
        assert (one["method"], one["num_groups"]) == ("groups", 12)
        assert low < one["accuracy"] < high
        assert high - low > naive[1] - naive[0]
        assert one["points"]["hazard"]["intervals"]["recall"] is not None


def test_a_slice_of_few_cameras_is_too_few_to_say():
    north = _found(12)[0]["side", "north"]
    assert (north["num_videos"], north["num_groups"], north["method"]) == (40, 2, "groups")
    assert north["interval"] is None
    assert set(north["points"]["hazard"]["intervals"].values()) == {None}
    assert north["points"]["hazard"]["recall"] is not None


def test_a_camera_is_told_of_itself_and_of_no_other():
    found, evaluated, columns = _found(12)
    for camera in sorted(set(columns["camera"])):
        one, inside = found["camera", camera], np.array(columns["camera"]) == camera
        assert (one["method"], one["num_groups"]) == ("clips", 1)
        assert one["interval"] == wilson_interval(round(one["accuracy"] * 20), 20)
        assert one["points"]["hazard"] == measure_threshold(evaluated.of(inside), label=0, threshold=0.6)
        assert one["points"]["hazard"]["num_positives"] == one["supports"]["hazard"]


def test_few_cameras_in_all_leave_clips_to_draw():
    found, _, _ = _found(4)
    assert {one["method"] for one in found.values()} == {"clips"}
    assert found["light", "dark"]["num_groups"] == 4
    assert found["side", "north"]["interval"] is not None
