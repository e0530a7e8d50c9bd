"""The verb predict: one row a video, whatever happens on the way."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_run import write_tiny_run
from videos import write_video

from railsformer.cli import main
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings
from railsformer.inference.model_identity import score_digest
from railsformer.inference.predict import RowWriter, find_videos, predict_videos
from railsformer.inference.predictor import Predictor
from railsformer.inference.regions import Region
from railsformer.inference.views import Viewing, read_many
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

POINTS = {
    "version": 1,
    "temperature": 1.0,
    "labels": {"fall": {"threshold": 0.000001, "target": "recall>=0.9"}},
    "split": "validation",
    "dataset_fingerprint": None,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_tiny_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    """Three videos, a file that is none, and one that is no business of ours."""
    folder = tmp_path_factory.mktemp("footage")
    for number, name in enumerate(("a.mp4", "below/b.mkv", "below/c.avi")):
        write_video(folder / name, num_frames=20, first_number=60 * number)
    (folder / "broken.mp4").write_text("no video")
    (folder / "notes.txt").write_text("no video either")
    return folder


def _predict(run, *arguments, workers="0"):
    return main(["predict", "--model", str(run), "--device", "cpu", "--num_workers", workers, *map(str, arguments)])


def _rows(text):
    return [json.loads(line) for line in text.splitlines()]


def test_a_folder_gives_a_row_a_video_and_a_bad_file_is_one_of_them(run, footage, capsys):
    assert _predict(run, footage) == 0
    rows = _rows(capsys.readouterr().out)
    assert [Path(row["video"]).name for row in rows] == ["a.mp4", "b.mkv", "c.avi", "broken.mp4"]
    for row in rows[:3]:
        assert row["label"] == max(row["scores"], key=row["scores"].get)
        assert row["score"] == row["scores"][row["label"]]
        assert row["duration_seconds"] == pytest.approx(2.0)
        assert (row["error"], row["decisions"]) == (None, None)
        assert (row["model"], row["views"]) == (str(run), "1x1")
    assert rows[3]["label"] is None
    assert "cannot be decoded as video" in rows[3]["error"]


def test_rows_are_those_of_the_predictor_also_from_other_processes(run, footage):
    predictor = Predictor.from_pretrained(run, device="cpu", batch_size=2)
    videos = [str(footage / name) for name in ("a.mp4", "broken.mp4", "below/b.mkv", "gone.mp4", "below/c.avi")]
    apart = list(predict_videos(predictor, videos, num_clips=2, num_crops=3, num_workers=2))
    here = list(predict_videos(predictor, videos, num_clips=2, num_crops=3, num_workers=0))
    assert apart == here
    assert [one.video for one in here] == videos
    assert [one.error is None for one in here] == [True, False, True, False, True]
    expected = predictor(videos[4], num_clips=2, num_crops=3)
    assert here[4].prediction.scores == pytest.approx(expected.scores, abs=1e-6)


def test_the_region_goes_to_the_other_processes(footage):
    polygons = Region(polygons=(((0.0, 0.0), (0.4, 0.0), (0.4, 1.0), (0.0, 1.0)),))
    for region in (polygons, Region(picture=polygons.mask(48, 64))):
        viewing = Viewing(ClipSampling(2, 15), PixelSettings(32, 36), region=region)
        (apart,) = read_many([str(footage / "a.mp4")], viewing, num_workers=1)
        (here,) = read_many([str(footage / "a.mp4")], viewing, num_workers=0)
        assert apart.pixel_values.equal(here.pixel_values)


def test_processes_wait_for_a_slow_network_and_end_with_their_caller(footage):
    viewing = Viewing(ClipSampling(2, 15), PixelSettings(32, 36))
    views = read_many([str(footage / "a.mp4")] * 50, viewing, num_workers=1)
    assert next(views).pixel_values.shape == (1, 2, 3, 32, 32)
    views.close()  # must come back although tasks wait for room


def test_a_table_for_reading(run, footage, capsys):
    assert _predict(run, footage / "a.mp4", footage / "broken.mp4", "--format", "table") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["score", "label", "alarm", "video"]
    assert lines[1].endswith("a.mp4")
    assert lines[2].startswith("    -")
    assert "broken.mp4: cannot be decoded" in lines[2]


def test_csv_with_decisions_and_the_top_scores(run, footage, tmp_path, capsys):
    copy = write_tiny_run(tmp_path / "run")
    (copy / "operating_points.json").write_text(json.dumps(POINTS))
    assert _predict(copy, footage / "a.mp4", "--format", "csv", "--top_k", 1) == 0
    out, err = capsys.readouterr()
    (row,) = csv.DictReader(io.StringIO(out))
    assert row["decision_fall"] == "true"
    assert "decision_idle" not in row
    assert float(row[f"score_{row['label']}"]) == float(row["score"])
    assert sum(bool(value) for name, value in row.items() if name.startswith("score_")) == 1
    assert "operating points" not in err


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_rows_that_are_there_are_not_done_again_and_half_a_line_is_repaired(run, footage, tmp_path, suffix, capsys):
    whole, output = tmp_path / f"whole.{suffix}", tmp_path / f"rows.{suffix}"
    assert _predict(run, footage, "--output", whole) == 0
    content = whole.read_bytes()
    lines = content.splitlines(keepends=True)
    marked = lines[1 if suffix == "csv" else 0].replace(b"2.0", b"7.7")  # shows that the row was left as it is
    head = lines[:1] if suffix == "csv" else []
    output.write_bytes(b"".join([*head, marked, lines[len(head) + 1][:25]]))
    assert _predict(run, footage, "--output", output) == 0
    assert output.read_bytes() == b"".join([*head, marked, *lines[len(head) + 1 :]])
    before = output.stat().st_mtime_ns, output.read_bytes()
    assert _predict(run, footage, "--output", output) == 0
    assert output.read_bytes() == before[1]
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_a_killed_run_goes_on(run, footage, tmp_path):
    output = tmp_path / "rows.jsonl"
    many = tmp_path / "many"
    for number in range(60):
        many.mkdir(exist_ok=True)
        os.link(footage / "a.mp4", many / f"{number:02}.mp4")
    command = [sys.executable, "-m", "railsformer.cli", "predict", "--model", str(run), "--num_workers", "0"]
    command += ["--batch_size", "1", "--output", str(output), str(many)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and (not output.exists() or output.stat().st_size < 1000):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert main(command[3:]) == 0
    assert [Path(row["video"]).name for row in _rows(output.read_text())] == [
        f"{number:02}.mp4" for number in range(60)
    ]


@pytest.mark.slow
def test_a_terminated_run_leaves_whole_rows_and_no_scratch(run, footage, tmp_path):
    output, scratch, many = tmp_path / "rows.jsonl", tmp_path / "scratch", tmp_path / "many"
    scratch.mkdir()
    many.mkdir()
    for number in range(60):
        os.link(footage / "a.mp4", many / f"{number:02}.mp4")
    command = [sys.executable, "-m", "railsformer.cli", "predict", "--model", str(run), "--batch_size", "1"]
    command += ["--output", str(output), str(many)]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as process:
        while process.poll() is None and (not output.exists() or output.stat().st_size < 1000):
            time.sleep(0.01)
        assert [path.name for path in scratch.glob("railsformer-*")]
        with pytest.raises(FileExistsError, match="being written by another process"):
            RowWriter("jsonl", Predictor.from_pretrained(run), views="1x1", output=output, stream=sys.stdout)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    assert not list(scratch.glob("railsformer-*"))
    assert all(json.loads(line)["error"] is None for line in output.read_text().splitlines())


def test_rows_of_something_else_are_left_alone(run, footage, tmp_path, capsys):
    output = tmp_path / "rows.jsonl"
    output.write_text('{"video": "a.mp4", "model": "other", "views": "1x1"}\n')
    assert _predict(run, footage, "--output", output) == 2
    assert "row 1: its model is 'other'" in capsys.readouterr().err
    output.write_text("a letter to my mother\n")
    assert _predict(run, footage, "--output", output) == 2
    assert "line 1 is no row of predictions" in capsys.readouterr().err
    assert output.read_text() == "a letter to my mother\n"
    table = tmp_path / "rows.csv"
    table.write_text("name,colour\n")
    assert _predict(run, footage, "--output", table) == 2
    assert "name another --output" in capsys.readouterr().err
    assert _predict(run, footage, "--output", table, "--format", "table") == 2


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize("change", ["nothing", "weights", "temperature", "threshold", "region", "no digest"])
def test_rows_of_the_same_name_but_another_model_are_not_gone_on_with(
    footage, tmp_path, suffix, change, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run, output, region = write_tiny_run(tmp_path / "run"), tmp_path / f"rows.{suffix}", tmp_path / "region.json"
    (run / "operating_points.json").write_text(json.dumps(POINTS))
    region.write_text("[[[0, 0], [1, 0], [1, 1]]]")
    words = [footage / "a.mp4", "--region", "region.json", "--output", output]
    assert _predict(run, *words) == 0
    if change == "weights":
        model = RailsformerForVideoClassification.from_pretrained(run)
        with torch.no_grad():
            model.classifier.weight[0, 0] += 1e-3
        model.save_pretrained(run)
    elif change == "temperature":
        (run / "operating_points.json").write_text(json.dumps({**POINTS, "temperature": 1.5}))
    elif change == "threshold":
        (run / "operating_points.json").write_text(
            json.dumps({**POINTS, "labels": {"fall": {"threshold": 0.5, "target": "recall>=0.9"}}})
        )
    elif change == "region":
        region.write_text("[[[0, 0], [1, 0], [0, 1]]]")
    elif change == "no digest":  # as before there was one
        text = re.sub(r", \"digest\": \"[0-9a-f]+\"|,digest|(?<=1x1 region.json),[0-9a-f]{12}", "", output.read_text())
        output.write_text(text)
    before = output.read_bytes()
    code = _predict(run, footage / "below", *words)
    error = capsys.readouterr().err
    if change == "nothing":
        assert code == 0
        assert output.read_bytes().startswith(before)
        return
    assert code == 2
    assert output.read_bytes() == before
    old_table = change == "no digest" and suffix == "csv"
    told = "its columns are" if old_table else "other weights, temperature, thresholds or region than now"
    assert told in error.strip().splitlines()[-1]
    assert "name another --output" in error


def test_a_copied_run_is_the_same_model(run, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    digests = {score_digest(Predictor.from_pretrained(folder, device="cpu")) for folder in (run, tmp_path / "copy")}
    assert len(digests) == 1


def test_bad_arguments_leave_no_file(run, footage, tmp_path):
    for words in (["--num_workers", "-1"], ["--num_clips", "0"], ["--top_k", "0"]):
        assert (
            main(["predict", "--model", str(run), str(footage), *words, "--output", str(tmp_path / "rows.csv")]) == 2
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_file_without_a_line_end_is_left_alone(run, footage, tmp_path, suffix, capsys):
    output = tmp_path / f"mine.{suffix}"
    output.write_text("one line, no end")
    assert _predict(run, footage / "a.mp4", "--output", output) == 2
    assert "holds something else than rows of predictions; name another --output" in capsys.readouterr().err
    assert output.read_text() == "one line, no end"
    output.write_text("{" if suffix == "jsonl" else "video,la")  # what a run that was killed at once left
    assert _predict(run, footage / "a.mp4", "--output", output) == 0
    assert len(output.read_text().splitlines()) == (1 if suffix == "jsonl" else 2)


def test_an_output_that_is_no_file_is_not_read_back(run, footage):
    assert _predict(run, footage / "a.mp4", "--output", "/dev/null") == 0


def test_if_nothing_can_be_read_it_fails_in_one_line(run, footage, capsys):
    assert _predict(run, footage / "broken.mp4", footage / "gone.mp4") == 2
    out, err = capsys.readouterr()
    assert [bool(row["error"]) for row in _rows(out)] == [True, True]
    assert err.strip().splitlines()[-1].startswith("railsformer: error: none of 2 video(s) could be read, first")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["empty"], "no video in this folder"),
        (["*.webm"], "nothing matches"),
        (["a.mp4", "--num_clips", "0"], "num_clips must be at least 1"),
        (["a.mp4", "--top_k", "0"], "top_k must be at least 1"),
        (["a.mp4", "--batch_size", "0"], "batch_size must be at least 1"),
        (["a.mp4", "--num_workers", "-1"], "num_workers must be at least 0"),
        (["a.mp4", "--device", "moon"], "device 'moon' is not there"),
        (["a.mp4", "--region", "gone.png"], "no such file"),
    ],
)
def test_bad_arguments_are_one_line(run, footage, tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.mp4").write_bytes((footage / "a.mp4").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "--model", str(run), *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.strip().splitlines()[-1].startswith("railsformer: error:")


def test_names_stand_for_files_each_once(footage):
    a, b, c = (str(footage / name) for name in ("a.mp4", "below/b.mkv", "below/c.avi"))
    assert find_videos([str(footage / "below")]) == [b, c]
    assert find_videos([c, str(footage / "**" / "*.mkv"), str(footage / "below")]) == [c, b]
    assert find_videos(["-", b], listed=io.StringIO(f"{a}\n\n{b}\n")) == [a, b]
    assert find_videos([str(footage / "gone.mp4")]) == [str(footage / "gone.mp4")]
    with pytest.raises(ValueError, match="no video is named"):
        find_videos(["-"], listed=io.StringIO(""))


def test_names_come_from_standard_input_and_standard_error_says_what_is_missing(run, footage):
    command = [sys.executable, "-m", "railsformer.cli", "predict", "--model", str(run), "--num_workers", "0", "-"]
    names = f"{footage / 'a.mp4'}\n{footage / 'broken.mp4'}\n{footage / 'below'}\n"
    done = subprocess.run(command, input=names, capture_output=True, text=True, check=True)
    assert [Path(row["video"]).name for row in _rows(done.stdout)] == ["a.mp4", "broken.mp4", "b.mkv", "c.avi"]
    assert done.stderr.count("no operating points") == 1
    assert "1 of 4 videos could not be read" in done.stderr
