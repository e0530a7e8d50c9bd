"""Adapters of peft: what is trained, what is saved, and that merging changes nothing."""

import json

import pytest
import torch
from safetensors.torch import load_file

from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification
from railsformer.training.arguments import RunArguments
from railsformer.training.lora import add_lora, merge_lora

peft = pytest.importorskip("peft")


def _model(attention_type="divided_space_time", *, silent=False):
    torch.manual_seed(0)
    config = RailsformerConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        num_frames=2,
        num_labels=3,
        attention_type=attention_type,
    )
    model = RailsformerForVideoClassification(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not silent and "_dense" in name:
                parameter.normal_(std=0.1)
    return model


def _run(tmp_path, **options):
    return RunArguments(output_dir=str(tmp_path / "run"), lora_rank=4, use_cpu=True, **options)


def _stirred(model):
    """As after some steps: everything that is trained has moved."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


CLIPS = torch.randn(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_adapters_begin_as_the_model_itself(tmp_path):
    model = _model()
    before = model(CLIPS).logits
    add_lora(model, _run(tmp_path))
    assert torch.equal(model(CLIPS).logits, before)


def test_adapters_head_and_time_table_are_trained_and_nothing_else(tmp_path):
    model = _model()
    add_lora(model, _run(tmp_path, lora_targets=["qkv", "mlp"]))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapters = {name for name in trained if ".lora_" in name}
    assert trained - adapters == {
        "classifier.weight",
        "classifier.bias",
        "timesformer.embeddings.time_embeddings",
    }
    assert {name.split(".layer.")[1].split(".lora_")[0] for name in adapters} == {
        f"{block}.{layer}"
        for block in (0, 1)
        for layer in (
            "attention.attention.qkv",
            "temporal_attention.attention.qkv",
            "intermediate.dense",
            "output.dense",
        )
    }


def test_the_merged_model_is_an_ordinary_one_with_the_same_logits(tmp_path):
    model = _model()
    names = set(model.state_dict())
    add_lora(model, _run(tmp_path))
    trained = _stirred(model)(CLIPS).logits
    merge_lora(model, adapter_dir=tmp_path / "run" / "adapter")
    assert set(model.state_dict()) == names
    assert not torch.allclose(trained, _model()(CLIPS).logits, atol=1e-3)
    model.save_pretrained(tmp_path / "run")
    again = RailsformerForVideoClassification.from_pretrained(tmp_path / "run")
    torch.testing.assert_close(again(CLIPS).logits, trained, atol=1e-5, rtol=0)


def test_peft_reads_the_adapter_beside_the_run(tmp_path):
    model = _model()
    add_lora(model, _run(tmp_path))
    trained = _stirred(model)(CLIPS).logits
    merge_lora(model, adapter_dir=tmp_path / "adapter")
    fresh = peft.PeftModel.from_pretrained(_model(), tmp_path / "adapter").eval()
    torch.testing.assert_close(fresh(CLIPS).logits, trained, atol=1e-6, rtol=0)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert not any("patch" not in name and ".layer." in name and ".lora_" not in name for name in weights)


def test_another_process_merges_without_writing(tmp_path):
    model = _model()
    add_lora(model, _run(tmp_path))
    trained = _stirred(model)(CLIPS).logits
    merge_lora(model, adapter_dir=None)
    torch.testing.assert_close(model(CLIPS).logits, trained, atol=1e-6, rtol=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scheme", ["joint_space_time", "space_only", "axial", "sparse_local_global"])
def test_every_scheme_takes_adapters(tmp_path, scheme):
    model = _model(scheme)
    add_lora(model, _run(tmp_path))
    trained = _stirred(model)(CLIPS).logits
    merge_lora(model, adapter_dir=tmp_path / "adapter")
    torch.testing.assert_close(model(CLIPS).logits, trained, atol=1e-6, rtol=0)


def test_steps_that_would_stay_silent_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"lora_targets must hold 'dense': 2 extra dense layers start at zero, .*got qkv"
    ):
        add_lora(_model(silent=True), _run(tmp_path, lora_targets=["qkv"]))
    add_lora(_model(silent=True), _run(tmp_path))


def test_a_target_that_the_scheme_has_not_is_refused(tmp_path):
    with pytest.raises(ValueError, match="lora_targets names 'dense', which this model has no layers of"):
        add_lora(_model("joint_space_time"), _run(tmp_path, lora_targets=["qkv", "dense"]))


def test_a_checkpoint_brings_adapters_head_and_time_table_back(tmp_path):
    model = _model()
    add_lora(model, _run(tmp_path))
    trained = _stirred(model)(CLIPS).logits
    model.save_pretrained(tmp_path / "checkpoint")
    fresh = _model()
    add_lora(fresh, _run(tmp_path))
    missing = fresh.load_state_dict(load_file(tmp_path / "checkpoint" / "model.safetensors"), strict=True)
    assert not missing.missing_keys
    assert torch.equal(fresh(CLIPS).logits, trained)


def test_adapters_are_refused_where_weights_are_sharded(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="lora_rank must not be given with FSDP, got 4"):
        add_lora(_model(), _run(tmp_path))
