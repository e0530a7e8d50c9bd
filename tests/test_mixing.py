"""Mixed clips and repeated draws: the same wherever and however training runs."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import set_seed

from railsformer.data.clips import LOST_LABEL, ClipDataset, collate_clips, load_video_dataset
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings, TrainingAugmentation
from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification
from railsformer.training.arguments import RunArguments
from railsformer.training.hf_trainer import RailsformerTrainer
from railsformer.training.losses import ClipLoss
from railsformer.training.mixing import MixedClips, collate_mixed_clips
from railsformer.training.samplers import EpochSampler, even_chances

PIXELS = PixelSettings(crop_px=32, short_side_px=32, mean=(0.5,) * 3, std=(0.5,) * 3)
SAMPLING = ClipSampling(num_frames=2, frame_interval=15, nominal_fps=30.0)


@pytest.fixture(scope="module")
def rows(yard_dataset):
    return load_video_dataset(yard_dataset).split("train")


def _clips(rows, seed=0):
    augmentation = TrainingAugmentation(min_short_side_px=32, max_short_side_px=40, flip=True)
    return ClipDataset(rows, sampling=SAMPLING, pixels=PIXELS, augmentation=augmentation, seed=seed)


def test_a_mixed_clip_is_the_share_of_both(rows):
    clips = _clips(rows)
    mixed = MixedClips(clips, alpha=0.4)
    other, share = mixed.partner(3)
    got = mixed[3]
    expected = share * clips[3]["pixel_values"] + (1 - share) * clips[other]["pixel_values"]
    torch.testing.assert_close(got["pixel_values"], expected, atol=1e-5, rtol=0)
    assert (got["labels"], got["partner_labels"], got["mix"]) == (
        clips.labels[3],
        clips.labels[other % len(clips)],
        share,
    )


def test_partners_follow_from_seed_epoch_and_index_alone(rows):
    first, again, other_seed = (
        MixedClips(_clips(rows), alpha=1),
        MixedClips(_clips(rows), alpha=1),
        _clips(rows, seed=1),
    )
    drawn = [first.partner(index) for index in range(30)]
    assert drawn == [again.partner(index) for index in reversed(range(30))][::-1]
    assert drawn != [MixedClips(other_seed, alpha=1).partner(index) for index in range(30)]
    first.set_epoch(1)
    assert drawn != [first.partner(index) for index in range(30)]
    assert len({other % len(first) for other, _ in drawn}) > 5


def test_a_further_draw_of_a_clip_has_a_partner_of_its_own(rows):
    mixed = MixedClips(_clips(rows), alpha=1)
    assert mixed.partner(0) != mixed.partner(len(mixed))


def test_alpha_says_how_evenly_clips_are_mixed(rows):
    shares = {
        alpha: np.array([MixedClips(_clips(rows), alpha=alpha).partner(index)[1] for index in range(300)])
        for alpha in (0.1, 8.0)
    }
    assert np.abs(shares[0.1] - 0.5).mean() > 0.4
    assert np.abs(shares[8.0] - 0.5).mean() < 0.15


def test_partners_are_drawn_by_their_chances(rows):
    clips = _clips(rows)
    rare = clips.labels.index(max(set(clips.labels), key=lambda label: -clips.labels.count(label)))
    chances = np.eye(len(clips))[rare]
    mixed = MixedClips(clips, alpha=1, partner_chances=chances)
    assert {mixed.partner(index)[0] % len(clips) for index in range(20)} == {rare}


def test_a_batch_holds_partner_and_share(rows):
    mixed = MixedClips(_clips(rows), alpha=1)
    batch = collate_mixed_clips([mixed[0], mixed[1]])
    assert batch["pixel_values"].shape == (2, 2, 3, 32, 32)
    assert batch["mix"].tolist() == pytest.approx([mixed.partner(0)[1], mixed.partner(1)[1]])
    assert batch["partner_labels"].dtype == torch.long


def test_a_clip_is_lost_with_its_partner(rows, tmp_path):
    clips = ClipDataset(
        rows, sampling=SAMPLING, pixels=PIXELS, augmentation=_clips(rows).augmentation, seed=0, keep_lost=True
    )
    mixed = MixedClips(clips, alpha=1, partner_chances=np.eye(len(clips))[4])
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    table = [{**row, "video": {"path": str(broken), "bytes": None}} if n == 4 else row for n, row in enumerate(rows)]
    clips.rows = table
    batch = collate_mixed_clips([mixed[0], mixed[1]])
    assert batch["labels"].tolist() == [LOST_LABEL] * 2
    assert [clip.file for clip in batch["lost"]] == [str(broken)] * 2
    assert (
        ClipLoss()(torch.zeros(2, 4), batch["labels"], partner_labels=batch["partner_labels"], mix=batch["mix"]) == 0
    )


def test_evaluation_clips_are_not_mixed(rows):
    with pytest.raises(ValueError, match="only training clips are mixed"):
        MixedClips(ClipDataset(rows, sampling=SAMPLING, pixels=PIXELS), alpha=1)
    with pytest.raises(ValueError, match="mixup_alpha must be above 0 to mix clips, got 0"):
        MixedClips(_clips(rows), alpha=0)


def _steps(rows, run_dir, *, batch_size, accumulate):
    """Training losses and the last weights of a run with everything that touches the loss."""
    set_seed(0)
    config = RailsformerConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, num_frames=2,
        num_labels=4,
    )  # fmt: skip
    model = RailsformerForVideoClassification(config)
    run = RunArguments(
        output_dir=str(run_dir), use_cpu=True, per_device_train_batch_size=batch_size, save_strategy="no",
        gradient_accumulation_steps=accumulate, max_steps=4, logging_steps=1, eval_strategy="no", disable_tqdm=True,
        load_best_model_at_end=False, dataloader_num_workers=0, learning_rate=1e-2, layer_decay=0.7,
    )  # fmt: skip
    clips = MixedClips(_clips(rows), alpha=0.4)
    trainer = RailsformerTrainer(model=model, args=run, train_dataset=clips, data_collator=collate_mixed_clips)
    trainer.train_sampler = EpochSampler(
        clips, groups=[""] * len(clips), seed=0, balance=True, batch_size=batch_size * accumulate, repeats=2
    )
    trainer.clip_loss = ClipLoss((0.2, 1.0, 1.5, 3.0), focal_gamma=1.0, label_smoothing=0.1)
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    return losses, model


def test_accumulation_changes_neither_loss_nor_weights(rows, tmp_path):
    losses, model = _steps(rows, tmp_path / "a", batch_size=4, accumulate=1)
    again, accumulated = _steps(rows, tmp_path / "b", batch_size=1, accumulate=4)
    assert len(losses) == 4
    assert again == pytest.approx(losses, abs=1e-5)
    for one, two in zip(model.parameters(), accumulated.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=0)


def test_evaluation_has_the_plain_loss(rows, tmp_path):
    _, model = _steps(rows, tmp_path / "a", batch_size=4, accumulate=1)
    run = RunArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True, dataloader_num_workers=0,
        load_best_model_at_end=False, label_smoothing_factor=0.2,
    )  # fmt: skip
    clips = ClipDataset(rows.select(range(4)), sampling=SAMPLING, pixels=PIXELS)
    trainer = RailsformerTrainer(model=model, args=run, eval_dataset=clips, data_collator=collate_clips)
    trainer.clip_loss = ClipLoss((0.2, 1.0, 1.5, 3.0), focal_gamma=1.0)
    batch = collate_clips(list(clips))
    expected = torch.nn.functional.cross_entropy(model.eval()(batch["pixel_values"]).logits, batch["labels"])
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.item(), abs=1e-5)


def _fake(num_clips):
    clips = SimpleNamespace(labels=[0] * num_clips, epoch=0)
    return type("Clips", (), {"__len__": lambda self: num_clips, **vars(clips)})()


def test_repeated_draws_follow_each_other_within_a_step():
    sampler = EpochSampler(_fake(5), groups=[""] * 5, seed=0, balance=False, batch_size=6, repeats=3)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == 18
    triples = np.array(drawn).reshape(-1, 3)
    assert (triples % 5 == triples[:, :1] % 5).all()
    assert sorted(set((triples[:, 0] % 5).tolist())) == [0, 1, 2, 3, 4]
    assert len(set(drawn)) == 18  # each is a draw of its own


def test_one_draw_is_the_order_as_it_was():
    one = EpochSampler(_fake(5), groups=[""] * 5, seed=0, balance=False, batch_size=4)
    assert sorted(list(one)[:5]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("repeats", [0, 4])
def test_draws_that_a_step_cannot_hold_are_refused(repeats):
    with pytest.raises(ValueError, match=r"repeated_augmentation must divide the 6 clips of an optimizer step.*got"):
        EpochSampler(_fake(5), groups=[""] * 5, seed=0, balance=False, batch_size=6, repeats=repeats)


def test_even_chances_share_labels_and_groups():
    chances = even_chances([0, 0, 0, 1], ["a", "a", "b", "a"])
    assert chances.tolist() == pytest.approx([0.125, 0.125, 0.25, 0.5])
