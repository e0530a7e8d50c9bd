import codecs
import os

import pytest

from railsformer.data.annotations import Segment, read_annotations, stored_name


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


def test_a_group_column_that_is_asked_for_is_the_group(source):
    table = _table(source, "file_name,label,group\ncam_1/a.mp4,x,r1\ncam_2/a.mp4,y,r2\n")
    found = read_annotations(source, annotations=table, group_by="group")
    assert [segment.group for segment in found.segments] == ["r1", "r2"]
    assert found.column_names == ()


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
        ("file_name,label,start_seconds\ncam_1/a.mp4,x,1\n", None, "'start_seconds': segments of long videos come wi"),
        ("file_name,label,video\ncam_1/a.mp4,x,1\n", None, "the name 'video' is taken"),
        ("file_name,label,group\ncam_1/a.mp4,x,1\n", None, "column 'group' is there but --group_by is not given"),
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
    with pytest.raises(ValueError, match=r"annotations .*a\.mp4 is a video by its name; give a CSV table"):
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
    with pytest.raises(ValueError, match=r"file_name 'x/caf\\udce9\.mp4' holds .* bytes that are not UTF-8; rename"):
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


def test_one_class_folder(tmp_path):
    (tmp_path / "only").mkdir()
    (tmp_path / "only/a.mp4").touch()
    with pytest.raises(ValueError, match="only one label, 'only'"):
        read_annotations(tmp_path)


@pytest.mark.parametrize(
    ("file_name", "expected"),
    [
        ("a/b/clip 01 (north).mp4", "clip 01 (north).mp4"),
        ("2026.11.05 14.33.MP4", "2026_11_05 14_33.mp4"),
        ("table.csv.mkv", "table_csv.mkv"),
        ("a::b?.webm", "a__b_.mkv"),
        ("e\u0301te\u0301.m4v", "\u00e9t\u00e9.mp4"),
        ("線路.ts", "線路.mpeg"),
        ("ж" * 120 + ".avi", "ж" * 100 + ".avi"),
    ],
)
def test_stored_names(file_name, expected):
    assert stored_name(file_name) == expected
