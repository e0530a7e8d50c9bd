import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from railsformer.data.isolation import Lost, run_isolated

_TASKS = """
import os, signal, sys, time

def answer(task):
    if task == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if task == "hang":
        time.sleep(600)
    if str(task).startswith("hang and write to "):
        with open(task.removeprefix("hang and write to "), "w") as file:
            print(os.getpid(), file=file)
        time.sleep(600)
    if task == "raise":
        raise MemoryError("no room")
    print("noise of a library")
    if task == "leave":
        sys.stdout.flush()
        os._exit(7)
    return {"task": task, "process": os.getpid()}
"""


@pytest.fixture
def target(tmp_path, monkeypatch) -> str:
    (tmp_path / "isolated_tasks.py").write_text(_TASKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "isolated_tasks:answer"


def _run(target, tasks, *, timeouts=None, num_workers=2):
    outcomes = run_isolated(target, tasks, timeouts_seconds=timeouts or [60.0] * len(tasks), num_workers=num_workers)
    return [outcome for _, outcome in sorted(outcomes, key=lambda pair: pair[0])]


def test_a_lost_task_costs_itself_only(target):
    tasks = ["a", "die", "b", "raise", "ü\n", "leave", "hang", "c"]
    timeouts = [60.0] * 6 + [0.3, 60.0]
    found = _run(target, tasks, timeouts=timeouts)
    assert [outcome["task"] for outcome in found if not isinstance(outcome, Lost)] == ["a", "b", "ü\n", "c"]
    assert [outcome for outcome in found if isinstance(outcome, Lost)] == [
        Lost("crash", "signal SIGSEGV"),
        Lost("crash", "exit code 1: MemoryError: no room"),
        Lost("crash", "exit code 7: noise of a library"),
        Lost("timeout", "no result after 0.3 s"),
    ]
    assert os.getpid() not in [outcome["process"] for outcome in found if not isinstance(outcome, Lost)]


def test_a_worker_is_kept_for_many_tasks(target):
    found = _run(target, list(range(20)), num_workers=1)
    assert [outcome["task"] for outcome in found] == list(range(20))
    assert len({outcome["process"] for outcome in found}) == 1


def test_processes_end_when_nobody_asks_on(target):
    outcomes = run_isolated(target, ["a", "hang", "hang"], timeouts_seconds=[60.0] * 3, num_workers=2)
    index, first = next(outcomes)
    assert (index, first["task"]) == (0, "a")
    outcomes.close()
    with pytest.raises(ProcessLookupError):
        os.kill(first["process"], 0)


def test_a_worker_that_cannot_start_is_no_fault_of_the_file():
    with pytest.raises(RuntimeError, match="could not be started: exit code 1: ModuleNotFoundError"):
        _run("no_such_module:answer", ["a"])


def test_no_task_starts_no_process():
    assert _run("no_such_module:answer", []) == []


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks processes up in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_parent(target, tmp_path, how):
    tasks = [f"hang and write to {tmp_path / name}" for name in ("one.pid", "two.pid")]
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; from railsformer.data.isolation import run_isolated\n"
        f"list(run_isolated({target!r}, {tasks!r}, timeouts_seconds=[300.0] * 2, num_workers=2))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    pids = [_written_pid(tmp_path / name, parent) for name in ("one.pid", "two.pid")]
    parent.send_signal(how)
    assert parent.wait(timeout=60) != 0
    assert parent.stderr is not None
    assert ("KeyboardInterrupt" in parent.stderr.read()) == (how == signal.SIGINT)
    parent.stderr.close()
    deadline = time.monotonic() + 60
    while any(map(_is_running, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _written_pid(path: Path, parent: subprocess.Popen) -> int:
    while not (path.is_file() and path.read_text().endswith("\n")):
        assert parent.poll() is None
        time.sleep(0.01)
    return int(path.read_text())


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
