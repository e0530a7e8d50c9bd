import os

import pyarrow.parquet as pq
import pytest
from videos import write_video

from railsformer.data.probe import VideoFacts, probe_videos
from railsformer.data.quarantine import (
    Quarantine,
    read_probe_table,
    read_quarantine,
    write_probe_table,
    write_quarantine,
)
from railsformer.data.video import VideoDecodeError


def test_the_probe_table_comes_back(tmp_path):
    good = write_video(tmp_path / "good.mp4", num_frames=5)
    raw = write_video(tmp_path / "raw.h264", num_frames=5)
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(bytes(1000))
    paths = [good, bad, raw, tmp_path / "absent.mp4"]
    names = ["yard/good.mp4", 'yard/"b,\nad".mp4', "raw.h264", "absent.mp4"]
    found = dict(zip(names, probe_videos(paths), strict=True))
    write_probe_table(tmp_path / "probe.parquet", found)
    back = read_probe_table(tmp_path / "probe.parquet")
    assert list(back) == names
    for name in names:
        if isinstance(found[name], VideoDecodeError):
            assert (back[name].reason, back[name].reason_class) == (found[name].reason, found[name].reason_class)
        else:
            assert {**vars(back[name]), "file_name": ""} == {**vars(found[name]), "file_name": ""}
    rows = pq.read_table(tmp_path / "probe.parquet").to_pylist()
    assert [row["reason_class"] for row in rows] == [None, "unreadable", None, "missing"]
    assert [row["num_bytes"] for row in rows] == [good.stat().st_size, 1000, raw.stat().st_size, None]
    assert rows[1]["num_frames"] is None
    assert rows[2]["first_seconds"] is None


def test_an_empty_probe_table_keeps_its_columns(tmp_path):
    write_probe_table(tmp_path / "probe.parquet", {})
    assert read_probe_table(tmp_path / "probe.parquet") == {}
    assert "reason_class" in pq.read_schema(tmp_path / "probe.parquet").names


def test_the_quarantine_comes_back(tmp_path):
    rows = [
        Quarantine('a,\n"b".mp4', "person on track", "cam 1", "damaged", "its middle is gone; copy it again"),
        Quarantine("ü\udcff.mp4", "", "", "empty", "the file is empty"),
    ]
    write_quarantine(tmp_path / "quarantine.csv", rows)
    assert read_quarantine(tmp_path / "quarantine.csv") == rows
    assert (tmp_path / "quarantine.csv").read_text(errors="surrogateescape").splitlines()[0] == (
        "file_name,label,group,reason_class,reason"
    )


def test_an_old_quarantine_without_classes(tmp_path):
    (tmp_path / "quarantine.csv").write_text("file_name,label,group,reason\na.mp4,x,y,broken\n")
    assert read_quarantine(tmp_path / "quarantine.csv") == [Quarantine("a.mp4", "x", "y", "damaged", "broken")]


def test_a_quarantine_saved_by_a_spreadsheet(tmp_path):
    text = "\ufefffile_name,label,group,reason_class,reason\r\na.mp4,x,y,empty,broken\r\n"
    (tmp_path / "quarantine.csv").write_text(text, encoding="utf-8", newline="")
    assert read_quarantine(tmp_path / "quarantine.csv") == [Quarantine("a.mp4", "x", "y", "empty", "broken")]


def test_a_probe_table_from_before_a_column_came(tmp_path):
    facts = VideoFacts(1.0, 25, 25.0, 64, 48, "h264", num_patched_frames=3)
    write_probe_table(tmp_path / "probe.parquet", {"a.mp4": facts})
    table = pq.read_table(tmp_path / "probe.parquet")
    pq.write_table(table.drop_columns(["num_patched_frames"]), tmp_path / "probe.parquet")
    assert read_probe_table(tmp_path / "probe.parquet")["a.mp4"].num_patched_frames == 0
    pq.write_table(table.drop_columns(["codec"]), tmp_path / "probe.parquet")
    with pytest.raises(ValueError, match=r"no column codec"):
        read_probe_table(tmp_path / "probe.parquet")


def test_tables_that_are_none(tmp_path):
    (tmp_path / "probe.parquet").write_text("text")
    with pytest.raises(ValueError, match=r"probe\.parquet: no Parquet table"):
        read_probe_table(tmp_path / "probe.parquet")
    (tmp_path / "quarantine.csv").write_text("file_name,reason\n")
    with pytest.raises(ValueError, match=r"quarantine\.csv: no column group"):
        read_quarantine(tmp_path / "quarantine.csv")
    for read in (read_probe_table, read_quarantine):
        with pytest.raises(FileNotFoundError, match="no such table"):
            read(tmp_path / "absent")


def test_a_failed_write_leaves_the_old_table(tmp_path):
    path = tmp_path / "quarantine.csv"
    write_quarantine(path, [Quarantine("a.mp4", "x", "y", "empty", "old")])
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_quarantine(path, [Quarantine("b.mp4", "x", "y", "empty", "new"), None])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["quarantine.csv"]
