"""Foreign checkpoints: written here in their makers' layouts, read back to the same logits."""

import pytest
import torch

from railsformer.cli import main
from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.convert import MMACTION2_DIVIDED, MMACTION2_ONE_STEP, OFFICIAL, convert_checkpoint
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

SCHEMES = ("divided_space_time", "joint_space_time", "space_only")


def _model(scheme):
    config = RailsformerConfig(
        attention_type=scheme, hidden_size=64, num_hidden_layers=2, num_attention_heads=1, intermediate_size=96,
        image_size=32, patch_size=8, num_frames=8, num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    model = RailsformerForVideoClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model


def _foreign(model, names):
    """The model's weights under foreign names: the tables of REFERENCE section 6, turned round."""
    foreign = {ours: theirs for theirs, ours in names.items()}
    state = {}
    for name, value in model.state_dict().items():
        stem, _, kind = name.rpartition(".")
        if kind not in ("weight", "bias"):
            stem, kind = name, ""
        block = ""
        if stem.startswith("timesformer.encoder.layer."):
            _, _, _, block, stem = stem.split(".", 4)
        theirs = foreign[stem].replace("N", block) if block else foreign[stem]
        state[theirs + ("_" if theirs.endswith("in_proj") else ".") * bool(kind) + kind] = value
    return state


def _official(model):
    return {"model_state": {f"model.{name}": value for name, value in _foreign(model, OFFICIAL).items()}, "epoch": 14}


def _mmaction2(model):
    divided = model.config.attention_type == "divided_space_time"
    return {"meta": {"epoch": 15}, "state_dict": _foreign(model, MMACTION2_DIVIDED if divided else MMACTION2_ONE_STEP)}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("write", "mean"), [(_official, 0.45), (_mmaction2, 0.5)])
def test_the_converted_model_gives_the_same_logits(write, mean, scheme, tmp_path):
    model = _model(scheme)
    torch.save(write(model), tmp_path / "foreign.pth")
    converted = convert_checkpoint(tmp_path / "foreign.pth")
    pixel_values = torch.randn(2, 8, 3, 32, 32)
    assert converted.model.config.attention_type == scheme
    assert converted.mean == mean
    with torch.no_grad():
        assert torch.equal(converted.model(pixel_values).logits, model(pixel_values).logits)


def test_the_names_are_those_that_the_makers_use():
    """Literal keys of the public checkpoints, beside the table that the conversion goes by."""
    state = _official(_model("divided_space_time"))["model_state"]
    assert {
        "model.cls_token",
        "model.pos_embed",
        "model.time_embed",
        "model.patch_embed.proj.weight",
        "model.blocks.1.temporal_norm1.bias",
        "model.blocks.1.temporal_attn.qkv.weight",
        "model.blocks.1.temporal_fc.weight",
        "model.blocks.1.mlp.fc2.bias",
        "model.norm.weight",
        "model.head.bias",
    } <= set(state)
    layer = "backbone.transformer_layers.layers.0"
    assert {
        f"{layer}.attentions.0.attn.in_proj_weight",
        f"{layer}.attentions.0.temporal_fc.bias",
        f"{layer}.attentions.1.attn.out_proj.bias",
        f"{layer}.ffns.0.layers.0.0.weight",
        "cls_head.fc_cls.weight",
    } <= set(_mmaction2(_model("divided_space_time"))["state_dict"])


def test_the_command_leaves_a_folder_that_loads(tmp_path, capsys):
    model = _model("divided_space_time")
    torch.save(_official(model), tmp_path / "official.pyth")
    assert main(["convert", str(tmp_path / "official.pyth"), "--output_dir", str(tmp_path / "out")]) == 0
    loaded = RailsformerForVideoClassification.from_pretrained(tmp_path / "out").eval()
    pixel_values = torch.randn(1, 8, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(pixel_values).logits, model(pixel_values).logits)
    assert "0.45" in (tmp_path / "out" / "preprocessor_config.json").read_text()
    assert "cc-by-nc-4.0" in (tmp_path / "out" / "README.md").read_text()
    assert main(["convert", str(tmp_path / "official.pyth"), "--output_dir", str(tmp_path / "out")]) == 2
    assert "already holds something" in capsys.readouterr().err


def test_what_is_not_known_is_refused_by_name(tmp_path):
    path = tmp_path / "foreign.pth"
    state = _official(_model("joint_space_time"))
    state["model_state"]["model.blocks.0.adapter.weight"] = torch.zeros(1)
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"key 'blocks.0.adapter.weight' is not known"):
        convert_checkpoint(path)
    torch.save({"weights": {}}, path)
    with pytest.raises(ValueError, match=r"expected the key model_state .* got weights"):
        convert_checkpoint(path)
    state = _official(_model("joint_space_time"))
    del state["model_state"]["model.norm.weight"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"lacks 'timesformer.layernorm.weight'"):
        convert_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        convert_checkpoint(tmp_path / "nowhere.pyth")


class _Evil:
    def __reduce__(self):
        return print, ("unpickled",)


def test_nothing_is_unpickled(tmp_path, capsys):
    torch.save({"model_state": {}, "cfg": _Evil()}, tmp_path / "evil.pyth")
    with pytest.raises(ValueError, match="cannot be read as tensors and plain values alone"):
        convert_checkpoint(tmp_path / "evil.pyth")
    assert "unpickled" not in capsys.readouterr().out
    (tmp_path / "text.pyth").write_text("no checkpoint")
    with pytest.raises(ValueError, match="cannot be read"):
        convert_checkpoint(tmp_path / "text.pyth")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("pos_embed", None, "lacks 'timesformer.embeddings.position_embeddings'"),
        ("pos_embed", torch.zeros(1, 15, 64), "position_embeddings' must be of a square of patches, got 14"),
        ("pos_embed", torch.zeros(17, 64), r"position_embeddings' must have 3 dimensions, got shape \(17, 64\)"),
        ("blocks.0.mlp.fc1.weight", None, "lacks 'timesformer.encoder.layer.0.intermediate.dense.weight'"),
        ("blocks.1.mlp.fc1.weight", None, "lacks 'timesformer.encoder.layer.1.intermediate.dense.weight'"),
        ("blocks.0.attn.qkv.weight", torch.zeros(3, 3), r"qkv.weight' must have shape \(192, 64\) .*got \(3, 3\)"),
        ("norm.weight", "x", "key 'model.norm.weight' of model_state must hold a tensor, got str"),
        ("head.bias", None, "lacks 'classifier.bias'"),
        ("time_embed", None, "lacks 'timesformer.embeddings.time_embeddings'"),
    ],
)
def test_a_damaged_file_is_refused_by_the_name_of_its_key(key, value, message, tmp_path):
    state = _official(_model("divided_space_time"))
    if value is None:
        del state["model_state"][f"model.{key}"]
    else:
        state["model_state"][f"model.{key}"] = value
    torch.save(state, tmp_path / "foreign.pyth")
    with pytest.raises(ValueError, match=rf"foreign\.pyth: .*{message}"):
        convert_checkpoint(tmp_path / "foreign.pyth")


def test_weights_that_are_none_are_refused(tmp_path):
    torch.save({"model_state": None}, tmp_path / "foreign.pyth")
    with pytest.raises(ValueError, match="model_state must hold tensors by name, got NoneType"):
        convert_checkpoint(tmp_path / "foreign.pyth")


def test_a_missing_head_is_newly_drawn_and_said(tmp_path, caplog):
    source = _model("divided_space_time")
    state = _official(source)
    del state["model_state"]["model.head.weight"], state["model_state"]["model.head.bias"]
    torch.save(state, tmp_path / "foreign.pyth")
    model = convert_checkpoint(tmp_path / "foreign.pyth").model
    assert "foreign.pyth holds no head: that of the converted model is newly drawn, for 2 labels" in caplog.text
    for name, value in source.timesformer.state_dict().items():
        torch.testing.assert_close(model.timesformer.state_dict()[name], value, rtol=0, atol=0)
