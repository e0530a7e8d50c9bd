"""A new time table that is not zeros."""

import pytest
import torch

from railsformer import RailsformerConfig, RailsformerForVideoClassification
from railsformer.data.clips import load_video_dataset
from railsformer.training.arguments import parse_settings
from railsformer.training.start import build_model, fill_time_table

TINY = ["--from_scratch", "--hidden_size", "32", "--num_hidden_layers", "1", "--num_attention_heads", "2"]
TINY += ["--intermediate_size", "32", "--image_size", "48", "--num_frames", "4"]


def _model(**config):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    chosen = {"image_size": 32, "patch_size": 16, "num_frames": 4, "num_labels": 2, **sizes, **config}
    return RailsformerForVideoClassification(RailsformerConfig(**chosen)).eval()


def _tables(model):
    embeddings = model.timesformer.embeddings
    return embeddings.time_embeddings[0].detach(), embeddings.position_embeddings[0, 1:].detach()


def _order_gap(model, clip):
    """How far the answers for a clip and for its reverse lie apart."""
    with torch.no_grad():
        return float((model(clip).logits - model(clip.flip(1)).logits).abs().max())


@pytest.mark.parametrize("num_frames", [2, 3, 4, 8, 16])
def test_a_filled_table_is_as_large_as_the_position_table_and_keeps_the_mean_frame(num_frames):
    model = _model(num_frames=num_frames)
    assert fill_time_table(model)
    time, position = _tables(model)
    torch.testing.assert_close(time.square().mean().sqrt(), position.square().mean().sqrt())
    torch.testing.assert_close(time.mean(dim=0), torch.zeros(32), atol=1e-6, rtol=0)
    distances = torch.cdist(time, time) + torch.eye(num_frames) * 1e9
    assert distances.min() > 0.5 * time.norm(dim=1).mean()  # no two frames look alike


@pytest.mark.parametrize("attention_type", ["joint_space_time", "sparse_local_global"])
def test_order_is_told_from_the_first_step_on(attention_type):
    torch.manual_seed(0)
    model, clip = _model(attention_type=attention_type, initializer_range=0.3), torch.randn(1, 4, 3, 32, 32)
    zeros = _order_gap(model, clip)
    fill_time_table(model)
    assert zeros < 1e-5 < 1e-2 < _order_gap(model, clip)


@pytest.mark.parametrize(
    "config", [{"attention_type": "space_only"}, {"position_embedding": "space"}, {"position_embedding": "none"}]
)
def test_without_a_learned_time_table_nothing_is_filled(config):
    model = _model(**config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not fill_time_table(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_one_frame_has_no_order():
    assert not fill_time_table(_model(num_frames=1))


def test_what_the_start_has_learned_is_kept(yard_dataset, tmp_path):
    start = _model(image_size=32)
    with torch.no_grad():
        start.timesformer.embeddings.time_embeddings += torch.randn(1, 4, 32)
    start.save_pretrained(tmp_path)
    learned, _ = _tables(start)
    settings = parse_settings(
        ["--model", str(tmp_path), "--dataset", str(yard_dataset), "--output_dir", "out", "--time_table", "sinusoidal"]
    )
    assert torch.equal(_tables(build_model(settings.model, load_video_dataset(yard_dataset)))[0], learned)


def test_a_recipe_asks_for_it(yard_dataset):
    flags = [*TINY, "--dataset", str(yard_dataset), "--output_dir", "out"]
    dataset = load_video_dataset(yard_dataset)
    plain, filled = (
        build_model(parse_settings([*flags, *more]).model, dataset) for more in ([], ["--time_table", "sinusoidal"])
    )
    assert not _tables(plain)[0].any()
    assert _tables(filled)[0].any(dim=1).all()
