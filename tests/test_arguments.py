"""Settings: defaults < recipe < flags, and what is refused."""

import os
import subprocess
import sys

import pytest
import yaml

from railsformer.training.arguments import parse_settings, read_recipe

NEEDED = ["--dataset", "data", "--output_dir", "run"]


def _recipe(tmp_path, **content):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return ["--config", str(path)]


def test_flags_win_over_the_recipe_and_the_recipe_over_defaults(tmp_path):
    config = _recipe(tmp_path, model="base", learning_rate=0.5, num_train_epochs=7)
    settings = parse_settings([*config, *NEEDED, "--learning_rate", "0.25"])
    assert settings.run.learning_rate == 0.25
    assert settings.run.num_train_epochs == 7
    assert settings.run.metric_for_best_model == "f1_macro"
    assert settings.run.remove_unused_columns is False
    assert settings.model.model == "base"
    assert settings.given == {
        "model": "base",
        "learning_rate": 0.25,
        "num_train_epochs": 7,
        "dataset": "data",
        "output_dir": "run",
    }


def test_a_start_on_the_command_line_replaces_the_recipes(tmp_path):
    settings = parse_settings([*_recipe(tmp_path, model="base"), *NEEDED, "--image_model", "dino"])
    assert (settings.model.model, settings.model.image_model) == (None, "dino")


def test_exponents_without_a_point_are_numbers(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("learning_rate: 5e-3\nmodel: base\n")
    assert parse_settings(["--config", str(path), *NEEDED]).run.learning_rate == 0.005


@pytest.mark.parametrize(
    ("recipe", "flags", "message"),
    [
        ({"lerning_rate": 1}, NEEDED, r"recipe.yaml: unknown key 'lerning_rate'; did you mean 'learning_rate'\?"),
        ({"model": "a"}, [*NEEDED, "--epochs", "3"], "unknown flag '--epochs'"),
        ({"model": "a"}, [*NEEDED, "--learning_rate", "fast"], "learning_rate.*invalid float value: 'fast'"),
        ({"model": "a", "image_model": "b"}, NEEDED, "exactly one of --model, .*got model and image_model"),
        ({}, NEEDED, "exactly one of --model, --image_model and --from_scratch must be given, got none"),
        ({"model": "a"}, ["--output_dir", "run"], "--dataset must name a folder"),
        ({"model": "a"}, ["--dataset", "data"], "--output_dir must name the folder"),
        ({"model": "a", "remove_unused_columns": True}, NEEDED, "remove_unused_columns must not be set: the video"),
        ({"model": "a", "push_to_hub": True}, NEEDED, "push_to_hub must not be set: upload with `railsformer push"),
        ({"model": "a"}, [*NEEDED, "--hub_token", "x"], "hub_token must not be set: it would be written"),
        ({"model": "a", "class_balance": "samplr"}, NEEDED, r"recipe.yaml: argument --class_balance.*'samplr'"),
        ({"model": "a", "trainable": "tme"}, NEEDED, r"recipe.yaml: argument --trainable.*'tme'"),
        ({"model": "a", "num_frames": "eight"}, NEEDED, r"recipe.yaml: argument --num_frames.*'eight'"),
        ({"model": "a", "num_train_epochs": "five"}, NEEDED, r"recipe.yaml: argument --num_train_epochs.*'five'"),
        ({"model": "a", "flip": "perhaps"}, NEEDED, r"recipe.yaml: argument --flip.*perhaps"),
        ({"model": "a", "num_frames": 0}, NEEDED, "num_frames must be above 0, got 0"),
        ({"model": "a", "nominal_fps": "nan"}, NEEDED, "nominal_fps must be above 0, got nan"),
        (
            {"model": "a", "stochastic_depth_rate": 1},
            NEEDED,
            "stochastic_depth_rate must be .*below 1, got 1",
        ),
        ({"model": "a", "gradient_accumulation_steps": 0}, NEEDED, "gradient_accumulation_steps must be at least 1"),
        (
            {"model": "a", "metric_for_best_model": "f1"},
            NEEDED,
            "metric_for_best_model must be one of .*'f1'",
        ),
        ({"1": 2}, NEEDED, "recipe.yaml: unknown key '1'"),
        ({"model": "a", "trainable_blocks": 2}, NEEDED, "trainable_blocks .*got 2 with trainable=all"),
        ({"model": "a", "metric_for_best_model": "recall/"}, NEEDED, "or f1/LABEL, recall/LABEL, .*got 'recall/'"),
        (
            {"model": "a", "metric_for_best_model": "top_k/two"},
            NEEDED,
            "average_precision/LABEL, top_k/K, got 'top_k/two'",
        ),
        ({"model": "a", "early_stopping_patience": 0}, NEEDED, "early_stopping_patience must be at least 1, got 0"),
        (
            {"model": "a", "early_stopping_patience": 2, "eval_strategy": "no"},
            NEEDED,
            "early_stopping_patience needs evaluations, got 2 with eval_strategy no",
        ),
        ({"model": "a", "mixup_alpha": -1}, NEEDED, "mixup_alpha must be at least 0, got -1"),
        ({"model": "a", "repeated_augmentation": 0}, NEEDED, "repeated_augmentation must be at least 1, got 0"),
        ({"model": "a", "focal_gamma": "nan"}, NEEDED, "focal_gamma must be at least 0, got nan"),
        ({"model": "a", "layer_decay": 1.5}, NEEDED, "layer_decay must be above 0 and at most 1, got 1.5"),
        ({"model": "a", "layer_decay": 0}, NEEDED, "layer_decay must be above 0 and at most 1, got 0"),
        ({"model": "a", "label_smoothing_factor": 1}, NEEDED, "label_smoothing_factor must be .*below 1, got 1"),
        (
            {"model": "a", "class_balance": "loss", "effective_number_beta": 1},
            NEEDED,
            "effective_number_beta must be at least 0 and below 1, got 1",
        ),
        (
            {"model": "a", "class_balance": "sampler", "effective_number_beta": 0.9},
            NEEDED,
            "effective_number_beta goes with class_balance loss or both, got 0.9 with class_balance sampler",
        ),
        ({"model": "a", "lora_rank": 0}, NEEDED, "lora_rank must be at least 1, got 0"),
        ({"model": "a", "lora_alpha": 8}, NEEDED, "lora_alpha goes with lora_rank, got 8.0 without it"),
        ({"model": "a", "lora_targets": "qkv"}, NEEDED, r"lora_targets goes with lora_rank, got \['qkv'\] without it"),
        (
            {"model": "a", "lora_rank": 4, "lora_targets": ["qkv", "kqv"]},
            NEEDED,
            "lora_targets must be of qkv, output, dense, mlp, got 'kqv'",
        ),
        (
            {"model": "a", "lora_rank": 4, "trainable": "head"},
            NEEDED,
            "lora_rank must not be given with trainable=head",
        ),
        ({"model": "a", "cache_embeddings": True}, NEEDED, "cache_embeddings goes with trainable=head.*got all"),
        ({"model": "a", "embedding_views": 3}, NEEDED, "embedding_views goes with cache_embeddings, got 3 without it"),
        (
            {"model": "a", "trainable": "head", "layer_decay": 0.5},
            NEEDED,
            "layer_decay must be 1 with trainable=head.*got 0.5",
        ),
    ],
)
def test_refused(tmp_path, recipe, flags, message):
    with pytest.raises(ValueError, match=message):
        parse_settings([*_recipe(tmp_path, **recipe), *flags])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mixup_alpha", 0.2),
        ("repeated_augmentation", 2),
        ("focal_gamma", 2.0),
        ("label_smoothing_factor", 0.1),
        ("layer_decay", 0.5),
        ("early_stopping_patience", 3),
    ],
)
def test_what_cached_embeddings_would_pass_over_is_refused(tmp_path, name, value):
    recipe = _recipe(tmp_path, model="a", trainable="head", cache_embeddings=True, **{name: value})
    with pytest.raises(ValueError, match=f"{name} must not be given with cache_embeddings, .*got {value}"):
        parse_settings([*recipe, *NEEDED])


@pytest.mark.parametrize(
    ("figure", "greater"), [("loss", False), ("brier", False), ("f1_macro", True), ("recall/Signal-loss", True)]
)
def test_more_is_better_but_for_losses_and_errors(tmp_path, figure, greater):
    settings = parse_settings([*_recipe(tmp_path, model="a", metric_for_best_model=figure), *NEEDED])
    assert settings.run.greater_is_better is greater


def test_one_of_several_processes_without_a_gpu_knows_that_it_is_on_the_cpu(tmp_path):
    code = "from railsformer.training.arguments import RunArguments; print(RunArguments(output_dir='run').use_cpu)"
    addresses = {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    environment = {**os.environ, **addresses, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_a_key_given_twice_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 1\nseed: 2\n")
    with pytest.raises(ValueError, match="key 'seed' is given twice"):
        read_recipe(path)


def test_a_single_word_is_a_list_of_one(tmp_path):
    settings = parse_settings([*_recipe(tmp_path, model="a", negative_labels="Other"), *NEEDED])
    assert settings.model.negative_labels == ["Other"]


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.yaml: no such recipe"):
        parse_settings(["--config", str(tmp_path / "nowhere.yaml"), *NEEDED])


def test_a_recipe_that_is_no_mapping_is_refused(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n- 2\n")
    with pytest.raises(ValueError, match="flat mapping of keys to values, got list"):
        read_recipe(path)
