"""A run folder of a tiny random model, as training leaves it: enough to score with."""

from pathlib import Path
from typing import Any

import torch

from railsformer.data.transforms import PixelSettings
from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification


def write_tiny_run(folder: Path, *, labels: tuple[str, ...] = ("fall", "idle", "intrusion"), **config: Any) -> Path:
    """Save a random model of 2 frames of 32 px with its preprocessor.

    Args:
        folder: Where to.
        labels: Its classes.
        **config: Keys of the config that differ.

    Returns:
        The folder.
    """
    keys = {
        "image_size": 32,
        "patch_size": 16,
        "num_frames": 2,
        "frame_interval": 15,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "initializer_range": 0.5,
        "id2label": dict(enumerate(labels)),
        "label2id": {name: index for index, name in enumerate(labels)},
    }
    state = torch.get_rng_state()
    torch.manual_seed(0)
    model = RailsformerForVideoClassification(RailsformerConfig(**{**keys, **config}))
    torch.set_rng_state(state)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    PixelSettings(32, 36).save_pretrained(folder)
    return folder
