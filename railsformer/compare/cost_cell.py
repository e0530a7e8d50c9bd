"""Measures one TimeSformer in a process of its own; `railsformer.compare.cost` runs it, see `peer_cost.serve`."""

from typing import Any

import torch

from railsformer.compare.peer_cost import measure_passes, serve
from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

__all__ = ["main"]


def main() -> None:
    """Measure what stdin asks for: `config` of the model, `mode`, `repeats`, and the limits of `serve`."""
    serve(_measure)


def _measure(request: dict[str, Any]) -> dict[str, Any]:
    def build() -> tuple[torch.nn.Module, tuple[torch.Tensor]]:
        config = RailsformerConfig(**request["config"])
        height, width = config.image_height_width
        model = RailsformerForVideoClassification(config)
        return model, (torch.randn(1, config.num_frames, config.num_channels, height, width),)

    return measure_passes(build, request)


if __name__ == "__main__":
    main()
