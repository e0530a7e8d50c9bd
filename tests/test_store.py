"""What is stored of a video when originals are kept."""

from pathlib import Path

import numpy as np
import pytest
from videos import frame_number, write_video

from railsformer.data.probe import VideoLimits, probe_video
from railsformer.data.segments import Segment
from railsformer.data.store import encode_segments, name_rows, put_in_place
from railsformer.data.video import VideoDecodeError, read_frames


def _store(path: Path, folder: Path, *, salvage: bool = False, limits: VideoLimits | None = None):
    segment = Segment(path, path.name, "label", "group")
    facts = {path.name: probe_video(path, salvage=salvage, limits=limits)}
    (video,) = encode_segments(
        [segment], folder, proxy=None, facts=facts, limits=limits, salvage=salvage, num_workers=1
    )
    return video


def test_a_good_original_is_kept(tmp_path):
    path = write_video(tmp_path / "a.mkv")
    assert _store(path, tmp_path / "videos") == path
    assert not (tmp_path / "videos").exists()


@pytest.mark.parametrize("suffix", [".h264", ".ivf", ".264"])
def test_a_raw_stream_becomes_an_mp4_with_all_its_pictures(tmp_path, suffix):
    made = {".264": ".h264"}.get(suffix, suffix)
    path = write_video(
        tmp_path / f"a{made}", num_frames=30, fps=25, codec="libvpx" if made == ".ivf" else "libx264"
    ).rename(tmp_path / f"raw{suffix}")
    video = _store(path, tmp_path / "videos")
    (row,) = name_rows([Segment(path, path.name, "label", "group")], ["train"], [video])
    (row,) = put_in_place([row], [video], tmp_path / "data")
    assert row.file_name == "raw.mp4"
    pictures = read_frames(tmp_path / "data/train/raw.mp4", np.arange(30) / 25)
    assert [frame_number(picture) for picture in pictures] == list(range(30))


@pytest.mark.parametrize(("name", "num_frames"), [("decord__corrupted.mp4", 49), ("openh264__Error_I_P.264", 6)])
def test_what_only_salvage_reads_is_stored_so_that_all_can_read_it(tankyard, tmp_path, name, num_frames):
    path = tankyard.parent / "odd" / name
    assert probe_video(path, salvage=True).needs_salvage
    with pytest.raises(VideoDecodeError):
        read_frames(path, np.arange(200) / 25)
    video = _store(path, tmp_path / "videos", salvage=True)
    assert video != path
    assert probe_video(video).num_frames == num_frames
    assert len(read_frames(video, np.arange(200) / 25)) == 200


def test_good_files_are_kept_when_salvaging(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    assert not probe_video(path, salvage=True).needs_salvage
    assert _store(path, tmp_path / "videos", salvage=True) == path


def test_a_cut_off_file_is_mended(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=60, header_first=True)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    video = _store(path, tmp_path / "videos", salvage=True)
    assert video != path
    assert probe_video(video).num_frames == probe_video(path, salvage=True).num_frames < 60


def test_limits_hold_when_encoding_too(tmp_path):
    path = write_video(tmp_path / "a.h264", num_frames=4)
    limits = VideoLimits(max_pixels=64 * 48 - 1)
    segment = Segment(path, path.name, "label", "group")
    (video,) = encode_segments([segment], tmp_path / "videos", proxy=None, limits=limits, num_workers=1)
    assert isinstance(video, VideoDecodeError)
    assert video.reason_class == "too_large"


@pytest.mark.slow
def test_pictures_above_the_usual_limit_are_stored_below_it(tmp_path):
    """One more than 8192 x 8192, which the user has allowed; a loader knows nothing of that."""
    path = write_video(tmp_path / "a.mkv", num_frames=1, width=8192, height=8200, codec="ffv1")
    limits = VideoLimits(max_pixels=10_000 * 10_000)
    with pytest.raises(VideoDecodeError, match="have more than"):
        read_frames(path, [0.0])
    video = _store(path, tmp_path / "videos", limits=limits)
    assert frame_number(read_frames(video, [0.0])[0]) == 0
