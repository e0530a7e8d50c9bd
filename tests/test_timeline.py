"""Scores over time: smoothing, and events by hysteresis, live and afterwards."""

import csv
import json
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pytest

from railsformer.inference.event_quality import read_true_events
from railsformer.inference.events import (
    EventSettings,
    OnlineEvents,
    find_events,
    prepare_scores,
    read_events,
    write_events,
)
from railsformer.inference.timeline import Smoothing, Timeline, read_timeline, write_timeline

LABELS = ("Bucket-Worker", "Cabin-Worker", "Other")


def timeline(*columns, window=2.0, stride=1.0, starts=None, **about) -> Timeline:
    """A timeline whose first labels have these scores; the last label has what is left."""
    scores = np.zeros((len(columns[0]), len(LABELS)))
    for index, column in enumerate(columns):
        scores[:, index] = column
    scores[:, -1] = 1 - scores[:, :-1].sum(axis=1)
    scores[np.isnan(scores[:, -1])] = np.nan
    starts = np.arange(len(scores)) * stride if starts is None else np.asarray(starts, dtype=float)
    return Timeline(LABELS, starts, starts + window, scores, stride, negative_labels=("Other",), **about)


def spans(events) -> list[tuple[str, float, float]]:
    return [(event.label, round(event.start_seconds, 6), round(event.end_seconds, 6)) for event in events]


def settings(on=0.5, *, off=None, dwell=0.0, gap=0.0, label="Bucket-Worker") -> EventSettings:
    return EventSettings(
        {label: on}, {} if off is None else {label: off}, min_dwell_seconds=dwell, merge_gap_seconds=gap
    )


def test_an_event_is_the_stretch_about_the_middles_of_its_windows() -> None:
    # windows [0, 2), [1, 3) ...; middles 1, 2, ...; rows 3 and 4 stand for 3.5 to 5.5
    line = timeline([0, 0, 0.1, 0.6, 0.9, 0.1, 0, 0])
    (event,) = find_events(line, settings())
    assert (event.start_seconds, event.end_seconds) == (3.5, 5.5)
    assert (event.peak_seconds, event.score) == (5.0, 0.9)
    assert event.alarm_seconds == 5.0  # the end of the window that raised it, [3, 5)
    assert event.start_time is None


def test_events_begin_at_on_and_last_to_off() -> None:
    scores = [0.45, 0.5, 0.45, 0.41, 0.39, 0.45, 0.45]
    assert spans(find_events(timeline(scores), settings(0.5))) == [("Bucket-Worker", 1.5, 4.5)]  # off is .4
    assert spans(find_events(timeline(scores), settings(0.5, off=0.5))) == [("Bucket-Worker", 1.5, 2.5)]
    assert spans(find_events(timeline(scores), settings(0.5, off=0.0))) == [("Bucket-Worker", 1.5, 8.0)]


def test_the_ends_of_the_footage_belong_to_its_outer_windows() -> None:
    assert spans(find_events(timeline([0.9, 0.9, 0.9]), settings())) == [("Bucket-Worker", 0.0, 4.0)]
    assert spans(find_events(timeline([0.9], window=3.0), settings(dwell=3.0))) == [("Bucket-Worker", 0.0, 3.0)]


def test_no_event_outlasts_the_footage() -> None:
    line = Timeline(LABELS, np.arange(3.0), np.array([1, 2, 2.3]), np.tile([0.9, 0, 0.1], (3, 1)), 1.0)
    assert spans(find_events(line, settings())) == [("Bucket-Worker", 0.0, 2.3)]


def test_short_runs_are_no_events_and_do_not_bridge() -> None:
    line = timeline([0, 0.9, 0, 0.9, 0.9, 0.9, 0, 0])
    assert spans(find_events(line, settings(dwell=2.0, gap=5.0))) == [("Bucket-Worker", 3.5, 6.5)]
    assert find_events(line, settings(dwell=2.0, gap=5.0))[0].alarm_seconds == 6.0
    assert find_events(line, settings(dwell=3.5)) == []


def test_events_with_a_short_pause_are_one() -> None:
    line = timeline([0, 0.9, 0, 0, 0.7, 0, 0])
    assert spans(find_events(line, settings(gap=1.9))) == [("Bucket-Worker", 1.5, 2.5), ("Bucket-Worker", 4.5, 5.5)]
    (event,) = find_events(line, settings(gap=2.0))
    assert (event.start_seconds, event.end_seconds, event.score, event.peak_seconds) == (1.5, 5.5, 0.9, 2.0)


def test_labels_do_not_know_each_other() -> None:
    line = timeline([0, 0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5, 0])
    both = EventSettings({"Bucket-Worker": 0.5, "Cabin-Worker": 0.5}, min_dwell_seconds=0)
    assert spans(find_events(line, both)) == [("Bucket-Worker", 1.5, 3.5), ("Cabin-Worker", 2.5, 4.5)]
    assert spans(find_events(line, settings(label="Cabin-Worker"))) == [("Cabin-Worker", 2.5, 4.5)]


def test_windows_that_were_not_scored_end_an_event_at_what_was_seen() -> None:
    line = timeline([0.9, 0.9, np.nan, np.nan, 0.9, 0.9, 0.1])
    assert spans(find_events(line, settings())) == [("Bucket-Worker", 0.0, 3.0), ("Bucket-Worker", 4.0, 6.5)]
    assert spans(find_events(line, settings(gap=1.0))) == [("Bucket-Worker", 0.0, 6.5)]
    assert line.scored.tolist() == [True, True, False, False, True, True, True]
    assert line.watched_seconds == 3 + 4


def test_a_hole_between_windows_is_as_good_as_unscored_ones() -> None:
    line = timeline([0.9, 0.9, 0.9, 0.9], starts=[0, 1, 100, 101])
    assert spans(find_events(line, settings(gap=2.0))) == [
        ("Bucket-Worker", 0.0, 3.0),
        ("Bucket-Worker", 100.0, 103.0),
    ]
    assert line.watched_seconds == 6


def test_windows_with_a_pause_of_up_to_a_stride_follow_each_other() -> None:
    line = timeline([0.9, 0.9, 0.9, 0], window=2.0, stride=4.0)
    assert spans(find_events(line, settings())) == [("Bucket-Worker", 0.0, 11.0)]


def test_a_stride_longer_than_the_window_makes_no_event_longer_than_the_footage() -> None:
    assert spans(find_events(timeline([0.9], window=2.0, stride=1e9), settings())) == [("Bucket-Worker", 0.0, 2.0)]
    line = timeline([0, 0.9, 0.9], window=2.0, stride=4.0)
    assert spans(find_events(line, settings())) == [("Bucket-Worker", 3.0, 10.0)]


def test_smoothing_takes_windows_on_both_sides_or_the_past_alone() -> None:
    line = timeline([0, 0, 0.9, 0, 0])
    centred, known = line.smoothed(Smoothing(2.0))
    np.testing.assert_allclose(centred[:, 0], [0, 0.3, 0.3, 0.3, 0])
    np.testing.assert_allclose(known, [3, 4, 5, 6, 6])
    causal, known = line.smoothed(Smoothing(2.0, causal=True))
    np.testing.assert_allclose(causal[:, 0], [0, 0, 0.45, 0.45, 0])
    np.testing.assert_allclose(known, line.end_seconds)
    median, _ = line.smoothed(Smoothing(2.0, kind="median"))
    np.testing.assert_allclose(median[:, 0], 0)
    np.testing.assert_array_equal(line.smoothed(Smoothing())[0], line.scores)


def test_smoothing_does_not_reach_over_what_was_not_seen() -> None:
    line = timeline([0.9, 0.9, np.nan, 0.1, 0.1])
    np.testing.assert_allclose(line.smoothed(Smoothing(10.0))[0][:, 0], [0.9, 0.9, np.nan, 0.1, 0.1])
    apart = timeline([0.9, 0.9, 0.1, 0.1], starts=[0, 1, 100, 101])
    np.testing.assert_allclose(apart.smoothed(Smoothing(500.0))[0][:, 0], [0.9, 0.9, 0.1, 0.1])


def test_an_alarm_waits_for_the_windows_that_its_smoothing_looks_at() -> None:
    line = timeline([0, 0, 0, 0.9, 0.9, 0.9, 0, 0, 0])
    late = find_events(line, settings(dwell=2.0), smoothing=Smoothing(2.0))[0]
    assert late.alarm_seconds == find_events(line, settings(dwell=2.0))[0].alarm_seconds + 1.0


@pytest.mark.parametrize("seed", range(30))
def test_live_events_equal_those_found_afterwards(seed: int) -> None:
    rng = np.random.default_rng(seed)
    number = 300
    steps = rng.normal(0, 0.2, (number, 2)).cumsum(axis=0)
    scores = 0.25 + 0.24 * np.sin(steps)
    scores[rng.random(number) < 0.03] = np.nan
    starts = np.arange(number) * 0.5
    starts += np.cumsum((rng.random(number) < 0.02) * rng.uniform(0, 20, number))  # holes
    line = timeline(*scores.T, window=float(rng.choice([0.4, 2.0])), stride=0.5, starts=starts)
    how = EventSettings(
        {"Cabin-Worker": 0.35, "Bucket-Worker": 0.3},
        min_dwell_seconds=float(rng.choice([0, 1, 2.5])),
        merge_gap_seconds=float(rng.choice([0, 1, 4])),
    )
    smoothing = Smoothing(float(rng.choice([0, 1, 3])), kind=str(rng.choice(["mean", "median"])), causal=True)
    live = OnlineEvents(LABELS, how, stride_seconds=0.5, smoothing=smoothing)
    changes = []
    for row, start, end in zip(line.scores, line.start_seconds, line.end_seconds, strict=True):
        changes += live.add(row, start_seconds=start, end_seconds=end)
    changes += live.finish()
    ended = sorted((change.event for change in changes if change.kind == "ended"), key=lambda e: e.start_seconds)
    found = find_events(line, how, smoothing=smoothing)
    assert sorted(ended, key=lambda e: (e.start_seconds, e.label)) == sorted(
        found, key=lambda e: (e.start_seconds, e.label)
    )
    assert found
    raised = [change.event for change in changes if change.kind == "raised"]
    assert sorted((e.label, e.start_seconds, e.alarm_seconds) for e in raised) == sorted(
        (e.label, e.start_seconds, e.alarm_seconds) for e in ended
    )
    for label in how.on:  # events of a label do not overlap, and pauses within the merge gap are gone
        own = [event for event in found if event.label == label]
        pauses = [after.start_seconds - before.end_seconds for before, after in pairwise(own)]
        assert all(pause > how.merge_gap_seconds for pause in pauses)


def test_an_alarm_is_raised_at_its_dwell_and_ended_after_its_merge_gap() -> None:
    live = OnlineEvents(LABELS, settings(dwell=2.0, gap=2.0), stride_seconds=1.0)
    kinds = []
    for index, score in enumerate([0, 0.9, 0.9, 0.9, 0, 0, 0, 0, 0]):
        changes = live.add(np.array([score, 0, 1 - score]), start_seconds=index, end_seconds=index + 2)
        kinds.append([change.kind for change in changes])
        assert live.active_labels == (["Bucket-Worker"] if index in (2, 3) else [])
    assert kinds == [[], [], ["raised"], [], [], [], [], ["ended"], []]


def test_a_stream_that_is_lost_ends_its_event_unless_it_comes_back_soon() -> None:
    def lose(until: float) -> list[str]:
        live = OnlineEvents(LABELS, settings(gap=3.0), stride_seconds=1.0)
        changes = live.add(np.array([0.9, 0, 0.1]), start_seconds=0, end_seconds=2)
        changes += live.interrupt(2.5) + live.interrupt(until)
        changes += live.add(np.array([0.9, 0, 0.1]), start_seconds=until, end_seconds=until + 2) + live.finish()
        return [change.kind for change in changes]

    assert lose(4.0) == ["raised", "ended"]
    assert lose(9.0) == ["raised", "ended", "raised", "ended"]


def test_thresholds_sweep_over_scores_prepared_once() -> None:
    line = timeline([0, 0.3, 0.6, 0.9, 0.6, 0.3, 0])
    prepared = prepare_scores(line, Smoothing(2.0))
    for on in (0.3, 0.5, 0.65):
        assert find_events(prepared, settings(on)) == find_events(line, settings(on), smoothing=Smoothing(2.0))


def test_a_timeline_is_read_as_it_was_written(tmp_path) -> None:
    line = timeline(
        [0.1, np.nan, 1 / 3],
        video="yard/gate.mp4",
        model="run",
        camera="gate",
        start_time=datetime(2026, 3, 1, 6, 30, tzinfo=UTC),
        thresholds={"Bucket-Worker": 0.4},
    )
    write_timeline(tmp_path, line)
    again = read_timeline(tmp_path)
    np.testing.assert_array_equal(again.scores, line.scores)
    np.testing.assert_array_equal(again.start_seconds, line.start_seconds)
    for name in (
        "labels",
        "stride_seconds",
        "video",
        "model",
        "camera",
        "start_time",
        "thresholds",
        "negative_labels",
    ):
        assert getattr(again, name) == getattr(line, name)
    assert again.wall_clock(61.5) == "2026-03-01T06:31:01.500+00:00"


def test_events_are_written_as_json_and_as_a_table(tmp_path) -> None:
    line = timeline([0, 0.9, 0.9, 0], video="gate.mp4", camera="gate", start_time=datetime(2026, 3, 1, 23, 59, 59))
    how, smoothing = settings(gap=1.0), Smoothing(1.0)
    events = find_events(line, how)
    write_events(tmp_path, line, events, how, smoothing=smoothing)
    content = json.loads((tmp_path / "events.json").read_text())
    assert content["version"] == 1
    assert (content["video"], content["camera"]) == ("gate.mp4", "gate")
    assert content["events"][0]["start_time"] == "2026-03-02T00:00:00.500"
    assert read_events(tmp_path) == (events, EventSettings(how.on, {"Bucket-Worker": 0.4}, 0.0, 1.0), smoothing)
    with (tmp_path / "events.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["video", "label", "start_seconds", "end_seconds"]
    assert (list(rows[0])[-1], rows[0]["camera"]) == ("camera", "gate")
    assert [true.start_seconds for true in read_true_events(tmp_path / "events.csv")] == [1.5]
    assert [(row["video"], row["label"], row["start_seconds"]) for row in rows] == [
        ("gate.mp4", "Bucket-Worker", "1.5")
    ]


@pytest.mark.parametrize(
    "damage", [{"peak_seconds": "2.5"}, {"score": float("nan")}, {"start_seconds": None}, {"label": 3}]
)
def test_an_event_of_other_than_text_and_numbers_is_no_event(tmp_path, damage) -> None:
    line = timeline([0, 0.9, 0.9, 0])
    path = write_events(tmp_path, line, find_events(line, settings()), settings())
    content = json.loads(path.read_text())
    content["events"][0] |= damage
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"is no whole events\.json \({next(iter(damage))} must be"):
        read_events(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}', '{"version": 1, "events": [{}]}'])
def test_damaged_files_are_named(tmp_path, text: str) -> None:
    (tmp_path / "events.json").write_text(text)
    (tmp_path / "scores.parquet").write_text(text)
    with pytest.raises(ValueError, match=r"events\.json is no whole"):
        read_events(tmp_path)
    with pytest.raises(ValueError, match=r"scores\.parquet is no whole timeline"):
        read_timeline(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"absent.* is not there"):
        read_timeline(tmp_path / "absent")


def test_bad_settings_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"on threshold of A must be above 0 and at most 1, got 1.5"):
        EventSettings({"A": 1.5})
    with pytest.raises(ValueError, match=r"off threshold of A must be 0 to its on threshold 0.5, got 0.6"):
        EventSettings({"A": 0.5}, {"A": 0.6})
    with pytest.raises(ValueError, match="min_dwell_seconds must be 0 or more, got -1"):
        EventSettings({}, min_dwell_seconds=-1)
    with pytest.raises(ValueError, match="a label 'Fire' that the scores do not have"):
        find_events(timeline([0.5]), EventSettings({"Fire": 0.5}))
    with pytest.raises(ValueError, match="must be causal"):
        OnlineEvents(LABELS, settings(), stride_seconds=1, smoothing=Smoothing(2.0))
    with pytest.raises(ValueError, match="smooth_seconds must be 0 or more"):
        Smoothing(-1)


def test_a_timeline_refuses_what_cannot_be_scores() -> None:
    with pytest.raises(ValueError, match="must follow each other in time"):
        timeline([0.5, 0.5], starts=[1, 1])
    with pytest.raises(ValueError, match="NaN in all of a row"):
        Timeline(("A", "B"), np.zeros(1), np.ones(1), np.array([[np.nan, 1.0]]), 1.0)
    with pytest.raises(ValueError, match="one score a label"):
        Timeline(("A", "B"), np.zeros(1), np.ones(1), np.ones((1, 3)), 1.0)


def test_a_timeline_without_windows_has_no_events() -> None:
    empty = Timeline(LABELS, np.empty(0), np.empty(0), np.empty((0, 3)), 1.0)
    assert find_events(empty, settings(), smoothing=Smoothing(2.0)) == []
    assert empty.watched_seconds == 0
