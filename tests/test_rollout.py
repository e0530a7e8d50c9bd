"""Rollouts against plain loops over tokens, written from the token groups alone."""

import numpy as np
import pytest
import torch

from railsformer.explain import attribute, rollout
from railsformer.explain.attribution import METHODS, target_indices
from railsformer.explain.rollout import attention_rollout, gradient_rollout
from railsformer.model.configuration_railsformer import ATTENTION_TYPES, RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification
from railsformer.model.token_grouping import token_groups

SIZES = [(4, 8, 8), (3, 12, 20), (1, 12, 4), (5, 4, 4)]  # frames, pixels down and across; patches of 4 pixels
LABELS = ("shunting", "standing", "person_on_track")


def small_model(attention_type: str, size: tuple[int, int, int] = (3, 12, 20), seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    frames, *height_width = size
    config = RailsformerConfig(
        attention_type=attention_type,
        num_frames=frames,
        image_size=height_width,
        patch_size=4,
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=2,
        num_hidden_layers=2,
        id2label=dict(enumerate(LABELS)),
    )
    model = RailsformerForVideoClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)  # attention far from even, no extra dense layer zero
    return model


def clips(size: tuple[int, int, int] = (3, 12, 20), number: int = 2) -> torch.Tensor:
    frames, height, width = size
    return torch.randn(number, frames, 3, height, width, generator=torch.Generator().manual_seed(1))


def step_matrix(maps: torch.Tensor, groups: torch.Tensor, tokens: int) -> torch.Tensor:
    """What each token draws from each in one step of one clip, heads averaged; maps (groups, heads, N, N)."""
    matrix = torch.zeros(tokens, tokens, dtype=torch.float64)
    copies = [0] * tokens
    for weights, members in zip(maps, groups.tolist(), strict=True):
        for asking, query in enumerate(members):
            if query < 0:
                continue
            copies[query] += 1
            for asked, key in enumerate(members):
                if key >= 0:
                    matrix[query, key] += weights[:, asking, asked].mean().item()
    for token, number in enumerate(copies):
        if number == 0:
            matrix[token, token] = 1.0  # takes no part
        else:
            matrix[token] /= number  # CLS has a copy in every group
    return matrix


def rollout_matrix(maps: list[torch.Tensor], tables: list[torch.Tensor], tokens: int) -> torch.Tensor:
    """All steps of all blocks: identity added, rows divided by their sum, multiplied."""
    total = torch.eye(tokens, dtype=torch.float64)
    for index, each in enumerate(maps):
        matrix = step_matrix(each, tables[index % len(tables)], tokens) + torch.eye(tokens, dtype=torch.float64)
        total = (matrix / matrix.sum(dim=1, keepdim=True)) @ total
    return total


def expected_rollout(model, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """CLS's row over (B, T, h, w), and all row sums met."""
    config = model.config
    batch, frames = pixel_values.shape[:2]
    height, width = config.grid
    tables = token_groups(config.attention_type, frames, height, width)
    with torch.no_grad():
        attentions = model(pixel_values, output_attentions=True).attentions
    expected, sums = torch.zeros(batch, frames, height, width, dtype=torch.float64), []
    space_only = config.attention_type == "space_only"
    tokens = 1 + height * width * (1 if space_only else frames)
    for clip in range(batch):
        for frame in range(frames if space_only else 1):
            maps = [each[clip, frame : frame + 1] if space_only else each[clip] for each in attentions]
            total = rollout_matrix(maps, tables, tokens)
            sums.append(total.sum(dim=1))
            for h in range(height):
                for w in range(width):
                    for t in range(frames):
                        if space_only and t == frame:
                            expected[clip, t, h, w] = total[0, 1 + h * width + w] / frames
                        elif not space_only:
                            expected[clip, t, h, w] = total[0, 1 + (h * width + w) * frames + t]
    return expected, torch.cat(sums)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_rollout_equals_loops_over_tokens(attention_type, size):
    model, pixel_values = small_model(attention_type, size), clips(size)
    expected, sums = expected_rollout(model, pixel_values)
    assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5)  # of the oracle: every matrix is row-stochastic
    row = attention_rollout(model, pixel_values)
    assert row.shape == expected.shape
    assert (row - expected).abs().max() < 1e-5
    shares = expected / expected.sum(dim=(1, 2, 3), keepdim=True)
    assert (attribute(model, pixel_values) - shares).abs().max() < 1e-5


def logits_and_maps(model, pixel_values: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Maps (groups, heads, N, N) of one clip as they stand in the graph; those of the output are copies."""
    raw: list[torch.Tensor] = []
    names = [name for name, _ in model.named_modules() if name.endswith("attention.attention")]
    handles = [model.get_submodule(name).register_forward_hook(lambda *call: raw.append(call[2][1])) for name in names]
    logits = model(pixel_values, output_attentions=True).logits
    for handle in handles:
        handle.remove()
    return logits, raw


def expected_gradient_row(model, pixel_values: torch.Tensor, target: int) -> torch.Tensor:
    """The same by loops for one clip, from attention maps that autograd itself gives the gradients of."""
    config = model.config
    frames = pixel_values.shape[1]
    height, width = config.grid
    tables = token_groups(config.attention_type, frames, height, width)
    logits, raw = logits_and_maps(model, pixel_values)
    gradients = torch.autograd.grad(logits[0, target], raw)
    space_only = config.attention_type == "space_only"
    tokens = 1 + height * width * (1 if space_only else frames)
    rows = []
    for frame in range(frames if space_only else 1):
        row = torch.zeros(tokens, dtype=torch.float64)
        row[0] = 1.0
        for index in reversed(range(len(raw))):
            weights, slopes = (each[index].detach() for each in (raw, gradients))
            kept = (weights * slopes).clamp(min=0).double().mean(dim=1)
            carried, table = row.clone(), tables[index % len(tables)].tolist()
            chosen = [(kept[frame], table[0])] if space_only else list(zip(kept, table, strict=True))
            for matrix, members in chosen:
                for asking, query in enumerate(members):
                    for asked, key in enumerate(members):
                        if query >= 0 and key >= 0:
                            carried[key] += row[query] * matrix[asking, asked]
            row = carried
        rows.append(row[1:])
    if space_only:
        return torch.stack(rows).view(frames, height, width) / frames
    return rows[0].view(height, width, frames).permute(2, 0, 1)


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_gradient_rollout_equals_loops_over_tokens(attention_type, size):
    model, pixel_values = small_model(attention_type, size), clips(size)
    row = gradient_rollout(model, pixel_values, torch.tensor([2, 0]))
    for clip, target in enumerate((2, 0)):
        expected = expected_gradient_row(model, pixel_values[clip : clip + 1], target)
        assert (row[clip] - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("method", ["rollout", "gradient_rollout"])
@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_a_clip_gets_the_same_map_in_any_batch(attention_type, method):
    model, pixel_values = small_model(attention_type), clips(number=4)
    together = attribute(model, pixel_values, method, ["standing", 0, 2, "shunting"])
    assert torch.allclose(together.sum(dim=(1, 2, 3)), torch.ones(4), atol=1e-5)
    assert together.min() >= 0
    for clip, target in enumerate((1, 0, 2, 0)):
        alone = attribute(model, pixel_values[clip : clip + 1], method, target)
        assert torch.allclose(together[clip], alone[0], atol=1e-6)


@pytest.mark.parametrize("method", ["rollout", "gradient_rollout"])
@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_small_parts_give_the_same_map(attention_type, method, monkeypatch):
    model, pixel_values = small_model(attention_type), clips()
    whole = attribute(model, pixel_values, method, 1)
    monkeypatch.setattr(rollout, "_MOST_WEIGHTS", 100)
    assert torch.allclose(attribute(model, pixel_values, method, 1), whole, atol=1e-6)


def test_gradient_rollout_depends_on_the_class_and_rollout_does_not():
    model, pixel_values = small_model("divided_space_time"), clips()
    assert torch.equal(attribute(model, pixel_values, target=0), attribute(model, pixel_values, target=1))
    first, second = (attribute(model, pixel_values, "gradient_rollout", target) for target in (0, 1))
    assert (first - second).abs().max() > 1e-3


def test_without_a_target_the_predicted_class_is_explained():
    model, pixel_values = small_model("axial"), clips(number=3)
    predicted = model(pixel_values).logits.argmax(dim=1)
    assert torch.equal(target_indices(model, pixel_values), predicted)
    by_default = attribute(model, pixel_values, "gradient_rollout")
    assert torch.equal(by_default, attribute(model, pixel_values, "gradient_rollout", predicted))


@pytest.mark.parametrize("method", ["rollout", "gradient_rollout"])
def test_the_model_is_left_as_it_was(method):
    model, pixel_values = small_model("divided_space_time"), clips()
    model.train()
    model.timesformer.embeddings.eval()
    model.classifier.weight.requires_grad_(False)
    wishes = [parameter.requires_grad for parameter in model.parameters()]
    with torch.inference_mode():
        relevance = attribute(model, pixel_values, method, 0)
    assert model.training
    assert not model.timesformer.embeddings.training
    assert [parameter.requires_grad for parameter in model.parameters()] == wishes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(relevance, attribute(model.eval(), pixel_values, method, 0))


@pytest.mark.parametrize("method", ["rollout", "gradient_rollout"])
def test_a_half_precision_model_gives_float32_maps(method):
    model, pixel_values = small_model("joint_space_time").to(torch.bfloat16), clips()
    relevance = attribute(model, pixel_values, method, 0)
    assert relevance.dtype == torch.float32
    exact = attribute(model.float(), pixel_values, method, 0)
    assert torch.corrcoef(torch.stack((relevance.flatten(), exact.flatten())))[0, 1] > 0.95


def test_a_folded_model_gives_the_same_maps():
    model, pixel_values = small_model("divided_space_time"), clips()
    before = [attribute(model, pixel_values, method, 0) for method in ("rollout", "gradient_rollout")]
    model.fold_for_inference()
    for method, expected in zip(("rollout", "gradient_rollout"), before, strict=True):
        assert torch.allclose(attribute(model, pixel_values, method, 0), expected, atol=1e-5)


def test_where_nothing_speaks_for_the_class_the_map_is_zero():
    model, pixel_values = small_model("divided_space_time"), clips()
    torch.nn.init.zeros_(model.classifier.weight)
    assert torch.equal(attribute(model, pixel_values, "gradient_rollout", 0), torch.zeros(2, 3, 3, 5))


def test_occlusion_has_the_shape_and_takes_options():
    model, pixel_values = small_model("divided_space_time"), clips()
    relevance = attribute(model, pixel_values, "occlusion", "standing", cube=(1, 1, 5), batch_size=4)
    assert relevance.shape == (2, 3, 3, 5)
    assert (relevance == relevance[..., :1]).all()  # a cube is a whole row of patches


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        (
            {"target": "fire"},
            r"a label of the model \(shunting, standing, person_on_track\) or an index in 0..2, got 'fire'",
        ),
        ({"target": 3}, "index in 0..2, got 3"),
        ({"target": -1}, "got -1"),
        ({"target": True}, "got True"),
        ({"target": 1.0}, "got 1.0; give a name, a whole number, or None"),
        ({"target": torch.tensor(0.5)}, "got 0.5"),
        ({"target": [None, 1]}, "got None"),
        ({"target": {0, 1}}, r"one class or one a clip \(2\), got 2 \(set\)"),
        ({"target": [0, 1, 2]}, r"one class or one a clip \(2\), got 3"),
        ({"method": "grad_cam"}, "method must be one of rollout, gradient_rollout, occlusion, got 'grad_cam'"),
        ({"cube": (1, 1, 1)}, "options of rollout are none, got cube"),
        ({"method": "occlusion", "cubes": 1}, "options of occlusion are cube, .* got cubes"),
    ],
)
def test_what_is_unknown_is_named(keywords, message):
    with pytest.raises(ValueError, match=message) as caught:
        attribute(small_model("divided_space_time"), clips(), **keywords)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "target",
    [np.int64(1), np.array(1), torch.tensor(1), np.array([1, 1]), [np.int64(1), torch.tensor(1)], (1, "standing")],
    ids=repr,
)
@pytest.mark.parametrize("method", ["gradient_rollout", "occlusion"])
def test_a_target_may_be_what_argmax_gives(target, method):
    model = small_model("divided_space_time")
    expected = attribute(model, clips(), method, "standing")
    assert torch.equal(attribute(model, clips(), method, target), expected)


@pytest.mark.parametrize(
    ("pixel_values", "message"),
    [
        (clips().numpy(), "must be a torch.Tensor .* got ndarray; give torch.as_tensor of it"),
        (clips()[:0], r"hold no clip \(shape \(0, 3, 3, 12, 20\)\); give at least one"),
        (clips()[0], r"of 5 dimensions .* got torch.float32 of shape \(3, 3, 12, 20\)"),
        (clips().to(torch.uint8), "normalised frames as floating point, .* got torch.uint8"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_odd_pixels_are_one_line(pixel_values, message, method):
    with pytest.raises(ValueError, match=message) as caught:
        attribute(small_model("divided_space_time"), pixel_values, method)
    assert "\n" not in str(caught.value)


def test_clips_that_are_not_finite_are_named():
    pixel_values = clips()
    pixel_values[1, 0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"clips \[1\] of this batch hold NaN"):
        attribute(small_model("divided_space_time"), pixel_values)


def test_a_clip_of_another_length_is_refused():
    with pytest.raises(ValueError, match="num_frames must be 3 for this checkpoint, got 2"):
        attribute(small_model("divided_space_time"), clips((2, 12, 20)))


def test_another_kind_of_model_is_refused():
    with pytest.raises(ValueError, match="must be a RailsformerForVideoClassification, got Linear"):
        attribute(torch.nn.Linear(2, 2), clips())
