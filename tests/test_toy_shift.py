"""Shifts of the toy yard: what the table says is what moves."""

import csv
from itertools import pairwise

import av
import numpy as np
import pytest

from railsformer.data.toy_shift import plan_shift, render_toy_shifts
from railsformer.data.toy_yard import HAZARDS, plan_recording
from railsformer.data.yard_scene import project_boxes
from railsformer.inference.event_quality import read_true_events

MOVERS = {"track_excavator": "excavator", "bucket_worker": "excavator.bucket", "cabin_worker": "worker"}


@pytest.mark.parametrize("index", range(3))
def test_hazards_are_when_the_mover_moves_towards(index: int) -> None:
    shift = plan_shift(5, index=index, duration_seconds=600, hazards=5)
    assert shift.scene_name == list(HAZARDS)[index]
    towards = [motion for motion in shift.motions if motion.direction == "towards"]
    assert [motion.label for motion in towards] == [HAZARDS[shift.scene_name]] * 5
    assert {motion.label for motion in shift.motions if motion.direction == "away"} == {"Other"}
    for before, after in pairwise(shift.motions):
        assert after.start_seconds - before.end_seconds >= 12 - 1e-9
        assert before.direction != after.direction
    # at each motion's start the mover is where the one before it ended, and half way it is elsewhere
    mover = next(actor for actor in shift.scene.actors if actor.name == MOVERS[shift.scene_name].split(".")[0])
    _, clips = plan_recording(5, index=index)
    clip = next(c for c in clips if c.scene_name == shift.scene_name and c.direction == "towards")
    far, near = next(a for a in clip.scene.actors if a.name == mover.name).keyframes
    for motion in shift.motions:
        begin, end = mover.poses(np.array([motion.start_seconds, motion.end_seconds]))
        places = [(key.x, key.y, key.slew, key.reach) for key in (far, near)]
        if motion.direction == "away":
            places.reverse()
        np.testing.assert_allclose([begin, end], places, atol=1e-9)


def test_nothing_near_moves_between_motions() -> None:
    for index in range(3):
        shift = plan_shift(2, index=index, duration_seconds=400, hazards=3)
        times = np.arange(0, 400, 0.25)
        moving = np.zeros(len(times), dtype=bool)
        for motion in shift.motions:
            moving |= (times >= motion.start_seconds - 0.25) & (times <= motion.end_seconds + 0.25)
        track = project_boxes(shift.scene, times_seconds=times)[MOVERS[shift.scene_name]]
        centres = np.array([np.nan if box is None else (box[0] + box[2]) / 2 for box in track])
        steps = np.abs(np.diff(centres))
        assert np.nanmax(steps[~moving[1:]], initial=0) < 4  # a trembling arm, in px
        assert np.nanmax(steps[moving[1:]]) > 4


def test_a_shift_is_a_function_of_its_arguments() -> None:
    assert plan_shift(1, index=4) == plan_shift(1, index=4)
    assert plan_shift(1, index=4) != plan_shift(2, index=4)
    assert plan_shift(1, index=4, fps=8).scene.camera.fps == 8
    assert plan_shift(1, index=0, hazards=0).motions == ()
    seconds = sum(m.end_seconds - m.start_seconds for m in plan_shift(1, index=0).motions)
    assert seconds < 0.05 * 1200  # mostly idle


def test_shifts_that_cannot_be_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"at least 42\.2 s for each of its hazards, got 100 s for 8"):
        plan_shift(0, index=0, duration_seconds=100)
    with pytest.raises(ValueError, match="num_shifts must be at least 1"):
        render_toy_shifts(tmp_path, num_shifts=0)


def test_rendered_shifts_show_what_their_table_says(tmp_path) -> None:
    how = {"num_shifts": 2, "seed": 3, "duration_seconds": 50, "hazards": 1, "fps": 4, "progress": False}
    table = render_toy_shifts(tmp_path, num_workers=1, **how)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["direction"] for row in rows] == ["towards", "away"] * 2
    assert [event.label for event in read_true_events(table)] == ["Track-Excavator", "Other", "Bucket-Worker", "Other"]
    for name in {row["video"] for row in rows}:
        with av.open(str(tmp_path / name)) as container:
            pictures = np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)]).astype(int)
        assert len(pictures) == 200
        change = np.abs(pictures[4:] - pictures[:-4])
        activity = (change > 40).mean(axis=(1, 2))
        seconds = np.arange(len(activity)) / 4
        motions = [row for row in rows if row["video"] == name]
        inside = np.zeros(len(activity), dtype=bool)
        for row in motions:
            inside |= (seconds > float(row["start_seconds"]) - 1) & (seconds < float(row["end_seconds"]))
        assert activity[inside].max() > 2 * activity[~inside].max()
    first = (tmp_path / rows[0]["video"]).stat().st_mtime_ns
    table.unlink()
    render_toy_shifts(tmp_path, num_workers=1, **how)  # what was rendered stays
    assert (tmp_path / rows[0]["video"]).stat().st_mtime_ns == first
    with pytest.raises(FileExistsError, match="name another folder"):  # the videos would not show what it tells
        render_toy_shifts(tmp_path, num_workers=1, **{**how, "duration_seconds": 60})
