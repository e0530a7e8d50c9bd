import wave

import av
import pytest
from PIL import Image
from videos import frame_number, number_picture, write_playlists, write_video

from railsformer.data.probe import VideoFacts, probe_video, probe_videos
from railsformer.data.video import VideoDecodeError


def test_facts_of_a_plain_file(tmp_path):
    facts = probe_video(write_video(tmp_path / "a.mp4", num_frames=15, fps=10, width=64, height=48))
    assert facts == VideoFacts(
        duration_seconds=pytest.approx(1.5), num_frames=15, fps=10.0, width=64, height=48, codec="h264"
    )


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
    with pytest.raises(VideoDecodeError, match=r"it is cut off: 26 of 40 pictures are there"):
        probe_video(cut)


def test_a_change_of_size_half_way_is_named(tmp_path):
    parts = [write_video(tmp_path / f"{width}.ts", num_frames=20, gop=5, width=width) for width in (64, 96)]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(VideoDecodeError, match="its picture size changes from 64x48 to 96x48 half way"):
        probe_video(both)


def test_many_keep_their_order(tmp_path):
    good = [write_video(tmp_path / f"{index}.mp4", num_frames=index + 2) for index in range(4)]
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"\0" * 1000)
    found = probe_videos([good[0], bad, *good[1:]], num_workers=2)
    assert isinstance(found.pop(1), VideoDecodeError)
    assert [facts.num_frames for facts in found] == [2, 3, 4, 5]


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
        ("openh264__Error_I_P.264", 6),  # no times, so that nobody can seek in it
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
