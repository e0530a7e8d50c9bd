import pytest

from railsformer.data.annotations import read_annotations


def test_class_folders(tmp_path):
    for name in ("Danger/r1/a.mp4", "Danger/r2/deep/a.mkv", "Other/r1/c.mov", "Other/r3/d.avi", "stray.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = read_annotations(tmp_path, group_by="folder")
    assert [(segment.file_name, segment.label, segment.group) for segment in found.segments] == [
        ("Danger/r1/a.mp4", "Danger", "r1"),
        ("Danger/r2/deep/a.mkv", "Danger", "r2"),
        ("Other/r1/c.mov", "Other", "r1"),
        ("Other/r3/d.avi", "Other", "r3"),
    ]
    assert found.left_out == ("stray.mp4",)
    (tmp_path / "Other/e.mp4").touch()
    with pytest.raises(ValueError, match=r"--group_by folder: Other/e.mp4 lies directly in its class folder"):
        read_annotations(tmp_path, group_by="folder")


def test_linked_folders_are_read_once(tmp_path):
    for name in ("elsewhere/a.mp4", "site/x/b.mp4"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "site/y").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "site/x/loop").symlink_to(tmp_path / "site")
    found = read_annotations(tmp_path / "site")
    assert [segment.file_name for segment in found.segments] == ["x/b.mp4", "y/a.mp4"]


def test_one_class_folder(tmp_path):
    (tmp_path / "only").mkdir()
    (tmp_path / "only/a.mp4").touch()
    with pytest.raises(ValueError, match="only one label, 'only'"):
        read_annotations(tmp_path)


def test_folders_of_splits_hold_class_folders(tmp_path):
    for name in ("train/up/r1/a.mp4", "train/down/r2/a.mp4", "val/up/r3/b.mp4", "test/down/r4/c.mp4", "test/x.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = read_annotations(tmp_path, group_by="folder")
    assert [(one.label, one.split, one.group) for one in found.segments] == [
        ("down", "test", "r4"),
        ("down", "train", "r2"),
        ("up", "train", "r1"),
        ("up", "validation", "r3"),
    ]
    assert found.left_out == ("test/x.mp4",)


def test_a_class_may_be_called_train(tmp_path):
    for name in ("train/a.mp4", "no_train/b.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert read_annotations(tmp_path).labels == ["no_train", "train"]
