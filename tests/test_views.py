import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from railsformer.evaluation.views import VideoScores, score_videos
from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification


class _Clips(Dataset):
    """Random clips in the shape of a ClipDataset: `num_clips` of each of five videos."""

    def __init__(self, num_clips=1):
        self.num_clips = num_clips
        self.rows = range(5)
        self.labels = [0, 2, 1, 2, 0]
        self.pixel_values = torch.randn(5 * num_clips, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

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
