"""Settings: defaults < recipe < flags, and what is refused."""

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
    ],
)
def test_refused(tmp_path, recipe, flags, message):
    with pytest.raises(ValueError, match=message):
        parse_settings([*_recipe(tmp_path, **recipe), *flags])


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


@pytest.mark.parametrize("name", ["divided_8x32_224", "dinov2_small_time", "demo"])
def test_shipped_recipes_parse(name, pytestconfig):
    start = ["--model", "base"] if name == "demo" else []
    parse_settings(["--config", str(pytestconfig.rootpath / "configs" / f"{name}.yaml"), *start, *NEEDED])
