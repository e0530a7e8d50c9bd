"""A head on cached embeddings: what is stored, what is solved, and that the model gives it back."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from railsformer.data.clips import ClipDataset, load_video_dataset
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings
from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification
from railsformer.training.arguments import parse_settings
from railsformer.training.frozen import cached_embeddings, fit_frozen_trunk, fit_head, solve_head

PIXELS = PixelSettings(crop_px=32, short_side_px=32, mean=(0.5,) * 3, std=(0.5,) * 3)
LABELS = ("Bucket-Worker", "Cabin-Worker", "Other", "Track-Excavator")


def _model(seed=0):
    torch.manual_seed(seed)
    names = dict(enumerate(LABELS))
    config = RailsformerConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, num_frames=2,
        frame_interval=15, id2label=names,
    )  # fmt: skip
    return RailsformerForVideoClassification(config).eval()


@pytest.fixture(scope="module")
def dataset(yard_dataset):
    return load_video_dataset(yard_dataset)


@pytest.fixture(scope="module")
def clips(dataset):
    sampling = ClipSampling(num_frames=2, frame_interval=15, nominal_fps=30.0)
    return ClipDataset(dataset.split("train").select(range(5)), sampling=sampling, pixels=PIXELS, num_clips=2)


def _blobs(num_labels=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_labels, size=120)
    centres = rng.normal(size=(num_labels, 16)) * 3
    return (centres[labels] + rng.normal(size=(120, 16))) * rng.uniform(0.1, 9, 16) + 5, labels


@pytest.mark.parametrize("num_labels", [2, 3])
def test_the_head_is_the_standardised_regression(num_labels):
    features, labels = _blobs(num_labels)
    matrix, bias = solve_head(features, labels, np.ones(120), num_labels=num_labels, regularisation=0.1)
    scaler = StandardScaler().fit(features)
    expected = LogisticRegression(C=0.1, max_iter=5000).fit(scaler.transform(features), labels)
    logits = torch.from_numpy(features @ matrix.T + bias)
    np.testing.assert_allclose(
        logits.softmax(-1).numpy(), expected.predict_proba(scaler.transform(features)), atol=1e-4
    )


def test_a_label_without_clips_is_never_predicted():
    features, labels = _blobs()
    matrix, bias = solve_head(features, labels * 2, np.ones(120), num_labels=6, regularisation=1.0)
    assert set((features @ matrix.T + bias).argmax(axis=1)) == {0, 2, 4}


def test_one_label_alone_is_refused():
    with pytest.raises(ValueError, match="at least two labels for a head, got 1"):
        solve_head(np.zeros((3, 2)), np.zeros(3, int), np.ones(3), num_labels=2, regularisation=1.0)


def test_validation_chooses_the_regularisation_and_the_model_holds_the_head():
    features, labels = _blobs(4)
    model = _model()
    fit = fit_head(
        model,
        embeddings=features,
        labels=labels,
        weights=np.ones(120),
        validation_embeddings=features[:40],
        validation_labels=labels[:40],
        label_names=LABELS,
        figure="recall/Other",
    )
    assert fit.tried[fit.regularisation] == max(fit.tried.values()) == fit.validation["recall/Other"]
    with torch.no_grad():
        predicted = model.classifier(torch.from_numpy(features[:40]).float()).argmax(-1).numpy()
    assert (predicted == labels[:40]).mean() == pytest.approx(fit.validation["accuracy"])


@pytest.mark.parametrize(
    ("figure", "best"),
    [("brier", min), ("calibration_error", min), ("average_precision/Other", max), ("top_k/2", max)],
)
def test_figures_of_scores_choose_in_their_own_direction(figure, best):
    features, labels = _blobs(4)
    fit = fit_head(
        _model(),
        embeddings=features[:80],
        labels=labels[:80],
        weights=np.ones(80),
        validation_embeddings=features[80:] + 3,
        validation_labels=labels[80:],
        label_names=LABELS,
        figure=figure,
    )
    assert fit.tried[fit.regularisation] == best(fit.tried.values()) == fit.validation[figure]


def test_embeddings_are_what_the_head_is_shown(clips, tmp_path):
    model = _model()
    embeddings = cached_embeddings(model, clips, folder=tmp_path)
    assert embeddings.shape == (10, 16)
    with torch.no_grad():
        logits = model(clips[3]["pixel_values"][None]).logits
        torch.testing.assert_close(model.classifier(torch.from_numpy(embeddings[3:4])), logits, atol=1e-5, rtol=0)


def test_what_a_killed_run_left_is_taken_over(clips, tmp_path, monkeypatch):
    monkeypatch.setattr("railsformer.training.frozen._CLIPS_OF_A_FILE", 4)
    model = _model()
    whole = cached_embeddings(model, clips, folder=tmp_path)
    files = sorted(tmp_path.glob("*.npy"))
    assert len(files) == 3
    kept = files[0].stat().st_mtime_ns
    files[1].unlink()
    np.testing.assert_array_equal(cached_embeddings(model, clips, folder=tmp_path), whole)
    assert files[0].stat().st_mtime_ns == kept


def test_embeddings_of_another_trunk_are_refused(clips, tmp_path):
    cached_embeddings(_model(), clips, folder=tmp_path)
    with pytest.raises(ValueError, match="holds embeddings of another trunk; take another output_dir"):
        cached_embeddings(_model(seed=1), clips, folder=tmp_path)


def _settings(run_dir, *flags):
    base = ["--from_scratch", "--dataset", "data", "--output_dir", str(run_dir), "--use_cpu", "true"]
    base += ["--trainable", "head", "--cache_embeddings", "true", "--dataloader_num_workers", "0"]
    return parse_settings([*base, "--disable_tqdm", "true", *flags])


@pytest.mark.parametrize("balance", ["none", "sampler", "both"])
def test_a_whole_run_gives_the_figures_of_its_model(dataset, tmp_path, balance):
    model = _model()
    trunk = {name: tensor.clone() for name, tensor in model.timesformer.state_dict().items()}
    settings = _settings(
        tmp_path, "--embedding_views", "2", "--embedding_draws", "1", "--class_balance", balance,
        "--metric_for_best_model", "balanced_accuracy",
    )  # fmt: skip
    fit = fit_frozen_trunk(settings, dataset, model, PIXELS, folder=tmp_path / "embeddings")
    assert all(torch.equal(tensor, trunk[name]) for name, tensor in model.timesformer.state_dict().items())
    assert {path.name for path in (tmp_path / "embeddings").iterdir()} == {"train", "train-augmented", "validation"}
    rows = dataset.split("validation")
    clips = ClipDataset(rows, sampling=ClipSampling.from_config(model.config), pixels=PIXELS)
    with torch.no_grad():
        right = [model(clip["pixel_values"][None]).logits.argmax().item() == clip["labels"] for clip in clips]
    assert fit.validation["accuracy"] == pytest.approx(np.mean(right))


def test_a_figure_of_a_label_that_validation_lacks_is_refused(dataset, tmp_path):
    settings = _settings(tmp_path, "--metric_for_best_model", "f1/Nothing")
    with pytest.raises(
        ValueError, match=r"metric_for_best_model must be of a label that validation holds .*f1/Nothing"
    ):
        fit_frozen_trunk(settings, dataset, _model(), PIXELS, folder=tmp_path / "embeddings")
