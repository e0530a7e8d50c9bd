"""The linear probe: logistic regression on the features of a frozen trunk."""

import numpy as np
import pytest

from railsformer.data.clips import ClipDataset, load_video_dataset
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings
from railsformer.evaluation.linear_probe import clip_features, fit_linear_probe, linear_probe
from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification


def _overlapping(counts, *, seed=0):
    """Clouds of points one apart, so many of each label, in two columns of very different scale."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    points = rng.normal(size=(len(labels), 2)) + labels[:, None]
    return points * [1.0, 1000.0], labels


def test_a_rare_label_weighs_as_much_as_a_common_one():
    points, labels = _overlapping((400, 20))
    test_points, test_labels = _overlapping((500, 500), seed=1)
    predictions = fit_linear_probe(points, labels).predict(test_points)
    recalls = [(predictions[test_labels == label] == label).mean() for label in (0, 1)]
    assert min(recalls) > 0.6
    assert abs(recalls[0] - recalls[1]) < 0.2


def test_the_scale_of_a_column_does_not_matter():
    points, labels = _overlapping((60, 40))
    scaled = fit_linear_probe(points * [1e4, 1e-4], labels).predict(points * [1e4, 1e-4])
    assert (scaled == fit_linear_probe(points, labels).predict(points)).all()


def test_a_smaller_c_holds_the_weights_closer_to_zero():
    points, labels = _overlapping((60, 40))
    norms = [
        np.linalg.norm(fit_linear_probe(points, labels, regularisation=value)[-1].coef_) for value in (1e-3, 0.1, 10)
    ]
    assert norms[0] < norms[1] < norms[2]


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        ([[1.0], [2.0]], [0], "features and labels must be of equal length, got 2 and 1"),
        ([[1.0], [2.0]], [1, 1], "a probe needs clips of two labels or more to train on, got clips of one"),
        ([[1.0], [np.nan]], [0, 1], "features must be finite, row 1 is not"),
    ],
)
def test_what_no_probe_can_be_fitted_on_is_refused(rows, labels, message):
    with pytest.raises(ValueError, match=message):
        fit_linear_probe(np.array(rows), labels)


def test_a_probe_of_a_trunk_predicts_every_test_clip(yard_dataset):
    config = RailsformerConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, num_frames=2
    )
    model = RailsformerForVideoClassification(config)
    dataset = load_video_dataset(yard_dataset)
    clips = {
        split: ClipDataset(
            dataset.split(split), sampling=ClipSampling(num_frames=2, frame_interval=30), pixels=PixelSettings(32, 32)
        )
        for split in ("train", "test")
    }
    features = clip_features(model, clips["train"], batch_size=4)
    assert features.shape == (21, 32)
    assert np.allclose(features, clip_features(model, clips["train"], batch_size=21), atol=1e-5)
    predictions = linear_probe(model, training=clips["train"], test=clips["test"])
    assert predictions.shape == (14,)
    assert set(predictions) <= {0, 1, 2, 3}
