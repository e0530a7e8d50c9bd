import csv
import json

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from videos import write_video

import railsformer.evaluation.report as report
from railsformer.data.builder import build_dataset
from railsformer.data.folders import check_output_dir
from railsformer.data.transforms import PixelSettings
from railsformer.data.video import VideoDecodeError
from railsformer.evaluation.report import evaluate_model, per_class_table
from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

# What the command promises; a program that reads metrics.json depends on it.
FIGURES = {
    "accuracy",
    "balanced_accuracy",
    "f1_macro",
    "f1_weighted",
    "per_class",
    "confusion_matrix",
    "num_videos",
    "protocol",
    "split",
    "dataset_fingerprint",
    "versions",
}
BESIDE = {"absent_labels", "dataset", "model"}
NAMES = ["bridge_down", "no_action", "train_in_out"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Seven videos in the test split, of two of the three classes."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built") / "dataset"
    wanted = [("train", name) for name in NAMES] + [("validation", NAMES[0])]
    wanted += [("test", NAMES[index % 2]) for index in range(1, 8)]
    rows = []
    for index, (camera, label) in enumerate(wanted):
        name = f"v{index:02d}.mp4"
        write_video(source / name, num_frames=6, width=32, height=32, first_number=index * 20)
        rows.append({"file_name": name, "label": label, "camera": camera, "note": f"näme {index}, quoted"})
    with (source / "clips.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    build_dataset(
        source,
        output_dir=folder,
        annotations=source / "clips.csv",
        group_by="camera",
        validation_groups=["validation"],
        test_groups=["test"],
        progress=False,
    )
    return folder


def _save_model(folder, names):
    torch.manual_seed(0)
    config = RailsformerConfig(
        image_size=32,
        patch_size=16,
        num_frames=2,
        frame_interval=3,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.5,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    RailsformerForVideoClassification(config).save_pretrained(folder)
    PixelSettings(32, 32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return _save_model(tmp_path_factory.mktemp("model"), NAMES)


@pytest.fixture(scope="module")
def written(model, built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports") / "deep" / "report"
    return evaluate_model(model, dataset=built, output_dir=folder, num_workers=0)


def test_what_is_written(written):
    assert {path.name for path in written.output_dir.iterdir()} == {
        "metrics.json",
        "predictions.csv",
        "report.md",
        "confusion_matrix.png",
    }
    assert [path.name for path in written.output_dir.parent.iterdir()] == ["report"]
    assert written.output_dir.stat().st_mode & 0o077 == written.output_dir.parent.stat().st_mode & 0o077


def test_metrics_json(written, built, model):
    metrics = json.loads((written.output_dir / "metrics.json").read_text(encoding="utf-8"))
    assert metrics == written.metrics
    assert set(metrics) == FIGURES | BESIDE
    assert metrics["split"] == "test"
    assert metrics["num_videos"] == 7
    assert set(metrics["per_class"]) == set(NAMES)
    assert all(set(row) == {"precision", "recall", "f1", "support"} for row in metrics["per_class"].values())
    assert metrics["confusion_matrix"]["labels"] == NAMES
    assert np.array(metrics["confusion_matrix"]["matrix"]).sum(axis=1).tolist() == [3, 4, 0]
    assert metrics["absent_labels"] == ["train_in_out"]
    assert metrics["dataset_fingerprint"] == json.loads((built / "dataset.json").read_text())["fingerprint"]
    assert set(metrics["versions"]) == set(report.PACKAGES)
    protocol = metrics["protocol"]
    assert protocol["sampling"] == {
        "num_frames": 2,
        "frame_interval": 3,
        "nominal_fps": 30.0,
        "short_video": "hold",
        "clip_sampling": "interval",
    }
    assert (protocol["num_clips"], protocol["num_crops"], protocol["frame_order"]) == (1, 1, "forwards")
    assert protocol["pixels"]["crop_px"] == 32
    assert "camera" in protocol["split_kind"]
    assert protocol["decoder"].startswith("av ")


def test_predictions_csv(written, built):
    with (written.output_dir / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    truth = datasets.load_dataset(str(built))["test"].cast_column("video", datasets.Video(decode=False))
    assert [row["video"] for row in rows] == [row["video"]["path"].rpartition("/")[2] for row in truth]
    assert [row["label"] for row in rows] == [NAMES[label] for label in truth["label"]]
    assert [row["note"] for row in rows] == list(truth["note"])
    correct = 0
    for row in rows:
        scores = [float(row[f"score_{name}"]) for name in NAMES]
        assert sum(scores) == pytest.approx(1, abs=1e-5)
        assert row["prediction"] == NAMES[int(np.argmax(scores))]
        correct += row["prediction"] == row["label"]
    assert correct / len(rows) == pytest.approx(written.metrics["accuracy"])


def test_report_md(written):
    text = (written.output_dir / "report.md").read_text(encoding="utf-8")
    for line in (
        "| class | precision | recall | F1 | videos |",
        "| train_in_out | – | – | – | 0 |",
        "Not in this split, and so without figures: train_in_out.",
        "- A clip is 2 frames, 0.100 s apart (3 steps at 30 fps), picked by presentation time; "
        "a shorter video holds its last picture.",
        "![Confusion matrix](confusion_matrix.png)",
    ):
        assert line in text.splitlines()
    assert f"{written.metrics['f1_macro']:.3f}" in text
    assert written.metrics["dataset_fingerprint"] in text


def test_per_class_table(written):
    lines = per_class_table(written.metrics).splitlines()
    assert lines[0].split() == ["precision", "recall", "F1", "videos"]
    assert [line.split()[0] for line in lines[1:4]] == NAMES
    assert lines[3].split() == ["train_in_out", "-", "-", "-", "0"]
    assert lines[-2].split() == ["macro", "F1", f"{written.metrics['f1_macro']:.3f}"]
    assert len({len(line) for line in lines[:4]}) == 1


def test_labels_are_matched_by_name(model, built, tmp_path, written):
    """The same network whose outputs stand in another order must give the same figures."""
    order = [2, 0, 1]
    shuffled = _save_model(tmp_path / "shuffled", [NAMES[index] for index in order])
    network = RailsformerForVideoClassification.from_pretrained(model)
    network.config.id2label = {index: NAMES[old] for index, old in enumerate(order)}
    network.config.label2id = {name: index for index, name in network.config.id2label.items()}
    with torch.no_grad():
        network.classifier.weight.copy_(network.classifier.weight[order].clone())
        network.classifier.bias.copy_(network.classifier.bias[order].clone())
    network.save_pretrained(shuffled)
    metrics = evaluate_model(shuffled, dataset=built, output_dir=tmp_path / "out", num_workers=0).metrics
    assert metrics["per_class"] == written.metrics["per_class"]
    assert metrics["accuracy"] == written.metrics["accuracy"]
    assert metrics["confusion_matrix"]["labels"] == [NAMES[index] for index in order]
    matrix = np.array(written.metrics["confusion_matrix"]["matrix"])
    assert metrics["confusion_matrix"]["matrix"] == matrix[np.ix_(order, order)].tolist()


def test_a_model_may_know_more_labels_than_the_dataset(built, tmp_path):
    wide = _save_model(tmp_path / "wide", [*NAMES, "Other"])
    metrics = evaluate_model(wide, dataset=built, output_dir=tmp_path / "out", num_workers=0).metrics
    assert metrics["absent_labels"] == ["train_in_out", "Other"]
    assert metrics["num_videos"] == 7


def test_an_unknown_label_is_refused(built, tmp_path):
    narrow = _save_model(tmp_path / "narrow", ["bridge_down", "no_action"])
    with pytest.raises(
        ValueError, match=r"label 'train_in_out' of .* is not known to .*, which has bridge_down, no_ac"
    ):
        evaluate_model(narrow, dataset=built, output_dir=tmp_path / "out", num_workers=0)
    assert not (tmp_path / "out").exists()


def test_the_middle_frame_is_said(model, built, tmp_path):
    done = evaluate_model(
        model, dataset=built, output_dir=tmp_path, frame_order="middle", num_clips=2, batch_size=3, num_workers=0
    )
    assert done.metrics["protocol"]["frame_order"] == "middle"
    assert done.metrics["protocol"]["num_clips"] == 2
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Every frame was replaced by the clip's middle one" in text
    assert "2 clip(s) x 1 crop(s)" in text


def test_an_output_folder_that_holds_something_is_refused(model, built, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(FileExistsError, match="already holds something; remove it or name another folder"):
            evaluate_model(model, dataset=built, output_dir=folder)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert check_output_dir(tmp_path / "new") == tmp_path / "new"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"split": "holdout"}, ValueError, "has no split 'holdout'"),
        ({"dataset": "/nowhere/dataset"}, FileNotFoundError, "/nowhere/dataset: no dataset here"),
    ],
)
def test_other_bad_input_leaves_nothing(model, built, tmp_path, change, error, message):
    arguments = {"dataset": built, "output_dir": tmp_path / "out", "num_workers": 0, **change}
    with pytest.raises(error, match=message):
        evaluate_model(model, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_video_leaves_nothing(model, built, tmp_path, monkeypatch):
    def refuse(path, times):
        raise VideoDecodeError(path, "broken")

    monkeypatch.setattr("railsformer.data.clips.read_frames", refuse)
    with pytest.raises(VideoDecodeError, match=r"\.mp4: broken"):
        evaluate_model(model, dataset=built, output_dir=tmp_path / "out", num_workers=0)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_writing_leaves_nothing(model, built, tmp_path, monkeypatch):
    def full(path, metrics):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "_draw_confusion_matrix", full)
    with pytest.raises(OSError, match="No space left"):
        evaluate_model(model, dataset=built, output_dir=tmp_path / "out", num_workers=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("num_labels", [2, 4, 9])
def test_the_confusion_matrix_shows_right_in_blue_and_wrong_in_orange(tmp_path, num_labels):
    labels = ["a worker in reach of the bucket_of_the_excavator", *(f"l{index}" for index in range(1, num_labels))]
    matrix = np.eye(num_labels, dtype=int) * 7
    matrix[0, :2] = 2, 5
    metrics = {"confusion_matrix": {"labels": labels, "matrix": matrix.tolist()}, "split": "test", "num_videos": 7}
    report._draw_confusion_matrix(tmp_path / "a.png", {**metrics, "f1_macro": 0.5})
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int).reshape(-1, 3)
    blue = (pixels[:, 2] - pixels[:, 0] > 100).mean()
    orange = (pixels[:, 0] - pixels[:, 2] > 100).mean()
    assert min(blue, orange) > 0.003
    assert (pixels.min(axis=1) > 250).mean() > 0.3  # what did not happen stays white


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Other", "Other"),
        ("Track-Excavator", "Track-\nExcavator"),
        ("inside_turquoise_bridge", "inside_\nturquoise_\nbridge"),
        ("worker on live track", "worker on\nlive track"),
        (
            "a b c d e f g h i j k l m n o p q r s t u v w x y z",
            "a b c d e f g\nh i j k l m n\no p q r s t u\nv w x y z",
        ),
    ],
)
def test_long_names_are_wrapped(name, expected):
    assert report._wrapped(name, 13) == expected
