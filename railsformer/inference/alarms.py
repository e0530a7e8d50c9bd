"""Where alarms go: JSON lines, a file, a webhook, a command. Nobody who is slow or away holds up the watch.

Each way out has a thread and a bounded queue of its own. Where the queue is full the message is dropped and counted;
`Outbox.counts` says how many went out, failed or were dropped, and every heartbeat repeats it.
"""

import base64
import contextlib
import json
import logging
import os
import queue
import random
import re
import select
import shlex
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

__all__ = ["URGENT_KINDS", "Backoff", "Command", "Outbox", "Route", "Webhook", "open_outbox", "without_secrets"]

logger = logging.getLogger(__name__)

URGENT_KINDS = ("event_start", "blind_start")
_QUEUE_MESSAGES = 256
_CLOSE_SECONDS = 5.0
_POLL_MILLISECONDS = 100


@dataclass(frozen=True)
class Backoff:
    """Waits between tries: doubled each time up to a limit, shortened by chance so that many cameras do not keep step.

    Args:
        first_seconds: Before the second try.
        max_seconds: Before any later one.
        jitter: Share of a wait that chance may take off.
    """

    first_seconds: float = 0.5
    max_seconds: float = 30.0
    jitter: float = 0.5

    def seconds(self, failures: int) -> float:
        """Wait after so many failures in a row, at least 1."""
        wait = min(self.max_seconds, self.first_seconds * 2.0 ** min(failures - 1, 60))
        return wait * (1 - self.jitter * random.random())


class Delivery(Exception):
    """A message that did not arrive."""

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.again = again


class Route:
    """One way out, on a thread of its own.

    Args:
        name: For counts and messages.
        deliver: Sends one message, or raises `Delivery`.
        kinds: Kinds of message that go this way; None for all.
        tries: How often one message is tried.
        urgent_tries: The same of `URGENT_KINDS`; `tries` unless given.
        backoff: Waits between tries.
        capacity: Messages that may wait.
        no_more_waits: Set when the route is closed and its time is over.
    """

    def __init__(
        self,
        name: str,
        deliver: Callable[[Mapping[str, Any]], None],
        *,
        kinds: Sequence[str] | None = None,
        tries: int = 1,
        urgent_tries: int | None = None,
        backoff: Backoff | None = None,
        capacity: int = _QUEUE_MESSAGES,
        no_more_waits: threading.Event | None = None,
    ) -> None:
        self.name, self.kinds = name, kinds
        self._tries, self._urgent_tries = tries, tries if urgent_tries is None else urgent_tries
        self.sent = self.failed = self.dropped = 0
        self.closed_by_reader = False
        self._deliver, self._backoff = deliver, backoff or Backoff()
        self._waiting: queue.Queue[Mapping[str, Any] | None] = queue.Queue(capacity)
        self._no_more_waits = no_more_waits or threading.Event()
        self._warned = False
        self._thread = threading.Thread(target=self._run, name=f"alarms to {name}", daemon=True)
        self._thread.start()

    def send(self, message: Mapping[str, Any]) -> None:
        """Queue a message; never waits."""
        if self.kinds is not None and message["kind"] not in self.kinds:
            return
        try:
            self._waiting.put_nowait(message)
        except queue.Full:
            self.dropped += 1

    def close(self, seconds: float) -> None:
        """Give what waits so many seconds to go out; the rest is counted as dropped."""
        end = time.monotonic() + seconds
        while self._thread.is_alive():
            try:
                self._waiting.put(None, timeout=max(0.0, min(0.05, end - time.monotonic())) or 0.001)
                break
            except queue.Full:
                if time.monotonic() > end:
                    break
        self._thread.join(max(0.0, end - time.monotonic()))
        self._no_more_waits.set()
        self._thread.join(0.2)
        self.dropped += sum(message is not None for message in list(self._waiting.queue))

    def _run(self) -> None:
        while (message := self._waiting.get()) is not None:
            try:
                self._try(message)
            except BrokenPipeError:
                self.closed_by_reader = True
                self.failed += 1
            except Delivery as error:
                self.failed += 1
                if not self._warned:  # once; how many is in every heartbeat
                    logger.warning("alarms to %s: %s", self.name, error)
                self._warned = True
            if self._no_more_waits.is_set():
                return

    def _try(self, message: Mapping[str, Any]) -> None:
        tries = self._urgent_tries if message["kind"] in URGENT_KINDS else self._tries
        for attempt in range(1, tries + 1):
            try:
                self._deliver(message)
            except Delivery as error:
                if not error.again or attempt == tries:
                    raise
                if self._no_more_waits.wait(self._backoff.seconds(attempt)):  # nobody has the time any more
                    raise
            else:
                self.sent += 1
                self._warned = False
                return


class Outbox:
    """All ways out together.

    Args:
        routes: Each way.
        close_seconds: What waiting messages are given at the end.
    """

    def __init__(self, routes: Sequence[Route], *, close_seconds: float = _CLOSE_SECONDS) -> None:
        self.routes = list(routes)
        self._close_seconds = close_seconds
        self._closed = False

    def __enter__(self) -> "Outbox":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message with a `kind` every way that takes it; never waits."""
        for route in self.routes:
            route.send(message)

    def counts(self) -> dict[str, dict[str, int]]:
        """Messages sent, failed and dropped by way."""
        return {
            route.name: {"sent": route.sent, "failed": route.failed, "dropped": route.dropped} for route in self.routes
        }

    @property
    def unheard(self) -> bool:
        """Whether whoever read standard output has left, and there is no webhook or command either."""
        heard = [route for route in self.routes if route.name != "file"]
        return bool(heard) and all(route.closed_by_reader for route in heard)

    def close(self) -> None:
        """Let what waits go out, for a few seconds in all."""
        if self._closed:
            return
        self._closed = True
        end = time.monotonic() + self._close_seconds
        for route in self.routes:
            route.close(max(0.1, end - time.monotonic()))


def open_outbox(
    *,
    stdout: TextIO | None = None,
    file: str | Path | None = None,
    webhook: str | None = None,
    command: str | None = None,
    heartbeats_to_webhook: bool = False,
    tries: int = 8,
    urgent_tries: int = 30,
    backoff: Backoff | None = None,
    timeout_seconds: float = 10.0,
    close_seconds: float = _CLOSE_SECONDS,
) -> Outbox:
    """Open the ways that are asked for.

    Args:
        stdout: Every message as a JSON line, heartbeats too.
        file: The same appended to a file, without heartbeats and news of the source.
        webhook: URL that every message but heartbeats is posted to as JSON, under an Idempotency-Key of its own.
        command: Run for every message but heartbeats, without a shell, with the JSON on its standard input. A command
            is tried once: half of what it does may be done already.
        heartbeats_to_webhook: Post heartbeats too, for a receiver that raises an alarm where they stay away.
        tries: How often a message is posted; with the usual waits over some 50 s.
        urgent_tries: How often one that an event or blindness has begun: over 6 to 12 minutes, so that a receiver
            that is away for some minutes still hears of it.
        backoff: Waits between tries.
        timeout_seconds: Of one post; a command is given three times as long.
        close_seconds: What waiting messages are given at the end.

    Raises:
        ValueError: If the webhook is no http(s) URL, or the command cannot be run.
        OSError: If the file cannot be written.
    """
    kinds = ("event_start", "event_end", "blind_start", "blind_end", "state")
    routes = []
    sender = Webhook(webhook, timeout_seconds=timeout_seconds) if webhook is not None else None
    runner = Command(command, timeout_seconds=3 * timeout_seconds) if command is not None else None
    if file is not None:
        routes.append(Route("file", _LineFile(Path(file)).write, kinds=kinds))
    if stdout is not None:
        no_more_waits = threading.Event()
        routes.append(Route("stdout", _LineStream(stdout, no_more_waits).write, no_more_waits=no_more_waits))
    if sender is not None:
        posted = (*kinds, "heartbeat") if heartbeats_to_webhook else kinds
        patience: dict[str, Any] = {"tries": tries, "urgent_tries": urgent_tries, "backoff": backoff}
        routes.append(Route("webhook", sender.post, kinds=posted, **patience))
    if runner is not None:
        routes.append(Route("command", runner.run, kinds=kinds))
    return Outbox(routes, close_seconds=close_seconds)


class Webhook:
    """Posts messages as JSON.

    Args:
        url: http or https.
        timeout_seconds: Without an answer.

    Raises:
        ValueError: If it is no such URL.
    """

    def __init__(self, url: str, *, timeout_seconds: float = 10.0) -> None:
        try:
            parts = urllib.parse.urlsplit(url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is none
            good = False
        if not good:
            raise ValueError(f"--webhook must be an http:// or https:// URL, got {without_secrets(url)}")
        self.url, self.timeout_seconds = (
            urllib.parse.urlunsplit(parts._replace(netloc=_host_of(parts))),
            timeout_seconds,
        )
        # The path of many a webhook is its secret.
        self.name = f"{parts.scheme}://{_host_of(parts)}" + ("/***" if parts.path.strip("/") or parts.query else "")
        self._headers = {"Content-Type": "application/json"}
        if parts.username is not None:
            words = (urllib.parse.unquote(word or "") for word in (parts.username, parts.password))
            self._headers["Authorization"] = "Basic " + base64.b64encode(":".join(words).encode()).decode()
        self._opener = urllib.request.build_opener(_NoRedirect)

    def post(self, message: Mapping[str, Any]) -> None:
        """Post one message.

        Raises:
            Delivery: If it is not taken; to be tried again unless the receiver says that it is wrong itself.
        """
        # A header holds no letters beyond Latin-1, a camera's name may.
        headers = {**self._headers, "Idempotency-Key": urllib.parse.quote(str(message.get("id", "")), safe=" ")}
        request = urllib.request.Request(self.url, json.dumps(message).encode(), headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.timeout_seconds):
                pass
        except urllib.error.HTTPError as error:
            again = error.code >= 500 or error.code in (408, 425, 429)
            moved = "; give --webhook the address that it leads to" if 300 <= error.code < 400 else ""
            raise Delivery(f"{self.name} answers {error.code}{moved}", again=again) from None
        except Exception as error:  # http.client and ssl have errors of many kinds; none may end the thread
            reason = getattr(error, "reason", None) or error or type(error).__name__
            raise Delivery(f"{self.name} cannot be reached ({reason})", again=True) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: urllib would follow it with a GET, and the message would be lost without a word."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Command:
    """Runs a program for each message.

    Args:
        command: Program and arguments as in a shell, but run without one.
        timeout_seconds: After which it is killed, with what it started.

    Raises:
        ValueError: If it cannot be parsed, or there is no such program.
    """

    def __init__(self, command: str, *, timeout_seconds: float = 30.0) -> None:
        try:
            self.arguments = shlex.split(command)
        except ValueError as error:
            raise ValueError(f"--alarm_command must be quoted as in a shell, got {command!r} ({error})") from None
        if not self.arguments or shutil.which(self.arguments[0]) is None:
            name = self.arguments[0] if self.arguments else command
            raise ValueError(f"--alarm_command: there is no program {name!r}; give its path")
        self.timeout_seconds = timeout_seconds

    def run(self, message: Mapping[str, Any]) -> None:
        """Run it once.

        Raises:
            Delivery: If it cannot be started, fails or takes too long.
        """
        name = self.arguments[0]
        try:
            process = subprocess.Popen(  # a session of its own, so that Ctrl-C is not for it
                self.arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
            )
        except OSError as error:
            raise Delivery(f"{name} cannot be started ({error.strerror})", again=False) from None
        try:
            process.communicate((json.dumps(message) + "\n").encode(), timeout=self.timeout_seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise Delivery(f"{name} took more than {self.timeout_seconds:g} s and was killed", again=False) from None
        if process.returncode:
            raise Delivery(f"{name} ended with code {process.returncode}", again=False)


def without_secrets(url: str) -> str:
    """A URL as it may be shown: without password, and without a query, which often holds a token."""
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "a URL that cannot be read"
    if not parts.scheme or not parts.netloc:
        return url
    user = "***@" if "@" in parts.netloc else ""
    host = f"[{host}]" if ":" in host else host
    query = "?***" if parts.query else ""
    # Some cameras take the password in the path: /user=admin_password=..._channel=1
    path = re.sub(r"(?i)(passw(?:or)?d|pwd|token|secret)=[^&;/_]*", r"\1=***", parts.path)
    return f"{parts.scheme}://{user}{host}{port}{path}{query}"


def _host_of(parts: urllib.parse.SplitResult) -> str:
    """Host and port of a URL, without user and password."""
    return parts.netloc.rpartition("@")[2]


class _LineFile:
    """JSON lines appended to a file; a disk that is full costs lines, not the watch."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("ab"):  # the door: whether it can be written at all
            pass
        self._torn = False
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                self._torn = file.read() != b"\n"  # a watch was killed while it wrote

    def write(self, message: Mapping[str, Any]) -> None:
        line = ("\n" if self._torn else "") + json.dumps(message) + "\n"
        self._torn = True
        try:
            with self.path.open("ab") as file:
                file.write(line.encode())
        except OSError as error:
            raise Delivery(f"{self.path}: {error.strerror}; make room", again=False) from None
        self._torn = False


class _LineStream:
    """JSON lines to a stream. Where its reader is slow, no write waits for longer than the outbox has time.

    A pipe is written past Python's own buffer: a thread that blocks in it holds a lock that the interpreter waits for
    when it ends, for as long as nobody reads.
    """

    def __init__(self, stream: TextIO, no_more_waits: threading.Event) -> None:
        self.stream, self._no_more_waits = stream, no_more_waits
        self._number: int | None = None
        if hasattr(select, "poll"):
            with contextlib.suppress(OSError, ValueError):  # it has none: it is not of the system
                self._number = stream.fileno()
                stream.flush()

    def write(self, message: Mapping[str, Any]) -> None:
        line = json.dumps(message) + "\n"
        try:
            if self._number is not None and not self.stream.closed:
                self._write_bytes(self._number, line.encode())
                return
            self.stream.write(line)
            self.stream.flush()
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:  # ValueError: it was closed
            raise Delivery(f"it cannot be written ({error})", again=False) from None

    def _write_bytes(self, number: int, data: bytes) -> None:
        poll = select.poll()
        poll.register(number, select.POLLOUT)
        while data:
            if poll.poll(_POLL_MILLISECONDS):  # then a pipe takes PIPE_BUF bytes without waiting
                data = data[os.write(number, data[: select.PIPE_BUF]) :]
            elif self._no_more_waits.is_set():
                raise Delivery("nobody reads it", again=False)
