"""Output folders: nothing is overwritten, and a folder appears whole or not at all."""

import errno
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

__all__ = ["NO_ROOM", "DiskFullError", "building_folder", "check_output_dir", "try_lock", "whole_folder"]

_PREFIX = ".railsformer-"
_BUILDING = ".railsformer-building"
_WORTH_KEEPING_SECONDS = 60.0
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFullError(OSError):
    """The disk is full, or a limit on files has been reached."""


def check_output_dir(output_dir: str | Path) -> Path:
    """Return the folder if it can be written and nothing would be overwritten; tell it before the work, not after.

    Raises:
        FileExistsError: If it is a file, or a folder that holds something.
        PermissionError: If it cannot be written.
    """
    folder = Path(output_dir)
    try:
        with suppress(FileNotFoundError):
            folder.lstat()  # a name that is too long, say
        holds_something = folder.exists() and (not folder.is_dir() or any(map(_is_foreign, folder.iterdir())))
        if not holds_something:
            nearest = next(place for place in (folder.resolve(), *folder.resolve().parents) if place.exists())
            with tempfile.TemporaryDirectory(dir=nearest, prefix=_PREFIX):
                pass
    except OSError as error:
        raise PermissionError(
            f"output_dir {folder} cannot be written ({error.strerror}); name a folder that you may write to"
        ) from error
    if holds_something:
        raise FileExistsError(f"output_dir {folder} already holds something; remove it or name another folder")
    return folder


@contextmanager
def building_folder(output_dir: str | Path) -> Iterator[Path]:
    """Yield a folder for finished parts of long work, so that the same work goes on where it was stopped.

    It lies beside `output_dir` (`.NAME.railsformer-building`), or in it where it is there already. It outlives Ctrl-C,
    SIGKILL and a full disk as long as it holds something, and a refusal (ValueError) that comes after more than a
    minute's work; it is removed when the block ends well.

    Raises:
        FileExistsError: If another process works on the same `output_dir` now.
    """
    final = Path(output_dir).resolve()
    folder = final / _BUILDING if final.is_dir() else final.with_name(f".{final.name}{_BUILDING}")
    parts = folder / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        if sys.platform != "win32" and not try_lock(lock):
            raise FileExistsError(
                f"output_dir {output_dir} is being written by another process; wait for it or name another folder"
            )
        began, keep = time.monotonic(), True
        try:
            yield parts
            keep = False
        except ValueError:
            keep = time.monotonic() - began > _WORTH_KEEPING_SECONDS
            raise
        except OSError as error:
            _name_full_disk(error, output_dir, advice="run the same command again: it goes on where it was")
            raise
        finally:
            if not (keep and any(parts.iterdir())):
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def whole_folder(output_dir: str | Path) -> Iterator[Path]:
    """Yield a scratch folder that becomes `output_dir` at the end, or vanishes on an error or Ctrl-C.

    The scratch folder lies beside `output_dir`, or in it where it is there already: an empty mount point can be
    filled but not replaced. What a killed process left in that place is cleared, what a running one writes is not.

    Raises:
        FileExistsError: If somebody else wrote `output_dir` meanwhile.
    """
    final = Path(output_dir).resolve()
    inside = final.is_dir()
    home = final if inside else final.parent
    home.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(home)
    scratch = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=home))
    try:
        with (scratch / "lock.new").open("w") as lock:
            try_lock(lock)
            (scratch / "lock.new").rename(scratch / "lock")
            whole = scratch / "whole"
            whole.mkdir()
            yield whole
            _put_in_place(whole, final, ours=scratch if inside else None)
    except OSError as error:
        _name_full_disk(error, output_dir, advice="run the same command again")
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _name_full_disk(error: OSError, output_dir: str | Path, *, advice: str) -> None:
    """Raise what tells the user, where an error says that there is no room; libraries name the wrong file or none."""
    if error.errno in NO_ROOM:
        raise DiskFullError(
            f"output_dir {output_dir}: no room on its disk ({error.strerror}); free some space and {advice}"
        ) from error


def _put_in_place(whole: Path, final: Path, *, ours: Path | None) -> None:
    """Give `whole` its final name, or move what it holds where the final folder was there before."""
    message = f"output_dir {final} was written by somebody else meanwhile; name another folder"
    if ours is None:
        try:
            whole.rename(final)
        except OSError as error:
            raise FileExistsError(message) from error
        return
    if any(entry != ours and entry.name != _BUILDING for entry in final.iterdir()):
        raise FileExistsError(message)
    for entry in whole.iterdir():
        entry.rename(final / entry.name)


def _is_foreign(entry: Path) -> bool:
    return entry.name != _BUILDING


def _clear_abandoned(home: Path) -> None:
    """Remove scratch folders whose process is gone: the lock they hold is free."""
    for lock in home.glob(f"{_PREFIX}*/lock"):
        try:
            with lock.open("r+") as file:
                abandoned = try_lock(file)
        except OSError:  # somebody else's, or gone this moment
            continue
        if abandoned:
            shutil.rmtree(lock.parent, ignore_errors=True)


def try_lock(file: IO[str]) -> bool:
    """Lock an open file until it is closed or the process ends; False where it is locked, or cannot be."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
