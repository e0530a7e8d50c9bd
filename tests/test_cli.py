"""The command line as a user meets it: help at once, one line and exit code 2 for what is wrong."""

import json
import subprocess
import sys

import pytest
from videos import write_video

from railsformer.cli import main

VERBS = [
    "build",
    "analyze",
    "train",
    "evaluate",
    "crossval",
    "convert",
    "push",
    "predict",
    "watch",
    "explain",
    "export",
    "compare",
    "demo",
]


def _railsformer(*arguments, cwd=None):
    """Run the real program in a process of its own."""
    command = [sys.executable, "-m", "railsformer.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def _refusal(capsys, *arguments):
    """The one line on stderr that comes with exit code 2."""
    assert main([str(argument) for argument in arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("railsformer: error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def source(tmp_path):
    """Two classes of three clips."""
    for label in ("Other", "Track-Excavator"):
        for index in range(3):
            path = tmp_path / "source" / label / f"{label}{index}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, num_frames=6, first_number=10 * index + len(label))  # no two files are copies
    return tmp_path / "source"


def test_help_needs_no_torch():
    code = "import sys; from railsformer.cli import _parser; _parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb):
    done = _railsformer(verb, "--help")
    assert done.returncode == 0
    assert "usage: railsformer" in done.stdout


def test_an_unknown_verb_exits_with_2():
    done = _railsformer("trian")
    assert done.returncode == 2
    assert done.stderr.startswith("railsformer: error: argument VERB: invalid choice: 'trian'")
    assert len(done.stderr.splitlines()) == 1


def test_build_refuses_an_empty_folder(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    message = _refusal(capsys, "build", tmp_path / "empty", "--output_dir", tmp_path / "out")
    assert str(tmp_path / "empty") in message
    assert not (tmp_path / "out").exists()


def test_build_refuses_one_class(capsys, source, tmp_path):
    for path in (source / "Other").iterdir():
        path.unlink()
    message = _refusal(capsys, "build", source, "--output_dir", tmp_path / "out")
    assert "Track-Excavator" in message


def test_build_refuses_a_label_without_its_file(capsys, source, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("file_name,label\nOther/Other0.mp4,Other\nOther/gone.mp4,Other\nOther/Other1.mp4,Track\n")
    message = _refusal(capsys, "build", source, "--annotations", table, "--output_dir", tmp_path / "out")
    assert "row 3" in message
    assert "gone.mp4" in message


def test_build_refuses_a_file_that_is_no_video(capsys, source, tmp_path):
    (source / "Other" / "notes.mp4").write_text("this is no video")
    message = _refusal(capsys, "build", source, "--output_dir", tmp_path / "out")
    assert "notes.mp4" in message
    assert "--on_bad drop" in message
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_build_refuses_a_split_without_samples(capsys, source, tmp_path):
    message = _refusal(capsys, "build", source, "--group_by", r"(clip|Other|Track)", "--output_dir", tmp_path / "out")
    assert "2 group(s)" in message


def test_build_refuses_an_output_folder_that_holds_something(capsys, source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    message = _refusal(capsys, "build", source, "--output_dir", tmp_path / "out")
    assert "already holds something" in message
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_train_refuses_an_unknown_key(capsys, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("lerning_rate: 0.1\n")
    message = _refusal(capsys, "train", "--config", recipe, "--dataset", "d", "--output_dir", tmp_path / "run")
    assert "'lerning_rate'; did you mean 'learning_rate'?" in message
    assert not (tmp_path / "run").exists()


def test_train_refuses_a_missing_model(capsys, yard_dataset, tmp_path):
    flags = ["--model", tmp_path / "nowhere", "--dataset", yard_dataset, "--output_dir", tmp_path / "run"]
    message = _refusal(capsys, "train", *flags, "--use_cpu", "true")
    assert f"{tmp_path / 'nowhere'}: no model here" in message
    assert not (tmp_path / "run").exists()


def test_train_refuses_a_missing_dataset(capsys, tmp_path):
    flags = ["--from_scratch", "--dataset", tmp_path / "nowhere", "--output_dir", tmp_path / "run"]
    assert "no dataset here" in _refusal(capsys, "train", *flags)
    assert not (tmp_path / "run").exists()


def test_evaluate_refuses_a_missing_model(capsys, yard_dataset, tmp_path):
    flags = ["--model", tmp_path / "nowhere", "--dataset", yard_dataset, "--output_dir", tmp_path / "report"]
    assert "no model here" in _refusal(capsys, "evaluate", *flags)
    assert not (tmp_path / "report").exists()


def test_push_refuses_a_folder_that_is_neither_model_nor_dataset(capsys, tmp_path):
    message = _refusal(capsys, "push", tmp_path, "user/name")
    assert str(tmp_path) in message


def test_a_file_that_is_no_video_is_refused_by_the_real_program(source, tmp_path):
    (source / "Other" / "notes.mp4").write_text("this is no video")
    done = _railsformer("build", source, "--output_dir", tmp_path / "out")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("railsformer: error: ")


@pytest.mark.slow
def test_from_videos_to_a_report(tmp_path, yard_dataset):
    """train, evaluate and the card, as typed."""
    run, report = tmp_path / "run", tmp_path / "report"
    sizes = ["--hidden_size", 32, "--num_hidden_layers", 2, "--num_attention_heads", 2, "--intermediate_size", 64]
    sizes += ["--image_size", 48, "--num_frames", 4, "--frame_interval", 15]
    flags = ["--eval_strategy", "steps", "--eval_steps", 3, "--save_strategy", "steps", "--save_steps", 3]
    flags += ["--max_steps", 3, "--use_cpu", "true", "--dataset", yard_dataset, "--output_dir", run]
    done = _railsformer("train", "--from_scratch", *sizes, *flags)
    assert done.returncode == 0, done.stderr
    assert "validation macro F1" in done.stdout
    done = _railsformer("evaluate", "--model", run, "--dataset", yard_dataset, "--output_dir", report)
    assert done.returncode == 0, done.stderr
    for label in ("Bucket-Worker", "Cabin-Worker", "Other", "Track-Excavator", "macro F1"):
        assert label in done.stdout
    metrics = json.loads((report / "metrics.json").read_text())
    assert metrics["split"] == "test"
    assert metrics["num_videos"] == sum(row["support"] for row in metrics["per_class"].values())
    card = (run / "README.md").read_text()
    assert "model-index" in card
    assert f"{metrics['accuracy']:.3f}" in card
    # A second report over the first is refused by the real program too.
    done = _railsformer("evaluate", "--model", run, "--dataset", yard_dataset, "--output_dir", report)
    assert done.returncode == 2
    assert "already holds something" in done.stderr


@pytest.mark.slow
def test_too_many_damaged_validation_videos_are_named(tmp_path, yard_dataset):
    """Decoding happens in worker processes; the user still gets one line. A few cost only themselves."""
    import shutil

    dataset, run = tmp_path / "dataset", tmp_path / "run"
    shutil.copytree(yard_dataset, dataset)
    victim = sorted((dataset / "data" / "validation").glob("*.mp4"))[0]
    victim.write_bytes(b"overwritten")
    sizes = ["--hidden_size", 32, "--num_hidden_layers", 1, "--num_attention_heads", 2, "--image_size", 48]
    done = _railsformer(
        "train", "--from_scratch", *sizes, "--use_cpu", "true", "--dataset", dataset, "--output_dir", run
    )
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("railsformer: error: ")]
    assert len(lines) == 1
    assert victim.name in lines[0]
    assert "1 of the 7 validation videos could not be read, more than max_lost_share 0.05" in lines[0]
    assert "cannot be decoded" in lines[0]
    assert not (run / "model.safetensors").exists()
