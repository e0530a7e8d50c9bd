"""Proxies: small files whose every picture stands alone, at its own time."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from videos import frame_number, write_video

from railsformer.data.folders import DiskFullError
from railsformer.data.probe import probe_video
from railsformer.data.proxies import (
    PROXY_PRESETS,
    ProxyFacts,
    ProxyJob,
    ProxySettings,
    encode_proxies,
    encode_proxy,
    finished_proxy,
)
from railsformer.data.video import VideoDecodeError, iterate_frames, read_frames, upright_rgb

SMALL, FAST = PROXY_PRESETS["small"], PROXY_PRESETS["fast"]


def _pictures(path: Path) -> list[tuple[float, int]]:
    return [(round(seconds, 3), frame_number(upright_rgb(frame))) for seconds, frame in iterate_frames(path)]


@pytest.mark.parametrize("settings", [SMALL, FAST], ids=["small", "fast"])
def test_every_picture_is_a_key_picture_at_its_own_time(tmp_path, settings):
    source = write_video(tmp_path / "source.mp4", num_frames=50, fps=25)
    facts = encode_proxy(source, tmp_path / f"proxy{settings.suffix}", settings=settings)
    with av.open(str(tmp_path / f"proxy{settings.suffix}")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert all(packet.is_keyframe for packet in container.demux(video=0) if packet.size)
    pictures = _pictures(tmp_path / f"proxy{settings.suffix}")
    assert pictures == [(round(number / 25, 3), number) for number in range(0, 50, 2)]
    assert facts.num_frames == 25
    assert facts.duration_seconds == pytest.approx(2.0, abs=1e-3)
    assert facts.num_bytes == (tmp_path / f"proxy{settings.suffix}").stat().st_size


@pytest.mark.parametrize("fps", [4, 8, 12.5])
@pytest.mark.parametrize("source_fps", [5, 10, 15, 24, 25, 30, 60])
def test_a_proxy_shows_what_the_source_shows_within_half_an_interval(tmp_path, source_fps, fps):
    source = write_video(tmp_path / "source.mp4", num_frames=2 * source_fps, fps=source_fps)
    settings = ProxySettings(fps=fps)
    facts = encode_proxy(source, tmp_path / "proxy.mp4", settings=settings)
    times = np.random.default_rng(0).uniform(0, 2, 40)
    shown = [frame_number(picture) for picture in read_frames(tmp_path / "proxy.mp4", times)]
    wanted = [frame_number(picture) for picture in read_frames(source, times)]
    assert max(abs(a - b) for a, b in zip(shown, wanted, strict=True)) / source_fps <= 0.5 / fps + 1e-6
    assert min(fps, source_fps) * 2 <= facts.num_frames + 1
    assert facts.num_frames <= 2 * fps * 2 + 1


def test_irregular_sources_are_shown_within_half_an_interval(tmp_path):
    rng = np.random.default_rng(1)
    times = np.cumsum(rng.choice([0.02, 0.05, 0.3, 1.0], size=40, p=[0.5, 0.3, 0.15, 0.05])) - 0.02
    times -= times[0]
    source = write_video(tmp_path / "source.mp4", num_frames=40, times_seconds=list(times))
    encode_proxy(source, tmp_path / "proxy.mp4")
    instants = rng.uniform(0, times[-1], 60)
    for a, b in zip(read_frames(tmp_path / "proxy.mp4", instants), read_frames(source, instants), strict=True):
        assert 0 <= times[frame_number(b)] - times[frame_number(a)] <= 0.0625 + 1e-3


def test_a_segment_counts_from_its_start_and_ends_at_its_end(tmp_path):
    source = write_video(tmp_path / "source.mp4", num_frames=60, fps=10, gop=20)
    facts = encode_proxy(source, tmp_path / "proxy.mp4", start_seconds=4.05, end_seconds=5.0)
    # 4.0 is on screen when the segment begins.
    assert _pictures(tmp_path / "proxy.mp4") == [(0.0, 40), *((round(n / 10 - 0.05, 3), 40 + n) for n in range(1, 10))]
    assert facts.duration_seconds == pytest.approx(0.95, abs=1e-3)


def test_a_segment_past_the_end_holds_what_there_is(tmp_path):
    source = write_video(tmp_path / "source.mp4", num_frames=20, fps=10)
    facts = encode_proxy(source, tmp_path / "proxy.mp4", start_seconds=1.0, end_seconds=9.0)
    assert (facts.num_frames, round(facts.duration_seconds, 3)) == (10, 1.0)
    with pytest.raises(ValueError, match="starts at 7 s, after the video's end"):
        encode_proxy(source, tmp_path / "late.mp4", start_seconds=7, end_seconds=9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["proxy.mp4", "source.mp4"]


@pytest.mark.parametrize(
    ("width", "height", "short_side_px", "expected"),
    [(640, 480, 320, (426, 320)), (480, 640, 320, (320, 426)), (64, 48, 320, (64, 48)), (66, 34, 32, (62, 32))],
)
def test_sizes_are_even_and_never_enlarged(tmp_path, width, height, short_side_px, expected):
    source = write_video(tmp_path / "source.mp4", num_frames=2, width=width, height=height)
    facts = encode_proxy(source, tmp_path / "proxy.mp4", settings=ProxySettings(short_side_px=short_side_px))
    assert (facts.width, facts.height) == expected


def _colourful(path: Path, *, colorspace: int, color_range: int, pix_fmt: str) -> Path:
    ramp = np.linspace(20, 235, 96).astype(np.uint8)
    picture = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[::-1], (64, 1)), np.tile(ramp[:64, None], (1, 96))], -1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, pix_fmt
        stream.codec_context.colorspace, stream.codec_context.color_range = colorspace, color_range
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(
                format=pix_fmt, dst_colorspace={1: "ITU709", 6: "ITU601"}[colorspace], dst_color_range=color_range
            )
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("settings", [SMALL, FAST], ids=["small", "fast"])
@pytest.mark.parametrize(
    ("colorspace", "color_range", "pix_fmt"),
    [
        (6, 1, "yuv420p"),
        (1, 1, "yuv420p"),
        (6, 2, "yuvj420p"),
        (1, 2, "yuvj420p"),
        (6, 1, "yuv444p"),
        (1, 1, "yuv420p10le"),
    ],
)
def test_colours_are_kept_whatever_range_and_matrix_the_source_has(
    tmp_path, settings, colorspace, color_range, pix_fmt
):
    source = _colourful(tmp_path / "source.mp4", colorspace=colorspace, color_range=color_range, pix_fmt=pix_fmt)
    encode_proxy(source, tmp_path / f"proxy{settings.suffix}", settings=settings)
    proxy = read_frames(tmp_path / f"proxy{settings.suffix}", [0.0]).astype(int)
    assert np.abs((proxy - read_frames(source, [0.0])).mean(axis=(0, 1, 2))).mean() < 2
    # A reader that ignores the tags takes any video for BT.601, limited unless it is JPEG.
    with av.open(str(tmp_path / f"proxy{settings.suffix}")) as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_range) in ((6, 1), (5, 2), (6, 2))


def test_the_same_source_gives_the_same_bytes(tmp_path):
    source = write_video(tmp_path / "source.mp4", num_frames=20)
    copy = write_video(tmp_path / "elsewhere" / "other.mp4", num_frames=20)
    for settings in (SMALL, FAST):
        first = encode_proxy(source, tmp_path / f"a{settings.suffix}", settings=settings)
        again = encode_proxy(copy, tmp_path / f"b{settings.suffix}", settings=settings)
        assert first == again


def test_rotation_is_resolved(tmp_path):
    odd = Path(__file__).resolve().parents[2] / "shared" / "data" / "odd" / "decord__video_90.mov"
    if not odd.is_file():
        pytest.skip("no odd files beside the repository")
    facts = encode_proxy(odd, tmp_path / "proxy.mp4")
    assert (facts.width, facts.height) == (320, 568)
    proxy, source = read_frames(tmp_path / "proxy.mp4", [0.0]), read_frames(odd, [0.0])
    assert proxy.shape == source.shape
    assert np.abs(proxy.astype(int) - source).mean() < 6
    assert next(iter(iterate_frames(tmp_path / "proxy.mp4")))[1].rotation == 0


def test_a_limit_on_bytes_stops_it_and_leaves_nothing(tmp_path):
    source = write_video(tmp_path / "source.mp4", num_frames=40)
    with pytest.raises(VideoDecodeError, match="larger than 1000 bytes") as caught:
        encode_proxy(source, tmp_path / "proxy.mp4", limit_bytes=1000)
    assert caught.value.reason_class == "too_large"
    assert [path.name for path in tmp_path.iterdir()] == ["source.mp4"]


def test_a_full_disk_is_one_clear_error(tmp_path):
    source = write_video(tmp_path / "source.mp4", num_frames=200)
    code = (
        "import resource, sys; from railsformer.data.proxies import encode_proxy\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: encode_proxy(sys.argv[1], sys.argv[2])\n"
        "except OSError as error: print(type(error).__name__, error)\n"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "proxy.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{DiskFullError.__name__} {tmp_path / 'proxy.mp4'}: no room for the proxy")
    assert len(done.stdout.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["source.mp4"]
    assert errno.ENOSPC


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "vp9"}, "kind must be one of h264, mjpeg, got 'vp9'"),
        ({"fps": 0}, "fps must be above 0"),
        ({"short_side_px": 8}, "short_side_px must be from 16 to 4096, got 8"),
        ({"quality": 52}, "quality of h264 must be from 0 to 51, got 52"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ProxySettings(**change)


def test_a_target_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"target must end in \.mov for mjpeg proxies"):
        ProxyJob(tmp_path / "a.mp4", tmp_path / "b.mp4", settings=FAST)


@pytest.mark.slow
def test_jobs_come_back_in_order_with_an_error_each_and_finished_ones_are_kept(tmp_path):
    sources = [write_video(tmp_path / f"{number}.mp4", num_frames=8 + number) for number in range(3)]
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    jobs = [ProxyJob(path, tmp_path / f"p{path.name}") for path in (sources[0], tmp_path / "bad.mp4", *sources[1:])]
    results = encode_proxies(jobs, num_workers=2)
    assert [facts.num_frames if isinstance(facts, ProxyFacts) else type(facts) for facts in results] == [
        *(8, VideoDecodeError, 9, 10),
    ]
    before = (tmp_path / "p0.mp4").stat().st_mtime_ns
    assert encode_proxies(jobs[:1]) == results[:1]
    assert (tmp_path / "p0.mp4").stat().st_mtime_ns == before
    assert finished_proxy(ProxyJob(sources[0], tmp_path / "p0.mp4", settings=ProxySettings(quality=20))) is None


@pytest.mark.slow
def test_a_killed_encode_leaves_no_target_and_the_next_run_completes_it(tmp_path):
    source = write_video(tmp_path / "source.mp4", num_frames=900, width=320, height=240)
    code = "import sys; from railsformer.data.proxies import encode_proxy; encode_proxy(sys.argv[1], sys.argv[2])"
    process = subprocess.Popen([sys.executable, "-c", code, str(source), str(tmp_path / "proxy.mp4")])
    partial = tmp_path / ".proxy.mp4.partial"
    while not partial.exists() and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "proxy.mp4").exists()
    assert encode_proxy(source, tmp_path / "proxy.mp4").num_frames == 900
    assert not partial.exists()


_SCRIPT = """
import sys
from pathlib import Path
from railsformer.data.proxies import ProxyJob, encode_proxies
print("begun", flush=True)
jobs = [ProxyJob(Path(name), Path(name).with_suffix(".proxy.mp4")) for name in sys.argv[2:]]
for result in encode_proxies(jobs, num_workers=int(sys.argv[1])):
    print(type(result).__name__, getattr(result, "reason", ""))
"""


def _start_script(folder: Path, sources: list[Path], *, num_workers: int) -> subprocess.Popen:
    """Run a script without a guard of __main__."""
    (folder / "script.py").write_text(_SCRIPT)
    command = [sys.executable, str(folder / "script.py"), str(num_workers), *map(str, sources)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_script_without_a_guard_is_run_once(tmp_path):
    sources = [write_video(tmp_path / f"{number}.mp4", num_frames=8) for number in range(3)]
    out, err = _start_script(tmp_path, sources, num_workers=2).communicate(timeout=120)
    assert (out.split(), err) == (["begun", *["ProxyFacts"] * 3], "")


def _workers_at(process: subprocess.Popen, partial: Path) -> list[int]:
    """Processes of a script once one of them writes `partial`."""
    while not partial.exists():
        assert process.poll() is None
        time.sleep(0.005)
    return [
        int(pid) for path in Path(f"/proc/{process.pid}/task").glob("*/children") for pid in path.read_text().split()
    ]


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


_IN_PROC = pytest.mark.skipif(
    not list(Path("/proc/self/task").glob("*/children")), reason="looks processes up in /proc"
)


@_IN_PROC
def test_a_file_that_ends_its_worker_costs_only_its_own_proxy(tmp_path):
    """The worker of a long one is killed, as by a fault in the decoder."""
    sources = [write_video(tmp_path / f"{number}.mp4", num_frames=900 if number == 1 else 8) for number in range(3)]
    process = _start_script(tmp_path, sources, num_workers=1)
    for pid in _workers_at(process, tmp_path / ".1.proxy.mp4.partial"):
        os.kill(pid, signal.SIGSEGV)
    out, _ = process.communicate(timeout=120)
    reason = "it ends the process that reads it (signal SIGSEGV); remove it, or convert it"
    assert out.splitlines() == ["begun", "ProxyFacts ", f"VideoDecodeError {reason}", "ProxyFacts "]
    assert not list(tmp_path.glob(".*"))


@_IN_PROC
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_parent_leaves_no_worker(tmp_path, how):
    source = write_video(tmp_path / "0.mp4", num_frames=900)
    sources = [source, *(shutil.copy(source, tmp_path / f"{number}.mp4") for number in range(1, 30))]
    process = _start_script(tmp_path, sources, num_workers=2)
    pids = _workers_at(process, tmp_path / ".1.proxy.mp4.partial")
    assert pids
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    assert out == "begun\n"
    assert err.count("KeyboardInterrupt") == (how == signal.SIGINT)
    deadline = time.monotonic() + 60
    while any(map(_is_running, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(list(tmp_path.glob("*.proxy.mp4"))) < 30
    assert how == signal.SIGKILL or not list(tmp_path.glob(".*"))


def test_one_that_takes_too_long_is_stopped(tmp_path):
    source = write_video(tmp_path / "source.mp4", num_frames=900)
    (late,) = encode_proxies([ProxyJob(source, tmp_path / "proxy.mp4", timeout_seconds=0.02)])
    assert isinstance(late, VideoDecodeError)
    assert late.reason_class == "timeout"
    assert re.search(r"encoding was stopped \(no result after 0.02 s\)", late.reason)
    assert [path.name for path in tmp_path.iterdir()] == ["source.mp4"]


def test_errors_keep_their_kind_on_the_way_from_a_worker(tmp_path):
    source = write_video(tmp_path / "source.mp4", num_frames=8)
    jobs = [
        ProxyJob(tmp_path / "absent.mp4", tmp_path / "a.mp4"),
        ProxyJob(source, tmp_path / "b.mp4", start_seconds=9.0),
        ProxyJob(source, tmp_path / "c.mp4", limit_bytes=10),
        ProxyJob(source, tmp_path / "d.mp4", max_pixels=100),
    ]
    found = encode_proxies(jobs, num_workers=1)
    assert [type(error) for error in found] == [FileNotFoundError, ValueError, VideoDecodeError, VideoDecodeError]
    assert [getattr(error, "reason_class", None) for error in found] == [None, None, "too_large", "too_large"]


@pytest.mark.parametrize("value", [(20, 128, 128), (126, 128, 128), (200, 128, 128), (120, 90, 160)])
def test_a_change_of_matrix_turns_no_grey_into_colour(tmp_path, value):
    path = tmp_path / "source.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
        frame = av.VideoFrame(64, 48, "yuv420p")
        for plane, level in zip(frame.planes, value, strict=True):
            plane.update(np.full(plane.buffer_size, level, np.uint8).tobytes())
        frame.colorspace, frame.color_range = 1, 1
        frame.pts, frame.time_base = 0, Fraction(1, 10)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    encode_proxy(path, tmp_path / "proxy.mp4", settings=ProxySettings(quality=1))
    proxy = read_frames(tmp_path / "proxy.mp4", [0.0]).mean(axis=(0, 1, 2))
    assert np.abs(proxy - read_frames(path, [0.0]).mean(axis=(0, 1, 2))).max() <= 1.5


@pytest.mark.parametrize("name", ["filetype__fixture-raw.mts", "filetype__fixture.flv", "filetype__fixture.ps.mpg"])
def test_a_proxy_is_as_long_as_the_probe_says_of_its_source(tankyard, tmp_path, name):
    source = tankyard.parent / "odd" / name
    facts = encode_proxy(source, tmp_path / "proxy.mp4")
    assert facts.duration_seconds == pytest.approx(probe_video(source).duration_seconds, abs=1e-3)
    assert probe_video(tmp_path / "proxy.mp4").duration_seconds == pytest.approx(facts.duration_seconds, abs=1e-3)
