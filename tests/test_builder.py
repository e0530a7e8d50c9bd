import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from videos import frame_number, write_video

import railsformer.data.builder as builder
from railsformer.data.builder import build_dataset
from railsformer.data.clips import load_video_dataset
from railsformer.data.probe import probe_video
from railsformer.data.quarantine import read_probe_table
from railsformer.data.video import VideoDecodeError, read_frames

# Reads a dataset as someone without this package does, and prints what came back.
READER = """
import json, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "railsformer":
            raise ImportError("railsformer is not here")
sys.meta_path.insert(0, Absent())
from datasets import Video, load_dataset
dataset = load_dataset(sys.argv[1]).cast_column("video", Video(decode=False))
print(json.dumps({
    side: {
        "names": rows.features["label"].names,
        "dtypes": {name: feature.dtype for name, feature in rows.features.items() if name not in ("video", "label")},
        "rows": rows.to_list(),
    }
    for side, rows in dataset.items()
}))
assert "railsformer" not in sys.modules
"""


def _load_without_us(folder, tmp_path):
    environment = {"HF_HOME": str(tmp_path / "hf_home"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", READER, str(folder)], capture_output=True, cwd=tmp_path, env=environment, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def yard(tmp_path_factory):
    """Twelve videos of three cameras, two classes of which one is rare, and a table with columns of every type."""
    folder = tmp_path_factory.mktemp("yard")
    rows = []
    for index in range(12):
        name = f"cam {index % 3}/día {index // 3}.mp4"
        write_video(folder / name, num_frames=4 + index, first_number=index * 10)
        label = "rare" if index % 3 == 0 and index < 6 else ("danger", "other")[index % 2]
        rows.append(
            {
                "file_name": name,
                "label": label,
                "camera": f"cam {index % 3}",
                "shift": f"{index:03d}",
                "visitors": index,
                "speed": "" if index == 1 else index / 4,
                "count": "" if index == 2 else index,
                "night": str(index % 2 == 0).upper(),
                "checked": "" if index == 3 else "true",
                "note": 'two\nlines, "quoted"\r' if index == 4 else "" if index < 3 else "fine",
                "nothing": "",
            }
        )
    with (folder / "clips.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def built(yard, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "dataset"
    summary = build_dataset(
        yard,
        output_dir=folder,
        annotations=yard / "clips.csv",
        group_by="camera",
        test_groups=["cam 2"],
        validation_groups=["cam 1"],
        command="railsformer build yard",
        proxy=None,
        progress=False,
    )
    return folder, summary


def _snapshot(folder: Path):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_load_dataset_without_us(built, yard, tmp_path):
    folder, _ = built
    found = _load_without_us(folder, tmp_path)
    assert list(found) == ["train", "validation", "test"]
    for side, camera in (("train", "cam 0"), ("validation", "cam 1"), ("test", "cam 2")):
        assert found[side]["names"] == ["danger", "other", "rare"]  # also where a label has no video
        assert found[side]["dtypes"] == {
            "group": "string",
            "source": "string",
            "start_seconds": "float64",
            "end_seconds": "float64",
            "camera": "string",
            "shift": "string",
            "visitors": "int64",
            "speed": "float64",
            "count": "float64",
            "night": "bool",
            "checked": "string",
            "note": "string",
            "nothing": "string",
        }
        assert [row["group"] for row in found[side]["rows"]] == [camera] * 4
        for row in found[side]["rows"]:
            path = Path(row["video"]["path"])
            assert path.read_bytes() == (yard / row["source"]).read_bytes()
            assert path.name == Path(row["source"]).name  # unique on its side, so kept
    assert {row["label"] for row in found["train"]["rows"]} == {0, 1, 2}
    rows = {row["visitors"]: row for side in found.values() for row in side["rows"]}
    assert rows[4] == {
        "video": rows[4]["video"],
        "label": 0,
        "group": "cam 1",
        "source": "cam 1/día 1.mp4",
        "start_seconds": 0.0,
        "end_seconds": 0.8,
        "camera": "cam 1",
        "shift": "004",
        "visitors": 4,
        "speed": 1.0,
        "count": 4.0,
        "night": True,
        "checked": "true",
        "note": 'two\nlines, "quoted"\n',  # line ends are made one kind
        "nothing": None,
    }
    assert sorted(path.name for path in folder.rglob("metadata.*")) == ["metadata.csv"] * 3
    assert (rows[1]["speed"], rows[2]["count"], rows[3]["checked"]) == (None, None, None)


def test_a_table_that_csv_would_not_bring_back(yard, tmp_path):
    with (yard / "clips.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for index, row in enumerate(rows):
        row["label"] = "None" if row["label"] == "other" else row["label"]
        row["note"] = ("", "N/A", "words")[index % 3]  # empty on the whole training side
    with (tmp_path / "clips.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    build_dataset(
        yard,
        output_dir=tmp_path / "dataset",
        annotations=tmp_path / "clips.csv",
        group_by="camera",
        test_groups=["cam 2"],
        validation_groups=["cam 1"],
        progress=False,
    )
    found = _load_without_us(tmp_path / "dataset", tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("metadata.*")) == ["metadata.parquet"] * 3
    assert found["train"]["names"] == ["None", "danger", "rare"]
    assert {row["label"] for row in found["test"]["rows"]} == {0, 1}
    assert {side: {row["note"] for row in rows["rows"]} for side, rows in found.items()} == {
        "train": {None},
        "validation": {"N/A"},
        "test": {"words"},
    }
    columns = {name: [] for name in ("visitors", "speed", "count", "night", "checked", "shift", "nothing")}
    for row in sorted((row for side in found.values() for row in side["rows"]), key=lambda row: row["visitors"]):
        for name, cells in columns.items():
            cells.append(row[name])
    assert {name: cells[:4] for name, cells in columns.items()} == {
        "visitors": [0, 1, 2, 3],
        "speed": [0.0, None, 0.5, 0.75],
        "count": [0.0, 1.0, None, 3.0],
        "night": [True, False, True, False],
        "checked": ["true", "true", "true", None],
        "shift": ["000", "001", "002", "003"],
        "nothing": [None] * 4,
    }


def test_dataset_json_and_card(built):
    folder, summary = built
    facts = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    assert facts["version"] == 1
    assert facts["fingerprint"] == summary.fingerprint
    assert len(summary.fingerprint) == 64
    assert facts["split_kind"] == "by camera (3 groups)"
    assert facts["labels"] == ["danger", "other", "rare"]
    assert facts["seed"] == 0
    assert facts["counts"] == {
        "train": {"danger": 1, "other": 1, "rare": 2},
        "validation": {"danger": 2, "other": 2, "rare": 0},
        "test": {"danger": 2, "other": 2, "rare": 0},
    }
    assert facts["groups"] == {"train": 1, "validation": 1, "test": 1}
    assert facts["groups_on_several_sides"] == 0
    card = (folder / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["license"] == "unknown"
    assert header["configs"][0]["data_files"][2] == {"split": "test", "path": "data/test/**"}
    for line in (
        "| rare | 2 | 0 | 0 | 2 |",
        "| **all** | 4 | 4 | 4 | 12 |",
        "By camera (3 groups). Groups on more than one side: 0; sets of exact copies: 0;",
        "- Command: `railsformer build yard`",
        f"- Fingerprint: `{summary.fingerprint}`",
        "- No video in test of: rare",
    ):
        assert line in card


def test_fingerprint_follows_the_content_alone(yard, tmp_path, built):
    options = {"annotations": yard / "clips.csv", "group_by": "camera", "proxy": None, "progress": False}
    sides = {"test_groups": ["cam 2"], "validation_groups": ["cam 1"]}
    again = build_dataset(yard, output_dir=tmp_path / "again", seed=5, num_workers=1, **options, **sides)
    assert again.fingerprint == built[1].fingerprint
    other = build_dataset(
        yard, output_dir=tmp_path / "other", test_groups=["cam 1"], validation_groups=["cam 2"], **options
    )
    assert other.fingerprint != built[1].fingerprint


def test_same_build_gives_the_same_files(yard, tmp_path, built):
    folder, _ = built
    (tmp_path / "dataset").mkdir()  # an empty folder is as good as none
    build_dataset(
        yard,
        output_dir=tmp_path / "dataset",
        annotations=yard / "clips.csv",
        group_by="camera",
        test_groups=["cam 2"],
        validation_groups=["cam 1"],
        command="railsformer build yard",
        proxy=None,
        progress=False,
    )
    first, second = _snapshot(folder), _snapshot(tmp_path / "dataset")
    cards = [snapshot.pop("README.md") for snapshot in (first, second)]
    assert second == first
    assert cards[0] != cards[1]  # the words that keep load_dataset from reading the one for the other
    assert len({re.sub(rb"description:.*(\n    .*)*", b"", card) for card in cards}) == 1


def test_class_folders_with_colliding_and_awkward_names(tmp_path):
    source = tmp_path / "source"
    for index, label in enumerate(("1", "no", "10")):
        names = ("clip.mp4", "CLIP.MP4", "a.csv.csv.mkv", "x::y #1?.webm", ".hidden.mp4", "e\u0301.mov")
        for number, name in enumerate(names):
            path = source / label / name
            suffix = ".mkv" if name.endswith(".webm") else path.suffix.lower()
            write_video(path.with_suffix(suffix), num_frames=3 + index, first_number=30 * index + 5 * number)
            if name.endswith(".webm"):
                path.with_suffix(".mkv").rename(path)
            elif name == "CLIP.MP4":
                path.with_suffix(".mp4").rename(path)
    output_dir = tmp_path / "dataset"
    summary = build_dataset(source, output_dir=output_dir, proxy=None, progress=False)
    assert summary.split_kind == "by file; recordings unknown"
    assert summary.labels == ("1", "10", "no")
    found = _load_without_us(output_dir, tmp_path)
    rows = [row for side in found.values() for row in side["rows"]]
    assert len(rows) == 15  # five of each, the hidden one apart
    for row in rows:
        assert ("1", "10", "no")[row["label"]] == row["source"].split("/")[0]
        path = Path(row["video"]["path"])
        assert path.read_bytes() == (source / row["source"]).read_bytes()
        assert path.suffix in (".mp4", ".mkv", ".mov")
        assert path.name.count(".") == 1
    assert len({row["video"]["path"].casefold() for row in rows}) == 15


@pytest.mark.parametrize("suffix", [".webm", ".ts", ".m4v", ".flv"])
def test_suffixes_that_datasets_does_not_know(tmp_path, suffix):
    source = tmp_path / "source"
    codec = {".webm": "libvpx", ".flv": "flv"}.get(suffix, "libx264")
    for index in range(6):
        path = source / ("a", "b")[index % 2] / f"{index}{suffix}"
        write_video(path, num_frames=3 + index, first_number=10 * index, codec=codec)
    build_dataset(source, output_dir=tmp_path / "dataset", proxy=None, progress=False)
    if suffix == ".webm":  # one reading is enough: the stored suffixes are what counts
        assert sum(len(side["rows"]) for side in _load_without_us(tmp_path / "dataset", tmp_path).values()) == 6
    stored = {path.suffix for path in (tmp_path / "dataset/data").rglob("[0-9]*")}
    assert stored == {{".webm": ".mkv", ".ts": ".mpeg", ".m4v": ".mp4", ".flv": ".mkv"}[suffix]}


@pytest.fixture
def damaged(yard, tmp_path):
    """Class folders with two files that are no videos."""
    source = tmp_path / "source"
    for index in range(8):
        write_video(source / ("a", "b")[index % 2] / f"{index}.mp4", num_frames=3 + index, first_number=20 * index)
    (source / "a/broken.mp4").write_text("no video")
    (source / "b/empty.mp4").touch()
    return source


def test_files_that_are_no_videos_are_refused(damaged, tmp_path):
    with pytest.raises(VideoDecodeError, match=r"2 of 10 files cannot be read as videos") as caught:
        build_dataset(damaged, output_dir=tmp_path / "dataset", progress=False)
    for part in (
        "a/broken.mp4: cannot be decoded as video (FFmpeg says",
        "b/empty.mp4: the file is empty",
        "--on_bad drop",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "dataset").exists()


def test_files_that_are_no_videos_can_be_left_out(damaged, tmp_path):
    summary = build_dataset(damaged, output_dir=tmp_path / "dataset", on_bad="drop", progress=False)
    assert summary.num_dropped == 2
    assert sum(sum(row.values()) for row in summary.counts.values()) == 8
    with (tmp_path / "dataset/quarantine.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file_name"], row["label"]) for row in rows] == [("a/broken.mp4", "a"), ("b/empty.mp4", "b")]
    assert [row["reason_class"] for row in rows] == ["unreadable", "empty"]
    assert rows[1]["reason"].startswith("the file is empty (0 bytes)")
    assert "2 video(s) could not be read" in (tmp_path / "dataset/README.md").read_text(encoding="utf-8")


def test_a_label_without_a_readable_file(damaged, tmp_path):
    for path in (damaged / "b").glob("[0-9].mp4"):
        path.write_text("no video")
    with pytest.raises(ValueError, match="label 'b' has no video left"):
        build_dataset(damaged, output_dir=tmp_path / "dataset", on_bad="drop", progress=False)


def test_random_split_is_named_and_its_leaks_are_counted(yard, tmp_path):
    options = {"annotations": yard / "clips.csv", "group_by": "camera", "progress": False, "split": "random"}
    summary = build_dataset(yard, output_dir=tmp_path / "dataset", **options)
    assert summary.split_kind == "random rows; recordings may lie on both sides"
    assert summary.groups_on_several_sides >= 1
    with pytest.raises(ValueError, match="--split random ignores groups"):
        build_dataset(yard, output_dir=tmp_path / "other", test_groups=["cam 1"], **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"output_dir": "full"}, FileExistsError, "output_dir .*full already holds something"),
        ({"output_dir": "full/file"}, FileExistsError, "output_dir .*file already holds something"),
        ({"output_dir": "a[1]"}, ValueError, r"must not contain \* \? \[ or \]"),
        ({"output_dir": "full/file/dataset"}, PermissionError, r"dataset cannot be written \(Not a directory\)"),
        ({"output_dir": "x" * 300}, PermissionError, r"cannot be written \(File name too long\)"),
        ({"seed": -3}, ValueError, "seed must be 0 or more, got -3"),
        ({"num_workers": -3}, ValueError, "num_workers must be 1 or more, got -3"),
        ({"max_proxy_bytes": 0}, ValueError, "max_proxy_bytes must be 1 or more, got 0"),
        ({"split": "rows"}, ValueError, "split must be one of group, random, got rows"),
        ({"on_bad": "skip"}, ValueError, "on_bad must be one of fail, drop, salvage, got skip"),
        ({"splits": (0.5, 0.5)}, ValueError, "splits must be three shares"),
        ({"test_groups": ["cam 9"]}, ValueError, "no group 'cam 9', did you mean 'cam "),
        ({"test_groups": ["cam 0"]}, ValueError, "label 'rare' would have no training sample"),
    ],
)
def test_refusals_leave_nothing_behind(yard, tmp_path, options, error, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    output_dir = tmp_path / options.pop("output_dir", "dataset")
    defaults = {"annotations": yard / "clips.csv", "group_by": "camera", "progress": False}
    with pytest.raises(error, match=message) as caught:
        build_dataset(yard, output_dir=output_dir, **(defaults | options))
    assert "\n" not in str(caught.value)
    assert _snapshot(tmp_path) == {"full/file": b"mine"}


def test_output_inside_the_source_is_refused(damaged):
    with pytest.raises(ValueError, match="lies inside the source"):
        build_dataset(damaged, output_dir=damaged / "dataset", progress=False)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_build_that_was_stopped_goes_on(yard, tmp_path, monkeypatch, interruption, capfd):
    def stop(*_, **__):
        raise interruption

    options = {"output_dir": tmp_path / "dataset", "annotations": yard / "clips.csv", "group_by": "camera"}
    with monkeypatch.context() as patched:
        patched.setattr(builder, "_write_json", stop)
        with pytest.raises(type(interruption)) as caught:
            build_dataset(yard, progress=False, **options)
    if isinstance(interruption, OSError):
        assert re.search(
            r"dataset: no room on its disk .*; free some space and run the same command", str(caught.value)
        )
    assert not (tmp_path / "dataset").exists()
    (left,) = tmp_path.iterdir()
    proxies = {path: path.stat().st_mtime_ns for path in (left / "parts/videos").iterdir()}
    assert len(proxies) == 12
    seen = []
    put_in_place = builder.put_in_place

    def look(*arguments, **keywords):
        seen.append({path: path.stat().st_mtime_ns for path in (left / "parts/videos").iterdir()})
        return put_in_place(*arguments, **keywords)

    monkeypatch.setattr(builder, "put_in_place", look)
    build_dataset(yard, progress=False, **options)
    assert seen == [proxies]
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_two_builds_at_once_do_not_destroy_each_other(yard, tmp_path, monkeypatch):
    options = {"output_dir": tmp_path / "dataset", "annotations": yard / "clips.csv", "progress": False}
    write_json = builder._write_json

    def be_joined(*arguments):
        monkeypatch.setattr(builder, "_write_json", write_json)
        with pytest.raises(FileExistsError, match=r"output_dir .*dataset is being written by another process"):
            build_dataset(yard, **options)
        write_json(*arguments)

    monkeypatch.setattr(builder, "_write_json", be_joined)
    build_dataset(yard, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]
    assert len(list((tmp_path / "dataset/data").rglob("*.mp4"))) == 12


def test_segments_become_files_of_their_own(tmp_path):
    source = tmp_path / "source"
    for index in range(4):
        write_video(source / f"long {index}.mp4", num_frames=60, fps=10, first_number=60 * index)
    rows = [
        f"long {index}.mp4,{label},{start},{end}"
        for index in range(4)
        for label, start, end in (("calm", "", "2.5"), ("hazard", "0:03", "5.05"))
    ]
    (source / "times.csv").write_text("file_name,label,start_seconds,end_seconds\n" + "\n".join(rows))
    for proxy in (None, builder.PROXY_PRESETS["small"]):
        folder = tmp_path / f"dataset {proxy is None}"
        build_dataset(source, output_dir=folder, annotations=source / "times.csv", proxy=proxy, progress=False)
        found = {}
        for table in folder.glob("data/*/metadata.csv"):
            with table.open(encoding="utf-8", newline="") as file:
                found |= {row["file_name"]: (table.parent, row) for row in csv.DictReader(file)}
        assert len(found) == 8
        place, row = found["long 2@3-5_05.mp4"]
        assert (row["source"], row["start_seconds"], row["end_seconds"]) == ("long 2.mp4", "3.0", "5.05")
        assert probe_video(place / "long 2@3-5_05.mp4").duration_seconds == pytest.approx(2.05, abs=0.11)
        pictures = read_frames(place / "long 2@3-5_05.mp4", [0.0, 1.0, 2.0])
        assert [frame_number(picture) for picture in pictures] == [150, 160, 170]


def test_proxies_hold_what_the_originals_show(yard, tmp_path):
    summary = build_dataset(yard, output_dir=tmp_path / "dataset", annotations=yard / "clips.csv", progress=False)
    facts = json.loads((tmp_path / "dataset/dataset.json").read_text(encoding="utf-8"))
    assert facts["proxy"]["kind"] == "h264"
    assert "Training proxies, not the originals: h264" in (tmp_path / "dataset/README.md").read_text(encoding="utf-8")
    assert summary.num_dropped == 0
    assert {
        row["video"]["path"].rpartition(".")[2] for row in load_video_dataset(tmp_path / "dataset").split("train")
    } == {"mp4"}
    assert len(read_probe_table(tmp_path / "dataset/probe.parquet")) == 12


def test_a_dataset_is_a_source_too(built, tmp_path):
    folder, summary = built
    again = build_dataset(folder, output_dir=tmp_path / "again", group_by="group", proxy=None, progress=False)
    assert again.counts == summary.counts
    assert again.split_kind == "by group (3 groups); train and validation and test as the annotations say"


def test_one_line_of_progress_a_stage(yard, tmp_path, capfd):
    build_dataset(yard, output_dir=tmp_path / "dataset", annotations=yard / "clips.csv")
    captured = capfd.readouterr()
    assert "checking videos" in captured.err
    assert "looking for copies" in captured.err
    assert "encoding proxies" in captured.err
    assert "storing videos" in captured.err
    assert captured.out == ""


@pytest.mark.long
def test_tankyard(tankyard, tmp_path):
    summary = build_dataset(
        tankyard,
        output_dir=tmp_path / "dataset",
        annotations=tankyard / "clips.csv",
        group_by="camera",
        test_groups=["inside_turquoise_bridge_0"],
        progress=False,
    )
    assert summary.split_kind == "by camera (6 groups)"
    assert summary.groups_on_several_sides == 0
    found = _load_without_us(tmp_path / "dataset", tmp_path)
    assert {side: len(rows["rows"]) for side, rows in found.items()} == {"train": 264, "validation": 31, "test": 102}
    assert {row["camera"] for row in found["test"]["rows"]} == {"inside_turquoise_bridge_0"}
