"""The card of an evaluation with intervals, operating points and slices: what it claims, what it cannot tell."""

import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from report_metrics import LABELS, METRICS_2, metrics_2, mixed_splits
from test_cards import write

NO_POINTS = {"operating_points": None}


def write_2(folder: Path, **changes) -> ModelCard:
    """The card of metrics of version 2, with changes of their top level."""
    return write(folder, labels=LABELS, metrics=metrics_2(**changes), dataset="/srv/footage/yard")


def results(card: ModelCard) -> dict:
    return {result.metric_name: result for result in card.data.eval_results or ()}


# -- the model index


def test_the_index_holds_every_figure_with_its_interval(tmp_path):
    found = results(write_2(tmp_path))
    assert found["Accuracy"].metric_args == {"interval": [0.478, 0.814]}
    assert found["Macro F1"].metric_value == 0.601235
    assert found["Macro F1"].metric_args == {"average": "macro", "interval": [0.41, 0.75]}
    assert found["Micro F1"].metric_args["average"] == "micro"
    assert found["Top-2 accuracy"].metric_args == {"k": 2}
    assert found["Mean average precision"].metric_args == {"interval": "too few videos to say"}
    recall = found["Recall, Track-Excavator"]
    assert recall.metric_args == {"label": "Track-Excavator", "num_videos": 10, "interval": [0.49, 0.943]}
    alarms = found["False alarms per hour at the threshold, Track-Excavator"]
    assert alarms.metric_value == 14.117647
    assert alarms.metric_args["target"] == "recall>=0.9"
    assert not [name for name in found if "Cabin-Worker" in name]  # never shown: nothing is made up for it
    assert found["Accuracy"].dataset_args == {
        "split_kind": "by camera (6 groups)",
        "dataset_fingerprint": "abc123",
        "num_videos": 27,
        "mixed_splits": "clean",
        "interval_level": 0.95,
        "interval_method": "clips",
    }


def test_figures_of_mixed_splits_stay_out_of_the_index(tmp_path):
    protocol = mixed_splits(
        "mixed", reason="two videos are in /home/someone/first/training_videos.json", videos=["a", "b"]
    )
    card = write_2(tmp_path, protocol=protocol)
    assert not card.data.eval_results
    head = card.text.split("## Intended use")[0]
    assert "**Mixed splits: do not go by the figures of this card.**" in head
    assert "2 exact and 1 near copies. Two videos are in training_videos.json." in head
    assert "**Measured:**" not in card.text
    assert "| trained_on_these_videos | yes |" in card.text
    assert "/home" not in card.content


# -- the words


def test_limits_are_those_of_this_evaluation(tmp_path):
    text = write_2(tmp_path).text
    limits = text.split("## Intended use and limits")[1].split("\n## ")[0]
    assert "cameras and recordings `bridge`, `gate` of the split `test` of `yard`" in limits
    assert "2 groups are too few to tell how the figures vary" in limits
    assert "Not tested at all, having no video in this split: Cabin-Worker." in limits
    assert "Too few test videos to say how well it recognises: Bucket-Worker (2)." in limits
    assert "It does worst where camera is gate: macro F1 0.400 over 12 videos." in limits
    assert "1 video of the split could not be read, and is in no figure." in limits
    assert "On `validation` no threshold reached the target for: Bucket-Worker." in limits
    assert "gate_secret" not in text
    assert "/srv" not in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (NO_POINTS, "It has no operating points: the class with the highest score wins"),
        (
            {"protocol": mixed_splits("unknown", reason="the run lists no videos")},
            "trained on any of these videos, or on copies of them, is unknown. The run lists no videos.",
        ),
        (
            {"protocol": {**METRICS_2["protocol"], "split_kind": "random rows; recordings may lie on both sides"}},
            "The split is of random rows",
        ),
        (
            {"protocol": {**METRICS_2["protocol"], "split_kind": "by file; recordings unknown"}},
            "Which files belong to one recording is unknown",
        ),
        ({"split": "validation"}, "chosen on `validation` itself, so what they do there flatters them"),
    ],
    ids=["no operating points", "unknown", "random", "by file", "chosen on the same split"],
)
def test_what_weakens_the_figures_is_said(tmp_path, changes, said):
    assert said not in write_2(tmp_path).text
    assert said in write_2(tmp_path, **changes).text


def test_intervals_stand_beside_their_figures(tmp_path):
    text = write_2(tmp_path).text
    assert "**Measured:** accuracy 0.667 (0.48 to 0.81), macro F1 0.601 (0.41 to 0.75), on 27 videos" in text
    assert "| Macro F1 | 0.601 | 0.41 to 0.75 |" in text
    assert "| Mean average precision | 0.710 | too few |" in text
    assert "| Bucket-Worker | 0.500 (too few) | 0.500 (too few) | 0.500 (too few) | 0.550 (too few) | 2 |" in text
    assert "| Cabin-Worker | – | – | – | – | 0 |" in text
    assert "| camera = gate | 12 | 0.500 (0.25 to 0.75) | 0.400 |" in text
    assert "1.312, fitted on 31 videos of validation; calibration error 0.120 before, 0.080 after" in text


def test_operating_points_say_what_they_do_and_how_to_use_them(tmp_path):
    text = write_2(tmp_path).text
    row = "| Track-Excavator | 0.312 | `recall>=0.9` | 0.800 (0.49 to 0.94) | 0.667 (0.39 to 0.86) |"
    assert f"{row} 14.1 (3.85 to 36.1) | 10 | 0.28 |" in text
    assert "`false_alarms_per_hour<=1` (not reached)" in text
    assert 'points["temperature"]' in text
    without = write_2(tmp_path, **NO_POINTS).text
    assert "operating_points.json" not in without


def test_a_class_without_threshold_has_no_figures_made_up(tmp_path):
    points = metrics_2()["operating_points"]
    none = {"threshold": None, "target": "recall>=0.9", "reached": False, "on_calibration": None, "on_split": None}
    points["labels"]["Bucket-Worker"] = none
    card = write_2(tmp_path, operating_points=points)
    row = "| Bucket-Worker | – | `recall>=0.9` (no threshold: too few videos to choose one) | – | – | – | – | – |"
    assert row in card.text
    assert not [name for name in results(card) if name.endswith("at the threshold, Bucket-Worker")]


def test_figures_without_intervals_say_so(tmp_path):
    assert "they come without intervals" in write(tmp_path).text
    assert "they come without intervals" not in write_2(tmp_path).text


def test_the_code_for_operating_points_raises_alarms_as_told(tmp_path):
    import torch

    points = {"Track-Excavator": {"threshold": 0.6}, "Bucket-Worker": {"threshold": 0.2}}
    (tmp_path / "operating_points.json").write_text(json.dumps({"temperature": 2.0, "labels": points}))
    code = re.findall(r"```python\n(.*?)```", write_2(tmp_path).text, flags=re.DOTALL)[1]
    label2id = {label: index for index, label in enumerate(LABELS)}
    model = type("Model", (), {"config": type("Config", (), {"label2id": label2id})})
    told: list[str] = []
    # Logits of 4, 2, 0, 0 are scores of .853, .115, .016 and .016; over 2 of .610, .225, .083 and .083.
    place = {"MODEL": str(tmp_path), "model": model, "logits": torch.tensor([[4.0, 2.0, 0.0, 0.0]])}
    exec(code, place | {"print": lambda *words: told.append(" ".join(words))})
    assert told == ["Track-Excavator: 0.610 ALARM", "Bucket-Worker: 0.225 ALARM"]


def test_tables_of_version_2_are_unbroken(tmp_path):
    lines = write_2(tmp_path).text.splitlines()
    for above, line, below in zip(lines, lines[1:], lines[2:], strict=False):
        if re.fullmatch(r"\|(---\|)+", line):
            assert above.count("|") == line.count("|") == below.count("|"), line
