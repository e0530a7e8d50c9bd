"""Embeddings of a dataset: what is embedded, what is measured, and the page."""

import base64
import csv
import hashlib
import io
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import write_tiny_run
from videos import write_video

from railsformer.data.builder import build_dataset
from railsformer.data.clips import load_video_dataset
from railsformer.explain.clusters import measure_clusters, nearest, project_tsne
from railsformer.explain.embeddings import write_embeddings
from railsformer.inference.predictor import Predictor
from railsformer.inference.views import Viewing, read_views

QUIET = {"num_workers": 0, "progress": False}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Twelve videos of three cameras and two classes, one camera in test."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built") / "yard"
    rows = []
    for index in range(12):
        name = f"v{index}.mp4"
        write_video(source / name, num_frames=12, width=48, height=48, first_number=20 * index)
        label, camera = ("fall", "idle")[index // 3 % 2], f"c{index % 3}"
        rows.append({"file_name": name, "label": label, "camera": camera, "weather": ("rain", "<b>sun")[index % 2]})
    with (source / "clips.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    build_dataset(
        source, output_dir=folder, annotations=source / "clips.csv", group_by="camera", validation_groups=["c1"],
        test_groups=["c2"], progress=False,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_tiny_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def written(dataset, run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "out"
    return folder, write_embeddings(run, dataset, folder, **QUIET)


def _island(folder) -> dict:
    page = (folder / "embeddings.html").read_text(encoding="utf-8")
    (text,) = re.findall(r'<script type="application/json" id="embeddings-data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def _silhouette(embeddings: np.ndarray, kinds: list[str]) -> float:
    """Rousseeuw 1987 by hand, with cosine distance."""

    def distance(one, two):
        return 1 - one @ two / (np.linalg.norm(one) * np.linalg.norm(two))

    widths = []
    for place, kind in enumerate(kinds):
        means = {}
        for other in set(kinds):
            members = [row for row, each in enumerate(kinds) if each == other and row != place]
            if members:
                means[other] = np.mean([distance(embeddings[place], embeddings[row]) for row in members])
        inside = means.pop(kind, None)
        outside = min(means.values())
        widths.append(0.0 if inside is None else (outside - inside) / max(inside, outside))
    return float(np.mean(widths))


def _planted(camera_pull: float, label_pull: float):
    rng = np.random.default_rng(0)
    cameras = [f"camera_{index % 3}" for index in range(60)]
    labels = [f"label_{index // 3 % 2}" for index in range(60)]
    axes = np.eye(12)
    noise = rng.normal(size=(60, 12)) * 0.3
    places = [
        camera_pull * axes[int(c[-1])] + label_pull * axes[4 + int(one[-1])]
        for c, one in zip(cameras, labels, strict=True)
    ]
    return np.array(places) + noise, labels, cameras


def test_clusters_that_follow_the_camera_are_pointed_out_with_numbers():
    embeddings, labels, cameras = _planted(4.0, 0.5)
    found = measure_clusters(embeddings, labels, cameras, videos="test")
    assert found.silhouette_camera == pytest.approx(_silhouette(embeddings, cameras), abs=1e-6)
    assert found.silhouette_label == pytest.approx(_silhouette(embeddings, labels), abs=1e-6)
    assert found.follows_camera
    assert found.sentence.startswith(
        "test (60): clusters follow the camera rather than the label (silhouette by camera"
    )
    assert f"{found.silhouette_camera:.2f}, by label {found.silhouette_label:.2f}" in found.sentence
    assert found.same_camera.share == 1.0
    assert found.same_camera.chance == pytest.approx(19 / 59)


@pytest.mark.parametrize(
    ("camera", "label", "words"),
    [
        (0.5, 4.0, "clusters follow the label rather than the camera"),
        (0.0, 0.0, "no clusters to speak of, neither by label nor by camera"),
    ],
)
def test_other_clusters_are_not_blamed_on_the_camera(camera, label, words):
    found = measure_clusters(*_planted(camera, label), videos="all")
    assert words in found.sentence
    assert not found.follows_camera


def test_neighbours_of_other_cameras_are_counted_by_hand():
    embeddings = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0]])
    found = measure_clusters(embeddings, ["a", "b", "a", "b"], ["x", "x", "y", "y"], videos="all")
    # nearest of another camera: 0 -> 2, 1 -> 2, 2 -> 1, 3 -> 1; the label is the same for 0 and 3
    assert found.same_label_elsewhere.share == 0.5
    assert found.same_label_elsewhere.chance == 0.5
    assert nearest(embeddings, 2).tolist() == [[1, 2], [2, 0], [1, 0], [2, 1]]
    assert nearest(embeddings, 9).shape == (4, 3)


@pytest.mark.parametrize(
    ("labels", "cameras", "words"),
    [
        (["a", "b"] * 4, ["x"] * 8, "no silhouette by camera (all are of one camera); by label it is"),
        (["a"] * 8, ["x", "y"] * 4, "no silhouette by label (all are of one label); by camera it is"),
        (["a"] * 8, ["x"] * 8, "no silhouette by label (all are of one label) and none by camera (all are of one"),
        (["a", "b"] * 4, list("abcdefgh"), "no silhouette by camera (each video has a camera of its own)"),
        (["a", "b"] * 4, None, "no silhouette by camera (nobody says which camera a video is from)"),
    ],
)
def test_without_two_kinds_there_is_no_silhouette_and_it_says_why(labels, cameras, words):
    found = measure_clusters(np.random.default_rng(0).normal(size=(8, 4)), labels, cameras, videos="test")
    assert None in (found.silhouette_label, found.silhouette_camera)
    assert words in found.sentence
    json.dumps(found.to_dict(), allow_nan=False)


def test_labels_and_cameras_that_coincide_cannot_be_told_apart():
    embeddings, _, cameras = _planted(3.0, 0.0)
    found = measure_clusters(embeddings, ["l" + camera for camera in cameras], cameras, videos="all")
    assert found.one_label_a_camera
    assert found.sentence.endswith("Every camera has one label here, so that the two cannot be told apart.")


@pytest.mark.parametrize("count", [3, 4, 10])
def test_tsne_is_seeded_and_fits_small_sets(count):
    embeddings = np.random.default_rng(0).normal(size=(count, 8))
    (first, taken), (second, _) = (project_tsne(embeddings, perplexity=30, seed=1) for _ in range(2))
    assert taken == max(1.0, (count - 1) / 3)
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)


def test_embeddings_are_what_the_head_reads_of_each_video(written, dataset, run):
    folder, report = written
    assert report.splits == {"train": 4, "validation": 4, "test": 4}
    predictor = Predictor.from_pretrained(run)
    viewing = Viewing(predictor.sampling, predictor.pixels)
    loaded = load_video_dataset(dataset)
    paths = [video["path"] for split in report.splits for video in loaded.split(split)["video"]]
    views = torch.cat([read_views(path, viewing).pixel_values for path in paths])
    with torch.inference_mode(), np.load(folder / "embeddings.npz") as arrays:
        expected = predictor.model.timesformer(views).last_hidden_state[:, 0]
        np.testing.assert_allclose(arrays["embeddings"], expected.numpy(), atol=1e-5)
        logits = predictor.model.classifier(torch.from_numpy(arrays["embeddings"]))
        assert arrays["prediction"].tolist() == [predictor.labels[index] for index in logits.argmax(-1)]
        assert arrays["pca"].shape == arrays["tsne"].shape == (12, 2)


def test_the_tables_tell_places_and_metadata(written):
    folder, report = written
    with (folder / "embeddings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert {"split", "video", "label", "prediction", "score", "pca_x", "tsne_y", "group", "weather"} <= {*rows[0]}
    facts = json.loads((folder / "embeddings.json").read_text())
    assert [each["videos"] for each in facts["clusters"]] == ["all", "train", "validation", "test"]
    assert facts["clusters"][3]["silhouette_camera"] is None
    assert facts["clusters"][3]["why_no_camera"] == "all are of one camera"
    assert facts["lines"] == report.lines()
    assert report.headline.videos == "all"
    assert any("Videos of split train are among them" in line for line in report.lines())


def test_the_page_needs_no_network_and_runs_its_own_script_only(written):
    folder, _ = written
    page = (folder / "embeddings.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|<link|@import|url\(", page)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "default-src 'none'" in page
    assert "<b>sun" not in page


def test_the_page_holds_thumbnails_neighbours_and_columns_to_colour_by(written):
    folder, _ = written
    data = _island(folder)
    titles = [column["title"] for column in data["columns"]]
    assert titles == ["Label", "Prediction", "Right or wrong", "Camera (group)", "Split", "weather"]
    assert all(len(column["codes"]) == 12 for column in data["columns"])
    cameras = data["columns"][3]["categories"]
    assert [(each["name"], each["count"]) for each in cameras] == [("c0", 4), ("c1", 4), ("c2", 4)]
    picture = Image.open(io.BytesIO(base64.b64decode(data["thumbnails"][0])))
    assert picture.size == (32, 32)
    assert len(data["neighbours"][0]) == 6
    assert np.abs(data["places"]["PCA"]).max() == 1
    assert list(data["places"]) == ["t-SNE", "PCA"]


def test_a_part_can_be_drawn_of_a_large_dataset(dataset, run, tmp_path):
    report = write_embeddings(run, dataset, tmp_path / "out", max_videos=5, seed=3, **QUIET)
    assert (report.num_videos, report.num_left_out) == (5, 7)
    assert any(line.startswith("7 videos not looked at: 5 were drawn at random (seed 3)") for line in report.lines())


def test_unreadable_videos_are_counted_and_named(dataset, run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    victims = sorted((copy / "data" / "test").glob("*.*4")) or sorted((copy / "data" / "test").glob("v*"))
    victims[0].write_bytes(b"no video")
    report = write_embeddings(run, copy, tmp_path / "out", splits=["test"], **QUIET)
    assert report.num_videos == 3
    assert [one["video"] for one in report.unread] == [victims[0].name]
    assert report.lines()[-1].startswith(f"1 video cannot be read, first {victims[0].name}: ")
    assert victims[0].name in (tmp_path / "out" / "embeddings.html").read_text()
    for victim in victims[1:3]:
        victim.write_bytes(b"no video")
    with pytest.raises(ValueError, match="needs 3 videos, got 1 that can be read and 3 that cannot"):
        write_embeddings(run, copy, tmp_path / "out2", splits=["test"], **QUIET)
    assert not (tmp_path / "out2").exists()


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"splits": ["tset"]}, "has no split 'tset'; it has train, validation, test"),
        ({"camera_column": "weathr"}, "has no column 'weathr'; did you mean 'weather'"),
        ({"max_videos": 2}, "max_videos must be at least 3.* got max_videos 2"),
        ({"perplexity": 0.0}, "perplexity above 0.* got .*perplexity 0.0"),
    ],
)
def test_wrong_wishes_are_refused_in_one_line(dataset, run, tmp_path, wishes, message):
    with pytest.raises(ValueError, match=message) as error:
        write_embeddings(run, dataset, tmp_path / "out", **{**QUIET, **wishes})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_another_column_may_tell_the_camera(dataset, run, tmp_path):
    report = write_embeddings(run, dataset, tmp_path / "out", splits=["test"], camera_column="weather", **QUIET)
    assert "by weather" in report.lines()[0]
    assert "weather (camera)" in [column["title"] for column in _island(tmp_path / "out")["columns"]]


def test_a_model_that_tells_nothing_apart_is_refused(dataset, run, tmp_path):
    model = Predictor.from_pretrained(run)
    with torch.no_grad():
        model.model.timesformer.layernorm.weight.zero_()
    model.model.save_pretrained(tmp_path / "run")
    model.pixels.save_pretrained(tmp_path / "run")
    with pytest.raises(ValueError, match="all 4 videos have the same embedding"):
        write_embeddings(tmp_path / "run", dataset, tmp_path / "out", splits=["test"], **QUIET)
