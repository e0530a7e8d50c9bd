import csv
import json
import shutil

import datasets
import numpy as np
import pytest
import torch
from videos import write_video

import railsformer.evaluation.report as report
from railsformer.data.builder import build_dataset
from railsformer.data.clips import load_video_dataset
from railsformer.data.folders import check_output_dir
from railsformer.data.transforms import PixelSettings
from railsformer.evaluation.operating_points import OperatingPoint
from railsformer.evaluation.operating_points_file import read_operating_points, write_operating_points
from railsformer.evaluation.other_report import check_shared, read_other_report
from railsformer.evaluation.report import evaluate_model, per_class_table
from railsformer.evaluation.report_pages import load_schema
from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

# What the command promises; a program that reads metrics.json depends on it.
FIGURES = {
    "version", "accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "f1_micro", "top_k", "map",
    "calibration_error", "per_class", "confusion_matrix", "absent_labels", "num_videos", "unread", "num_unread",
    "intervals", "calibration", "operating_points", "slices", "worst_slice", "mistakes", "costs", "compare",
    "protocol", "split", "dataset", "dataset_fingerprint", "model", "run", "versions",
}  # fmt: skip
NAMES = ["bridge_down", "no_action", "train_in_out"]
KNOWN = [*NAMES, "Other"]  # the model knows one label more than the dataset


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
    return _save_model(tmp_path_factory.mktemp("model"), KNOWN)


@pytest.fixture(scope="module")
def written(model, built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports") / "deep" / "report"
    return evaluate_model(model, dataset=built, output_dir=folder, num_workers=0)


def test_thresholds_of_other_views_than_those_of_predict_stay_in_the_report(model, built, tmp_path):
    done = evaluate_model(model, dataset=built, output_dir=tmp_path / "out", num_clips=2, num_workers=0)
    assert not done.stored_in_run
    assert (done.output_dir / "operating_points.json").is_file()


def test_what_is_written(written, model):
    names = {path.name for path in written.output_dir.iterdir()}
    assert {"metrics.json", "predictions.csv", "report.md", "report.html", "operating_points.json"} <= names
    assert [path.name for path in written.output_dir.parent.iterdir()] == ["report"]
    assert written.output_dir.stat().st_mode & 0o077 == written.output_dir.parent.stat().st_mode & 0o077
    # a local model without another dataset of its own takes the operating points along
    points = read_operating_points(written.output_dir, label_names=KNOWN)
    assert written.stored_in_run
    assert read_operating_points(model, label_names=KNOWN) == points
    assert points.split == "validation"
    assert points.temperature == written.metrics["calibration"]["temperature"]
    assert {path.name for path in model.iterdir()} == {
        "config.json", "model.safetensors", "preprocessor_config.json", "operating_points.json"
    }  # fmt: skip


def test_metrics_json(written, built, model):
    metrics = json.loads((written.output_dir / "metrics.json").read_text(encoding="utf-8"))
    assert metrics == written.metrics
    assert set(metrics) == FIGURES
    assert metrics["split"] == "test"
    assert metrics["num_videos"] == 7
    assert set(metrics["per_class"]) == set(KNOWN)
    keys = {"precision", "recall", "f1", "support", "average_precision"}
    assert all(set(row) == keys for row in metrics["per_class"].values())
    assert metrics["confusion_matrix"]["labels"] == KNOWN
    assert np.array(metrics["confusion_matrix"]["matrix"]).sum(axis=1).tolist() == [3, 4, 0, 0]
    assert metrics["absent_labels"] == ["train_in_out", "Other"]
    assert metrics["unread"] == []
    assert metrics["run"]["num_processes"] == 1
    assert metrics["protocol"]["mixed_splits"]["state"] == "unknown"
    assert metrics["calibration"]["num_videos"] == 1
    assert set(metrics["operating_points"]["labels"]) == set(KNOWN)
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


def test_metrics_json_keeps_to_its_schema(written):
    pytest.importorskip("jsonschema").validate(written.metrics, load_schema())


def test_predictions_csv(written, built):
    with (written.output_dir / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    truth = datasets.load_dataset(str(built))["test"].cast_column("video", datasets.Video(decode=False))
    assert [row["video"] for row in rows] == [row["video"]["path"].rpartition("/")[2] for row in truth]
    assert [row["label"] for row in rows] == [NAMES[label] for label in truth["label"]]
    assert [row["note"] for row in rows] == list(truth["note"])
    correct = 0
    for row in rows:
        scores = [float(row[f"score_{name}"]) for name in KNOWN]
        assert sum(scores) == pytest.approx(1, abs=1e-5)
        assert row["prediction"] == KNOWN[int(np.argmax(scores))]
        correct += row["prediction"] == row["label"]
    assert correct / len(rows) == pytest.approx(written.metrics["accuracy"])


def test_per_class_table(written):
    lines = per_class_table(written.metrics).splitlines()
    assert lines[0].split() == ["precision", "recall", "F1", "videos"]
    assert [line.split()[0] for line in lines[1:5]] == KNOWN
    assert lines[3].split() == ["train_in_out", "-", "-", "-", "0"]
    assert lines[-2].split() == ["macro", "F1", f"{written.metrics['f1_macro']:.3f}"]
    assert len({len(line) for line in lines[:4]}) == 1


def test_labels_are_matched_by_name(model, built, tmp_path, written):
    """The same network whose outputs stand in another order must give the same figures; so says its comparison."""
    order = [2, 0, 3, 1]
    shuffled = _save_model(tmp_path / "shuffled", [KNOWN[index] for index in order])
    network = RailsformerForVideoClassification.from_pretrained(model)
    network.config.id2label = {index: KNOWN[old] for index, old in enumerate(order)}
    network.config.label2id = {name: index for index, name in network.config.id2label.items()}
    with torch.no_grad():
        network.classifier.weight.copy_(network.classifier.weight[order].clone())
        network.classifier.bias.copy_(network.classifier.bias[order].clone())
    network.save_pretrained(shuffled)
    metrics = evaluate_model(
        shuffled, dataset=built, output_dir=tmp_path / "out", num_workers=0, compare=written.output_dir
    ).metrics
    for name, row in metrics["per_class"].items():
        assert row == pytest.approx(written.metrics["per_class"][name])
    assert metrics["accuracy"] == written.metrics["accuracy"]
    assert metrics["confusion_matrix"]["labels"] == [KNOWN[index] for index in order]
    matrix = np.array(written.metrics["confusion_matrix"]["matrix"])
    assert metrics["confusion_matrix"]["matrix"] == matrix[np.ix_(order, order)].tolist()
    compared = metrics["compare"]
    assert (compared["other"], compared["num_shared_videos"]) == ("report", 7)
    assert compared["figures"]["accuracy"]["difference"] == 0
    assert compared["mcnemar"] == {"only_this_right": 0, "only_other_right": 0, "p_value": 1.0}


@pytest.mark.slow
def test_the_thresholds_in_use_are_measured_where_nothing_can_be_fitted(built, tmp_path):
    """On a dataset that the model was not trained on, and not on another one than its own without being asked."""
    model = _save_model(tmp_path / "model", KNOWN)
    points = {name: OperatingPoint(0.2, "recall>=0.5", reached=True) for name in KNOWN[:2]}
    write_operating_points(model, points, temperature=2.0, split="validation", dataset_fingerprint="another")
    before = (model / "operating_points.json").read_bytes()
    done = evaluate_model(model, dataset=built, output_dir=tmp_path / "out", num_workers=0)
    metrics = done.metrics
    assert metrics["protocol"]["thresholds"] == "stored"
    assert "set on validation of another dataset" in metrics["protocol"]["calibration_note"]
    assert metrics["calibration"]["temperature"] == 2.0
    labels = metrics["operating_points"]["labels"]
    assert {name: point["threshold"] for name, point in labels.items()} == {
        **dict.fromkeys(KNOWN[:2], 0.2), **dict.fromkeys(KNOWN[2:])
    }  # fmt: skip
    assert labels["no_action"]["on_split"]["num_positives"] == 4
    assert all(set(one["points"]) == set(KNOWN[:2]) for one in metrics["slices"])
    assert "Measured with the thresholds in use." in (tmp_path / "out" / "report.html").read_text()
    assert (tmp_path / "out" / "operating_points.json").read_bytes() == before
    pytest.importorskip("jsonschema").validate(metrics, load_schema())
    for name, asked in (("split", {"calibration_split": "validation"}), ("target", {"targets": ["recall>=0.5"]})):
        done = evaluate_model(model, dataset=built, output_dir=tmp_path / name, num_workers=0, **asked)
        assert done.metrics["protocol"]["thresholds"] == "fitted"
        assert {point["target"] for point in done.metrics["operating_points"]["labels"].values()} <= {
            "recall>=0.5", "recall>=0.9"
        }  # fmt: skip
        assert not done.stored_in_run
    assert (model / "operating_points.json").read_bytes() == before


@pytest.mark.slow
def test_thresholds_of_the_run_are_fitted_anew_to_their_own_targets(built, tmp_path):
    model = _save_model(tmp_path / "model", KNOWN)
    first = evaluate_model(model, dataset=built, output_dir=tmp_path / "1", num_workers=0, targets=["recall>=0.5"])
    assert first.stored_in_run
    assert first.replaced is None
    before = read_operating_points(model, label_names=KNOWN)
    again = evaluate_model(model, dataset=built, output_dir=tmp_path / "2", num_workers=0)
    assert again.stored_in_run
    assert again.replaced == before == read_operating_points(model, label_names=KNOWN)
    assert set(before.targets.values()) == {"recall>=0.5"}


def test_a_report_of_other_videos_is_refused_before_anything_is_scored(model, built, written, tmp_path):
    with pytest.raises(ValueError, match=r"the two evaluations share no video \(\d+ and 7\)"):
        evaluate_model(
            model, dataset=built, split="validation", output_dir=tmp_path / "out", compare=written.output_dir
        )
    assert not (tmp_path / "out").exists()
    rows, other = load_video_dataset(built).split("test"), read_other_report(written.output_dir, label_names=KNOWN)
    check_shared(other, rows, labels=NAMES)
    with pytest.raises(ValueError, match=r"video '.*' is .* here and .* in the other evaluation"):
        check_shared(other, rows, labels=NAMES[::-1])


def test_an_unknown_label_is_refused(built, tmp_path):
    narrow = _save_model(tmp_path / "narrow", ["bridge_down", "no_action"])
    with pytest.raises(
        ValueError, match=r"label 'train_in_out' of .* is not known to .*, which has bridge_down, no_ac"
    ):
        evaluate_model(narrow, dataset=built, output_dir=tmp_path / "out", num_workers=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("order", "banner"), [("middle", "Without motion."), ("shuffled", "Frames shuffled.")])
def test_frames_in_another_order_fit_nothing_and_leave_the_model_alone(built, tmp_path, order, banner):
    model = _save_model(tmp_path / "model", KNOWN)
    done = evaluate_model(
        model,
        dataset=built,
        output_dir=tmp_path / "out",
        frame_order=order,
        num_clips=2,
        batch_size=3,
        num_workers=0,
    )
    assert done.metrics["protocol"]["frame_order"] == order
    assert banner in (tmp_path / "out" / "report.html").read_text()
    assert done.metrics["protocol"]["num_clips"] == 2
    assert done.metrics["calibration"] is done.metrics["operating_points"] is None
    assert f"frame_order {order}" in done.metrics["protocol"]["calibration_note"]
    assert not done.stored_in_run
    assert not list(tmp_path.rglob("operating_points.json"))
    assert "motion" not in {one["column"] for one in done.metrics["slices"]}


@pytest.fixture(scope="module")
def damaged(built, tmp_path_factory):
    """The same dataset, one video of the test split cut off in the middle of its header."""
    folder = tmp_path_factory.mktemp("damaged") / "dataset"
    shutil.copytree(built, folder)
    victim = sorted((folder / "data" / "test").glob("*.mp4"))[2]
    victim.write_bytes(victim.read_bytes()[:40])
    return folder, victim


def test_an_unread_video_is_listed_and_counts_in_no_figure(model, damaged, tmp_path, written):
    dataset, victim = damaged
    costs = tmp_path / "costs.csv"
    header = ",".join(["", *KNOWN])
    costs.write_text("\n".join([header, *(f"{name},1,2,3,4" for name in KNOWN)]))
    metrics = evaluate_model(
        model,
        dataset=dataset,
        output_dir=tmp_path / "out",
        num_clips=2,
        num_workers=0,
        cost=costs,
        slice_by=["light", "note"],
        targets=["recall>=0.5", "no_action:false_alarms_per_hour<=3"],
    ).metrics
    assert metrics["num_unread"] == 1
    assert metrics["unread"][0]["video"] == victim.name
    assert metrics["unread"][0]["reason_class"] in ("unreadable", "damaged", "truncated", "no_pictures")
    assert metrics["num_videos"] == 6 == np.sum(metrics["confusion_matrix"]["matrix"])
    assert {one["column"] for one in metrics["slices"]} == {"light", "note"}
    assert sum(one["num_videos"] for one in metrics["slices"] if one["column"] == "note") == 6
    assert victim.name not in {one["video"] for one in metrics["mistakes"]}
    assert metrics["costs"]["per_video"] == pytest.approx(metrics["costs"]["total"] / 6)
    targets = {name: point["target"] for name, point in metrics["operating_points"]["labels"].items()}
    assert targets["no_action"] == "false_alarms_per_hour<=3.0"
    assert targets["bridge_down"] == "recall>=0.5"
    with (tmp_path / "out" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if row["video"] == victim.name)
    assert row["prediction"] == row["score_no_action"] == ""
    assert row["label"] in NAMES


def test_a_split_that_is_mostly_unread_is_refused(model, built, tmp_path):
    dataset = tmp_path / "dataset"
    shutil.copytree(built, dataset)
    for victim in sorted((dataset / "data" / "test").glob("*.mp4"))[:4]:
        victim.write_bytes(b"overwritten")
    with pytest.raises(ValueError, match=r"4 of the 7 videos of split 'test' of .* cannot be read, more than half"):
        evaluate_model(model, dataset=dataset, output_dir=tmp_path / "out", num_workers=0)
    assert not (tmp_path / "out").exists()


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
        ({"slice_by": ["nots"]}, ValueError, "--slice_by: the dataset has no column 'nots'; did you mean 'note'"),
        ({"targets": ["recall>0.9"]}, ValueError, "target must be recall>=0.9"),
        ({"targets": ["nothing:recall>=0.9"]}, ValueError, "is for a label that is no hazard"),
        ({"cost": "/nowhere/costs.csv"}, FileNotFoundError, "--cost /nowhere/costs.csv: no such file"),
        ({"compare": "/nowhere/report"}, FileNotFoundError, "--compare /nowhere/report: no report here"),
        ({"recalibrate": True, "calibration_split": "test"}, ValueError, "--recalibrate: nothing was fitted: test is"),
        ({"recalibrate": True, "calibration_split": "new"}, ValueError, "calibration_split must be .*, got 'new'"),
        ({"recalibrate": True, "frame_order": "middle"}, ValueError, "--recalibrate: nothing was fitted: with frame"),
        (
            {"recalibrate": True, "num_clips": 2},
            ValueError,
            "--recalibrate sets thresholds .* got num_clips 2, num_cr",
        ),
        (
            {"recalibrate": True, "num_crops": 3},
            ValueError,
            "score one view, got num_clips 1, num_crops 3 and average",
        ),
        ({"recalibrate": True, "average": "logits"}, ValueError, "average logits; leave --num_clips, --num_crops and"),
        ({"leak_check": "far"}, ValueError, "leak_check must be one of near, exact, got 'far'"),
        ({"frame_order": "back"}, ValueError, "frame_order must be .* middle, shuffled, reversed, got 'back'"),
    ],
)
def test_other_bad_input_leaves_nothing(model, built, tmp_path, change, error, message):
    arguments = {"dataset": built, "output_dir": tmp_path / "out", "num_workers": 0, **change}
    with pytest.raises(error, match=message):
        evaluate_model(model, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_writing_leaves_nothing(model, built, tmp_path, monkeypatch):
    def full(folder, metrics, predictions, *, mistakes_frames):
        (folder / "metrics.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "write_report", full)
    with pytest.raises(OSError, match="No space left"):
        evaluate_model(model, dataset=built, output_dir=tmp_path / "out", num_workers=0)
    assert list(tmp_path.iterdir()) == []
