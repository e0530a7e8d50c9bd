"""What a run says and does on its way: gradients that are no numbers, labels that mean nothing, threads, the bar."""

import json
import re
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerControl

from railsformer.data.clips import load_video_dataset
from railsformer.training import trainer as training
from railsformer.training.arguments import RunArguments, parse_settings
from railsformer.training.callbacks import ReadableProgress
from railsformer.training.start import build_model, choose_pixels

TINY = ["--from_scratch", "--hidden_size", "32", "--num_hidden_layers", "1", "--num_attention_heads", "2"]
TINY += ["--intermediate_size", "64", "--image_size", "32", "--num_frames", "2", "--frame_interval", "15"]
TINY += ["--use_cpu", "true", "--disable_tqdm", "true", "--learning_rate", "1e-3", "--dataloader_num_workers", "0"]
TINY += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false", "--num_threads", "1"]


@pytest.mark.parametrize("max_grad_norm", ["1", "0"])
def test_a_gradient_that_is_no_number_ends_the_run_before_the_weights_change(yard_dataset, tmp_path, max_grad_norm):
    flags = ["--dataset", str(yard_dataset), "--output_dir", str(tmp_path / "run"), "--max_steps", "4"]
    flags += ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"]
    settings = parse_settings([*TINY, *flags, "--max_grad_norm", max_grad_norm])
    dataset = load_video_dataset(yard_dataset)
    model = build_model(settings.model, dataset)
    trainer = training.build_trainer(
        settings, dataset, model, choose_pixels(settings.model, settings.data, model.config)
    )
    before = {}

    def spoil(gradient):
        if trainer.state.global_step < 1:
            return gradient
        before.update({name: value.clone() for name, value in model.state_dict().items()})
        return gradient * torch.inf

    model.classifier.bias.register_hook(spoil)  # the loss stays a number
    message = r"the gradient norm is (inf|nan) at step 2: training diverged; .* clips of this batch: .*train"
    with pytest.raises(ValueError, match=message):
        trainer.train()
    facts = json.loads((tmp_path / "run" / "diverged" / "clips.json").read_text())
    assert (facts["step"], len(facts["clips"])) == (2, 4)
    assert facts["gradient norm"] in ("inf", "nan")
    kept = load_file(tmp_path / "run" / "diverged" / "model.safetensors")
    assert all(torch.equal(kept[name], before[name]) for name in kept)


@pytest.mark.parametrize(
    ("flags", "warned"), [([], False), (["--negative_labels", "Track-Excavator"], False), (None, True)]
)
def test_a_run_all_of_whose_labels_count_as_hazards_says_so(
    yard_dataset, tmp_path, caplog, monkeypatch, flags, warned
):
    def renamed(name):
        dataset = load_video_dataset(name)
        labels = tuple(label.replace("Other", "no_action") for label in dataset.labels)
        return training.replace(dataset, labels=labels) if flags is None else dataset

    def end(*args, **kwargs):
        raise ValueError("far enough")

    monkeypatch.setattr(training, "load_video_dataset", renamed)
    monkeypatch.setattr(training, "choose_pixels", end)
    run = ["--dataset", str(yard_dataset), "--output_dir", str(tmp_path / "run")]
    with pytest.raises(ValueError, match="far enough"):
        training.train(parse_settings([*TINY, *run, *(flags or [])]))
    lines = [line for line in caplog.messages if "--negative_labels" in line]
    assert len(lines) == warned
    if warned:
        assert "every label counts as a hazard (Bucket-Worker, Cabin-Worker, no_action, Track-Excavator)" in lines[0]


@pytest.mark.parametrize(
    ("cores", "processes", "given", "expected"), [(4, 1, None, 4), (4, 2, None, 2), (1, 2, None, 1), (4, 2, 3, 3)]
)
def test_on_the_cpu_processes_share_the_cores_whatever_the_launcher_set(
    monkeypatch, tmp_path, cores, processes, given, expected
):
    before = torch.get_num_threads()
    monkeypatch.setattr(training, "available_cores", lambda: cores)
    run = RunArguments(output_dir=str(tmp_path), use_cpu=True, num_threads=given)
    try:
        training._set_num_threads(run, local_processes=processes)
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_the_bar_tells_loss_rate_pace_wait_and_time_left(capsys):
    bar, control = ReadableProgress(), TrainerControl()
    state = SimpleNamespace(global_step=0, max_steps=40, num_train_epochs=4, is_world_process_zero=True)
    bar.on_train_begin(None, state, control)
    time.sleep(0.2)  # tqdm draws no faster than ten times a second
    state.global_step = 10
    bar.on_step_end(None, state, control)
    pace = {"clips_per_second": 12.34, "data_wait_share": 0.05}
    bar.on_log(None, state, control, logs={"loss": 1.2345, "learning_rate": 3e-4, **pace})
    figures = {"eval_f1_macro": 0.5, "eval_accuracy": 0.75, "eval_loss": 1.5, "eval_num_lost": 2, "epoch": 1.0}
    bar.on_log(None, state, control, logs=figures)
    bar.on_train_end(None, state, control)
    shown = capsys.readouterr()
    line = next(line for line in reversed(re.split(r"[\r\n]", shown.err)) if "loss=" in line)
    for part in ("10/40", "loss=1.234", "lr=3.0e-04", "clips/s=12.3", "data wait=5%"):
        assert part in line, line
    assert re.search(r"\[00:0\d<00:0\d, ", line), line  # so far, and left
    told = "epoch 1 of 4: validation macro F1 0.500, accuracy 0.750, loss 1.500, 2 video(s) unread"
    assert told in shown.out + shown.err
