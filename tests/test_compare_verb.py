"""The verb on the rendered yard: what trains networks, through its command line, from one space_only start."""

import json

import pytest
from test_crossval import TINY
from tiny_run import write_tiny_run

from railsformer.cli import main
from railsformer.compare.accuracy import VIEWS
from railsformer.compare.report import read_comparison

# A dozen processes that import torch, one after the other: on a busy machine half a minute each.
pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def compared(yard_dataset, tmp_path_factory):
    """Two schemes and three position embeddings with one seed, the frozen start, all views and orders."""
    folder = tmp_path_factory.mktemp("verb")
    start = write_tiny_run(folder / "start", attention_type="space_only")
    recipe = "\n".join(line for line in TINY.splitlines() if "from_scratch" not in line)
    (folder / "tiny.yaml").write_text(f"{recipe}\n")
    command = ["compare", "--what", "accuracy", "positions", "views", "probe", "--dataset", str(yard_dataset)]
    command += ["--config", str(folder / "tiny.yaml"), "--model", str(start), "--seeds", "0"]
    command += ["--schemes", "divided_space_time", "space_only", "--output_dir", str(folder / "out")]
    assert main(command) == 0
    return folder / "out", command


def test_every_part_of_the_verb_is_measured(compared):
    output_dir, _ = compared
    content = read_comparison(output_dir)
    assert [name for name in content if name in ("cost", "accuracy", "positions", "views", "probe")] == [
        "accuracy", "positions", "views", "probe",
    ]  # fmt: skip
    rows = {row["name"]: row for row in content["accuracy"]["rows"]}
    for name in ("divided_space_time", "space_only", "frozen start + logistic regression"):
        assert (rows[name]["not_measured"], rows[name]["seeds"]) == (None, [0])
    assert [row["name"] for row in content["positions"]["rows"]] == ["space_time", "space", "none"]
    assert len(content["views"]["rows"]) == len(VIEWS)
    assert [row["not_measured"] for row in content["views"]["rows"]] == [None] * len(VIEWS)
    assert content["views"]["rows"][0]["accuracy"] == rows["divided_space_time"]["accuracy"]
    assert len(content["probe"]["rows"]) == 2
    assert all(content[part]["num_waiting"] == 0 for part in ("accuracy", "positions"))


def test_cells_keep_what_their_figures_depend_on(compared):
    output_dir, _ = compared
    accuracy = output_dir / "cells" / "accuracy" / "divided_space_time-seed0"
    settings = json.loads((accuracy / "settings.json").read_text())
    result = json.loads((accuracy / "result.json").read_text())
    assert len(settings["start_weights"]) == 16
    assert result["hardware"]["threads"] == 1
    assert set(result["versions"]) == {"railsformer", "torch", "transformers"}
    assert (result["resumed"], result["seconds_lost"]) == (False, False)
    assert result["seconds"] > 0
    facts = output_dir / "cells" / "views" / "divided_space_time-seed0" / "10x3" / "facts.json"
    assert len(json.loads(facts.read_text())["weights"]) == 16
    assert read_comparison(output_dir)["accuracy"]["protocol"]["hardware"] == result["hardware"]


def test_the_same_command_does_nothing_again_also_on_cells_of_earlier_versions(compared):
    output_dir, command = compared
    for path in output_dir.rglob("*.json"):  # as they were before hashes, hardware and versions were kept
        if path.name in ("result.json", "settings.json", "trained.json", "facts.json") and "run" not in path.parts:
            content = json.loads(path.read_text())
            for name in ("start_weights", "weights", "hardware", "versions", "resumed", "seconds_lost"):
                content.pop(name, None)
            path.write_text(json.dumps(content))
    written = {path: path.stat().st_mtime_ns for path in (output_dir / "cells").rglob("*") if path.is_file()}
    before = read_comparison(output_dir)
    assert main(command) == 0
    assert read_comparison(output_dir) == before
    assert {path: path.stat().st_mtime_ns for path in written} == written
