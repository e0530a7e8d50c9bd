"""Reading with little decoding: the same pictures as decoding everything."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from videos import frame_number, number_picture, write_video

from railsformer.data.packet_plan import frames_at
from railsformer.data.video import iterate_frames, upright_rgb

SECONDS = 1e-3


def _planned(path: Path, times, *, seek_after_seconds: float = 3.0):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = frames_at(container, stream, times, tolerance_seconds=SECONDS, seek_after_seconds=seek_after_seconds)
        return None if frames is None else np.stack([upright_rgb(frame) for frame in frames])


def _shown(path: Path, times) -> np.ndarray:
    """The rule, written independently: decode everything, keep what is on screen."""
    everything = [(seconds, upright_rgb(frame)) for seconds, frame in iterate_frames(path)]
    return np.stack([[p for s, p in everything if s <= max(t, 0) + SECONDS][-1] for t in times])


@pytest.mark.parametrize(
    ("name", "codec", "gop"),
    [
        ("b_frames.mp4", "libx264", 250),
        ("short_groups.mp4", "libx264", 6),
        ("intra.mp4", "libx264", 1),
        ("b_frames.mkv", "libx264", 250),
        ("intra.mkv", "libx264", 1),
        ("part2.mp4", "mpeg4", 12),
        ("old.mkv", "mpeg2video", 12),
    ],
)
@pytest.mark.parametrize("seek_after_seconds", [3.0, 0.5])
def test_planned_pictures_are_those_of_decoding_everything(tmp_path, name, codec, gop, seek_after_seconds):
    path = write_video(tmp_path / name, codec=codec, gop=gop, num_frames=60, fps=25)
    for times in ([0.0, 0.3, 1.1, 2.3], [1.0, 1.02, 1.04], [0.9], [2.39, 5.0], np.linspace(0, 2.36, 8)):
        planned = _planned(path, times, seek_after_seconds=seek_after_seconds)
        assert planned is not None
        np.testing.assert_array_equal(planned, _shown(path, times))


def test_an_instant_shows_the_picture_that_begins_with_it_and_none_later(tmp_path):
    path = write_video(tmp_path / "clip.mp4", num_frames=30, fps=10, gop=1)
    shown = [frame_number(picture) for picture in _planned(path, [0.0, 0.0995, 0.15, 0.2, 2.9, 9.0])]
    assert shown == [0, 1, 1, 2, 29, 29]


def test_irregular_times_are_followed(tmp_path):
    times = [0.0, 0.1, 0.15, 0.9, 1.0, 2.5, 2.55]
    path = write_video(tmp_path / "clip.mp4", num_frames=7, times_seconds=times, gop=1)
    shown = [frame_number(picture) for picture in _planned(path, [0.14, 0.16, 0.95, 2.4, 2.51])]
    assert shown == [1, 2, 3, 4, 5]


def _write_jpegs(path: Path, pts: list[int]) -> Path:
    """Picture i shows i, at pts[i] milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number, at in enumerate(pts):
            frame = av.VideoFrame.from_ndarray(number_picture(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            for packet in stream.encode(frame):
                packet.pts = packet.dts = at
                packet.time_base = Fraction(1, 1000)
                container.mux(packet)
    return path


def test_only_wanted_packets_of_an_all_intra_file_are_decoded(tmp_path):
    """All other packets are spoilt: whoever decodes one of them fails."""
    path = _write_jpegs(tmp_path / "clip.mkv", list(range(0, 2000, 100)))
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        contents = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    for number, content in enumerate(contents):
        if number not in (0, 7, 13):
            place = data.index(content)
            data[place : place + len(content)] = bytes(len(content))
    path.write_bytes(data)
    assert [frame_number(picture) for picture in _planned(path, [0.0, 0.7, 1.3])] == [0, 7, 13]
    assert _planned(path, [0.0, 0.8]) is None  # left to the reader that names the damage


def test_containers_without_trustworthy_times_are_left_to_the_ordinary_reader(tmp_path):
    for name in ("clip.avi", "clip.ts"):
        assert _planned(write_video(tmp_path / name), [0.0, 0.5]) is None


def test_packets_that_only_claim_to_be_key_pictures_are_not_believed(tmp_path):
    path = write_video(tmp_path / "liar.mp4", num_frames=30, gop=250, codec="mpeg4")
    data = path.read_bytes()
    assert data.count(b"stss") == 1
    path.write_bytes(data.replace(b"stss", b"free"))  # without this list every picture of an MP4 is a key picture
    with av.open(str(path)) as container:
        assert all(packet.is_keyframe for packet in container.demux(video=0) if packet.size)
    assert _planned(path, [0.5, 2.0]) is None


def test_two_pictures_at_the_same_time_are_left_to_the_ordinary_reader(tmp_path):
    assert _planned(_write_jpegs(tmp_path / "clip.mkv", [0, 100, 200, 200, 300]), [0.0, 0.25]) is None
    assert _planned(_write_jpegs(tmp_path / "clip.mkv", [0, 100, 200, 250, 300]), [0.0, 0.25]) is not None


def test_real_clips_are_read_the_same(tankyard):
    for path in sorted(tankyard.rglob("*.mp4"))[::160]:
        times = np.linspace(0.2, 3.0, 4)
        planned = _planned(path, times)
        assert planned is not None
        np.testing.assert_array_equal(planned, _shown(path, times))
