"""`railsformer explain`: the files it writes, the windows of events, and one line for what cannot be."""

import json
import re

import numpy as np
import pytest
from tiny_run import write_tiny_run
from videos import write_video

from railsformer.cli import main
from railsformer.explain.requests import event_requests
from railsformer.inference.predictor import Predictor
from railsformer.inference.timeline import read_timeline


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_tiny_run(tmp_path_factory.mktemp("explain") / "run")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "yard.mp4", num_frames=30)


@pytest.fixture(scope="module")
def watched(run, tmp_path_factory):
    """A watch of eight seconds with events."""
    folder = tmp_path_factory.mktemp("watched")
    footage = write_video(folder / "shift.mp4", num_frames=80)
    words = ["watch", str(footage), "--model", str(run), "--output_dir", str(folder / "w"), "--threshold", "0.34"]
    assert main([*words, "--smooth_seconds", "0", "--min_dwell_seconds", "0"]) == 0
    return folder / "w"


def _explain(*words) -> int:
    return main(["explain", *map(str, words)])


def _refusal(capsys, *words) -> str:
    assert _explain(*words) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("railsformer: error: ")
    return error[-1]


def test_a_video_gets_all_its_files(run, video, tmp_path, capsys):
    out = tmp_path / "out"
    methods = ["rollout", "gradient_rollout", "occlusion"]
    flags = [word for method in methods for word in ("--method", method)]
    assert _explain("--model", run, video, *flags, "--output_dir", out) == 0
    folder = out / "yard"
    overlays = {f"overlay_{method}.mp4" for method in methods}
    others = {"contact_sheet.png", "relevance_curve.png", "relevance.npz", "explanation.json"}
    assert {path.name for path in folder.iterdir()} == overlays | others
    content = json.loads((folder / "explanation.json").read_text())
    prediction = Predictor.from_pretrained(run, device="cpu")(video)
    assert content["label"] == content["target"] == prediction.label
    assert content["scores"] == pytest.approx(prediction.scores)
    assert content["times_seconds"] == pytest.approx(prediction.clips_seconds[0], abs=1e-3)
    arrays = np.load(folder / "relevance.npz")
    assert arrays["relevance"].shape == (3, 2, 2, 2)
    assert arrays["methods"].tolist() == methods
    assert arrays["relevance"][0].sum() == pytest.approx(1, abs=1e-5)
    assert all(content["methods"][method]["trust"] for method in methods)
    assert f"yard.mp4: {prediction.label}" in capsys.readouterr().out


def test_videos_of_one_name_get_folders_of_their_own(run, video, tmp_path):
    other = write_video(tmp_path / "yard.mp4", num_frames=20)
    out = tmp_path / "out"
    assert _explain("--model", run, video, other, "--no_trust", "--no_video", "--output_dir", out) == 0
    assert {path.name for path in out.iterdir()} == {"yard", "yard_2"}
    assert not list(out.rglob("*.mp4"))


def test_an_unreadable_video_is_left_out_with_its_reason(run, video, tmp_path, caplog, capsys):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video at all")
    out = tmp_path / "out"
    assert _explain("--model", run, bad, video, "--no_trust", "--no_video", "--output_dir", out) == 0
    assert [path.name for path in out.iterdir()] == ["yard"]
    assert "bad.mp4" in caplog.text
    assert "bad.mp4" in _refusal(capsys, "--model", run, bad, "--output_dir", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_an_event_is_explained_by_the_window_of_its_peak(run, watched):
    predictor = Predictor.from_pretrained(run, device="cpu")
    events = json.loads((watched / "events.json").read_text())["events"]
    timeline = read_timeline(watched)
    requests = event_requests(watched / "events.json", predictor)
    assert len(requests) == len(events) > 0
    for request, event in zip(requests, events, strict=True):
        assert (request.start_seconds + request.end_seconds) / 2 == pytest.approx(event["peak_seconds"], abs=2e-3)
        starts = np.abs(timeline.start_seconds - request.start_seconds)
        assert starts.min() < 1e-6


def test_an_explained_event_has_the_score_of_its_window(run, watched, tmp_path):
    out = tmp_path / "out"
    words = ["--events", watched, "--event", "1", "--no_trust", "--output_dir", out]
    assert _explain("--model", run, *words) == 0
    event = json.loads((watched / "events.json").read_text())["events"][0]
    (folder,) = out.iterdir()
    assert folder.name == f"event_001_{event['label']}"
    content = json.loads((folder / "explanation.json").read_text())
    assert content["target"] == event["label"]
    assert content["scores"][event["label"]] == pytest.approx(event["score"], abs=1e-5)
    assert content["event"]["number"] == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--target", "explosion"], "target 'explosion' is no class of .*fall, idle, intrusion"),
        (["--start", "2.5", "--end", "1"], "end must be after start 2.5 s"),
        (["--event", "1"], "name the events.json"),
        (["--positions"], "looks at no video"),
        (["--seed", "1"], "no meaning without --embeddings"),
    ],
)
def test_what_cannot_be_is_one_line(run, video, tmp_path, capsys, words, told):
    line = _refusal(capsys, "--model", run, video, *words, "--output_dir", tmp_path / "out")
    assert re.search(told, line), line
    assert not (tmp_path / "out").exists()


def test_missing_things_are_named(run, video, watched, tmp_path, capsys):
    out = tmp_path / "out"
    assert "absent.mp4: no such video" in _refusal(capsys, "--model", run, "absent.mp4", "--output_dir", out)
    assert "nothing to explain" in _refusal(capsys, "--model", run, "--output_dir", out)
    events = ["--events", watched]
    assert "event must be 1 to" in _refusal(capsys, "--model", run, *events, "--event", "99", "--output_dir", out)
    empty = tmp_path / "events.json"
    content = json.loads((watched / "events.json").read_text()) | {"events": []}
    empty.write_text(json.dumps(content))
    assert "holds no event" in _refusal(capsys, "--model", run, "--events", empty, "--output_dir", out)
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("kept")
    assert "already holds something" in _refusal(capsys, "--model", run, video, "--output_dir", full)


def test_positions_share_the_verb(run, tmp_path, capsys):
    assert _explain("--model", run, "--positions", "--output_dir", tmp_path / "out") == 0
    assert any((tmp_path / "out").iterdir())
    assert "pictures:" in capsys.readouterr().out
