"""The training loss: against torch's own, and exact however a batch is cut."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from railsformer.data.clips import LOST_LABEL
from railsformer.training.arguments import parse_settings
from railsformer.training.losses import ClipLoss, effective_number_weights
from railsformer.training.start import choose_loss

LABELS = [0] * 90 + [1] * 9 + [2]


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 3, generator=generator, requires_grad=True)
    return logits, torch.randint(3, (12,), generator=generator)


def test_effective_numbers_agree_with_the_papers_formula():
    weights = effective_number_weights(LABELS, num_labels=3, beta=0.9)
    raw = np.array([(1 - 0.9) / (1 - 0.9**n) for n in (90, 9, 1)])
    np.testing.assert_allclose(weights / weights[0], raw / raw[0])
    assert weights[LABELS].mean() == pytest.approx(1)


def test_beta_goes_from_equal_weights_to_one_over_the_count():
    assert effective_number_weights(LABELS, num_labels=3, beta=0).tolist() == [1, 1, 1]
    weights = effective_number_weights(LABELS, num_labels=3, beta=1 - 1e-12)
    np.testing.assert_allclose(weights * [90, 9, 1], weights[2], rtol=1e-6)


def test_a_class_without_training_clips_weighs_nothing():
    assert effective_number_weights([0, 0, 2], num_labels=4)[[1, 3]].tolist() == [0, 0]


def test_with_even_draws_the_weights_are_one_on_average_over_what_is_drawn():
    weights = effective_number_weights(LABELS, num_labels=3, drawn_evenly=True)
    assert weights.mean() == pytest.approx(1)


@pytest.mark.parametrize("beta", [-0.1, 1.0, float("nan")])
def test_a_beta_out_of_range_is_refused(beta):
    with pytest.raises(ValueError, match="effective_number_beta must be at least 0 and below 1, got"):
        effective_number_weights(LABELS, num_labels=3, beta=beta)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_weights_it_is_cross_entropy(batch, smoothing):
    logits, labels = batch
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(ClipLoss(label_smoothing=smoothing)(logits, labels), expected)


def test_weights_multiply_each_clips_loss_and_are_not_divided_out(batch):
    logits, labels = batch
    weights = (0.5, 1.0, 3.0)
    each = F.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1)
    expected = (each * torch.tensor(weights)[labels]).mean()
    torch.testing.assert_close(ClipLoss(weights, label_smoothing=0.1)(logits, labels), expected)


def test_focal_loss_is_the_papers(batch):
    logits, labels = batch
    chance = logits.softmax(-1)[torch.arange(12), labels]
    expected = (-((1 - chance) ** 2) * chance.log()).mean()
    torch.testing.assert_close(ClipLoss(focal_gamma=2.0)(logits, labels), expected)


def test_focal_loss_has_a_slope_where_all_is_right():
    logits = torch.tensor([[80.0, 0.0, 0.0]], requires_grad=True)
    ClipLoss(focal_gamma=0.5)(logits, torch.tensor([0])).backward()
    assert torch.isfinite(logits.grad).all()


def test_a_mixed_clips_loss_lies_between_those_of_its_labels(batch):
    logits, labels = batch
    loss, partners = ClipLoss((0.5, 1.0, 3.0), label_smoothing=0.1), labels.flip(0)
    mix = torch.full((12,), 0.3)
    expected = 0.3 * loss(logits, labels) + 0.7 * loss(logits, partners)
    torch.testing.assert_close(loss(logits, labels, partner_labels=partners, mix=mix), expected)


def test_the_mean_of_parts_is_the_loss_of_the_whole_batch(batch):
    logits, labels = batch
    loss = ClipLoss((0.5, 1.0, 3.0), focal_gamma=1.5, label_smoothing=0.1)
    parts = [loss(some, own) for some, own in zip(logits.split(3), labels.split(3), strict=True)]
    torch.testing.assert_close(torch.stack(parts).mean(), loss(logits, labels))


def test_shares_of_a_step_add_up_to_the_mean_of_what_could_be_read(batch):
    logits, labels = batch
    loss = ClipLoss((0.5, 1.0, 3.0), label_smoothing=0.1)
    whole = loss(logits[2:10], labels[2:10])
    lost = torch.cat((torch.full((2,), LOST_LABEL), labels[2:10], torch.full((2,), LOST_LABEL)))
    shares = [loss(some, own, num_clips=8) for some, own in zip(logits.split(2), lost.split(2), strict=True)]
    torch.testing.assert_close(sum(shares), whole)
    assert shares[0] == shares[-1] == 0


def test_half_precision_logits_lose_nothing_in_the_loss(batch):
    logits, labels = batch
    half = logits.detach().bfloat16()
    torch.testing.assert_close(ClipLoss()(half, labels), F.cross_entropy(half.float(), labels))


@pytest.mark.parametrize(
    ("balance", "weighted"), [("none", False), ("sampler", False), ("loss", True), ("both", True)]
)
def test_a_recipe_chooses_the_loss(tmp_path, balance, weighted):
    flags = ["--from_scratch", "--dataset", "data", "--output_dir", str(tmp_path), "--class_balance", balance]
    settings = parse_settings([*flags, "--focal_gamma", "2", "--label_smoothing_factor", "0.1"])
    loss = choose_loss(settings.data, settings.run, labels=LABELS, num_labels=3)
    assert (loss.focal_gamma, loss.label_smoothing) == (2.0, 0.1)
    assert (loss.class_weights is not None) == weighted
    if weighted:
        assert loss.class_weights[2] > loss.class_weights[1] > loss.class_weights[0] > 0
