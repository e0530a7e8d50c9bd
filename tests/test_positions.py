"""Similarity of the rows of position tables: figures, pictures and what is said where there is no table."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import write_tiny_run

from railsformer.explain.position_pictures import draw_space_maps
from railsformer.explain.positions import (
    cosine_similarity,
    describe_tables,
    patch_distances,
    similarity_by_distance,
    write_positions,
)
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification


def _waves(grid: tuple[int, int], width: int = 16) -> np.ndarray:
    """A table whose rows are alike where their patches are near."""
    down, across = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    turns = np.linspace(0.05, 0.25, width // 4)
    angles = np.concatenate([place.reshape(-1, 1) * turns for place in (down, across)], axis=1)
    return np.concatenate((np.cos(angles), np.sin(angles)), axis=1).astype(np.float32)


def _run(folder, *, waves: bool = True, **config):
    """A tiny run whose tables are waves; returns its folder."""
    run = write_tiny_run(folder, **config)
    model = RailsformerForVideoClassification.from_pretrained(run)
    tables = model.timesformer.embeddings
    with torch.no_grad():
        if waves:
            tables.position_embeddings[0, 1:] = torch.from_numpy(_waves(model.config.grid))
            if model.config.attention_type != "space_only" and model.config.position_embedding == "space_time":
                tables.time_embeddings[0] = torch.from_numpy(_waves((model.config.num_frames, 1)))
    model.save_pretrained(run)
    return run


def _describe(folder, **config):
    run = _run(folder / "run", **config)
    return describe_tables(RailsformerForVideoClassification.from_pretrained(run), name="run")


def test_similarity_is_the_cosine_and_a_zero_row_has_none():
    found = cosine_similarity(np.array([[2.0, 0.0], [3.0, 3.0], [0.0, 0.0], [-1.0, 0.0]]))
    root = np.sqrt(0.5)
    nan = np.nan
    expected = [[1, root, nan, -1], [root, 1, nan, -root], [nan] * 4, [-1, -root, nan, 1]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_distances_count_patches_row_by_row():
    found = patch_distances((2, 3))
    assert found[0].tolist() == pytest.approx([0, 1, 2, 1, np.sqrt(2), np.sqrt(5)])


def test_the_mean_by_distance_leaves_out_what_has_no_similarity():
    similarity = np.array([[1, 0.5, 0.1, np.nan], [0.5, 1, 0.3, np.nan], [0.1, 0.3, 1, np.nan], [np.nan] * 4])
    steps, told = similarity_by_distance(similarity, patch_distances((1, 4)))
    assert steps.tolist() == [1, 2]
    assert told[:, 0].tolist() == pytest.approx([0.4, 0.1])


def test_pictures_arrays_and_a_page_are_written(tmp_path):
    run = _run(tmp_path / "run", image_size=[32, 48], num_frames=4)
    report = write_positions(run, tmp_path / "out")
    names = [
        "positions.json",
        "positions.md",
        "positions.npz",
        "space_distance.png",
        "space_maps.png",
        "time_maps.png",
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert Image.open(tmp_path / "out" / "space_maps.png").width == 2000
    with np.load(tmp_path / "out" / "positions.npz") as arrays:
        np.testing.assert_allclose(arrays["space"], cosine_similarity(_waves((2, 3))), atol=1e-5)
        np.testing.assert_allclose(arrays["time"], cosine_similarity(_waves((4, 1))), atol=1e-5)
        assert arrays["grid"].tolist() == [2, 3]
    facts = json.loads((tmp_path / "out" / "positions.json").read_text())
    assert facts["frame_seconds"] == 0.5
    assert facts["time"]["neighbours"] > facts["time"]["far"]
    page = (tmp_path / "out" / "positions.md").read_text()
    assert all(line in page for line in report.lines())
    assert str(tmp_path) not in page + json.dumps(facts)


def test_a_table_that_knows_the_layout_is_told_from_a_random_one(tmp_path):
    words = _describe(tmp_path, image_size=128).space_words
    assert words[0].startswith("Space table, 8 x 8 patches of 16 px: mean cosine similarity 0.9")
    assert float(words[1].removesuffix(".").split()[-1]) < -0.8
    drawn = _describe(tmp_path / "drawn", image_size=128, waves=False, hidden_size=256).space_words
    assert "next to no order, as in a table that was drawn at random" in drawn[1]


@pytest.mark.parametrize("grid", [(28, 28), (3, 20)])
def test_maps_of_coarse_and_fine_grids_fit_a_page(grid, tmp_path):
    (tmp_path / "maps.png").write_bytes(draw_space_maps(cosine_similarity(_waves(grid)), grid, model="run"))
    picture = Image.open(tmp_path / "maps.png")
    assert picture.width == 2000
    assert 500 < picture.height < 2700
    colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)[::7]
    assert len(np.unique(colours, axis=0)) > 100


def test_a_model_without_tables_is_refused_in_one_line(tmp_path):
    run = _run(tmp_path / "run", position_embedding="none", waves=False)
    with pytest.raises(ValueError, match=r"has no position tables \(position_embedding is none\)") as error:
        write_positions(run, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"attention_type": "space_only"}, "Time table: there is none; space_only looks at each frame by itself"),
        ({"position_embedding": "space"}, "Time table: there is none; the model was made with position_embedding"),
        ({"num_frames": 1}, "Time table: clips have one frame"),
    ],
)
def test_a_missing_time_table_is_one_line(tmp_path, config, words):
    report = _describe(tmp_path, **config)
    assert report.time is None
    assert len(report.time_words) == 1
    assert report.time_words[0].startswith(words)
    assert report.space is not None


def test_a_table_of_zeros_says_that_it_was_never_trained(tmp_path):
    run = write_tiny_run(tmp_path / "run")  # a fresh time table is zero
    report = write_positions(run, tmp_path / "out")
    assert report.time_words == ("The time table is all zero: it was never trained, so there is nothing to compare.",)
    assert not (tmp_path / "out" / "time_maps.png").exists()
    assert (tmp_path / "out" / "space_maps.png").exists()


def test_single_rows_of_zeros_are_counted(tmp_path):
    model = RailsformerForVideoClassification.from_pretrained(_run(tmp_path / "run", num_frames=4))
    with torch.no_grad():
        model.timesformer.embeddings.time_embeddings[0, 2] = 0
    report = describe_tables(model, name="run")
    assert report.time_words[-1] == "1 of its 4 rows are zero and have no similarity."
    assert report.to_dict()["time"]["zero_rows"] == 1


def test_tables_that_are_not_numbers_are_refused(tmp_path):
    model = RailsformerForVideoClassification.from_pretrained(_run(tmp_path / "run"))
    with torch.no_grad():
        model.timesformer.embeddings.time_embeddings[0, 1, 0] = torch.nan
    with pytest.raises(ValueError, match=r"run: the time table holds values that are not numbers \(NaN\)"):
        describe_tables(model, name="run")


def test_nothing_is_overwritten(tmp_path):
    run = _run(tmp_path / "run")
    with pytest.raises(FileExistsError, match="already holds something"):
        write_positions(run, run)
