"""What `evaluate` prints at its end: where things went, and what will not alarm."""

import json

import pytest
import report_content as make

from railsformer.cli_evaluate import _summary
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
    assert "keeps its own, --recalibrate would replace them" in _summary(report, tmp_path)
    hub = _summary(report, tmp_path / "nobody" / "model")
    assert "cannot be written to and stays as it is" in hub
    assert "--recalibrate" not in hub


def test_a_card_that_cannot_be_written_does_not_hide_the_figures(metrics, run):
    (run / "README.md").mkdir()
    report = EvaluationReport(run.parent, metrics | {"dataset_fingerprint": ""})
    text = _summary(report, run)
    assert f"The card of {run} cannot be written" in text
    assert "macro F1" in text
