"""Runs one measurement in a process of its own, and keeps what came of it in a folder."""

import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from railsformer.data.files import whole_file

__all__ = ["run_cell"]

logger = logging.getLogger(__name__)

RESULT_FILE, LOG_FILE = "result.json", "log.txt"
# Beside "out of memory", which a cell says itself: what libraries say when a limit stops them.
_OVERFLOW_WORDS = (
    "allocate memory", "MemoryError", "bad_alloc", "can't start new thread", "failed to map segment",
    "Resource temporarily unavailable",
)  # fmt: skip
_SECONDS_OF_LOOKING = 0.5
_INTERRUPTED = (-signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGINT)


def run_cell(
    folder: Path, command: Sequence[str], request: Mapping[str, Any], *, identity: Mapping[str, Any], retry: bool
) -> dict[str, Any]:
    """Have one measurement, from the folder if it is there, from a process of its own if not.

    Ctrl-C ends that process at once; a kill of this one ends it too, since its stdin ends.

    Args:
        folder: Of the cell; gets `result.json`, whole or not at all, and `log.txt`.
        command: Program that `peer_cost.serve` answers in.
        request: To it.
        identity: What else a result depends on: versions, hardware. A result of another identity or request is not
            taken; only the memory limit may differ.
        retry: Try again what failed, for instance under another limit.

    Returns:
        The answer, or `failed` with the reason; with `others_busy`, the share of the cores that others used just
        before. One that fails for want of a library or program has `missing_library`, one whose process was told to
        end `interrupted`: neither is kept.
    """
    path = folder / RESULT_FILE
    asked = {"request": dict(request), "identity": dict(identity)}
    found = _read(path)
    if found is not None and _answers(found, asked) and not (retry and "failed" in found["answer"]):
        return dict(found["answer"])
    folder.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    busy = psutil.cpu_percent(_SECONDS_OF_LOOKING) / 100
    answer = _ask(command, request, folder / LOG_FILE) | {"others_busy": round(busy, 2)}
    if "failed" in answer:
        logger.warning("%s: %s", folder.name, answer["failed"])
    if answer.get("missing_library") or answer.get("interrupted"):
        return answer
    with whole_file(path) as partial:
        partial.write_text(json.dumps(asked | {"answer": answer}, indent=2) + "\n", encoding="utf-8")
    return answer


def _answers(found: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether a result is one to this question."""
    if found["identity"] != json.loads(json.dumps(asked["identity"])):
        return False
    mine, theirs = json.loads(json.dumps(asked["request"])), found["request"]
    return all(theirs.get(key) == value for key, value in mine.items() if key != "limit_bytes")


def _read(path: Path) -> dict[str, Any] | None:
    """A result; None where there is none, or it is damaged and so to be made again."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        logger.warning("%s is damaged; it is measured again", path)
        return None
    return content if {"request", "identity", "answer"} <= content.keys() else None


def _ask(command: Sequence[str], request: Mapping[str, Any], log: Path) -> dict[str, Any]:
    environment = os.environ | {"OMP_NUM_THREADS": str(request["num_threads"])}
    began = time.monotonic()
    with log.open("wb") as errors:
        try:
            process = subprocess.Popen(
                command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment
            )
        except OSError as error:
            return {"failed": f"{command[0]} cannot be started ({error.strerror})", "missing_library": True}
        printed = _exchange(process, json.dumps(request))
    told = log.read_text(encoding="utf-8", errors="replace")
    answer = _understood(process.returncode, printed.decode(errors="replace"), told, request)
    return answer | {"cell_seconds": round(time.monotonic() - began, 1)}


def _exchange(process: subprocess.Popen, request: str) -> bytes:
    """Send the request, leave stdin open, and read until the process ends."""
    stdin, stdout = process.stdin, process.stdout
    if stdin is None or stdout is None:
        return b""
    try:
        with stdin, stdout:
            try:
                stdin.write(request.encode() + b"\n")
                stdin.flush()
            except BrokenPipeError:  # it ended before it read; its log says why
                pass
            printed: bytes = stdout.read()
            process.wait()
    except BaseException:  # Ctrl-C
        process.kill()
        process.wait()
        raise
    return printed


def _understood(code: int, printed: str, log: str, request: Mapping[str, Any]) -> dict[str, Any]:
    lines = [line for line in printed.splitlines() if line.strip()]
    if code == 0 and lines:
        answer: dict[str, Any] = json.loads(lines[-1])
        if "error" in answer:
            return {"failed": answer["error"], "missing_library": answer.get("missing_library", False)}
        if not answer.get("overflow"):
            return answer
    elif code != -signal.SIGKILL and not any(word in log for word in _OVERFLOW_WORDS):
        last = (log.strip().splitlines() or ["it said nothing"])[-1].strip()
        ended = f"by signal {-code}" if code < 0 else f"with code {code}"
        failed = {"failed": f"the measuring process ended {ended} ({last[:200]})"}
        return failed | ({"interrupted": True} if code in _INTERRUPTED else {})
    limit = request["limit_bytes"]
    return {"failed": "out of memory" + (f" under {limit / 2**30:.3g} GiB" if limit else ""), "overflow": True}
