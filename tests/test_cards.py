"""The model card: its metadata as the Hub reads it, its words as a person does, and its code as a machine runs it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from railsformer.hub.cards import write_model_card, write_run_card
from railsformer.training.licenses import is_non_commercial, license_of_base, non_commercial_notice

K400 = "facebook/timesformer-base-finetuned-k400"
LABELS = ["Track-Excavator", "Bucket-Worker", "Other"]
METRICS = {
    "accuracy": 0.75,
    "balanced_accuracy": 0.7,
    "f1_macro": 0.6543210987,
    "f1_weighted": 0.71,
    "per_class": {
        "Track-Excavator": {"precision": 0.5, "recall": 1.0, "f1": 0.6667, "support": 3},
        "Bucket-Worker": {"precision": 1.0, "recall": 0.4, "f1": 0.5714, "support": 5},
        "Other": {"precision": None, "recall": None, "f1": None, "support": 0},
    },
    "confusion_matrix": {"labels": LABELS, "matrix": [[3, 0, 0], [3, 2, 0], [0, 0, 0]]},
    "num_videos": 8,
    "protocol": {
        "num_clips": 1,
        "num_crops": 3,
        "decoder": "PyAV",
        "split_kind": "by group",
        "groups": None,
        "frame_order": "forwards",
    },
    "split": "test",
    "dataset_fingerprint": "abc123",
}


def write(folder: Path, **changes) -> ModelCard:
    facts = {
        "base_model": K400,
        "base_license": "cc-by-nc-4.0",
        "dataset": "user/yard",
        "labels": LABELS,
        "metrics": METRICS,
        "training": {"learning_rate": 0.005, "num_train_epochs": 15, "config": "/home/someone/divided.yaml"},
    }
    return ModelCard.load(write_model_card(folder, **{**facts, **changes}))


def test_metadata_is_what_the_hub_reads(tmp_path):
    data = write(tmp_path / "").data
    assert data.license == "cc-by-nc-4.0"
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "video-classification"
    assert data.base_model == K400
    assert data.datasets == ["user/yard"]
    assert data.model_name == tmp_path.name
    results = {result.metric_name: result for result in data.eval_results}
    assert {name: result.metric_value for name, result in results.items()} == {
        "Accuracy": 0.75,
        "Balanced accuracy": 0.7,
        "Macro F1": 0.654321,
        "Weighted F1": 0.71,
        "Recall, Track-Excavator": 1.0,
        "Recall, Bucket-Worker": 0.4,  # Other was never shown: no figure is made up for it
        "Precision, Track-Excavator": 0.5,
        "Precision, Bucket-Worker": 1.0,
    }
    one = results["Macro F1"]
    assert (one.task_type, one.dataset_type, one.dataset_split) == ("video-classification", "user/yard", "test")
    assert (one.metric_type, one.metric_args) == ("f1", {"average": "macro"})
    assert one.dataset_args == {"split_kind": "by group", "dataset_fingerprint": "abc123", "num_videos": 8}


def test_the_card_says_what_a_user_must_know(tmp_path):
    text = write(tmp_path).text
    assert "Not for commercial use" in text
    assert "--image_model facebook/dinov2-small" in text
    assert "Not a certified safety function" in text
    assert "of the split `test` of `user/yard` (by group)" in text
    assert "first frames of the file only" in text
    assert "torchcodec" in text
    assert "| Macro F1 | 0.654 |" in text
    assert "| Bucket-Worker | 1.000 | 0.400 | 0.571 | 5 |" in text
    assert "| Other | – | – | – | 0 |" in text
    assert "Not in this split, so without figures: Other." in text
    assert "| **Bucket-Worker** | 3 | 2 | 0 |" in text
    assert "| num_crops | 3 |" in text
    assert "| learning_rate | 0.005 |" in text
    assert "trust_remote_code" not in text


def test_tables_are_unbroken(tmp_path):
    lines = write(tmp_path, labels=["a|b", "c"]).text.splitlines()
    for above, line, below in zip(lines, lines[1:], lines[2:], strict=False):
        if re.fullmatch(r"\|(---\|)+", line):
            assert above.startswith("|"), above
            assert below.startswith("|"), line
            assert above.count("|") == line.count("|") == below.count("|")
    assert r"a\|b" in "\n".join(lines)


def test_no_path_of_this_machine_reaches_the_card(tmp_path):
    (tmp_path / "site_yard").mkdir()
    (tmp_path / "dinov2-small").mkdir()
    changes = {"base_model": str(tmp_path / "dinov2-small"), "dataset": str(tmp_path / "site_yard")}
    card = write(tmp_path / "dinov2-small", base_license="apache-2.0", **changes)
    assert str(tmp_path) not in card.content
    assert "/home/someone" not in card.content
    assert "divided.yaml" in card.content
    assert "`site_yard`" in card.content
    assert card.data.base_model is None
    assert card.data.datasets is None
    assert card.data.license == "apache-2.0"
    assert "commercial" not in card.text


def test_a_card_before_any_evaluation(tmp_path):
    card = write(tmp_path, metrics=None, base_model=None, base_license=None)
    assert card.data.eval_results is None
    assert "Not evaluated" in card.text
    assert "Trained from scratch" in card.text
    unknown = write(tmp_path, base_model="someone/model", base_license=None).text
    assert "licence of the base model `someone/model` is not known" in unknown


def test_a_scheme_with_code_of_its_own_says_so(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {}, "num_frames": 16, "image_size": 448}))
    text = write(tmp_path).text
    assert "from_pretrained(MODEL, trust_remote_code=True)" in text
    assert ".reshape(1, 16, 3, 448, 448)" in text


def test_the_clip_is_described(tmp_path):
    config = {"num_frames": 8, "frame_interval": 32, "nominal_fps": 30.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "In training a clip was 8 frames 1.07 s apart, about 8.5 s." in write(tmp_path).text


def test_a_missing_run_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        write(tmp_path / "nowhere")


@pytest.mark.slow
def test_the_code_on_the_card_runs(tmp_path):
    from test_push import write_video
    from transformers import TimesformerConfig, TimesformerForVideoClassification, VideoMAEImageProcessor

    run = tmp_path / "run"
    config = TimesformerConfig(
        image_size=32,
        patch_size=16,
        num_frames=2,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )
    TimesformerForVideoClassification(config).save_pretrained(run)
    VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(run)
    write_video(tmp_path / "clip.mp4", number=5)
    code = re.search(r"```python\n(.*?)```", write(run).text, flags=re.DOTALL)
    assert code
    script = "import sys; sys.modules['railsformer'] = None\n" + code[1]
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(label in done.stdout for label in LABELS)


# -- licences


@pytest.mark.parametrize(
    ("base_model", "expected"),
    [
        (K400, "cc-by-nc-4.0"),
        ("facebook/timesformer-hr-finetuned-ssv2", "cc-by-nc-4.0"),
        ("facebook/dinov2-small", "apache-2.0"),
        ("google/vit-base-patch16-224", "apache-2.0"),
        ("someone/model", None),
        ("nowhere/at/all", None),
    ],
)
def test_licence_by_name(base_model, expected):
    assert license_of_base(base_model) == expected


def test_licence_of_a_local_folder(tmp_path):
    assert license_of_base(str(tmp_path)) is None
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"_name_or_path": K400}))
    assert license_of_base(str(tmp_path)) == "cc-by-nc-4.0"
    config.write_text("{")
    assert license_of_base(str(tmp_path)) is None
    readme = tmp_path / "README.md"
    readme.write_text(f"---\nbase_model: {K400}\n---\n")
    assert license_of_base(str(tmp_path)) == "cc-by-nc-4.0"
    readme.write_text("---\nlicense: MIT\n---\n")
    assert license_of_base(str(tmp_path)) == "mit"
    readme.write_text("---\nlicense: [\n---\n")
    assert license_of_base(str(tmp_path)) is None


def test_licence_is_inherited_from_run_to_run(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    write(first)
    (second / "config.json").write_text(json.dumps({"_name_or_path": str(first)}))
    assert license_of_base(str(second)) == "cc-by-nc-4.0"
    (first / "README.md").unlink()
    (first / "config.json").write_text(json.dumps({"_name_or_path": str(second)}))
    assert license_of_base(str(second)) is None  # a circle ends


def test_notice_names_the_licence_and_a_way_out():
    notice = non_commercial_notice(K400)
    assert notice is not None
    assert notice.startswith(f"{K400} is licensed cc-by-nc-4.0: ")
    assert "--image_model facebook/dinov2-small" in notice
    assert "\n" not in notice
    assert non_commercial_notice("facebook/dinov2-small") is None
    assert non_commercial_notice("someone/model") is None


@pytest.mark.parametrize(
    ("license_id", "expected"),
    [("cc-by-nc-4.0", True), ("CC-BY-NC-SA-4.0", True), ("ncsa", False), ("apache-2.0", False), (None, False)],
)
def test_non_commercial_licences(license_id, expected):
    assert is_non_commercial(license_id) is expected


@pytest.fixture
def run(tmp_path):
    """A run folder as training leaves it."""
    facts = {
        "base": None,
        "base_license": None,
        "dataset": "user/yard",
        "dataset_fingerprint": "abc123",
        "split_kind": "by camera (4 groups)",
        "labels": LABELS,
        "given": {"learning_rate": 0.005, "output_dir": "/home/someone/run"},
    }
    (tmp_path / "run.json").write_text(json.dumps(facts))
    assert write_run_card(tmp_path)
    return tmp_path


def test_the_card_of_a_run_takes_the_figures_of_its_evaluation(run):
    card = run / "README.md"
    assert "0.750" not in card.read_text()
    assert write_run_card(run, metrics=METRICS)
    assert "0.750" in card.read_text()
    assert "/home/someone" not in card.read_text()
    assert write_run_card(run, metrics={**METRICS, "accuracy": 0.5})
    assert {path.name for path in run.iterdir()} == {"README.md", "run.json"}  # nothing half written stays
    assert "0.750" not in card.read_text()


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset_fingerprint": "another"},
        {"split": "train"},
        {"protocol": {**METRICS["protocol"], "frame_order": "middle"}},
    ],
)
def test_figures_of_other_videos_do_not_reach_the_card(run, changes):
    before = (run / "README.md").read_text()
    assert not write_run_card(run, metrics={**METRICS, **changes})
    assert (run / "README.md").read_text() == before


def test_a_card_that_somebody_edited_is_left_alone(run):
    with (run / "README.md").open("a") as file:
        file.write("Tried on site in March.\n")
    assert not write_run_card(run, metrics=METRICS)
    assert "Tried on site in March." in (run / "README.md").read_text()
