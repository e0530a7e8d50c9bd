"""Temperature and thresholds: what they are fitted on, and whose folder they go into."""

import json
from dataclasses import replace

import datasets
import numpy as np
import pytest

from railsformer.data.clips import VideoDataset
from railsformer.evaluation.measured_split import MeasuredSplit
from railsformer.evaluation.operating_points_file import read_operating_points
from railsformer.evaluation.recalibration import (
    apply_stored,
    calibrate,
    calibration_note,
    points_in_use,
    points_to_measure,
    read_targets,
    store_operating_points,
)
from railsformer.evaluation.views import UnreadVideo, VideoScores

LABELS = ["bucket", "cabin", "other"]


def _split_of(name, num_videos, *, split_kind="by camera (9 groups)", seed=0, unread=()):
    """Scores that point at the label, more or less; nothing is decoded."""
    rng = np.random.default_rng(seed)
    references = rng.integers(0, 2, num_videos)  # no video of the third label
    logits = rng.normal(size=(num_videos, 3))
    logits[np.arange(num_videos), references] += 1.5
    scores = np.exp(3 * logits) / np.exp(3 * logits).sum(axis=1, keepdims=True)
    scores[list(unread)] = np.nan
    rows = datasets.Dataset.from_list(
        [
            {
                "video": {"path": f"/d/data/{name}/{index}.mp4", "bytes": None},
                "label": int(label),
                "group": f"camera{index % 3}",
                "start_seconds": 5.0,
                "end_seconds": 15.0,
            }
            for index, label in enumerate(references)
        ]
    )
    dataset = VideoDataset("/d", {name: rows}, ("bucket", "cabin"), "abc", split_kind)
    lost = tuple(UnreadVideo(row, f"{row}.mp4", "damaged", "it is cut off") for row in unread)
    return MeasuredSplit(name, dataset, scores=VideoScores(scores, references, lost), label_names=LABELS)


@pytest.fixture(scope="module")
def calibrated():
    targets = read_targets(["recall>=0.8"], label_names=LABELS, negative_labels=["cabin"])
    return calibrate(_split_of("validation", 60, seed=1, unread=[3]), _split_of("test", 40, unread=[0, 7]), targets)


def test_it_is_fitted_on_one_split_and_measured_on_the_other(calibrated):
    assert calibrated.temperature > 1  # the scores are three times too sure
    part = calibrated.calibration
    assert (part["split"], part["num_videos"]) == ("validation", 59)
    assert part["after"]["negative_log_likelihood"] < part["before"]["negative_log_likelihood"]
    bucket = calibrated.operating_points["labels"]["bucket"]
    assert bucket["target"] == "recall>=0.8"
    assert bucket["on_calibration"]["recall"] >= 0.8
    for side, count in (("on_calibration", 59), ("on_split", 38)):
        assert bucket[side]["num_positives"] + bucket[side]["num_negatives"] == count
        assert bucket[side]["negative_hours"] == pytest.approx(bucket[side]["num_negatives"] * 10 / 3600)
    assert "cabin" not in calibrated.operating_points["labels"]  # it means that nothing is wrong


def test_a_label_without_a_video_to_choose_by_has_no_threshold_and_no_figures(calibrated):
    other = calibrated.operating_points["labels"]["other"]
    assert other["threshold"] is None
    assert not other["reached"]
    assert other["on_split"]["recall"] is other["on_split"]["false_alarms_per_hour"] is None
    assert other["on_split"]["num_negatives"] == 38


def test_points_go_into_the_run_that_they_were_fitted_for(calibrated, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"dataset_fingerprint": "abc"}))
    assert store_operating_points(calibrated, tmp_path, recalibrate=False)
    found = read_operating_points(tmp_path, label_names=LABELS)
    assert (found.temperature, found.split) == (calibrated.temperature, "validation")
    assert set(found.thresholds) == {"bucket"}


def test_points_of_another_camera_replace_those_of_the_run_only_when_asked(calibrated, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"dataset_fingerprint": "that of the training"}))
    (tmp_path / "operating_points.json").write_text("those in use")
    assert not store_operating_points(calibrated, tmp_path, recalibrate=False)
    assert (tmp_path / "operating_points.json").read_text() == "those in use"
    assert store_operating_points(calibrated, tmp_path, recalibrate=True)
    assert read_operating_points(tmp_path, label_names=LABELS).dataset_fingerprint == "abc"
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "operating_points.json"}


def test_a_model_of_the_hub_has_no_folder_to_write_into(calibrated):
    assert not store_operating_points(calibrated, "user/name", recalibrate=True)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({}, None),
        ({"calibration_split": "test"}, "test is what is measured"),
        ({"frame_order": "middle"}, "frame_order middle"),
    ],
)
def test_a_report_without_points_says_why_and_recalibrating_refuses(change, note):
    empty = datasets.Dataset.from_list([{"label": 0}])
    dataset = VideoDataset("/d", {"validation": empty, "test": empty}, ("bucket",), "abc", "by camera")
    choices = {"calibration_split": "validation", "frame_order": "forwards", "recalibrate": False, **change}
    found = calibration_note("user/model", dataset, "test", **choices)
    assert found is None if note is None else note in found
    if note:
        with pytest.raises(ValueError, match="--recalibrate: nothing was fitted"):
            calibration_note("user/model", dataset, "test", **{**choices, "recalibrate": True})


def test_a_dataset_without_validation_is_no_mistake_but_a_split_that_is_not_there_is():
    rows = datasets.Dataset.from_list([{"label": 0}])
    dataset = VideoDataset("/d", {"train": rows, "test": rows}, ("bucket",), "abc", "by camera")
    choices = {"frame_order": "forwards", "recalibrate": False}
    note = calibration_note("user/model", dataset, "test", calibration_split="validation", **choices)
    assert note is not None
    assert "no video in a split 'validation'" in note
    with pytest.raises(ValueError, match=r"calibration_split must be one of .* \(train, test\), got 'validation2'"):
        calibration_note("user/model", dataset, "test", calibration_split="validation2", **choices)


@pytest.mark.parametrize(("fingerprint", "refused"), [("abc", True), ("that of another camera", False)])
def test_nothing_is_fitted_on_the_videos_that_the_run_was_trained_on(tmp_path, fingerprint, refused):
    (tmp_path / "run.json").write_text(json.dumps({"dataset_fingerprint": "abc"}))
    rows = datasets.Dataset.from_list([{"label": 0}])
    dataset = VideoDataset("/d", {"train": rows, "test": rows}, ("bucket",), fingerprint, "by camera")
    choices = {"calibration_split": "train", "frame_order": "forwards"}
    for model in (tmp_path, tmp_path / "checkpoint-7"):
        note = calibration_note(model, dataset, "test", recalibrate=False, **choices)
        assert ("the run was trained on train" in note) if refused else note is None
        if refused:
            with pytest.raises(ValueError, match="--recalibrate: nothing was fitted: the run was trained on train"):
                calibration_note(model, dataset, "test", recalibrate=True, **choices)


def test_points_that_were_fitted_for_another_camera_stay_until_the_next_recalibration(calibrated, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"dataset_fingerprint": "abc"}))
    replace(calibrated, dataset_fingerprint="another camera").write(tmp_path)
    assert not store_operating_points(calibrated, tmp_path, recalibrate=False)
    assert read_operating_points(tmp_path, label_names=LABELS).dataset_fingerprint == "another camera"
    assert store_operating_points(calibrated, tmp_path, recalibrate=True)
    assert read_operating_points(tmp_path, label_names=LABELS).dataset_fingerprint == "abc"
    (tmp_path / "operating_points.json").write_text("{")
    assert store_operating_points(calibrated, tmp_path, recalibrate=False)  # a damaged one is written anew


def test_a_checkpoint_is_of_the_run_above_it(calibrated, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"dataset_fingerprint": "that of the training"}))
    (tmp_path / "checkpoint-7").mkdir()
    assert not store_operating_points(calibrated, tmp_path / "checkpoint-7", recalibrate=False)
    assert store_operating_points(calibrated, tmp_path / "checkpoint-7", recalibrate=True)


@pytest.mark.parametrize("model", ["user/name", "/nowhere/run"])
def test_recalibrating_refuses_a_model_that_cannot_keep_the_points(model):
    rows = datasets.Dataset.from_list([{"label": 0}])
    dataset = VideoDataset("/d", {"validation": rows, "test": rows}, ("bucket",), "abc", "by camera")
    choices = {"calibration_split": "validation", "frame_order": "forwards"}
    assert calibration_note(model, dataset, "test", recalibrate=False, **choices) is None
    with pytest.raises(ValueError, match=f"--recalibrate: {model} must be a folder that you may write to"):
        calibration_note(model, dataset, "test", recalibrate=True, **choices)


@pytest.mark.parametrize("content", ["[]", "{", '"abc"'])
def test_a_damaged_run_is_refused_before_anything_is_measured(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    rows = datasets.Dataset.from_list([{"label": 0}])
    dataset = VideoDataset("/d", {"validation": rows, "test": rows}, ("bucket",), "abc", "by camera")
    with pytest.raises(ValueError, match=r"run\.json is damaged .*; restore it"):
        calibration_note(
            tmp_path, dataset, "test", calibration_split="validation", frame_order="forwards", recalibrate=False
        )


def test_groups_are_unknown_where_every_file_is_its_own():
    assert _split_of("test", 6, split_kind="by file; recordings unknown").groups is None
    assert _split_of("test", 4, unread=[1]).groups == ["camera0", "camera2", "camera0"]


def test_half_of_a_split_may_be_unread_and_no_more():
    _split_of("test", 4, unread=[0, 1]).check_read()
    with pytest.raises(ValueError, match="3 of the 4 videos of split 'test' of /d cannot be read, more than half"):
        _split_of("test", 4, unread=[0, 1, 2]).check_read()


def _dataset(fingerprint, *splits):
    rows = datasets.Dataset.from_list([{"label": 0}])
    return VideoDataset("/d", dict.fromkeys(splits, rows), ("bucket",), fingerprint, "by camera")


@pytest.mark.parametrize(
    ("trained_on", "fitted_on", "measured_on", "splits", "measures"),
    [
        ("abc", "abc", "abc", ("validation", "test"), False),  # the run's own: they are fitted anew
        ("abc", "abc", "abc", ("test",), True),  # with nothing to fit them on
        ("abc", "abc", "another", ("validation", "test"), True),
        ("abc", "another", "another", ("validation", "test"), True),  # recalibrated for it
        (None, "abc", "abc", ("validation", "test"), False),  # it does not say what it was trained on
        (None, "abc", "another", ("validation", "test"), True),
    ],
)
def test_when_the_thresholds_in_use_are_measured(
    calibrated, tmp_path, trained_on, fitted_on, measured_on, splits, measures
):
    dataset = _dataset(measured_on, *splits)
    assert points_to_measure(tmp_path, dataset, label_names=LABELS) is None  # there are none
    if trained_on:
        (tmp_path / "run.json").write_text(json.dumps({"dataset_fingerprint": trained_on}))
    replace(calibrated, dataset_fingerprint=fitted_on).write(tmp_path)
    found = points_to_measure(tmp_path, dataset, label_names=LABELS)
    assert found == (read_operating_points(tmp_path, label_names=LABELS) if measures else None)


def test_damaged_thresholds_are_refused_where_they_are_to_be_measured_and_else_replaced(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"dataset_fingerprint": "abc"}))
    (tmp_path / "operating_points.json").write_text("{")
    with pytest.raises(ValueError, match=r"operating_points\.json is damaged"):
        points_to_measure(tmp_path, _dataset("another", "validation", "test"), label_names=LABELS)
    assert points_to_measure(tmp_path, _dataset("abc", "validation", "test"), label_names=LABELS) is None
    assert points_in_use(tmp_path, label_names=LABELS) is None


def test_what_the_thresholds_in_use_do_elsewhere(calibrated, tmp_path):
    calibrated.write(tmp_path)
    stored, measured = read_operating_points(tmp_path, label_names=LABELS), _split_of("test", 40, unread=[0, 7])
    found = apply_stored(stored, measured, hazards=["bucket", "other"])
    assert found.calibration == calibrated.calibration | {"num_videos": None}
    bucket, other = found.operating_points["labels"].values()
    fitted = calibrated.operating_points["labels"]["bucket"]
    assert bucket == fitted | {"reached": None, "on_calibration": None}
    assert (other["threshold"], other["target"], other["on_split"]["recall"]) == (None, None, None)
    assert other["on_split"]["num_negatives"] == 38
    assert found.thresholds == stored.thresholds
    (tmp_path / "again").mkdir()
    found.write(tmp_path / "again")
    assert read_operating_points(tmp_path / "again", label_names=LABELS) == stored


def test_targets_in_use_stay_until_others_are_asked_for(calibrated, tmp_path):
    calibrated.write(tmp_path)
    in_use = points_in_use(tmp_path, label_names=LABELS)
    assert in_use.targets == {"bucket": "recall>=0.8"}

    def wanted(*texts):
        targets = read_targets(texts, label_names=LABELS, negative_labels=["cabin"], in_use=in_use)
        return {name: str(target) for name, target in targets.items()}

    assert wanted() == {"bucket": "recall>=0.8", "other": "recall>=0.9"}
    assert wanted("other:recall>=0.5") == {"bucket": "recall>=0.8", "other": "recall>=0.5"}
    assert wanted("bucket:recall>=0.5") == {"bucket": "recall>=0.5", "other": "recall>=0.9"}
    assert wanted("recall>=0.7") == {"bucket": "recall>=0.7", "other": "recall>=0.7"}


def test_thresholds_of_the_test_split_stay_in_the_report(calibrated, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"dataset_fingerprint": "abc"}))
    assert not store_operating_points(replace(calibrated, split="test"), tmp_path, recalibrate=False)
    assert not (tmp_path / "operating_points.json").exists()
    assert store_operating_points(replace(calibrated, split="test"), tmp_path, recalibrate=True)
