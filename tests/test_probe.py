import json
import os
import signal
import subprocess
import sys
import time
import wave

import av
import pytest
from PIL import Image
from videos import frame_number, number_picture, write_playlists, write_video

from railsformer.data.probe import VideoFacts, VideoLimits, probe_video, probe_videos
from railsformer.data.video import VideoDecodeError


def test_facts_of_a_plain_file(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=15, fps=10, width=64, height=48)
    assert probe_video(path) == VideoFacts(
        duration_seconds=1.5,
        num_frames=15,
        fps=10.0,
        width=64,
        height=48,
        codec="h264",
        file_name="a.mp4",
        num_bytes=path.stat().st_size,
        pixel_format="yuv420p",
        variable_rate=False,
        num_frames_claimed=15,
        first_seconds=0.0,
        last_seconds=1.4,
    )


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi", ".h264"])
def test_a_glance_at_a_whole_file_finds_the_same(tmp_path, suffix):
    codec = "mpeg4" if suffix == ".avi" else "libx264"
    path = write_video(tmp_path / f"a{suffix}", num_frames=50, fps=10, gop=12, codec=codec)
    assert probe_video(path, thorough=False) == probe_video(path)


def test_irregular_times_count_from_first_to_last(tmp_path):
    path = write_video(tmp_path / "a.mkv", num_frames=4, times_seconds=[1.0, 1.1, 2.0, 3.0])
    facts = probe_video(path)
    assert facts.num_frames == 4
    assert facts.duration_seconds == pytest.approx(2.0, abs=0.2)  # whatever the last picture lasts


@pytest.mark.parametrize(("suffix", "codec"), [(".avi", "mpeg4"), (".mkv", "libx264"), (".mpeg", "mpeg1video")])
def test_containers(tmp_path, suffix, codec):
    facts = probe_video(write_video(tmp_path / f"a{suffix}", num_frames=25, fps=25, codec=codec))
    assert facts.num_frames == 25
    assert facts.duration_seconds == pytest.approx(1.0, abs=0.05)


def test_files_that_are_no_videos(tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    empty = tmp_path / "empty.mp4"
    empty.touch()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(write_video(tmp_path / "whole.mp4").read_bytes()[:400])
    sound = tmp_path / "sound.mp4"
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", "not compressed"))
        file.writeframes(bytes(32_000))
    classes = {"text.mp4": "unreadable", "empty.mp4": "empty", "cut.mp4": "unreadable", "sound.mp4": "no_video"}
    classes |= {"absent.mp4": "missing", tmp_path.name: "missing"}
    for path, reason in [
        (text, "FFmpeg says 'Invalid data found"),
        (empty, r"the file is empty \(0 bytes\)"),
        (cut, "FFmpeg says"),
        (sound, r"it holds no video \(audio only\)"),
        (tmp_path / "absent.mp4", "there is no such file"),
        (tmp_path, "there is no such file"),
    ]:
        with pytest.raises(VideoDecodeError, match=reason) as caught:
            probe_video(path)
        assert caught.value.path == path
        assert caught.value.reason_class == classes[path.name]
        assert str(caught.value) == f"{path}: {caught.value.reason}"
        assert "\n" not in str(caught.value)


def test_lists_of_other_files_are_no_videos(tmp_path):
    for path in write_playlists(tmp_path):
        with pytest.raises(VideoDecodeError, match=r"it is a list of other files|Invalid data found"):
            probe_video(path)
    with pytest.raises(VideoDecodeError, match=r"concat\.mp4: it is a list of other files or a kind that is not read"):
        probe_video(tmp_path / "concat.mp4")
    photo = tmp_path / "photo.mp4"
    Image.new("RGB", (64, 48)).save(photo, format="JPEG")
    with pytest.raises(VideoDecodeError, match="a kind that is not read, not a video"):
        probe_video(photo)


def test_a_file_that_is_cut_off_is_named(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", num_frames=40, gop=10, header_first=True)
    assert probe_video(whole).num_frames == 40
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[:-500])
    for thorough in (True, False):
        with pytest.raises(VideoDecodeError, match=r"it is cut off: 26 of 40 pictures are there") as caught:
            probe_video(cut, thorough=thorough)
        assert caught.value.reason_class == "truncated"
    facts = probe_video(cut, salvage=True)
    assert 20 <= facts.num_frames <= 26
    assert facts.duration_seconds == pytest.approx(facts.num_frames / 10, abs=0.5)
    assert facts.num_frames_claimed == 40


def test_a_change_of_size_half_way_is_named(tmp_path):
    parts = [write_video(tmp_path / f"{width}.ts", num_frames=20, gop=5, width=width) for width in (64, 96)]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(VideoDecodeError, match="its picture size changes from 64x48 to 96x48 half way") as caught:
        probe_video(both)
    assert caught.value.reason_class == "size_changes"
    facts = probe_video(both, salvage=True)
    # the clock begins again in the second part
    assert (facts.num_frames, facts.width, facts.duration_seconds) == (40, 64, 4.0)


def test_damage_in_the_middle_is_found_and_skipped(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=60, gop=10, header_first=True)
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    damaged = bytearray(path.read_bytes())
    for position, size in packets[30:33]:
        damaged[position : position + size] = b"\xff" * size
    path.write_bytes(damaged)
    with pytest.raises(VideoDecodeError, match=r"Invalid data .*keep what decodes with --on_bad salvage") as caught:
        probe_video(path)
    assert caught.value.reason_class == "damaged"
    facts = probe_video(path, salvage=True)
    assert facts.damaged_packets == 3
    assert 50 <= facts.num_frames <= 57  # one of the three may be a key picture, of which others live
    assert facts.duration_seconds == 6.0


def test_limits(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=30, fps=10)
    assert probe_video(path, limits=VideoLimits(max_pixels=64 * 48, max_seconds=3, max_frames=30)).num_frames == 30
    for limits, reason_class in [
        (VideoLimits(max_pixels=64 * 48 - 1), "too_large"),
        (VideoLimits(max_seconds=2.5), "too_long"),
        (VideoLimits(max_frames=29), "too_long"),
    ]:
        for options in ({"thorough": True}, {"thorough": False}, {"salvage": True}):
            with pytest.raises(VideoDecodeError) as caught:
                probe_video(path, limits=limits, **options)
            assert caught.value.reason_class == reason_class
    with pytest.raises(ValueError, match="max_frames must be above 0, got 0"):
        VideoLimits(max_frames=0)


def test_pictures_that_grow_are_refused_before_they_are_kept(tmp_path):
    parts = [write_video(tmp_path / f"{width}.ts", num_frames=20, gop=5, width=width) for width in (64, 640)]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(VideoDecodeError, match="its pictures of 640x48 have more than 3072 pixels") as caught:
        probe_video(both, limits=VideoLimits(max_pixels=64 * 48), salvage=True)
    assert caught.value.reason_class == "too_large"


def test_rates(tmp_path):
    path = write_video(tmp_path / "a.mkv", num_frames=5, times_seconds=[100.0, 100.1, 100.3, 101.0, 101.6])
    facts = probe_video(path)
    assert facts.variable_rate
    assert facts.fps == pytest.approx(4 / 1.6)
    assert (facts.first_seconds, facts.last_seconds) == (100.0, 101.6)
    raw = probe_video(write_video(tmp_path / "a.h264", num_frames=30, fps=10))
    assert (raw.fps, raw.variable_rate, raw.first_seconds, raw.duration_seconds) == (10.0, False, None, 3.0)


def test_many_keep_their_order(tmp_path):
    good = [write_video(tmp_path / f"{index}.mp4", num_frames=index + 2) for index in range(4)]
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"\0" * 1000)
    found = probe_videos([good[0], bad, *good[1:]], num_workers=2)
    assert isinstance(found.pop(1), VideoDecodeError)
    assert [facts.num_frames for facts in found] == [2, 3, 4, 5]


def test_a_file_that_is_named_twice_is_probed_once(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=3)
    found = probe_videos([path, path, path], num_workers=1, record=tmp_path / "record.jsonl")
    assert [facts.num_frames for facts in found] == [3, 3, 3]
    assert len((tmp_path / "record.jsonl").read_text().splitlines()) == 1


def test_names_that_are_no_text(tmp_path):
    path = tmp_path / "a\n\udcffü.mp4"
    write_video(tmp_path / "a.mp4", num_frames=3).rename(path)
    (facts,) = probe_videos([path], record=tmp_path / "record.jsonl")
    assert facts.num_frames == 3
    assert probe_videos([path], record=tmp_path / "record.jsonl") == [facts]


def test_one_that_takes_too_long_is_stopped(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=200, width=320, height=240)
    (error,) = probe_videos([path], limits=VideoLimits(timeout_seconds=1e-6))
    assert error.reason_class == "timeout"
    assert "decoding was stopped (no result after 1e-06 s)" in error.reason


def test_what_was_found_is_not_looked_for_again(tmp_path):
    paths = [write_video(tmp_path / f"{index}.mp4", num_frames=index + 2) for index in range(4)]
    paths[2].write_bytes(b"\0" * 1000)
    record = tmp_path / "record.jsonl"
    first = probe_videos(paths, record=record)
    lines = record.read_text().splitlines()
    assert len(lines) == 4
    marked = []
    for line in lines:  # a mark tells a row of the record from a new one
        entry = json.loads(line)
        if "facts" in entry["row"]:
            entry["row"]["facts"]["num_frames"] += 100
        marked.append(json.dumps(entry))
    # the last line is torn, as by a kill in the middle of writing
    record.write_text("\n".join(marked[:3]) + "\n" + marked[3][:40])
    second = probe_videos(paths, record=record)
    num_marked = sum(line.startswith('{"key"') and '"facts"' in line for line in marked[:3])
    assert sum(getattr(facts, "num_frames", 0) > 100 for facts in second) == num_marked
    assert second[2].reason == first[2].reason
    write_video(paths[0], num_frames=7)  # changed since
    assert probe_videos(paths, record=record)[0].num_frames == 7
    other = probe_videos(paths, record=record, limits=VideoLimits(max_frames=6))
    assert other[0].reason_class == "too_long"


_PROBE_ALL = """
import sys
from pathlib import Path
from railsformer.data.probe import probe_videos
folder = Path(sys.argv[1])
probe_videos(sorted(folder.glob("*.mp4")), num_workers=2, record=folder / "record.jsonl")
"""


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_probe_goes_on_where_it_was(tmp_path, kind):
    original = write_video(tmp_path / "0000.mp4", num_frames=100, width=320, height=240)
    for index in range(1, 400):
        os.link(original, tmp_path / f"{index:04d}.mp4")
    record = tmp_path / "record.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", _PROBE_ALL, str(tmp_path)], start_new_session=True, stderr=subprocess.PIPE
    )
    while not record.is_file() or record.stat().st_size < 3000:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(kind)
    _, stderr = process.communicate(timeout=30)
    before = len(record.read_text().splitlines())
    assert 3 <= before < 400
    if kind == signal.SIGINT:
        assert b"KeyboardInterrupt" in stderr
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)  # no worker is left of its group
    found = probe_videos(sorted(tmp_path.glob("*.mp4"))[: before + 5], num_workers=2, record=record)
    assert [facts.num_frames for facts in found] == [100] * (before + 5)
    assert len(record.read_text().splitlines()) <= before + 8


def test_workers_import_nothing_heavy():
    code = "import sys, railsformer.data.probe; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "transformers", "datasets", "pyarrow", "pandas", "matplotlib"} & set(modules)


def test_numbers_survive_encoding(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=40, first_number=200, crf=28)
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [frame_number(picture) for picture in pictures] == [(200 + index) % 256 for index in range(40)]
    normalised = (number_picture(77).transpose(2, 0, 1)[:, 5:40, ::2] / 255 - 0.45) / 0.225
    assert frame_number(normalised) == 77


@pytest.mark.parametrize(
    ("name", "num_frames"),
    [
        ("torchcodec__nasa_13013.mp4", 325),  # two video streams: the first one counts
        ("mp4ff__hevc.265", 50),  # no times at all
        ("filetype__fixture.ps.mpg", 1),
        ("mp4ff__v300_multiple_segments.mp4", 240),  # the header says 0
        ("mmaction2__test.avi", 164),
        ("decord__video_90.mov", 3),
        ("filetype__fixture.mov", 5),  # 25 pictures, of which an edit list shows 5
        ("filetype__fixture.asf", 153),
        ("moviepy__no_duration.webm", 74),
        ("muxjs__test-segment.ts", 134),
    ],
)
def test_odd_files(tankyard, name, num_frames):
    assert probe_video(tankyard.parent / "odd" / name).num_frames == num_frames


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("taglib__sample.m4v", "no decoder"),
        ("mp4ff__opus.mp4", "audio only"),
        ("mp4ff__init_truncated.mp4", "nothing only"),
        ("filetype__fixture-corrupt.mkv", "FFmpeg says"),
        ("decord__corrupted.mp4", "FFmpeg says 'Invalid data"),  # its first pictures are fine
    ],
)
def test_odd_files_that_are_no_videos(tankyard, name, reason):
    with pytest.raises(VideoDecodeError, match=reason):
        probe_video(tankyard.parent / "odd" / name)


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".mkv"])
def test_the_rate_of_a_single_picture_agrees_with_its_time(tmp_path, suffix):
    facts = probe_video(write_video(tmp_path / f"a{suffix}", num_frames=1, fps=10))
    assert facts.num_frames == 1
    assert facts.fps is None or facts.fps * facts.duration_seconds == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("name", ["filetype__fixture.ps.mpg", "filetype__fixture-raw.mts", "filetype__fixture.flv"])
@pytest.mark.parametrize("thorough", [True, False])
def test_the_last_pictures_time_of_real_files(tankyard, name, thorough):
    facts = probe_video(tankyard.parent / "odd" / name, thorough=thorough)
    expected = {"filetype__fixture.ps.mpg": (0.04, 25.0), "filetype__fixture.flv": (0.717, 34.286)}
    duration, fps = expected.get(name, (31 * 1001 / 30_000, 30_000 / 1001))
    assert facts.duration_seconds == pytest.approx(duration, abs=2e-3)
    if thorough:  # the packets of an interlaced file may be its fields
        assert facts.fps == pytest.approx(fps, abs=2e-3)
