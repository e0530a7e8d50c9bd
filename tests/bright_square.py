"""A small trained model whose reason is known: class 'square' is a bright square on a clip of one dull colour."""

import torch

from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

FRAMES, CELLS, PATCH = 4, 6, 4
SQUARE = 2  # cells along a side


def square_clip(row, column, *, seed=0):
    """A clip (1, T, 3, height, width) whose square fills cells from (row, column), and those cells (T, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    clip = torch.randn(1, FRAMES, 3, CELLS * PATCH, CELLS * PATCH, generator=generator) * 0.05
    cells = torch.zeros(FRAMES, CELLS, CELLS, dtype=torch.bool)
    cells[:, row : row + SQUARE, column : column + SQUARE] = True
    pixels = cells.repeat_interleave(PATCH, dim=1).repeat_interleave(PATCH, dim=2)
    return clip + 2 * pixels[None, :, None], cells


def trained_on_squares(attention_type="divided_space_time", steps=120):
    """Labels: 0 'empty', 1 'square'; the squares stand anywhere on the grid."""
    torch.manual_seed(0)
    config = RailsformerConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        patch_size=PATCH,
        image_size=CELLS * PATCH,
        num_frames=FRAMES,
        attention_type=attention_type,
        num_labels=2,
        id2label={0: "empty", 1: "square"},
        label2id={"empty": 0, "square": 1},
    )
    model = RailsformerForVideoClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        corners = torch.randint(0, CELLS - SQUARE + 1, (8, 2)).tolist()
        clips = torch.cat([square_clip(*corner, seed=8 * step + index)[0] for index, corner in enumerate(corners)])
        labels = torch.tensor([0, 1] * 4)
        # Empty clips are of one colour, as is a clip from which everything was removed.
        clips[labels == 0] = torch.randn(4, *clips.shape[1:]) * 0.05 * torch.tensor([1, 1, 0, 0]).view(-1, 1, 1, 1, 1)
        clips += torch.rand(8, 1, 1, 1, 1) * 0.6
        optimizer.zero_grad()
        model(clips, labels=labels).loss.backward()
        optimizer.step()
    return model.eval()
