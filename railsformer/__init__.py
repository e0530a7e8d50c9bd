"""Fine-tune TimeSformer to recognise dangerous situations in railway yards, and say how far it can be trusted."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from railsformer.data.analysis.report import analyze_dataset
    from railsformer.data.builder import build_dataset
    from railsformer.data.clips import load_video_dataset
    from railsformer.data.toy_yard import render_toy_yard
    from railsformer.data.video import read_frames
    from railsformer.evaluation.metrics import VideoClassificationMetrics
    from railsformer.evaluation.report import evaluate_model
    from railsformer.evaluation.score_metrics import VideoScoreMetrics
    from railsformer.inference.predictor import Predictor
    from railsformer.model.configuration_railsformer import RailsformerConfig
    from railsformer.model.modeling_railsformer import RailsformerForVideoClassification, RailsformerModel

__all__ = [
    "Predictor",
    "RailsformerConfig",
    "RailsformerForVideoClassification",
    "RailsformerModel",
    "VideoClassificationMetrics",
    "VideoScoreMetrics",
    "analyze_dataset",
    "build_dataset",
    "evaluate_model",
    "load_video_dataset",
    "read_frames",
    "render_toy_yard",
]

# Imported when first asked for, so that `railsformer --help` does not wait for torch.
_HOMES = {
    "Predictor": "railsformer.inference.predictor",
    "RailsformerConfig": "railsformer.model.configuration_railsformer",
    "RailsformerForVideoClassification": "railsformer.model.modeling_railsformer",
    "RailsformerModel": "railsformer.model.modeling_railsformer",
    "VideoClassificationMetrics": "railsformer.evaluation.metrics",
    "VideoScoreMetrics": "railsformer.evaluation.score_metrics",
    "analyze_dataset": "railsformer.data.analysis.report",
    "build_dataset": "railsformer.data.builder",
    "evaluate_model": "railsformer.evaluation.report",
    "load_video_dataset": "railsformer.data.clips",
    "read_frames": "railsformer.data.video",
    "render_toy_yard": "railsformer.data.toy_yard",
}


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'railsformer' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
