"""A live stream to windows, on a thread of its own: it reads on whatever the network does and keeps the newest one.

Nothing queues up. The decoder takes every picture as it comes; only those that a window shows, or that tell blindness,
are turned into colours. A complete window waits in a place for one; the next one takes that place, and the one that
nobody had time for is counted as dropped. Where the stream breaks off it is opened again, with growing waits.
"""

import contextlib
import os
import re
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

import av

from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings
from railsformer.data.video import MAX_PIXELS, VideoDecodeError
from railsformer.inference.alarms import Backoff, without_secrets
from railsformer.inference.blindness import BlindnessSettings, BlindnessWatch
from railsformer.inference.pictures import Picture, SourceEvent, decode_pictures
from railsformer.inference.regions import Region
from railsformer.inference.windows import Window, WindowCutter, WindowPlan

__all__ = ["LiveWindow", "ReaderSettings", "StreamReader", "StreamState", "is_live"]

StreamState: TypeAlias = Literal["starting", "watching", "reconnecting", "ended"]

_SCHEMES = ("rtsp", "rtsps", "rtp", "http", "https", "udp", "tcp", "srt", "rtmp", "rtmps")
# What a stream may be, and what it may open in its turn (HLS names its parts): never a file of this machine.
_FORMATS = (
    *("rtsp", "rtp", "sdp", "hls", "mpegts", "mpeg", "flv", "mov", "matroska", "avi", "nut", "asf", "ogg", "ivf"),
    *("h264", "hevc", "h263", "m4v", "mjpeg", "mpjpeg", "mpegvideo", "yuv4mpegpipe", "av1", "obu", "video4linux2"),
    "v4l2",
)
_PROTOCOLS = "rtsp,rtp,rtcp,srtp,udp,tcp,tls,http,https,httpproxy,crypto,srt,rtmp,rtmps,rtmpt"
# Bare pictures without times: they count from when they come.
_UNTIMED_FORMATS = ("h264", "hevc", "m4v", "mjpeg", "mpjpeg", "mpegvideo", "h263", "obu")
_DRIFT = 2e-4  # how much faster than a camera's clock ours may run; quartz is ten times better
_KEPT_SOURCE_EVENTS = 32
_LEAP_SECONDS, _KEPT_LEAPS = 2.0, 64


@dataclass(frozen=True)
class ReaderSettings:
    """Patience with a stream.

    Args:
        open_timeout_seconds: For a connection.
        read_timeout_seconds: Without anything from the stream, or without a picture in what comes, before it is
            opened again.
        max_lag_seconds: Behind the stream before it is opened again at its newest picture. A pipe cannot be.
        steady_seconds: Of pictures after which a break counts as the first one again.
        backoff: Waits between connections.

    Raises:
        ValueError: If a number is not positive.
    """

    open_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 5.0
    max_lag_seconds: float = 10.0
    steady_seconds: float = 10.0
    backoff: Backoff = field(default_factory=Backoff)

    def __post_init__(self) -> None:
        for name in ("open_timeout_seconds", "read_timeout_seconds", "max_lag_seconds", "steady_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a positive number of seconds, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class LiveWindow:
    """A window that came just now.

    Args:
        window: Always with pixels.
        after_gap: Whether footage was missing since the window before it.
        picture_seconds: Second of its last picture.
        arrived: `time.monotonic()` of its last picture.
        seen: False where its end is black or covered: nothing to be scored.
    """

    window: Window
    after_gap: bool
    picture_seconds: float
    arrived: float
    seen: bool = True


@dataclass
class StreamCounts:
    """What happened so far; numbers only."""

    pictures: int = 0
    windows: int = 0
    windows_dropped: int = 0
    windows_with_gap: int = 0
    connections: int = 0
    damaged: int = 0
    fell_behind: int = 0


def is_live(source: str) -> bool:
    """Whether a source is a stream (an address, a video device, `-` for standard input) and not a file."""
    scheme, separator, _ = source.partition("://")
    return source == "-" or source.startswith("/dev/video") or bool(separator and scheme.lower() in _SCHEMES)


class StreamReader:
    """Reads a stream on a thread of its own until it is stopped.

    Args:
        source: As in `is_live`.
        plan: The windows.
        sampling: Of the model.
        pixels: Of the model.
        region: What is looked at; all if not given. Blindness looks at all of it.
        settings: Patience.
        blindness: How long blindness must last to count.
    """

    def __init__(
        self,
        source: str,
        *,
        plan: WindowPlan,
        sampling: ClipSampling,
        pixels: PixelSettings,
        region: Region | None = None,
        settings: ReaderSettings | None = None,
        blindness: BlindnessSettings | None = None,
    ) -> None:
        self.source, self.name = source, "standard input" if source == "-" else without_secrets(source)
        self.settings = settings or ReaderSettings()
        self.blindness = BlindnessWatch(blindness)
        self.counts = StreamCounts()
        self.clock = _StreamClock()
        self.state: StreamState = "starting"
        self.reason = ""
        self.error: BaseException | None = None
        self.last_picture: float | None = None  # time.monotonic()
        self.source_events: deque[SourceEvent] = deque(maxlen=_KEPT_SOURCE_EVENTS)
        self._cutter = WindowCutter(plan, sampling, pixels, region=region, eager=True)
        self._plan, self._pixels = plan, pixels
        self._until_seconds = 0.0
        self._stop = threading.Event()
        self._place = _Place(self.counts)
        self._thread = threading.Thread(target=self._run, name="stream reader", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """End, at the latest when the read under way times out."""
        self._stop.set()
        self._thread.join(self.settings.read_timeout_seconds + 1.0)

    def take(self, timeout_seconds: float) -> LiveWindow | None:
        """The newest complete window that was not taken yet; None where none comes in time."""
        return self._place.take(timeout_seconds)

    def take_source_events(self) -> list[SourceEvent]:
        """Gaps and changes of size and rate since the last call; the newest ones where there were very many."""
        return [self.source_events.popleft() for _ in range(len(self.source_events))]

    @property
    def lag_seconds(self) -> float:
        """How far the newest decoded picture is behind the stream."""
        return self.clock.lag_seconds

    def _run(self) -> None:
        try:
            self._read_for_ever()
        except BaseException as error:  # the watch's own thread raises it
            self.error = error
        finally:
            self.state = "ended"
            self._place.wake()

    def _read_for_ever(self) -> None:
        failures = 0
        while not self._stop.is_set():
            began, before = time.monotonic(), self.counts.pictures
            self.reason = self._read_once()
            if self._stop.is_set() or self.source == "-":
                return
            came = self.counts.pictures - before
            failures = 1 if came and time.monotonic() - began > self.settings.steady_seconds else failures + 1
            if self.state == "watching":
                self.state = "reconnecting"
            self._stop.wait(self.settings.backoff.seconds(failures))

    def _read_once(self) -> str:
        """Read one connection to its end; why it ended."""
        try:
            with _open_stream(self.source, self.settings, self._stop) as container:
                self.counts.connections += 1
                self._read(container)
        except _Stopped:
            return ""
        except VideoDecodeError as error:
            return _plainly(error.reason, self.source)
        except (av.error.FFmpegError, OSError) as error:
            return _plainly(f"it cannot be opened ({error.strerror or error})", self.source)
        return "the stream ended"

    def _read(self, container: av.container.InputContainer) -> None:
        self.blindness.interrupt()
        # Time went on while nothing came. A new connection is always a gap.
        first = max(self.clock.now_seconds(), self._until_seconds + 0.05) if self.counts.pictures else 0.0
        self.clock.restart()
        guarded = _GuardedContainer(container, self.name, self._stop, self.settings.read_timeout_seconds)
        pictures = decode_pictures(
            cast(av.container.InputContainer, guarded),
            short_side_px=self._pixels.short_side_px,
            wanted=lambda seconds, until: self.blindness.wanted(seconds) or self._cutter.wanted(seconds, until),
            start_seconds=first,
            max_gap_seconds=self._plan.max_gap_seconds,
            on_event=self._see,
            max_failed_reads=0,
            threads=1,  # more would hold pictures back
        )
        for picture in pictures:
            guarded.see_picture()
            self._take(picture)

    def _take(self, picture: Picture) -> None:
        now = time.monotonic()
        # It is given when the next one comes, which is on screen from `until_seconds`.
        self.clock.see(picture.until_seconds, now)
        self._until_seconds, self.last_picture = picture.until_seconds, now
        self.counts.pictures += 1
        self.state, self.reason = "watching", ""
        if picture.rgb is not None and self.blindness.wanted(picture.seconds):
            self.blindness.push(picture.rgb, picture.seconds)
        for window in self._cutter.push(picture):
            self._place.put(window, picture_seconds=picture.seconds, arrived=now, seen=not self.blindness.sees_nothing)
        if self.clock.lag_seconds > self.settings.max_lag_seconds and self.source != "-":
            self.counts.fell_behind += 1
            reason = f"reading fell {self.clock.lag_seconds:.0f} s behind; lower the camera's size or rate"
            raise VideoDecodeError(self.name, reason)

    def _see(self, event: SourceEvent) -> None:
        if event.kind == "damage":
            self.counts.damaged += 1
        else:
            self.source_events.append(event)


class _Place:
    """Room for one window."""

    def __init__(self, counts: StreamCounts) -> None:
        self._counts = counts
        self._changed = threading.Condition()
        self._window: LiveWindow | None = None
        self._gap = False

    def put(self, window: Window, *, picture_seconds: float, arrived: float, seen: bool) -> None:
        """Put the newest window in; one with a gap only leaves a mark."""
        with self._changed:
            if window.pixel_values is None:
                self._counts.windows_with_gap += 1
                self._gap = True
                return
            self._counts.windows += 1
            after_gap = self._gap
            if self._window is not None:
                self._counts.windows_dropped += 1
                after_gap |= self._window.after_gap
            self._window, self._gap = LiveWindow(window, after_gap, picture_seconds, arrived, seen), False
            self._changed.notify_all()

    def take(self, timeout_seconds: float) -> LiveWindow | None:
        with self._changed:
            if self._window is None:
                self._changed.wait(timeout_seconds)
            window, self._window = self._window, None
            return window

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


@dataclass
class _StreamClock:
    """Which instant of ours a second of the stream is: the least delay that was seen, as delays only ever add."""

    lag_seconds: float = 0.0
    _offset: float | None = None  # monotonic time of second 0
    _seen: float = 0.0
    _seen_seconds: float = 0.0
    # Where the stream's own times leapt ahead: until which second the offset before that held.
    _earlier: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_KEPT_LEAPS))
    _fresh: bool = True
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def restart(self) -> None:
        """A new connection, with another delay."""
        with self._lock:
            self._fresh = True

    def see(self, seconds: float, now: float) -> None:
        """The picture at `seconds` has just come."""
        with self._lock:
            offset = now - seconds
            if self._offset is not None and offset < self._offset - _LEAP_SECONDS:
                self._earlier.append(((self._seen_seconds + seconds) / 2, self._offset))
            self._seen_seconds = seconds
            if self._offset is None or self._fresh:
                self._offset, self._fresh = offset, False
            else:
                self._offset = min(offset, self._offset + _DRIFT * (now - self._seen))
            self._seen, self.lag_seconds = now, offset - self._offset

    def now_seconds(self) -> float:
        """Second of the stream that it would be now."""
        with self._lock:
            return 0.0 if self._offset is None else time.monotonic() - self._offset

    def wall_time(self, seconds: float) -> float | None:
        """Seconds since 1970 of a second of the stream; None before the first picture."""
        with self._lock:
            if self._offset is None:
                return None
            offset = next((before for until, before in self._earlier if seconds < until), self._offset)
            return time.time() - time.monotonic() + offset + seconds


class _Stopped(Exception):
    """The watch is over."""


class _GuardedContainer:
    """What `decode_pictures` uses of a container, with an eye on every packet, of sound too.

    A stream whose picture dies while its sound goes on would otherwise never time out.
    """

    def __init__(
        self, container: av.container.InputContainer, name: str, stop: threading.Event, timeout_seconds: float
    ) -> None:
        self.name, self.streams, self.format = name, container.streams, container.format
        self.duration = None  # an end that a stream's header tells is not this stream's
        self._container, self._stop, self._timeout = container, stop, timeout_seconds
        self._last_picture = self._began = time.monotonic()
        self._untimed = container.format.name in _UNTIMED_FORMATS

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def see_picture(self) -> None:
        """A picture came out of the decoder."""
        self._last_picture = time.monotonic()

    def demux(self, stream: av.VideoStream) -> Iterator[av.Packet]:
        """Packets of one stream."""
        for packet in self._container.demux():
            if self._stop.is_set():
                raise _Stopped
            if time.monotonic() - self._last_picture > 2 * self._timeout:
                raise VideoDecodeError(self.name, f"no picture for {2 * self._timeout:g} s in what the stream sends")
            if packet.stream_index != stream.index:
                continue
            if self._untimed and packet.size:
                packet.pts = packet.dts = round((time.monotonic() - self._began) / float(packet.time_base))
            yield packet


class _Pipe:
    """Standard input for FFmpeg: waits for more as long as the watch goes on."""

    def __init__(self, number: int, stop: threading.Event) -> None:
        self._number, self._stop = number, stop

    def read(self, size: int) -> bytes:
        while not self._stop.is_set():
            if select.select([self._number], [], [], 0.1)[0]:
                return os.read(self._number, size)
        return b""


@contextlib.contextmanager
def _open_stream(
    source: str, settings: ReaderSettings, stop: threading.Event
) -> Iterator[av.container.InputContainer]:
    """Open a connection.

    Raises:
        FFmpegError: If it cannot be opened, also inside the `with` block.
        OSError: The same.
    """
    options: dict[str, Any] = {
        "metadata_errors": "replace",
        "options": {"max_pixels": str(MAX_PIXELS + 2**20)},
        "container_options": {"format_whitelist": ",".join(_FORMATS), **_protocol_options(source, settings)},
        "timeout": (settings.open_timeout_seconds, settings.read_timeout_seconds),
    }
    if source == "-":
        options["timeout"] = None
        container = av.open(_Pipe(sys.stdin.fileno(), stop), **options)
    elif source.startswith("/dev/video"):
        container = av.open(source, format="v4l2", **options)
    else:
        container = av.open(source, **options)
    with container:
        for stream in container.streams.video:
            if stream.codec_context is not None:
                stream.codec_context.options = {"max_pixels": str(MAX_PIXELS + 2**20)}
        yield container


def _protocol_options(source: str, settings: ReaderSettings) -> dict[str, str]:
    micros = str(int(settings.read_timeout_seconds * 1e6))
    scheme = source.partition("://")[0].lower()
    if source == "-" or source.startswith("/dev/video"):
        return {"protocol_whitelist": "file"} if source != "-" else {}
    options = {"protocol_whitelist": _PROTOCOLS, "analyzeduration": "2000000"}
    if scheme in ("rtsp", "rtsps"):
        # Over TCP no packet is lost, and no firewall is in the way; some cameras know UDP only.
        return options | {"rtsp_flags": "prefer_tcp", "timeout": micros}
    if scheme == "udp":
        # What comes faster than it is read is lost and counted as damage; it must not end the watch.
        return options | {"overrun_nonfatal": "1", "fifo_size": "57344", "timeout": micros}
    return options


def _plainly(reason: str, source: str) -> str:
    """FFmpeg's words without its numbers; what it says of a time-out (UDP: an input/output error) in plain ones."""
    timeouts = ("Immediate exit", "timed out", *(["Input/output error"] if source.startswith("udp:") else []))
    if any(words in reason for words in timeouts):
        return "nothing came in time"
    # An address may hold a password, and FFmpeg's errors name it.
    return re.sub(r"""\[Errno \d+\] |: '[^']*'|: "[^"]*\"""", "", reason).replace(source, without_secrets(source))
