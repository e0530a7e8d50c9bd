import pytest

from railsformer.data.files import partial_path, whole_file


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "table.csv"
    with whole_file(path) as partial:
        partial.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, stop):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def write():
        with whole_file(path) as partial:
            partial.write_text("ne")
            raise stop

    with pytest.raises(stop):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    path = tmp_path / "table.csv"
    partial_path(path).write_text("of a process that was killed")
    with whole_file(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_of_ones_own(tmp_path):
    path, own = tmp_path / "table.csv", tmp_path / ".mine"
    with whole_file(path, partial=own) as partial:
        assert partial == own
        own.write_text("new")
    assert path.read_text() == "new"
    assert not own.exists()
