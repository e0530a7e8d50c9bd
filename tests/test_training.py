"""The real Trainer on real encoded clips: run folders, seeds, processes, what is trained."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import ViTConfig, ViTModel

from railsformer.data.clips import load_video_dataset
from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification
from railsformer.training.arguments import RunArguments, parse_settings
from railsformer.training.samplers import EpochSampler
from railsformer.training.start import build_model, choose_pixels, choose_trainable
from railsformer.training.trainer import build_trainer, check_splits, train

ROOT = Path(__file__).parent.parent
TINY = ["--from_scratch", "--hidden_size", "32", "--num_hidden_layers", "2", "--num_attention_heads", "2"]
TINY += ["--intermediate_size", "64", "--patch_size", "16", "--image_size", "48", "--num_frames", "4"]
TINY += ["--frame_interval", "15", "--use_cpu", "true", "--disable_tqdm", "true", "--learning_rate", "1e-3"]


ONCE = ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
ONCE += ["--dataloader_num_workers", "0"]


def _train(dataset, run_dir, *flags):
    base = ["--dataset", str(dataset), "--output_dir", str(run_dir), "--dataloader_num_workers", "0"]
    return train(parse_settings([*TINY, *base, *flags]))


@pytest.fixture(scope="module")
def run(yard_dataset, tmp_path_factory):
    """One short run from scratch, shared by the tests that only look at it."""
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    return _train(yard_dataset, run_dir, "--num_train_epochs", "2", "--per_device_train_batch_size", "8")


def test_the_run_folder_is_ready_for_the_hub(run, yard_dataset):
    assert run.is_main_process
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "train_config.yaml"} <= {
        path.name for path in run.run_dir.iterdir()
    }
    config = json.loads((run.run_dir / "config.json").read_text())
    assert config["model_type"] == "timesformer"
    assert config["architectures"] == ["TimesformerForVideoClassification"]
    assert config["label2id"] == {"Bucket-Worker": 0, "Cabin-Worker": 1, "Other": 2, "Track-Excavator": 3}
    assert (config["frame_interval"], config["nominal_fps"], config["negative_labels"]) == (15, 30.0, ["Other"])
    pixels = json.loads((run.run_dir / "preprocessor_config.json").read_text())
    assert pixels["image_mean"] == [0.45] * 3
    assert pixels["crop_size"] == {"height": 48, "width": 48}
    facts = json.loads((run.run_dir / "run.json").read_text())
    assert facts["dataset_fingerprint"] == json.loads((yard_dataset / "dataset.json").read_text())["fingerprint"]
    assert facts["split_kind"] == "by recording (6 groups)"
    assert not (run.run_dir / ".running").exists()


def test_the_saved_recipe_is_whole_and_names_no_folder_of_this_machine(run, yard_dataset):
    path = run.run_dir / "train_config.yaml"
    content = yaml.safe_load(path.read_text())
    assert (content["seed"], content["weight_decay"], content["dataset"]) == (42, 0.0, yard_dataset.name)
    assert str(run.run_dir.parent) not in path.read_text()
    again = parse_settings(["--config", str(path), "--dataset", str(yard_dataset), "--output_dir", "elsewhere"])
    assert (again.model.hidden_size, again.run.num_train_epochs) == (32, 2)


def test_the_best_epoch_is_kept(run):
    state = json.loads((run.run_dir / "trainer_state.json").read_text())
    figures = [log["eval_f1_macro"] for log in state["log_history"] if "eval_f1_macro" in log]
    assert len(figures) == 2
    assert state["best_metric"] == max(figures)
    assert run.validation["f1_macro"] == max(figures)
    best = run.run_dir / Path(state["best_model_checkpoint"]).name / "model.safetensors"
    assert (run.run_dir / "model.safetensors").read_bytes() == best.read_bytes()


def test_without_the_best_epoch_the_last_ones_figures_are_told(yard_dataset, tmp_path):
    flags = ["--load_best_model_at_end", "false", "--num_train_epochs", "2", "--per_device_train_batch_size", "8"]
    summary = _train(yard_dataset, tmp_path / "run", *flags)
    assert summary.validation["epoch"] == 2


def test_each_epoch_draws_anew(yard_dataset, tmp_path):
    flags = [*TINY, "--dataset", str(yard_dataset), "--output_dir", str(tmp_path), *ONCE, "--max_steps", "8"]
    settings = parse_settings([*flags, "--per_device_train_batch_size", "4"])
    dataset = load_video_dataset(yard_dataset)
    model = build_model(settings.model, dataset)
    pixels = choose_pixels(settings.model, settings.data, model.config)
    trainer = build_trainer(settings, dataset, model, pixels)
    trainer.train()
    clips = trainer.train_dataset
    assert clips.epoch == 1
    second = clips[0]["pixel_values"]
    clips.set_epoch(0)
    assert not torch.equal(clips[0]["pixel_values"], second)


def test_a_run_that_is_resumed_half_way_ends_as_one_that_was_not(yard_dataset, tmp_path):
    flags = ["--eval_strategy", "no", "--load_best_model_at_end", "false", "--save_strategy", "steps"]
    flags += ["--save_steps", "5", "--save_total_limit", "9", "--per_device_train_batch_size", "4", "--max_steps", "8"]
    _train(yard_dataset, tmp_path / "whole", *flags)
    checkpoint = tmp_path / "resumed" / "checkpoint-5"
    shutil.copytree(tmp_path / "whole" / "checkpoint-5", checkpoint)
    _train(yard_dataset, tmp_path / "resumed", *flags, "--resume_from_checkpoint", str(checkpoint))
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_run_that_diverges_is_stopped_and_its_clips_are_named(yard_dataset, tmp_path):
    message = (
        r"the loss is .* at step \d+: training diverged; lower learning_rate 1e\+30; clips of this batch: .*train"
    )
    flags = ["--max_steps", "9", "--learning_rate", "1e30", "--per_device_train_batch_size", "2"]
    with pytest.raises(ValueError, match=message):
        _train(yard_dataset, tmp_path / "run", *ONCE, *flags)
    facts = json.loads((tmp_path / "run" / "diverged" / "clips.json").read_text())
    assert len(facts["clips"]) == 2
    assert all(Path(file).is_file() for file in facts["clips"])
    assert (tmp_path / "run" / "diverged" / "model.safetensors").is_file()


@pytest.fixture
def vit(tmp_path):
    """A tiny image transformer on disk, with a processor of its own."""
    model = ViTModel(
        ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=48)
    )
    model.save_pretrained(tmp_path / "vit")
    config = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(config))
    return tmp_path / "vit", model


def test_training_only_time_from_an_image_model(vit, yard_dataset, tmp_path):
    folder, image_model = vit
    flags = ["--image_model", str(folder), "--image_size", "48", "--num_frames", "4", "--frame_interval", "15"]
    flags += ["--dataset", str(yard_dataset), "--output_dir", str(tmp_path / "run"), "--use_cpu", "true", *ONCE]
    flags += ["--trainable", "time", "--max_steps", "3", "--learning_rate", "0.01", "--disable_tqdm", "true"]
    train(parse_settings(flags))
    weights = load_file(tmp_path / "run" / "model.safetensors")
    layer = "timesformer.encoder.layer.1"
    expected = image_model.state_dict()["layers.1.mlp.fc1.weight"]
    assert torch.equal(weights[f"{layer}.intermediate.dense.weight"], expected)
    assert weights[f"{layer}.temporal_dense.weight"].abs().max() > 0
    pixels = json.loads((tmp_path / "run" / "preprocessor_config.json").read_text())
    assert (pixels["image_mean"], pixels["image_std"]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])


def test_the_seed_fixes_the_run(yard_dataset, tmp_path):
    flags = ["--max_steps", "2", "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
    weights = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        _train(yard_dataset, tmp_path / name, *flags, "--per_device_train_batch_size", "4", "--seed", seed)
        weights.append(load_file(tmp_path / name / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["classifier.weight"], weights[2]["classifier.weight"])


def test_a_run_folder_that_holds_something_is_refused(run, yard_dataset):
    with pytest.raises(FileExistsError, match="already holds something"):
        _train(yard_dataset, run.run_dir)


def test_a_batch_far_larger_than_the_split_is_refused(yard_dataset, tmp_path):
    with pytest.raises(ValueError, match=r"at most 10 times the 2\d training clips, got 512"):
        _train(yard_dataset, tmp_path / "run", "--per_device_train_batch_size", "512")
    assert not (tmp_path / "run").exists()


def test_a_validation_label_without_training_clips_is_refused(yard_dataset, tmp_path):
    dataset = load_video_dataset(yard_dataset)
    keep = [index for index, label in enumerate(dataset.split("train")["label"]) if label != 0]
    splits = {**dataset.splits, "train": dataset.split("train").select(keep)}
    poorer = dataclasses.replace(dataset, splits=splits)
    run = RunArguments(output_dir=str(tmp_path / "run"), use_cpu=True)
    with pytest.raises(ValueError, match=r"training has none of: Bucket-Worker \(\d+\); .*--allow_unseen_labels"):
        check_splits(poorer, run)
    check_splits(dataset, run)
    check_splits(poorer, dataclasses.replace(run, allow_unseen_labels=True))


def test_the_log_tells_the_pace(run):
    state = json.loads((run.run_dir / "trainer_state.json").read_text())
    lines = [log for log in state["log_history"] if "loss" in log]
    assert all(log["clips_per_second"] > 0 and 0 <= log["data_wait_share"] <= 1 for log in lines)
    assert set(json.loads((run.run_dir / "run.json").read_text())["pace"]) == {"clips_per_second", "data_wait_share"}


def test_a_reporter_that_is_not_there_is_refused_before_the_dataset_is_read(tmp_path):
    absent = next(name for name in ("dvclive", "swanlab", "clearml", "neptune") if find_spec(name) is None)
    with pytest.raises(ValueError, match=f"report_to {absent} needs a package that is not installed; pip install"):
        _train(tmp_path / "nowhere", tmp_path / "run", "--report_to", absent)
    with pytest.raises(ValueError, match=r"report_to must be of .*tensorboard, trackio.* got 'nonsense'"):
        _train(tmp_path / "nowhere", tmp_path / "run", "--report_to", "nonsense")


def test_tensorboard_gets_the_figures(yard_dataset, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    flags = ["--max_steps", "2", "--logging_steps", "1", "--per_device_train_batch_size", "8"]
    _train(yard_dataset, tmp_path / "run", "--report_to", "tensorboard", *flags)
    (events,) = (tmp_path / "run").rglob("events.out.tfevents.*")
    told = EventAccumulator(str(events.parent))
    told.Reload()
    assert {"train/loss", "train/clips_per_second", "eval/f1_macro"} <= set(told.Tags()["scalars"])


def test_an_optimizer_whose_package_is_not_there_is_refused(yard_dataset, tmp_path):
    if find_spec("lomo_optim"):
        pytest.skip("lomo-optim is installed")
    with pytest.raises(ValueError, match=r"optim lomo needs a package that is not installed: .*pip install lomo"):
        _train(yard_dataset, tmp_path / "run", "--optim", "lomo")


def test_a_label_that_is_not_the_datasets_is_refused(yard_dataset, tmp_path):
    with pytest.raises(ValueError, match=r"negative_labels must be labels of the dataset .*got 'Nothing'"):
        _train(yard_dataset, tmp_path / "run", "--negative_labels", "Nothing")


def test_training_starts_from_a_run(run, yard_dataset, tmp_path):
    flags = ["--model", str(run.run_dir), "--max_steps", "1", "--num_frames", "8", "--frame_interval", "7"]
    flags += ["--dataset", str(yard_dataset), "--output_dir", str(tmp_path / "next"), "--use_cpu", "true"]
    flags += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
    flags += ["--dataloader_num_workers", "0", "--per_device_train_batch_size", "2", "--disable_tqdm", "true"]
    train(parse_settings(flags))
    config = RailsformerConfig.from_pretrained(tmp_path / "next")
    assert (config.num_frames, config.frame_interval, config.hidden_size) == (8, 7, 32)
    own, seen = (
        json.loads((folder / "training_videos.json").read_text()) for folder in (run.run_dir, tmp_path / "next")
    )
    assert own["earlier"] == []
    assert [one["videos"] for one in seen["earlier"]] == [own["videos"]]


def test_a_non_commercial_base_is_announced(run, yard_dataset, tmp_path, caplog):
    base = tmp_path / "base"
    RailsformerForVideoClassification.from_pretrained(run.run_dir).save_pretrained(base)
    (base / "preprocessor_config.json").write_text((run.run_dir / "preprocessor_config.json").read_text())
    (base / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    flags = ["--model", str(base), "--dataset", str(yard_dataset), "--output_dir", str(tmp_path / "run")]
    flags += ["--negative_labels", "Nothing"]  # refused right after the announcement
    with pytest.raises(ValueError, match="negative_labels"):
        train(parse_settings(flags))
    assert "cc-by-nc-4.0" in caplog.text
    assert "facebook/dinov2-small" in caplog.text


def _clips(labels):
    clips = SimpleNamespace(labels=labels, epoch=0)
    return type("Clips", (), {"__len__": lambda self: len(labels), **vars(clips)})()


def test_an_epoch_shows_every_clip_once_in_an_order_of_its_own():
    clips = _clips([0, 0, 1, 1, 1])
    sampler = EpochSampler(clips, groups=[""] * 5, seed=0, balance=False, batch_size=4)
    first = list(sampler)
    assert len(sampler) == len(first) == 8
    assert sorted(first[:5]) == [0, 1, 2, 3, 4]
    assert first[5:] == [index + 5 for index in first[:3]]  # the second draw of the first three fills the batch
    assert list(sampler) == first
    clips.epoch = 1
    assert list(sampler) != first


def test_the_balanced_order_draws_labels_and_groups_evenly():
    labels, groups = [0] * 900 + [1] * 100, ["a"] * 800 + ["b"] * 100 + ["a"] * 100
    drawn = list(EpochSampler(_clips(labels), groups=groups, seed=0, balance=True))
    assert len(set(drawn)) == 1000  # a clip that comes up again is another draw of it
    counts = Counter((labels[index % 1000], groups[index % 1000]) for index in drawn)
    assert len(drawn) == 1000
    assert 430 < counts[1, "a"] < 570
    assert 190 < counts[0, "a"] < 310
    assert 190 < counts[0, "b"] < 310


def test_only_time_is_trained(tmp_path):
    config = RailsformerConfig(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16)
    model = RailsformerForVideoClassification(config)
    choose_trainable(model, RunArguments(output_dir=str(tmp_path), trainable="time", trainable_blocks=1))
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert names == ["timesformer.embeddings.time_embeddings"] + [
        f"timesformer.encoder.layer.2.temporal_{part}"
        for part in (
            "layernorm.weight",
            "layernorm.bias",
            "attention.attention.qkv.weight",
            "attention.attention.qkv.bias",
            "attention.output.dense.weight",
            "attention.output.dense.bias",
            "dense.weight",
            "dense.bias",
        )
    ] + ["classifier.weight", "classifier.bias"]


def _losses(dataset, run_dir, *, launch, flags):
    """Training loss of every step, from a process tree as a user would start it."""
    command = [
        *launch,
        str(ROOT / "scripts" / "finetune.py"),
        *TINY,
        "--dataset",
        str(dataset),
        "--logging_steps",
        "1",
    ]
    command += ["--output_dir", str(run_dir), "--max_steps", "20", "--eval_strategy", "no", "--save_strategy", "no"]
    command += ["--load_best_model_at_end", "false", "--dataloader_num_workers", "0", *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    state = json.loads((run_dir / "trainer_state.json").read_text())
    return [log["loss"] for log in state["log_history"] if "loss" in log]


@pytest.mark.slow
def test_two_processes_and_accumulation_give_the_loss_of_one(yard_dataset, tmp_path):
    one = _losses(
        yard_dataset, tmp_path / "one", launch=[sys.executable], flags=["--per_device_train_batch_size", "4"]
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    two = _losses(yard_dataset, tmp_path / "two", launch=torchrun, flags=["--per_device_train_batch_size", "2"])
    accumulated = _losses(
        yard_dataset,
        tmp_path / "accumulated",
        launch=[sys.executable],
        flags=["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"],
    )
    assert len(one) == 20  # six steps an epoch: the last one of each holds what fills it up
    assert two == pytest.approx(one, abs=1e-5)
    assert accumulated == pytest.approx(one, abs=1e-5)
