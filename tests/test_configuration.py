"""The configuration: what is refused, and what it says on disk."""

import json

import pytest
from transformers import TimesformerConfig

from railsformer.model.configuration_railsformer import ATTENTION_TYPES, RailsformerConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_type": "divided"}, r"attention_type must be one of divided_space_time, .*, got 'divided'"),
        ({"position_embedding": "time"}, r"position_embedding must be one of space_time, space, none, got 'time'"),
        ({"num_frames": 0}, r"num_frames must be positive, got 0"),
        ({"frame_interval": -1}, r"frame_interval must be positive, got -1"),
        ({"nominal_fps": 0.0}, r"nominal_fps must be positive, got 0.0"),
        ({"num_attention_heads": 0}, r"num_attention_heads must be positive, got 0"),
        ({"hidden_size": 770}, r"hidden_size must be a multiple of num_attention_heads 12, got 770"),
        ({"image_size": 230}, r"image_size must be a multiple of patch_size 16, got 230"),
        ({"image_size": (224, 230)}, r"image_size must be a multiple of patch_size 16, got \(224, 230\)"),
        ({"patch_size": [16, 16]}, r"patch_size must be one integer"),
        ({"stochastic_depth_rate": 1.0}, r"stochastic_depth_rate must be in \[0, 1\), got 1.0"),
        ({"drop_path_rate": 1}, r"drop_path_rate must stay 0, got 1; set stochastic_depth_rate"),
    ],
)
def test_refuses_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        RailsformerConfig(**changes)


def test_derived_sizes():
    config = RailsformerConfig(image_size=(96, 160), patch_size=16, num_frames=8, frame_interval=32, nominal_fps=30)
    assert config.image_height_width == (96, 160)
    assert config.grid == (6, 10)
    assert config.clip_seconds == pytest.approx(8 * 32 / 30)
    assert RailsformerConfig().grid == (14, 14)


@pytest.mark.parametrize(
    ("attention_type", "image_size", "loads"),
    [
        ("divided_space_time", 32, True),
        ("joint_space_time", [32, 32], True),
        ("divided_space_time", [32, 48], False),
        ("space_only", 32, False),
        ("sparse_local_global", 32, False),
        ("axial", 32, False),
    ],
)
def test_on_disk_only_what_stock_computes_says_timesformer(attention_type, image_size, loads, tmp_path):
    config = RailsformerConfig(attention_type=attention_type, image_size=image_size, frame_interval=4)
    assert config.loads_in_stock is loads
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == ("timesformer" if loads else "railsformer")
    assert ("auto_map" in saved) is not loads
    assert (tmp_path / "modeling_railsformer.py").exists() is not loads
    assert saved["drop_path_rate"] == 0
    again = RailsformerConfig.from_pretrained(tmp_path)
    assert (again.attention_type, again.frame_interval, again.grid) == (attention_type, 4, config.grid)
    if loads:
        assert TimesformerConfig.from_pretrained(tmp_path).image_size == 32


def test_code_named_in_a_checkpoint_is_dropped_once_stock_can_load_it():
    axial = RailsformerConfig(attention_type="axial").to_dict()
    assert "auto_map" not in RailsformerConfig.from_dict({**axial, "attention_type": ATTENTION_TYPES[0]}).to_dict()
