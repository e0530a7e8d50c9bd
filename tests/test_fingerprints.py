import os
import pickle

import numpy as np
import pytest
from moving_scenes import remux, scene, write_scene
from videos import write_video

from railsformer.data.copies.fingerprints import (
    BACKGROUND_SIZE,
    THUMBNAIL_SIZE,
    Fingerprint,
    SegmentOfFile,
    fingerprint_video,
    fingerprint_videos,
    load_fingerprint,
    save_fingerprint,
)
from railsformer.data.video import VideoDecodeError


def _same(first, second):
    return (
        first.exact_hash == second.exact_hash
        and first.num_frames == second.num_frames
        and np.array_equal(first.times_seconds, second.times_seconds)
        and np.array_equal(first.thumbnails, second.thumbnails)
        and np.array_equal(first.background, second.background)
    )


def test_a_re_muxed_copy_with_other_times_has_the_same_hash(tmp_path):
    original = write_video(tmp_path / "a.mp4")
    copy = remux(original, tmp_path / "copy of a.mkv", later_seconds=7.5)
    assert copy.read_bytes() != original.read_bytes()
    assert _same(fingerprint_video(original), fingerprint_video(copy))


def test_one_picture_more_or_another_encoding_has_another_hash(tmp_path):
    hashes = {
        fingerprint_video(path).exact_hash
        for path in (
            write_video(tmp_path / "a.mp4", num_frames=12),
            write_video(tmp_path / "b.mp4", num_frames=13),
            write_video(tmp_path / "c.mp4", num_frames=12, crf=40),
            write_video(tmp_path / "d.mp4", num_frames=12, first_number=1),
        )
    }
    assert len(hashes) == 4


def test_thumbnails_show_the_pictures_four_times_a_second(tmp_path):
    pictures = scene(camera=1, motion=2, seconds=3)
    found = fingerprint_video(write_scene(tmp_path / "a.mp4", pictures, crf=10))
    assert found.num_frames == 24
    assert found.times_seconds.tolist() == [index / 4 for index in range(12)]
    assert found.thumbnails.shape == (12, *THUMBNAIL_SIZE)
    assert found.thumbnails.dtype == np.float16
    grey = pictures[2:4].astype(float) @ [0.299, 0.587, 0.114]
    expected = grey.mean(axis=0).reshape(24, 5, 32, 5).mean(axis=(1, 3))
    assert np.abs(found.thumbnails[1] - expected).mean() < 6


def test_a_single_odd_picture_does_not_show(tmp_path):
    clean = np.full((24, 120, 160, 3), 120, dtype=np.uint8)
    clean[:, 40:80, 40:80] = 220
    odd = clean.copy()
    odd[0] = 0
    first, second = (write_scene(tmp_path / name, p, fps=12) for name, p in (("a.mp4", clean), ("b.mp4", odd)))
    difference = fingerprint_video(first).thumbnails - fingerprint_video(second).thumbnails
    assert np.abs(difference).max() < 4


def test_the_background_is_what_most_pictures_of_a_long_video_show(tmp_path):
    pictures = np.full((480, 72, 96, 3), 100, dtype=np.uint8)  # a minute
    pictures[100:200] = 30
    pictures[:, :36] = 180
    found = fingerprint_video(write_scene(tmp_path / "a.mp4", pictures, size=(96, 72), crf=10)).background
    assert (found.shape, found.dtype) == (BACKGROUND_SIZE, np.uint8)
    assert np.abs(found[:34].astype(float) - 180).max() < 4
    assert np.abs(found[38:].astype(float) - 100).max() < 4


def test_gaps_in_time_are_left_out(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=4, times_seconds=[0.0, 0.1, 2.0, 100.0])
    assert fingerprint_video(path).times_seconds.tolist() == [0.0, 2.0, 100.0]


@pytest.mark.parametrize("start_seconds", [0.5, 8.0])  # the second is reached by a seek
def test_a_segment_has_the_hash_of_its_pictures_alone(tmp_path, start_seconds):
    long = write_video(tmp_path / "long.mp4", num_frames=120, gop=10)
    end_seconds = start_seconds + 2
    part = fingerprint_video(long, start_seconds=start_seconds, end_seconds=end_seconds)
    assert part.num_frames == 20
    assert part.times_seconds[0] == 0
    again = remux(long, tmp_path / "again.mkv", later_seconds=3)
    assert _same(part, fingerprint_video(again, start_seconds=start_seconds, end_seconds=end_seconds))


def test_a_segment_behind_the_end_is_refused(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    with pytest.raises(VideoDecodeError, match="not one picture could be decoded from 50 s to 60 s"):
        fingerprint_video(path, start_seconds=50, end_seconds=60)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.mp4: no such video file"):
        fingerprint_video(tmp_path / "none.mp4")


def test_a_fingerprint_survives_storing_and_pickling(tmp_path):
    found = fingerprint_video(write_video(tmp_path / "a.mp4"))
    save_fingerprint(tmp_path / "a.npz", found)
    assert _same(load_fingerprint(tmp_path / "a.npz"), found)
    assert _same(pickle.loads(pickle.dumps(found)), found)
    assert [path.name for path in tmp_path.glob("*.partial")] == []


def test_a_torn_file_is_named(tmp_path):
    save_fingerprint(tmp_path / "a.npz", fingerprint_video(write_video(tmp_path / "a.mp4")))
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"a.npz is not a fingerprint file; delete it"):
        load_fingerprint(tmp_path / "a.npz")


def test_many_files_come_in_order_with_errors_among_them(tmp_path):
    good = [write_video(tmp_path / f"{number}.mp4", first_number=number) for number in range(3)]
    (tmp_path / "bad.mp4").write_text("no video")
    paths = [good[0], tmp_path / "bad.mp4", good[1], tmp_path / "none.mp4", good[2]]
    found = fingerprint_videos([SegmentOfFile(path) for path in paths], num_workers=2)
    kinds = [Fingerprint, VideoDecodeError, Fingerprint, VideoDecodeError, Fingerprint]
    assert [type(item) for item in found] == kinds
    assert _same(found[4], fingerprint_video(good[2]))


def test_a_file_that_takes_too_long_is_given_up(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=200, width=320, height=240)
    (error,) = fingerprint_videos([SegmentOfFile(path)], record=tmp_path / "record", timeout_seconds=1e-6)
    assert isinstance(error, VideoDecodeError)
    assert error.reason_class == "timeout"
    assert error.path == path
    (found,) = fingerprint_videos([SegmentOfFile(path)], record=tmp_path / "record")
    assert _same(found, fingerprint_video(path))


def test_segments_of_one_file_and_one_named_twice_come_in_order(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=40)
    segments = [SegmentOfFile(path, 2.0, 4.0), SegmentOfFile(path), SegmentOfFile(path, 2.0, 4.0)]
    late, whole, again = fingerprint_videos(segments, num_workers=2)
    assert (late.num_frames, whole.num_frames) == (20, 40)
    assert _same(late, again)


def test_a_size_that_changes_half_way_does_not_disturb_the_thumbnails(tmp_path):
    parts = [
        write_video(tmp_path / f"{width}.ts", width=width, height=width * 3 // 4, num_frames=20) for width in (64, 128)
    ]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    found = fingerprint_video(both, salvage=True).thumbnails
    assert len(found) == 16
    for part, shown in zip(parts, (found[:8], found[8:]), strict=True):
        assert np.array_equal(shown, fingerprint_video(part).thumbnails)


def test_a_record_is_used_again_until_the_file_changes(tmp_path):
    path, record = write_video(tmp_path / "a.mp4"), tmp_path / "record"
    (first,) = fingerprint_videos([SegmentOfFile(path)], record=record)
    (stored,) = record.iterdir()
    written = stored.stat().st_mtime_ns
    (second,) = fingerprint_videos([SegmentOfFile(path)], record=record)
    assert stored.stat().st_mtime_ns == written
    assert _same(first, second)
    write_video(path, first_number=9)
    os.utime(path, ns=(1, 1))
    (third,) = fingerprint_videos([SegmentOfFile(path)], record=record)
    assert third.exact_hash != first.exact_hash


def test_a_torn_record_is_made_again(tmp_path):
    path, record = write_video(tmp_path / "a.mp4"), tmp_path / "record"
    (first,) = fingerprint_videos([SegmentOfFile(path)], record=record)
    (stored,) = record.iterdir()
    stored.write_bytes(stored.read_bytes()[:100])
    (second,) = fingerprint_videos([SegmentOfFile(path)], record=record)
    assert _same(first, second)
    assert _same(load_fingerprint(stored), first)
