"""What takes minutes: every scheme through the command line, and a run whose process is killed."""

import json
import os
import signal
import subprocess
import sys
import time

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


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_was_killed_ends_in_the_same_weights(workers, yard_dataset, tmp_path):
    flags = [*TINY, "--dataset", yard_dataset, "--dataloader_num_workers", workers, "--max_steps", 20]
    flags += ["--eval_strategy", "no", "--load_best_model_at_end", "false", "--save_strategy", "steps"]
    flags += ["--save_steps", 4, "--save_total_limit", 9]
    _run("train", *flags, "--output_dir", tmp_path / "whole")
    killed = _start("train", *flags, "--output_dir", tmp_path / "killed")
    checkpoint = tmp_path / "killed" / "checkpoint-8"
    while killed.poll() is None and not (checkpoint / "trainer_state.json").is_file():
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    _run("train", *flags, "--output_dir", tmp_path / "killed", "--resume_from_checkpoint", checkpoint)
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
