"""What part of the picture is looked at."""

import json

import numpy as np
import pytest
from PIL import Image

from railsformer.data.transforms import PixelSettings
from railsformer.inference.regions import Region

LEFT_HALF = [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]
PIXELS = PixelSettings(8, 8, mean=(0.5, 0.25, 0.0))


@pytest.fixture
def mask_file(tmp_path):
    mask = np.zeros((10, 20), dtype=np.uint8)
    mask[:, :10] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def test_polygons_and_masks_say_the_same_at_any_size(mask_file, tmp_path):
    (tmp_path / "region.json").write_text(json.dumps(LEFT_HALF))
    for source in (mask_file, tmp_path / "region.json", json.dumps(LEFT_HALF), json.dumps(LEFT_HALF[0])):
        for height, width in ((10, 20), (48, 64), (7, 300)):
            mask = Region.read(source).mask(height, width)
            assert mask.shape == (height, width)
            assert mask[:, : width // 2 - 1].all()
            assert not mask[:, width // 2 + 1 :].any()


def test_two_polygons_are_both_looked_at():
    corners = [[[0, 0], [0.25, 0], [0.25, 1], [0, 1]], [[0.75, 0], [1, 0], [1, 1], [0.75, 1]]]
    mask = Region.read(json.dumps(corners)).mask(10, 40)
    assert mask[:, :9].all()
    assert mask[:, 31:].all()
    assert not mask[:, 12:28].any()


def test_outside_is_the_mean_colour_and_inside_untouched():
    rgb = np.random.default_rng(0).integers(0, 255, (3, 10, 20, 3), dtype=np.uint8)
    filled = Region.read(json.dumps(LEFT_HALF)).fill(rgb, PIXELS)
    assert (filled[:, :, :9] == rgb[:, :, :9]).all()
    assert (filled[:, :, 11:] == [128, 64, 0]).all()
    assert filled.dtype == np.uint8


def test_a_transparent_mask_hides_what_is_transparent(tmp_path):
    layers = np.full((4, 4, 4), 255, dtype=np.uint8)
    layers[:2, :, 3] = 0
    Image.fromarray(layers).save(tmp_path / "mask.png")
    mask = Region.read(tmp_path / "mask.png").mask(4, 4)
    assert not mask[:2].any()
    assert mask[2:].all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "is no JSON"),
        ("[]", "polygons are"),
        ("[[0, 0], [1, 1]]", "at least three points"),
        ("[[[0, 0], [320, 0], [320, 240]]]", "divide px by the picture's width and height"),
        ('[[[0, 0], ["a", 0], [1, 1]]]', "at least three points"),
    ],
)
def test_what_is_no_region_is_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        Region.read(text)
    assert "\n" not in str(caught.value)


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        Region.read(tmp_path / "gone.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="no picture"):
        Region.read(tmp_path / "text.png")
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match="nothing to look at"):
        Region.read(tmp_path / "black.png")
