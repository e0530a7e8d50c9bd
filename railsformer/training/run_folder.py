"""The folder of a run: one run at a time writes it, and a disk that fills is told by name."""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors import SafetensorError

from railsformer.data.folders import NO_ROOM, DiskFullError, check_output_dir
from railsformer.evaluation.processes import on_main_process
from railsformer.training.resume import checkpoints_of, newest_whole_checkpoint

if sys.platform != "win32":
    import fcntl

__all__ = [
    "EMBEDDINGS_FOLDER",
    "FACTS_FILE",
    "RUNNING_FILE",
    "claimed_folder",
    "disk_full",
    "saving",
    "why_no_room",
]

Result = TypeVar("Result")

EMBEDDINGS_FOLDER = "embeddings"
FACTS_FILE = "run.json"
RUNNING_FILE = ".running"
# What libraries say in words of their own where the system gave one of these numbers, or fewer bytes than asked for.
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written|inline_container\.cc|PytorchStreamWriter")


@contextmanager
def claimed_folder(run_dir: Path, *, resume: bool, resume_from: str | None) -> Iterator[None]:
    """Hold the run folder for this run alone; every process refuses together, and a failed start leaves nothing.

    Args:
        run_dir: The run folder.
        resume: Whether it may hold a run that was not finished.
        resume_from: Checkpoint that was named.

    Raises:
        FileExistsError: If it holds something that is not to be resumed, or another run is writing it.
        PermissionError: If it cannot be written.
        ValueError: If it is to be resumed but is finished.
    """
    held: list[IO[str]] = []

    def claim() -> None:
        running = run_dir / RUNNING_FILE
        if running.is_file():  # before anything else that may be wrong with it
            held.append(_locked(running))
        _check(run_dir, resume=resume or bool(resume_from))
        run_dir.mkdir(parents=True, exist_ok=True)
        if not held:
            held.append(_locked(running))

    try:
        on_main_process(claim)
    except (OSError, ValueError):
        for file in held:
            file.close()
        raise
    try:
        yield
    finally:
        if PartialState().is_main_process:
            with suppress(OSError):
                (run_dir / RUNNING_FILE).unlink(missing_ok=True)
                if not any(run_dir.iterdir()):
                    run_dir.rmdir()
            for file in held:
                file.close()


@contextmanager
def saving(run_dir: Path, what: str) -> Iterator[None]:
    """A block that writes into the run folder. Every process must enter it, and all of them fail together.

    Args:
        run_dir: The run folder.
        what: What is written, for the message.

    Raises:
        DiskFullError: If there was no room for it, in any process.
    """
    reason = None
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = why_no_room(error)
        if reason is None:
            raise
    reasons = [one for one in gather_object([reason]) if one]
    if reasons:
        raise disk_full(run_dir, what, reasons[0])


def why_no_room(error: BaseException) -> str | None:
    """The system's words where an error says that a disk, a quota or a limit is full; None where it does not.

    safetensors passes the system's number on as text; torch and numpy only tell that less was written than asked for.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno) if error.errno in NO_ROOM else None
    text = str(error)
    if found := _RUST_ERROR.search(text):
        return os.strerror(int(found[1])) if int(found[1]) in NO_ROOM else None
    return "a write was cut short" if _CUT_SHORT.search(text) else None


def disk_full(run_dir: Path, what: str, reason: str) -> DiskFullError:
    """One line with the folder, what was written, and how to go on."""
    if last := newest_whole_checkpoint(run_dir):
        advice = f"go on with --resume: {last.name} is whole"
    elif (run_dir / EMBEDDINGS_FOLDER).is_dir():
        advice = "go on with --resume: the embeddings that are there are kept"
    else:
        advice = "start again: nothing was saved before"
    return DiskFullError(
        f"output_dir {run_dir}: no room on its disk for {what} ({reason}); free some space and {advice}"
    )


def _check(run_dir: Path, *, resume: bool) -> None:
    """Whether a run may begin in a folder, or go on there.

    Raises:
        FileExistsError: If it holds something else.
        PermissionError: If it cannot be written.
        ValueError: If it holds a finished run that is to be resumed.
    """
    if resume and (run_dir / FACTS_FILE).exists():
        raise ValueError(
            f"output_dir {run_dir} holds a finished run, there is nothing to resume; to train on, name another "
            f"folder and start with --model {run_dir}"
        )
    begun = any((run_dir / name).exists() for name in (RUNNING_FILE, EMBEDDINGS_FOLDER))
    begun = begun or bool(checkpoints_of(run_dir))
    if begun and not resume and not (run_dir / FACTS_FILE).exists():
        raise FileExistsError(
            f"output_dir {run_dir} holds a run that was not finished; go on with --resume, remove it or name another "
            "folder"
        )
    if not (begun and resume):
        check_output_dir(run_dir)


def _locked(file: Path) -> IO[str]:
    """Open a file and lock it until it is closed or this process ends, however it ends.

    The lock is the process's own: workers that outlive a killed run for some seconds do not hold it.

    Raises:
        FileExistsError: If another process holds it.
    """
    while True:
        opened = file.open("a", encoding="utf-8")
        if sys.platform == "win32":
            return opened
        try:
            fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                opened.close()
                raise FileExistsError(
                    f"output_dir {file.parent} is being written by another run; wait for it or name another folder"
                ) from error
            return opened  # a file system without locks
        if os.fstat(opened.fileno()).st_nlink:
            return opened
        opened.close()  # its run ended between the two lines and removed it
