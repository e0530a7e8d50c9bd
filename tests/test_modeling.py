"""The network against stock, against dense attention written from the contract, and against misuse."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import TimesformerConfig, TimesformerForVideoClassification
from transformers.dynamic_module_utils import get_imports
from transformers.models.timesformer.modeling_timesformer import TimesformerDropPath

from railsformer.model import layers_railsformer
from railsformer.model.configuration_railsformer import ATTENTION_TYPES, STOCK_ATTENTION_TYPES, RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification
from railsformer.model.token_grouping import token_groups

TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "patch_size": 4,
    "image_size": 12,
    "num_frames": 3,
    "num_labels": 5,
}


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny tensors wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny_model(**changes):
    """A small model in evaluation mode whose every parameter is random, extra dense layers and tables included."""
    model = RailsformerForVideoClassification(RailsformerConfig(**{**TINY, **changes})).eval()
    return randomise(model)


def randomise(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def clips_for(config, batch=2, seed=1):
    height, width = config.image_height_width
    shape = (batch, config.num_frames, config.num_channels, height, width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- stock


@pytest.mark.parametrize("attention_type", STOCK_ATTENTION_TYPES)
def test_logits_loss_and_gradients_equal_stock(attention_type):
    model = tiny_model(attention_type=attention_type)
    stock = TimesformerForVideoClassification(TimesformerConfig(**TINY, attention_type=attention_type)).eval()
    stock.load_state_dict(model.state_dict(), strict=True)
    pixels, labels = clips_for(model.config), torch.tensor([1, 4])
    ours, theirs = model(pixels, labels=labels), stock(pixels, labels=labels)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=1e-5)
    ours.loss.backward()
    theirs.loss.backward()
    gradients = dict(stock.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
def test_logits_equal_stock_at_base_size():
    torch.manual_seed(0)
    stock = TimesformerForVideoClassification(TimesformerConfig(num_labels=7)).eval()
    torch.nn.init.normal_(stock.timesformer.embeddings.time_embeddings, std=0.02)
    model = RailsformerForVideoClassification(RailsformerConfig(num_labels=7)).eval()
    model.load_state_dict(stock.state_dict(), strict=True)
    pixels = clips_for(model.config, batch=1)
    with torch.inference_mode():
        torch.testing.assert_close(model(pixels).logits, stock(pixels).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("attention_type", "expected"),
    [
        ("space_only", 85_932_462),
        ("joint_space_time", 85_938_606),
        ("divided_space_time", 121_392_558),
        ("sparse_local_global", 121_392_558),
        ("axial", 156_846_510),
    ],
)
def test_parameters_of_the_paper(attention_type, expected):
    config = RailsformerConfig(attention_type=attention_type, num_labels=174)
    with torch.device("meta"):
        model = RailsformerForVideoClassification(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


# --- dense attention with a mask, written from the contract


def dense_logits(model, clip):
    """Logits of one clip (T, C, height, width): every token attends to every token, a mask forbids the rest.

    The sequence is all copies of CLS, one a group, then the patches (h, w, t).
    """
    config, state = model.config, model.state_dict()
    height, width = (side // config.patch_size for side in config.image_height_width)
    cells = [(h, w, t) for h in range(height) for w in range(width) for t in range(config.num_frames)]
    size = config.patch_size

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], config.layer_norm_eps)

    def attend(x, name, allowed):
        query, key, value = linear(x, f"{name}.attention.qkv").chunk(3, dim=-1)
        depth = config.hidden_size // config.num_attention_heads
        heads = []
        for head in range(config.num_attention_heads):
            part = slice(head * depth, (head + 1) * depth)
            scores = query[:, part] @ key[:, part].T / math.sqrt(depth)
            heads.append(scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1) @ value[:, part])
        return linear(torch.cat(heads, dim=-1), f"{name}.output.dense")

    def step(cls, patches, layer, prefix, key, with_cls):
        """`cls` is (1, D), or (T, D) in space_only, whose frames keep their own."""
        keys = [key(*cell) for cell in cells]
        names = sorted(set(keys)) if with_cls else []
        copies = cls if len(cls) > 1 else cls.expand(len(names), -1)
        groups, names_of = names + keys, {}
        numbers = torch.tensor([names_of.setdefault(group, len(names_of)) for group in groups])
        allowed = numbers[:, None] == numbers[None, :]
        before = f"{layer}.{prefix}layernorm" if prefix else f"{layer}.layernorm_before"
        residual = attend(norm(torch.cat((copies, patches)), before), f"{layer}.{prefix}attention", allowed)
        cls_residual, residual = residual[: len(names)], residual[len(names) :]
        if len(cls) == 1 and names:
            cls_residual = cls_residual.mean(dim=0, keepdim=True)
        if prefix:
            residual = linear(residual, f"{layer}.{prefix}dense")
            cls_residual = linear(cls_residual, f"{layer}.{prefix}dense")
        return (cls + cls_residual if names else cls), patches + residual

    steps = {
        "divided_space_time": [
            ("temporal_", lambda h, w, t: (h, w), False),
            ("", lambda h, w, t: t, True),
        ],
        "joint_space_time": [("", lambda h, w, t: 0, True)],
        "space_only": [("", lambda h, w, t: t, True)],
        "sparse_local_global": [
            ("local_", lambda h, w, t: (h >= math.ceil(height / 2), w >= math.ceil(width / 2)), True),
            ("", lambda h, w, t: (t % 2, h % 2, w % 2), True),
        ],
        "axial": [
            ("temporal_", lambda h, w, t: (h, w), False),
            ("width_", lambda h, w, t: (t, h), True),
            ("", lambda h, w, t: (t, w), True),
        ],
    }[config.attention_type]

    embeddings = "timesformer.embeddings"
    kernel = state[f"{embeddings}.patch_embeddings.projection.weight"].flatten(1)
    bias = state[f"{embeddings}.patch_embeddings.projection.bias"]
    space = state[f"{embeddings}.position_embeddings"][0]
    rows = []
    for h, w, t in cells:
        pixels = clip[t, :, h * size : (h + 1) * size, w * size : (w + 1) * size].flatten()
        row = kernel @ pixels + bias + space[1 + h * width + w]
        if config.attention_type != "space_only":
            row = row + state[f"{embeddings}.time_embeddings"][0, t]
        rows.append(row)
    patches = torch.stack(rows)
    cls = state[f"{embeddings}.cls_token"][0] + space[:1]
    if config.attention_type == "space_only":
        cls = cls.repeat(config.num_frames, 1)
    for index in range(config.num_hidden_layers):
        layer = f"timesformer.encoder.layer.{index}"
        for prefix, key, with_cls in steps:
            cls, patches = step(cls, patches, layer, prefix, key, with_cls)
        tokens = torch.cat((cls, patches))
        hidden = F.gelu(linear(norm(tokens, f"{layer}.layernorm_after"), f"{layer}.intermediate.dense"))
        tokens = tokens + linear(hidden, f"{layer}.output.dense")
        cls, patches = tokens[: len(cls)], tokens[len(cls) :]
    return linear(norm(cls.mean(dim=0), "timesformer.layernorm"), "classifier")


@pytest.mark.parametrize("grid", [(3, 5, 3), (4, 2, 2), (2, 3, 1), (1, 1, 2)])
@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_logits_equal_dense_masked_attention(attention_type, grid):
    height, width, frames = grid
    model = tiny_model(attention_type=attention_type, num_frames=frames, image_size=[4 * height, 4 * width])
    pixels = clips_for(model.config)
    with torch.no_grad():
        expected = torch.stack([dense_logits(model, clip) for clip in pixels])
        torch.testing.assert_close(model(pixels).logits, expected, rtol=0, atol=2e-5)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        torch.testing.assert_close(model(pixels).logits, expected, rtol=0, atol=2e-5)


def test_flex_attention_survives_groups_of_unequal_size():
    """Every group of a 3 x 3 x 3 grid is padded; flex attention read past the end of their mask."""
    model = tiny_model(attention_type="sparse_local_global")
    pixels = clips_for(model.config)
    with torch.no_grad():
        expected = model(pixels).logits
        model.set_attn_implementation("flex_attention")
        torch.testing.assert_close(model(pixels).logits, expected, rtol=0, atol=1e-6)


# --- attention maps


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_attention_maps(attention_type):
    model = tiny_model(attention_type=attention_type, image_size=[12, 20])
    pixels = clips_for(model.config)
    with torch.no_grad():
        plain, output = model(pixels), model(pixels, output_attentions=True, output_hidden_states=True)
    assert plain.attentions is None
    assert plain.hidden_states is None
    torch.testing.assert_close(output.logits, plain.logits, rtol=0, atol=1e-6)
    assert len(output.hidden_states) == model.config.num_hidden_layers + 1
    tables = token_groups(attention_type, 3, 3, 5)
    assert len(output.attentions) == len(tables) * model.config.num_hidden_layers
    for index, maps in enumerate(output.attentions):
        table = tables[index % len(tables)]
        groups = table.expand(3, -1) if attention_type == "space_only" else table  # there a frame is a group
        assert maps.shape == (2, len(groups), 3, groups.shape[1], groups.shape[1])
        real = (groups >= 0).to(maps.dtype)
        torch.testing.assert_close(maps.sum(dim=-1), real[None, :, None].expand(maps.shape[:-1]), rtol=0, atol=1e-5)
        assert not maps[(real[:, None, None, :] == 0).expand_as(maps)].any()  # nothing attends to padding


def test_time_maps_show_what_a_patch_looks_at():
    """A query that matches one frame's key alone: the time map of every patch points at that frame."""
    model = tiny_model(num_hidden_layers=1, num_attention_heads=1)
    layer, width = model.timesformer.encoder.layer[0], model.config.hidden_size
    times = torch.zeros(1, 3, width)
    times[0, 2] = torch.randn(width) * 50  # frame 2 stands out
    with torch.no_grad():
        model.timesformer.embeddings.time_embeddings.copy_(times)
        qkv = layer.temporal_attention.attention.qkv
        qkv.weight.zero_()
        direction = F.layer_norm(times[0, 2], (width,))
        layer.temporal_layernorm.weight.fill_(1)
        layer.temporal_layernorm.bias.zero_()
        qkv.bias.copy_(torch.cat((torch.ones(width), torch.zeros(2 * width))))
        qkv.weight[width : 2 * width] = direction.expand(width, -1)
        time_maps = model(clips_for(model.config), output_attentions=True).attentions[0]
    assert time_maps.shape == (2, 9, 1, 3, 3)
    assert (time_maps.argmax(dim=-1) == 2).all()


# --- training


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_overfits_one_batch(attention_type):
    torch.manual_seed(0)
    model = RailsformerForVideoClassification(RailsformerConfig(**TINY, attention_type=attention_type)).train()
    pixels, labels = clips_for(model.config, batch=4), torch.tensor([0, 1, 2, 3])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        loss = model(pixels, labels=labels).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("attention_type", ["divided_space_time", "sparse_local_global"])
def test_activation_checkpointing_gives_the_same_gradients(attention_type):
    model = tiny_model(attention_type=attention_type, stochastic_depth_rate=0.3).train()
    pixels, labels = clips_for(model.config), torch.tensor([1, 4])
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        torch.manual_seed(3)
        model(pixels, labels=labels).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert model.is_gradient_checkpointing
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=0, atol=1e-6)


def test_drop_path_acts_in_training_only():
    model, plain = tiny_model(stochastic_depth_rate=0.5), tiny_model()
    rates = [layer.drop_path.rate for layer in model.timesformer.encoder.layer]
    assert rates == [0.0, 0.5]
    pixels = clips_for(model.config)
    with torch.no_grad():
        expected = plain(pixels).logits
        torch.testing.assert_close(model(pixels).logits, expected, rtol=0, atol=0)
        assert not torch.allclose(model.train()(pixels).logits, expected)
        torch.testing.assert_close(plain.train()(pixels).logits, expected, rtol=0, atol=0)
    kept = model.timesformer.encoder.layer[1].drop_path(torch.ones(4000, 1, 1))
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert kept.mean().item() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("attention_type", STOCK_ATTENTION_TYPES)
def test_drop_path_is_that_of_stock(attention_type):
    model = tiny_model(attention_type=attention_type, stochastic_depth_rate=0.5).train()
    stock = TimesformerForVideoClassification(TimesformerConfig(**TINY, attention_type=attention_type)).train()
    stock.load_state_dict(model.state_dict())
    stock.timesformer.encoder.layer[1].drop_path = TimesformerDropPath(0.5)  # its config takes no fraction
    pixels = clips_for(model.config, batch=4)
    for seed in range(3):
        logits = []
        for network in (model, stock):
            torch.manual_seed(seed)
            logits.append(network(pixels).logits)
        torch.testing.assert_close(*logits, rtol=0, atol=1e-5)


def test_trainer_is_told_that_the_loss_is_a_mean():
    assert RailsformerForVideoClassification.accepts_loss_kwargs is False


def test_fresh_extra_dense_and_time_table_are_zero():
    model = RailsformerForVideoClassification(RailsformerConfig(**TINY, attention_type="axial"))
    silent = [name for name, value in model.named_parameters() if not value.any() and "bias" not in name]
    expected = [f"timesformer.encoder.layer.{i}.{step}_dense.weight" for i in (0, 1) for step in ("temporal", "width")]
    assert silent == ["timesformer.embeddings.time_embeddings", *expected]


@pytest.mark.slow
@pytest.mark.parametrize("attention_type", ["divided_space_time", "sparse_local_global"])
def test_compiles_in_one_graph(attention_type):
    model = tiny_model(attention_type=attention_type)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for seed in (1, 2, 3):
        pixels = clips_for(model.config, seed=seed)
        with torch.no_grad():
            torch.testing.assert_close(compiled(pixels).logits, model(pixels).logits, rtol=0, atol=1e-6)
    assert len(graphs) == 1
    torch.compiler.reset()


def test_a_compiled_model_ignores_no_label():
    model = tiny_model(attention_type="space_only", num_hidden_layers=1)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    pixels = clips_for(model.config)
    expected = model(pixels, labels=torch.tensor([0, 4])).loss
    torch.testing.assert_close(compiled(pixels, labels=torch.tensor([0, 4])).loss, expected, rtol=0, atol=1e-6)
    for label in (-100, -1, 5):
        with pytest.raises(IndexError, match=f"Target {label} is out of bounds"):
            compiled(pixels, labels=torch.tensor([0, label]))
    torch.compiler.reset()


# --- misuse


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 3, 12, 12), r"pixel_values must have 5 dimensions .*got shape \(3, 3, 12, 12\)"),
        ((1, 8, 3, 12, 12), r"num_frames must be 3 for this checkpoint, got 8"),
        ((1, 3, 1, 12, 12), r"num_channels must be 3 for this checkpoint, got 1"),
        ((1, 3, 3, 16, 12), r"height must be 12 for this checkpoint, got 16"),
        ((1, 3, 3, 12, 16), r"width must be 12 for this checkpoint, got 16; load with from_pretrained"),
        ((1, 3, 3, 4, 36), r"height must be 12 for this checkpoint, got 4; width must be 12"),  # as many patches
    ],
)
def test_refuses_other_clips_by_name(shape, message):
    with pytest.raises(ValueError, match=message):
        tiny_model()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 5], r"labels must be in 0..4, got 5"),
        ([-1, 0], r"labels must be in 0..4, got -1"),
        ([[0], [1]], r"labels must have one class index a clip, shape \(2,\), got \(2, 1\)"),
    ],
)
def test_refuses_labels_by_value(labels, message):
    model = tiny_model()
    with pytest.raises(ValueError, match=message):
        model(clips_for(model.config), labels=torch.tensor(labels))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_refuses_pixels_that_would_poison_training(value):
    model = tiny_model()
    pixels = clips_for(model.config)
    pixels[1, 0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"pixel_values of clips \[1\] of this batch hold NaN or infinite"):
        model(pixels, labels=torch.tensor([0, 1]))


def test_returns_a_tuple_on_request():
    model = tiny_model()
    pixels = clips_for(model.config)
    loss, logits = model(pixels, labels=torch.tensor([0, 1]), return_dict=False)
    assert loss.ndim == 0
    assert logits.shape == (2, 5)
    assert model.timesformer(pixels, return_dict=False)[0].shape == (2, 1 + 9 * 3, 24)


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_folding_keeps_the_logits_and_says_what_it_saves(attention_type, tmp_path):
    model = randomise(tiny_model(attention_type=attention_type)).eval()
    clips = clips_for(model.config)
    with torch.no_grad():
        before = model(clips).logits
        report = model.fold_for_inference()
        torch.testing.assert_close(model(clips).logits, before, atol=1e-5, rtol=1e-5)
    width, blocks = model.config.hidden_size, model.config.num_hidden_layers
    extra = {"divided_space_time": 1, "sparse_local_global": 1, "axial": 2}.get(attention_type, 0)
    assert report.parameters_before - report.parameters_after == extra * blocks * (width * width + width)
    assert (report.saved_macs > 0) == (extra > 0)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    if extra:
        with pytest.raises(ValueError, match="a folded model cannot be saved"):
            model.save_pretrained(tmp_path)


@pytest.mark.parametrize("folds_trunk", [True, False])
def test_no_part_of_a_folded_model_can_be_saved(folds_trunk, tmp_path):
    model = tiny_model()
    (model.timesformer if folds_trunk else model).fold_for_inference()
    for part in (model, model.timesformer):
        with pytest.raises(ValueError, match="a folded model cannot be saved"):
            part.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_maps_come_without_the_package_that_tells_free_memory(monkeypatch):
    """A checkpoint's own code runs where psutil may be missing, and transformers asks only for what a file needs."""
    monkeypatch.setitem(sys.modules, "psutil", None)
    model = tiny_model()
    assert len(model(clips_for(model.config), output_attentions=True).attentions) == 4
    assert "psutil" not in get_imports(Path(layers_railsformer.__file__))


def test_maps_that_memory_cannot_hold_are_refused_with_the_estimate():
    """Joint attention over 96 frames of 224 px: 18,817 tokens, so 17 GB a block and head group of 12."""
    config = RailsformerConfig(attention_type="joint_space_time", num_frames=96, hidden_size=24, intermediate_size=24)
    model = RailsformerForVideoClassification(config).eval()
    with pytest.raises(ValueError, match=r"output_attentions needs about 189\.\d GiB for 12 blocks, 1 x 12 heads"):
        model(torch.zeros(1, 96, 3, 224, 224), output_attentions=True)
