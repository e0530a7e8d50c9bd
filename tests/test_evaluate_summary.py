"""What `evaluate` prints at its end: where things went, and what will not alarm."""

import json

import pytest
import report_content as make

from railsformer.cli_evaluate import _summary
from railsformer.evaluation.operating_points_file import OperatingPointsFile
from railsformer.evaluation.report import EvaluationReport


@pytest.fixture(scope="module")
def metrics():
    return make.content(make.draw_predictions(num_videos=60))


@pytest.fixture
def run(tmp_path):
    facts = {
        "base": None,
        "base_license": None,
        "dataset": "yard",
        "dataset_fingerprint": "",
        "split_kind": "by camera",
        "labels": ["a"],
        "given": {},
    }
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(facts))
    return folder


def test_a_hazard_that_nothing_will_alarm_for_is_named(metrics, tmp_path):
    text = _summary(EvaluationReport(tmp_path, make.without_thresholds(metrics), stored_in_run=True), tmp_path)
    assert "NO THRESHOLD for Track-Excavator: validation cannot say which" in text
    assert "NO THRESHOLD" not in _summary(EvaluationReport(tmp_path, metrics, stored_in_run=True), tmp_path)


def test_where_the_operating_points_are(metrics, tmp_path):
    report = EvaluationReport(tmp_path / "report", metrics)
    assert "has none, --recalibrate would give it some" in _summary(report, tmp_path)
    (tmp_path / "operating_points.json").write_text("{}")
    assert "keeps its own, --recalibrate would replace them" in _summary(report, tmp_path)
    hub = _summary(report, tmp_path / "nobody" / "model")
    assert "cannot be written to and stays as it is" in hub
    assert "--recalibrate" not in hub


def test_thresholds_in_use_are_never_replaced_without_a_word(metrics, tmp_path):
    labels = metrics["operating_points"]["labels"]
    same = {name: point["threshold"] for name, point in labels.items()}
    temperature = metrics["calibration"]["temperature"]

    def told(thresholds, temperature):
        before = OperatingPointsFile(temperature, thresholds, {}, "validation", None)
        report = EvaluationReport(tmp_path, metrics, stored_in_run=True, replaced=before)
        return next(line for line in _summary(report, tmp_path).splitlines() if line.startswith("operating points:"))

    assert told(same, temperature).endswith("operating_points.json; unchanged")
    first, second = list(same)[:2]
    changed = told({**same, first: 0.25} | {"Gone": 0.125}, 1.2)
    assert f"CHANGED in {tmp_path}: temperature 1.2 -> 1.9, {first} 0.25 -> 0.5" in changed
    assert "Gone 0.125 -> none" in changed
    assert second not in changed
    assert f"{first} none -> 0.5" in told({second: 0.5}, temperature)
    new = _summary(EvaluationReport(tmp_path, metrics, stored_in_run=True), tmp_path)
    assert "CHANGED" not in new
    assert "unchanged" not in new


def test_thresholds_that_were_measured_and_not_fitted(metrics, tmp_path):
    text = _summary(EvaluationReport(tmp_path, make.stored_thresholds(metrics)), tmp_path)
    assert "operating points: nothing was fitted: temperature and thresholds are those" in text
    assert f"NO THRESHOLD for Track-Excavator: {tmp_path} was given none; it never alarms" in text


def test_a_card_that_cannot_be_written_does_not_hide_the_figures(metrics, run):
    (run / "README.md").mkdir()
    report = EvaluationReport(run.parent, metrics | {"dataset_fingerprint": ""})
    text = _summary(report, run)
    assert f"The card of {run} cannot be written" in text
    assert "macro F1" in text
