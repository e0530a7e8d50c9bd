from dataclasses import replace
from pathlib import Path

import pytest

from railsformer.data.segments import Annotations, Segment, check_segment_ends, stored_name


def _segment(name, label="x", *, start=0.0, end=None, row=2):
    return Segment(Path(name), name, label, name, row=row, start_seconds=start, end_seconds=end)


def _annotations(*segments):
    return Annotations([*segments, _segment("other.mp4", "other", row=99)], table_name="clips.csv")


def test_names_tell_parts_from_whole_files():
    assert _segment("a.mp4").name == "a.mp4"
    assert _segment("a.mp4", start=1 / 3, end=10.50).name == "a.mp4@0.333-10.5"
    assert _segment("a.mp4", end=100.0).name == "a.mp4@0-100"
    assert _segment("a.mp4", start=2).name == "a.mp4@2-end"
    assert replace(_segment("a.mp4"), end_seconds=7.0).name == "a.mp4"  # still the whole file


def test_stored_names_of_parts():
    assert stored_name("a b/c.x.webm", interval=_segment("c.webm", start=0.5, end=3).interval) == "c_x@0_5-3.mkv"
    one, two = (stored_name("ж" * 120 + ".avi", interval=interval) for interval in ("0-1", "1-2"))
    assert one != two
    assert len(one.encode()) <= 204


def test_ends_are_filled_in_and_clipped():
    found = _annotations(
        _segment("a.mp4"), _segment("a.mp4", start=3), _segment("a.mp4", end=10.5), _segment("b.mp4", end=50)
    )
    checked = check_segment_ends(found, {"a.mp4": 10.0, "other.mp4": 2.0})
    assert [one.end_seconds for one in checked.segments] == [10.0, 10.0, 10.0, 50, 2.0]  # b.mp4 was not probed
    assert [one.is_whole_file for one in checked.segments] == [True, False, False, False, True]
    assert checked.table_name == "clips.csv"


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        (_segment("a.mp4", start=10, end=10.2), "clips.csv row 2: the segment starts at 10 s but a.mp4 is 10 s long"),
        (_segment("a.mp4", start=12), "row 2: the segment starts at 12 s"),
        (_segment("a.mp4", end=10.51), "row 2: the segment ends at 10.51 s but a.mp4 is 10 s long; correct the times"),
    ],
)
def test_segments_past_the_end_are_refused(segment, message):
    with pytest.raises(ValueError, match=message):
        check_segment_ends(_annotations(segment), {"a.mp4": 10.0})


def test_all_segments_past_the_end_are_counted():
    rows = [_segment("a.mp4", start=20 + i, row=i) for i in range(5)]
    with pytest.raises(ValueError, match=r"row 0: .*\(and 4 more row\(s\) like it\)"):
        check_segment_ends(_annotations(*rows), {"a.mp4": 10.0})
