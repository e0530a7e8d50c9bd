"""What a frozen trunk knows already: logistic regression on its clip features, the bar that training must clear."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from railsformer.data.clips import ClipDataset, collate_clips
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

__all__ = ["clip_features", "fit_linear_probe", "linear_probe"]


@torch.inference_mode()
def clip_features(
    model: RailsformerForVideoClassification,
    clips: ClipDataset,
    *,
    batch_size: int = 16,
    num_workers: int = 0,
    progress: bool = False,
) -> np.ndarray:
    """CLS of the trunk after its last norm for every clip, shape (num_clips, hidden_size)."""
    model.eval()
    loader: torch.utils.data.DataLoader = torch.utils.data.DataLoader(
        clips, batch_size=batch_size, num_workers=num_workers, collate_fn=collate_clips
    )
    features = [
        model.timesformer(batch["pixel_values"].to(model.device)).last_hidden_state[:, 0].float().cpu()
        for batch in tqdm(loader, desc="clip features", unit="batch", disable=not progress, leave=False)
    ]
    return torch.cat(features).numpy()


def fit_linear_probe(
    features: np.ndarray, labels: Sequence[int] | np.ndarray, *, regularisation: float = 0.1
) -> Pipeline:
    """Fit logistic regression on standardised features, every label of equal weight whatever its share.

    Args:
        features: One row a clip, shape (num_clips, width).
        labels: Class index of each clip.
        regularisation: scikit-learn's C; smaller holds the weights closer to zero.

    Returns:
        A fitted pipeline with `predict` and `predict_proba`.

    Raises:
        ValueError: If rows and labels differ in number, there are fewer than two labels, or a feature is not finite.
    """
    if len(features) != len(labels):
        raise ValueError(f"features and labels must be of equal length, got {len(features)} and {len(labels)}")
    if len(set(np.asarray(labels).tolist())) < 2:
        raise ValueError("a probe needs clips of two labels or more to train on, got clips of one")
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise ValueError(f"features must be finite, row {row} is not; the trunk's weights may have diverged")
    classifier = LogisticRegression(C=regularisation, class_weight="balanced", max_iter=2000, random_state=0)
    return make_pipeline(StandardScaler(), classifier).fit(features, labels)


def linear_probe(
    model: RailsformerForVideoClassification,
    *,
    training: ClipDataset,
    test: ClipDataset,
    num_workers: int = 0,
    progress: bool = False,
) -> np.ndarray:
    """Fit balanced logistic regression on the training clips' features and predict the test clips.

    Args:
        model: Its trunk is used as it is.
        training: Clips to fit on, one a video, without augmentation.
        test: Clips to predict.
        num_workers: Processes that decode.
        progress: Show a bar.

    Returns:
        Predicted class indices, shape (num_test_clips,).
    """
    features = [clip_features(model, clips, num_workers=num_workers, progress=progress) for clips in (training, test)]
    return fit_linear_probe(features[0], training.labels).predict(features[1])
