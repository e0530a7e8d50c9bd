"""A live camera, watched for as long as it runs: alarms within a second or two, and a word whenever it cannot see.

What goes out is JSON, one object a message, each with `kind`, `id`, `time` (of the message) and `camera`:

* `event_start`: a label's score stayed above its threshold for long enough; `event_end`: it is over.
* `blind_start` and `blind_end`: the camera shows nothing that can be watched (`reason` is black, covered, frozen or
  moved, or no_pictures where the stream is away). While it is black, covered or frozen nothing is scored.
* `state`: starting, watching, blind, reconnecting, stopped.
* `source`: a gap, or a change of size or rate. `heartbeat`: every few seconds what is done and what is lost.

Seconds count from the first picture; through a break they go on as the clock does.
"""

import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypeAlias

import numpy as np
import psutil
import torch
from PIL import Image

from railsformer.data.files import whole_file
from railsformer.data.transforms import PixelSettings
from railsformer.inference.alarms import Outbox
from railsformer.inference.blindness import BlindnessSettings, BlindReason
from railsformer.inference.events import EVENTS_NAME, Event, EventChange, EventSettings, OnlineEvents, write_events
from railsformer.inference.live_source import LiveWindow, ReaderSettings, StreamReader, is_live
from railsformer.inference.predictor import Predictor
from railsformer.inference.regions import Region
from railsformer.inference.timeline import Smoothing, Timeline
from railsformer.inference.windows import WindowPlan

__all__ = ["ALARMS_NAME", "LiveSettings", "LiveSummary", "is_live", "watch_stream"]

ALARMS_NAME = "alarms.jsonl"
_POLL_SECONDS = 0.1
_State: TypeAlias = Literal["starting", "watching", "blind", "reconnecting", "stopped"]
_MIB = 2**20

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LiveSettings:
    """How a stream is watched.

    Args:
        camera: Its name in every message.
        start_timeout_seconds: For the first picture; 0 waits for ever.
        no_pictures_seconds: Without a picture before the stream counts as blind.
        heartbeat_seconds: From one heartbeat to the next.
        max_seconds: When to stop by itself; None goes on.
        keep_pictures: Keep what the network saw when an alarm was raised, in output_dir/pictures. Else no picture is.
        reader: Patience with the connection.
        blindness: How long blindness must last to count.

    Raises:
        ValueError: If a number is out of range.
    """

    camera: str = "camera"
    start_timeout_seconds: float = 60.0
    no_pictures_seconds: float = 10.0
    heartbeat_seconds: float = 10.0
    max_seconds: float | None = None
    keep_pictures: bool = False
    reader: ReaderSettings = field(default_factory=ReaderSettings)
    blindness: BlindnessSettings = field(default_factory=BlindnessSettings)

    def __post_init__(self) -> None:
        for name in ("no_pictures_seconds", "heartbeat_seconds", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a positive number of seconds, got {value!r}")
        if not 0 <= self.start_timeout_seconds < float("inf"):
            raise ValueError(f"start_timeout_seconds must be 0 or more, got {self.start_timeout_seconds!r}")


@dataclass(frozen=True)
class LiveSummary:
    """What a watch did.

    Args:
        exit_code: 0, or 128 + the number of the signal that ended it.
        events: Alarms raised.
        seconds_watched: Of scored footage, each second once.
        heartbeat: The last one.
    """

    exit_code: int
    events: int
    seconds_watched: float
    heartbeat: Mapping[str, Any]


def watch_stream(
    predictor: Predictor,
    source: str,
    *,
    plan: WindowPlan,
    events: EventSettings,
    outbox: Outbox,
    output_dir: str | Path | None = None,
    smoothing: Smoothing | None = None,
    region: Region | None = None,
    settings: LiveSettings | None = None,
) -> LiveSummary:
    """Watch a stream until it is stopped by SIGINT or SIGTERM, a pipe ends, or `max_seconds` are over.

    The network runs here, the stream is read on another thread, and each way out of the outbox has its own: none of
    them waits for another. An event that is open at the end is closed and sent. A second signal ends at once.

    Args:
        predictor: The model.
        source: rtsp, http, udp, tcp, rtmp or srt address, /dev/videoN, or `-` for standard input.
        plan: The windows.
        events: Thresholds and dwell.
        outbox: Where messages go; it is closed at the end.
        output_dir: Gets events.json at the end, and pictures where they are kept. Must exist.
        smoothing: Causal; none if not given.
        region: What is looked at.
        settings: How.

    Raises:
        ValueError: If the source is no stream, or no first picture comes in time.
        BrokenPipeError: If nobody reads the messages any more.
    """
    if not is_live(source):
        raise ValueError(f"{source}: a live source is rtsp://, http://, udp://, tcp://, /dev/videoN or -")
    settings = settings or LiveSettings()
    reader = StreamReader(
        source,
        plan=plan,
        sampling=predictor.sampling,
        pixels=predictor.pixels,
        region=region,
        settings=settings.reader,
        blindness=settings.blindness,
    )
    online = OnlineEvents(predictor.labels, events, stride_seconds=plan.stride_seconds, smoothing=smoothing)
    watch = _Watch(predictor, reader, online, outbox, settings, Path(output_dir) if output_dir else None)
    with outbox, _stop_signals() as stop:
        try:
            reader.start()
            watch.run(stop)
        finally:
            reader.stop()
            watch.finish(stop)
    if output_dir:
        watch.write_events(Path(output_dir), plan, events, smoothing)
    return LiveSummary(
        exit_code=128 + stop.number if stop.number else 0,
        events=watch.raised,
        seconds_watched=watch.seconds_watched,
        heartbeat=watch.heartbeat(),
    )


class _Stop:
    number: int | None = None


@contextlib.contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """The first SIGINT or SIGTERM is noted, the second does what it did before."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield stop
        return

    def note(number: int, frame: FrameType | None) -> None:
        stop.number = number
        for each, handler in before.items():
            signal.signal(each, handler)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: signal.SIG_DFL if handler is signal.SIG_IGN else handler for number, handler in before.items()}
    for number in numbers:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Watch:
    """The watch's own thread: windows to scores to messages."""

    def __init__(
        self,
        predictor: Predictor,
        reader: StreamReader,
        online: OnlineEvents,
        outbox: Outbox,
        settings: LiveSettings,
        output_dir: Path | None,
    ) -> None:
        self._predictor, self._reader, self._online = predictor, reader, online
        self._outbox, self._settings, self._output_dir = outbox, settings, output_dir
        self._began = time.monotonic()
        self._run_id = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + f"-{os.getpid()}"
        self._messages = self.raised = self.scored = self.not_scored = self._pictures_not_kept = 0
        self._open: dict[str, str] = {}  # label -> id of its alarm
        self._ended: list[Event] = []
        self._state: _State | None = None
        self._blind: BlindReason | Literal["no_pictures"] | None = None
        self._blind_id, self._blind_began = "", 0.0
        self._last_beat = self._last_quiet = self._began
        self._pictures_then = 0
        self._latency_seconds: float | None = None
        self._reached_seconds = 0.0
        self.seconds_watched = 0.0
        self._process = psutil.Process()

    def run(self, stop: _Stop) -> None:
        """Go on until there is a reason to end."""
        self._check_state()
        while stop.number is None:
            live = self._reader.take(_POLL_SECONDS)
            if live is not None:
                self._see(live)
            elif self._reader.state == "ended":
                break
            self._check_state()
            self._check_start()
            self._beat()
            if self._settings.max_seconds and time.monotonic() - self._began > self._settings.max_seconds:
                break
            if self._outbox.unheard:
                raise BrokenPipeError
        if self._reader.error is not None:
            raise self._reader.error
        if self._reader.state == "ended" and not self._reader.counts.pictures and stop.number is None:
            reason = self._reader.reason or "it held nothing"
            raise ValueError(f"{self._reader.name} ended before one picture could be decoded ({reason})")

    def finish(self, stop: _Stop) -> None:
        """Close what is open and say goodbye."""
        self._tell(self._online.finish())
        if self._blind:
            self._end_blindness()
        self._send(self.heartbeat())
        ended = signal.Signals(stop.number).name if stop.number else self._reader.reason or "it was to end"
        self._send({"kind": "state", "state": "stopped", "reason": ended})

    def heartbeat(self) -> dict[str, Any]:
        """What is done and what is lost, from the beginning."""
        reader, counts, now = self._reader, self._reader.counts, time.monotonic()
        since = max(now - self._last_beat, 1e-3)
        return {
            "kind": "heartbeat",
            "state": self._state,
            "blind": self._blind,
            "fps": round((counts.pictures - self._pictures_then) / since, 2),
            "lag_seconds": round(reader.lag_seconds, 3),
            "latency_seconds": self._latency_seconds,
            "windows_scored": self.scored,
            "windows_dropped": counts.windows_dropped,
            "windows_with_gap": counts.windows_with_gap,
            "windows_blind": self.not_scored,
            "pictures": counts.pictures,
            "pictures_not_kept": self._pictures_not_kept,
            "connections": counts.connections,
            "damaged": counts.damaged,
            "fell_behind": counts.fell_behind,
            "events": self.raised,
            "active": self._online.active_labels,
            "memory_mib": round(self._process.memory_info().rss / _MIB, 1),
            "uptime_seconds": round(now - self._began, 1),
            "messages": self._outbox.counts(),
        }

    def write_events(
        self, folder: Path, plan: WindowPlan, settings: EventSettings, smoothing: Smoothing | None
    ) -> None:
        """events.json and events.csv of the whole watch; those of an earlier one are kept under their time."""
        for path in (folder / EVENTS_NAME, (folder / EVENTS_NAME).with_suffix(".csv")):
            if path.is_file():
                ended = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(path.stat().st_mtime))
                path.replace(path.with_stem(f"{path.stem}-{ended}"))
        # A live watch keeps no scores: there is no end to them.
        empty = Timeline(
            labels=self._predictor.labels,
            start_seconds=np.empty(0),
            end_seconds=np.empty(0),
            scores=np.empty((0, len(self._predictor.labels))),
            stride_seconds=plan.stride_seconds,
            video=self._reader.name,
            model=self._predictor.name,
            camera=self._settings.camera,
            negative_labels=self._predictor.negative_labels,
        )
        path = write_events(folder, empty, self._ended, settings, smoothing=smoothing or Smoothing(causal=True))
        content = json.loads(path.read_text(encoding="utf-8")) | {"watched_seconds": round(self.seconds_watched, 3)}
        with whole_file(path) as partial:
            partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def _see(self, live: LiveWindow) -> None:
        window = live.window
        if live.after_gap:
            self._tell(self._online.interrupt(window.start_seconds))
        if not live.seen or self._blind in ("black", "covered", "frozen"):
            self.not_scored += 1
            self._tell(self._online.interrupt(window.start_seconds))
            return
        if window.pixel_values is None:
            return
        scores = self._predictor.score_pixels(window.pixel_values[None])[0]
        self.scored += 1
        self.seconds_watched += max(0.0, window.end_seconds - max(window.start_seconds, self._reached_seconds))
        self._reached_seconds = max(self._reached_seconds, window.end_seconds)
        changes = self._online.add(scores, start_seconds=window.start_seconds, end_seconds=window.end_seconds)
        self._latency_seconds = round(time.monotonic() - live.arrived, 3)
        self._tell(changes, live)

    def _tell(self, changes: list[EventChange], live: LiveWindow | None = None) -> None:
        for change in changes:
            event = change.event
            facts: dict[str, Any] = {
                "label": event.label,
                "score": round(event.score, 6),
                "start_seconds": round(event.start_seconds, 3),
                "start_time": self._wall(event.start_seconds),
            }
            if change.kind == "raised":
                self.raised += 1
                facts |= {"alarm_seconds": round(event.alarm_seconds, 3), "blind": self._blind}
                facts |= {"picture_seconds": live and round(live.picture_seconds, 3)}
                facts |= {"latency_seconds": self._latency_seconds}
                self._open[event.label] = self._send({"kind": "event_start", **facts})
                if live is not None and self._settings.keep_pictures:
                    self._keep(live, self._open[event.label])
                continue
            self._ended.append(Event(**{**asdict(event), "start_time": facts["start_time"]}))
            facts |= {
                "event": self._open.pop(event.label, None),
                "peak_seconds": round(event.peak_seconds, 3),
                "end_seconds": round(event.end_seconds, 3),
                "end_time": self._wall(event.end_seconds),
            }
            self._send({"kind": "event_end", **facts})

    def _check_state(self) -> None:
        """Say what changed in what can be seen."""
        reader, now = self._reader, time.monotonic()
        for event in reader.take_source_events():
            row = {"what": event.kind, "seconds": round(event.seconds, 3), "detail": event.detail}
            self._send({"kind": "source", **row})
        away = now - (reader.last_picture or self._began)
        blind = "no_pictures" if away > self._settings.no_pictures_seconds else reader.blindness.reason
        if blind != self._blind:
            if self._blind:
                self._end_blindness()
            self._blind, self._blind_began = blind, now
            if blind:
                self._blind_id = self._send({"kind": "blind_start", "reason": blind, "detail": reader.reason})
        if (blind or reader.state == "reconnecting") and now - self._last_quiet > 1.0:
            self._last_quiet = now
            if away > 1.0:  # nothing comes that could make an open event longer
                self._tell(self._online.interrupt(reader.clock.now_seconds()))
        state: _State = "watching" if reader.state == "ended" else reader.state
        if blind and state == "watching":
            state = "blind"
        if state != self._state:
            self._state = state
            self._send({"kind": "state", "state": state, "reason": reader.reason or (blind or "")})

    def _end_blindness(self) -> None:
        seconds = round(time.monotonic() - self._blind_began, 1)
        self._send({"kind": "blind_end", "reason": self._blind, "blind": self._blind_id, "seconds": seconds})

    def _check_start(self) -> None:
        limit = self._settings.start_timeout_seconds
        if limit and self._reader.state == "starting" and time.monotonic() - self._began > limit:
            reason = self._reader.reason or "nothing came"
            raise ValueError(
                f"{self._reader.name}: no picture within {limit:g} s ({reason}); check the address and the camera, or "
                f"wait longer with --start_timeout (0: for ever)"
            )

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._last_beat < self._settings.heartbeat_seconds:
            return
        self._send(self.heartbeat())
        self._last_beat, self._pictures_then = now, self._reader.counts.pictures

    def _send(self, message: Mapping[str, Any]) -> str:
        self._messages += 1
        name = f"{self._settings.camera}-{self._run_id}-{self._messages}"
        time_now = datetime.now().astimezone().isoformat(timespec="milliseconds")
        about = {"kind": message["kind"], "id": name, "time": time_now, "camera": self._settings.camera}
        self._outbox.send(about | dict(message))
        return name

    def _wall(self, seconds: float) -> str | None:
        wall = self._reader.clock.wall_time(seconds)
        return None if wall is None else datetime.fromtimestamp(wall).astimezone().isoformat(timespec="milliseconds")

    def _keep(self, live: LiveWindow, name: str) -> None:
        """Keep what the network saw; a full disk costs the pictures, not the watch."""
        if self._output_dir is None or live.window.pixel_values is None:
            return
        folder = self._output_dir / "pictures" / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for index, picture in enumerate(_visible(live.window.pixel_values, self._predictor.pixels)):
                Image.fromarray(picture).save(folder / f"{index:02}.jpg", quality=90)
        except OSError as error:
            if not self._pictures_not_kept:
                logger.warning("%s: pictures cannot be kept (%s); make room", folder, error.strerror or error)
            self._pictures_not_kept += 1


def _visible(pixel_values: torch.Tensor, pixels: PixelSettings) -> np.ndarray:
    """What the network sees as pictures, float (T, 3, y, x) -> uint8 (T, y, x, 3)."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (pixels.mean, pixels.std))
    return ((pixel_values * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
