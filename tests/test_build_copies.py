"""Copies among the videos of a source: never on two sides, never under two labels in silence."""

import json

import pytest
from moving_scenes import scene, write_scene
from videos import write_video

from railsformer.data.builder import build_dataset


@pytest.mark.parametrize("split", ["group", "random"])
def test_copies_never_lie_on_two_sides(tmp_path, split):
    source = tmp_path / "source"
    for number, label in enumerate(("a", "b")):
        for index in range(8):
            write_video(source / label / f"{index}.mp4", num_frames=5, first_number=4 * number + index // 2)
    summary = build_dataset(source, output_dir=tmp_path / "dataset", split=split, progress=False)
    assert summary.copies_on_several_sides == 0
    audit = json.loads((tmp_path / "dataset/audit.json").read_text(encoding="utf-8"))
    assert len(audit["exact_copies"]["clusters"]) == 8
    assert audit["random_split"]["exact_leaked"] > 0


def test_the_training_copy_goes_where_sides_are_fixed(tmp_path):
    source = tmp_path / "source"
    rows = []
    for index in range(8):
        name = f"{index}.mp4"
        write_video(source / name, num_frames=5, first_number=0 if index in (0, 7) else 20 * index)
        split = "test" if index > 5 else "validation" if index > 3 else "train"
        rows.append(f"{name},{'a' if index in (0, 2, 4, 7) else 'b'},{split}")
    (source / "clips.csv").write_text("file_name,label,split\n" + "\n".join(rows), encoding="utf-8")
    summary = build_dataset(source, output_dir=tmp_path / "dataset", annotations=source / "clips.csv", progress=False)
    assert [sum(row.values()) for row in summary.counts.values()] == [3, 2, 2]
    assert summary.split_kind == "by file; recordings unknown; train and validation and test as the annotations say"
    audit = json.loads((tmp_path / "dataset/audit.json").read_text(encoding="utf-8"))
    assert audit["left_out"] == [{"file_name": "0.mp4", "copy_of": "7.mp4", "kind": "exact"}]
    with pytest.raises(ValueError, match="the annotations name a split for every video"):
        build_dataset(
            source, output_dir=tmp_path / "x", annotations=source / "clips.csv", split="random", progress=False
        )


def test_copies_with_two_labels_are_refused(tmp_path):
    source = tmp_path / "source"
    for label in ("a", "b"):
        for index in range(3):
            write_video(source / label / f"{index}.mp4", num_frames=5 + index + (label == "b"))
    with pytest.raises(ValueError, match=r"a/1\.mp4 is labelled 'a' and b/0\.mp4 'b', but they show the same"):
        build_dataset(source, output_dir=tmp_path / "dataset", progress=False)
    assert not (tmp_path / "dataset").exists()


def test_near_copies_with_two_labels_are_told(tmp_path, caplog):
    for index in range(6):
        name = f"{('a', 'b')[index % 2]}/{index}.mp4"
        write_scene(tmp_path / "source" / name, scene(camera=index, motion=index))
    write_scene(tmp_path / "source/b/again.mp4", scene(camera=0, motion=0), crf=28)
    build_dataset(tmp_path / "source", output_dir=tmp_path / "dataset", proxy=None, progress=False)
    assert "1 pair(s) of near copies have two labels (first a/0.mp4 and b/again.mp4)" in caplog.text
