import pytest
import torch
from bright_square import square_clip
from test_modeling import clips_for, tiny_model

from railsformer.explain.occlusion import default_cube, filled_clips, masked_scores, occlude, occluding_cubes
from railsformer.model.configuration_railsformer import ATTENTION_TYPES

GRID = (3, 3, 3)  # of tiny_model


def log_odds(model, clip, target):
    probability = model(clip[None]).logits.double().softmax(dim=-1)[0, target]
    return torch.log(probability / (1 - probability))


@torch.no_grad()
def one_by_one(model, clip, target, cube, stride):
    """Occlusion cube by cube, pixel by pixel: sums and counts per cell."""
    total, count = torch.zeros(GRID, dtype=torch.float64), torch.zeros(GRID)
    starts = [sorted({min(s, 3 - c) for s in range(0, 3, d)}) for c, d in zip(cube, stride, strict=True)]
    for frame in starts[0]:
        for row in starts[1]:
            for column in starts[2]:
                covered = clip.clone()
                for t in range(frame, frame + cube[0]):
                    rows = slice(4 * row, 4 * (row + cube[1]))
                    columns = slice(4 * column, 4 * (column + cube[2]))
                    for channel in range(3):
                        covered[t, channel, rows, columns] = clip[:, channel].mean()
                fall = log_odds(model, clip, target) - log_odds(model, covered, target)
                where = (
                    slice(frame, frame + cube[0]),
                    slice(row, row + cube[1]),
                    slice(column, column + cube[2]),
                )
                total[where] += fall
                count[where] += 1
    return (total / count).float()


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
@pytest.mark.parametrize(("cube", "stride"), [((1, 1, 1), (1, 1, 1)), ((2, 2, 3), (1, 2, 3))])
def test_relevance_is_the_mean_fall_over_the_cubes_that_cover_a_cell(attention_type, cube, stride):
    model = tiny_model(attention_type=attention_type)
    clips = clips_for(model.config)
    maps = occlude(model, clips, torch.tensor([3, 1]), cube=cube, stride=stride, batch_size=5)
    assert maps.shape == (2, *GRID)
    assert maps.dtype == torch.float32
    for clip, target, got in zip(clips, (3, 1), maps, strict=True):
        torch.testing.assert_close(got, one_by_one(model, clip, target, cube, stride), atol=1e-5, rtol=1e-4)


def test_a_clip_has_the_same_map_alone_in_company_and_in_any_batch_size():
    model = tiny_model()
    clips = clips_for(model.config, batch=3)
    together = occlude(model, clips, 2, batch_size=7)
    alone = torch.cat([occlude(model, clip[None], 2, batch_size=1) for clip in clips])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_falls_of_the_two_classes_of_a_two_class_model_are_opposite():
    model = tiny_model(num_labels=2)
    clips = clips_for(model.config)
    for measure in ("log_odds", "probability"):
        first, second = (occlude(model, clips, target, measure=measure) for target in (0, 1))
        torch.testing.assert_close(first, -second, atol=1e-6, rtol=1e-5)
        assert first.abs().max() > 0


def test_probability_falls_by_at_most_itself():
    model = tiny_model()
    clips = clips_for(model.config)
    fall = occlude(model, clips, 1, measure="probability")
    assert (fall <= model(clips).logits.softmax(dim=-1)[:, 1].view(-1, 1, 1, 1) + 1e-6).all()


@pytest.mark.parametrize("grid", [(1, 1, 1), (2, 3, 5), (8, 14, 14), (32, 14, 14), (96, 28, 28)])
def test_default_cubes_cover_every_cell_and_their_number_is_bounded(grid):
    masks = occluding_cubes(grid)
    assert masks.any(dim=0).all()
    assert len(masks) <= 144
    assert {int(mask.sum()) for mask in masks} == {torch.tensor(default_cube(grid)).prod().item()}


def test_the_last_cube_of_an_axis_ends_at_its_end_and_is_whole():
    masks = occluding_cubes((5, 1, 1), cube=(2, 1, 1)).flatten(1).int().tolist()
    assert masks == [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]
    overlapping = occluding_cubes((4, 1, 1), cube=(2, 1, 1), stride=(1, 1, 1)).flatten(1).int().tolist()
    assert overlapping == [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


def test_the_model_stays_in_its_mode_and_its_weights_as_they_were():
    model = tiny_model(hidden_dropout_prob=0.5).train()
    model.timesformer.layernorm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (occlude(model, clips_for(model.config), 0) for _ in range(2))
    assert torch.equal(first, second)  # no dropout
    assert model.training
    assert not model.timesformer.layernorm.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_mean_fills_with_each_clips_colour_and_blur_takes_the_square_away():
    clip, _ = square_clip(1, 2)
    mean = filled_clips(clip, "mean")
    assert mean.shape == clip.shape
    torch.testing.assert_close(mean[0, 1, :, 3, 5], clip.mean(dim=(0, 1, 3, 4)))
    blurred = filled_clips(clip, "blur")
    assert blurred.shape == clip.shape
    assert blurred.mean() == pytest.approx(clip.mean().item(), abs=0.1)
    steepest = [each.diff(dim=-1).abs().max().item() for each in (clip, blurred)]
    assert steepest[1] < 0.3 * steepest[0]
    flat = torch.full((2, 3, 3, 8, 12), 0.7)
    torch.testing.assert_close(filled_clips(flat, "blur"), flat)


def test_nothing_removed_is_the_clip_itself_and_all_removed_the_fill():
    model = tiny_model()
    clip = clips_for(model.config)[0]
    filled = filled_clips(clip[None], "blur")[0]
    masks = torch.stack((torch.zeros(GRID), torch.ones(GRID))).bool()
    scores = masked_scores(model, clip, masks, 4, filled=filled)
    expected = model(torch.stack((clip, filled))).logits.double().softmax(dim=-1)[:, 4]
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cube": (4, 1, 1)}, r"cube must be .* from 1 to the clip's \(3, 3, 3\), got \(4, 1, 1\)"),
        ({"cube": (0, 1, 1)}, "cube must be"),
        ({"cube": (1, 1)}, "cube must be"),
        ({"cube": (2, 2, 2), "stride": (3, 1, 1)}, r"stride must be .* from 1 to the cube's \(2, 2, 2\)"),
        ({"fill": "black"}, "fill must be one of mean, blur, got 'black'"),
        ({"measure": "loss"}, "measure must be one of probability, log_odds, got 'loss'"),
        ({"batch_size": 0}, "batch_size must be a whole number, at least 1, got 0"),
        ({"batch_size": 2.0}, "batch_size must be a whole number, at least 1, got 2.0; leave it out for 8"),
        ({"cube": 2}, "cube must be .*: three whole numbers, .* got 2"),
        ({"cube": (1, 1)}, r"cube must be .*: three whole numbers, .* got \(1, 1\)"),
        ({"cube": (1, 1.5, 1)}, r"cube must be .*: three whole numbers, .* got \(1, 1.5, 1\)"),
        ({"stride": "1"}, "stride must be .*: three whole numbers, .* got '1'"),
        ({"target": 5}, r"target must be a class index in 0\.\.4, got 5"),
        ({"target": torch.tensor([0, 1, 2])}, r"target must be one class index or one a clip \(2\), got 3"),
    ],
)
def test_what_is_not_allowed_is_one_line(options, message):
    model = tiny_model()
    with pytest.raises(ValueError, match=message) as error:
        occlude(model, clips_for(model.config), **{"target": 0, **options})
    assert "\n" not in str(error.value)


def test_clips_of_another_shape_or_not_finite_are_refused():
    model = tiny_model()
    with pytest.raises(ValueError, match="5 dimensions"):
        occlude(model, clips_for(model.config)[0], 0)
    with pytest.raises(ValueError, match="NaN or infinite"):
        occlude(model, clips_for(model.config) / 0, 0)
    with pytest.raises(ValueError, match="num_frames must be 3"):
        occlude(model, torch.zeros(1, 2, 3, 12, 12), 0)
    with pytest.raises(ValueError, match="no log odds"):
        occlude(tiny_model(num_labels=1), clips_for(model.config), 0)
