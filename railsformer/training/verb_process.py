"""Verbs of ours in processes of their own, one after the other: told when to end, waited for, and heard."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

from railsformer.training.resume import checkpoints_of, what_is_missing

if sys.platform != "win32":
    import fcntl

__all__ = ["locked", "resume_flags", "run_module", "run_verb", "terminating"]

LOCK_FILE = ".lock"
_SECONDS_TO_SAVE = 120.0
_SECONDS_BETWEEN_LOOKS = 0.2


def run_verb(*arguments: str, log: Path, lock: IO[str], **options: Any) -> str | None:
    """Run a verb of ours in a process; None, or why it failed.

    Args:
        *arguments: The verb and its flags.
        log: What it prints is added to this file.
        lock: What `locked` gave; it goes along.
        **options: As of `run_module`.
    """
    return run_module("railsformer.cli", *arguments, log=log, lock=lock, **options)


def run_module(
    module: str,
    *arguments: str,
    log: Path,
    lock: IO[str],
    progress: bool = False,
    limit_bytes: int | None = None,
    stop: threading.Event | None = None,
    environment: Mapping[str, str] | None = None,
) -> str | None:
    """As `run_verb`, of any module that prints its errors as our command line does.

    After Ctrl-C or SIGTERM the process is told to end, and has two minutes to save.

    Args:
        module: To run.
        *arguments: Its flags.
        log: What it prints is added to this file.
        lock: What `locked` gave; it goes along.
        progress: Pass on what it prints.
        limit_bytes: Memory that it may take, on Linux; None leaves it alone.
        stop: Set where the main thread was told to end, and this one, which no signal reaches, waits.
        environment: Variables beside those of this process.

    Raises:
        InterruptedError: If `stop` was set before the process ended.
    """
    command = [sys.executable, "-m", module, *arguments]
    options: dict[str, Any] = {} if sys.platform == "win32" else {"pass_fds": (lock.fileno(),)}
    if environment:
        options["env"] = {**os.environ, **environment}
    with log.open("ab") as file:
        begins = file.tell()
        # The lock goes along: should this process be killed, nobody else begins while the other still runs.
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
        if limit_bytes is not None:
            _limit(process.pid, limit_bytes)
        reader = threading.Thread(target=_pass_on, args=(process.stdout, file, progress))
        reader.start()
        try:
            _wait(process, stop)
        except BaseException:  # Ctrl-C, SIGTERM or stop: let it save, then go
            process.terminate()
            try:
                process.wait(_SECONDS_TO_SAVE)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
        finally:
            reader.join(timeout=10)
    return _failure(process.returncode, log, begins) if process.returncode else None


def _wait(process: "subprocess.Popen[bytes]", stop: threading.Event | None) -> None:
    """Until it has ended."""
    while stop is None or not stop.is_set():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(None if stop is None else _SECONDS_BETWEEN_LOOKS)
            return
    raise InterruptedError


def _limit(pid: int, limit_bytes: int) -> None:
    """Where memory runs out, that process ends, and none that matters; without effect where the system cannot."""
    with contextlib.suppress(OSError):  # ended already, or read-only in some containers
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000", encoding="ascii")
    if sys.platform == "linux":
        import resource

        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def resume_flags(run: Path) -> list[str]:
    """What makes an interrupted training go on from its newest whole checkpoint; without one it starts anew."""
    if any(what_is_missing(checkpoint) is None for checkpoint in checkpoints_of(run)):
        return ["--resume"]
    shutil.rmtree(run, ignore_errors=True)
    return []


def _pass_on(output: IO[bytes], file: IO[bytes], progress: bool) -> None:
    """Copy what a process prints to its log, and to the console where somebody watches."""
    while chunk := os.read(output.fileno(), 4096):
        file.write(chunk)
        file.flush()
        if progress:
            sys.stderr.write(chunk.decode(errors="replace"))
            sys.stderr.flush()


def _failure(code: int, log: Path, begins: int) -> str:
    """The error's line, or the way the process ended."""
    lines = _lines(log.read_bytes()[begins:])
    told = [line for line in lines if line.startswith("railsformer: error: ")]
    if code == 2 and told:
        return told[-1].removeprefix("railsformer: error: ")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    return f"the process ended {f'by signal {-code}' if code < 0 else f'with code {code}'} ({last[:200]}); see {log}"


def _lines(printed: bytes) -> Sequence[str]:
    return printed.decode("utf-8", errors="replace").replace("\r", "\n").splitlines()


@contextmanager
def locked(output_dir: Path) -> Iterator[IO[str]]:
    """Hold output_dir for this process and those it starts.

    Raises:
        FileExistsError: If another process, or a training that outlived one, holds it.
    """
    with (output_dir / LOCK_FILE).open("a") as lock:
        if sys.platform != "win32":
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise FileExistsError(
                    f"output_dir {output_dir} is being written by another process; wait for it or name another folder"
                ) from error
        yield lock


@contextmanager
def terminating() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that the training is told and waited for."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
