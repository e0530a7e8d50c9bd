"""The shipped recipes and launch files: each parses, each is accepted by accelerate, and two CPU processes are run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

from railsformer.model.layers_railsformer import RailsformerLayer
from railsformer.training.arguments import parse_settings, read_recipe

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "configs").glob("*.yaml"))
LAUNCHES = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))
NEEDED = ["--dataset", "data", "--output_dir", "run"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_parses_and_says_when_to_use_it(path):
    # The demo's trunk is in the package; a comparison is told what all schemes start from.
    start = ["--model", "base"] if path.stem in ("demo", "compare") else []
    settings = parse_settings(["--config", str(path), *start, *NEEDED, "--bf16", "false"])
    assert set(read_recipe(path)) <= set(settings.given)
    assert path.read_text().startswith("# ")


def test_all_recipes_are_there():
    assert {path.stem for path in RECIPES} >= {
        "divided_8x32_224",
        "divided_hr_16x16_448",
        "divided_l_96x4_224",
        "small_data",
        "frozen_trunk",
        "lora",
        "dinov2_small_time",
        "demo",
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_named_by_its_clip_has_that_clip(path):
    recipe = read_recipe(path)
    if path.stem.startswith("divided_"):
        *_, clip, side = path.stem.split("_")
        assert (f"{recipe['num_frames']}x{recipe['frame_interval']}", str(recipe["image_size"])) == (clip, side)


def _accepted(path):
    """What `accelerate launch --config_file PATH` makes of a file, up to the launch itself."""
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "script.py"])
    return _validate_launch_command(arguments)[0]


@pytest.mark.parametrize("path", LAUNCHES, ids=lambda path: path.stem)
def test_accelerate_accepts_a_launch_file(path):
    config = load_config_from_file(str(path))
    arguments = _accepted(path)
    assert arguments.num_processes == config.num_processes
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ",".join(config.deepspeed_config)
        _, environment = prepare_deepspeed_cmd_env(arguments)
        assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == "2"
    elif arguments.multi_gpu or arguments.use_fsdp:
        environment = prepare_multi_gpu_env(arguments)
    else:
        _, environment = prepare_simple_launcher_cmd_env(arguments)
    assert environment["ACCELERATE_MIXED_PRECISION"] == config.mixed_precision


@pytest.mark.parametrize(
    ("name", "kind", "num_processes"),
    [
        ("one_gpu_bf16", DistributedType.NO, 1),
        ("multi_gpu_ddp", DistributedType.MULTI_GPU, 4),
        ("fsdp2", DistributedType.FSDP, 4),
        ("deepspeed_zero2", DistributedType.DEEPSPEED, 4),
        ("multi_node", DistributedType.MULTI_GPU, 8),
        ("two_cpu_processes", DistributedType.MULTI_GPU, 2),
    ],
)
def test_a_launch_file_is_of_its_kind(name, kind, num_processes):
    config = load_config_from_file(str(ROOT / "configs" / "accelerate" / f"{name}.yaml"))
    assert (config.distributed_type, config.num_processes) == (kind, num_processes)


def test_fsdp_wraps_our_layer_and_saves_a_whole_model():
    arguments = _accepted(ROOT / "configs" / "accelerate" / "fsdp2.yaml")
    environment = prepare_multi_gpu_env(arguments)
    assert environment["FSDP_VERSION"] == "2"
    assert environment["FSDP_AUTO_WRAP_POLICY"] == "TRANSFORMER_BASED_WRAP"
    assert environment["FSDP_TRANSFORMER_CLS_TO_WRAP"] == RailsformerLayer.__name__
    assert environment["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"


def test_several_machines_share_the_processes():
    arguments = _accepted(ROOT / "configs" / "accelerate" / "multi_node.yaml")
    arguments.machine_rank = 1  # where the port need not be free
    prepare_multi_gpu_env(arguments)
    assert (arguments.nnodes, arguments.nproc_per_node, arguments.node_rank) == ("2", "4", 1)


TINY = ["--from_scratch", "--hidden_size", "16", "--num_hidden_layers", "1", "--num_attention_heads", "2"]
TINY += ["--intermediate_size", "16", "--image_size", "32", "--num_frames", "2", "--frame_interval", "15"]
TINY += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false", "--max_steps", "5"]
TINY += ["--logging_steps", "1", "--dataloader_num_workers", "0", "--disable_tqdm", "true", "--learning_rate", "1e-3"]
TINY += ["--class_balance", "both", "--focal_gamma", "1", "--label_smoothing_factor", "0.1", "--mixup_alpha", "0.4"]
TINY += ["--layer_decay", "0.75", "--repeated_augmentation", "2", "--weight_decay", "0.05"]


def _losses(dataset, run_dir, *, launch, flags):
    command = [*launch, str(ROOT / "scripts" / "finetune.py"), *TINY, *flags]
    command += ["--dataset", str(dataset), "--output_dir", str(run_dir)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ACCELERATE_")}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    state = json.loads((run_dir / "trainer_state.json").read_text())
    return [log["loss"] for log in state["log_history"] if "loss" in log]


@pytest.mark.slow
def test_two_processes_launched_by_accelerate_give_the_losses_of_one(yard_dataset, tmp_path):
    file = ROOT / "configs" / "accelerate" / "two_cpu_processes.yaml"
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
    one = _losses(
        yard_dataset,
        tmp_path / "one",
        launch=[sys.executable],
        flags=["--use_cpu", "true", "--per_device_train_batch_size", "4"],
    )
    two = _losses(yard_dataset, tmp_path / "two", launch=accelerate, flags=["--per_device_train_batch_size", "2"])
    assert len(one) == 5
    assert two == pytest.approx(one, abs=1e-5)
    facts = json.loads((tmp_path / "two" / "run.json").read_text())
    assert set(facts["class_weights"]) == {"Bucket-Worker", "Cabin-Worker", "Other", "Track-Excavator"}
