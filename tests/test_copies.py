import csv

import numpy as np
import pytest
from moving_scenes import FPS, HEIGHT, WIDTH, remux, scene, write_scene

from railsformer.data.copies.alignment import WHOLE, Stretch, Window, agreements, warp
from railsformer.data.copies.clusters import Copies, NearCopy
from railsformer.data.copies.fingerprints import SegmentOfFile, fingerprint_video, fingerprint_videos
from railsformer.data.copies.search import find_copies


def _prints(paths):
    return fingerprint_videos([SegmentOfFile(path) for path in paths], num_workers=1)


@pytest.fixture(scope="module")
def one_camera(tmp_path_factory):
    """Twelve videos of one camera in which different things happen."""
    folder = tmp_path_factory.mktemp("one_camera")
    return [write_scene(folder / f"{motion}.mp4", scene(camera=0, motion=motion)) for motion in range(12)]


@pytest.fixture(scope="module")
def one_camera_prints(one_camera):
    return _prints(one_camera)


def test_different_events_before_one_camera_are_no_copies(one_camera_prints):
    assert find_copies(one_camera_prints) == Copies()


def _crop(pictures, share):
    top, left = round(HEIGHT * share), round(WIDTH * share)
    return pictures[:, top : HEIGHT - top, left : WIDTH - left]


def _contrast(pictures, factor, added=0):
    return np.clip((pictures.astype(float) - 128) * factor + 128 + added, 0, 255).astype(np.uint8)


WAYS = {
    "re-encoded": (lambda p: p, {"crf": 38}, 0.0),
    "another codec": (lambda p: p, {"codec": "mpeg4"}, 0.0),
    "half the size": (lambda p: p, {"size": (80, 60)}, 0.0),
    "brighter": (lambda p: _contrast(p, 1.0, 40), {}, 0.0),
    "less contrast": (lambda p: _contrast(p, 0.6), {}, 0.0),
    "cropped": (lambda p: _crop(p, 0.05), {}, 0.0),
    "cropped more": (lambda p: _crop(p, 0.1), {}, 0.0),
    "a second later": (lambda p: p[FPS:], {}, 1.0),
    "two and an eighth seconds later": (lambda p: p[2 * FPS + 1 :], {}, 2.125),
    "half the rate": (lambda p: p[::2], {"fps": FPS // 2}, 0.0),
    "all at once": (
        lambda p: _contrast(_crop(p, 0.05), 0.8, 15)[FPS:],
        {"size": (120, 90), "crf": 30},
        1.0,
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_planted_copy_is_joined_with_its_original_alone(one_camera_prints, tmp_path, way):
    change, options, later = WAYS[way]
    copy = write_scene(tmp_path / "copy.mkv", change(scene(camera=0, motion=4)), **options)
    copies = find_copies([*one_camera_prints, fingerprint_video(copy)])
    assert copies.exact == ()
    (pair,) = copies.near
    assert (pair.first, pair.second) == (4, 12)
    assert pair.offset_seconds == pytest.approx(later, abs=0.2)
    assert 0.75 < pair.similarity <= 1
    assert copies.clusters() == [(4, 12)]


def test_exact_copies_make_clusters_and_are_no_near_pairs(one_camera, one_camera_prints, tmp_path):
    renamed = [remux(one_camera[number], tmp_path / f"copy_{number}.mkv", later_seconds=2) for number in (3, 3, 7)]
    copies = find_copies([*one_camera_prints, *_prints(renamed)])
    assert copies.exact == ((3, 12, 13), (7, 14))
    assert copies.near == ()


def test_a_near_copy_is_one_of_every_exact_copy(one_camera, one_camera_prints, tmp_path):
    renamed = remux(one_camera[3], tmp_path / "renamed.mkv", later_seconds=2)
    coded = write_scene(tmp_path / "coded.mp4", scene(camera=0, motion=3), crf=35)
    copies = find_copies([*one_camera_prints, fingerprint_video(renamed), fingerprint_video(coded)])
    assert [(pair.first, pair.second) for pair in copies.near] == [(3, 13), (12, 13)]
    assert copies.clusters() == [(3, 12, 13)]


@pytest.mark.slow
def test_an_excerpt_of_a_longer_video_is_found_where_it_lies(tmp_path):
    long = scene(camera=0, motion=5, seconds=75)
    paths = [
        write_scene(tmp_path / "long.mp4", long),
        write_scene(tmp_path / "part.mp4", long[61 * FPS : 67 * FPS], crf=30),  # across the end of a stretch
        write_scene(tmp_path / "other.mp4", scene(camera=0, motion=6)),
    ]
    (pair,) = find_copies(_prints(paths)).near
    assert (pair.first, pair.second) == (0, 1)
    assert pair.offset_seconds == pytest.approx(61, abs=0.2)


def test_the_same_motion_before_another_background_is_no_copy(tmp_path):
    paths = [write_scene(tmp_path / f"{camera}.mp4", scene(camera=camera, motion=1)) for camera in range(3)]
    assert find_copies(_prints(paths)).near == ()


def test_still_videos_are_joined_only_if_they_look_the_same(tmp_path):
    still = scene(camera=0, motion=None)
    changed = still.copy()
    changed[:, 30:70, 40:90] = 230  # a wagon stands there
    paths = [
        write_scene(tmp_path / "a.mp4", still),
        write_scene(tmp_path / "b.mp4", still, crf=30),
        write_scene(tmp_path / "c.mp4", changed),
    ]
    copies = find_copies(_prints(paths))
    (pair,) = copies.near
    assert (pair.first, pair.second, pair.still) == (0, 1, True)
    assert copies.too_still == (0, 1, 2)


def _gamma(pictures, exponent):
    return (255 * (pictures / 255.0) ** exponent).astype(np.uint8)


STILL_WAYS = {
    "cropped": lambda p: _crop(p, 0.05),
    "cropped more": lambda p: _crop(p, 0.1),
    "cropped at a corner": lambda p: p[:, 12:, 16:],
    "brighter": lambda p: _contrast(p, 1.0, 40),
    "darker": lambda p: _contrast(p, 1.0, -40),
    "more contrast": lambda p: _contrast(p, 1.4),
    "lighter shadows": lambda p: _gamma(p, 0.7),
    "cropped and brighter": lambda p: _contrast(_crop(p, 0.07), 1.0, 25),
}


@pytest.fixture(scope="module")
def still_prints(tmp_path_factory):
    """A still scene; the same one with a wagon, and with it elsewhere; with a person; three other cameras."""
    folder = tmp_path_factory.mktemp("still")
    empty = scene(camera=0, motion=None, seconds=3)
    wagon, moved, person = empty.copy(), empty.copy(), empty.copy()
    wagon[:, 30:70, 40:90] = 230
    moved[:, 30:70, 60:110] = 230
    person[:, 60:90, 20:30] = 20
    others = [scene(camera=camera, motion=None, seconds=3) for camera in (1, 2, 3)]
    shown = [empty, wagon, moved, person, *others]
    return _prints([write_scene(folder / f"{number}.mp4", each) for number, each in enumerate(shown)])


def test_other_moments_and_other_cameras_are_no_copies_where_nothing_moves(still_prints):
    assert find_copies(still_prints).near == ()


@pytest.mark.parametrize("way", STILL_WAYS)
def test_a_planted_copy_of_a_still_video_is_joined_with_its_original_alone(still_prints, tmp_path, way):
    pictures = STILL_WAYS[way](scene(camera=0, motion=None, seconds=3))
    copy = write_scene(tmp_path / "copy.mp4", pictures, crf=28)
    (pair,) = find_copies([*still_prints, fingerprint_video(copy)]).near
    assert (pair.first, pair.second, pair.still) == (0, 7, True)


def test_somebody_who_walks_through_a_still_scene_makes_another_moment(tmp_path):
    empty = scene(camera=0, motion=None)
    walked = empty.copy()
    for number, picture in enumerate(walked):
        picture[50:62, 20 + 2 * number : 25 + 2 * number] = 250
    paths = [write_scene(tmp_path / "empty.mp4", empty), write_scene(tmp_path / "walked.mp4", walked)]
    assert find_copies(_prints(paths)).near == ()


def test_black_pictures_are_not_compared(tmp_path):
    black = np.zeros((2 * FPS, HEIGHT, WIDTH, 3), dtype=np.uint8)
    paths = [
        write_scene(tmp_path / f"{number}.mp4", np.concatenate([black, scene(camera=0, motion=number)]))
        for number in range(4)
    ]
    paths.append(write_scene(tmp_path / "black.mp4", np.concatenate([black, black])))
    paths.append(write_scene(tmp_path / "longer_black.mp4", np.concatenate([black, black, black])))
    copies = find_copies(_prints(paths))
    assert copies.near == ()
    assert copies.too_still == (4, 5)


def test_very_short_videos_are_judged_by_their_pictures(tmp_path):
    paths = [
        write_scene(tmp_path / "a.mp4", scene(camera=0, motion=None)[:1]),
        write_scene(tmp_path / "b.mp4", scene(camera=0, motion=None)[:3]),
        write_scene(tmp_path / "c.mp4", scene(camera=1, motion=1)[:5]),
        write_scene(tmp_path / "d.mp4", scene(camera=0, motion=None)),
    ]
    copies = find_copies(_prints(paths))
    assert [(pair.first, pair.second) for pair in copies.near] == [(0, 1), (0, 3), (1, 3)]


def _stretches(prints):
    return [Stretch.of(found.thumbnails) for found in prints]


def test_pairs_that_are_aligned_together_come_out_as_each_does_alone(one_camera_prints):
    stretches = _stretches(one_camera_prints[:4])
    pairs = [(first, second) for first in stretches for second in stretches]
    settings = {"noise": 4.0}
    together = agreements(pairs, starts=[WHOLE] * 16, min_overlaps=[8] * 16, **settings)
    for pair, found in zip(pairs, together, strict=True):
        (alone,) = agreements([pair], starts=[WHOLE], min_overlaps=[8], **settings)
        assert found.offset == alone.offset
        assert found.background == pytest.approx(alone.background, abs=1e-5)
        assert found.motion == pytest.approx(alone.motion, abs=1e-4)
    assert [round(together[5 * number].background, 4) for number in range(4)] == [1.0] * 4
    assert agreements([], starts=[], min_overlaps=[], **settings) == []


@pytest.mark.parametrize(
    "window", [Window(0.06, 1.0, 0.0, 0.95), Window(0.1, 0.9, 0.1, 0.9), Window(-0.05, 1.0, 0.0, 1.08)]
)
def test_a_window_is_found_again(one_camera_prints, window):
    thumbnails = one_camera_prints[4].thumbnails.astype(np.float32)
    shown, known = warp(thumbnails, window)
    shown = np.where(known, shown, thumbnails)  # what lies outside is not known, so anything
    pair = (Stretch.of(shown), Stretch.of(thumbnails))
    (found,) = agreements([pair], starts=[WHOLE], min_overlaps=[8], noise=4.0)
    assert found.offset == 0
    assert found.background > 0.995
    assert found.motion > 0.97


def test_one_video_and_none_have_no_copies(one_camera_prints):
    assert find_copies([]) == Copies()
    assert find_copies(one_camera_prints[:1]) == Copies()


def test_clusters_join_what_is_joined_through_others():
    near = (NearCopy(1, 9, 0.9, 0.0), NearCopy(4, 6, 0.9, 0.0))
    assert Copies(exact=((2, 9), (5, 7, 8)), near=near).clusters() == [(1, 2, 9), (4, 6), (5, 7, 8)]


@pytest.mark.slow
def test_the_exact_copies_of_tankyard(tankyard):
    with (tankyard / "clips.csv").open(encoding="utf-8") as file:
        names = [row["file_name"] for row in csv.DictReader(file)]
    ids = ("09f549920471d0c4", "cee1d552e1285c78", "134f0e3814a13c42", "db19a33c9016c296", "08949455", "00934894")
    chosen = [name for name in names if name.split("/")[1].startswith(ids)]
    copies = find_copies(_prints([tankyard / name for name in chosen]))
    clusters = [sorted(chosen[row].split("/")[1][:16] for row in cluster) for cluster in copies.exact]
    assert sorted(clusters) == [["09f549920471d0c4", "cee1d552e1285c78"], ["134f0e3814a13c42", "db19a33c9016c296"]]
