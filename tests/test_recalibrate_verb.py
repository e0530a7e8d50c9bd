"""A run's thresholds on a new camera, as typed: measured there as they are, then set anew from its labelled clips."""

import json

import pytest
from tiny_run import write_tiny_run

from railsformer.cli import main
from railsformer.data.clips import load_video_dataset
from railsformer.data.toy_yard import render_toy_yard
from railsformer.evaluation.operating_points_file import read_operating_points


def _save_run(folder, dataset):
    """A model that was never trained, but says that it was on this dataset."""
    loaded = load_video_dataset(dataset)
    write_tiny_run(folder, labels=loaded.labels, negative_labels=["Other"])
    facts = {"base": None, "base_license": None, "dataset": str(dataset), "split_kind": "by recording", "given": {}}
    facts |= {"dataset_fingerprint": loaded.fingerprint, "labels": list(loaded.labels)}
    (folder / "run.json").write_text(json.dumps(facts))
    return list(loaded.labels)


@pytest.mark.slow
def test_thresholds_of_a_run_go_to_a_new_camera_and_are_set_anew_there(yard_dataset, tmp_path, capsys):
    run, source, camera = tmp_path / "run", tmp_path / "source", tmp_path / "camera"
    labels = _save_run(run, yard_dataset)

    def typed(*arguments, code=0):
        assert main([str(argument) for argument in arguments]) == code
        told = capsys.readouterr()
        return told.err if code else told.out

    def evaluated(name, dataset, *flags):
        flags = ["--model", run, "--dataset", dataset, "--output_dir", tmp_path / name, "--num_workers", 0, *flags]
        text = typed("evaluate", *flags, "--leak_check", "exact")
        return text, json.loads((tmp_path / name / "metrics.json").read_text(encoding="utf-8"))

    text, metrics = evaluated("own", yard_dataset, "--target", "recall>=0.7")
    assert metrics["protocol"]["thresholds"] == "fitted"
    before = read_operating_points(run, label_names=labels)
    # One camera, so that cameras cannot keep its sides apart: its files do.
    table = render_toy_yard(source, num_recordings=2, seed=9, num_cameras=1, num_workers=1, progress=False)
    typed("build", source, "--annotations", table, "--splits", 0.4, 0.1, 0.5, "--output_dir", camera)

    text, metrics = evaluated("as_it_is", camera)
    assert "operating points: nothing was fitted: temperature and thresholds are those that the model is used" in text
    assert metrics["protocol"]["thresholds"] == "stored"
    assert metrics["calibration"]["temperature"] == before.temperature
    assert read_operating_points(run, label_names=labels) == before

    flags = ["--recalibrate", "--calibration_split", "train"]
    text, metrics = evaluated("anew", camera, *flags)
    after = read_operating_points(run, label_names=labels)
    assert metrics["protocol"]["thresholds"] == "fitted"
    assert after != before
    assert after.dataset_fingerprint == load_video_dataset(camera).fingerprint
    assert after.split == "train"
    assert {name: after.targets[name] for name in before.targets} == before.targets
    (changes,) = [line.partition(f"CHANGED in {run}: ")[2] for line in text.splitlines() if "CHANGED in" in line]
    for name in labels:
        old, new = (
            "none" if name not in points.thresholds else f"{points.thresholds[name]:.4g}" for points in (before, after)
        )
        assert (f"{name} {old} -> {new}" in changes) == (old != new)

    flags += ["--model", run, "--dataset", camera, "--output_dir", tmp_path / "views", "--num_clips", 3]
    assert "--recalibrate sets thresholds for predict and watch, which score one view" in (
        typed("evaluate", *flags, code=2)
    )
    assert read_operating_points(run, label_names=labels) == after
