"""The most confident mistakes, and what confusions cost."""

import math

import numpy as np
import pytest

from railsformer.evaluation.mistakes import MOST_MISTAKES, confident_mistakes, cost_figures, read_costs

LABELS = ["bucket", "cabin", "other"]


def _mistakes(probabilities, references, **columns):
    count = len(references)
    return confident_mistakes(
        np.array(probabilities),
        np.array(references),
        label_names=LABELS,
        videos=[f"{index}.mp4" for index in range(count)],
        files=[f"data/test/{index}.mp4" for index in range(count)],
        columns={"group": ["yard"] * count, **columns},
        durations_seconds=[2.5] * (count - 1) + [math.nan],
    )


def test_the_surest_mistake_stands_first_and_right_answers_and_unread_videos_nowhere():
    nan = math.nan
    found = _mistakes(
        [[0.9, 0.05, 0.05], [0.6, 0.3, 0.1], [nan, nan, nan], [0.1, 0.1, 0.8]],
        [0, 1, 2, 1],
        start_seconds=[0.0, 3.0, 0.0, 7.0],
        end_seconds=[2.5, 5.5, 2.5, None],
    )
    assert [row for row, _ in found] == [3, 1]
    assert found[1][1] == {
        "video": "1.mp4",
        "file": "data/test/1.mp4",
        "label": "cabin",
        "prediction": "bucket",
        "score": 0.6,
        "label_score": 0.3,
        "duration_seconds": 2.5,
        "start_seconds": 3.0,
        "end_seconds": 5.5,
        "group": "yard",
    }
    assert found[0][1]["duration_seconds"] is found[0][1]["end_seconds"] is None


def test_only_so_many_mistakes_are_listed():
    assert len(_mistakes([[0.5, 0.3, 0.2]] * 40, [1] * 40)) == MOST_MISTAKES


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "costs.csv"
    path.write_text("true,other,bucket,cabin\nbucket,100,0,5\nother,0,1,1.5\n\ncabin,50,5,0\n", encoding="utf-8")
    return path


def test_costs_are_read_by_name_whatever_their_order(table):
    assert read_costs(table, label_names=LABELS).tolist() == [[0, 5, 100], [5, 0, 50], [1, 1.5, 0]]


def test_confusions_are_ranked_by_what_they_cost(table):
    found = cost_figures(read_costs(table, label_names=LABELS), [[3, 2, 1], [0, 4, 0], [20, 0, 9]], LABELS)
    assert found["total"] == 2 * 5 + 100 + 20
    assert found["per_video"] == pytest.approx(130 / 39)
    assert [(one["label"], one["prediction"], one["cost"]) for one in found["confusions"]] == [
        ("bucket", "other", 100.0),
        ("other", "bucket", 20.0),
        ("bucket", "cabin", 10.0),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (",bucket,cabin\nbucket,0,1\ncabin,1,0\n", "its columns miss 'other'"),
        (",bucket,cabin,other\nbucket,0,1,1\ncabin,1,0,1\n", "its rows miss 'other'"),
        (",bucket,cabin,crane\n", "its columns name 'crane', which the model does not know"),
        (",bucket,cabin,other,bucket\n", "its columns name 'bucket' twice"),
        (",bucket,cabin,other\nbucket,0,1\ncabin,1,0,1\nother,1,1,0\n", "row 'bucket' must have 3 costs, got 2"),
        (",bucket,cabin,other\nbucket,0,-1,1\ncabin,1,0,1\nother,1,1,0\n", "bucket as cabin: a cost must be a number"),
        (",bucket,cabin,other\nbucket,0,much,1\ncabin,1,0,1\nother,1,1,0\n", "0 or more, got 'much'"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "costs.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_costs(path, label_names=LABELS)


def test_a_table_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "costs.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be read"):
        read_costs(path, label_names=LABELS)
