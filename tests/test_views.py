import datasets
import numpy as np
import pytest
import torch
from moving_scenes import write_scene
from torch.utils.data import Dataset

from railsformer.data.clips import ClipDataset
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings
from railsformer.evaluation.views import VideoScores, score_videos
from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification


class _Clips(Dataset):
    """Random clips in the shape of a ClipDataset: `num_clips` of each of five videos, `num_crops` views each."""

    def __init__(self, num_clips=1, num_crops=1):
        self.num_clips, self.num_crops = num_clips, num_crops
        self.rows = range(5)
        self.pixels = PixelSettings(32, 32)
        self.labels = [0, 2, 1, 2, 0]
        shape = (5 * num_clips, 2, 3, 32, 32) if num_crops == 1 else (5 * num_clips, num_crops, 2, 3, 32, 32)
        self.pixel_values = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.pixel_values)

    def __getitem__(self, index):
        return {"pixel_values": self.pixel_values[index], "labels": self.labels[index // self.num_clips]}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = RailsformerConfig(
        image_size=32,
        patch_size=16,
        num_frames=2,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=3,
        hidden_dropout_prob=0.5,
        initializer_range=0.5,
    )
    return RailsformerForVideoClassification(config)


@pytest.mark.parametrize("num_clips", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 100])  # 4 cuts between the clips of a video
def test_a_video_has_the_mean_of_its_views_scores(model, num_clips, batch_size):
    clips = _Clips(num_clips)
    model.train()  # dropout must be off while scoring, and on again afterwards
    scores = score_videos(model, clips, batch_size=batch_size)
    assert model.training
    model.eval()
    with torch.inference_mode():
        softmax = model(pixel_values=clips.pixel_values).logits.softmax(dim=-1)
    expected = torch.stack(
        [softmax[start : start + num_clips].mean(dim=0) for start in range(0, len(clips), num_clips)]
    )
    np.testing.assert_allclose(scores.probabilities, expected.numpy(), atol=1e-6)
    np.testing.assert_allclose(scores.probabilities.sum(axis=1), 1.0, atol=1e-6)
    assert scores.predictions.tolist() == expected.argmax(dim=1).tolist()
    assert scores.references.tolist() == [0, 2, 1, 2, 0]


def _expected(model, clips, average):
    """One video at a time, one view at a time."""
    rows = []
    with torch.inference_mode():
        for video in clips.pixel_values.reshape(5, -1, 2, 3, 32, 32):
            logits = torch.cat([model(pixel_values=view[None]).logits for view in video])
            mean = logits.softmax(-1).mean(0) if average == "probabilities" else logits.mean(0).softmax(-1)
            rows.append(mean.numpy())
    return np.stack(rows)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("num_clips", [1, 2])
@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (2, 0), (7, 0), (100, 0), (4, 2)])
def test_views_are_clips_times_crops(model, average, num_clips, batch_size, num_workers):
    model.eval()
    clips = _Clips(num_clips, num_crops=3)
    scores = score_videos(model, clips, batch_size=batch_size, num_workers=num_workers, average=average)
    np.testing.assert_allclose(scores.probabilities, _expected(model, clips, average), atol=1e-6)


def test_the_two_averages_differ(model):
    clips = _Clips(3, num_crops=3)
    one, other = (score_videos(model, clips, average=average) for average in ("probabilities", "logits"))
    assert np.abs(one.probabilities - other.probabilities).max() > 1e-4


def test_no_forward_pass_takes_more_views_than_the_batch_size(model):
    sizes = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    try:
        for batch_size in (1, 2, 4, 6, 8):
            sizes.clear()
            score_videos(model, _Clips(2, num_crops=3), batch_size=batch_size)
            assert max(sizes) <= batch_size
            assert sum(sizes) == 30
    finally:
        hook.remove()


def test_an_unknown_average_is_refused(model):
    with pytest.raises(ValueError, match="average must be one of probabilities, logits, got 'max'"):
        score_videos(model, _Clips(), average="max")


def test_softmax_then_mean_not_mean_then_softmax():
    scores = VideoScores(np.array([[0.2, 0.5, 0.3], [0.4, 0.3, 0.3]]), np.array([1, 1]))
    assert scores.predictions.tolist() == [1, 0]


def test_a_half_precision_model_scores_too(model):
    clips = _Clips()
    expected = score_videos(model, clips).probabilities
    half = RailsformerForVideoClassification(model.config).to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    np.testing.assert_allclose(score_videos(half, clips).probabilities, expected, atol=0.05)


def test_an_error_leaves_the_model_as_it_was(model):
    class Broken(_Clips):
        def __getitem__(self, index):
            raise ValueError("a.mp4: broken")

    model.train()
    with pytest.raises(ValueError, match="broken"):
        score_videos(model, Broken())
    assert model.training


def _real_clips(folder, levels_of_videos, **options):
    """Clips of two frames that follow each other; each video shows grey pictures of these levels by turns."""
    rows = []
    for number, levels in enumerate(levels_of_videos):
        pictures = np.stack([np.full((48, 64, 3), levels[frame % len(levels)], np.uint8) for frame in range(12)])
        rows.append(
            {"video": {"path": str(write_scene(folder / f"{number}.mp4", pictures)), "bytes": None}, "label": 0}
        )
    return ClipDataset(
        datasets.Dataset.from_list(rows), sampling=ClipSampling(2, 1, 8.0), pixels=PixelSettings(32, 32), **options
    )


@pytest.mark.parametrize("num_crops", [1, 3])
def test_light_and_motion_are_measured_in_grey_levels(model, tmp_path, num_crops):
    clips = _real_clips(tmp_path, [[40], [200], [50, 150]], num_clips=2, num_crops=num_crops)
    scores = score_videos(model, clips)
    np.testing.assert_allclose(scores.light, [40, 200, 100], atol=3)
    np.testing.assert_allclose(scores.motion, [0, 0, 100], atol=3)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_video_that_cannot_be_read_has_no_score_and_a_reason(model, tmp_path, num_workers):
    clips = _real_clips(tmp_path, [[40], [80], [120], [160]], num_clips=2)
    expected = score_videos(model, clips).probabilities
    (tmp_path / "1.mp4").write_bytes(b"overwritten")
    (tmp_path / "3.mp4").unlink()
    scores = score_videos(model, clips, batch_size=1, num_workers=num_workers)
    assert scores.is_read.tolist() == [True, False, True, False]
    assert [(one.video_index, one.reason_class) for one in scores.unread] == [(1, "unreadable"), (3, "missing")]
    assert scores.unread[0].file == str(tmp_path / "1.mp4")
    assert scores.predictions.tolist() == [int(expected[0].argmax()), -1, int(expected[2].argmax()), -1]
    np.testing.assert_allclose(scores.probabilities[[0, 2]], expected[[0, 2]], atol=1e-6)
    assert np.isnan(scores.probabilities[[1, 3]]).all()
    assert np.isnan(scores.light).tolist() == [False, True, False, True]


def test_no_video_at_all_is_no_score_at_all(model, tmp_path):
    clips = _real_clips(tmp_path, [[40], [80]])
    for path in tmp_path.glob("*.mp4"):
        path.unlink()
    scores = score_videos(model, clips)
    assert scores.probabilities.shape == (2, 3)
    assert not scores.is_read.any()


def test_scores_that_are_no_numbers_are_refused(model):
    broken = RailsformerForVideoClassification(model.config)
    with torch.no_grad():
        broken.classifier.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="scores are not numbers"):
        score_videos(broken, _Clips())
