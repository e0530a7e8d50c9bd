"""What takes minutes: every scheme through the command line, and a run whose process is killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from railsformer.model.configuration_railsformer import ATTENTION_TYPES

pytestmark = pytest.mark.long

TINY = ["--from_scratch", "--hidden_size", "32", "--num_hidden_layers", "2", "--num_attention_heads", "2"]
TINY += ["--intermediate_size", "64", "--image_size", "48", "--num_frames", "4", "--frame_interval", "15"]
TINY += ["--use_cpu", "true", "--learning_rate", "1e-3", "--per_device_train_batch_size", "4"]


def _start(*arguments):
    command = [sys.executable, "-m", "railsformer.cli", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )


def _run(*arguments):
    process = _start(*arguments)
    _, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]


@pytest.mark.parametrize("scheme", ATTENTION_TYPES)
def test_every_scheme_goes_the_whole_way(scheme, yard_dataset, tmp_path):
    run, report = tmp_path / "run", tmp_path / "report"
    flags = ["--attention_type", scheme, "--num_train_epochs", 1, "--dataset", yard_dataset, "--output_dir", run]
    _run("train", *TINY, *flags)
    _run("evaluate", "--model", run, "--dataset", yard_dataset, "--output_dir", report)
    metrics = json.loads((report / "metrics.json").read_text())
    assert metrics["num_videos"] == sum(map(sum, metrics["confusion_matrix"]["matrix"]))
    # Stock transformers, where railsformer cannot be imported.
    code = "import sys; sys.modules['railsformer'] = None; import torch, transformers as t\n"
    code += "m = t.AutoModelForVideoClassification.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
    code += "print(m(torch.zeros(1, 4, 3, 48, 48)).logits.shape)"
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=False)
    assert "torch.Size([1, 4])" in done.stdout, done.stderr[-2000:]


def _interrupted(dataset, run_dir, *flags, processes, strike=("never", 0, "SIGKILL", 0)):
    """One launch of a run of 14 steps, 6 an epoch, with drop path, that may be struck by a signal; its exit code."""
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--nproc_per_node", processes, "--standalone"]
    command = [*launch, Path(__file__).with_name("interrupted_run.py"), *strike, *TINY, "--dataset", dataset]
    command += ["--output_dir", run_dir, "--per_device_train_batch_size", 4 // processes, "--max_steps", 14]
    command += ["--stochastic_depth_rate", 0.3, "--disable_tqdm", "true", "--eval_strategy", "no"]
    command += ["--load_best_model_at_end", "false", "--save_strategy", "steps", "--save_steps", 4, *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_is_killed_again_and_again_ends_in_the_same_weights(processes, workers, yard_dataset, tmp_path):
    flags = ["--dataloader_num_workers", workers]
    code, errors = _interrupted(yard_dataset, tmp_path / "whole", *flags, processes=processes)
    assert code == 0, errors[-3000:]
    killed = tmp_path / "killed"
    strikes = [
        (("step", 3, "SIGKILL", 0), "starting anew"),  # before anything was saved
        (("save", 8, "SIGKILL", 0), "starting anew"),  # with a half checkpoint on the disk
        (("step", 11, "SIGKILL", processes - 1), "checkpoint-4"),
        (("step", 13, "SIGKILL", 0), "checkpoint-8"),
    ]
    for number, (strike, begins) in enumerate(strikes):
        resume = ["--resume"] if number else []
        code, errors = _interrupted(yard_dataset, killed, *flags, *resume, processes=processes, strike=strike)
        assert code not in (0, 2), errors[-3000:]
        assert not number or begins in errors
        assert not (killed / "model.safetensors").exists()
    code, errors = _interrupted(yard_dataset, killed, *flags, "--resume", processes=processes)
    assert code == 0, errors[-3000:]
    assert f"going on from {killed / 'checkpoint-12'}" in errors
    whole, resumed = (load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", killed))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_is_terminated_saves_and_ends_in_the_same_weights(processes, yard_dataset, tmp_path):
    flags = ["--dataloader_num_workers", 2]
    _interrupted(yard_dataset, tmp_path / "whole", *flags, processes=processes)
    stopped, strike = tmp_path / "stopped", ("step", 7, "SIGTERM", processes - 1)
    code, errors = _interrupted(yard_dataset, stopped, *flags, processes=processes, strike=strike)
    assert code == (143 if processes == 1 else 1), errors[-3000:]  # torchrun says 1 for any failure
    assert "checkpoint-7 is saved: go on with --resume" in errors
    code, errors = _interrupted(yard_dataset, stopped, *flags, "--resume", processes=processes)
    assert code == 0, errors[-3000:]
    assert "checkpoint-7" in errors
    whole, resumed = (load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", stopped))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
