"""Trainings side by side: their shares, and how they end together."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from test_compare_accuracy import _compare
from test_compare_cells import RECIPE, Processes
from test_crossval import TINY

from railsformer.compare import cells
from railsformer.compare.cells import Cell, CellRunner, Variant
from railsformer.data.clips import load_video_dataset
from railsformer.data.probe import available_cores
from railsformer.training.verb_process import run_module

_PATIENCE_SECONDS = 60


class SideBySide(Processes):
    """No training ends before two have begun."""

    def __init__(self, dataset):
        super().__init__(dataset)
        self.both, self.told, self.environments = threading.Barrier(2), [], []

    def verb(self, *flags, environment, **options):
        self.environments.append(environment)
        return super().verb(*flags, **options)

    def train(self, flags):
        self.told.append(flags)
        self.both.wait(_PATIENCE_SECONDS)
        return super().train(flags)


@pytest.fixture
def side_by_side(monkeypatch, yard_dataset):
    processes = SideBySide(load_video_dataset(yard_dataset))
    monkeypatch.setattr(cells, "run_verb", processes.verb)
    return processes


def _train_all(runner, variants, on_result=lambda name, result: None):
    claimed = {cell.name: (cell, runner.claim(cell)) for cell in (Cell(variant, 0) for variant in variants)}
    runner.train_all(claimed, on_result)


def test_two_train_at_a_time_each_with_its_share(tmp_path, side_by_side, monkeypatch):
    free = iter([1000, 1000, *[10] * 99])  # once trainings have begun, much of it is theirs
    monkeypatch.setattr(cells, "memory_limit", lambda memory_gib, *, on_gpu: next(free))
    unsaid = {key: value for key, value in RECIPE.items() if key != "num_threads"}
    variants = [Variant(f"network {index}", unsaid) for index in range(4)]
    runner, results = CellRunner(tmp_path, side_by_side.dataset, lock=None, jobs=2), {}
    _train_all(runner, variants, results.__setitem__)
    assert sorted(results) == sorted(Cell(variant, 0).name for variant in variants)
    assert {result["state"] for result in results.values()} == {"finished"}
    share = str(max(1, available_cores() // 2))
    assert all(flags[flags.index("--num_threads") + 1] == share for flags in side_by_side.told)
    assert set(side_by_side.limits) == {500}
    assert {environment["OMP_NUM_THREADS"] for environment in side_by_side.environments} == {share}
    assert {result["jobs"] for result in results.values()} == {2}


def test_threads_of_the_recipe_hold(tmp_path, side_by_side):
    runner = CellRunner(tmp_path, side_by_side.dataset, lock=None, jobs=2)
    _train_all(runner, [Variant(name, RECIPE) for name in ("one", "other")])
    assert not any("--num_threads" in flags for flags in side_by_side.told)


def test_what_ends_the_comparison_ends_what_runs_beside(tmp_path, yard_dataset, monkeypatch):
    runner = CellRunner(tmp_path, load_video_dataset(yard_dataset), lock=None, jobs=2)
    begun, stopped = threading.Event(), []

    def verb(*flags, stop, **_):
        if any("network_0-seed0" in flag for flag in flags):
            assert begun.wait(_PATIENCE_SECONDS)
            return "it failed"
        begun.set()
        stopped.append(stop.wait(_PATIENCE_SECONDS))
        raise InterruptedError

    def refuse(name, result):
        raise KeyboardInterrupt

    monkeypatch.setattr(cells, "run_verb", verb)
    variants = [Variant(f"network_{index}", RECIPE) for index in range(6)]
    with pytest.raises(KeyboardInterrupt):
        _train_all(runner, variants, refuse)
    assert stopped
    assert all(stopped)
    assert not (tmp_path / "accuracy" / "network_5-seed0" / "trained.json").exists()  # was never begun


def test_views_and_orders_are_scored_alone_with_all_that_is_free(tmp_path, side_by_side, monkeypatch):
    monkeypatch.setattr(cells, "memory_limit", lambda memory_gib, *, on_gpu: 1000)
    asked = []

    def module(*flags, **options):
        asked.append(options)
        return side_by_side.module(*flags, **options)

    monkeypatch.setattr(cells, "run_module", module)
    runner = CellRunner(tmp_path, side_by_side.dataset, lock=None, jobs=2)
    variants = [Variant(name, {"from_scratch": True, "use_cpu": True}) for name in ("one", "other")]
    _train_all(runner, variants)
    cell = Cell(variants[0], 0)
    assert runner.score("probe", cell, runner.claim(cell), {"other": {}}) is None
    assert asked == [{"lock": None, "progress": False, "limit_bytes": 1000, "log": asked[0]["log"]}]
    request = json.loads((runner.place("probe", cell) / "request.json").read_text())
    assert request["num_threads"] is None


def test_fewer_than_one_at_a_time_is_refused(tmp_path, yard_dataset):
    with pytest.raises(ValueError, match=r"^--jobs must be at least 1, got 0$"):
        _compare(tmp_path / "no.yaml", yard_dataset, tmp_path / "out", jobs=0)
    assert not (tmp_path / "out").exists()


def test_a_process_is_told_to_end_where_no_signal_reaches(tmp_path):
    stop = threading.Event()
    with (tmp_path / "lock").open("w") as lock, ThreadPoolExecutor(1) as pool:
        server = pool.submit(
            run_module, "http.server", "0", "--bind", "127.0.0.1", log=tmp_path / "log", lock=lock, stop=stop
        )
        ends = time.monotonic() + _PATIENCE_SECONDS
        while not (running := _servers()) and time.monotonic() < ends:
            time.sleep(0.05)
        stop.set()
        with pytest.raises(InterruptedError):
            server.result(_PATIENCE_SECONDS)
    assert running
    assert not _servers()


def _servers():
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # ended in between
            found += [child] if "http.server" in child.cmdline() else []
    return found


@pytest.mark.long
def test_a_killed_comparison_of_two_at_a_time_goes_on(yard_dataset, tmp_path):
    output_dir, slow = tmp_path / "out", tmp_path / "slow.yaml"
    slow.write_text(f"{TINY.replace('num_train_epochs: 1', 'num_train_epochs: 40')}save_total_limit: 2\n")
    code = (
        "from railsformer.compare.accuracy import compare_accuracy; "
        f"compare_accuracy({str(output_dir)!r}, dataset={str(yard_dataset)!r}, config={str(slow)!r}, seeds=(0,), "
        "schemes=('space_only', 'joint_space_time'), positions=(), views=(), frozen=False, probe=False, jobs=2)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
    runs = [output_dir / f"cells/accuracy/{name}-seed0/run" for name in ("space_only", "joint_space_time")]
    while not all(list(run.glob("checkpoint-*/trainer_state.json")) for run in runs):
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(150) == 128 + signal.SIGTERM
    assert not any((run / "run.json").exists() for run in runs)
    schemes = ("space_only", "joint_space_time")
    content = _compare(slow, yard_dataset, output_dir, schemes=schemes, jobs=2)
    assert [row["not_measured"] for row in content["accuracy"]["rows"][:2]] == [None, None]
    assert all("going on from" in (run.parent / "log.txt").read_text() for run in runs)
