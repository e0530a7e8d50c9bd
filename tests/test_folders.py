import os
import subprocess
import sys

import pytest

from railsformer.data.folders import building_folder, check_output_dir, whole_folder


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def _write(final, *, interrupt):
    with whole_folder(final) as folder:
        (folder / "half").touch()
        interrupt()


def _press_ctrl_c():
    raise KeyboardInterrupt


def test_places_that_can_be_written(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new", "new/and/deep"):
        assert check_output_dir(tmp_path / name) == tmp_path / name
    assert _names(tmp_path) == ["empty"]


def test_places_that_cannot(tmp_path):
    (tmp_path / "file").touch()
    for name in ("", "file"):
        with pytest.raises(FileExistsError, match="already holds something; remove it or name another folder"):
            check_output_dir(tmp_path / name)
    with pytest.raises(PermissionError, match=r"cannot be written \(Not a directory\)"):
        check_output_dir(tmp_path / "file/out")
    with pytest.raises(PermissionError, match=r"cannot be written \(File name too long\)"):
        check_output_dir(tmp_path / ("x" * 300))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_without_the_right_to_write(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=r"cannot be written \(Permission denied\)"):
        check_output_dir(tmp_path / "out")


@pytest.mark.parametrize("exists", [False, True])
def test_all_or_nothing(tmp_path, exists):
    final = tmp_path / "a" / "out"
    if exists:
        final.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        _write(final, interrupt=_press_ctrl_c)
    assert _names(tmp_path / "a") == (["out"] if exists else [])
    with whole_folder(final) as folder:
        (folder / "whole").mkdir()
        (folder / "whole/file").write_text("x")
    assert _names(final) == ["whole"]
    assert _names(tmp_path / "a") == ["out"]


@pytest.mark.parametrize("exists", [False, True])
def test_the_slower_of_two_is_told(tmp_path, exists):
    final = tmp_path / "out"
    if exists:
        final.mkdir()

    def overtake():
        final.mkdir(exist_ok=True)
        (final / "theirs").touch()

    with pytest.raises(FileExistsError, match="out was written by somebody else meanwhile; name another folder"):
        _write(final, interrupt=overtake)
    assert _names(final) == ["theirs"]
    assert _names(tmp_path) == ["out"]


def test_what_a_killed_process_left_is_cleared_and_what_a_running_one_writes_is_not(tmp_path):
    code = (
        "import sys, time\nfrom railsformer.data.folders import whole_folder\n"
        "with whole_folder(sys.argv[1]) as folder:\n    print(flush=True)\n    time.sleep(600)"
    )
    running = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "other")], stdout=subprocess.PIPE)
    try:
        assert running.stdout.readline() == b"\n"
        with whole_folder(tmp_path / "first"):
            pass
        assert len(_names(tmp_path)) == 2  # theirs is still there
    finally:
        running.kill()
        running.communicate()
    assert len(_names(tmp_path)) == 2  # killed, it could not clean up
    with whole_folder(tmp_path / "second"):
        pass
    assert _names(tmp_path) == ["first", "second"]


@pytest.mark.parametrize("exists", [False, True])
def test_finished_parts_outlive_a_stop_and_go_at_the_end(tmp_path, exists):
    final = tmp_path / "dataset"
    if exists:
        final.mkdir()

    def stop_after_one_part():
        with building_folder(final) as parts:
            (parts / "one").touch()
            _press_ctrl_c()

    with pytest.raises(KeyboardInterrupt):
        stop_after_one_part()
    assert check_output_dir(final) == final
    with building_folder(final) as parts:
        assert _names(parts) == ["one"]
        with whole_folder(final) as folder:
            (folder / "whole").touch()
    assert _names(final) == ["whole"]
    assert _names(tmp_path) == ["dataset"]


def test_work_without_finished_parts_leaves_nothing(tmp_path):
    def fail():
        with building_folder(tmp_path / "dataset"):
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        fail()
    assert _names(tmp_path) == []


def test_two_cannot_build_in_one_place(tmp_path):
    def build_again():
        with building_folder(tmp_path / "dataset"):
            pass

    with building_folder(tmp_path / "dataset") as parts:
        (parts / "one").touch()
        with pytest.raises(FileExistsError, match=r"dataset is being written by another process"):
            build_again()
        assert _names(parts) == ["one"]
