"""A Hub dataset as a source: rows, labels, splits and videos come over without anything being decoded."""

import hashlib
import json
from pathlib import Path

import datasets
import pytest
from hub_server import Repo

from railsformer.data.hub_source import read_hub_annotations

READ = """
import hashlib, json, sys
from railsformer.data.hub_source import read_hub_annotations
found = read_hub_annotations("user/yard", folder=sys.argv[1], group_by="camera")
print(json.dumps([
    [one.file_name, one.label, one.group, one.split, dict(one.columns), digest]
    for one in found.segments
    for digest in [hashlib.sha256(one.path.read_bytes()).hexdigest()]
]))
assert "torchcodec" not in sys.modules
"""
MP4 = b"\x00\x00\x00\x18ftypmp42"  # what tells the kind; nothing here decodes
FEATURES = datasets.Features(
    {
        "clip": datasets.Video(),
        "action": datasets.ClassLabel(names=["up", "down"]),
        "camera": datasets.Value("string"),
        "shift": datasets.ClassLabel(names=["day", "night"]),
        "start_seconds": datasets.Value("float64"),
        "boxes": datasets.List(datasets.Value("float32")),
    }
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def _row(data, action, *, path="a.mp4", camera="n", start=None):
    return {
        "clip": {"bytes": data, "path": path},
        "action": action,
        "camera": camera,
        "shift": 1,
        "start_seconds": start,
        "boxes": [1.0],
    }


def _write(folder, splits, features=FEATURES):
    """A dataset whose videos are embedded in Parquet."""
    for split, rows in splits.items():
        table = datasets.Dataset.from_list(rows, features=features)
        (folder / "data").mkdir(parents=True, exist_ok=True)
        table.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    return folder


def _read(folder, tmp_path, **options):
    options = {"label_column": "action"} | options
    return read_hub_annotations(folder, folder=tmp_path / "videos", **options)


def _video_folder(folder, splits=("train", "validation", "test")):
    for split in splits:
        for label in ("up", "down"):
            place = folder / split / label / f"{label}.mp4"
            place.parent.mkdir(parents=True)
            place.write_bytes(MP4 + f"{split} {label}".encode())
    return folder


def test_embedded_videos_are_written_out(tmp_path):
    folder = _write(
        tmp_path / "yard",
        {
            "train": [
                _row(MP4 + b"1", 0),
                _row(MP4 + b"2", 1, camera="s"),
                _row(b"\x1aE\xdf\xa3", 1, path=None),
                _row(MP4, 0, path="../../x.mp4"),
            ],
            "test": [_row(MP4 + b"3", 0, camera="w")],
        },
    )
    found = _read(folder, tmp_path)
    read = {one.file_name: (one.label, one.split, one.path.read_bytes(), one.row) for one in found.segments}
    assert read == {
        "train/a.mp4": ("up", "train", MP4 + b"1", 1),
        f"train/a-{hashlib.sha256(MP4 + b'2').hexdigest()[:16]}.mp4": ("down", "train", MP4 + b"2", 2),
        "train/video.mkv": ("down", "train", b"\x1aE\xdf\xa3", 3),
        "train/x.mp4": ("up", "train", MP4, 4),
        "test/a.mp4": ("up", "test", MP4 + b"3", 5),
    }
    assert found.column_names == ("camera", "shift")
    assert dict(found.segments[0].columns) == {"camera": "w", "shift": "night"}
    assert all(one.path.resolve().is_relative_to((tmp_path / "videos").resolve()) for one in found.segments)


def test_rows_with_times_share_their_video(tmp_path):
    rows = [_row(MP4, 0, start=0.0), _row(MP4, 0, start=2.0), _row(MP4 + b"2", 1, start=None)]
    found = _read(_write(tmp_path / "yard", {"train": rows}), tmp_path)
    assert len({one.path for one in found.segments}) == 2
    assert [one.start_seconds for one in found.segments if one.label == "up"] == [0.0, 2.0]
    assert {one.split for one in found.segments} == {None}  # one split says nothing of sides


def test_a_local_video_folder_is_read_in_place(tmp_path):
    folder = _video_folder(tmp_path / "yard")
    found = read_hub_annotations(folder, folder=tmp_path / "videos")
    assert [(one.file_name, one.label, one.split) for one in found.segments] == [
        ("test/down/down.mp4", "down", "test"),
        ("test/up/up.mp4", "up", "test"),
        ("train/down/down.mp4", "down", "train"),
        ("train/up/up.mp4", "up", "train"),
        ("validation/down/down.mp4", "down", "validation"),
        ("validation/up/up.mp4", "up", "validation"),
    ]
    assert found.segments[0].path.read_bytes() == MP4 + b"test down"
    assert not (tmp_path / "videos").exists()  # nothing copied
    (folder / "train/up/more.mp4").write_bytes(MP4)
    assert len(read_hub_annotations(folder, folder=tmp_path / "videos").segments) == 7  # no stale cache


@pytest.mark.slow
def test_what_build_writes_is_read_without_its_old_times(yard_dataset, tmp_path):
    found = read_hub_annotations(yard_dataset, folder=tmp_path / "videos", group_by="recording")
    assert len(found.segments) == 42
    assert all(one.is_whole_file and one.file_name.startswith(f"data/{one.split}/") for one in found.segments)
    assert not {"source", "group"} & set(found.column_names)
    own = read_hub_annotations(yard_dataset, folder=tmp_path / "videos")
    assert (own.group_by, set(own.groups)) == ("group", set(found.groups))


def test_no_video_takes_the_place_of_another(tmp_path):
    """The name that the third would get is that of the second; some systems take A.mp4 for a.mp4."""
    features = datasets.Features({"video": datasets.Video(), "label": datasets.Value("string")})
    names = ["a.mp4", "a-3.mp4", "a.mp4", "A.mp4", "a-5.mp4", "a.mp4"]
    rows = [{"video": {"bytes": MP4 + bytes([i]), "path": name}, "label": str(i % 2)} for i, name in enumerate(names)]
    found = read_hub_annotations(_write(tmp_path / "yard", {"train": rows}, features), folder=tmp_path / "videos")
    assert len({one.file_name.casefold() for one in found.segments}) == 6
    assert all(one.path.read_bytes() == MP4 + bytes([(one.row or 0) - 1]) for one in found.segments)


def test_reading_again_writes_the_same_names(tmp_path):
    folder = _write(tmp_path / "yard", {"train": [_row(MP4 + bytes([i]), i % 2) for i in range(4)]})
    first, again = (_read(folder, tmp_path) for _ in range(2))
    assert first == again
    assert len(list((tmp_path / "videos").rglob("*"))) == 5  # four videos in one folder, no parts


def test_a_folder_that_cannot_be_written(tmp_path):
    folder = _write(tmp_path / "yard", {"train": [_row(MP4, 0), _row(MP4 + b"2", 1)]})
    (tmp_path / "videos").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="videos"):
        _read(folder, tmp_path)


def test_unlabelled_rows_are_refused_by_row(tmp_path):
    folder = _write(tmp_path / "yard", {"train": [_row(MP4, 0), _row(MP4 + b"2", -1)]})
    with pytest.raises(ValueError, match=r"yard row 2: label is empty for train/a-\w+\.mp4"):
        _read(folder, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_column": None}, r"several columns of type ClassLabel; it has clip \(Video\), action .*label_column"),
        ({"label_column": "class"}, "label_column class is no such column; it has clip"),
        ({"video_column": "camera"}, r"video_column camera is no such column; .*camera \(string\)"),
        ({"group_by": "camrea"}, "no column of .*, did you mean 'camera'"),
    ],
)
def test_columns_that_are_not_there(tmp_path, options, message):
    folder = _write(tmp_path / "yard", {"train": [_row(MP4, 0), _row(MP4 + b"2", 1)]})
    with pytest.raises(ValueError, match=message) as caught:
        _read(folder, tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_datasets_that_cannot_be_sources(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])})
    folder = _write(tmp_path / "texts", {"train": [{"text": "x", "label": 0}]}, features)
    with pytest.raises(ValueError, match=r"no column of type Video; it has text \(string\), label \(ClassLabel\)"):
        read_hub_annotations(folder, folder=tmp_path / "videos")
    with pytest.raises(FileNotFoundError, match="absent: neither a folder nor a dataset on the Hub"):
        read_hub_annotations(tmp_path / "absent", folder=tmp_path / "videos")
    (tmp_path / "empty").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match="empty: ") as caught:
        read_hub_annotations(tmp_path / "empty", folder=tmp_path / "videos")
    assert "\n" not in str(caught.value)


def test_a_label_column_of_text(tmp_path):
    features = datasets.Features({"video": datasets.Video(), "label": datasets.Value("string")})
    rows = [{"video": {"bytes": MP4 + label.encode(), "path": None}, "label": label} for label in ("a", "b")]
    found = read_hub_annotations(_write(tmp_path / "yard", {"train": rows}, features), folder=tmp_path / "videos")
    assert [(one.file_name, one.label) for one in found.segments] == [
        ("train/video-2.mp4", "b"),
        ("train/video.mp4", "a"),
    ]


@pytest.mark.slow
def test_a_dataset_on_the_hub(hub, tmp_path):
    """Its splits, labels and columns come with it, and file names say nothing of this machine's cache."""
    files = {}
    for split in ("train", "validation", "test"):
        lines = []
        for number, label in enumerate(("up", "down")):
            name = f"{split} {number}.mp4"
            files[f"data/{split}/{name}"] = MP4 + name.encode()
            lines.append(json.dumps({"file_name": name, "label": label, "camera": f"cam {split}"}))
        files[f"data/{split}/metadata.jsonl"] = "\n".join(lines).encode()
    paths = "".join(f"  - split: {split}\n    path: data/{split}/**\n" for split in ("train", "validation", "test"))
    files["README.md"] = f"---\nconfigs:\n- config_name: default\n  data_files:\n{paths}---\n".encode()
    repo = Repo("dataset", "user/yard", private=False)
    repo.commit(files)
    hub.repos["dataset", "user/yard"] = repo
    expected = [
        [name, label, f"cam {split}", split, {"camera": f"cam {split}"}, hashlib.sha256(files[name]).hexdigest()]
        for split in ("test", "train", "validation")
        for label, name in (("up", f"data/{split}/{split} 0.mp4"), ("down", f"data/{split}/{split} 1.mp4"))
    ]
    assert hub.run(READ, tmp_path / "videos") == expected


@pytest.mark.parametrize(
    ("start", "suffix"),
    [
        (b"DKIF\0\0", ".ivf"),
        (b"OggS\0", ".ogv"),
        (b"GIF89a", ".gif"),
        (b"YUV4MPEG2 W64", ".y4m"),
        (b"\0\0\0\1g", ".h264"),
    ],
)
def test_raw_streams_without_a_name_get_the_suffix_of_their_kind(tmp_path, start, suffix):
    """So that they are encoded where originals are kept, since `datasets` takes them for no video."""
    features = datasets.Features({"video": datasets.Video(), "label": datasets.Value("string")})
    rows = {
        "video": [{"path": None, "bytes": start + bytes([number])} for number in range(2)],
        "label": ["up", "down"],
    }
    (tmp_path / "source").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "source/train.parquet")
    found = read_hub_annotations(tmp_path / "source", folder=tmp_path / "videos")
    assert {Path(one.file_name).suffix for one in found.segments} == {suffix}
