"""What a frozen trunk knows already: logistic regression on its clip features, the bar that training must clear."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from railsformer.data.clips import ClipDataset, collate_clips
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

__all__ = ["clip_features", "linear_probe"]


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
    classifier = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000, random_state=0),
    )
    features = [clip_features(model, clips, num_workers=num_workers, progress=progress) for clips in (training, test)]
    return classifier.fit(features[0], training.labels).predict(features[1])
