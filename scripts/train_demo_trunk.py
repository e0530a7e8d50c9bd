"""Train the demo's tiny trunk from nothing, on moving shapes.

The shapes have colours that no yard has, there are no tracks, machines or people, and no yard classes: the trunk
learns where something moves, which way, and whether it nears or leaves another shape. Half of the clips are the other
half shown backwards. An interrupted run goes on where it was. Needs torch 2.9 or later, for its Muon.

    python scripts/train_demo_trunk.py --output_dir first_round
    python scripts/train_demo_trunk.py --start_from first_round --output_dir railsformer/model/demo_trunk \
        --num_steps 1000 --learning_rate 1e-3 --seed 1
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers import TimesformerConfig, TimesformerModel

# Legend: B clips, T frames, S pixels a side, G patches a side, D hidden size.

IMAGE_SIZE = 96
PATCH_SIZE = 16
NUM_FRAMES = 8
MEAN, STD = 0.45, 0.225
RELATIONS = ("towards", "away", "neither")
Draw = Callable[..., torch.Tensor]  # uniform(low, high, *shape): one value, or one of that shape, for each clip
KINDS = ("travel to a shape", "travel to a band", "swing", "idle")


@dataclass(frozen=True)
class Batch:
    """Clips of moving shapes and what is true of them."""

    pixel_values: torch.Tensor  # (B, T, 3, S, S), normalised
    kind: torch.Tensor  # (B,), an index into KINDS
    relation: torch.Tensor  # (B,), an index into RELATIONS
    travel: torch.Tensor  # (B, 4), first and last place of the mover, picture = [-1, 1]
    mover: torch.Tensor  # (B, T, G, G), share of each patch
    anchor: torch.Tensor  # (B, T, G, G)
    velocity: torch.Tensor  # (B, T, 2), of the mover, pictures a frame


def render_shapes(num_clips: int, *, generator: torch.Generator, device: torch.device, aslant: bool = False) -> Batch:
    """Draw clips; the second half shows the first half backwards.

    Args:
        num_clips: B, even.
        generator: The only source of chance, on `device`.
        device: Where to draw.
        aslant: As from a mast, the second round: ways lie level, circles are seen flat, bodies turn with their arms,
            upright and broad things are more common, and what moves stands out.

    Returns:
        The clips and the answers.
    """
    half = num_clips // 2

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(half, *shape, generator=generator, device=device) * (high - low) + low

    kind = torch.randint(0, len(KINDS) * 4, (half,), generator=generator, device=device) % len(KINDS)
    swing, band, idle = kind == 2, kind == 1, kind == 3
    # The way from far to near: mostly level, as things on the ground go.
    angle = torch.where(uniform(0, 1) < 0.75, uniform(-0.6, 0.6), uniform(-math.pi / 2, math.pi / 2))
    angle = angle + torch.where(uniform(0, 1) < 0.5, 0.0, math.pi)
    if aslant:
        angle = (angle / math.pi).round() * math.pi + uniform(-0.35, 0.35)
    way = torch.stack([torch.cos(angle), torch.sin(angle)], dim=-1)
    length = uniform(0.55, 1.35)
    size = uniform(0.1, 0.34, 2)
    anchor_size = torch.where(swing[:, None], uniform(0.08, 0.26, 2), uniform(0.14, 0.36, 2))
    if aslant:
        upright, broad = torch.tensor([0.6, 1.5], device=device), torch.tensor([1.5, 1.1], device=device)
        size = size * torch.where((uniform(0, 1) < 0.5)[:, None], upright, broad)
        anchor_size = anchor_size * torch.where((uniform(0, 1) < 0.5)[:, None], upright, 1.0)
    middle = torch.stack([uniform(-0.25, 0.25), uniform(-0.3, 0.4)], dim=-1)
    steps = _progress(half, uniform)
    # Travel: far end to near end around the middle; the anchor lies just beyond the near end.
    places = middle[:, None] + way[:, None] * (length[:, None] * (steps - 0.5))[..., None]
    gap = uniform(0.02, 0.2) + 0.7 * (size.amax(-1) + anchor_size.amax(-1)) * uniform(0.6, 1)
    anchor = middle + way * (length / 2 + gap)[:, None] + uniform(-0.12, 0.12, 2)
    band_place = middle + way * (length / 2 + uniform(-0.1, 0.1))[:, None]
    # Swing: an arm on a body, its tip on an ellipse as if seen aslant; the anchor is beyond the tip's near end.
    reach, flatness = uniform(0.45, 0.8), uniform(0.25, 1.0)
    if aslant:
        reach, flatness = 0.8 * reach, 0.6 * flatness
    sense = torch.where(uniform(0, 1) < 0.5, 1.0, -1.0)
    turn = sense[:, None] * uniform(1.6, 3.0)[:, None] * (1 - steps) + angle[:, None]
    circle = torch.stack([torch.cos(turn), torch.sin(turn) * flatness[:, None]], dim=-1)
    tips = middle[:, None] + reach[:, None, None] * circle
    swing_anchor = tips[:, -1] + (tips[:, -1] - middle) * uniform(0.25, 0.6)[:, None] + uniform(-0.08, 0.08, 2)
    anchor = torch.where(swing[:, None], swing_anchor, anchor)
    places = torch.where(swing[:, None, None], tips, places)
    if aslant:  # nothing is near or far of what lies outside the picture
        shift = anchor.clamp(-0.8, 0.8) - anchor
        anchor, middle, band_place = anchor + shift, middle + shift, band_place + shift
        places = places + shift[:, None]
    # Idle: still, trembling, or there and back.
    still = places[torch.arange(half), torch.randint(0, NUM_FRAMES, (half,), generator=generator, device=device)]
    tremble = 0.02 * torch.randn(half, NUM_FRAMES, 2, generator=generator, device=device)
    there_and_back = (torch.sin(torch.linspace(0, math.pi, NUM_FRAMES, device=device))[:, None] * way[:, None]) * 0.5
    rest = uniform(0, 1)[:, None, None]
    rest = still[:, None] + torch.where(rest < 0.5, 0.0, torch.where(rest < 0.75, tremble, there_and_back))
    places = torch.where(idle[:, None, None], rest, places)

    canvas = _draw_grounds(half, uniform, generator, device)
    palette = _draw_colours(half, uniform)
    if aslant:  # dark on light, light on dark
        bright = canvas.mean(dim=(1, 2, 3))[:, None, None] > 0.5
        palette[:, 5:] = torch.where(bright, 0.5 * palette[:, 5:], 0.5 + 0.5 * palette[:, 5:])
    grid = _grid(device)
    has_anchor = (~band | (uniform(0, 1) < 0.5)).float()
    # A band lies across the way in its own kind and anywhere, or nowhere, in the others.
    has_band = (band | (uniform(0, 1) < 0.4)).float()
    across = angle + uniform(-0.6, 0.6) + torch.where(band, 0.0, uniform(-1.5, 1.5))
    band_place = torch.where(band[:, None], band_place, uniform(-0.9, 0.9, 2))
    band_size = torch.stack([uniform(0.1, 0.24), torch.full_like(length, 4.0)], dim=-1)
    band_mask = _cover(grid, band_place, band_size, across, square=torch.ones_like(length, dtype=torch.bool))
    rungs = ((grid[0] * torch.sin(across)[:, None, None] * -1 + grid[1] * torch.cos(across)[:, None, None]) * 14).sin()
    stripes = palette[:, 0, :, None, None] * (1 + 0.2 * (rungs > 0.3)[:, None])
    canvas = _blend(canvas, stripes, band_mask * has_band[:, None, None])
    square = uniform(0, 1, 5) < 0.5
    for index in range(2):  # bystanders that never move
        place = torch.stack([uniform(-1, 1), uniform(-1, -0.6 if aslant else -0.2)], dim=-1)
        mask = _cover(grid, place, uniform(0.06, 0.2, 2), uniform(-0.3, 0.3), square=square[:, index])
        canvas = _blend(
            canvas, palette[:, 1 + index, :, None, None], mask * (uniform(0, 1) < 0.5).float()[:, None, None]
        )
    anchor_mask = (
        _cover(grid, anchor, anchor_size, uniform(-0.3, 0.3), square=square[:, 2]) * has_anchor[:, None, None]
    )
    canvas = _blend(canvas, palette[:, 3, :, None, None], anchor_mask)
    body_mask = _cover(grid, middle, uniform(0.18, 0.36, 2), uniform(-0.2, 0.2), square=square[:, 3])
    canvas = _blend(canvas, palette[:, 4, :, None, None], body_mask * swing.float()[:, None, None])

    frames, mover = _draw_movers(canvas, grid, places, middle, size, palette, swing, square, uniform, aslant=aslant)
    noise = torch.randn(frames.shape, generator=generator, device=device) * uniform(0, 0.03)[:, None, None, None, None]
    frames = (frames + noise).clamp(0, 1)
    velocity = torch.zeros_like(places)
    velocity[:, 1:-1] = (places[:, 2:] - places[:, :-2]) / 2
    velocity[:, 0], velocity[:, -1] = places[:, 1] - places[:, 0], places[:, -1] - places[:, -2]
    forwards = torch.where(idle, 2, 0)
    backwards = torch.where(idle, 2, 1)
    travel = torch.cat([places[:, 0], places[:, -1]], dim=-1)
    pooled = F.avg_pool2d(mover, PATCH_SIZE)
    anchor_pooled = F.avg_pool2d(anchor_mask[:, None], PATCH_SIZE).expand_as(pooled)
    return Batch(
        pixel_values=(torch.cat([frames, frames.flip(1)]) - MEAN) / STD,
        kind=torch.cat([kind, kind]),
        relation=torch.cat([forwards, backwards]),
        travel=torch.cat([travel, travel.roll(2, dims=-1)]),
        mover=torch.cat([pooled, pooled.flip(1)]),
        anchor=torch.cat([anchor_pooled, anchor_pooled]),
        velocity=torch.cat([velocity, -velocity.flip(1)]),
    )


class TrunkWithQuestions(nn.Module):
    """The trunk and the heads that only training needs."""

    def __init__(self, config: TimesformerConfig) -> None:
        """Start from nothing."""
        super().__init__()
        self.timesformer = TimesformerModel(config)
        self.answers = nn.Linear(config.hidden_size, len(KINDS) + len(RELATIONS) + 4)
        self.dense = nn.Linear(config.hidden_size, 6 + len(RELATIONS))
        # Stock never initialises the time table; with waves in both tables the model need not first find its way.
        embeddings = self.timesformer.embeddings
        width = config.hidden_size
        side = config.image_size // config.patch_size
        rows = _waves(side, width // 2)
        with torch.no_grad():
            embeddings.position_embeddings[0, 1:, : width // 2] = rows.repeat_interleave(side, dim=0)
            embeddings.position_embeddings[0, 1:, width // 2 :] = rows.repeat(side, 1)
            embeddings.time_embeddings[0] = _waves(config.num_frames, width)
            nn.init.trunc_normal_(embeddings.patch_embeddings.projection.weight, std=0.03)

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the clip's answers (B, 11) and those of its patches (B, T, G, G, 9)."""
        tokens = self.timesformer(pixel_values).last_hidden_state
        side = pixel_values.shape[-1] // PATCH_SIZE
        # b (h w t) d -> b t h w d
        patches = self.dense(tokens[:, 1:]).unflatten(1, (side, side, pixel_values.shape[1])).permute(0, 3, 1, 2, 4)
        return self.answers(tokens[:, 0]), patches


def compute_losses(batch: Batch, answers: torch.Tensor, patches: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the weighted loss of each question."""
    kind, relation, travel = answers.split([len(KINDS), len(RELATIONS), 4], dim=-1)
    shares, motion, patch_relation = patches.split([2, 4, len(RELATIONS)], dim=-1)
    weight = batch.mover / batch.mover.mean().clamp(min=1e-6)
    displacement = batch.travel[:, 2:] - batch.travel[:, :2]
    whole = displacement[:, None].expand_as(batch.velocity)
    moved = torch.cat([4 * batch.velocity, whole], dim=-1)[:, :, None, None].expand_as(motion)
    miss = F.smooth_l1_loss(motion, moved, reduction="none", beta=0.1).mean(-1)
    target = batch.relation[:, None, None, None].expand(patch_relation.shape[:-1])
    told = F.cross_entropy(patch_relation.flatten(0, 3), target.flatten(), reduction="none").view_as(weight)
    return {
        "kind": 0.5 * F.cross_entropy(kind, batch.kind),
        "relation": F.cross_entropy(relation, batch.relation),
        "travel": 3 * F.smooth_l1_loss(travel, batch.travel, beta=0.1),
        "shares": 4 * F.binary_cross_entropy_with_logits(shares, torch.stack([batch.mover, batch.anchor], dim=-1)),
        "motion": 5 * (weight * miss).mean(),
        "patch_relation": (weight * told).mean(),
    }


def make_config(**changes: object) -> TimesformerConfig:
    """Return the demo trunk's sizes: about a million parameters."""
    sizes: dict[str, object] = {
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
        "num_frames": NUM_FRAMES,
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        "attention_type": "divided_space_time",
        "drop_path_rate": 0,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.06,
    }
    return TimesformerConfig(**{**sizes, **changes})


def train(
    model: TrunkWithQuestions,
    *,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    device: torch.device,
    aslant: bool = False,
    checkpoint: Path | None = None,
) -> None:
    """Train in place; with `checkpoint`, continue where an interrupted run of the same sizes was."""
    model.to(device).train()
    optimizers = _make_optimizers(model, learning_rate)
    first = 0
    if checkpoint is not None and checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = int(state["step"])
    started, tally = time.monotonic(), dict[str, float]()
    for step in range(first, num_steps):
        share = min((step + 1) / 100, 1.0, (num_steps - step) / (0.75 * num_steps))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * share
        # Chance depends on (seed, step) alone, so that a resumed run is the same run.
        generator = torch.Generator(device=device).manual_seed(seed * 1_000_003 + step)
        batch = render_shapes(batch_size, generator=generator, device=device, aslant=aslant)
        answers, patches = model(batch.pixel_values)
        losses = compute_losses(batch, answers, patches)
        model.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        for optimizer in optimizers:
            optimizer.step()
        told = answers[:, len(KINDS) : len(KINDS) + len(RELATIONS)].argmax(-1)
        facts = {name: value.item() for name, value in losses.items()}
        facts["right"] = (told == batch.relation)[batch.relation < 2].float().mean().item()
        for name, value in facts.items():
            tally[name] = value if name not in tally else 0.96 * tally[name] + 0.04 * value
        if (step + 1) % 50 == 0 or step + 1 == num_steps:
            shown = "  ".join(f"{name} {value:.3f}" for name, value in tally.items())
            print(f"step {step + 1}/{num_steps}  {time.monotonic() - started:.0f} s  {shown}", flush=True)
        if checkpoint is not None and (step + 1) % 100 == 0:
            state = {
                "model": model.state_dict(),
                "optimizers": [each.state_dict() for each in optimizers],
                "step": step + 1,
            }
            torch.save(state, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").replace(checkpoint)


def _make_optimizers(model: TrunkWithQuestions, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for all else: it needs about half the clips of AdamW alone."""
    inside = [value for name, value in model.named_parameters() if ".encoder." in name and value.ndim == 2]
    chosen = {id(value) for value in inside}
    others = [value for value in model.parameters() if id(value) not in chosen]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(inside, lr=12 * learning_rate, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(others, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.95)),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def _waves(length: int, width: int) -> torch.Tensor:
    """Return sines and cosines of falling frequency, (length, width)."""
    place = (torch.arange(length) / length)[:, None]
    angle = place * math.pi * (0.5 * length) ** torch.linspace(0, 1, width // 2)[None]
    return 0.7 * torch.cat([angle.sin(), angle.cos()], dim=1)


def _progress(half: int, uniform: Draw) -> torch.Tensor:
    """Return how far along the way each frame is, (B / 2, T), from 0 to 1: even, gentle or halting."""
    time_share = torch.linspace(0, 1, NUM_FRAMES, device=uniform(0, 1).device)[None]
    time_share = (time_share * uniform(0.9, 1.25)[:, None] - uniform(0, 0.15)[:, None]).clamp(0, 1)
    gentle = (1 - torch.cos(math.pi * time_share)) / 2
    halting = time_share - torch.sin(4 * math.pi * time_share) / (4 * math.pi)
    choice = uniform(0, 1)[:, None]
    return torch.where(choice < 0.3, time_share, torch.where(choice < 0.6, gentle, halting))


def _grid(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    line = (torch.arange(IMAGE_SIZE, device=device) + 0.5) / IMAGE_SIZE * 2 - 1
    return line[None, None, :], line[None, :, None]


def _cover(
    grid: tuple[torch.Tensor, torch.Tensor],
    place: torch.Tensor,
    size: torch.Tensor,
    angle: torch.Tensor,
    *,
    square: torch.Tensor,
) -> torch.Tensor:
    """Return how much of each pixel a box (square) or an ellipse covers, (N, S, S)."""
    place, size, angle, square = (
        place[..., None, None],
        size[..., None, None],
        angle[:, None, None],
        square[:, None, None],
    )
    x, y = grid[0] - place[:, 0], grid[1] - place[:, 1]
    along = (x * torch.cos(angle) + y * torch.sin(angle)).abs()
    across = (y * torch.cos(angle) - x * torch.sin(angle)).abs()
    box = torch.maximum(along - size[:, 0], across - size[:, 1])
    round_ = (torch.sqrt((along / size[:, 0]) ** 2 + (across / size[:, 1]) ** 2 + 1e-9) - 1) * size.amin(1)
    return (0.5 - torch.where(square, box, round_) * IMAGE_SIZE / 2).clamp(0, 1)


def _blend(canvas: torch.Tensor, colour: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return canvas + (colour - canvas) * mask[:, None]


def _draw_colours(half: int, uniform: Draw) -> torch.Tensor:
    """Return eight colours a clip, (B / 2, 8, 3): greens, blues, violets and pinks, no yellow, orange or red."""
    hue, strength, value = uniform(0.38, 0.9, 8), uniform(0.1, 1, 8), uniform(0.15, 1, 8)
    offsets = torch.tensor([5.0, 3.0, 1.0], device=hue.device)
    k = (offsets + hue[..., None] * 6) % 6
    return value[..., None] * (1 - strength[..., None] * torch.minimum(k, 4 - k).clamp(0, 1))


def _draw_grounds(half: int, uniform: Draw, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    colours = _draw_colours(half, uniform)[:, :2]
    colours = 0.5 * colours + 0.5 * colours.mean(-1, keepdim=True)
    share = (_grid(device)[1] * 0.5 + uniform(0, 1)[:, None, None] > 0).float()[:, None]
    share = share.expand(half, 1, IMAGE_SIZE, IMAGE_SIZE)
    ground = colours[:, 0, :, None, None] * share + colours[:, 1, :, None, None] * (1 - share)
    for cells, strength in ((6, 0.03), (24, 0.02), (IMAGE_SIZE, 0.02)):
        texture = torch.randn(half, 1, cells, cells, generator=generator, device=device)
        ground = ground + F.interpolate(texture, size=IMAGE_SIZE, mode="nearest") * strength * uniform(0, 1.5, 1, 1, 1)
    return ground.clamp(0, 1)


def _draw_movers(
    canvas: torch.Tensor,
    grid: tuple[torch.Tensor, torch.Tensor],
    places: torch.Tensor,
    middle: torch.Tensor,
    size: torch.Tensor,
    palette: torch.Tensor,
    swing: torch.Tensor,
    square: torch.Tensor,
    uniform: Draw,
    *,
    aslant: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw what moves on the still canvas: a two-part figure, or an arm and its tip."""
    half = len(canvas)

    def each_frame(value: torch.Tensor) -> torch.Tensor:
        return value[:, None].expand(half, NUM_FRAMES, *value.shape[1:]).flatten(0, 1)

    frames = each_frame(canvas)
    flat = places.flatten(0, 1)
    pivot = each_frame(middle)
    arm = flat - pivot
    offset = each_frame(torch.stack([uniform(-0.1, 0.1), -size[:, 1] * 0.9], dim=-1))
    swinging = each_frame(swing)
    second_place = torch.where(swinging[:, None], (flat + pivot) / 2, flat + offset)
    thin = torch.stack([arm.norm(dim=-1) / 2, each_frame(uniform(0.04, 0.08))], dim=-1)
    second_size = torch.where(swinging[:, None], thin, each_frame(size * uniform(0.35, 0.8, 2)))
    second_angle = torch.where(swinging, torch.atan2(arm[:, 1], arm[:, 0]), 0.0)
    first_size = each_frame(torch.where(swing[:, None], uniform(0.08, 0.18, 2), size))
    is_box = each_frame(square[:, 4])
    second = _cover(grid, second_place, second_size, second_angle, square=swinging | is_box)
    first = _cover(grid, flat, first_size, torch.zeros_like(second_angle), square=is_box)
    if aslant:  # the part of the body behind the arm, which turns with it
        tail = _cover(
            grid, pivot - 0.4 * arm, each_frame(uniform(0.1, 0.25, 2)), torch.zeros_like(second_angle), square=is_box
        )
        frames = _blend(frames, each_frame(palette[:, 4])[..., None, None], tail * swinging[:, None, None])
    frames = _blend(frames, each_frame(palette[:, 5])[..., None, None], second)
    frames = _blend(frames, each_frame(palette[:, 6])[..., None, None], first)
    return frames.unflatten(0, (half, NUM_FRAMES)), torch.maximum(first, second).unflatten(0, (half, NUM_FRAMES))


def save_trunk(model: TrunkWithQuestions, folder: Path) -> None:
    """Write the trunk in half precision, as stock transformers reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {f"timesformer.{name}": value.half().cpu() for name, value in model.timesformer.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.timesformer.config.to_dict()
    config.pop("_name_or_path", None)  # a folder of this machine
    # `dtype` makes every loader widen the weights again: halves are for the disk only.
    config.update(architectures=["TimesformerModel"], dtype="float32")
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    pixels = {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": IMAGE_SIZE},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="receives the trunk, and a checkpoint meanwhile"
    )
    parser.add_argument("--num_steps", type=int, default=1600)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--start_from", type=Path, help="second round: a trunk of the first, shown shapes from a mast")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    model = TrunkWithQuestions(make_config())
    if options.start_from:
        model.timesformer = TimesformerModel.from_pretrained(options.start_from)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    checkpoint = options.output_dir / "unfinished.pt"
    train(
        model,
        num_steps=options.num_steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
        device=torch.device(options.device),
        aslant=options.start_from is not None,
        checkpoint=checkpoint,
    )
    save_trunk(model, options.output_dir)
    checkpoint.unlink(missing_ok=True)
    print(f"the trunk is in {options.output_dir}")


if __name__ == "__main__":
    main()
