"""The demo at toy size: every station runs, prints what it does and leaves a model and a report."""

import os
import subprocess
import sys

import pytest

from railsformer.cli import main

SMALL = """
import sys
from railsformer import cli, demo
demo.NUM_RECORDINGS, demo.SPLITS = 6, (0.5, 0.17, 0.33)
demo._recipe = lambda: sys.argv[2]
demo.run_demo(sys.argv[1], run_verb=cli.main)
"""


@pytest.mark.slow
def test_the_demo_runs_from_end_to_end(tmp_path, pytestconfig):
    recipe = tmp_path / "demo.yaml"
    text = (pytestconfig.rootpath / "configs" / "demo.yaml").read_text()
    recipe.write_text(
        "".join(line for line in text.splitlines(True) if "epochs" not in line) + "num_train_epochs: 1\n"
    )
    environment = {**os.environ, "RAILSFORMER_TRACEBACK": "1"}
    command = [sys.executable, "-c", SMALL, str(tmp_path / "demo"), str(recipe)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for words in (
        "Welcome",
        "[5/5]",
        "fine-tuned",
        "trunk frozen",
        "from random weights",
        "twins",
        "Report: ",
        "Next",
    ):
        assert words in done.stdout
    folder = tmp_path / "demo"
    for name in ("run/model.safetensors", "run/README.md", "report/metrics.json", "report/report.md"):
        assert (folder / name).is_file(), name
    assert "None yet" not in (folder / "run" / "README.md").read_text()


def test_the_demo_does_not_overwrite_what_is_not_its_own(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["demo", "--output_dir", str(tmp_path)]) == 2
    assert "holds something that is not a demo's" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "mine"
