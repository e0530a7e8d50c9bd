"""Events against what truly happened: counted by hand."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from railsformer.evaluation.intervals import poisson_rate_interval, wilson_interval
from railsformer.inference.event_quality import (
    TIOU_AVERAGED,
    TrueEvent,
    WatchedVideo,
    measure_events,
    read_true_events,
    sweep_events,
    temporal_average_precision,
    temporal_iou,
)
from railsformer.inference.event_report import evaluate_events, event_table
from railsformer.inference.events import Event, EventSettings, find_events, prepare_scores, write_events
from railsformer.inference.timeline import Smoothing, Timeline, write_timeline

LABELS = ("Fall", "Fire", "Other")
HAZARDS = ("Fall", "Fire")


def event(start: float, end: float, score: float = 0.9, *, label: str = "Fall", alarm: float | None = None) -> Event:
    return Event(label, start, end, (start + end) / 2, score, start + 1 if alarm is None else alarm)


def true(start: float, end: float, label: str = "Fall", video: str = "a.mp4") -> TrueEvent:
    return TrueEvent(video, label, start, end)


def blank(seconds: float = 3600, video: str = "a.mp4") -> Timeline:
    """Hours in which nothing has a score."""
    count = int(seconds)
    scores = np.tile([0.0, 0.0, 1.0], (count, 1))
    return Timeline(
        LABELS, np.arange(count), np.arange(count) + 1.0, scores, 1.0, video=video, negative_labels=("Other",)
    )


def watched(
    events: Sequence[Event], truth: Sequence[TrueEvent], *, seconds: float = 3600, video: str = "a.mp4"
) -> WatchedVideo:
    return WatchedVideo(prepare_scores(blank(seconds, video)), tuple(truth), tuple(events))


def fall(*args, **kwargs):
    return measure_events([watched(*args, **kwargs)], HAZARDS)["per_label"]["Fall"]


def test_found_missed_false_and_repeats_are_counted() -> None:
    events = [event(9, 12), event(14, 16), event(100, 110), event(205, 206)]
    figures = fall(events, [true(10, 20), true(50, 60), true(200, 210)])
    counts = ("num_events", "num_found", "num_alarms", "num_false_alarms", "num_repeats")
    assert [figures[name] for name in counts] == [3, 2, 4, 1, 1]
    assert figures["recall"] == pytest.approx(2 / 3)
    hours = (3600 - 30) / 3600
    assert figures["hours"] == pytest.approx(hours)
    assert figures["false_alarms_per_hour"] == pytest.approx(1 / hours)
    assert figures["false_seconds_per_hour"] == pytest.approx((10 + 1) / hours)  # 100 to 110 and 9 to 10
    assert figures["intervals"]["recall"] is None  # fewer than five events say nothing
    assert figures["intervals"]["false_alarms_per_hour"] == poisson_rate_interval(1, hours)


def test_recall_has_wilsons_interval() -> None:
    truth = [true(100 * index, 100 * index + 10) for index in range(1, 11)]
    figures = fall([event(e.start_seconds, e.end_seconds) for e in truth[:9]], truth)
    assert figures["recall"] == 0.9
    assert figures["intervals"]["recall"] == wilson_interval(9, 10)


def test_an_alarm_that_never_ends_finds_one_event() -> None:
    figures = fall([event(0, 3600)], [true(10, 20), true(50, 60), true(200, 210)])
    assert (figures["num_found"], figures["num_false_alarms"]) == (1, 0)
    assert figures["false_seconds_per_hour"] == pytest.approx(3600)


def test_as_many_events_as_possible_are_found() -> None:
    # The long alarm touches both true events, the short one the first alone: the long one must take the second.
    figures = fall([event(5, 60), event(10, 20)], [true(10, 20), true(50, 60)])
    assert (figures["num_found"], figures["num_repeats"]) == (2, 0)


def test_an_alarm_of_another_label_is_false() -> None:
    figures = measure_events([watched([event(10, 20, label="Fire")], [true(10, 20)])], HAZARDS)
    assert figures["per_label"]["Fall"]["num_found"] == 0
    assert figures["per_label"]["Fire"]["num_false_alarms"] == 1
    assert figures["per_label"]["Fire"]["recall"] is None
    assert figures["overall"]["num_false_alarms"] == 1
    assert figures["overall"]["hours"] == 1.0


def test_a_true_event_that_was_not_watched_takes_no_time_from_the_watch() -> None:
    figures = fall([event(100, 110)], [true(3500, 3650), true(7200, 7260)])  # an hour was watched
    assert figures["hours"] == pytest.approx((3600 - 100) / 3600)


def test_videos_are_kept_apart_and_added_up() -> None:
    one = watched([event(10, 20)], [], video="a.mp4")
    two = watched([], [true(10, 20, video="b.mp4")], video="b.mp4", seconds=7200)
    figures = measure_events([one, two], HAZARDS)["overall"]
    assert (figures["num_found"], figures["num_false_alarms"], figures["hours"]) == (0, 1, 3.0)


def test_touching_is_not_overlapping_unless_tolerated() -> None:
    videos = [watched([event(20, 30)], [true(10, 20)])]
    assert measure_events(videos, HAZARDS)["overall"]["num_found"] == 0
    assert measure_events(videos, HAZARDS, tolerance_seconds=0.5)["overall"]["num_found"] == 1
    with pytest.raises(ValueError, match="tolerance_seconds must be 0 or more, got -1"):
        measure_events(videos, HAZARDS, tolerance_seconds=-1)


def test_time_to_alarm_counts_from_onset_to_the_first_alarm() -> None:
    events = [event(11, 12, alarm=13), event(14, 15, alarm=18), event(49, 60, alarm=49.5), event(120, 130, alarm=124)]
    delays = fall(events, [true(10, 20), true(50, 60), true(120, 130)])["seconds_to_alarm"]
    assert delays["median"] == pytest.approx(3.0)  # of 3, -.5 and 4
    assert delays["percentile_90"] == pytest.approx(3.8)
    assert fall([], [true(10, 20)])["seconds_to_alarm"] == {"median": None, "percentile_90": None}


def test_temporal_iou_by_hand() -> None:
    starts, ends = np.array([0.0, 5, 10, 2]), np.array([10.0, 15, 20, 4])
    np.testing.assert_allclose(temporal_iou(0, 10, starts, ends), [1, 5 / 15, 0, 0.2])


def test_average_precision_by_hand() -> None:
    # by score: hit (IoU 1), miss, hit (IoU .8), a second one on the first event; precisions 1, 1/2, 2/3, 2/4
    events = [event(0, 10, 0.9), event(300, 310, 0.8), event(50, 58, 0.7), event(0, 9, 0.6)]
    videos = [watched(events, [true(0, 10), true(50, 60), true(500, 510)])]
    assert temporal_average_precision(videos, "Fall", tiou=0.5) == pytest.approx((1 + 2 / 3) / 3)
    assert temporal_average_precision(videos, "Fall", tiou=0.8) == pytest.approx((1 + 2 / 3) / 3)
    assert temporal_average_precision(videos, "Fall", tiou=0.85) == pytest.approx(1 / 3)
    assert temporal_average_precision(videos, "Fire", tiou=0.5) is None
    assert temporal_average_precision([watched([], [true(0, 1)])], "Fall", tiou=0.5) == 0.0


def test_a_taken_event_leaves_the_next_best_to_a_later_alarm() -> None:
    # Both alarms overlap the first true event most; the second alarm takes the other, which it overlaps enough, too.
    videos = [watched([event(0, 10, 0.9), event(1, 11, 0.8)], [true(0, 10), true(4, 14)])]
    assert temporal_average_precision(videos, "Fall", tiou=0.5) == pytest.approx(1.0)
    assert temporal_average_precision(videos, "Fall", tiou=0.6) == pytest.approx(0.5)


def test_map_is_the_mean_over_hazards_that_happened() -> None:
    videos = [watched([event(0, 10)], [true(0, 10), true(50, 60, "Fire")])]
    precision = measure_events(videos, HAZARDS)["overall"]["average_precision"]
    assert precision == {"0.3": 0.5, "0.5": 0.5, "0.7": 0.5, "mean": 0.5}
    assert TIOU_AVERAGED == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    third = measure_events([watched([event(0, 7.2)], [true(0, 10)])], HAZARDS)["overall"]["average_precision"]
    assert third == {"0.3": 1.0, "0.5": 1.0, "0.7": 1.0, "mean": pytest.approx(0.5)}  # at .5 to .7, five of ten
    nothing = measure_events([watched([event(0, 10)], [])], HAZARDS)["overall"]
    assert nothing["average_precision"] == {"0.3": None, "0.5": None, "0.7": None, "mean": None}


def shift(video: str = "yard/a.mp4", *, seed: int = 0) -> tuple[Timeline, list[TrueEvent]]:
    """Ten minutes with true falls at 100 and 300 s, scored well, and a weak false peak at 500 s."""
    line = blank(600, video)
    scores = np.random.default_rng(seed).uniform(0, 0.2, (600, 3))
    for start, height in ((100, 0.9), (300, 0.7), (500, 0.5)):
        scores[start : start + 10, 0] = height
    scores[:, 2] = 1 - scores[:, :2].sum(axis=1)
    return replace(line, scores=scores), [true(100, 110, video=video), true(300, 310, video=video)]


def test_a_sweep_equals_a_search_at_each_point() -> None:
    line, truth = shift()
    videos = [WatchedVideo(prepare_scores(line), tuple(truth))]
    settings = EventSettings({"Fall": 0.6, "Fire": 0.6}, {"Fall": 0.3}, min_dwell_seconds=1.0)
    rows = sweep_events(videos, HAZARDS, settings, thresholds=(0.4, 0.8, 0.95), dwells_seconds=(5.0, 20.0))
    falls = {(row["threshold"], row["min_dwell_seconds"]): row for row in rows if row["label"] == "Fall"}
    assert set(falls) == {(on, dwell) for on in (0.4, 0.6, 0.8, 0.95) for dwell in (1.0, 5.0, 20.0)}
    assert [key for key, row in falls.items() if row["chosen"]] == [(0.6, 1.0)]
    counts = {key: (row["num_found"], row["num_false_alarms"]) for key, row in falls.items()}
    assert [counts[on, 5.0] for on in (0.4, 0.6, 0.8, 0.95)] == [(2, 1), (2, 0), (1, 0), (0, 0)]
    assert counts[0.4, 20.0] == (0, 0)
    for (on, dwell), row in falls.items():
        how = EventSettings({"Fall": on}, {"Fall": on / 2}, dwell)
        figures = measure_events([replace(videos[0], events=tuple(find_events(line, how)))], HAZARDS)
        for name in ("recall", "false_alarms_per_hour", "false_seconds_per_hour"):
            assert row[name] == figures["per_label"]["Fall"][name]
    assert {row["recall"] for row in rows if row["label"] == "Fire"} == {None}


@pytest.fixture
def folders(tmp_path):
    """Two watched videos and the table of truth."""
    settings, rows = EventSettings({"Fall": 0.6, "Fire": 0.9}), []
    for name in ("yard/a.mp4", "yard/b.mp4"):
        line, truth = shift(name, seed=len(rows))
        folder = tmp_path / name.replace("/", "_")
        folder.mkdir()
        write_timeline(folder, line)
        write_events(folder, line, find_events(line, settings), settings, smoothing=Smoothing(2.0))
        rows += [(e.video, e.label, e.start_seconds, e.end_seconds) for e in truth]
    write_truth(tmp_path / "truth.csv", rows)
    return tmp_path


def write_truth(path, rows) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("video", "label", "start_seconds", "end_seconds"), *rows])


def evaluate(folders, truth: str = "truth.csv", output: str = "out"):
    return evaluate_events(
        folders / truth, timelines=[folders / "yard_a.mp4", folders / "yard_b.mp4"], output_dir=folders / output
    )


def test_the_report_holds_figures_mistakes_and_the_sweep(folders) -> None:
    content = evaluate(folders)
    assert json.loads((folders / "out" / "event_metrics.json").read_text()) == content
    assert {path.name for path in (folders / "out").iterdir()} == {
        "event_metrics.json",
        "mistakes.csv",
        "sweep.csv",
        "sweep.png",
    }
    assert (content["overall"]["num_events"], content["overall"]["num_found"]) == (4, 4)
    assert content["settings"]["smoothing"]["width_seconds"] == 2.0
    with (folders / "out" / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4 * 19  # labels, dwells, thresholds; .6 and .9 are in the grid
    text = event_table(content)
    assert "Fall" in text
    assert "1.00" in text


def test_mistakes_are_listed_to_be_looked_at(folders) -> None:
    write_truth(folders / "other.csv", [("a.mp4", "Fall", 100, 110), ("a.mp4", "Fire", 200, 205)])
    evaluate(folders, "other.csv")
    with (folders / "out" / "mistakes.csv").open(newline="") as file:
        rows = [tuple(row.values())[:3] for row in csv.DictReader(file)]
    assert rows == [
        ("false_alarm", "yard/a.mp4", "Fall"),
        ("missed", "yard/a.mp4", "Fire"),
        ("false_alarm", "yard/b.mp4", "Fall"),
        ("false_alarm", "yard/b.mp4", "Fall"),
    ]


def test_rows_of_negative_labels_are_left_out_and_counted(folders) -> None:
    write_truth(folders / "other.csv", [("a.mp4", "Fall", 100, 110), ("b.mp4", "Other", 0, 50)])
    assert evaluate(folders, "other.csv")["negative_rows_left_out"] == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("c.mp4", "Fall", 1, 2), r"video 'c\.mp4' is that of no timeline"),
        (("a.mp4", "Flood", 1, 2), r"label 'Flood' of a\.mp4 is none of the model's \(Fall, Fire, Other\)"),
        (("a.mp4", "Fall", "x", 2), "line 2: start_seconds and end_seconds must be numbers, got 'x' and '2'"),
        (("a.mp4", "Fall", 5, 2), "line 2: an event must end after it starts, at 0 or later, got 5 to 2"),
        (("", "Fall", 1, 2), "line 2: video and label must be given"),
        (("a.mp4", "Fall", 1), "line 2: start_seconds and end_seconds must be numbers"),
    ],
)
def test_bad_rows_are_named(folders, row, message: str) -> None:
    write_truth(folders / "bad.csv", [row])
    with pytest.raises(ValueError, match=message):
        evaluate(folders, "bad.csv")
    assert not (folders / "out").exists()


def test_bad_tables_are_named(tmp_path) -> None:
    (tmp_path / "truth.csv").write_text("video,label\na.mp4,Fall\n")
    with pytest.raises(ValueError, match="start_seconds is missing"):
        read_true_events(tmp_path / "truth.csv")
    (tmp_path / "truth.csv").write_bytes(b"video,label,start_seconds,end_seconds\n\xff\xfe,a,1,2\n")
    with pytest.raises(ValueError, match="is no CSV table in UTF-8"):
        read_true_events(tmp_path / "truth.csv")
    with pytest.raises(FileNotFoundError, match="no such table of true events; --events names a CSV with video"):
        read_true_events(tmp_path / "absent.csv")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read_true_events(tmp_path)


def test_timelines_that_do_not_belong_together_are_refused(folders) -> None:
    line, _ = shift("yard/b.mp4")
    how = EventSettings({"Fall": 0.5})
    write_events(folders / "yard_b.mp4", line, find_events(line, how), how)
    with pytest.raises(ValueError, match="was watched with other thresholds"):
        evaluate(folders)
    with pytest.raises(ValueError, match=r"two timelines are of yard/a\.mp4"):
        evaluate_events(folders / "truth.csv", timelines=[folders / "yard_a.mp4"] * 2, output_dir=folders / "twice")
    write_timeline(folders / "yard_b.mp4", replace(line, labels=("Fall", "Flood", "Other")))
    with pytest.raises(ValueError, match=r"yard_b\.mp4 has the labels Fall, Flood, Other"):
        evaluate(folders)
