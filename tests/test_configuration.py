"""The configuration: what is refused, and what it says on disk."""

import json

import pytest
from transformers import TimesformerConfig

from railsformer.data.sampling import ClipSampling
from railsformer.model.configuration_railsformer import ATTENTION_TYPES, RailsformerConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_type": "divided"}, r"attention_type must be one of divided_space_time, .*, got 'divided'"),
        ({"position_embedding": "time"}, r"position_embedding must be one of space_time, space, none, got 'time'"),
        ({"short_video": "repeat"}, r"short_video must be one of hold, loop, stretch, got 'repeat'"),
        ({"clip_sampling": "tsn"}, r"clip_sampling must be one of interval, segments, got 'tsn'"),
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
        ({"drop_path_rate": 0.1}, r"drop_path_rate must be int, got 0.1; set stochastic_depth_rate"),
        ({"nominal_fps": float("nan")}, r"nominal_fps must be finite, got nan"),
        ({"nominal_fps": float("inf")}, r"nominal_fps must be finite, got inf"),
        ({"hidden_act": "foo"}, r"hidden_act must be one of gelu, .*, got 'foo'"),
        ({"hidden_dropout_prob": 1.5}, r"hidden_dropout_prob must be in \[0, 1\), got 1.5"),
        ({"attention_probs_dropout_prob": -1}, r"attention_probs_dropout_prob must be in \[0, 1\), got -1"),
        ({"num_frames": 2.5}, r"num_frames must be int, got 2.5"),
        ({"image_size": "12"}, r"image_size must be int \| list\[int\] \| tuple\[int, int\], got '12'"),
        ({"image_size": [32, 32, 32]}, r"image_size must be one side or \(height, width\), got \[32, 32, 32\]"),
        (
            {"id2label": {0: "a", 1: "b"}, "negative_labels": ["Other"]},
            r"negative_labels must be names of labels \(a, b\), got 'Other'",
        ),
        ({"num_labels": 3, "id2label": {0: "a", 1: "b"}}, r"num_labels must agree with the 2 names .*, got 3"),
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


@pytest.mark.parametrize("attention_type", ["divided_space_time", "axial"])
def test_the_rules_of_a_clip_survive_stock(attention_type, tmp_path):
    rules = {"short_video": "stretch", "clip_sampling": "segments", "frame_interval": 7}
    RailsformerConfig(attention_type=attention_type, **rules).save_pretrained(tmp_path / "ours")
    TimesformerConfig.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "stock")
    for folder in ("ours", "stock"):
        config = RailsformerConfig.from_pretrained(tmp_path / folder)
        assert {name: getattr(config, name) for name in rules} == rules
        assert ClipSampling.from_config(config).short_video == "stretch"


def test_a_checkpoint_from_before_the_rules_holds_and_keeps_its_interval(tmp_path):
    RailsformerConfig(frame_interval=7).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    assert (content.pop("short_video"), content.pop("clip_sampling")) == ("hold", "interval")
    path.write_text(json.dumps(content))
    expected = ClipSampling(8, 7, 30.0, short_video="hold", clip_sampling="interval")
    assert ClipSampling.from_config(RailsformerConfig.from_pretrained(tmp_path)) == expected
    TimesformerConfig(num_frames=8).save_pretrained(tmp_path)
    assert RailsformerConfig.from_pretrained(tmp_path).short_video == "hold"


def test_a_value_that_is_set_later_is_refused_in_one_line_too():
    config = RailsformerConfig()
    with pytest.raises(ValueError, match=r"^num_frames must be int, got '8'$"):
        config.num_frames = "8"


def test_negative_labels_may_come_before_the_names_of_the_labels():
    assert RailsformerConfig(num_labels=3, negative_labels=["Other"]).negative_labels == ["Other"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frame_interval": -1}, "frame_interval must be positive, got -1"),
        ({"num_frames": -3}, "num_frames must be positive, got -3"),
        ({"stochastic_depth_rate": 2.0}, r"stochastic_depth_rate must be in \[0, 1\), got 2.0"),
        ({"attention_type": "divided"}, "attention_type must be one of .*, got 'divided'"),
    ],
)
def test_keywords_are_checked_as_the_file_is(changes, message, tmp_path):
    RailsformerConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        RailsformerConfig.from_pretrained(tmp_path, **changes)


def test_keywords_replace_what_the_file_says(tmp_path):
    RailsformerConfig(frame_interval=4).save_pretrained(tmp_path)
    config, unused = RailsformerConfig.from_pretrained(
        tmp_path, frame_interval=2, dtype="float16", foo=1, return_unused_kwargs=True
    )
    assert (config.frame_interval, config.num_frames, config.dtype) == (2, 8, "float16")
    assert unused == {"foo": 1}


def test_one_of_the_two_tables_of_labels_is_enough():
    forward, back = {0: "a", 1: "b"}, {"b": 1, "a": 0}
    for given in ({"id2label": forward}, {"label2id": back}, {"id2label": {"0": "a", "1": "b"}}):
        config = RailsformerConfig(**given)
        assert (config.id2label, config.label2id) == (forward, {"a": 0, "b": 1})


def test_the_names_hold_where_stock_left_an_old_table_of_indices(tmp_path):
    config = TimesformerConfig(id2label={0: "a", 1: "b"}, label2id={"old": 0, "older": 1})
    config.save_pretrained(tmp_path)
    assert RailsformerConfig.from_pretrained(tmp_path).label2id == {"a": 0, "b": 1}


@pytest.mark.parametrize(
    ("changes", "names", "negatives"),
    [
        ({"num_labels": 2}, {0: "gate", 1: "Other"}, ["Other"]),
        ({"num_labels": 3}, {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, None),
        ({"id2label": {0: "Other", 1: "crane", 2: "gate"}}, {0: "Other", 1: "crane", 2: "gate"}, ["Other"]),
        ({"label2id": {"b": 1, "a": 0, "c": 2}, "num_labels": 3}, {0: "a", 1: "b", 2: "c"}, None),
    ],
)
def test_new_labels_replace_all_that_is_said_of_the_old_ones(changes, names, negatives, tmp_path):
    RailsformerConfig(id2label={0: "gate", 1: "Other"}, negative_labels=["Other"]).save_pretrained(tmp_path)
    config = RailsformerConfig.from_pretrained(tmp_path, **changes)
    assert config.id2label == names
    assert config.label2id == {name: index for index, name in names.items()}
    assert config.negative_labels == negatives


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_labels": 5, "id2label": {0: "a", 1: "b", 2: "c"}}, "num_labels must agree with the 3 names .*, got 5"),
        ({"num_labels": 2, "label2id": {"a": 0}}, "num_labels must agree with the 1 names .*, got 2"),
        ({"id2label": {0: "a", 1: "b"}, "label2id": {"b": 0, "a": 1}}, "label2id must be id2label turned round"),
        ({"id2label": {0: "a", 1: "a"}}, "labels must have names of their own and the indices 0, 1, 2"),
        ({"label2id": {"a": 1, "b": 2}}, "labels must have names of their own and the indices 0, 1, 2"),
        ({"id2label": {0: "a", 1: "b"}, "negative_labels": ["c"]}, "negative_labels must be names of labels"),
    ],
)
def test_label_keywords_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        RailsformerConfig.from_dict(RailsformerConfig().to_dict(), **changes)
