"""`watch` of a recording: windows to scores to events to files, and going on after a kill."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import av
import numpy as np
import pytest
from tiny_run import write_tiny_run
from videos import number_picture, write_video

from railsformer.cli import main
from railsformer.cli_inference import _thresholds
from railsformer.data.folders import building_folder
from railsformer.data.video import VideoDecodeError
from railsformer.evaluation.operating_points import OperatingPoint
from railsformer.evaluation.operating_points_file import write_operating_points
from railsformer.inference.event_wishes import EventWishes, event_settings
from railsformer.inference.events import find_events, read_events
from railsformer.inference.pictures import SourceEvent
from railsformer.inference.predictor import Predictor
from railsformer.inference.score_log import ScoredWindow, ScoreLog
from railsformer.inference.timeline import Smoothing, read_timeline
from railsformer.inference.watch import WatchSettings, watch_video
from railsformer.inference.watch_folder import check_live_folder, creation_time, parse_start_time, watch_request
from railsformer.inference.windows import WindowPlan, iterate_windows

SETTINGS = WatchSettings(window_seconds=2.0, stride_seconds=0.5, smooth_seconds=1.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = write_tiny_run(tmp_path_factory.mktemp("run"), negative_labels=["idle"])
    points = {
        "fall": OperatingPoint(0.4, "recall>=0.9", reached=True),
        "intrusion": OperatingPoint(0.5, "recall>=0.9", reached=True),
    }
    write_operating_points(folder, points, temperature=1.5, split="validation", dataset_fingerprint=None)
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "gate.mp4", num_frames=120, fps=10, width=320, height=240)


@pytest.fixture(scope="module")
def watched(run: Path, video: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("watched") / "gate"
    watch_video(str(run), video, output_dir=folder, settings=SETTINGS)
    return folder


def test_scores_are_those_of_the_windows(run: Path, video: Path, watched: Path) -> None:
    predictor = Predictor.from_pretrained(run)
    windows = list(iterate_windows(video, WindowPlan(2.0, 0.5), predictor.sampling, predictor.pixels))
    timeline = read_timeline(watched)
    assert len(timeline) == len(windows) > 15
    np.testing.assert_allclose(timeline.start_seconds, [window.start_seconds for window in windows])
    expected = np.concatenate([predictor.score_pixels(window.pixel_values[None]) for window in windows])
    np.testing.assert_allclose(timeline.scores, expected, atol=1e-6)
    np.testing.assert_allclose(timeline.scores.sum(axis=1), 1)
    assert np.ptp(timeline.scores[:, 0]) > 0.01
    assert timeline.thresholds == {"fall": 0.4, "intrusion": 0.5}


def test_events_are_found_with_the_operating_points(watched: Path) -> None:
    timeline = read_timeline(watched)
    events, settings, smoothing = read_events(watched)
    assert dict(settings.on) == {"fall": 0.4, "intrusion": 0.5}
    assert settings.off_of("fall") == pytest.approx(0.32)
    assert smoothing == Smoothing(1.0)
    found = find_events(timeline, settings, smoothing=smoothing)
    assert [event.label for event in events] == [event.label for event in found]
    np.testing.assert_allclose([e.start_seconds for e in events], [e.start_seconds for e in found], atol=1e-3)


def test_the_folder_holds_what_a_person_looks_at(watched: Path, video: Path) -> None:
    names = {path.name for path in watched.iterdir()}
    assert {"scores.parquet", "events.json", "events.csv", "watch.json", "timeline.png", "timeline.html"} <= names
    assert not any("building" in name or "partial" in name for name in names)
    content = json.loads((watched / "watch.json").read_text())
    assert content["num_scored"] == content["num_windows"] == len(read_timeline(watched))
    assert content["watched_seconds"] == pytest.approx(12.0)
    assert content["request"]["video"] == str(video)


def test_other_thresholds_take_the_scores_that_are_there(run: Path, video: Path, watched: Path) -> None:
    wishes = EventWishes({None: 0.01, "fall": 1.0}, min_dwell_seconds=0)
    again = watch_video(
        str(run),
        video,
        output_dir=watched,
        settings=WatchSettings(window_seconds=2.0, stride_seconds=0.5, smooth_seconds=0.0, wishes=wishes),
    )
    assert again.windows_scored == 0
    assert [event.label for event in again.events] == ["intrusion"]
    assert (again.events[0].start_seconds, again.events[0].end_seconds) == (0.0, 12.0)
    watch_video(str(run), video, output_dir=watched, settings=SETTINGS)


@pytest.mark.parametrize("keep", [0.0, 0.37, 0.8, 1.0])
def test_a_watch_goes_on_where_it_was_stopped(run: Path, video: Path, watched: Path, tmp_path, keep: float) -> None:
    predictor = Predictor.from_pretrained(run)
    whole = read_timeline(watched)
    stopped = _stopped_watch(predictor, video, tmp_path / "gate", whole, keep=keep)
    summary = watch_video(predictor, video, output_dir=tmp_path / "gate", settings=SETTINGS)
    assert summary.windows_scored == len(whole) - stopped
    again = read_timeline(tmp_path / "gate")
    np.testing.assert_allclose(again.scores, whole.scores, atol=1e-6)
    np.testing.assert_array_equal(again.start_seconds, whole.start_seconds)
    np.testing.assert_array_equal(again.end_seconds, whole.end_seconds)


def _stopped_watch(predictor: Predictor, video: Path, folder: Path, whole, *, keep: float) -> int:
    """Leave what a killed process leaves: a log whose last line is cut in half. Returns its whole windows."""
    parts = folder / ".railsformer-building" / "parts"
    parts.mkdir(parents=True)
    request = watch_request(predictor, video, WindowPlan(2.0, 0.5), None)
    log = ScoreLog.open(parts / "scores.jsonl", request)
    rows = zip(whole.start_seconds.tolist(), whole.end_seconds.tolist(), whole.scores, strict=True)
    log.add([ScoredWindow(index, *row) for index, row in enumerate(rows)])
    log.close()
    lines = (parts / "scores.jsonl").read_text().splitlines(keepends=True)
    kept = round(keep * len(whole))
    text = "".join(lines[: 1 + kept]) + "".join(lines[1 + kept : 2 + kept])[:-5]
    (parts / "scores.jsonl").write_text(text)
    return kept


@pytest.mark.slow
def test_a_killed_process_is_gone_on_with(run: Path, tmp_path) -> None:
    video = write_video(tmp_path / "long.mp4", num_frames=6000, fps=10)
    command = [sys.executable, "-c", _WATCH, str(run), str(video), str(tmp_path / "out")]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    log = tmp_path / "out" / ".railsformer-building" / "parts" / "scores.jsonl"
    deadline = time.monotonic() + 120
    while not (log.is_file() and log.read_bytes().count(b"\n") > 20):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = log.read_bytes().count(b"\n") - 1
    summary = watch_video(str(run), video, output_dir=tmp_path / "out", settings=SETTINGS)
    assert summary.windows_scored <= len(summary.timeline) - done
    straight = watch_video(str(run), video, output_dir=tmp_path / "straight", settings=SETTINGS)
    np.testing.assert_allclose(summary.timeline.scores, straight.timeline.scores, atol=1e-6)


_WATCH = """
import sys
from railsformer.inference.watch import WatchSettings, watch_video
settings = WatchSettings(window_seconds=2.0, stride_seconds=0.5, smooth_seconds=1.0, batch_size=2)
watch_video(sys.argv[1], sys.argv[2], output_dir=sys.argv[3], settings=settings)
"""


def test_a_log_of_another_request_is_begun_anew(tmp_path) -> None:
    log = ScoreLog.open(tmp_path / "log", {"video": "a"})
    log.add([ScoredWindow(0, 0.0, 2.0, np.array([0.25, 0.75]))], [SourceEvent("damage", 1.0, "a hole")])
    log.close()
    again = ScoreLog.open(tmp_path / "log", {"video": "a"})
    again.close()
    assert again.next_index == 1
    assert again.source_events == [SourceEvent("damage", 1.0, "a hole")]
    np.testing.assert_array_equal(again.windows[0].scores, [0.25, 0.75])
    other = ScoreLog.open(tmp_path / "log", {"video": "b"})
    other.close()
    assert other.next_index == 0
    assert len((tmp_path / "log").read_text().splitlines()) == 1


def test_a_gap_is_not_scored_and_told(run: Path, tmp_path) -> None:
    times = [index / 10 for index in range(60)] + [60 + index / 10 for index in range(60)]
    video = write_video(tmp_path / "gap.mp4", num_frames=120, fps=10, times_seconds=times)
    summary = watch_video(str(run), video, output_dir=tmp_path / "out", settings=SETTINGS)
    assert [event.kind for event in summary.source_events] == ["gap"]
    assert not summary.timeline.scored.all()
    assert 11 < summary.timeline.watched_seconds <= 12.01
    assert not any(event.start_seconds < 30 < event.end_seconds for event in summary.events)


def test_an_event_has_the_wall_clock_that_was_given_or_the_files_own(run: Path, tmp_path) -> None:
    wishes = EventWishes({None: 0.01})
    video = _with_creation_time(tmp_path / "gate.mp4", "2026-03-01T06:30:00.000000Z")
    assert creation_time(video) == datetime(2026, 3, 1, 6, 30, tzinfo=UTC)
    assert creation_time(_with_creation_time(tmp_path / "unset.mp4", "1970-01-01T00:00:00.000000Z")) is None
    own = WatchSettings(window_seconds=2.0, wishes=wishes, camera="gate_1")
    summary = watch_video(str(run), video, output_dir=tmp_path / "own", settings=own)
    assert summary.events[0].start_time == "2026-03-01T06:30:00.000+00:00"
    assert json.loads((tmp_path / "own" / "events.json").read_text())["camera"] == "gate_1"
    given = WatchSettings(window_seconds=2.0, wishes=wishes, start_time=parse_start_time("2026-05-01T12:00:00+02:00"))
    summary = watch_video(str(run), video, output_dir=tmp_path / "given", settings=given)
    assert summary.events[0].start_time == "2026-05-01T12:00:00.000+02:00"
    with pytest.raises(ValueError, match=r"--start_time must be ISO 8601 .* got 'noon'"):
        parse_start_time("noon")


def _with_creation_time(path: Path, moment: str) -> Path:
    with av.open(str(path), "w") as container:
        container.metadata["creation_time"] = moment
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(number_picture(index), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_clips_and_the_annotated_video_are_made_on_request(run: Path, video: Path, tmp_path) -> None:
    wishes = EventWishes({"fall": 0.01, "intrusion": 1.0})
    settings = WatchSettings(window_seconds=2.0, wishes=wishes, clips=True, annotate=True)
    summary = watch_video(str(run), video, output_dir=tmp_path / "out", settings=settings)
    assert len(list((tmp_path / "out" / "clips").glob("*.mp4"))) == len(summary.events) == 1
    with av.open(str(tmp_path / "out" / "annotated.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 120


def test_a_folder_of_something_else_is_refused(run: Path, video: Path, watched: Path, tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="already holds something"):
        watch_video(str(run), video, output_dir=tmp_path, settings=SETTINGS)
    with pytest.raises(FileExistsError, match=r"holds another watch \(stride_seconds 0\.5, now 1\.0\)"):
        watch_video(str(run), video, output_dir=watched, settings=WatchSettings(window_seconds=2.0))
    with pytest.raises(FileExistsError, match="is a file; name a folder"):
        watch_video(str(run), video, output_dir=tmp_path / "notes.txt", settings=SETTINGS)


def test_names_that_are_no_text_are_refused_before_the_work(run: Path, video: Path, tmp_path) -> None:
    odd = tmp_path / os.fsdecode(b"b\xff.mp4")
    odd.write_bytes(video.read_bytes())
    with pytest.raises(ValueError, match=r"video '.*b.udcff\.mp4' is no UTF-8 text, .*; rename it"):
        watch_video(str(run), odd, output_dir=tmp_path / "out", settings=SETTINGS)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"camera .* is no UTF-8 text"):
        WatchSettings(camera=os.fsdecode(b"\xff"))


def test_scores_that_are_damaged_are_named_with_what_helps(run: Path, video: Path, tmp_path) -> None:
    watch_video(str(run), video, output_dir=tmp_path / "out", settings=SETTINGS)
    scores = tmp_path / "out" / "scores.parquet"
    scores.write_bytes(scores.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"is no whole timeline .*; run railsformer watch again after removing .*out"):
        watch_video(str(run), video, output_dir=tmp_path / "out", settings=SETTINGS)


def test_clips_of_events_that_are_gone_are_removed_and_the_users_files_stay(run: Path, video: Path, tmp_path) -> None:
    def clips(wishes: EventWishes) -> set[str]:
        settings = WatchSettings(window_seconds=2.0, wishes=wishes, clips=True)
        watch_video(str(run), video, output_dir=tmp_path / "out", settings=settings)
        return {path.name for path in (tmp_path / "out" / "clips").iterdir()}

    assert clips(EventWishes({"fall": 0.01, "intrusion": 1.0})) == {"001_fall_00h00m00s.mp4"}
    (tmp_path / "out" / "clips" / "mine.mp4").write_bytes(b"")
    assert clips(EventWishes({"fall": 1.0, "intrusion": 0.01})) == {"001_intrusion_00h00m00s.mp4", "mine.mp4"}


def test_a_live_watch_leaves_the_folder_of_a_recording_alone(run: Path, watched: Path, tmp_path, capsys) -> None:
    before = (watched / "events.json").read_bytes()
    words = ["watch", "udp://127.0.0.1:9", "--model", str(run), "--start_timeout", "1", "--output_dir"]
    assert main([*words, str(watched)]) == 2
    assert "holds the watch of a recording; name another folder" in capsys.readouterr().err
    assert (watched / "events.json").read_bytes() == before
    parts = tmp_path / "half" / ".railsformer-building" / "parts"
    parts.mkdir(parents=True)
    (parts / "scores.jsonl").write_text("hours of work")
    assert main([*words, str(tmp_path / "half")]) == 2
    assert (parts / "scores.jsonl").exists()


def test_two_live_watches_in_one_folder_are_refused(run: Path, tmp_path, capsys) -> None:
    words = ["watch", "udp://127.0.0.1:9", "--model", str(run), "--start_timeout", "1"]
    with building_folder(check_live_folder(tmp_path / "live")):
        assert main([*words, "--output_dir", str(tmp_path / "live")]) == 2
    assert "is being written by another process" in capsys.readouterr().err


def test_bad_videos_are_named(run: Path, video: Path, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"lasts 12\.00 s, less than half a window of 60 s"):
        watch_video(str(run), video, output_dir=tmp_path / "a", settings=WatchSettings(window_seconds=60.0))
    with pytest.raises(VideoDecodeError, match=r"absent\.mp4"):
        watch_video(str(run), tmp_path / "absent.mp4", output_dir=tmp_path / "b", settings=SETTINGS)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoDecodeError, match=r"text\.mp4"):
        watch_video(str(run), tmp_path / "text.mp4", output_dir=tmp_path / "c", settings=SETTINGS)
    assert not (tmp_path / "c" / "watch.json").exists()


def test_thresholds_come_from_the_user_then_the_model_then_nobody(run: Path, tmp_path, caplog) -> None:
    predictor = Predictor.from_pretrained(run)
    assert dict(event_settings(predictor, EventWishes()).on) == {"fall": 0.4, "intrusion": 0.5}
    assert dict(event_settings(predictor, EventWishes({"fall": 0.9})).on) == {"fall": 0.9, "intrusion": 0.5}
    assert dict(event_settings(predictor, EventWishes({None: 0.7, "fall": 0.9})).on) == {"fall": 0.9, "intrusion": 0.7}
    assert not caplog.records
    bare = Predictor.from_pretrained(write_tiny_run(tmp_path / "bare", negative_labels=["idle"]))
    assert dict(event_settings(bare, EventWishes()).on) == {"fall": 0.5, "intrusion": 0.5}
    assert "has no operating point for fall, intrusion" in caplog.text
    with pytest.raises(ValueError, match=r"--threshold idle is for a label that is no hazard .* fall, intrusion"):
        event_settings(predictor, EventWishes({"idle": 0.5}))
    with pytest.raises(ValueError, match="--off_share must lie in 0 to 1, got 2"):
        event_settings(predictor, EventWishes(off_share=2))
    with pytest.raises(ValueError, match="on threshold of fall must be above 0 and at most 1, got 0"):
        event_settings(predictor, EventWishes({"fall": 0.0}))


def test_thresholds_are_read_with_and_without_a_label() -> None:
    assert _thresholds(["0.5", "fall=0.7", "a=b=0.1"]) == {None: 0.5, "fall": 0.7, "a=b": 0.1}
    with pytest.raises(ValueError, match="--threshold must be P or LABEL=P with a number P, got 'fall=high'"):
        _thresholds(["fall=high"])
    with pytest.raises(ValueError, match="is the second one for fall"):
        _thresholds(["fall=0.5", "fall=0.6"])


def test_events_csv_names_the_video_as_it_was_given(watched: Path, video: Path) -> None:
    with (watched / "events.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(row["video"] == str(video) for row in rows)


def test_the_folder_may_hold_the_video_so_that_it_can_be_sent(run: Path, video: Path, tmp_path, capsys) -> None:
    words = ["watch", str(video), "--model", str(run), "--window_seconds", "2", "--output_dir", str(tmp_path / "gate")]
    assert main(words) == 0
    assert not (tmp_path / "gate" / "gate.mp4").exists()
    assert main([*words, "--copy_video"]) == 0
    assert (tmp_path / "gate" / "gate.mp4").read_bytes() == video.read_bytes()
    page = (tmp_path / "gate" / "timeline.html").read_text()
    assert '"gate.mp4"' in page
    assert "../" not in page
    words = ["watch", "rtsp://camera/stream", "--model", str(run), "--output_dir", str(tmp_path / "live")]
    assert main([*words, "--copy_video"]) == 2
    assert "--copy_video has no meaning for a live source" in capsys.readouterr().err


def test_a_changed_model_of_the_same_name_is_another_watch(run: Path, video: Path, tmp_path) -> None:
    shutil.copytree(run, tmp_path / "run")
    predictor = Predictor.from_pretrained(tmp_path / "run")
    plan = WindowPlan(2.0, 0.5)
    before = watch_request(predictor, video, plan, None)
    assert set(before["model_changed"]) == {"config.json", "model.safetensors", "preprocessor_config.json"}
    for name in ("training_args.bin", "pytorch_model.bin", "model.onnx.data"):
        (tmp_path / "run" / name).write_bytes(b"x")
    after = watch_request(predictor, video, plan, None)
    assert set(after["model_changed"]) - set(before["model_changed"]) == {"pytorch_model.bin", "model.onnx.data"}


TWO_COMMITS = """
import json, os, sys
from pathlib import Path
from huggingface_hub import HfApi
from railsformer import Predictor
from railsformer.inference.watch_folder import watch_request
from railsformer.inference.windows import WindowPlan
api = HfApi()
api.create_repo("user/yard", private=True)
os.chdir(sys.argv[3])
Path("user/yard").mkdir(parents=True)  # no model: it does not stand for the one on the Hub
found = []
for folder in sys.argv[1:3]:
    api.upload_folder(repo_id="user/yard", folder_path=folder)
    os.rename("user", "away")
    predictor = Predictor.from_pretrained("user/yard", device="cpu")
    os.rename("away", "user")
    request = watch_request(predictor, Path(sys.argv[4]), WindowPlan(2.0, 0.5), None)
    found.append([request["model"], request["model_changed"]["commit"]])
print(json.dumps(found))
"""


def test_a_hub_model_that_moved_on_is_another_watch(hub, run: Path, video: Path, tmp_path) -> None:
    other = write_tiny_run(tmp_path / "other", negative_labels=["idle"], initializer_range=0.4)
    (tmp_path / "here").mkdir()
    first, second = hub.run(TWO_COMMITS, run, other, tmp_path / "here", video)
    assert first[0] == second[0] == "user/yard"
    assert first[1] != second[1]
    assert len(first[1]) == 40


def test_the_verbs_go_from_a_video_to_the_quality_of_its_events(run: Path, video: Path, tmp_path, capsys) -> None:
    flags = ["--window_seconds", "2", "--stride_seconds", "0.5", "--threshold", "0.01", "--threshold", "intrusion=1"]
    assert main(["watch", str(video), "--model", str(run), "--output_dir", str(tmp_path / "gate"), *flags]) == 0
    shown = capsys.readouterr().out
    assert "00:00:00.0 - 00:00:12.0  fall" in shown
    assert "1 events in 00:00:12.0 of footage" in shown
    (tmp_path / "truth.csv").write_text("video,label,start_seconds,end_seconds\ngate.mp4,fall,3,5\n")
    words = ["evaluate", "--events", str(tmp_path / "truth.csv"), "--timeline", str(tmp_path / "gate")]
    assert main([*words, "--output_dir", str(tmp_path / "figures")]) == 0
    assert "all hazards" in capsys.readouterr().out
    overall = json.loads((tmp_path / "figures" / "event_metrics.json").read_text())["overall"]
    assert (overall["num_found"], overall["num_false_alarms"]) == (1, 0)
    assert overall["false_seconds_per_hour"] == pytest.approx(3000)  # ten of the twelve seconds


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--window_seconds", "60"], "lasts 12.00 s, less than half a window of 60 s"),
        (["--window_seconds", "-1"], "window_seconds"),
        (["--stride_seconds", "0"], "stride_seconds"),
        (["--smooth_seconds", "-1"], "smooth_seconds must be 0 or more, got -1"),
        (["--min_dwell_seconds", "-1"], "min_dwell_seconds must be 0 or more, got -1"),
        (["--threshold", "flood=0.5"], "--threshold flood is for a label that is no hazard"),
        (["--start_time", "noon"], "--start_time must be ISO 8601"),
        (["--start_time", "9999-12-31T23:59:59"], "--start_time must lie in 1990 to 9000"),
        (["--batch_size", "0"], "batch_size must be at least 1, got 0"),
        (["--webhook", "http://127.0.0.1:1/"], "--webhook has no meaning for a recording"),
        (["--region", "absent.json"], "absent.json"),
    ],
)
def test_bad_flags_end_in_one_line(run: Path, video: Path, tmp_path, capsys, flags: list[str], message: str) -> None:
    words = ["watch", str(video), "--model", str(run), "--output_dir", str(tmp_path / "out"), *flags]
    assert main(words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("railsformer: error")]
    assert len(lines) == 1
    assert message in lines[0]


def test_a_full_disk_is_named_and_gone_on_from(run: Path, video: Path, watched: Path, tmp_path) -> None:
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1200, 1200))\n"
        "from railsformer.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["watch", str(video), "--model", str(run), "--output_dir", str(tmp_path / "out"), "--batch_size", "2"]
    words += ["--window_seconds", "2", "--stride_seconds", "0.5"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no room on its disk" in done.stderr
    assert "run the same command again: it goes on where it was" in done.stderr
    summary = watch_video(str(run), video, output_dir=tmp_path / "out", settings=SETTINGS)
    assert 0 < summary.windows_scored < len(summary.timeline)
    np.testing.assert_allclose(summary.timeline.scores, read_timeline(watched).scores, atol=1e-6)
