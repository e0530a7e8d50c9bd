import datetime
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from railsformer.data.annotations import read_annotations
from railsformer.data.tables import parse_seconds, read_table


def _file(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        (" 12.5 ", 12.5),
        (".5", 0.5),
        ("1e2", 100),
        ("+3.", 3),
        ("1:05", 65),
        ("90:00.25", 5400.25),
        ("1:02:03.2", 3723.2),
        ("00:00:01,500", 1.5),
        ("1:03.2", 63.2),
    ],
)
def test_times(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["abc", "1:5", "1:60", "1:60:00", "1:2:03", "1,5", "-1", "-0:05", "1 000", "٣", "0x1", f"{'9' * 5000}:00"]
)
def test_bad_times(text):
    with pytest.raises(ValueError, match=r"^must "):
        parse_seconds(text)


def test_decimal_commas_come_with_semicolons(tmp_path):
    table = read_table(_file(tmp_path, "a.csv", "file_name;label;end_seconds\na.mp4;x;1,5\n"))
    assert parse_seconds(table.rows[0][1]["end_seconds"], decimal_comma=table.decimal_comma) == 1.5


def test_csv_quotes_bytes_and_blank_rows(tmp_path):
    text = '\ufefffile_name,label,note\r\n"a, ""b"".mp4",Bücke,"two\nlines"\r\n\r\n , , \r\nc.mp4,y,\r\n'
    table = read_table(_file(tmp_path, "a.csv", text))
    assert table.rows == [
        (2, {"file_name": 'a, "b".mp4', "label": "Bücke", "note": "two\nlines"}),
        (5, {"file_name": "c.mp4", "label": "y", "note": ""}),
    ]


def test_json_lines_keep_numbers_as_written(tmp_path):
    text = '\ufeff{"file_name": "a\u2028.mp4", "label": 1, "speed": 1.50}\n\n{"label": true, "file_name": "b.mp4"}\r\n'
    text += '{"file_name": "c.mp4", "label": "z", "speed": null, "id": 9007199254740993, "x": NaN}'
    table = read_table(_file(tmp_path, "a.jsonl", text))
    assert table.header == ["file_name", "label", "speed", "id", "x"]
    assert table.rows == [
        (1, {"file_name": "a\u2028.mp4", "label": "1", "speed": "1.50", "id": "", "x": ""}),
        (3, {"file_name": "b.mp4", "label": "true", "speed": "", "id": "", "x": ""}),
        (4, {"file_name": "c.mp4", "label": "z", "speed": "", "id": "9007199254740993", "x": ""}),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"file_name": "a.mp4" "label": 1}',
            r"clips.jsonl row 7: no JSON \(Expecting ',' delimiter at character 23\)",
        ),
        ('["a.mp4"]', "row 7: list instead of an object"),
        ('{"label": ["x"]}', "row 7: 'label' holds a list"),
        ('{"a": {"b": 1}}', "row 7: 'a' holds an object"),
        ('{"label": "x", "label": "y"}', "row 7: a name stands there twice"),
        ("[" * 100_000, "row 7: (it is nested too deep|no JSON)"),
        ('{"label": Infinit}', "row 7: no JSON"),
        ('{"a\\nb": []}', r"row 7: .*a\\nb'+ holds a list"),
    ],
)
def test_a_broken_json_line(tmp_path, line, message):
    good = '{"file_name": "a.mp4", "label": "x"}\n'
    with pytest.raises(ValueError, match=message) as caught:
        read_table(_file(tmp_path, "clips.jsonl", good * 6 + line + "\n" + good))
    assert "\n" not in str(caught.value)


def test_json_lines_become_segments(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    rows = [
        {"file_name": "a.mp4", "label": 0, "start_seconds": 0, "end_seconds": 2.5, "split": "train"},
        {"file_name": "a.mp4", "label": 1, "start_seconds": 2.5, "end_seconds": None, "split": "train"},
        {"file_name": "b.mp4", "label": 1, "split": "test"},
    ]
    table = _file(tmp_path, "clips.jsonl", "\n".join(map(json.dumps, rows)))
    found = read_annotations(tmp_path, annotations=table)
    assert [(one.name, one.label, one.split, one.row) for one in found.segments] == [
        ("a.mp4@0-2.5", "0", "train", 1),
        ("a.mp4@2.5-end", "1", "train", 2),
        ("b.mp4", "1", "test", 3),
    ]
    with pytest.raises(ValueError, match=r"clips.jsonl row 2: label is empty for b.mp4"):
        read_annotations(
            tmp_path,
            annotations=_file(
                tmp_path, "clips.jsonl", '{"file_name": "a.mp4", "label": "x"}\n{"file_name": "b.mp4"}\n'
            ),
        )


def test_parquet_cells_are_text(tmp_path):
    table = pa.table(
        {
            "file_name": ["a.mp4", "b.mp4"],
            "label": pa.array(["x", "y"]).dictionary_encode(),
            "start_seconds": [1.5, float("nan")],
            "end_seconds": pa.array([2, None], pa.int32()),
            "night": [True, None],
            "day": [datetime.date(2026, 11, 5), None],
        }
    )
    pq.write_table(table, tmp_path / "clips.parquet")
    empty = {"start_seconds": "", "end_seconds": "", "night": "", "day": ""}
    assert read_table(tmp_path / "clips.parquet").rows == [
        (
            1,
            {"file_name": "a.mp4", "label": "x", "start_seconds": "1.5", "end_seconds": "2"}
            | {"night": "true", "day": "2026-11-05"},
        ),
        (2, {"file_name": "b.mp4", "label": "y"} | empty),
    ]


@pytest.mark.parametrize(
    ("column", "kind"),
    [(pa.array([["x"]]), "list<"), (pa.array([{"a": 1}]), "struct<"), (pa.array([b"x"]), "binary")],
)
def test_parquet_columns_of_no_scalars_are_refused(tmp_path, column, kind):
    pq.write_table(pa.table({"file_name": ["a.mp4"], "label": column}), tmp_path / "clips.parquet")
    with pytest.raises(ValueError, match=f"clips.parquet: column 'label' holds {kind}"):
        read_table(tmp_path / "clips.parquet")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("clips.parquet", b"PAR1 nothing", "cannot be read as Parquet"),
        ("clips.parquet", b"", "cannot be read as Parquet"),
        ("clips.json", "[]", "one object a line; save it as .jsonl"),
        ("clips.csv", 'file_name,label\na.mp4,x\nb.mp4,"y\nc.mp4,z\n', "row 3: 2 cells where|row 3"),
        ("clips.csv", 'file_name,label\na.mp4,"' + "x" * 200_000, r"not a CSV table .*row 2\); look for a quote"),
        ("clips.jsonl", b'{"file_name": "\xff"}', "is not UTF-8"),
    ],
)
def test_damaged_tables(tmp_path, name, content, message):
    for video in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / video).touch()
    with pytest.raises(ValueError, match=message) as caught:
        read_annotations(tmp_path, annotations=_file(tmp_path, name, content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "problem"), [("a.csv", "found nothing"), ("a.jsonl", "found nothing")])
def test_empty_tables(tmp_path, name, problem):
    with pytest.raises(ValueError, match=rf"no column 'file_name'.*{problem}"):
        read_annotations(tmp_path, annotations=_file(tmp_path, name, ""))


def test_headers_of_other_tools_are_recognised(tmp_path):
    with pytest.raises(ValueError, match="no column 'file_name', did you mean 'path'"):
        read_annotations(tmp_path, annotations=_file(tmp_path, "a.csv", "path,class\na.mp4,x\n"))
    with pytest.raises(ValueError, match="no column 'label', did you mean 'LABEL'"):
        read_annotations(tmp_path, annotations=_file(tmp_path, "a.csv", "file_name,LABEL\na.mp4,x\n"))
    with pytest.raises(ValueError, match=r"the column name 'a\\nb' holds"):
        read_annotations(tmp_path, annotations=_file(tmp_path, "a.csv", 'file_name,label,"a\nb"\na.mp4,x,1\n'))


# -- lists of mmaction2


@pytest.mark.parametrize("names", ["labels.txt", "label_map.txt", "given"])
def test_lists_of_paths_and_label_indices(tmp_path, names):
    (tmp_path / "up").mkdir()
    for video in ("up/my clip 2.mp4", "b.mp4", "ü.avi"):
        (tmp_path / video).touch()
    _file(tmp_path, names, "bridge up\r\nno_action\r\nunused\r\n\r\n")
    table = _file(tmp_path, "train_list.txt", "\ufeffup/my clip 2.mp4 0\r\n\nb.mp4\t1\n  ü.avi   1  \n")
    found = read_annotations(tmp_path, annotations=table, label_names=tmp_path / names if names == "given" else None)
    assert [(one.file_name, one.label, one.row) for one in found.segments] == [
        ("b.mp4", "no_action", 3),
        ("up/my clip 2.mp4", "bridge up", 1),
        ("ü.avi", "no_action", 4),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("clips/x 120 1", "list.txt row 2: two numbers after the path, as in lists of frame folders"),
        ("a.mp4 120 1", "row 2: two numbers after the path"),
        ("a.mp4", "row 2: expected a path and a label index, got a.mp4"),
        ("a.mp4 x", "row 2: expected a path and a label index"),
        ("a.mp4 2", r"row 2: label index 2, but there are 2 label names \(0 to 1\)"),
        ("a.mp4 -1", "row 2: label index -1"),
        (f"a.mp4 {'9' * 5000}", "row 2: expected a path and a label index"),
        ("gone.mp4 1", "row 2: gone.mp4 is not in"),
        ("a.mp4 1", "row 2: file_name a.mp4 is already in row 1"),
    ],
)
def test_bad_lists(tmp_path, line, message):
    (tmp_path / "a.mp4").touch()
    _file(tmp_path, "labels.txt", "x\ny\n")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_annotations(tmp_path, annotations=_file(tmp_path, "list.txt", f"a.mp4 0\n{line}\n"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (None, "no labels.txt or label_map.txt is beside it; .* --label_names FILE"),
        ("x\n\ny\n", "labels.txt row 2: empty"),
        ("x\ny\nx\n", "labels.txt row 3: 'x' is already in row 1"),
        ("1 x\n2 y\n", "labels.txt row 1: '1 x' starts with its number"),
        ("", "labels.txt row 1: empty"),
    ],
)
def test_bad_label_names(tmp_path, names, message):
    if names is not None:
        _file(tmp_path, "labels.txt", names)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_table(_file(tmp_path, "list.txt", "a.mp4 0\n"))


def test_two_files_of_label_names_must_agree(tmp_path):
    table = _file(tmp_path, "list.txt", "a.mp4 0\n")
    _file(tmp_path, "labels.txt", "x\n")
    _file(tmp_path, "label_map.txt", "y\n")
    with pytest.raises(ValueError, match=r"labels.txt and label_map.txt beside list.txt differ"):
        read_table(table)
    with pytest.raises(FileNotFoundError, match=r"label_names .*absent.txt does not exist"):
        read_table(table, label_names=tmp_path / "absent.txt")


def test_a_table_may_be_called_txt(tmp_path):
    assert read_table(_file(tmp_path, "clips.txt", "file_name\tlabel\na.mp4\tx\n")).header == ["file_name", "label"]


@pytest.mark.parametrize("dtype", [pa.timestamp("us"), pa.timestamp("us", tz="Mars/Olympus")])
def test_times_that_python_cannot_hold_are_named(tmp_path, dtype):
    column = pa.array([2**62] * 2).cast(pa.int64()).cast(dtype)
    pq.write_table(pa.table({"file_name": ["a", "b"], "shot": column}), tmp_path / "t.parquet")
    with pytest.raises(
        ValueError, match=r"t\.parquet: column 'shot' of timestamp.* cannot be read .*; write it as text"
    ):
        read_table(tmp_path / "t.parquet")
