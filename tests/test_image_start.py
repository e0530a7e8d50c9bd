"""A video model that starts from an image transformer."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_modeling import _one_thread, tiny_model  # noqa: F401  (the fixture acts here too)
from transformers import (
    AutoModel,
    DeiTConfig,
    DeiTModel,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification
from railsformer.model.weights import image_model_config

IMAGE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 64, "patch_size": 16}


def _shake(model):
    """Every parameter random, LayerScale far from 1."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.2)
    return model.eval()


def tiny_vit():
    return _shake(ViTModel(ViTConfig(**IMAGE, intermediate_size=40), add_pooling_layer=False))


def tiny_dinov2():
    return _shake(Dinov2Model(Dinov2Config(**{**IMAGE, "image_size": 56, "patch_size": 14}, mlp_ratio=2)))


def _check_identity(folder, attention_type, image_size, **forward):
    image_model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    video_model = RailsformerForVideoClassification.from_image_model(
        folder, num_frames=3, image_size=image_size, attention_type=attention_type, num_labels=2
    )
    assert video_model.config.image_size == image_size
    image = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = image_model(image, **forward).last_hidden_state[:, 0]
        tokens = video_model.timesformer(image.unsqueeze(1).expand(-1, 3, -1, -1, -1)).last_hidden_state
    torch.testing.assert_close(tokens[:, 0], expected, rtol=0, atol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 1e-3  # the pictures differ by more than the models do


@pytest.mark.parametrize("attention_type", ["divided_space_time", "space_only"])
@pytest.mark.parametrize("image_size", [64, 96])
def test_identical_frames_give_the_vit(tmp_path, attention_type, image_size):
    tiny_vit().save_pretrained(tmp_path)
    _check_identity(tmp_path, attention_type, image_size, interpolate_pos_encoding=True)


@pytest.mark.parametrize("attention_type", ["divided_space_time", "space_only"])
@pytest.mark.parametrize("image_size", [56, 84])
def test_identical_frames_give_the_dinov2(tmp_path, attention_type, image_size):
    tiny_dinov2().save_pretrained(tmp_path)
    _check_identity(tmp_path, attention_type, image_size)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attention_type", "image_size"), [("divided_space_time", 224), ("space_only", 112), ("divided_space_time", 518)]
)
def test_identical_frames_give_the_real_dinov2(dinov2_small, attention_type, image_size):
    _check_identity(dinov2_small, attention_type, image_size)


def test_deit_without_its_distillation_token_is_the_vit_of_the_same_weights(tmp_path, caplog):
    deit = _shake(DeiTModel(DeiTConfig(**IMAGE, intermediate_size=40), add_pooling_layer=False))
    state = deit.state_dict()
    del state["embeddings.distillation_token"]
    table = state["embeddings.position_embeddings"]
    state["embeddings.position_embeddings"] = torch.cat((table[:, :1], table[:, 2:]), dim=1)
    vit = ViTModel(ViTConfig(**IMAGE, intermediate_size=40), add_pooling_layer=False).eval()
    vit.load_state_dict(state)
    deit.save_pretrained(tmp_path)
    model = RailsformerForVideoClassification.from_image_model(tmp_path, num_frames=2)
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = vit(image).last_hidden_state[:, 0]
        tokens = model.timesformer(image.unsqueeze(1).expand(-1, 2, -1, -1, -1)).last_hidden_state
    torch.testing.assert_close(tokens[:, 0], expected, rtol=0, atol=1e-4)
    assert "unused   embeddings.distillation_token" in caplog.text


def test_image_model_of_an_unknown_family_is_refused(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="image model type must be one of vit, deit, dinov2, got 'timesformer'"):
        RailsformerForVideoClassification.from_image_model(tmp_path, num_frames=3)


def test_video_model_may_not_differ_in_width_from_its_image_model(tmp_path):
    tiny_vit().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="hidden_size cannot change on loading: the checkpoint has 24, got 48"):
        RailsformerForVideoClassification.from_image_model(tmp_path, hidden_size=48)


def test_gated_mlp_is_refused():
    with pytest.raises(ValueError, match="gated MLP"):
        image_model_config(Dinov2Config(use_swiglu_ffn=True))


def test_image_start_copies_attention_to_every_step(tmp_path):
    tiny_dinov2().save_pretrained(tmp_path)
    model = RailsformerForVideoClassification.from_image_model(tmp_path, num_frames=2, attention_type="axial")
    assert isinstance(model.config, RailsformerConfig)
    block = model.timesformer.encoder.layer[1]
    for step in (block.temporal_attention, block.width_attention):
        torch.testing.assert_close(step.attention.qkv.weight, block.attention.attention.qkv.weight, rtol=0, atol=0)
        torch.testing.assert_close(step.output.dense.bias, block.attention.output.dense.bias, rtol=0, atol=0)
    assert not block.temporal_dense.weight.any()
    assert not block.width_dense.bias.any()
    assert not model.timesformer.embeddings.time_embeddings.any()


@pytest.mark.parametrize("damage", ["hole", "shape", "shallow"])
def test_a_broken_image_checkpoint_is_refused(tmp_path, damage):
    _shake(ViTForImageClassification(ViTConfig(**IMAGE, intermediate_size=40))).save_pretrained(tmp_path)
    RailsformerForVideoClassification.from_image_model(tmp_path, num_frames=2)
    config, path = tmp_path / "config.json", tmp_path / "model.safetensors"
    if damage == "hole":
        state = {name: value for name, value in load_file(path).items() if "layer.1." not in name}
        save_file(state, path, metadata={"format": "pt"})
    else:
        changes = {"shape": {"intermediate_size": 48}, "shallow": {"num_hidden_layers": 1}}[damage]
        config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    messages = {
        "hole": r"lacks 16 tensors of the image model, layers\.1\..* first",
        "shape": "do not fit each other .*copy the folder again",
        "shallow": r"only 22 of the 38 tensors of its trunk fit",
    }
    with pytest.raises(ValueError, match=messages[damage]):
        RailsformerForVideoClassification.from_image_model(tmp_path, num_frames=2)


@pytest.mark.parametrize("num_hidden_layers", [1, 2])
def test_what_a_small_image_model_has_beside_its_trunk_does_not_count(tmp_path, num_hidden_layers):
    sizes = {**IMAGE, "num_hidden_layers": num_hidden_layers, "intermediate_size": 40}
    _shake(DeiTModel(DeiTConfig(**sizes))).save_pretrained(tmp_path)  # pooler and distillation token
    RailsformerForVideoClassification.from_image_model(tmp_path, num_frames=2)


def test_keywords_of_an_image_start(tmp_path):
    tiny_vit().save_pretrained(tmp_path)
    start = RailsformerForVideoClassification.from_image_model
    model = start(tmp_path, num_frames=2, dtype=torch.bfloat16, label2id={"a": 0, "b": 1, "c": 2})
    assert model.dtype == model.config.dtype == torch.bfloat16
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert start(tmp_path, num_frames=2, dtype="float16").dtype == torch.float16
    assert start(tmp_path, num_frames=2).dtype == torch.float32
    with pytest.raises(ValueError, match=r"'num_frame' is no key of the config; did you mean num_frames\?"):
        start(tmp_path, num_frame=2)
    with pytest.raises(
        ValueError, match="dtype must be a floating point type such as float32 or bfloat16, got 'int7'"
    ):
        start(tmp_path, dtype="int7")
