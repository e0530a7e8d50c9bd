"""Cross-validation with real trainings of a tiny model: who is on which side, the table, going on after an end."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from railsformer.cli import main
from railsformer.data.clips import load_video_dataset
from railsformer.data.splits.fold_datasets import join_splits, plan_folds, read_copies, write_fold_dataset
from railsformer.training.crossval import cross_validate, parse_crossval
from railsformer.training.crossval_table import FoldResult, crossval_content, crossval_markdown, crossval_table

TINY = """
from_scratch: true
hidden_size: 32
num_hidden_layers: 1
num_attention_heads: 2
intermediate_size: 32
patch_size: 16
image_size: 32
num_frames: 2
frame_interval: 15
use_cpu: true
disable_tqdm: true
dataloader_num_workers: 0
per_device_train_batch_size: 8
num_train_epochs: 1
num_threads: 1
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY)
    return path


def _settings(recipe, dataset, output_dir, *flags):
    base = ["--config", recipe, "--dataset", dataset, "--output_dir", output_dir]
    return parse_crossval([str(flag) for flag in (*base, *flags)])


@pytest.fixture(scope="module")
def two_folds(recipe, yard_dataset, tmp_path_factory):
    """Two folds with one seed, finished; tests only look at it."""
    output_dir = tmp_path_factory.mktemp("crossval") / "out"
    content = cross_validate(_settings(recipe, yard_dataset, output_dir, "--folds", "2"))
    return output_dir, content


def _rows(num_groups, *, rows_a_group=4):
    groups = [f"g{index:02d}" for index in range(num_groups) for _ in range(rows_a_group)]
    return groups, ["x" if row % 4 else "y" for row in range(len(groups))]


def _groups_by_side(plan, groups):
    return {
        side: {group for group, at in zip(groups, plan.sides, strict=True) if at == side}
        for side in ("train", "validation", "test")
    }


@pytest.mark.parametrize("folds", ["group", 2, 4])
def test_no_group_lies_on_two_sides_and_each_is_tested_once(folds):
    groups, labels = _rows(9)
    plans = plan_folds(groups, labels, folds=folds)
    for plan in plans:
        sides = _groups_by_side(plan, groups)
        assert all(sides.values())
        assert not sides["train"] & sides["validation"]
        assert not sides["test"] & (sides["train"] | sides["validation"])
        assert {side: set(names) for side, names in plan.groups.items()} == sides
        assert {label for label, at in zip(labels, plan.sides, strict=True) if at == "train"} == {"x", "y"}
    assert sorted(group for plan in plans for group in plan.groups["test"]) == sorted(set(groups))


def test_no_copy_of_a_tested_row_trains_or_chooses():
    groups, labels = _rows(6)
    copies = [(0, 9, 13), (5, 21)]
    for plan in plan_folds(groups, labels, copies=copies):
        for cluster in copies:
            assert len({plan.sides[row] for row in cluster} - {None}) == 1
    first = plan_folds(groups, labels, copies=copies, only=["g00"])[0]
    assert (first.sides[9], first.sides[13], first.num_left_out) == (None, None, 2)


def test_the_plan_is_a_function_of_its_arguments():
    groups, labels = _rows(12)
    assert plan_folds(groups, labels, folds=3, seed=1) == plan_folds(groups, labels, folds=3, seed=1)
    assert plan_folds(groups, labels, folds=3, seed=1) != plan_folds(groups, labels, folds=3, seed=2)


@pytest.mark.parametrize(
    ("num_groups", "options", "message"),
    [
        (3, {"folds": 5}, "5 folds need as many groups, got 3; ask for 3 folds or fewer"),
        (3, {"only": ["g1"]}, "--groups: the dataset has no group 'g1'; did you mean 'g01'?"),
        (3, {"only": ["camera"]}, "--groups: the dataset has no group 'camera'; there are g00, g01, g02"),
        (4, {"folds": 2, "only": ["g00"]}, "--groups names groups to leave out one by one, not so --folds 2"),
        (2, {}, r"fold 'g00' leaves 1 group\(s\) to train and to validate on \(g01\), which takes two"),
        (31, {}, "--folds group would be 31 trainings, one for each group; ask for --folds 5"),
        (4, {"validation_share": 1.0}, "validation_share must be above 0 and below 1, got 1.0"),
    ],
)
def test_folds_that_are_not_possible_are_refused_by_name(num_groups, options, message):
    groups, labels = _rows(num_groups)
    with pytest.raises(ValueError, match=message):
        plan_folds(groups, labels, **options)


def test_a_label_that_one_group_alone_shows_is_refused():
    groups, labels = _rows(5)
    labels[6] = "rare"
    with pytest.raises(ValueError, match="label 'rare' is in one group alone, 'g01'"):
        plan_folds(groups, labels)


def test_names_that_no_folder_can_have_get_folders_of_their_own():
    groups, labels = _rows(3)
    names = {"g00": "yard/a", "g01": "yard a", "g02": "../x"}
    plans = plan_folds([names[group] for group in groups], labels)
    folders = {plan.folder_name for plan in plans}
    assert len(folders) == 3
    assert not any("/" in folder or " " in folder for folder in folders)


def test_a_fold_is_a_dataset_that_copies_no_video(yard_dataset, tmp_path):
    dataset = load_video_dataset(yard_dataset)
    rows = join_splits(dataset)
    plan = plan_folds(rows["group"], [str(label) for label in rows["label"]], only=["yard3_004"])[0]
    fingerprint = write_fold_dataset(tmp_path / "fold", dataset, rows, plan)
    fold = load_video_dataset(tmp_path / "fold")
    assert (fold.labels, fold.fingerprint) == (dataset.labels, fingerprint)
    assert set(fold.split("test")["group"]) == {"yard3_004"}
    assert {name: len(split) for name, split in fold.splits.items()} == plan.counts
    assert sum(plan.counts.values()) == 42
    video = Path(fold.split("train")[0]["video"]["path"])
    assert video.is_file()
    assert video.is_relative_to(yard_dataset)
    assert not list((tmp_path / "fold").rglob("*.mp4"))
    other = plan_folds(rows["group"], [str(label) for label in rows["label"]], only=["yard3_001"])[0]
    with pytest.raises(ValueError, match=r"fold holds another fold .* name another --output_dir"):
        write_fold_dataset(tmp_path / "fold", dataset, rows, other)


def test_copies_are_read_from_the_audit(yard_dataset, tmp_path):
    dataset = load_video_dataset(yard_dataset)
    rows = join_splits(dataset)
    assert read_copies(dataset, rows) == []
    names = rows["source"]
    part = f"{names[7]}@0-{rows['end_seconds'][7]:g}"
    audit = {
        "exact_copies": {"clusters": [[names[3], names[30], "left_out.mp4"]]},
        "near_copies": {"pairs": [{"first": names[30], "second": part}, {"first": "gone.mp4", "second": names[1]}]},
    }
    (tmp_path / "audit.json").write_text(json.dumps(audit))
    moved = type(dataset)(str(tmp_path), dataset.splits, dataset.labels, dataset.fingerprint, dataset.split_kind)
    assert read_copies(moved, rows) == [(3, 7, 30)]
    (tmp_path / "audit.json").write_text('{"version": 1}')
    with pytest.raises(ValueError, match=r"audit\.json is not as `build` writes it \('exact_copies'\)"):
        read_copies(moved, rows)


@pytest.mark.slow
def test_the_table_holds_what_the_reports_say(two_folds):
    output_dir, content = two_folds
    assert json.loads((output_dir / "crossval.json").read_text()) == content
    assert (content["finished"], content["trainings"]) == (2, 2)
    figures = []
    for fold in content["folds"]:
        report = json.loads((output_dir / f"fold-{fold['fold']}" / "seed-42" / "report" / "metrics.json").read_text())
        assert (fold["f1_macro"], fold["accuracy"]) == (report["f1_macro"], report["accuracy"])
        assert fold["per_class"]["Other"] == {key: report["per_class"]["Other"][key] for key in ("f1", "support")}
        assert report["num_videos"] == fold["counts"]["test"] == 21
        assert set(report["protocol"]["groups"]) == set(fold["groups"]["test"])
        run = json.loads((output_dir / f"fold-{fold['fold']}" / "seed-42" / "run" / "run.json").read_text())
        assert run["dataset_fingerprint"] == fold["dataset_fingerprint"]
        assert fold["validation_f1_macro"] == run["validation"]["f1_macro"]
        figures.append(report["f1_macro"])
    summary = content["summary"]["f1_macro"]
    assert summary["mean"] == pytest.approx(sum(figures) / 2)
    assert summary["std"] == pytest.approx(abs(figures[0] - figures[1]) / 2**0.5)
    assert (summary["min"], summary["max"], summary["std_over_seeds"]) == (min(figures), max(figures), None)
    assert content["per_class"]["Other"]["support"] == 24
    assert content["protocol"]["settings"]["hidden_size"] == 32
    text = (output_dir / "crossval.md").read_text()
    assert "2 of 2 trainings finished" in text
    assert f"{summary['mean']:.3f}" in text
    assert content["protocol"]["dataset_fingerprint"] in text


@pytest.mark.slow
def test_what_is_finished_is_not_done_again_and_other_settings_are_refused(two_folds, recipe, yard_dataset):
    output_dir, content = two_folds
    written = {path: path.stat().st_mtime_ns for path in output_dir.glob("fold-*/seed-42/**/*") if path.is_file()}
    assert cross_validate(_settings(recipe, yard_dataset, output_dir, "--folds", "2")) == content
    with pytest.raises(ValueError, match=r"seed-42 was trained with learning_rate None, now 0\.5;"):
        cross_validate(_settings(recipe, yard_dataset, output_dir, "--folds", "2", "--learning_rate", "0.5"))
    with pytest.raises(ValueError, match="fold-1/dataset holds another fold"):
        cross_validate(_settings(recipe, yard_dataset, output_dir, "--folds", "3"))
    assert {
        path: path.stat().st_mtime_ns for path in output_dir.glob("fold-*/seed-42/**/*") if path.is_file()
    } == written


@pytest.mark.slow
def test_a_fold_that_fails_costs_its_row_and_is_tried_again(recipe, yard_dataset, tmp_path):
    folds = ["--groups", "yard3_000", "--learning_rate", "1e30", "--num_train_epochs", "2"]
    settings = _settings(recipe, yard_dataset, tmp_path / "out", *folds)
    with pytest.raises(ValueError, match=r"1 of 1 trainings failed, first fold yard3_000 with seed 42: .*loss"):
        cross_validate(settings)
    content = json.loads((tmp_path / "out" / "crossval.json").read_text())
    assert [fold["state"] for fold in content["folds"]] == ["failed"]
    assert "loss" in content["folds"][0]["reason"]
    assert content["summary"]["f1_macro"]["mean"] is None
    assert "failed" in (tmp_path / "out" / "crossval.md").read_text()


@pytest.mark.long
def test_a_killed_crossval_goes_on_from_the_newest_checkpoint(recipe, yard_dataset, tmp_path):
    output_dir = tmp_path / "out"
    flags = ["--config", recipe, "--dataset", yard_dataset, "--output_dir", output_dir, "--groups", "yard3_002"]
    flags += ["--num_train_epochs", "40", "--save_total_limit", "2"]
    command = [sys.executable, "-m", "railsformer.cli", "crossval", *map(str, flags)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run = output_dir / "fold-yard3_002" / "seed-42" / "run"
    deadline = time.monotonic() + 120
    while not list(run.glob("checkpoint-*/trainer_state.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 128 + signal.SIGTERM
    assert not (run / "run.json").exists()
    assert list(run.glob("checkpoint-*/trainer_state.json"))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| yard3_002 | 42 " in done.stdout
    assert "going on from" in (run.parent / "log.txt").read_text()
    state = json.loads((run / "trainer_state.json").read_text())
    assert state["epoch"] == 40


def test_bad_flags_are_refused_in_one_line(recipe, yard_dataset, tmp_path, capsys):
    base = ["crossval", "--config", str(recipe), "--dataset", str(yard_dataset), "--output_dir", str(tmp_path / "out")]
    for flags, message in (
        (["--folds", "many"], "argument --folds: must be the word 'group' or a number of folds, got 'many'"),
        (["--folds", "7"], "7 folds need as many groups, got 6"),
        (["--groups", "yard3_00"], "the dataset has no group 'yard3_00'; did you mean 'yard3_00"),
        (["--seeds", "1", "1"], "--seeds must be 0 or more and differ from each other, got 1 1"),
        (["--seeds", "1", "--seed", "2"], "--seed and --seeds were both given"),
        (["--resume_from_checkpoint", "x"], "resume_from_checkpoint must not be given to crossval"),
        (["--learning_rat", "1"], "unknown flag '--learning_rat'"),
    ):
        assert main([*base, *flags]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("railsformer: error: ")]
        assert len(lines) == 1
        assert message in lines[0]
        assert not (tmp_path / "out").exists()


def test_it_is_refused_under_a_launcher(recipe, yard_dataset, tmp_path, monkeypatch):
    settings = _settings(recipe, yard_dataset, tmp_path / "out")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="call it by itself, not under a launcher"):
        cross_validate(settings)


def test_a_folder_of_something_else_is_left_alone(recipe, yard_dataset, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="already holds something"):
        cross_validate(_settings(recipe, yard_dataset, tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def _result(fold, seed, value, *, f1=0.5, support=2, state="finished"):
    figures = {
        **dict.fromkeys(("f1_macro", "balanced_accuracy", "accuracy", "f1_weighted"), value),
        "per_class": {"a": {"f1": f1, "support": support}, "b": {"f1": value, "support": 3}},
    }
    groups = {"train": ["t"], "validation": ["v"], "test": [fold]}
    counts = {"train": 9, "validation": 4, "test": 5}
    return FoldResult(fold, seed, state, groups, counts, figures=figures if state == "finished" else {})


def test_a_fold_of_several_seeds_counts_once():
    results = [_result("c", 0, 0.2), _result("c", 1, 0.4), _result("d", 0, 0.6), _result("d", 1, 0.6)]
    protocol = dict.fromkeys(("dataset", "dataset_fingerprint", "folds", "split_seed", "recipe"), "x")
    protocol |= {"validation_share": 0.2, "seeds": [0, 1], "settings": {}, "versions": {}}
    content = crossval_content(results, protocol)
    found = content["summary"]["f1_macro"]
    assert found["mean"] == pytest.approx(0.45)
    assert found["std"] == pytest.approx(0.3 / 2**0.5)
    assert found["std_over_seeds"] == pytest.approx(0.2 / 2**0.5 / 2)
    assert (found["min"], found["max"]) == (0.2, 0.6)
    assert content["per_class"]["b"]["support"] == 6
    assert "Between seeds of one fold the macro F1 has a std of 0.071" in crossval_markdown(content)


def test_a_class_that_a_fold_has_not_counts_where_it_is():
    results = [
        _result("c", 0, 0.2, f1=None, support=0),
        _result("d", 0, 0.6, f1=0.8),
        _result("e", 0, 0, state="waiting"),
    ]
    content = crossval_content(results, {})
    assert content["per_class"]["a"]["f1"]["mean"] == 0.8
    assert content["per_class"]["a"]["f1"]["std"] is None
    table = crossval_table(content).splitlines()
    assert "none" in table[2]
    assert "waiting" in table[4]
    assert len({len(line) for line in table}) == 1
    assert len({line.count("|") for line in table}) == 1
