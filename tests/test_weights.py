"""Weights from another clip size, scheme or label set."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_image_start import tiny_vit
from test_modeling import TINY, _one_thread, clips_for, tiny_model  # noqa: F401  (the fixture acts here too)
from torch.nn import functional as F
from transformers import TimesformerConfig, TimesformerForVideoClassification

from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification, RailsformerModel
from railsformer.model.weights import resize_position_embeddings, resize_time_embeddings

NAMES = {0: "Track-Excavator", 1: "Bucket-Worker", 2: "Cabin-Worker", 3: "Gate", 4: "Other"}


@pytest.fixture
def checkpoint(tmp_path):
    """A divided model on disk and in memory."""
    model = tiny_model(id2label=NAMES, label2id={name: index for index, name in NAMES.items()})
    model.save_pretrained(tmp_path)
    return tmp_path, model


def load(folder, **changes):
    return RailsformerForVideoClassification.from_pretrained(folder, **changes)


# --- tables


@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [
        (4, [0.0, 1.0, 2.0, 3.0]),
        (8, [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]),
        (2, [0.5, 2.5]),
        (1, [1.5]),
    ],
)
def test_time_table_is_linear(num_frames, expected):
    table = torch.arange(4.0).view(1, 4, 1).expand(1, 4, 2)
    assert resize_time_embeddings(table, num_frames)[0, :, 1].tolist() == pytest.approx(expected)


def test_position_table_keeps_cls_and_its_two_dimensions():
    rows = torch.arange(6.0).view(6, 1).expand(6, 6)  # a ramp down the rows only
    table = torch.cat((torch.tensor([[99.0]]), rows.reshape(36, 1))).unsqueeze(0)
    resized = resize_position_embeddings(table, (12, 3))
    assert resized.shape == (1, 1 + 36, 1)
    assert resized[0, 0] == 99
    grid = resized[0, 1:, 0].view(12, 3)
    torch.testing.assert_close(grid, grid[:, :1].expand(12, 3))
    assert (grid[1:, 0] > grid[:-1, 0]).all()
    assert resize_position_embeddings(table, (6, 6)) is table


def test_antialias_is_a_choice():
    table = torch.randn(1, 1 + 64, 4)
    plain, smooth = (resize_position_embeddings(table, (4, 4), antialias=choice) for choice in (False, True))
    assert not torch.allclose(plain, smooth)


def test_refuses_an_oblong_table_of_unknown_shape():
    with pytest.raises(ValueError, match="a position table of 6 patches is not square; give source_grid"):
        resize_position_embeddings(torch.zeros(1, 7, 4), (2, 2))
    resized = resize_position_embeddings(torch.zeros(1, 7, 4), (2, 2), source_grid=(2, 3))
    assert resized.shape == (1, 5, 4)


# --- from_pretrained


def test_round_trip_is_exact(checkpoint):
    folder, model = checkpoint
    again = load(folder)
    pixels = clips_for(model.config)
    with torch.no_grad():
        torch.testing.assert_close(again(pixels).logits, model(pixels).logits, rtol=0, atol=0)
    assert again.config.id2label == NAMES
    assert not again.training


@pytest.mark.parametrize("attention_type", ["space_only", "sparse_local_global", "axial"])
def test_round_trip_of_what_stock_lacks(attention_type, tmp_path):
    model = tiny_model(attention_type=attention_type, image_size=[12, 20], num_labels=3)
    model.save_pretrained(tmp_path)
    pixels = clips_for(model.config)
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path)(pixels).logits, model(pixels).logits, rtol=0, atol=0)


def test_stock_checkpoint_at_another_clip_size(tmp_path, caplog):
    stock = TimesformerForVideoClassification(TimesformerConfig(**TINY))
    torch.nn.init.normal_(stock.timesformer.embeddings.time_embeddings)
    stock.save_pretrained(tmp_path)
    with caplog.at_level(logging.INFO, logger="railsformer"):
        model = load(tmp_path, num_frames=6, image_size=20)
    assert "resized  timesformer.embeddings.time_embeddings: 3 to 6 frames" in caplog.text
    assert "resized  timesformer.embeddings.position_embeddings: (3, 3) to (5, 5) patches" in caplog.text
    assert (model.config.num_frames, model.config.image_size) == (6, 20)
    ours, theirs = model.state_dict(), stock.state_dict()
    embeddings = "timesformer.embeddings"
    expected = F.interpolate(theirs[f"{embeddings}.time_embeddings"].mT, size=6, mode="linear").mT
    torch.testing.assert_close(ours[f"{embeddings}.time_embeddings"], expected)
    grid = theirs[f"{embeddings}.position_embeddings"][:, 1:].mT.reshape(1, 24, 3, 3)
    expected = F.interpolate(grid, size=(5, 5), mode="bicubic").flatten(2).mT
    torch.testing.assert_close(ours[f"{embeddings}.position_embeddings"][:, 1:], expected)
    same = [name for name in theirs if not name.startswith(f"{embeddings}.") or "cls" in name or "patch" in name]
    for name in same:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0)
    assert model(clips_for(model.config)).logits.isfinite().all()


@pytest.mark.parametrize(
    ("attention_type", "copied", "unused"),
    [("axial", "width", None), ("sparse_local_global", "local", "temporal"), ("joint_space_time", None, "temporal")],
)
def test_another_scheme(checkpoint, caplog, attention_type, copied, unused):
    folder, source = checkpoint
    with caplog.at_level(logging.INFO, logger="railsformer"):
        model = load(folder, attention_type=attention_type)
    ours, theirs = model.state_dict(), source.state_dict()
    for name, value in ours.items():
        if copied and f".{copied}_dense." in name:
            assert not value.any(), name
        else:
            origin = name.replace(f".{copied}_layernorm.", ".layernorm_before.")
            origin = origin.replace(f".{copied}_attention.", ".attention.")
            torch.testing.assert_close(value, theirs[origin], rtol=0, atol=0, msg=name)
    if copied:
        stem = "timesformer.encoder.layer.*"
        assert f"copied   {stem}.{copied}_layernorm.weight from {stem}.layernorm_before.weight" in caplog.text
        assert f"new      {stem}.{copied}_dense.weight" in caplog.text
    assert (unused is None) == ("unused" not in caplog.text)
    model(clips_for(model.config))


def test_space_only_checkpoint_gets_a_silent_time_step(tmp_path):
    source = tiny_model(attention_type="space_only")
    source.save_pretrained(tmp_path)
    model = load(tmp_path, attention_type="divided_space_time")
    state = model.state_dict()
    assert not state["timesformer.embeddings.time_embeddings"].any()
    assert not state["timesformer.encoder.layer.1.temporal_dense.weight"].any()
    clips = clips_for(model.config)[:, :1].expand(-1, 3, -1, -1, -1)  # the same frame three times
    with torch.no_grad():
        torch.testing.assert_close(model(clips).logits, source(clips).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_labels": 3},
        {"id2label": {0: "a", 1: "b", 2: "c"}},
        {"id2label": {**NAMES, 3: "Crane"}},  # as many classes, other ones
    ],
)
def test_head_of_other_labels_is_newly_drawn(checkpoint, caplog, changes):
    folder, source = checkpoint
    with caplog.at_level(logging.INFO, logger="railsformer"):
        model = load(folder, **changes)
    assert "new      classifier.weight" in caplog.text
    size = changes.get("num_labels") or len(changes["id2label"])
    assert model.classifier.weight.shape == (size, 24)
    assert model.classifier.weight.std() < 0.05  # drawn as for a fresh model; the checkpoint's is .2
    assert not model.classifier.bias.any()
    assert model.config.num_labels == model.num_labels == size
    assert model.config.label2id == {name: index for index, name in model.config.id2label.items()}
    trunk = source.timesformer.state_dict()
    for name, value in model.timesformer.state_dict().items():
        torch.testing.assert_close(value, trunk[name], rtol=0, atol=0)


def test_head_of_the_same_labels_stays(checkpoint):
    folder, source = checkpoint
    model = load(folder, id2label=dict(NAMES), num_frames=5)
    torch.testing.assert_close(model.classifier.weight, source.classifier.weight, rtol=0, atol=0)


@pytest.mark.parametrize(("choice", "silent"), [("space", ["time"]), ("none", ["time", "position"])])
def test_position_tables_left_out_are_zeros_that_never_train(checkpoint, choice, silent):
    folder, _ = checkpoint
    model = load(folder, position_embedding=choice)
    trainable = {name for name, _ in model.named_parameters()}
    for table in ("time", "position"):
        name = f"timesformer.embeddings.{table}_embeddings"
        assert (name not in trainable) == (table in silent)
        assert model.state_dict()[name].any() == (table not in silent)


@pytest.mark.parametrize("saved", [torch.float16, torch.bfloat16])
def test_loads_as_float32_unless_told(checkpoint, saved):
    folder, model = checkpoint
    model.to(saved).save_pretrained(folder)
    assert load(folder).dtype == torch.float32
    assert load(folder, num_frames=5).dtype == torch.float32
    assert load(folder, dtype=saved).dtype == saved


@pytest.mark.parametrize(
    ("name", "value"), [("hidden_size", 48), ("num_hidden_layers", 3), ("patch_size", 6), ("num_attention_heads", 4)]
)
def test_refuses_another_trunk(checkpoint, name, value):
    folder, model = checkpoint
    message = f"{name} cannot change on loading: the checkpoint has {getattr(model.config, name)}, got {value}"
    with pytest.raises(ValueError, match=message):
        load(folder, **{name: value})


def test_refuses_another_model_type(tmp_path):
    tiny_vit().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is a 'vit' checkpoint, not a TimeSformer; .* use from_image_model"):
        load(tmp_path)


def test_refuses_a_trunk_with_holes(checkpoint):
    folder, _ = checkpoint
    state = load_file(folder / "model.safetensors")
    del state["timesformer.encoder.layer.1.temporal_dense.weight"], state["timesformer.embeddings.time_embeddings"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"lacks 2 tensors of the trunk, timesformer\.embeddings\.time_embeddings first"
    ):
        load(folder)


def test_refuses_weights_that_mostly_have_no_place(checkpoint):
    folder, _ = checkpoint
    state = load_file(folder / "model.safetensors")
    deeper = {
        name.replace("layer.1.", "layer.2."): value.clone() for name, value in state.items() if "layer.1." in name
    }
    save_file(state | deeper, folder / "model.safetensors", metadata={"format": "pt"})
    used = sum(not name.startswith("classifier.") for name in state)
    with pytest.raises(
        ValueError, match=rf"only {used} of the {used + 20} tensors of its trunk fit .*layer\.2\..* does not"
    ):
        load(folder)


def test_reports_the_few_tensors_that_have_no_place(checkpoint, caplog):
    folder, _ = checkpoint
    state = load_file(folder / "model.safetensors")
    save_file(
        {**state, "timesformer.left_over.weight": torch.zeros(2)}, folder / "model.safetensors", {"format": "pt"}
    )
    load(folder)
    assert "unused   timesformer.left_over.weight" in caplog.text


@pytest.mark.parametrize("cls", [RailsformerForVideoClassification, RailsformerModel])
def test_a_config_asks_for_changes_as_keywords_do(checkpoint, cls, caplog):
    folder, _ = checkpoint
    config = RailsformerConfig.from_pretrained(
        folder, num_frames=6, image_size=[8, 16], attention_type="axial", frame_interval=7
    )
    config._attn_implementation = "eager"
    asked = cls.from_pretrained(folder, config=config)
    expected = cls.from_pretrained(folder, num_frames=6, image_size=[8, 16], attention_type="axial")
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(asked.state_dict()[name], value, rtol=0, atol=0, msg=name)
    assert (asked.config.frame_interval, asked.config._attn_implementation) == (7, "eager")
    assert asked.config.id2label == NAMES
    assert "resized  " in caplog.text


def test_a_config_that_asks_for_nothing_gives_the_checkpoint(checkpoint, caplog):
    folder, source = checkpoint
    pixels = clips_for(source.config)
    unnamed = RailsformerConfig(**TINY)  # as many labels, without names: the checkpoint's stay
    for config in (TimesformerConfig.from_pretrained(folder), RailsformerConfig.from_pretrained(folder), unnamed):
        model = load(folder, config=config)
        with torch.no_grad():
            torch.testing.assert_close(model(pixels).logits, source(pixels).logits, rtol=0, atol=0)
        assert isinstance(model.config, RailsformerConfig)
        assert model.config.id2label == NAMES
    assert not caplog.text


def test_a_config_of_other_labels_or_another_trunk(checkpoint, caplog):
    folder, _ = checkpoint
    model = load(folder, config=RailsformerConfig.from_pretrained(folder, num_labels=3))
    assert model.classifier.out_features == 3
    assert "new      classifier.weight" in caplog.text
    with pytest.raises(ValueError, match="hidden_size cannot change on loading: the checkpoint has 24, got 48"):
        load(folder, config=RailsformerConfig.from_pretrained(folder, hidden_size=48))


def test_a_keyword_goes_before_the_config(checkpoint):
    folder, _ = checkpoint
    config = RailsformerConfig.from_pretrained(folder, num_frames=6)
    model = load(folder, config=config, num_frames=4, frame_interval=9)
    assert (model.config.num_frames, model.config.frame_interval) == (4, 9)
    for labels in ({"num_labels": 3}, {"id2label": {0: "a", 1: "b", 2: "c"}}):
        assert load(folder, config=config, **labels).num_labels == 3
        assert load(folder, config=RailsformerConfig(**TINY), **labels).num_labels == 3


def test_a_config_does_not_make_another_network_a_timesformer(tmp_path):
    tiny_vit().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a 'vit' checkpoint, not a TimeSformer"):
        load(tmp_path, config=RailsformerConfig(**TINY))


def test_a_table_of_another_shape_is_never_drawn_at_random(checkpoint):
    folder, _ = checkpoint
    assert load(folder, num_labels=7, ignore_mismatched_sizes=True).classifier.out_features == 7
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "image_size": 20}))
    with pytest.raises(ValueError, match=r"lacks 1 tensors of the trunk, .*position_embeddings first, or has them in"):
        load(folder, ignore_mismatched_sizes=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"foo": 1}, r"^'foo' is no option of from_pretrained and no key of the config; leave it out$"),
        ({"num_frame": 1}, r"^'num_frame' is no option of from_pretrained .*; did you mean num_frames\?$"),
        ({"frame_interval": "x"}, r"^frame_interval must be int, got 'x'$"),
        ({"frame_interval": -1}, r"^frame_interval must be positive, got -1$"),
        ({"stochastic_depth_rate": 2.0}, r"^stochastic_depth_rate must be in \[0, 1\), got 2.0$"),
        ({"num_frames": -3}, r"^num_frames must be positive, got -3$"),
        ({"num_frames": 2.5}, r"^num_frames must be int, got 2.5$"),
        ({"attention_type": "divided"}, r"^attention_type must be one of .*, got 'divided'$"),
        ({"num_labels": 5, "id2label": {0: "a"}}, r"^num_labels must agree with the 1 names of the labels, got 5"),
        ({"id2label": NAMES, "label2id": {"Gate": 0}}, r"^label2id must be id2label turned round"),
    ],
)
def test_a_wrong_keyword_is_not_blamed_on_the_folder(checkpoint, changes, message):
    with pytest.raises(ValueError, match=message):
        load(checkpoint[0], **changes)


def test_a_damaged_config_is_blamed_on_the_folder(checkpoint):
    folder, _ = checkpoint
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "frame_interval": "x"}))
    with pytest.raises(ValueError, match=r"cannot be read .*frame_interval must be int, got 'x'\); copy the folder"):
        load(folder)
    assert load(folder, frame_interval=4).config.frame_interval == 4


def test_names_of_labels_may_come_as_indices_by_name(checkpoint):
    model = load(checkpoint[0], label2id={"a": 0, "b": 1, "c": 2})
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model.classifier.out_features == 3


def test_names_a_missing_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no model here and none on the Hub"):
        load(tmp_path / "nowhere")


def test_config_on_disk_holds_what_the_clip_is(tmp_path):
    tiny_model(frame_interval=4, nominal_fps=12.5, negative_labels=["LABEL_4"]).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert (saved["frame_interval"], saved["nominal_fps"], saved["negative_labels"]) == (4, 12.5, ["LABEL_4"])
    assert (saved["model_type"], saved["architectures"]) == ("timesformer", ["TimesformerForVideoClassification"])
