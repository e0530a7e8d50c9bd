import csv

import numpy as np
import pytest
from live_sources import scene
from PIL import Image, ImageFilter

from railsformer.data.video import iterate_frames, upright_rgb
from railsformer.inference.blindness import BlindnessSettings, BlindnessWatch

LEARN = 60  # looks of half a second


def look(watch, picture_of, *, first, looks=80):
    """Show pictures half a second apart; the reasons given, in order and without repeats."""
    reasons = []
    for index in range(first, first + looks):
        reason = watch.push(picture_of(index), index * 0.5)
        if not reasons or reasons[-1] != reason:
            reasons.append(reason)
    return reasons


@pytest.fixture
def learnt():
    watch = BlindnessWatch()
    assert look(watch, lambda index: scene("idle", index), first=0, looks=LEARN) == [None]
    assert watch.has_reference
    return watch


def dim(picture, gain):
    return np.clip(picture * gain, 0, 255).astype(np.uint8)


def noisy(index, level):
    noise = np.random.default_rng(index).normal(level, 4, (120, 160, 1))
    return np.clip(noise, 0, 255).astype(np.uint8).repeat(3, axis=2)


def blurred(picture):
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(20)))


def behind_a_hand(index):
    picture = scene("idle", index).copy()
    picture[:108] = noisy(index, 60)[:108]
    return picture


def with_a_train(index):
    """A train of 40 % of the picture's width goes through it, on and on."""
    picture = scene("idle", index).copy()
    left = index * 9 % 220 - 60
    picture[40:100, max(0, left) : max(0, left + 64)] = 150 + 40 * (np.arange(60)[:, None, None] // 6 % 2)
    return picture


@pytest.mark.parametrize(
    ("picture_of", "reason"),
    [
        (lambda index: noisy(index, 6), "black"),
        (lambda index: noisy(index, 120), "covered"),
        (lambda index: noisy(index, 230), "covered"),
        (lambda index: blurred(scene("idle", index)), "covered"),
        (behind_a_hand, "covered"),
        (lambda index: scene("idle", 0), "frozen"),
        (lambda index: scene("moved", index), "moved"),
        (lambda index: np.ascontiguousarray(scene("idle", index)[:, ::-1]), "moved"),
    ],
)
def test_a_camera_that_goes_blind_is_told_with_the_reason(learnt, picture_of, reason):
    assert look(learnt, picture_of, first=LEARN)[-1] == reason
    assert learnt.since_seconds >= LEARN * 0.5
    assert look(learnt, lambda index: scene("idle", index), first=LEARN + 80)[-1] is None  # and that it sees again


@pytest.mark.parametrize(
    "picture_of",
    [
        lambda index: scene("idle", index),
        lambda index: scene("hazard", index),
        with_a_train,
        lambda index: dim(scene("idle", index), 0.4),  # lamps go out
        lambda index: dim(scene("idle", index), max(0.3, 1 - (index - LEARN) * 0.02)),  # dusk
        lambda index: dim(scene("idle", index), 0.6 + 0.4 * (index // 4 % 2)),  # a lamp that flickers
    ],
)
def test_light_trains_and_people_are_no_blindness(learnt, picture_of):
    assert look(learnt, picture_of, first=LEARN) == [None]


def test_black_and_covered_need_no_reference():
    assert look(BlindnessWatch(), lambda index: noisy(index, 6), first=0, looks=10)[-1] == "black"
    assert look(BlindnessWatch(), lambda index: noisy(index, 120), first=0, looks=30)[-1] == "covered"


def test_what_does_not_last_does_not_count(learnt):
    assert look(learnt, lambda index: noisy(index, 6), first=LEARN, looks=5) == [None]
    assert learnt.sees_nothing  # but nothing is seen meanwhile
    assert look(learnt, lambda index: scene("idle", index), first=LEARN + 5, looks=5) == [None]
    assert not learnt.sees_nothing


def test_a_camera_that_stays_moved_stays_blind(learnt):
    assert look(learnt, lambda index: scene("moved", index), first=LEARN, looks=600)[-1] == "moved"


def test_a_camera_that_is_meant_to_turn_is_not_blind_for_it():
    watch = BlindnessWatch(BlindnessSettings(watch_moved=False))
    look(watch, lambda index: scene("idle", index), first=0, looks=LEARN)
    assert look(watch, lambda index: scene("moved", index), first=LEARN) == [None]


def test_a_reference_outlives_a_break_and_what_lasts_is_counted_anew(learnt):
    look(learnt, lambda index: scene("idle", 0), first=LEARN, looks=39)
    learnt.interrupt()
    assert look(learnt, lambda index: scene("idle", 0), first=LEARN + 39, looks=39) == [None]
    assert look(learnt, lambda index: scene("moved", index), first=LEARN + 80)[-1] == "moved"


def test_it_wants_a_few_pictures_a_second_only():
    watch = BlindnessWatch(BlindnessSettings(every_seconds=0.5))
    taken = []
    for index in range(100):
        if watch.wanted(index / 25):
            watch.push(scene("idle", index), index / 25)
            taken.append(index)
    assert len(taken) == 8


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="frozen_seconds must be a positive number of seconds, got 0"):
        BlindnessSettings(frozen_seconds=0)


@pytest.mark.slow
def test_real_cameras_are_not_blind_until_they_are_turned(tankyard):
    rows = list(csv.DictReader((tankyard / "clips.csv").open()))
    for camera in sorted({row["camera"] for row in rows}):
        name = [row["file_name"] for row in rows if row["camera"] == camera][1]
        shown, last = [], -1.0
        for seconds, frame in iterate_frames(tankyard / name):
            if seconds >= last + 0.4999:
                shown.append(upright_rgb(frame))
                last = seconds
        shown += shown[-2:0:-1]  # to and fro
        watch = BlindnessWatch()
        there = [picture[24:-24, 32:-32] for picture in shown]
        turned = [picture[24:-24, 48:-16] for picture in shown]
        assert look(watch, lambda index, of=there: of[index % len(of)], first=0) == [None], name
        assert look(watch, lambda index, of=turned: of[index % len(of)], first=80)[-1] == "moved", name
