import json

import pytest

from railsformer.evaluation.operating_points import OperatingPoint
from railsformer.evaluation.operating_points_file import (
    OperatingPointsFile,
    read_operating_points,
    write_operating_points,
)

NAMES = ["Track-Excavator", "Bucket-Worker", "Other"]
POINTS = {
    "Track-Excavator": OperatingPoint(0.123456789012345, "recall>=0.9", reached=True),
    "Bucket-Worker": OperatingPoint(0.8, "false_alarms_per_hour<=1.0", reached=False),
}
CONTENT = {
    "version": 1,
    "temperature": 1.7,
    "labels": {"Bucket-Worker": {"threshold": 0.8, "target": "recall>=0.9"}},
    "split": "validation",
    "dataset_fingerprint": "d0c3b5ce61e44a74",
}


def _write(folder, **changes):
    content = {key: value for key, value in (CONTENT | changes).items() if value is not ...}
    (folder / "operating_points.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_what_is_written_is_read_again(tmp_path):
    path = write_operating_points(tmp_path, POINTS, temperature=1.25, split="validation", dataset_fingerprint=None)
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "version": 1,
        "temperature": 1.25,
        "labels": {
            "Track-Excavator": {"threshold": 0.123456789012345, "target": "recall>=0.9"},
            "Bucket-Worker": {"threshold": 0.8, "target": "false_alarms_per_hour<=1.0"},
        },
        "split": "validation",
        "dataset_fingerprint": None,
    }
    expected = OperatingPointsFile(
        temperature=1.25,
        thresholds={"Track-Excavator": 0.123456789012345, "Bucket-Worker": 0.8},
        targets={"Track-Excavator": "recall>=0.9", "Bucket-Worker": "false_alarms_per_hour<=1.0"},
        split="validation",
        dataset_fingerprint=None,
    )
    assert read_operating_points(tmp_path, label_names=NAMES) == expected
    assert read_operating_points(path, label_names=NAMES) == expected


def test_writing_replaces_what_is_there_and_leaves_nothing_else(tmp_path):
    _write(tmp_path)
    write_operating_points(tmp_path, POINTS, temperature=2.0, split="test", dataset_fingerprint="x")
    assert read_operating_points(tmp_path, label_names=NAMES).temperature == 2.0
    assert [path.name for path in tmp_path.iterdir()] == ["operating_points.json"]


def test_a_label_without_a_threshold_is_left_out(tmp_path):
    points = POINTS | {"Bucket-Worker": OperatingPoint(None, "recall>=0.9", reached=False)}
    write_operating_points(tmp_path, points, temperature=1.0, split="validation", dataset_fingerprint=None)
    assert list(read_operating_points(tmp_path, label_names=NAMES).thresholds) == ["Track-Excavator"]


def test_a_model_without_operating_points(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no operating points yet; write it anew with railsformer evaluate"):
        read_operating_points(tmp_path, label_names=NAMES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "must be of version 1, got 2"),
        ({"version": ...}, "must be of version 1, got None"),
        ({"temperature": ...}, "is damaged: temperature is missing"),
        ({"temperature": 0}, "temperature must be a number above 0, got 0"),
        ({"temperature": "warm"}, "temperature must be a number above 0, got 'warm'"),
        ({"temperature": float("nan")}, "temperature must be a number above 0, got nan"),
        ({"labels": []}, r"labels must be one entry a label, got \[\]"),
        (
            {"labels": {"train": {"threshold": 0.5, "target": "recall>=0.9"}}},
            "label 'train' that this model does not know",
        ),
        ({"labels": {"Other": {"threshold": 1.5, "target": "recall>=0.9"}}}, "threshold of Other must be above 0"),
        ({"labels": {"Other": {"threshold": True, "target": "recall>=0.9"}}}, "threshold of Other must be above 0"),
        ({"labels": {"Other": {"target": "recall>=0.9"}}}, "threshold of Other must be above 0 .* got None"),
        ({"labels": {"Other": 0.5}}, "threshold of Other must be above 0 .* got None"),
        ({"labels": {"Other": {"threshold": 0.5}}}, "target of Other must be text such as recall>=0.9"),
        ({"labels": {"Other": {"threshold": 0.5, "target": "recall"}}}, "Other: target must be .* got 'recall'"),
        ({"split": None}, "split must be text, got None"),
        ({"dataset_fingerprint": 3}, "dataset_fingerprint must be text, got 3"),
    ],
)
def test_files_that_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        read_operating_points(_write(tmp_path, **changes), label_names=NAMES)
    assert str(tmp_path / "operating_points.json") in str(error.value)
    assert str(error.value).endswith("write it anew with railsformer evaluate --recalibrate")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b'{"version": 1, "temp', b"\xff\xfe", b"[1]", b"1"])
def test_damaged_files(tmp_path, content):
    (tmp_path / "operating_points.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged|must be of version 1, got None"):
        read_operating_points(tmp_path, label_names=NAMES)
