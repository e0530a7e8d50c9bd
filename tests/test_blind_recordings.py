"""`watch` of recordings in which the camera is blind for a while: real videos, a network that knows hazards."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from live_sources import hazard_model, scene

from railsformer.cli import main
from railsformer.inference import watch as watch_module
from railsformer.inference.blind_stretches import BlindRecorder, BlindStretch, RecorderFile
from railsformer.inference.event_wishes import EventWishes
from railsformer.inference.pictures import decode_pictures
from railsformer.inference.timeline import read_timeline
from railsformer.inference.watch import WatchSettings, watch_video

FPS = 5
WISHES = EventWishes({"hazard": 0.7}, min_dwell_seconds=0.5)
SETTINGS = WatchSettings(window_seconds=2.0, stride_seconds=1.0, smooth_seconds=0.0, wishes=WISHES)
# A hazard, a camera that goes black with the hazard still there, sees again, hangs, and goes on.
SHIFT = [("idle", 12), ("hazard", 6), ("black", 10), ("idle", 12), ("frozen", 30), ("idle", 8), ("hazard", 6)]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return hazard_model(tmp_path_factory.mktemp("model") / "run")


@pytest.fixture(scope="module")
def shift(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("video") / "shift.mp4", SHIFT)


@pytest.fixture(scope="module")
def watched(predictor, shift, tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched") / "shift"
    return watch_video(predictor, shift, output_dir=folder, settings=SETTINGS)


def write_scenes(path: Path, plan, *, crf: int = 18, gop: int = 250) -> Path:
    """Encode scenes of (kind, seconds)."""
    kinds = [kind for kind, seconds in plan for _ in range(seconds * FPS)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": str(crf), "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.codec_context.gop_size = gop
        for index, kind in enumerate(kinds):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(scene(kind, index), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def found_in(path: Path) -> list[BlindStretch]:
    recorder = BlindRecorder()
    for picture in decode_pictures(path, wanted=lambda seconds, _: recorder.wanted(seconds)):
        recorder.see(picture)
    return recorder.stretches()


def test_blind_stretches_are_told_with_their_reasons_and_times(watched):
    assert [stretch.reason for stretch in watched.blind] == ["black", "frozen"]
    times = [(stretch.start_seconds, stretch.end_seconds) for stretch in watched.blind]
    np.testing.assert_allclose(times[0], (18, 28), atol=0.6)
    np.testing.assert_allclose(times[1], (40, 70), atol=3)  # compression changes a still picture for a while
    rows = json.loads((watched.output_dir / "watch.json").read_text())["blind"]
    assert rows == json.loads((watched.output_dir / "events.json").read_text())["blind"]
    assert [(row["reason"], row["start_seconds"]) for row in rows] == [
        (stretch.reason, round(stretch.start_seconds, 3)) for stretch in watched.blind
    ]


def test_blind_windows_are_not_scored_and_not_watched_from_the_beginning_of_the_stretch(watched):
    line = watched.timeline
    for stretch in watched.blind:
        touches = (line.start_seconds < stretch.end_seconds) & (line.end_seconds > stretch.start_seconds)
        assert touches.sum() > 8
        assert not line.scored[touches].any()
        for start, end in line.watched_spans:
            assert end <= stretch.start_seconds + 1e-6 or start >= stretch.end_seconds - 1e-6
    assert 40 <= line.watched_seconds <= 48  # 84 s less some 37, less windows that are blind in part
    assert json.loads((watched.output_dir / "watch.json").read_text())["watched_seconds"] == pytest.approx(
        line.watched_seconds, abs=1e-3
    )
    stored = read_timeline(watched.output_dir)
    np.testing.assert_array_equal(stored.scored, line.scored)


def test_events_stay_events_and_end_where_the_camera_goes_blind(watched):
    assert [event.label for event in watched.events] == ["hazard", "hazard"]
    assert 11 <= watched.events[0].start_seconds <= 13
    assert watched.events[0].end_seconds <= watched.blind[0].start_seconds + 1e-6
    assert 76 <= watched.events[1].start_seconds <= 79


def test_the_page_and_its_picture_show_blind_stretches(watched, predictor, shift, tmp_path):
    page = (watched.output_dir / "timeline.html").read_text(encoding="utf-8")
    data = json.loads(re.findall(r'id="timeline-data">(.*?)</script>', page, re.DOTALL)[0])
    assert [row[2] for row in data["blind"]] == ["black", "frozen"]
    assert [row[2] for row in data["not_scored"]] == ["camera black", "camera frozen"]
    assert 'id="legend"' in page
    settings = WatchSettings(**vars(SETTINGS) | {"blindness": False})
    plain = watch_video(predictor, shift, output_dir=tmp_path / "plain", settings=settings)
    assert plain.blind == []
    assert plain.timeline.scored.all()
    assert (tmp_path / "plain" / "timeline.png").read_bytes() != (watched.output_dir / "timeline.png").read_bytes()


def test_a_folder_that_was_watched_without_it_is_not_taken_for_one_with_it(watched, predictor, shift):
    again = watch_video(predictor, shift, output_dir=watched.output_dir, settings=SETTINGS)
    assert again.windows_scored == 0
    assert [stretch.reason for stretch in again.blind] == ["black", "frozen"]
    settings = WatchSettings(**vars(SETTINGS) | {"blindness": False})
    with pytest.raises(FileExistsError, match=r"holds another watch \(blindness True, now False\)"):
        watch_video(predictor, shift, output_dir=watched.output_dir, settings=settings)


def test_the_verb_says_first_how_long_the_camera_was_blind(predictor, shift, tmp_path, capsys):
    words = ["watch", str(shift), "--model", str(predictor.name), "--window_seconds", "2", "--threshold", "0.7"]
    assert main([*words, "--output_dir", str(tmp_path / "on")]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert re.fullmatch(r"the camera was blind for 00:00:3\d\.\d \(black 00:00:10\.\d, frozen 00:00:2\d\.\d\)", first)
    assert main([*words, "--output_dir", str(tmp_path / "off"), "--no_blindness"]) == 0
    assert "blind" not in capsys.readouterr().out
    assert main(["watch", "udp://127.0.0.1:9", *words[2:], "--output_dir", str(tmp_path / "l"), "--no_blindness"]) == 2
    assert "--no_blindness has no meaning for a live source" in capsys.readouterr().err


@pytest.mark.parametrize(
    "stop_after", [pytest.param(3, marks=pytest.mark.slow), 30, pytest.param(45, marks=pytest.mark.slow)]
)
def test_a_watch_that_was_stopped_finds_the_same_stretches(
    watched, predictor, shift, tmp_path, monkeypatch, stop_after
):
    monkeypatch.setattr("railsformer.inference.blind_stretches._SAVE_SECONDS", 5.0)
    kept = tmp_path / "kept"
    score = predictor.score_pixels
    seen = 0

    def stopping(pixels):  # what a kill leaves is copied at that moment
        nonlocal seen
        seen += len(pixels)
        if seen > stop_after and not kept.exists():
            shutil.copytree(tmp_path / "first", kept)
        return score(pixels)

    monkeypatch.setattr(predictor, "score_pixels", stopping)
    settings = WatchSettings(**vars(SETTINGS) | {"batch_size": 2})
    whole = watch_video(predictor, shift, output_dir=tmp_path / "first", settings=settings)
    assert (kept / ".railsformer-building" / "parts" / "blindness.npz").exists() == (stop_after > 3)
    gone_on = watch_video(predictor, shift, output_dir=kept, settings=settings)
    assert gone_on.blind == whole.blind == watched.blind
    assert gone_on.windows_scored < whole.windows_scored
    np.testing.assert_array_equal(gone_on.timeline.scored, watched.timeline.scored)
    np.testing.assert_allclose(gone_on.timeline.scores, watched.timeline.scores, atol=1e-6)


def test_what_was_known_goes_on_where_it_was_and_not_for_another_request(shift, tmp_path):
    pictures = list(decode_pictures(shift))
    straight = BlindRecorder()
    for picture in pictures:
        straight.see(picture)
    first = BlindRecorder()
    for picture in pictures[:330]:  # in the midst of the frozen stretch
        first.see(picture)
    RecorderFile(tmp_path / "state.npz", {"video": "a"}).save(first.state())
    other = BlindRecorder()
    RecorderFile(tmp_path / "state.npz", {"video": "b"}).load(other)
    assert other.looked_seconds == 0
    second = BlindRecorder()
    RecorderFile(tmp_path / "state.npz", {"video": "a"}).load(second)
    assert second.looked_seconds == first.looked_seconds > 60
    for picture in pictures[250:]:  # some are shown again
        second.see(picture)
    assert second.stretches() == straight.stretches()
    assert second.watch.state()["about"] == straight.watch.state()["about"]
    (tmp_path / "state.npz").write_bytes((tmp_path / "state.npz").read_bytes()[:5000])
    broken = BlindRecorder()
    RecorderFile(tmp_path / "state.npz", {"video": "a"}).load(broken)
    assert broken.looked_seconds == 0


@pytest.mark.parametrize("crf", [18, 35])
def test_a_still_scene_with_a_sensor_s_noise_is_not_frozen(tmp_path, crf):
    assert found_in(write_scenes(tmp_path / "still.mp4", [("idle", 60)], crf=crf)) == []


def test_a_camera_that_is_turned_is_told_and_scored_on(predictor, tmp_path):
    video = write_scenes(tmp_path / "turned.mp4", [("idle", 30), ("moved", 45)])
    summary = watch_video(predictor, video, output_dir=tmp_path / "out", settings=SETTINGS)
    (stretch,) = summary.blind
    assert stretch.reason == "moved"
    assert 29 <= stretch.start_seconds <= 38
    assert stretch.end_seconds == pytest.approx(75.0, abs=0.3)
    assert summary.timeline.scored.all()


def test_a_recording_that_is_black_throughout_has_no_events_and_a_page(predictor, tmp_path):
    video = write_scenes(tmp_path / "black.mp4", [("black", 8)])
    summary = watch_video(predictor, video, output_dir=tmp_path / "out", settings=SETTINGS)
    assert [(one.reason, one.start_seconds) for one in summary.blind] == [("black", 0.0)]
    assert summary.blind[0].end_seconds == pytest.approx(8.0, abs=0.01)
    assert (summary.events, summary.timeline.watched_seconds) == ([], 0)
    assert (tmp_path / "out" / "timeline.html").is_file()


def test_a_short_black_stretch_does_not_count(tmp_path):
    assert found_in(write_scenes(tmp_path / "flash.mp4", [("idle", 6), ("black", 2), ("idle", 6)])) == []


def test_pictures_are_decoded_once(predictor, shift, tmp_path, monkeypatch):
    opened = []
    real = watch_module.iterate_windows

    def counting(*words, on_picture, **names):
        def see(picture):
            opened.append(picture.seconds)
            on_picture(picture)

        return real(*words, on_picture=see, **names)

    monkeypatch.setattr(watch_module, "iterate_windows", counting)
    watch_video(predictor, shift, output_dir=tmp_path / "out", settings=SETTINGS)
    assert opened == sorted(set(opened))
    assert len(opened) == 84 * FPS


_WATCH = """
import sys
from railsformer.inference.watch import WatchSettings, watch_video
settings = WatchSettings(window_seconds=2.0, stride_seconds=0.25, smooth_seconds=1.0, batch_size=1)
watch_video(sys.argv[1], sys.argv[2], output_dir=sys.argv[3], settings=settings)
"""


@pytest.mark.long
def test_a_watch_that_was_killed_finds_the_same_stretches(predictor, tmp_path):
    plan = [*SHIFT, ("idle", 10), ("black", 10), *SHIFT, ("idle", 10), ("moved", 40)]
    video = write_scenes(tmp_path / "long.mp4", plan)
    words = [sys.executable, "-c", _WATCH, str(predictor.name), str(video)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*words, str(tmp_path / "killed")], env=environment)
    state = tmp_path / "killed" / ".railsformer-building" / "parts" / "blindness.npz"
    deadline = time.monotonic() + 120
    while not state.is_file():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    settings = WatchSettings(window_seconds=2.0, stride_seconds=0.25, smooth_seconds=1.0, batch_size=1)
    gone_on = watch_video(predictor, video, output_dir=tmp_path / "killed", settings=settings)
    straight = watch_video(predictor, video, output_dir=tmp_path / "straight", settings=settings)
    assert gone_on.windows_scored < straight.windows_scored
    reasons = [stretch.reason for stretch in straight.blind]
    assert reasons == ["black", "frozen", "black", "black", "frozen", "moved"]
    assert gone_on.blind == straight.blind
    np.testing.assert_array_equal(gone_on.timeline.scored, straight.timeline.scored)
    np.testing.assert_allclose(gone_on.timeline.scores, straight.timeline.scores, atol=1e-6)
