"""Videos that a run has seen, found again in what it is evaluated on: as they are, encoded again, by the audit."""

import csv
import json
import shutil

import pytest
import yaml
from moving_scenes import scene, write_scene
from tiny_run import write_tiny_run

from railsformer.data.clips import load_video_dataset
from railsformer.evaluation.leaks import earlier_trainings, find_leaks, write_training_videos

LABELS = {"0": "hazard", "1": "other"}


def _write_dataset(folder, files, *, fingerprint, audit=None, view_of=None):
    """A dataset in the layout that `build` writes, from files by split and group."""
    data_files, config = [], {"config_name": "default"}
    for split, groups in files.items():
        place = folder / "data" / split
        place.mkdir(parents=True)
        data_files.append({"split": split, "path": f"data/{split}/**"})
        with (place / "metadata.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file_name", "label", "group", "source", "start_seconds", "end_seconds"])
            for name, (path, group) in groups.items():
                shutil.copyfile(path, place / name)
                writer.writerow([name, "hazard", group, name, 0.0, 6.0])
    columns = [("group", "string"), ("source", "string"), ("start_seconds", "float64"), ("end_seconds", "float64")]
    config |= {
        "data_files": data_files,
        "features": [
            {"name": "video", "dtype": "video"},
            {"name": "label", "dtype": {"class_label": {"names": LABELS}}},
            *({"name": name, "dtype": dtype} for name, dtype in columns),
        ],
    }
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': [config]})}---\n")
    facts = {"version": 1, "fingerprint": fingerprint, "split_kind": "by camera", "view_of": view_of}
    (folder / "dataset.json").write_text(json.dumps(facts))
    if audit is not None:
        (folder / "audit.json").write_text(json.dumps(audit))
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Four videos that differ, and the first one encoded again, coarser and smaller."""
    folder = tmp_path_factory.mktemp("scenes")
    files = {f"s{number}": scene(camera=number % 2, motion=number) for number in range(4)}
    paths = {name: write_scene(folder / f"{name}.mp4", pictures) for name, pictures in files.items()}
    paths["again"] = write_scene(folder / "again.mp4", files["s0"], crf=30, size=(120, 90))
    return paths


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory):
    """A run folder, and the dataset that it was trained on."""
    folder = tmp_path_factory.mktemp("trained")
    files = {
        "train": {"a.mp4": (scenes["s0"], "gate")},
        "validation": {"b.mp4": (scenes["s1"], "bridge")},
        "test": {"c.mp4": (scenes["s2"], "station")},
    }
    clean = {"exact_copies": {"clusters": []}, "near_copies": {"pairs": []}}
    dataset = _write_dataset(folder / "dataset", files, fingerprint="aaa", audit=clean)
    (folder / "run").mkdir()
    write_training_videos(folder / "run", load_video_dataset(dataset))
    return folder / "run", dataset


@pytest.fixture(scope="module")
def elsewhere(scenes, tmp_path_factory):
    """Another dataset whose test split holds a seen file, a seen video encoded again, and one that is new."""
    files = {
        "test": {
            "same.mp4": (scenes["s1"], "bridge"),
            "again.mp4": (scenes["again"], "x"),
            "new.mp4": (scenes["s3"], "y"),
        },
        "fresh": {"new.mp4": (scenes["s3"], "gate")},
    }
    return load_video_dataset(_write_dataset(tmp_path_factory.mktemp("other") / "d", files, fingerprint="bbb"))


def test_what_a_run_saw_is_written_down(trained):
    run, dataset = trained
    content = json.loads((run / "training_videos.json").read_text())
    assert content["dataset_fingerprint"] == "aaa"
    assert content["dataset"] == str(dataset)
    assert [(one["name"], one["split"], one["group"]) for one in content["videos"]] == [
        ("a.mp4", "train", "gate"),
        ("b.mp4", "validation", "bridge"),
    ]
    assert {len(one["sha256"]) for one in content["videos"]} == {64}


def test_a_test_split_that_the_audit_found_clean_is_clean(trained):
    run, dataset = trained
    found = find_leaks(run, load_video_dataset(dataset), "test")
    assert (found["state"], found["num_exact"], found["num_near"]) == ("clean", 0, 0)
    assert "audit" in found["reason"]


@pytest.mark.parametrize(("split", "word"), [("train", "trained on"), ("validation", "chose its weights on")])
def test_a_split_that_the_run_used_is_mixed_whole(trained, split, word):
    run, dataset = trained
    found = find_leaks(run, load_video_dataset(dataset), split)
    assert (found["state"], found["num_exact"]) == ("mixed", 1)
    assert word in found["reason"]


def test_a_checkpoint_of_the_run_counts_as_the_run(trained):
    run, dataset = trained
    (run / "checkpoint-5").mkdir(exist_ok=True)
    assert find_leaks(run / "checkpoint-5", load_video_dataset(dataset), "train")["state"] == "mixed"


def test_seen_videos_are_found_in_another_dataset_by_bytes_and_by_pictures(trained, elsewhere):
    run, _ = trained
    found = find_leaks(run, elsewhere, "test", num_workers=1)
    assert found["state"] == "mixed"
    assert (found["num_exact"], found["num_near"]) == (1, 1)
    assert found["videos"] == ["same.mp4", "again.mp4"]
    assert "2 of 3 videos" in found["reason"]
    by_bytes = find_leaks(run, elsewhere, "test", check="exact")
    assert (by_bytes["state"], by_bytes["num_exact"], by_bytes["num_near"]) == ("mixed", 1, 0)


def test_new_videos_are_clean_and_only_unknown_where_pictures_were_not_compared(trained, elsewhere, tmp_path):
    run, _ = trained
    found = find_leaks(run, elsewhere, "fresh", num_workers=1)
    assert found["state"] == "clean"
    assert "1 are of cameras or recordings that it knows" in found["reason"]
    assert found["num_same_group"] == 1
    assert find_leaks(run, elsewhere, "fresh", check="exact")["state"] == "unknown"
    # the run was copied to a machine without its dataset
    content = json.loads((run / "training_videos.json").read_text())
    (tmp_path / "training_videos.json").write_text(json.dumps(content | {"dataset": "/nowhere/dataset"}))
    away = find_leaks(tmp_path, elsewhere, "fresh")
    assert away["state"] == "unknown"
    assert "not at hand" in away["reason"]
    assert find_leaks(tmp_path, elsewhere, "test")["num_exact"] == 1


def test_a_copy_that_the_audit_knows_of_is_mixed_also_in_a_fold(trained, scenes, tmp_path):
    run, _ = trained
    files = {
        "train": {"a.mp4": (scenes["s0"], "gate"), "b.mp4": (scenes["s1"], "gate")},
        "test": {"same.mp4": (scenes["s0"], "x"), "again.mp4": (scenes["s3"], "y"), "new.mp4": (scenes["s2"], "z")},
    }
    audit = {
        "exact_copies": {"clusters": [["a.mp4", "same.mp4"]]},
        "near_copies": {"pairs": [{"first": "again.mp4", "second": "b.mp4"}]},
    }
    home = _write_dataset(tmp_path / "home", files, fingerprint="home", audit=audit)
    fold = _write_dataset(tmp_path / "fold", files, fingerprint="aaa", view_of=str(home))
    found = find_leaks(run, load_video_dataset(fold), "test")
    assert (found["state"], found["num_exact"], found["num_near"]) == ("mixed", 1, 1)
    assert found["videos"] == ["same.mp4", "again.mp4"]


def test_a_model_that_says_nothing_is_unknown(elsewhere, tmp_path):
    for model in (tmp_path, "user/name"):
        found = find_leaks(model, elsewhere, "test")
        assert found["state"] == "unknown"
        assert found["videos"] == []


@pytest.fixture
def tuned_again(trained, scenes, tmp_path):
    """A run that started from `trained` and went on with other videos; and its dataset, whose audit is clean."""
    base, _ = trained
    files = {"train": {"d.mp4": (scenes["s3"], "yard")}, "test": {"same.mp4": (scenes["s1"], "bridge")}}
    clean = {"exact_copies": {"clusters": []}, "near_copies": {"pairs": []}}
    dataset = _write_dataset(tmp_path / "second", files, fingerprint="second", audit=clean)
    (tmp_path / "tuned").mkdir()
    write_training_videos(tmp_path / "tuned", load_video_dataset(dataset), earlier=earlier_trainings(base))
    return tmp_path / "tuned", dataset


def test_what_the_base_of_a_run_saw_counts_too(tuned_again, elsewhere, trained):
    run, dataset = tuned_again
    (earlier,) = json.loads((run / "training_videos.json").read_text())["earlier"]
    assert [(one["name"], one["group"]) for one in earlier["videos"]] == [("a.mp4", "gate"), ("b.mp4", "bridge")]
    found = find_leaks(run, load_video_dataset(dataset), "test", num_workers=1)  # though its own audit is clean
    assert (found["state"], found["num_exact"], found["videos"]) == ("mixed", 1, ["same.mp4"])
    assert "of a training that it started from: the run saw 1 of 1 videos" in found["reason"]
    both = find_leaks(run, elsewhere, "test", num_workers=1)
    assert (both["state"], both["num_exact"], both["num_near"]) == ("mixed", 2, 1)
    assert both["num_same_group"] == 1
    assert find_leaks(run, load_video_dataset(trained[1]), "test", num_workers=1)["state"] == "clean"
    again = earlier_trainings(run)  # and is handed on
    assert [one["dataset_fingerprint"] for one in again] == ["second", "aaa"]


def _tiny_base(folder, **facts):
    """A checkpoint as `train` leaves it, without the list of its videos."""
    write_tiny_run(folder, negative_labels=["idle"])
    if facts:
        (folder / "run.json").write_text(json.dumps(facts))
    return folder


@pytest.mark.parametrize("kind", ["run.json alone", "neither", "a base that has gone", "a base without a list"])
def test_a_fine_tuned_base_that_does_not_list_its_videos_makes_it_unknown(trained, tmp_path, kind):
    run, dataset = trained
    base = tmp_path / "base"
    if kind == "run.json alone":
        _tiny_base(base, dataset="/nowhere", dataset_fingerprint="x", base=None)
    elif kind == "neither":  # as it comes from the Hub
        _tiny_base(base)
    else:
        gone = tmp_path / "first"
        if kind == "a base without a list":
            _tiny_base(gone)
        content = json.loads((run / "training_videos.json").read_text())
        base.mkdir()  # a run of an earlier version, which listed its own videos only
        (base / "training_videos.json").write_text(json.dumps({k: v for k, v in content.items() if k != "earlier"}))
        (base / "run.json").write_text(json.dumps({"base": str(gone), "given": {"model": str(gone)}}))
        assert find_leaks(base, load_video_dataset(dataset), "test")["state"] == "unknown"
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    write_training_videos(tuned, load_video_dataset(dataset), earlier=earlier_trainings(base))
    found = find_leaks(tuned, load_video_dataset(dataset), "test")
    assert found["state"] == "unknown"
    assert "of a training that it started from: the run does not list its videos" in found["reason"]
    assert find_leaks(tuned, load_video_dataset(dataset), "train")["state"] == "mixed"


def test_a_base_that_no_run_of_ours_made_leaves_the_verdict_as_it_is(trained, tmp_path):
    _, dataset = trained
    assert earlier_trainings(None) == []
    plain = write_tiny_run(tmp_path / "plain")
    assert earlier_trainings(plain) == []
    old = tmp_path / "old"  # a run of an earlier version that started from an image model, which has gone
    old.mkdir()
    write_training_videos(old, load_video_dataset(dataset))
    content = json.loads((old / "training_videos.json").read_text())
    content.pop("earlier")
    (old / "training_videos.json").write_text(json.dumps(content))
    (old / "run.json").write_text(json.dumps({"base": "/nowhere/dino", "given": {"image_model": "dino"}}))
    assert find_leaks(old, load_video_dataset(dataset), "test")["state"] == "clean"


@pytest.mark.parametrize("text", ["{", '{"videos": [{"name": "a.mp4"}]}'])
def test_a_damaged_list_is_named(elsewhere, tmp_path, text):
    (tmp_path / "training_videos.json").write_text(text)
    with pytest.raises(ValueError, match=r"training_videos\.json is damaged"):
        find_leaks(tmp_path, elsewhere, "test")
