"""Learning rate and decay of each parameter."""

import pytest
import torch

from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification
from railsformer.training.optimizers import block_of, parameter_groups


@pytest.fixture(scope="module")
def model():
    config = RailsformerConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16, image_size=32
    )
    return RailsformerForVideoClassification(config)


def _by_name(model, **options):
    settings = {"num_blocks": 3, "learning_rate": 1.0, "weight_decay": 0.05, **options}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, **settings)
    rows = [(names[id(each)], group["lr"], group["weight_decay"]) for group in groups for each in group["params"]]
    assert len(rows) == len({name for name, *_ in rows})
    return {name: (rate, decay) for name, rate, decay in rows}


def test_every_trained_parameter_is_in_one_group(model):
    assert set(_by_name(model, layer_decay=0.5)) == {name for name, _ in model.named_parameters()}


def test_rates_fall_from_the_head_to_the_embeddings(model):
    rates = {name: rate for name, (rate, _) in _by_name(model, layer_decay=0.5, head_factor=10.0).items()}
    assert rates["classifier.weight"] == rates["classifier.bias"] == 10
    assert rates["timesformer.layernorm.weight"] == 1
    assert rates["timesformer.encoder.layer.2.output.dense.weight"] == 0.5
    assert rates["timesformer.encoder.layer.0.temporal_dense.bias"] == 0.125
    assert rates["timesformer.embeddings.patch_embeddings.projection.weight"] == 0.0625
    assert rates["timesformer.embeddings.time_embeddings"] == 0.0625


def test_without_layer_decay_there_are_as_few_groups_as_can_be(model):
    groups = parameter_groups(model, num_blocks=3, learning_rate=1.0, weight_decay=0.05)
    assert len(groups) == 4
    assert {group["lr"] for group in groups} == {1.0}


def test_norms_biases_and_tables_do_not_decay(model):
    decays = {name: decay for name, (_, decay) in _by_name(model).items()}
    spared = {name for name, decay in decays.items() if decay == 0}
    expected = {name for name in decays if name.endswith("bias") or "layernorm" in name}
    tables = {f"timesformer.embeddings.{name}" for name in ("cls_token", "position_embeddings", "time_embeddings")}
    assert spared == expected | tables
    assert set(decays.values()) == {0.0, 0.05}


def test_frozen_parameters_are_left_out(model):
    model.timesformer.requires_grad_(False)
    try:
        assert set(_by_name(model)) == {"classifier.weight", "classifier.bias"}
    finally:
        model.timesformer.requires_grad_(True)


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("module.timesformer.encoder.layer.1.output.dense.weight", 2),
        ("base_model.model.timesformer.encoder.layer.0.attention.attention.qkv.lora_A.default.weight", 1),
        ("timesformer.embeddings.cls_token", 0),
        ("_orig_mod.classifier.weight", 13),
        ("timesformer.layernorm.bias", 13),
    ],
)
def test_wrapped_names_have_their_depth(name, block):
    assert block_of(name, num_blocks=12) == block


def test_a_torch_optimizer_takes_the_groups(model):
    optimizer = torch.optim.AdamW(
        parameter_groups(model, num_blocks=3, learning_rate=0.1, weight_decay=0.05, layer_decay=0.75)
    )
    assert max(group["lr"] for group in optimizer.param_groups) == pytest.approx(0.1)
