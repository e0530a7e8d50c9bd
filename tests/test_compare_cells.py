"""Cells of a comparison with processes that are played: whose scores they are, how they end, and what stays."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_crossval import TINY
from tiny_run import write_tiny_run

from railsformer.compare import cells, machine, peer_cell, peer_train
from railsformer.compare.accuracy import _notes_of, compare_accuracy
from railsformer.compare.cells import Cell, CellRunner, Variant
from railsformer.compare.peers import why_no_library
from railsformer.compare.starts import find_start, weights_hash
from railsformer.data.clips import load_video_dataset
from railsformer.evaluation.report_pages.predictions import Predictions, write_predictions

RECIPE = {"from_scratch": True, "use_cpu": True, "num_threads": 1}
SCHEME = Variant("space_only", RECIPE)


class Processes:
    """Trains, evaluates and scores in no time; `ends` are reasons of the next trainings, None where they go well."""

    def __init__(self, dataset):
        self.dataset, self.ends, self.asked, self.limits, self.weights = dataset, [], [], [], 0

    def verb(self, verb, *flags, limit_bytes=None, **_):
        self.asked.append(verb)
        self.limits.append(limit_bytes)
        if verb == "train":
            return self.train(flags)
        report = cells.Path(flags[flags.index("--output_dir") + 1])
        report.mkdir(parents=True)
        self._predict(report)
        (report / "metrics.json").write_text("{}")
        return None

    def train(self, flags):
        if reason := self.ends.pop(0) if self.ends else None:
            return reason
        run = cells.Path(flags[flags.index("--output_dir") + 1])
        run.mkdir(parents=True)
        self.weights += 1
        (run / "model.safetensors").write_bytes(b"weights %d" % self.weights)
        (run / "run.json").write_text("{}")
        return None

    def module(self, module, *flags, limit_bytes=None, **_):
        self.asked.append(module.rpartition(".")[2])
        if module != "railsformer.compare.score_cell":
            return self.train(flags)
        if reason := self.ends.pop(0) if self.ends else None:
            return reason
        request = json.loads(cells.Path(flags[0]).read_text())
        for name in request["protocols"]:
            folder = cells.Path(request["output_dir"]) / name
            folder.mkdir(parents=True, exist_ok=True)
            self._predict(folder)
            (folder / "facts.json").write_text(json.dumps({"seconds": 1.0, "weights": request["weights"]}))
        return None

    def _predict(self, folder):
        rows, labels = self.dataset.split("test"), list(self.dataset.labels)
        scores = np.eye(len(labels))[[self.weights % len(labels)] * len(rows)]
        videos = [str(index) for index in range(len(rows))]
        write_predictions(folder / "predictions.csv", Predictions(labels, videos, np.array(rows["label"]), scores))


@pytest.fixture
def played(monkeypatch, yard_dataset):
    processes = Processes(load_video_dataset(yard_dataset))
    monkeypatch.setattr(cells, "run_verb", processes.verb)
    monkeypatch.setattr(cells, "run_module", processes.module)
    return processes


def _runner(tmp_path, played, **changes):
    return CellRunner(tmp_path / "cells", played.dataset, lock=None, **changes)


def _train(runner, variant=SCHEME, seed=0):
    cell = Cell(variant, seed)
    settings = runner.claim(cell)
    return cell, settings, runner.train(cell, settings)


def _result(runner, cell):
    return runner.place("accuracy", cell) / "result.json"


# Whose scores


def test_a_network_that_is_trained_anew_is_tested_and_scored_anew(tmp_path, played):
    runner = _runner(tmp_path, played)
    cell, settings, first = _train(runner)
    for what in ("views", "probe"):
        assert runner.score(what, cell, settings, {"other": {}}) is None
    assert runner.scored("views", cell, "other")[0].scores.argmax(axis=1)[0] == 1
    cells.shutil.rmtree(runner.place("accuracy", cell) / "run")
    _result(runner, cell).unlink()
    _, _, again = _train(runner)
    assert again["accuracy"] != first["accuracy"]
    assert not runner.place("views", cell).exists()
    assert not runner.place("probe", cell).exists()
    runner.score("views", cell, settings, {"other": {}})
    assert runner.scored("views", cell, "other")[0].scores.argmax(axis=1)[0] == 2


def test_scores_of_other_weights_are_not_taken_and_those_of_unknown_ones_are(tmp_path, played):
    runner = _runner(tmp_path, played)
    cell, settings, _ = _train(runner)
    runner.score("views", cell, settings, {"other": {}})
    weights = runner.place("accuracy", cell) / "run" / "model.safetensors"
    assert runner.scored("views", cell, "other")[1]["weights"] == weights_hash(weights.parent)
    weights.write_bytes(b"copied from elsewhere")
    asked = len(played.asked)
    runner.score("views", cell, settings, {"other": {}})
    assert played.asked[asked:] == ["score_cell"]
    facts = runner.place("views", cell) / "other" / "facts.json"
    facts.write_text('{"seconds": 1.0}')  # as earlier versions left it
    runner.score("views", cell, settings, {"other": {}})
    assert len(played.asked) == asked + 1


# How they end


@pytest.mark.parametrize("code", ["with code 143", "with code 130", "by signal 15", "by signal 2"])
def test_an_interruption_is_no_failure_and_the_same_call_goes_on(tmp_path, played, code):
    runner = _runner(tmp_path, played)
    played.ends = [f"the process ended {code} (epoch 3); see log.txt"]
    cell, settings, first = _train(runner)
    assert first == {"state": "interrupted", "reason": "interrupted; the same command goes on"}
    assert not cells.is_done(first)
    assert not _result(runner, cell).exists()
    assert _train(runner)[2]["state"] == "finished"
    played.ends = [f"the process ended {code} (it printed nothing); see log.txt"]
    assert runner.score("probe", cell, settings, {"other": {}}).startswith("interrupted")
    assert not (runner.place("probe", cell) / "result.json").exists()
    assert runner.score("probe", cell, settings, {"other": {}}) is None


@pytest.mark.parametrize(
    ("reason", "overflows"),
    [
        ("the process ended by signal 9 (epoch 1); see log.txt", True),
        ("the 3D CNN's training ended with code -9: epoch 1", True),
        ("RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed. ", True),
        ("CUDA error: an illegal memory access was encountered", False),
        ("the process ended with code 1 (no such thing); see log.txt", False),
    ],
)
def test_what_memory_ended_is_told_so_and_failures_stay_until_they_are_tried_again(
    tmp_path, played, reason, overflows
):
    runner = _runner(tmp_path, played)
    played.ends = [reason]
    cell, settings, failed = _train(runner)
    assert failed["state"] == "failed"
    assert failed["reason"].startswith("out of memory: ") == overflows
    assert runner.train(cell, settings) == failed
    assert played.asked == ["train"]
    played.ends = ["the process ended with code 143 (epoch 1); see log.txt"]
    again = _runner(tmp_path, played, retry=True)
    assert again.train(cell, settings)["state"] == "interrupted"
    assert runner.train(cell, settings)["state"] == "finished"


def test_a_peer_that_is_told_to_end_ends_its_cell_as_interrupted(tmp_path, monkeypatch):
    script = tmp_path / "peer.py"
    monkeypatch.setattr(peer_train, "__file__", str(script))
    for line, code in (("os.kill(os.getpid(), 15)", 143), ("os._exit(143)", 143), ("os.kill(os.getpid(), 2)", 130)):
        script.write_text(f"import os, signal\nsignal.signal(2, signal.SIG_DFL)\n{line}\n")
        with pytest.raises(SystemExit) as ended:
            peer_cell._train_peer(sys.executable, tmp_path / "request.json", None)
        assert ended.value.code == code
    script.write_text("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(ValueError, match="the 3D CNN's training ended with code -9"):
        peer_cell._train_peer(sys.executable, tmp_path / "request.json", None)


# Memory


def test_trainings_have_nine_tenths_of_what_is_free_and_beside_a_gpu_what_they_had(tmp_path, played, monkeypatch):
    monkeypatch.setattr(machine, "free_bytes", lambda device: 1000)
    _train(_runner(tmp_path / "default", played))
    _train(_runner(tmp_path / "given", played, memory_gib=2))
    assert played.limits == [900, 900, 2 * 2**30, 2 * 2**30]
    if sys.platform == "linux":
        import resource

        # The one that holds anyway, so that the process is still the first to go where memory runs out.
        assert machine.memory_limit(None, on_gpu=True) == resource.getrlimit(resource.RLIMIT_DATA)[1]


@pytest.mark.parametrize(
    ("words", "code"), [("CUDA out of memory.", 2), ("[enforce fail] can't allocate memory: 7 bytes", 2)]
)
def test_a_peer_tells_the_end_of_memory(tmp_path, monkeypatch, capsys, words, code):
    assert _peer_main(tmp_path, monkeypatch, RuntimeError(words)) == code
    assert capsys.readouterr().err == "railsformer: error: out of memory\n"


def test_an_illegal_access_is_not_the_end_of_memory(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="illegal memory access"):
        _peer_main(tmp_path, monkeypatch, RuntimeError("CUDA error: an illegal memory access was encountered"))


def _peer_main(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    (tmp_path / "request.json").write_text("{}")
    monkeypatch.setattr(peer_train, "train_peer", fail)
    monkeypatch.setattr(peer_train, "_go_with_the_asker", lambda: None)
    monkeypatch.setattr(sys, "argv", ["peer_train.py", str(tmp_path / "request.json")])
    return peer_train.main()


# What stands beside


def test_seconds_of_all_parts_are_added_and_a_kill_is_told(tmp_path, played, monkeypatch):
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(cells.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(cells, "resume_flags", lambda run: ["--resume"] if played.asked else [])
    runner = _runner(tmp_path, played)
    played.ends = ["the process ended with code 143 (epoch 3); see log.txt"]
    cell, _, _ = _train(runner)
    _, _, found = _train(runner)
    assert (found["seconds"], found["resumed"], found["seconds_lost"]) == (20.0, True, False)
    trained = runner.place("accuracy", cell) / "trained.json"
    trained.write_text(json.dumps(json.loads(trained.read_text()) | {"seconds_lost": True}))  # as a kill leaves it
    cells.shutil.rmtree(runner.place("accuracy", cell) / "run")
    _result(runner, cell).unlink()
    _, _, found = _train(runner)
    assert (found["seconds"], found["seconds_lost"]) == (30.0, True)
    assert "time of seed 0 is without" in _notes_of(SCHEME, {0: found})[0]


def test_a_result_tells_hardware_and_versions_of_its_training(tmp_path, played):
    _, _, found = _train(_runner(tmp_path, played))
    assert found["hardware"] == machine.machine_facts(threads=1)
    assert found["versions"] == machine.library_versions()
    other = found["hardware"] | {"processor": "another"}
    assert machine.distinct([found["hardware"], other, found["hardware"]]) == [found["hardware"], other]
    assert machine.distinct([other, other]) == other


def test_cells_of_earlier_versions_are_taken_as_they_are(tmp_path, played):
    """Without hashes, hardware or versions: unknown, and never refused or done again."""
    runner = _runner(tmp_path, played)
    known = Variant("space_only", RECIPE, identity={"start_weights": "abc"})
    cell, _, _ = _train(runner)
    old = {"state": "finished", "accuracy": 0.5, "f1_macro": 0.4, "seconds": 9.0, "validation": None}
    _result(runner, cell).write_text(json.dumps(old))
    assert _train(runner, known)[2] == old
    assert "start_weights" not in json.loads((runner.place("accuracy", cell) / "settings.json").read_text())
    assert _notes_of(known, {0: old}) == []


def test_a_start_whose_weights_changed_under_its_name_is_refused(tmp_path, played):
    runner = _runner(tmp_path, played)
    _train(runner, Variant("space_only", RECIPE, identity={"start_weights": "abc"}))
    with pytest.raises(ValueError, match="was trained with start_weights abc, now def; take the old setting"):
        _train(runner, Variant("space_only", RECIPE, identity={"start_weights": "def"}))
    divided = write_tiny_run(tmp_path / "divided")
    start = find_start(divided, {}, folder=tmp_path / "start")
    assert start.weights == weights_hash(tmp_path / "start")
    write_tiny_run(divided, initializer_range=0.1)
    with pytest.raises(ValueError, match=r"start was made from .* with weights \w{16}, now it has weights \w{16}"):
        find_start(divided, {}, folder=tmp_path / "start")
    source = tmp_path / "start" / "source.txt"
    source.write_text(source.read_text().split("\n")[0] + "\n")  # as earlier versions left it
    assert find_start(divided, {}, folder=tmp_path / "start") == start


# A peer's environment


def _peer(python, **options):
    return Variant("3D CNN", RECIPE, kind="peer", options={"peer_python": str(python), **options})


def test_a_wrong_interpreter_is_a_reason_for_as_long_as_it_is_given(tmp_path, played, monkeypatch):
    runner = _runner(tmp_path, played)
    cell, _, failed = _train(runner, _peer(tmp_path / "python"))
    assert "no such file" in failed["reason"]
    assert not _result(runner, cell).exists()
    assert _train(runner, _peer(sys.executable))[2]["reason"].startswith(f"the environment of {sys.executable} cannot")
    monkeypatch.setattr(cells, "why_no_library", lambda python: None)
    played.ends = ["the 3D CNN's training ended with code 2: no room"]
    assert _train(runner, _peer(tmp_path / "first"))[2]["state"] == "failed"
    assert _train(runner, _peer(tmp_path / "first"))[2]["state"] == "failed"
    assert played.asked == ["peer_cell"]
    played.ends = ["the 3D CNN's training ended with code 2: no room"]
    _train(runner, _peer(tmp_path / "second"))  # what one environment could not, another may
    assert played.asked == ["peer_cell"] * 2
    held = json.loads((runner.place("accuracy", cell) / "settings.json").read_text())
    assert held["peer_python"] == str(tmp_path / "second")


def test_an_interpreter_that_cannot_be_started_says_so(tmp_path):
    (tmp_path / "python").write_text("")
    assert "cannot be started (Permission denied)" in why_no_library(tmp_path / "python")


def test_a_peer_of_a_frozen_recipe_is_refused(tmp_path, yard_dataset, monkeypatch, capsys):
    flags = ["--from_scratch", "--trainable", "head", "--dataset", str(yard_dataset), "--output_dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["peer_cell", "--peer_python", sys.executable, *flags])
    assert peer_cell.main() == 2
    assert "the 3D CNN is trained whole or not at all" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_3d_cnn_is_trained_from_random_and_from_given_weights(tmp_path, yard_dataset):
    """Set RAILSFORMER_PEER_PYTHON to the Python of an environment with torch, torchvision and pytorchvideo."""
    python = os.environ.get("RAILSFORMER_PEER_PYTHON")
    if not python:
        pytest.skip("no environment with pytorchvideo is named")
    code = "import torch; from pytorchvideo.models import create_slowfast; "
    code += f"torch.save(create_slowfast(model_num_class=9).state_dict(), {str(tmp_path / 'k9.pyth')!r})"
    subprocess.run([python, "-I", "-c", code], check=True)
    (tmp_path / "tiny.yaml").write_text(f"{TINY}class_balance: loss\nlabel_smoothing_factor: 0.1\n")
    keys = {"seeds": (0,), "schemes": ("space_only",), "positions": (), "views": (), "frozen": False, "probe": False}
    keys |= {"peer_python": python, "peer_weights": tmp_path / "k9.pyth"}
    content = compare_accuracy(tmp_path / "out", dataset=yard_dataset, config=tmp_path / "tiny.yaml", **keys)
    for row in content["accuracy"]["rows"][1:]:
        assert row["not_measured"] is None
        assert re.search(
            r"trained with pytorchvideo \S+, torch \S+, torchvision \S+ of its own environment", row["note"]
        )
    (result,) = (tmp_path / "out" / "cells" / "accuracy").glob("*k9*/run/run.json")
    assert json.loads(result.read_text())["left_out"] == ["blocks.6.proj.weight", "blocks.6.proj.bias"]


class _Small(torch.nn.Module):
    def __init__(self, num_labels=3):
        super().__init__()
        self.body = torch.nn.Linear(2, 4)
        self.head = torch.nn.Linear(4, num_labels)


def test_weights_that_are_given_are_taken_but_for_a_head_of_other_labels(tmp_path):
    given = _Small(num_labels=7)
    torch.save({"model_state": given.state_dict()}, tmp_path / "weights.pyth")
    model = _Small()
    before = model.head.weight.clone()
    assert peer_train.load_weights(model, tmp_path / "weights.pyth") == ["head.weight", "head.bias"]
    assert torch.equal(model.body.weight, given.body.weight)
    assert torch.equal(model.head.weight, before)
    same = _Small(num_labels=7)
    assert peer_train.load_weights(same, tmp_path / "weights.pyth") == []
    assert torch.equal(same.head.weight, given.head.weight)
    torch.save({"other.weight": torch.zeros(2)}, tmp_path / "other.pyth")
    with pytest.raises(ValueError, match=r"whose layers it does not have: body\.weight and 2 more"):
        peer_train.load_weights(model, tmp_path / "other.pyth")
    torch.save([1, 2], tmp_path / "list.pyth")
    with pytest.raises(ValueError, match="must hold a state dict of create_slowfast, got list"):
        peer_train.load_weights(model, tmp_path / "list.pyth")


def test_the_peers_loss_is_that_of_the_schemes(tmp_path):
    from railsformer.training.losses import ClipLoss

    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 1])
    training = object.__new__(peer_train._Training)
    for smoothing, weights in ((0.0, None), (0.1, (0.5, 1.0, 3.0))):
        training.request = {"label_smoothing": smoothing}
        training.class_weights = None if weights is None else torch.tensor(weights)
        expected = ClipLoss(weights, label_smoothing=smoothing)(logits, labels)
        torch.testing.assert_close(training._loss(logits, labels), expected)
