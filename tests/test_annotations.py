import codecs
import logging
import os
import unicodedata

import pytest

from railsformer.data.annotations import read_annotations
from railsformer.data.segments import Segment, stored_name


@pytest.fixture
def source(tmp_path):
    """A folder of files whose names alone matter here."""
    folder = tmp_path / "site"
    for name in ("cam_1/a.mp4", "cam_1/b.MP4", "cam_2/a.mp4", "cam_2/d é.webm", "notes.txt", "cam_2/._a.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def _table(source, text, encoding="utf-8"):
    path = source / "clips.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_table_with_carried_columns(source):
    table = _table(
        source,
        'file_name,label,camera,note\ncam_2/a.mp4,danger,north,"says ""stop"", twice"\n\ncam_1/a.mp4, calm ,south,\n',
        encoding="utf-8-sig",
    )
    found = read_annotations(source, annotations=table, group_by="camera")
    assert found.segments == [
        Segment(source / "cam_1/a.mp4", "cam_1/a.mp4", "calm", "south", {"camera": "south", "note": ""}, row=4),
        Segment(
            source / "cam_2/a.mp4",
            "cam_2/a.mp4",
            "danger",
            "north",
            {"camera": "north", "note": 'says "stop", twice'},
            row=2,
        ),
    ]
    assert found.column_names == ("camera", "note")
    assert found.left_out == ("cam_1/b.MP4", "cam_2/d é.webm")  # neither the hidden file nor the text


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiters_and_windows_paths(source, delimiter):
    rows = [["file_name", "label"], ["cam_1\\a.mp4", "x"], ["./cam_2//a.mp4", "y"]]
    table = _table(source, "\r\n".join(delimiter.join(row) for row in rows))
    names = [segment.file_name for segment in read_annotations(source, annotations=table).segments]
    assert names == ["cam_1/a.mp4", "cam_2/a.mp4"]


def test_without_group_by_every_file_is_its_own_group(source):
    table = _table(source, "file_name,label\ncam_1/a.mp4,x\ncam_2/a.mp4,y\n")
    found = read_annotations(source, annotations=table)
    assert [segment.group for segment in found.segments] == ["cam_1/a.mp4", "cam_2/a.mp4"]
    assert found.group_by is None


@pytest.mark.parametrize(
    ("group_by", "groups"),
    [("folder", ["cam_1", "cam_2"]), (r"cam_(\d)", ["1", "2"]), (r"([^/]+)[.]mp4", ["a", "a"])],
)
def test_groups_from_the_path(source, group_by, groups):
    table = _table(source, "file_name,label\ncam_1/a.mp4,x\ncam_2/a.mp4,y\n")
    found = read_annotations(source, annotations=table, group_by=group_by)
    assert [segment.group for segment in found.segments] == groups


@pytest.mark.parametrize("group_by", ["group", None])
def test_a_group_column_is_the_group(source, group_by):
    table = _table(source, "file_name,label,group\ncam_1/a.mp4,x,r1\ncam_2/a.mp4,y,r2\n")
    found = read_annotations(source, annotations=table, group_by=group_by)
    assert [segment.group for segment in found.segments] == ["r1", "r2"]
    assert (found.group_by, found.column_names) == ("group", ())


def test_a_group_column_without_a_cell_says_nothing(source):
    found = read_annotations(
        source, annotations=_table(source, "file_name,label,group\ncam_1/a.mp4,x,\ncam_2/a.mp4,y, \n")
    )
    assert found.groups == ["cam_1/a.mp4", "cam_2/a.mp4"]
    assert found.group_by is None


@pytest.mark.parametrize(
    ("text", "group_by", "message"),
    [
        ("file_name,label\ncam_1/a.mp4,x\ncam_9/a.mp4,y\n", None, "clips.csv row 3: cam_9/a.mp4 is not in "),
        ("file_name,label\ncam_1/a.mp4,x\n\ncam_2/a.mp4, \n", None, "clips.csv row 4: label is empty"),
        ("file_name,label\ncam_1/a.mp4,x\n,y\n", None, "clips.csv row 3: file_name is empty"),
        (
            "file_name,label\ncam_1/a.mp4,x\ncam_2/a.mp4,y\n./cam_1/a.mp4,y\n",
            None,
            "clips.csv row 4: file_name cam_1/a.mp4 is already in row 2",
        ),
        ("file_name,label\n../site/cam_1/a.mp4,x\n", None, "row 2: file_name ../site/cam_1/a.mp4 points outside"),
        ("file_name,label\n/etc/a.mp4,x\n", None, "row 2: file_name /etc/a.mp4 points outside"),
        ("file_name,label\nC:\\a.mp4,x\n", None, r"row 2: file_name C:\\a.mp4 points outside"),
        ("file_name,label\nnotes.txt,x\n", None, "row 2: notes.txt is none of the kinds that are read"),
        (
            "filename,label\ncam_1/a.mp4,x\n",
            None,
            "no column 'file_name', did you mean 'filename'.; found filename, l",
        ),
        ("", None, "clips.csv row 1: no column 'file_name'; found nothing"),
        ("file_name,label\n", None, "has a header but no rows"),
        ("file_name,label\ncam_1/a.mp4,x,y\n", None, "row 2: 3 cells where the header has 2; .* double quotes"),
        ("file_name,label,a,a\ncam_1/a.mp4,x,1,2\n", None, "the column 'a' stands there 2 times"),
        ("file_name,label,\ncam_1/a.mp4,x,\n", None, "a column has no name"),
        ("file_name,label,video\ncam_1/a.mp4,x,1\n", None, "the name 'video' is taken"),
        (
            "file_name,label,group\ncam_1/a.mp4,x,1\ncam_2/a.mp4,y, \n",
            None,
            "row 3: column 'group' is empty for cam_2/a",
        ),
        (
            "file_name,label,group,c\ncam_1/a.mp4,x,1,2\n",
            "c",
            "'group' is there but --group_by is c; leave --group_by",
        ),
        ("file_name,label,camera\ncam_1/a.mp4,x,\n", "camera", "row 2: column 'camera' is empty for cam_1/a.mp4"),
        ("file_name,label,camera\ncam_1/a.mp4,x,1\n", "camrea", "no column of clips.csv, did you mean 'camera'"),
        ("file_name,label\ncam_1/a.mp4,x\n", "(a)(b)", r"exactly one capture group.* \(it has 2\)"),
        ("file_name,label\ncam_1/a.mp4,x\n", "(a", "no regular expression .*unterminated"),
        ("file_name,label\ncam_1/a.mp4,x\n", "(zzz)", r"row 2: --group_by \(zzz\) finds nothing in cam_1/a.mp4"),
        ("file_name,label\ncam_1/a.mp4,x\n", "label", "--group_by label: name a recording or camera column"),
        ("file_name,label\ncam_1/a.mp4,x\x1b[2J\n", None, r"row 2: label 'x\\x1b\[2J' holds a control character"),
        ('file_name,label\ncam_1/a.mp4,"x\ny"\n', None, r"row 2: label 'x\\ny' holds a control character"),
        ("file_name,label\ncam_1/a.mp4,x\u2028y\n", None, r"row 2: label 'x\\u2028y' holds .* a line break"),
        (f"file_name,label\ncam_1/a.mp4,{'x' * 101}\n", None, "row 2: label of cam_1/a.mp4 has 101 characters"),
        ("file_name,label,c\ncam_1/a.mp4,x,a\u2029b\n", "c", r"row 2: group 'a\\u2029b' holds a control character"),
        (f"file_name,label,c\ncam_1/a.mp4,x,{'é' * 101}\n", "c", "row 2: group of .* expected at most 100"),
        ("file_name,label\ncam_1/a.mp4,x\ncam_2/a.mp4,x\n", None, "only one label, 'x', on all 2 videos"),
    ],
)
def test_bad_tables(source, text, group_by, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        read_annotations(source, annotations=_table(source, text), group_by=group_by)
    assert "\n" not in str(caught.value)


def test_a_table_in_another_encoding(source):
    path = source / "clips.csv"
    path.write_bytes(codecs.encode("file_name,label\ncam_1/a.mp4,Bucket-Wörker\n", "latin-1"))
    with pytest.raises(ValueError, match=r"is not UTF-8 .*save it as 'CSV UTF-8'"):
        read_annotations(source, annotations=path)


def test_a_table_that_is_none(source):
    with pytest.raises(ValueError, match=r"annotations .*a\.mp4 is a video by its name; give a table"):
        read_annotations(source, annotations=source / "cam_1/a.mp4")
    table = source / "table.csv"
    table.write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"table\.csv is not UTF-8"):
        read_annotations(source, annotations=table)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_table_that_may_not_be_read(source):
    table = _table(source, "file_name,label\ncam_1/a.mp4,x\n")
    table.chmod(0)
    with pytest.raises(PermissionError, match=r"annotations .*clips\.csv cannot be read \(Permission denied\)"):
        read_annotations(source, annotations=table)


def test_a_file_name_that_is_not_utf8(tmp_path):
    (tmp_path / "x").mkdir()
    name = os.fsencode(tmp_path / "x") + b"/caf\xe9.mp4"
    with open(name, "wb"):
        pass
    with pytest.raises(ValueError, match=r"no video whose name can be used \(first 'x/caf\\udce9\.mp4'\); rename"):
        read_annotations(tmp_path)


def test_a_long_path_may_be_its_own_group(source):
    name = f"{'deep/' * 25}a.mp4"
    (source / name).parent.mkdir(parents=True)
    (source / name).touch()
    table = _table(source, f"file_name,label\n{name},x\ncam_1/a.mp4,y\n")
    assert name in read_annotations(source, annotations=table).groups


def test_bad_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"source .*absent does not exist"):
        read_annotations(tmp_path / "absent")
    file = tmp_path / "file.mp4"
    file.touch()
    with pytest.raises(FileNotFoundError, match="is a file, not a folder"):
        read_annotations(file)
    with pytest.raises(ValueError, match="holds videos but no class folders"):
        read_annotations(tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match="holds no videos"):
        read_annotations(tmp_path)
    (tmp_path / "a.mp4").touch()
    with pytest.raises(FileNotFoundError, match=r"annotations .*absent.csv does not exist"):
        read_annotations(tmp_path, annotations=tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("file_name", "expected"),
    [
        ("a/b/clip 01 (north).mp4", "clip 01 (north).mp4"),
        ("2026.11.05 14.33.MP4", "2026_11_05 14_33.mp4"),
        ("table.csv.mkv", "table_csv.mkv"),
        ("a::b?.webm", "a__b_.mkv"),
        ("e\u0301te\u0301.m4v", "\u00e9t\u00e9.mp4"),
        ("線路.ts", "線路.mpeg"),
        ("raw.IVF", "raw.mp4"),
        ("ж" * 120 + ".avi", "ж" * 100 + ".avi"),
    ],
)
def test_stored_names(file_name, expected):
    assert stored_name(file_name) == expected


def _read(source, text, **options):
    return read_annotations(source, annotations=_table(source, text), **options)


def test_segments_of_one_file(source):
    found = _read(
        source,
        "file_name,label,start_seconds,end_seconds,note\ncam_2/a.mp4,x,5,,late\ncam_1/a.mp4,y,,,whole\n"
        "cam_2/a.mp4,y,,2.5,early\ncam_2/a.mp4,x,2.5,0:05,middle\n",
    )
    assert [(one.name, one.label, one.start_seconds, one.end_seconds, one.row) for one in found.segments] == [
        ("cam_1/a.mp4", "y", 0, None, 3),
        ("cam_2/a.mp4@0-2.5", "y", 0, 2.5, 4),
        ("cam_2/a.mp4@2.5-5", "x", 2.5, 5, 5),
        ("cam_2/a.mp4@5-end", "x", 5, None, 2),
    ]
    assert [one.is_whole_file for one in found.segments] == [True, False, False, False]
    assert found.column_names == ("note",)
    assert set(found.groups) == {"cam_1/a.mp4", "cam_2/a.mp4"}  # all segments of a file are of one group


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("cam_1/a.mp4,x,5,5", "row 2: end_seconds must be after start_seconds, got 5 and 5"),
        ("cam_1/a.mp4,x,,0", "row 2: end_seconds must be after start_seconds, got 0 and 0"),
        ("cam_1/a.mp4,x,-1,5", "row 2: start_seconds must be from 0 to 10000000 seconds, got -1"),
        ("cam_1/a.mp4,x,nan,5", r"row 2: start_seconds must be seconds \(12.5\) or a clock time .*, got nan"),
        ("cam_1/a.mp4,x,1,inf", "row 2: end_seconds must be seconds .*, got inf"),
        ("cam_1/a.mp4,x,1,1e9", "row 2: end_seconds must be from 0 to"),
        (
            "cam_1/a.mp4,x,1,2\ncam_1/a.mp4,y,1.0,0:02",
            "row 3: file_name cam_1/a.mp4 from 1 s to 2 s is already in row 2",
        ),
        ("cam_1/a.mp4,x,,\ncam_1/a.mp4,x,0,", "row 3: file_name cam_1/a.mp4 is already in row 2"),
        (
            "cam_1/a.mp4,x,4,9\ncam_1/a.mp4,y,0,5",
            "row 2: cam_1/a.mp4 is 'x' from 4 s to 9 s, but 'y' from 0 s to 5 s in row 3; .* from 4 s to 5 s",
        ),
        (
            "cam_1/a.mp4,x,,\ncam_1/a.mp4,y,3,4",
            "row 3: .* is 'y' from 3 s to 4 s, but 'x' from 0 s to the end in row 2",
        ),
        # the longest of the same label, not the last one, is what overlaps
        ("cam_1/a.mp4,x,0,9\ncam_1/a.mp4,x,1,2\ncam_1/a.mp4,y,5,6", "row 4: .* but 'x' from 0 s to 9 s in row 2"),
    ],
)
def test_bad_times(source, rows, message):
    with pytest.raises(ValueError, match=message) as caught:
        _read(source, f"file_name,label,start_seconds,end_seconds\n{rows}\ncam_2/a.mp4,z,,\n")
    assert "\n" not in str(caught.value)


def test_overlaps_of_one_label_are_told_once(source, caplog):
    rows = "".join(f"cam_1/a.mp4,x,{i},{i + 1.5}\n" for i in range(5))
    with caplog.at_level(logging.WARNING):
        found = _read(source, f"file_name,label,start_seconds,end_seconds\n{rows}cam_2/a.mp4,y,,\n")
    assert len(found.segments) == 6
    messages = [record.message for record in caplog.records if "overlap" in record.message]
    assert len(messages) == 1
    assert messages[0].startswith("4 segment(s) overlap")


@pytest.mark.parametrize(
    ("name", "meant"), [("start", "start"), ("end", "end"), ("End_Sec", "end"), ("startSeconds", "start")]
)
def test_times_under_another_name_are_not_overlooked(source, name, meant):
    with pytest.raises(ValueError, match=f"row 1: column '{name}', did you mean '{meant}_seconds'"):
        _read(source, f"file_name,label,{name}\ncam_1/a.mp4,x,1\n")


def test_columns_that_may_be_times_are_told(source, caplog):
    with caplog.at_level(logging.WARNING):
        found = _read(source, "file_name,label,start_time\ncam_1/a.mp4,x,14:33:05\ncam_2/a.mp4,y,\n")
    assert found.column_names == ("start_time",)
    assert any("start_time are carried along but not read as times" in record.message for record in caplog.records)


def test_split_column(source):
    rows = "cam_1/a.mp4,x,Training\ncam_2/a.mp4,y,val\ncam_1/b.MP4,x, test \n"
    found = _read(source, f"file_name,label,split\n{rows}")
    assert [one.split for one in found.segments] == ["train", "test", "validation"]
    assert found.column_names == ()
    empty = _read(source, "file_name,label,split\ncam_1/a.mp4,x,\ncam_2/a.mp4,y,\n")
    assert [one.split for one in empty.segments] == [None, None]


@pytest.mark.parametrize(
    ("rows", "group_by", "message"),
    [
        ("cam_1/a.mp4,x,holdout,1", None, r"row 2: split must be train, validation \(val.* or test, got 'holdout'"),
        ("cam_1/a.mp4,x,,1\ncam_2/a.mp4,y,dev,2", None, "row 2: split is empty for .*, but 'validation' in row 3"),
        (
            "cam_1/a.mp4,x,train,1\ncam_2/a.mp4,y,test,1",
            "camera",
            "row 3: group '1' is in split 'test', but in 'train' in row 2; a group must stay on one side",
        ),
        ("cam_1/a.mp4,x,train,1", "split", "--group_by split: name a recording or camera column"),
    ],
)
def test_bad_splits(source, rows, group_by, message):
    with pytest.raises(ValueError, match=message):
        _read(source, f"file_name,label,split,camera\n{rows}\ncam_1/b.MP4,z,train,9\n", group_by=group_by)


def test_segments_of_one_file_in_two_groups_are_refused(source):
    text = "file_name,label,end_seconds,start_seconds,camera\ncam_1/a.mp4,x,1,,n\ncam_1/a.mp4,y,2,1,s\n"
    with pytest.raises(ValueError, match=r"row 3: cam_1/a.mp4 is in group 's', but in 'n' in row 2"):
        _read(source, text, group_by="camera")


@pytest.mark.parametrize("other", ["Danger", "danger  zone", "de\u0301ja\u0300"])
def test_labels_that_look_alike_are_refused(source, other):
    common = {"Danger": "danger", "danger  zone": "danger zone", "de\u0301ja\u0300": "d\u00e9j\u00e0"}[other]
    with pytest.raises(ValueError, match=f"row 3: label '{other}' differs from '{common}' .*did you mean '{common}'"):
        _read(source, f"file_name,label\ncam_1/a.mp4,{common}\ncam_2/a.mp4,{other}\ncam_1/b.MP4,{common} \n")


def test_files_outside_the_source(source, tmp_path):
    outside = tmp_path / "elsewhere/c.mp4"
    outside.parent.mkdir()
    outside.touch()
    text = f"file_name,label\n../elsewhere/./c.mp4,x\n{source}/cam_1/a.mp4,y\n"
    with pytest.raises(ValueError, match=r"row 2: file_name .* points outside .* allow it with --allow_outside"):
        _read(source, text)
    found = _read(source, text, allow_outside=True)
    assert [one.file_name for one in found.segments] == ["../elsewhere/c.mp4", "cam_1/a.mp4"]
    assert all(one.path.is_file() for one in found.segments)
    assert "cam_1/a.mp4" not in found.left_out
    text = f"file_name,label\n../elsewhere/c.mp4,x\n{outside},y\n"
    with pytest.raises(ValueError, match="is already in row"):
        _read(source, text, allow_outside=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    table = _table(source, f"file_name,label\n{outside},x\n{source}/cam_1/a.mp4,y\n")
    assert len(read_annotations(empty, annotations=table, allow_outside=True).segments) == 2


def test_a_link_inside_the_source_may_lead_out(source, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/c.mp4").touch()
    (source / "link").symlink_to(tmp_path / "disk")
    found = _read(source, "file_name,label\nlink/c.mp4,x\ncam_1/a.mp4,y\n")
    assert [one.file_name for one in found.segments] == ["cam_1/a.mp4", "link/c.mp4"]


@pytest.mark.parametrize(("stored", "written"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_may_be_encoded_either_way(source, stored, written):
    (source / unicodedata.normalize(stored, "Gare de l'Évêché.mp4")).touch()
    row = unicodedata.normalize(written, "Gare de l'Évêché.mp4")
    found = _read(source, f"file_name,label\n{row},x\ncam_1/a.mp4,y\n")
    assert all(one.path.is_file() for one in found.segments)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("cam_1/A.mp4", "cam_1/A.mp4 is not in .*; add the file"),  # two files are called so: no hint
        ("D É.WEBM", "did you mean 'cam_2/d é.webm'"),
        ("cam_2/dé.webm", "did you mean 'cam_2/d é.webm'"),
        ("cam_1", r"is not in .* as a file \(it is a folder or a device\)"),
        (f"{'x' * 300}.mp4", r"cannot be read in .* \(File name too long\)"),
        ('"cam_1/a\nb.mp4"', r"file_name 'cam_1/a\\nb.mp4' holds a control character"),
        ("cam_1/a\0.mp4", "holds a control character"),
    ],
)
def test_names_that_are_not_there(source, cell, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        _read(source, f"file_name,label\n{cell},x\n")
    assert "\n" not in str(caught.value)


def test_a_name_with_a_line_break_costs_only_its_own_file(source, caplog):
    (source / "cam_1/two\nlines.mp4").touch()
    with caplog.at_level(logging.WARNING):
        found = _read(source, "file_name,label\ncam_1/b.MP4,x\ncam_1/a.mp4,y\n")
    assert "cam_1/two\nlines.mp4" in found.left_out
    assert not any("\n" in record.message for record in caplog.records)
    caplog.clear()
    (source / "a\tb").mkdir()
    (source / "a\tb/c.mp4").touch()
    with caplog.at_level(logging.WARNING):
        found = read_annotations(source)
    assert found.left_out == ("a\tb/c.mp4", "cam_1/two\nlines.mp4")
    assert len(found.segments) == 4
    assert r"2 video(s) left out, first 'a\tb/c.mp4': the names hold control characters" in caplog.text
    assert not any("\n" in record.message for record in caplog.records)


def test_raw_streams_are_read_and_other_files_are_counted(tmp_path, caplog):
    names = ("x/a.IVF", "x/b.h264", "x/c.hevc", "y/d.ogv", "y/e.vob", "y/f.gif", "y/notes.txt", "x/z.dav", "README.md")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with caplog.at_level(logging.WARNING):
        found = read_annotations(tmp_path)
    assert [one.file_name for one in found.segments] == list(names[:6])
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "2 other file(s) left out, first x/z.dav"
    ]
    table = _table(tmp_path, "file_name,label\nx/a.IVF,x\ny/f.gif,y\n")
    assert [one.file_name for one in read_annotations(tmp_path, annotations=table).segments] == ["x/a.IVF", "y/f.gif"]


def test_a_pipe_in_a_class_folder_is_refused(source):
    os.mkfifo(source / "cam_1/p.mp4")  # to open it would wait for ever
    with pytest.raises(ValueError, match=r"cam_1/p.mp4 is a pipe, socket or device"):
        read_annotations(source)
    with pytest.raises(FileNotFoundError, match=r"row 2: cam_1/p.mp4 is not in .* as a file"):
        _read(source, "file_name,label\ncam_1/p.mp4,x\n")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(source):
    (source / "cam_2").chmod(0)
    try:
        with pytest.raises(ValueError, match=r"cam_2 cannot be read \(Permission denied\)"):
            read_annotations(source)
        assert len(_read(source, "file_name,label\ncam_1/b.MP4,x\ncam_1/a.mp4,y\n").segments) == 2
    finally:
        (source / "cam_2").chmod(0o755)


def test_a_dangling_link_is_for_the_probe_to_name(source):
    (source / "cam_1/gone.mp4").symlink_to(source / "nowhere.mp4")
    assert "cam_1/gone.mp4" in [one.file_name for one in read_annotations(source).segments]


def test_label_names_without_a_list(source):
    with pytest.raises(ValueError, match="label_names goes with a list"):
        read_annotations(source, label_names=source / "labels.txt")
    with pytest.raises(ValueError, match=r"label_names goes with a list .*clips.csv is a table"):
        _read(source, "file_name,label\n", label_names=source / "labels.txt")


@pytest.mark.slow
def test_a_hundred_thousand_rows(source):
    """Quadratic work would take hours."""
    rows = "".join(f"cam_1/a.mp4,{'xy'[i % 2]},{i},{i + 1}\n" for i in range(100_000))
    found = _read(source, f"file_name,label,start_seconds,end_seconds\n{rows}")
    assert len(found.segments) == 100_000
