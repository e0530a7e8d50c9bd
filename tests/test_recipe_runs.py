"""Every shipped recipe takes real optimizer steps, as it is but for a tiny base and small pictures."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForVideoClassification,
    Dinov2Config,
    Dinov2Model,
    TimesformerConfig,
    TimesformerForVideoClassification,
)

from railsformer.data.transforms import PixelSettings
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification
from railsformer.training.arguments import parse_settings, read_recipe
from railsformer.training.trainer import train

RECIPES = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
QUICK = ["--max_steps", "2", "--logging_steps", "1", "--num_threads", "1", "--dataloader_num_workers", "0"]
QUICK += ["--disable_tqdm", "true"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A TimeSformer and an image transformer of small blocks, as they come from the Hub."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bases")
    video = TimesformerConfig(**SIZES, intermediate_size=64, image_size=32, num_frames=8)
    TimesformerForVideoClassification(video).save_pretrained(folder / "model")
    PixelSettings(32, 32, mean=(0.45,) * 3, std=(0.225,) * 3).save_pretrained(folder / "model")
    image = Dinov2Config(**SIZES | {"num_hidden_layers": 12}, mlp_ratio=2, image_size=28, patch_size=14)
    Dinov2Model(image).save_pretrained(folder / "image_model")
    mean_std = {"image_mean": [0.48] * 3, "image_std": [0.23] * 3}
    (folder / "image_model" / "preprocessor_config.json").write_text(json.dumps(mean_std))
    return folder


def _run(path, bases, dataset, run_dir):
    """Two steps of a recipe."""
    start, side = ("image_model", "28") if "image_model" in read_recipe(path) else ("model", "32")
    flags = ["--config", path, f"--{start}", bases / start, "--image_size", side]
    flags += ["--dataset", dataset, "--output_dir", run_dir, *QUICK]
    settings = parse_settings([str(flag) for flag in flags])
    # Beside what was named here nothing of the recipe is changed.
    assert not {key for key, value in read_recipe(path).items() if settings.given[key] != value} - {
        start, "image_size", "dataloader_num_workers",
    }  # fmt: skip
    train(settings)
    return settings


def _logits(model, settings):
    side = settings.model.image_size
    clip = torch.randn(1, settings.model.num_frames, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(clip).logits


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains_end_to_end(path, bases, yard_dataset, tmp_path):
    if "lora_rank" in read_recipe(path):
        pytest.importorskip("peft")
    settings = _run(path, bases, yard_dataset, tmp_path / "run")
    model = AutoModelForVideoClassification.from_pretrained(tmp_path / "run")
    assert _logits(model, settings).isfinite().all()
    assert (tmp_path / "run" / "summary.md").is_file()
    if settings.run.cache_embeddings:
        return
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    logs = [log for log in state["log_history"] if "loss" in log]
    assert [log["step"] for log in logs] == [1, 2]
    assert all(log["grad_norm"] > 0 and math.isfinite(log["loss"]) for log in logs)
    assert logs[-1]["learning_rate"] > 0


def test_a_lora_run_is_merged_with_its_adapter_beside_it(bases, yard_dataset, tmp_path):
    peft = pytest.importorskip("peft")
    path = next(path for path in RECIPES if path.stem == "lora")
    settings = _run(path, bases, yard_dataset, tmp_path / "run")
    merged = AutoModelForVideoClassification.from_pretrained(tmp_path / "run")
    assert type(merged) is TimesformerForVideoClassification
    assert not any("lora" in name for name in load_file(tmp_path / "run" / "model.safetensors"))
    base = RailsformerForVideoClassification.from_pretrained(
        bases / "model", num_frames=8, image_size=32, id2label=merged.config.id2label, label2id=merged.config.label2id
    )
    untrained = _logits(base, settings)
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "run" / "adapter")
    torch.testing.assert_close(_logits(adapted, settings), _logits(merged, settings), atol=1e-5, rtol=0)
    assert not torch.allclose(_logits(merged, settings), untrained, atol=1e-5)
