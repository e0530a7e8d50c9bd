"""Work on hostile files in processes of their own: one that crashes or hangs costs its own file only."""

import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Lost", "run_isolated", "serve"]

# A worker whose parent was killed ends at once, or, where a library does not let it, this long after the task's limit.
_ORPHAN_GRACE_SECONDS = 10.0
_SHOWN_STDERR_BYTES = 4000


@dataclass(frozen=True)
class Lost:
    """A task that its process did not survive.

    Attributes:
        reason_class: `timeout` where it was stopped, `crash` where it died.
        detail: The signal, the exit code or the last line that it wrote.
    """

    reason_class: Literal["crash", "timeout"]
    detail: str


def run_isolated(
    target: str, tasks: Sequence[Any], *, timeouts_seconds: Sequence[float], num_workers: int
) -> Generator[tuple[int, Any], None, None]:
    """Call a function on each task in worker processes that import nothing but its module.

    The workers are fresh interpreters, so that the caller's script is not run again, and end with this generator.

    Args:
        target: `module:function`; it takes one task and returns a result, both JSON values.
        tasks: The arguments.
        timeouts_seconds: Longest time for each task.
        num_workers: Processes at a time.

    Yields:
        The index of a task and its result, or `Lost`, as they finish.

    Raises:
        RuntimeError: If a worker cannot be started.
    """
    todo = deque(range(len(tasks)))
    done: queue.SimpleQueue[tuple[int, Any] | BaseException] = queue.SimpleQueue()
    workers = [_Worker(target) for _ in range(min(num_workers, len(tasks)))]

    def drive(worker: _Worker) -> None:
        try:
            while not worker.closed:
                try:
                    index = todo.popleft()
                except IndexError:
                    break
                done.put((index, worker.run(tasks[index], timeouts_seconds[index])))
        except (OSError, RuntimeError) as error:
            done.put(error)

    threads = [threading.Thread(target=drive, args=(worker,), daemon=True) for worker in workers]
    try:
        for thread in threads:
            thread.start()
        for _ in tasks:
            finished = done.get()
            if isinstance(finished, BaseException):
                raise finished
            yield finished
    finally:
        for worker in workers:
            worker.close()
        for thread in threads:
            if thread.ident is not None:
                thread.join()


def serve(target: str) -> None:
    """Answer tasks from stdin on stdout, one JSON value a line: what a worker process does.

    It ends with its stdin, also in the middle of a task: a parent that was killed leaves no process behind.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not land among the answers
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    tasks: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_feed, args=(tasks,), daemon=True).start()
    print("ready", file=answers, flush=True)
    while True:
        task, timeout_seconds = json.loads(tasks.get())
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, timeout_seconds + _ORPHAN_GRACE_SECONDS)
        answer = json.dumps(function(task))
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        print(answer, file=answers, flush=True)


def _feed(tasks: "queue.SimpleQueue[str]") -> None:
    # Not sys.stdin: a thread that waits on it makes an interpreter that ends abort.
    with open(0, encoding="utf-8", closefd=False) as lines:
        for line in lines:
            tasks.put(line)
    os._exit(0)


class _Worker:
    """One process at a time; it is started for its first task and after each loss."""

    def __init__(self, target: str) -> None:
        self.closed = False
        self._target = target
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._expired = False

    def run(self, task: Any, timeout_seconds: float) -> Any:
        """Return the task's result, or `Lost`."""
        process = self._process or self._start()
        self._expired = False
        timer = threading.Timer(timeout_seconds, self._expire, [process])
        timer.daemon = True
        timer.start()
        answer = _ask(process, json.dumps([task, timeout_seconds]))
        timer.cancel()
        timer.join()  # it may have fired this moment, and then the process is lost whatever it answered
        answered = answer.endswith("\n")
        if answered and not self._expired:
            return json.loads(answer)
        code = process.wait()
        with self._lock:
            self._process = None
        _close_pipes(process)
        if answered:
            return json.loads(answer)
        if self._expired:
            return Lost("timeout", f"no result after {timeout_seconds:g} s")
        return Lost("crash", self._describe(code))

    def close(self) -> None:
        """Stop for good, also in the middle of a task."""
        with self._lock:
            self.closed = True
            process = self._process
        if process is not None:
            process.kill()
            process.wait()

    def _start(self) -> subprocess.Popen[str]:
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from railsformer.data.isolation import serve; serve(sys.argv[1])"
        )
        with self._lock:
            if self.closed:
                raise RuntimeError("the worker was stopped before it began")
            self._stderr.seek(0)
            self._stderr.truncate()
            process = self._process = subprocess.Popen(
                [sys.executable, "-c", code, self._target],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                encoding="utf-8",
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        greeting = process.stdout.readline() if process.stdout else ""
        if greeting != "ready\n":
            raise RuntimeError(f"a worker process could not be started: {self._describe(process.wait())}")
        return process

    def _expire(self, process: subprocess.Popen[str]) -> None:
        self._expired = True
        process.kill()

    def _describe(self, code: int) -> str:
        if code < 0:
            return f"signal {signal.Signals(-code).name}"
        self._stderr.seek(0)
        lines = self._stderr.read()[-_SHOWN_STDERR_BYTES:].decode(errors="replace").strip().splitlines()
        return f"exit code {code}: {lines[-1]}" if lines else f"exit code {code}"


def _ask(process: subprocess.Popen[str], line: str) -> str:
    """Send a line and wait for one; empty where the process is gone."""
    if process.stdin is None or process.stdout is None:
        return ""
    try:
        process.stdin.write(line + "\n")
        process.stdin.flush()
        return process.stdout.readline()
    except (BrokenPipeError, ConnectionResetError):
        return ""


def _close_pipes(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:  # a line that was never read
                continue
