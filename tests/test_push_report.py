"""Pushing a run with its report: the figures go up beside the model, and nothing that shows or names footage."""

import json
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from report_metrics import LABELS, metrics_2, mixed_splits
from test_cards import METRICS

from railsformer.evaluation.report_pages import Frames, Predictions, write_report
from railsformer.hub.cards import card_for_repository, report_of_run, write_run_card
from railsformer.hub.public_metrics import public_metrics
from railsformer.hub.public_report import read_metrics, report_files
from railsformer.hub.push import push

PUSH = """
import json, sys
from railsformer.hub.push import push
report, with_footage = sys.argv[3] or None, sys.argv[4:] == ["--with_footage"]
print(json.dumps(push(sys.argv[1], sys.argv[2], report=report, with_footage=with_footage)))
"""
FIGURES = ("confusion_matrix.png", "confusion_matrix.svg", "reliability.png", "reliability.svg")
NAMES_OF_FOOTAGE = (b"gate_secret", b"/srv", b"/home")


@pytest.fixture(scope="module")
def written_report(tmp_path_factory) -> Path:
    """A report as `evaluate` leaves it, with pictures and names of videos."""
    folder = tmp_path_factory.mktemp("written")
    rng = np.random.default_rng(0)
    references = np.repeat([0, 1, 3], [10, 2, 15])
    scores = rng.dirichlet(np.ones(len(LABELS)), size=28)
    scores[27] = np.nan
    predictions = Predictions(
        label_names=LABELS,
        videos=[f"gate_secret_{i:04}.mp4" for i in range(28)],
        references=np.append(references, 3),
        scores=scores,
        metadata={"source": [f"/srv/footage/gate_secret_{i:04}.mp4" for i in range(28)]},
    )
    frames = Frames([1.0, 2.0], rng.integers(0, 255, (2, 48, 64, 3), dtype=np.uint8))
    write_report(folder, metrics_2(), predictions, mistakes_frames=[frames])
    (folder / "operating_points.json").write_text('{"version": 1}')
    return folder


@pytest.fixture
def report(written_report, tmp_path) -> Path:
    """A copy that a test may change."""
    folder = tmp_path / "report"
    folder.mkdir()
    for path in written_report.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    """A run folder as training leaves it; the weights are any bytes."""
    folder = tmp_path / "first"
    folder.mkdir()
    config = {"model_type": "timesformer", "num_frames": 8, "id2label": dict(enumerate(LABELS))}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "preprocessor_config.json").write_text("{}")
    facts = {
        "base": "facebook/timesformer-base-finetuned-k400",
        "base_license": "cc-by-nc-4.0",
        "dataset": "/srv/footage/yard",
        "dataset_fingerprint": "abc123",
        "split_kind": "by camera (6 groups)",
        "labels": LABELS,
        "given": {"learning_rate": 0.005, "output_dir": "/home/someone/first"},
    }
    (folder / "run.json").write_text(json.dumps(facts))
    assert write_run_card(folder)
    return folder


# -- what goes up


def test_model_card_report_and_thresholds_go_up_and_name_no_footage(hub, run, report):
    hub.run(PUSH, run, "user/yard-hazards", report)
    assert hub.repos["model", "user/yard-hazards"].private
    files = hub.files("model", "user/yard-hazards")
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "operating_points.json"} <= files.keys()
    assert {f"report/{name}" for name in ("report.html", "report.md", "metrics.json", *FIGURES)} <= files.keys()
    assert not any("predictions" in name or "mistakes" in name or name.endswith("run.json") for name in files)
    for name, data in files.items():
        assert not any(secret in data for secret in NAMES_OF_FOOTAGE), name
    assert b"data:image/jpeg" not in files["report/report.html"]  # the pictures of the mistakes
    card = ModelCard(files["README.md"].decode())
    assert card.data.model_name == "yard-hazards"
    assert card.text.lstrip().startswith("# yard-hazards")
    assert 'MODEL = "user/yard-hazards"\n' in card.text
    assert "accuracy 0.667 (0.48 to 0.81)" in card.text
    figures = json.loads(files["report/metrics.json"])
    assert figures["accuracy"] == metrics_2()["accuracy"]


def test_pushing_again_takes_away_a_report_that_is_gone(hub, run, tmp_path):
    write_old_report(tmp_path)
    assert write_run_card(run, metrics=METRICS, report_dir=tmp_path)
    hub.run(PUSH, run, "user/run", "")
    assert "report/report.md" in hub.files("model", "user/run")
    (tmp_path / "metrics.json").unlink()
    hub.run(PUSH, run, "user/run", "")
    files = hub.files("model", "user/run")
    assert "model.safetensors" in files
    assert not any(name.startswith("report/") for name in files)


def test_footage_goes_up_where_it_is_asked_for(hub, run, report):
    hub.run(PUSH, run, "user/run", report, "--with_footage")
    files = hub.files("model", "user/run")
    sent = {name.removeprefix("report/"): data for name, data in files.items() if name.startswith("report/")}
    kept = {path.name: path.read_bytes() for path in report.iterdir() if path.name != "operating_points.json"}
    assert sent == kept
    assert {"predictions.csv", "mistakes.png"} <= sent.keys()


def test_the_written_report_does_hold_what_stays_at_home(report):
    # Without this the tests above would also pass on a report that never held a name or a picture.
    assert b"gate_secret" in (report / "report.html").read_bytes()
    assert (report / "mistakes.png").is_file()


def test_pages_are_the_same_figures_without_names(report):
    files = report_files(report)
    page = files["report.md"]
    assert isinstance(page, bytes)
    assert b"gate_secret" not in page
    assert b"0.601" in page
    assert files["confusion_matrix.svg"] == (report / "confusion_matrix.svg").read_bytes()


def write_old_report(folder: Path) -> None:
    """A report of version 1, which names no video on its page."""
    metrics = {**METRICS, "dataset": "/srv/footage/yard", "model": "/home/someone/first"}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "report.md").write_text("# test of /srv/footage/yard\n\nModel `/home/someone/first`, 8 videos.\n")
    (folder / "confusion_matrix.png").write_bytes(b"picture")
    (folder / "predictions.csv").write_text("video,label,prediction\ngate_secret_1.mp4,Other,Other\n")


def test_a_report_of_version_1_goes_up_without_paths(tmp_path):
    write_old_report(tmp_path)
    files = report_files(tmp_path)
    assert files.keys() == {"metrics.json", "report.md", "confusion_matrix.png"}
    assert files["report.md"] == b"# test of yard\n\nModel `first`, 8 videos.\n"
    assert json.loads(files["metrics.json"]) == {**METRICS, "dataset": "yard", "model": "first"}


def test_public_metrics_name_no_video():
    protocol = mixed_splits(
        "mixed", reason="as /srv/gate_secret/training_videos.json says", videos=["gate_secret.mp4"]
    )
    slices = [{**metrics_2()["slices"][0], "column": "source", "value": "gate_secret.mp4"}]
    metrics = metrics_2(protocol=protocol, slices=slices, worst_slice={**slices[0]})
    public = public_metrics(metrics)
    assert "gate_secret" not in json.dumps(public).replace("gate_secret/training", "")
    assert "/srv" not in json.dumps(public)
    assert public["protocol"]["mixed_splits"]["num_exact"] == 1
    assert public["num_unread"] == 1
    assert metrics["mistakes"]  # the original is left as it is


def test_groups_that_are_files_are_not_named():
    protocol = {**metrics_2()["protocol"], "split_kind": "by file; recordings unknown", "groups": ["gate_secret.mp4"]}
    slices = [{**metrics_2()["slices"][0], "column": "group", "value": "gate_secret.mp4"}]
    public = public_metrics(metrics_2(protocol=protocol, slices=slices))
    assert "gate_secret" not in json.dumps(public)


# -- which report, which card


def test_a_run_remembers_the_report_that_its_card_shows(run, report):
    assert report_of_run(run) is None
    write_run_card(run, metrics=metrics_2(), report_dir=report)
    known = report_of_run(run)
    assert known is not None
    assert known.folder == report
    assert known.is_intact()
    (report / "metrics.json").write_text("{}")  # another evaluation was written there
    assert not known.is_intact()


def test_a_card_that_somebody_edited_goes_up_as_it_is(run):
    assert card_for_repository(run, "user/run") is not None
    with (run / "README.md").open("a") as file:
        file.write("Tried on site in March.\n")
    assert card_for_repository(run, "user/run") is None


def test_a_card_under_its_new_name_says_the_same(run):
    write_run_card(run, metrics=metrics_2())
    before = ModelCard.load(run / "README.md")
    content = card_for_repository(run, "user/yard-hazards")
    assert content is not None
    after = ModelCard(content.decode())
    assert after.data.eval_results == before.data.eval_results
    assert after.data.license == before.data.license == "cc-by-nc-4.0"
    assert after.text.count("first") == before.text.count("first") - 2  # the title and the code


# -- refusals


def test_a_report_of_another_model_is_refused(run, report):
    metrics = metrics_2(confusion_matrix={"labels": ["up", "down"], "matrix": [[1, 0], [0, 1]]})
    (report / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(ValueError, match=r"is of a model with the labels up, down, but .* has Track-Excavator"):
        push(run, "user/run", report=report)


def test_a_folder_without_report_is_refused(run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere has no metrics\.json; give the output folder"):
        push(run, "user/run", report=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"metrics\.json is no JSON"),
        ("[]", "is not of an evaluation"),
        ('{"accuracy": 1}', "is not of an evaluation"),
        (json.dumps({**METRICS, "version": 3}), "is of version 3, expected 1 to 2; update railsformer"),
    ],
)
def test_a_damaged_report_is_refused(tmp_path, text, message):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_metrics(tmp_path)


def test_damaged_thresholds_are_refused(run, tmp_path):
    write_old_report(tmp_path)
    write_run_card(run, metrics=METRICS, report_dir=tmp_path)
    (run / "operating_points.json").write_text("{")
    with pytest.raises(ValueError, match=r"operating_points\.json is damaged .*; evaluate again"):
        push(run, "user/run")


def test_a_report_without_its_predictions_is_refused(report):
    (report / "predictions.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"predictions\.csv is missing, without which the report cannot be"):
        report_files(report)


@pytest.mark.parametrize("changes", [{"report": "somewhere"}, {"with_footage": True}])
def test_report_flags_go_with_a_model_only(tmp_path, changes):
    for source in ("metric", tmp_path):
        with pytest.raises(ValueError, match="is no run folder; --report and --with_footage go with a model only"):
            push(source, "user/run", **changes)
