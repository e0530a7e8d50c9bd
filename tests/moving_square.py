"""A bright square in a dull scene that stands, swings to and fro, and stands again; and a tiny model that learns it.

Which way the square sets off (or, for space_only, which colour it takes while it moves) is the label. It stands in the
middle, to where it comes back, so that neither the standing pictures nor any single one tell the direction. What has a
colour is grey while it stands.
"""

from typing import NamedTuple

import torch

from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

FRAMES, HEIGHT, WIDTH, PATCH, SIDE = 8, 6, 8, 2, 2  # height, width and side in patches
OFFSETS = torch.tensor([0, 1, 2, 0, -2, -1, 0])  # patches from the middle, from one frame to the next
COLOURS = torch.tensor([(2.0, -2.0, -2.0), (-2.0, 2.0, -2.0), (0.5, 0.5, 0.5)])  # by label, while it moves
WHITE, GREY = torch.full((3,), 2.0), torch.full((3,), 0.5)


class Clips(NamedTuple):
    """Clips and what is true of them."""

    pixel_values: torch.Tensor  # (B, T, C, height, width)
    labels: torch.Tensor  # (B,)
    square: torch.Tensor  # (B, T, h, w), where the square is
    path: torch.Tensor  # (B, T, h, w), where it comes by at any time, in every frame
    moving: torch.Tensor  # (B, T), frames in which it is on its way


def draw_clips(number: int, attention_type: str, seed: torch.Generator, *, hazards_only: bool = False) -> Clips:
    """Draw clips; with `hazards_only` none that stand still or stay grey."""
    labels = torch.randint(0, 2 if hazards_only else 3, (number,), generator=seed)
    by_colour = attention_type == "space_only"
    sides = torch.randint(0, 2, (number,), generator=seed) * 2 - 1
    if not by_colour:
        sides = torch.tensor([1, -1, 0])[labels]
    begins = torch.randint(1, 3, (number, 1), generator=seed)  # the first frame on its way
    tops = torch.randint(0, HEIGHT - SIDE + 1, (number, 1), generator=seed)
    phase = (torch.arange(FRAMES) - begins + 1).clamp(0, 6)
    moving = (phase > 0) & (phase < 6)
    lefts = (WIDTH - SIDE) // 2 + sides[:, None] * OFFSETS[phase]
    columns, rows = torch.arange(WIDTH), torch.arange(HEIGHT)
    in_columns = (columns >= lefts[..., None]) & (columns < lefts[..., None] + SIDE)
    in_rows = (rows >= tops) & (rows < tops + SIDE)
    square = in_rows[:, None, :, None] & in_columns[:, :, None, :]
    colours = WHITE.expand(number, FRAMES, 3)
    if by_colour:
        colours = torch.where(moving[..., None], COLOURS[labels][:, None], GREY)
    light = 0.2 * torch.randn(number, 1, 3, 1, 1, generator=seed)
    scene = light + 0.05 * torch.randn(number, 1, 3, HEIGHT, WIDTH, generator=seed)
    picture = scene + square[:, :, None] * colours[..., None, None]
    picture = picture.repeat_interleave(PATCH, -1).repeat_interleave(PATCH, -2)
    noise = 0.05 * torch.randn(picture.shape, generator=seed)
    return Clips(picture + noise, labels, square, square.any(dim=1, keepdim=True).expand_as(square), moving)


def fresh_model(attention_type: str) -> RailsformerForVideoClassification:
    """A tiny model whose tables begin with coordinates, so that a few hundred steps are enough."""
    torch.manual_seed(0)
    config = RailsformerConfig(
        attention_type=attention_type,
        num_frames=FRAMES,
        image_size=[HEIGHT * PATCH, WIDTH * PATCH],
        patch_size=PATCH,
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=2,
        num_hidden_layers=2,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.1,
    )
    model = RailsformerForVideoClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2 and not parameter.any():
                torch.nn.init.xavier_uniform_(parameter)  # extra dense layers: no step is silent
        embeddings = model.timesformer.embeddings
        embeddings.position_embeddings[0, 1:] += torch.randn(config.hidden_size)  # or the norms blow up dull patches
        embeddings.position_embeddings[0, 1:, 0] += torch.linspace(-2, 2, WIDTH).repeat(HEIGHT)
        embeddings.position_embeddings[0, 1:, 1] += torch.linspace(-2, 2, HEIGHT).repeat_interleave(WIDTH)
        if attention_type != "space_only":
            embeddings.time_embeddings[0, :, 2] = torch.linspace(-2, 2, FRAMES)
    return model


def trained_model(attention_type: str, steps: int) -> RailsformerForVideoClassification:
    """Train until it tells the labels apart."""
    model, seed = fresh_model(attention_type).train(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        clips = draw_clips(16, attention_type, seed)
        model(clips.pixel_values, labels=clips.labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval()


class Figures(NamedTuple):
    """How well maps fit the square."""

    on_path: float  # share of the relevance of the top tenth of cells that lies on the path, mean over clips
    on_square: float  # the same for where the square is at that moment
    path_chance: float  # share of cells that are on the path
    square_chance: float
    peaks_moving: float  # share of clips whose frame of most relevance is one in which it moves
    moving_chance: float
    moving: float  # mean share of a clip's relevance in a frame in which it moves
    standing: float  # and in one in which it does not


def figures(relevance: torch.Tensor, clips: Clips) -> Figures:
    """Measure maps (B, T, h, w); what speaks against the class counts as nothing."""
    relevance = relevance.clamp(min=0)
    cells = relevance.flatten(1)
    top, where = cells.topk(cells.shape[1] // 10, dim=1)

    def share(region: torch.Tensor) -> float:
        return float(((region.flatten(1).gather(1, where) * top).sum(1) / top.sum(1)).mean())

    frames = relevance.sum(dim=(2, 3)) / cells.sum(dim=1, keepdim=True)
    return Figures(
        share(clips.path),
        share(clips.square),
        float(clips.path.float().mean()),
        float(clips.square.float().mean()),
        float(clips.moving.gather(1, frames.argmax(dim=1, keepdim=True)).float().mean()),
        float(clips.moving.float().mean()),
        float(frames[clips.moving].mean()),
        float(frames[~clips.moving].mean()),
    )
