import json

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor

from railsformer.data.transforms import (
    IMAGENET_MEAN_STD,
    TIMESFORMER_MEAN_STD,
    PixelSettings,
    TrainingAugmentation,
    evaluation_crops,
    evaluation_pixels,
    training_pixels,
)

PLAIN = PixelSettings(crop_px=32, short_side_px=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def _noise(num_frames, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def _one_picture(num_frames=4, height=48, width=64):
    """The same noise in every frame, so that any difference between frames comes from the augmentation."""
    return np.repeat(_noise(1, height, width), num_frames, axis=0)


def _ramps(height=60, width=90):
    """Red is the column, green the row: a crop tells where it was taken."""
    picture = np.zeros((1, height, width, 3), dtype=np.uint8)
    picture[..., 0] = np.arange(width)[None, None, :]
    picture[..., 1] = np.arange(height)[None, :, None]
    picture[..., 2] = 128
    return picture


@pytest.mark.parametrize(
    ("height", "width"), [(240, 320), (320, 240), (241, 427), (427, 241), (64, 64), (33, 500), (97, 61), (7, 5)]
)
@pytest.mark.parametrize(("crop", "short_side"), [(56, 56), (48, 61)])
def test_evaluation_pixels_are_stock(tmp_path, height, width, crop, short_side):
    settings = PixelSettings(crop_px=crop, short_side_px=short_side)
    settings.save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(processor).__name__.startswith("VideoMAEImageProcessor")
    frames = _noise(2, height, width)
    stock = processor([list(frames)], return_tensors="pt")["pixel_values"][0]
    ours = evaluation_pixels(frames, settings)
    assert ours.shape == (2, 3, crop, crop)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, stock, rtol=0, atol=2e-6)


def test_evaluation_shows_the_middle():
    pixels = evaluation_pixels(_ramps(60, 90), PixelSettings(30, 60, mean=(0.0,) * 3, std=(1.0,) * 3)) * 255
    assert pixels[0, 0, 0].round().tolist() == list(range(30, 60))
    assert pixels[0, 1, :, 0].round().tolist() == list(range(15, 45))


@pytest.mark.parametrize("upright", [False, True])
def test_three_crops_along_the_long_side(upright):
    settings = PixelSettings(30, 45, mean=(0.0,) * 3, std=(1.0,) * 3)  # the short side is the crop, 30, and not 45
    frames = _ramps(30, 90)
    if upright:
        frames = frames.transpose(0, 2, 1, 3)
    crops = evaluation_crops(np.repeat(frames, 2, axis=0), settings) * 255
    assert crops.shape == (3, 2, 3, 30, 30)
    red = crops[:, 1, 0, :, 0] if upright else crops[:, 1, 0, 0]
    assert red.round().tolist() == [list(range(first, first + 30)) for first in (0, 30, 60)]
    green = crops[:, 1, 1, 0] if upright else crops[:, 1, 1, :, 0]
    assert green.round().tolist() == [list(range(30))] * 3


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48), (37, 101), (50, 50), (7, 5)])
def test_the_middle_crop_is_the_one_crop(height, width):
    settings = PixelSettings(32, 32)
    frames = _noise(2, height, width)
    crops = evaluation_crops(frames, settings)
    assert torch.equal(crops[1], evaluation_pixels(frames, settings))
    assert torch.equal(crops[0], crops[2]) == (height == width)


def test_normalisation():
    grey = np.full((1, 8, 8, 3), 51, dtype=np.uint8)  # 0.2
    pixels = evaluation_pixels(grey, PixelSettings(8, 8, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0)))
    torch.testing.assert_close(pixels[0, :, 0, 0], torch.tensor([0.2, 0.0, -0.05]))


def test_every_frame_of_a_clip_gets_the_same_draw():
    augmentation = TrainingAugmentation(36, 60, flip=True, light=0.8, grey=0.5)
    for seed in range(20):
        pixels = training_pixels(_one_picture(), PLAIN, augmentation, np.random.default_rng(seed))
        assert pixels.shape == (4, 3, 32, 32)
        assert (pixels == pixels[:1]).all()


def test_crops_stay_inside_and_differ_in_place_and_size():
    augmentation = TrainingAugmentation(40, 60)
    corners, sides = set(), set()
    for seed in range(200):
        red, green, _ = training_pixels(_ramps(), PLAIN, augmentation, np.random.default_rng(seed))[0] * 255
        assert red.max() <= 89.5
        assert green.max() <= 59.5
        side = float(red[0, -1] - red[0, 0]) * 32 / 31
        assert 60 * 32 / 60 - 1.5 <= side <= 60 * 32 / 40 + 1.5  # source pixels seen at a short side of 60 and of 40
        assert float(green[-1, 0] - green[0, 0]) * 32 / 31 == pytest.approx(side, abs=1.5)  # not squeezed
        corners.add((int(red[0, 0]) // 10, int(green[0, 0]) // 10))
        sides.add(round(side))
    assert len(corners) > 8
    assert len(sides) > 8


def test_a_short_side_below_the_crop_shows_the_whole_short_side():
    red, green, _ = training_pixels(_ramps(), PLAIN, TrainingAugmentation(8, 16), np.random.default_rng(0))[0] * 255
    assert float(green[-1, 0] - green[0, 0]) == pytest.approx(59, abs=2)
    assert float(red[0, -1] - red[0, 0]) == pytest.approx(59, abs=2)


def test_flip_mirrors_half_of_the_clips_and_changes_no_other_draw():
    plain, flipping = TrainingAugmentation(40, 60, light=0.5), TrainingAugmentation(40, 60, light=0.5, flip=True)
    mirrored = 0
    for seed in range(200):
        straight = training_pixels(_one_picture(1), PLAIN, plain, np.random.default_rng(seed))
        maybe = training_pixels(_one_picture(1), PLAIN, flipping, np.random.default_rng(seed))
        if not torch.equal(straight, maybe):
            assert torch.equal(straight.flip(-1), maybe)
            mirrored += 1
    assert 75 <= mirrored <= 125


def test_light_varies_only_where_asked():
    frames = np.full((2, 40, 40, 3), 100, dtype=np.uint8)
    without = [
        training_pixels(frames, PLAIN, TrainingAugmentation(40, 50), np.random.default_rng(s)) for s in range(9)
    ]
    assert all((pixels * 255).round().unique().tolist() == [100.0] for pixels in without)
    augmentation = TrainingAugmentation(40, 50, light=0.6)
    levels = [
        float(training_pixels(frames, PLAIN, augmentation, np.random.default_rng(seed)).mean()) for seed in range(50)
    ]
    assert min(levels) < 100 / 255 - 0.1
    assert max(levels) > 100 / 255 + 0.1
    assert all(0 <= level <= 1 for level in levels)


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.5, 30, 70), (1.0, 100, 100)])
def test_grey(share, low, high):
    frames = np.zeros((1, 40, 40, 3), dtype=np.uint8)
    frames[...] = (200, 100, 0)
    augmentation = TrainingAugmentation(40, 50, grey=share)
    clips = [training_pixels(frames, PLAIN, augmentation, np.random.default_rng(seed)) for seed in range(100)]
    colourless = [clip for clip in clips if torch.equal(clip[:, 0], clip[:, 2])]
    assert low <= len(colourless) <= high
    assert all(int((clip * 255).round()[0, 0, 0, 0]) == 118 for clip in colourless)  # .299 R + .587 G + .114 B


def test_the_generator_decides_everything():
    augmentation = TrainingAugmentation(36, 60, flip=True, light=0.5, grey=0.3)
    first, again, other = (
        training_pixels(_one_picture(), PLAIN, augmentation, np.random.default_rng(seed))
        for seed in ([7, 1], [7, 1], 8)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # facebook/timesformer-base-finetuned-k400
        (
            {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "image_mean": [0.45] * 3}
            | {"image_std": [0.225] * 3, "do_center_crop": True, "image_processor_type": "VideoMAEImageProcessor"},
            (224, 224, *TIMESFORMER_MEAN_STD),
        ),
        # facebook/timesformer-hr-finetuned-k400, the older spelling
        (
            {"size": 448, "crop_size": 448, "image_mean": [0.45] * 3, "image_std": [0.225] * 3},
            (448, 448, *TIMESFORMER_MEAN_STD),
        ),
        # facebook/dinov2-small
        (
            {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True}
            | {
                "image_mean": list(IMAGENET_MEAN_STD[0]),
                "image_std": list(IMAGENET_MEAN_STD[1]),
                "do_normalize": True,
            },
            (224, 256, *IMAGENET_MEAN_STD),
        ),
        # google/vit-base-patch16-224: no crop
        (
            {"size": {"height": 224, "width": 224}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
            (224, 224, (0.5,) * 3, (0.5,) * 3),
        ),
        ({"size": 224, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}, (224, 224, (0.5,) * 3, (0.5,) * 3)),
        # a crop that is switched off, and a key that is null
        (
            {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": False},
            (256, 256, *TIMESFORMER_MEAN_STD),
        ),
        ({"size": {"shortest_edge": 256}, "crop_size": None}, (256, 256, *TIMESFORMER_MEAN_STD)),
        # a crop larger than the picture is the whole picture
        ({"size": {"shortest_edge": 96}, "crop_size": 224}, (96, 96, *TIMESFORMER_MEAN_STD)),
        ({"size": 64, "do_normalize": False, "image_mean": [0.5] * 3}, (64, 64, (0.0,) * 3, (1.0,) * 3)),
        ({}, (224, 224, *TIMESFORMER_MEAN_STD)),
    ],
)
def test_configs_of_real_models(config, expected):
    assert PixelSettings.from_dict(config) == PixelSettings(*expected)


def test_a_settings_round_trip(tmp_path):
    settings = PixelSettings(56, 64, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    settings.save_pretrained(tmp_path)
    assert PixelSettings.from_pretrained(tmp_path) == settings
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["size"] == {"shortest_edge": 64}


def test_checkpoints_share_the_processor_of_their_run(tmp_path):
    settings = PixelSettings(56, 64)
    settings.save_pretrained(tmp_path)
    (tmp_path / "checkpoint-7").mkdir()
    assert PixelSettings.from_pretrained(tmp_path / "checkpoint-7") == settings


def test_values_that_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no preprocessor_config\.json; it must say how"):
        PixelSettings.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"crop_size must be square, got 224 x 398 px \(height x width\)"):
        PixelSettings.from_dict({"size": 224, "crop_size": {"height": 224, "width": 398}})
    with pytest.raises(ValueError, match="short_side_px must be at least crop_px 64, got 32"):
        PixelSettings(64, 32)
    with pytest.raises(ValueError, match="max_short_side_px must be at least min_short_side_px 64, got 32"):
        TrainingAugmentation(64, 32)
    with pytest.raises(ValueError, match=r"light must be in \[0, 1\], got 1.5"):
        TrainingAugmentation(32, 64, light=1.5)
    with pytest.raises(ValueError, match=r"grey must be in \[0, 1\], got -0.1"):
        TrainingAugmentation(32, 64, grey=-0.1)
