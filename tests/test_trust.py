"""Maps whose worth is known: the square's own cells, random ones, the opposite."""

import json
import math

import numpy as np
import pytest
import torch
from bright_square import CELLS, FRAMES, square_clip, trained_on_squares
from scipy import stats

from railsformer.explain.attribution import attribute
from railsformer.explain.removal import deletion_insertion, normal_ranks, removal_passes, smooth_surrogate
from railsformer.explain.trust import (
    agreement,
    rank_correlation,
    sanity,
    trust_report,
    with_shuffled_weights,
)

GRID = (FRAMES, CELLS, CELLS)


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        return trained_on_squares()


@pytest.fixture(scope="module")
def clip():
    return square_clip(1, 3, seed=5)


def noise(seed):
    return torch.randn(GRID, generator=torch.Generator().manual_seed(seed))


def report_of(model, clip, relevance, **options):
    return trust_report(model, clip, {"own": relevance}, "square", check_randomised=False, **options)


def test_the_squares_own_cells_are_better_than_chance(model, clip):
    pixel_values, cells = clip
    report = report_of(model, pixel_values, cells.float())
    assert report.verdict == "better than chance"
    assert report.curves.deletion_area < report.curves.random_range[0]
    assert report.curves.difference > 0.8
    assert report.lines()[0].startswith("This map is better than chance at finding what speaks for 'square'")
    assert "do not rely" not in " ".join(report.lines())


def test_the_opposite_map_and_most_random_ones_are_no_better_than_chance(model, clip):
    pixel_values, cells = clip
    opposite = report_of(model, pixel_values, -cells.float())
    assert opposite.verdict == "no better than chance"
    assert "no better than chance" in opposite.lines()[0]
    assert "do not rely on it" in opposite.lines()[0]
    passed = [report_of(model, pixel_values, noise(seed)).curves.better_than_chance for seed in range(20)]
    assert sum(passed) <= 3


def test_a_flat_map_is_no_better_than_chance_whatever_the_seed(model, clip):
    for seed in range(8):
        report = report_of(model, clip[0], torch.full(GRID, 0.2), seed=seed)
        assert report.verdict == "no better than chance"
    assert "gives every cell the same relevance" in report.lines()[0]


def test_a_model_that_ignores_the_clip_leaves_every_map_at_chance(model, clip):
    pixel_values, cells = clip
    blind = with_shuffled_weights(model, "head")
    with torch.no_grad():
        blind.classifier.weight.zero_()
    report = report_of(blind, pixel_values, cells.float())
    assert report.verdict == "no better than chance"
    assert report.curves.difference == pytest.approx(0, abs=1e-6)
    assert any("an empty picture itself speaks for this label" in line for line in report.lines())


def test_curves_are_those_of_cells_removed_one_part_after_another(model, clip):
    pixel_values, _ = clip
    relevance = noise(3)
    curves = deletion_insertion(model, pixel_values, relevance, 1, steps=4)
    order = relevance.flatten().argsort(descending=True)
    mean = pixel_values.mean(dim=(1, 3, 4))[0]
    for step in range(5):
        first = torch.zeros(len(order), dtype=torch.bool)
        first[order[: step * len(order) // 4]] = True
        for removed, got in ((first, curves.deletion[step]), (~first, curves.insertion[step])):
            picture = pixel_values.clone()
            for t, row, column in removed.view(GRID).nonzero().tolist():
                picture[0, t, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = mean[:, None, None]
            expected = model(picture).logits.softmax(dim=-1)[0, 1].item()
            assert got == pytest.approx(expected, abs=1e-5)
    assert curves.fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curves.deletion_area == pytest.approx(np.trapezoid(curves.deletion, curves.fractions))
    assert curves.deletion[0] == curves.insertion[-1]


def test_temperature_divides_the_logits(model, clip):
    curves = deletion_insertion(model, clip[0], noise(0), 1, temperature=4.0)
    expected = (model(clip[0]).logits / 4).softmax(dim=-1)[0, 1].item()
    assert curves.deletion[0] == pytest.approx(expected, abs=1e-5)


def test_the_number_of_forward_passes_is_what_was_announced(model, clip):
    seen = []
    handle = model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    curves = deletion_insertion(model, clip[0], noise(0), 1, steps=5, num_random=6, batch_size=16)
    handle.remove()
    assert sum(seen) == curves.forward_passes == removal_passes(5, 6)
    assert max(seen) <= 16
    assert removal_passes(8, 8) == 170  # the docstring of trust_report says so


def test_the_seed_decides_and_batches_do_not(model, clip):
    first, again, other = (
        report_of(model, clip[0], noise(1), seed=seed, batch_size=size).to_dict()["curves"]
        for seed, size in ((0, 8), (0, 5), (1, 8))
    )
    np.testing.assert_allclose(first["random_areas"], again["random_areas"], atol=1e-5)
    assert np.abs(np.subtract(first["random_areas"], other["random_areas"])).max() > 1e-3


def test_smooth_random_maps_have_the_maps_spectrum_and_no_relation_to_it():
    generator = np.random.default_rng(0)
    values = np.random.default_rng(1).standard_normal((4, 7, 6)).cumsum(axis=0).cumsum(axis=1)
    ranks = normal_ranks(values, generator)
    assert stats.spearmanr(ranks.ravel(), values.ravel()).statistic == pytest.approx(1)
    found = [smooth_surrogate(ranks, generator) for _ in range(60)]
    for each in found:
        np.testing.assert_allclose(np.abs(np.fft.fftn(each)), np.abs(np.fft.fftn(ranks)), atol=1e-6)
    relation = [np.corrcoef(each.ravel(), ranks.ravel())[0, 1] for each in found]
    assert abs(np.mean(relation)) < 0.15


def test_ties_are_put_in_random_order():
    ranks = normal_ranks(np.array([0.0, 0.0, 0.0, 0.0, 5.0]), np.random.default_rng(0))
    assert ranks.argmax() == 4
    assert sorted(ranks) == pytest.approx(sorted(stats.norm.ppf((np.arange(5) + 0.5) / 5)))
    orders = {tuple(normal_ranks(np.zeros(4), np.random.default_rng(seed))) for seed in range(9)}
    assert len(orders) > 4


def test_agreement_is_spearmans_for_every_pair():
    maps = {"a": noise(0)[None], "b": noise(1), "c": noise(0).exp().round(decimals=1)}
    found = agreement(maps)
    assert [(each.first, each.second) for each in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    for each in found:
        expected = stats.spearmanr(maps[each.first].flatten(), maps[each.second].flatten()).statistic
        assert each.correlation == pytest.approx(expected)
    assert rank_correlation(noise(0), -3 * noise(0)) == pytest.approx(-1)
    assert rank_correlation(noise(0), torch.ones(GRID)) is None


def test_rollout_does_not_hang_on_the_head_and_the_report_says_so(model, clip):
    relevance = attribute(model, clip[0], method="rollout")
    report = trust_report(model, clip[0], {"rollout": relevance}, "square")
    head, everything = report.checks
    assert (head.part, head.finding, everything.part) == ("head", "unchanged", "all")
    assert everything.correlation < 0.9
    assert any("it does not tell one class from another" in line for line in report.lines())


def test_a_lone_map_is_compared_with_another_method(model, clip):
    relevance = attribute(model, clip[0], method="gradient_rollout", target=1)
    report = trust_report(model, clip[0], {"gradient_rollout": relevance}, "square", compare_with="rollout")
    (found,) = report.agreements
    assert (found.first, found.second) == ("gradient_rollout", "rollout")
    assert found.correlation == pytest.approx(rank_correlation(relevance, attribute(model, clip[0], method="rollout")))
    assert any("Rank correlation with other methods" in line and "rollout" in line for line in report.lines())
    assert "170 forward passes of this clip and 3 further maps" in report.lines()[-1]


def test_a_map_of_the_pixels_alone_is_unmasked(model, clip):
    def brightness(_, pixel_values, target):
        return torch.nn.functional.avg_pool2d(pixel_values.mean(dim=2), 4)

    relevance = brightness(model, clip[0], 1)
    report = trust_report(model, clip[0], {"brightness": relevance}, "square", map_maker=brightness)
    assert report.verdict == "better than chance"  # it finds the square, though not by the model
    assert [each.correlation for each in report.checks] == pytest.approx([1, 1])
    assert any("it does not show what the model learnt" in line for line in report.lines())


def test_occlusion_changes_with_the_weights(model, clip):
    assert all(check.finding != "unchanged" for check in sanity(model, clip[0], "occlusion", 1))


def test_shuffling_keeps_values_and_the_model_itself(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for part, moved in (("head", {"classifier.weight", "classifier.bias"}), ("all", set(before))):
        shuffled = with_shuffled_weights(model, part, seed=3).state_dict()
        for name, value in shuffled.items():
            torch.testing.assert_close(value.flatten().sort().values, before[name].flatten().sort().values)
            assert name in moved or torch.equal(value, before[name])
        assert not torch.equal(shuffled["classifier.weight"], before["classifier.weight"])
        assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


def test_the_report_is_json_and_plain_sentences(model, clip):
    maps = {method: attribute(model, clip[0], method=method, target=1) for method in ("gradient_rollout", "occlusion")}
    report = trust_report(model, clip[0], {**maps, "flat": torch.zeros(GRID)}, None)
    kept = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert kept["method"] == "gradient_rollout"
    assert kept["target"] == "square"
    assert kept["forward_passes"] == 170
    assert [each["correlation"] is None for each in kept["agreement"]] == [False, True, True]
    lines = report.lines()
    assert all(line.endswith(".") and "\n" not in line for line in lines)
    assert any("occlusion" in line and "flat none, a map is flat" in line for line in lines)
    assert not any(math.isnan(value) for value in kept["curves"]["deletion"])
    assert "170 forward passes of this clip and 2 further maps" in lines[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": {}}, "maps must hold at least one map"),
        ({"maps": {"own": torch.zeros(4, 6, 5)}}, r"shape \(1, 4, 6, 6\), got \(4, 6, 5\)"),
        ({"maps": {"own": torch.full(GRID, torch.nan)}}, "relevance holds NaN or infinite values"),
        ({"pixel_values": torch.zeros(2, 4, 3, 24, 24)}, "one clip, got 2"),
        ({"steps": 1}, "steps must be at least 2, got 1"),
        ({"num_random": 4}, "num_random must be at least 5"),
        ({"fill": "black"}, "fill must be one of"),
        ({"target": "sqaure"}, r"\(empty, square\).*got 'sqaure'"),
    ],
)
def test_what_is_not_allowed_is_one_line(model, clip, change, message):
    given = {"pixel_values": clip[0], "maps": {"own": noise(0)}, "target": 1, "check_randomised": False, **change}
    with pytest.raises(ValueError, match=message) as error:
        trust_report(model, **given)
    assert "\n" not in str(error.value)
