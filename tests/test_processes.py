"""How the processes of a launch part: none may be aborted after it has finished its work."""

import os
import subprocess
import sys

import pytest
import torch
from test_training import TINY

from railsformer.evaluation import processes


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "2"}, 3),
        ({"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "9"}, 1),
        ({"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}, 6),
        ({"OMP_NUM_THREADS": "2", "LOCAL_WORLD_SIZE": "2"}, None),  # somebody chose it
        ({"OMP_NUM_THREADS": "1"}, None),  # nobody launched it
    ],
)
def test_a_launched_process_on_cpu_uses_its_share_of_the_cores(monkeypatch, environment, threads):
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    given = []
    monkeypatch.setattr(processes, "available_cores", lambda: 6)
    monkeypatch.setattr(processes.torch, "set_num_threads", given.append)
    processes.use_cores(processes.Process(0, 1, torch.device("cpu")))
    assert given == ([] if threads is None else [threads])
    processes.use_cores(processes.Process(0, 1, torch.device("cuda")))
    assert len(given) == (threads is not None)


# What the command line does, and then: which threads of gloo are left for the interpreter to stumble over?
SCRIPT = """
import sys
from pathlib import Path

from railsformer.evaluation.processes import end_processes
from railsformer.training.arguments import parse_settings
from railsformer.training.trainer import train


def gloo_threads():
    return sum("gloo" in (task / "comm").read_text() for task in Path("/proc/self/task").iterdir())


def run():
    train(parse_settings(sys.argv[1:]))


run()
before = gloo_threads()
end_processes()
print(f"threads before {before}, after {gloo_threads()}", flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_no_thread_of_gloo_outlives_the_group(yard_dataset, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    flags = [*TINY, "--dataset", str(yard_dataset), "--output_dir", str(tmp_path / "run"), "--max_steps", "2"]
    flags += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
    flags += ["--dataloader_num_workers", "0"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    done = subprocess.run(
        [*torchrun, str(tmp_path / "script.py"), *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("threads before")]
    assert len(lines) == 2
    for line in lines:
        before, after = (int(part.split()[-1]) for part in line.split(","))
        assert before > 0
        assert after == 0, line
