"""From scores over time to events: hysteresis, a minimum dwell and a merge gap. One machine, live and afterwards.

A window's score stands for the stretch of one stride about its middle. An event of a label begins where its score
reaches the `on` threshold, lasts while it stays at or above `off`, and counts once that has lasted
`min_dwell_seconds`: then the alarm is raised. A shorter run is nothing. A run that begins at most `merge_gap_seconds`
after an event of its label ended makes that event longer. Where footage begins, ends or was not seen (a window without
scores, or more than a stride between two), the stretch reaches to the outer edge of its window, and a run ends there.
Labels know nothing of each other.
"""

import csv
import json
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from railsformer.data.files import whole_file
from railsformer.inference.timeline import SLACK_SECONDS, Smoothing, Timeline, blend, is_break

__all__ = [
    "EVENTS_NAME",
    "Event",
    "EventChange",
    "EventSettings",
    "OnlineEvents",
    "PreparedScores",
    "find_events",
    "prepare_scores",
    "read_events",
    "settings_content",
    "write_events",
]

EVENTS_NAME = "events.json"
_VERSION = 1
OFF_SHARE = 0.8


@dataclass(frozen=True)
class Event:
    """Something dangerous, from when to when.

    Args:
        label: What.
        start_seconds: In the video.
        end_seconds: In the video.
        peak_seconds: Middle of the window with the highest score.
        score: That score, 0 to 1.
        alarm_seconds: When the footage that the alarm needed had all been seen: the earliest a watcher could know.
        start_time: Wall clock of the start, ISO 8601, where known.
    """

    label: str
    start_seconds: float
    end_seconds: float
    peak_seconds: float
    score: float
    alarm_seconds: float
    start_time: str | None = None


@dataclass(frozen=True)
class EventChange:
    """What a new window did: an alarm was raised, or an event will not grow any more."""

    kind: Literal["raised", "ended"]
    event: Event


@dataclass(frozen=True)
class EventSettings:
    """When scores are an event.

    Args:
        on: Label to the score that begins an event, above 0 to 1. Labels without one have no events.
        off: Label to the score below which it ends, 0 to `on`; absent ones take .8 of `on`.
        min_dwell_seconds: How long a run must last to count.
        merge_gap_seconds: Longest pause within one event.

    Raises:
        ValueError: If a threshold or a time is out of range.
    """

    on: Mapping[str, float]
    off: Mapping[str, float] = field(default_factory=dict)
    min_dwell_seconds: float = 1.0
    merge_gap_seconds: float = 2.0

    def __post_init__(self) -> None:
        """Check the values."""
        for label, on in self.on.items():
            if not 0 < on <= 1:
                raise ValueError(f"on threshold of {label} must be above 0 and at most 1, got {on:g}")
            if not 0 <= self.off_of(label) <= on:
                raise ValueError(
                    f"off threshold of {label} must be 0 to its on threshold {on:g}, got {self.off[label]:g}"
                )
        for name in ("min_dwell_seconds", "merge_gap_seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name):g}")

    def off_of(self, label: str) -> float:
        """The threshold below which an event of a label ends."""
        return self.off.get(label, OFF_SHARE * self.on[label])


class _Cell(NamedTuple):
    """The stretch of footage that one window's score stands for."""

    start: float
    end: float
    middle: float
    window_end: float
    known: float  # when a watcher knows the score
    after_break: bool


class _Cells:
    """Gives each scored window its cell, from what came before alone."""

    def __init__(self, stride_seconds: float) -> None:
        self._stride = stride_seconds
        self._reached: float | None = None  # end of the last window
        self._longest = 0.0
        self._fresh = True

    def add(self, start: float, end: float, known: float) -> _Cell:
        fresh = self._fresh or is_break(self._reached or 0.0, start, stride_seconds=self._stride)
        middle = (start + end) / 2
        first = start if self._reached is None else max(start, self._reached)
        begin = first if fresh else middle - self._stride / 2
        finish = middle + self._stride / 2
        if end - start < self._longest - SLACK_SECONDS:  # the footage ends within this window
            finish = min(finish, end)
        self._reached, self._fresh, self._longest = end, False, max(self._longest, end - start)
        return _Cell(begin, max(begin, finish), middle, end, known, fresh)

    def interrupt(self) -> None:
        self._fresh = True


@dataclass
class _Span:
    start: float
    end: float
    window_end: float
    peak: float
    score: float
    alarm: float

    def grow(self, cell: _Cell, score: float) -> None:
        self.end, self.window_end = cell.end, cell.window_end
        if score > self.score:
            self.peak, self.score = cell.middle, score

    def absorb(self, later: "_Span") -> None:
        self.end, self.window_end = later.end, later.window_end
        if later.score > self.score:
            self.peak, self.score = later.peak, later.score


class _LabelEvents:
    """Events of one label, window by window."""

    def __init__(self, label: str, settings: EventSettings) -> None:
        self.label = label
        self._on, self._off = settings.on[label], settings.off_of(label)
        self._dwell = settings.min_dwell_seconds - SLACK_SECONDS
        self._gap = settings.merge_gap_seconds + SLACK_SECONDS
        self._run: _Span | None = None  # above the threshold, not long enough yet
        self._event: _Span | None = None  # raised; may still grow
        self._growing = False

    @property
    def idle(self) -> bool:
        """Whether scores below `on` change nothing now."""
        return self._run is None and not self._growing

    @property
    def in_alarm(self) -> bool:
        return self._growing

    def step(self, cell: _Cell, score: float) -> list[tuple[str, Event]]:
        if score < (self._on if self.idle else self._off):
            self._run, self._growing = None, False
        elif self._growing and self._event:
            self._event.grow(cell, score)
        elif self._run:
            self._run.grow(cell, score)
        else:
            self._run = _Span(cell.start, cell.end, cell.window_end, cell.middle, score, cell.known)
        changes = self._raise_alarm(cell.known)
        return changes + self._settle(cell.start)  # whatever begins later begins after it

    def interrupt(self, now: float) -> list[tuple[str, Event]]:
        """Nothing is seen from the last window's end until `now`."""
        changes: list[tuple[str, Event]] = []
        span = self._event if self._growing else self._run
        if span:
            span.end = span.window_end  # also where half a stride reaches further than half a window
            changes += self._raise_alarm(span.window_end)
        self._run, self._growing = None, False
        return changes + self._settle(now)

    def _raise_alarm(self, known: float) -> list[tuple[str, Event]]:
        run = self._run
        if run is None or run.end - run.start < self._dwell:
            return []
        self._run, self._growing = None, True
        if self._event and run.start - self._event.end <= self._gap:
            self._event.absorb(run)
            return []
        changes = [("ended", self._as_event(self._event))] if self._event else []
        run.alarm = known
        self._event = run
        return [*changes, ("raised", self._as_event(run))]

    def _settle(self, now: float) -> list[tuple[str, Event]]:
        """Let go of an event that nothing can make longer."""
        if self._event is None or self._growing:
            return []
        next_start = self._run.start if self._run else now
        if next_start - self._event.end <= self._gap:
            return []
        ended, self._event = self._as_event(self._event), None
        return [("ended", ended)]

    def _as_event(self, span: _Span) -> Event:
        return Event(self.label, span.start, span.end, span.peak, span.score, span.alarm)


class OnlineEvents:
    """Events of a stream, window by window, with causal smoothing.

    Args:
        labels: Names of all classes in the order of their indices.
        settings: When scores are an event.
        stride_seconds: From window to window.
        smoothing: Causal, or of width 0.

    Raises:
        ValueError: If smoothing looks ahead, or a threshold is for a label that is not among `labels`.
    """

    def __init__(
        self,
        labels: Sequence[str],
        settings: EventSettings,
        *,
        stride_seconds: float,
        smoothing: Smoothing | None = None,
    ) -> None:
        self._smoothing = smoothing or Smoothing(causal=True)
        if self._smoothing.width_seconds and not self._smoothing.causal:
            raise ValueError("smoothing of a stream must be causal: it cannot look ahead")
        _check_labels(settings, labels)
        self._stride = stride_seconds
        self._machines = {labels.index(label): _LabelEvents(label, settings) for label in settings.on}
        self._cells = _Cells(stride_seconds)
        self._recent: deque[tuple[float, np.ndarray]] = deque()
        self.smoothed: np.ndarray | None = None  # scores of the last window, blended, shape (num_labels,)

    @property
    def active_labels(self) -> list[str]:
        """Labels in alarm now."""
        return [machine.label for machine in self._machines.values() if machine.in_alarm]

    def add(self, scores: np.ndarray, *, start_seconds: float, end_seconds: float) -> list[EventChange]:
        """Take the next window.

        Args:
            scores: Calibrated probabilities, shape (num_labels,); NaN for a window that was not scored.
            start_seconds: Of the window, later than the one before it.
            end_seconds: Of the window.

        Returns:
            Alarms that it raises and events that it lets end, by label.
        """
        scores = np.asarray(scores, dtype=float)
        if np.isnan(scores).any():
            return self.interrupt(start_seconds)
        cell = self._cells.add(start_seconds, end_seconds, end_seconds)
        changes: list[tuple[str, Event]] = []
        if cell.after_break:
            self._recent.clear()
            for machine in self._machines.values():
                changes += machine.interrupt(cell.start)
        self._recent.append((cell.middle, scores))
        while (
            len(self._recent) > 1 and self._recent[0][0] < cell.middle - self._smoothing.width_seconds + SLACK_SECONDS
        ):
            self._recent.popleft()
        self.smoothed = blend(np.stack([row for _, row in self._recent]), self._smoothing.kind)
        for index, machine in self._machines.items():
            changes += machine.step(cell, float(self.smoothed[index]))
        return [EventChange(kind, event) for kind, event in changes]  # type: ignore[arg-type]

    def interrupt(self, now_seconds: float) -> list[EventChange]:
        """Say that nothing was seen up to this second: runs end where the last window did. May be called again."""
        self._cells.interrupt()
        changes = [change for machine in self._machines.values() for change in machine.interrupt(now_seconds)]
        return [EventChange(kind, event) for kind, event in changes]  # type: ignore[arg-type]

    def finish(self) -> list[EventChange]:
        """End everything: the stream is over."""
        return self.interrupt(math.inf)


@dataclass(frozen=True)
class PreparedScores:
    """A timeline smoothed once, for any number of searches."""

    timeline: Timeline
    cells: tuple[_Cell, ...]
    scores: np.ndarray  # of the scored windows, (num_cells, num_labels)

    def events_of(self, label: str, settings: EventSettings) -> list[Event]:
        """Events of one label, in order of time."""
        machine = _LabelEvents(label, settings)
        scores = self.scores[:, self.timeline.labels.index(label)]
        begins = np.flatnonzero(scores >= settings.on[label])
        values, found, index = scores.tolist(), [], 0
        while index < len(values):
            if machine.idle:  # nothing happens before the next score that can begin a run
                position = int(np.searchsorted(begins, index))
                if position == len(begins):
                    break
                index = int(begins[position])
            cell = self.cells[index]
            if cell.after_break:
                found += machine.interrupt(cell.start)
            found += machine.step(cell, values[index])
            index += 1
        found += machine.interrupt(math.inf)
        return [event for kind, event in found if kind == "ended"]


def prepare_scores(timeline: Timeline, smoothing: Smoothing | None = None) -> PreparedScores:
    """Smooth a timeline and lay out what each window's score stands for."""
    scores, known = timeline.smoothed(smoothing or Smoothing())
    maker, cells = _Cells(timeline.stride_seconds), []
    scored = timeline.scored.tolist()
    windows = zip(timeline.start_seconds.tolist(), timeline.end_seconds.tolist(), known.tolist(), scored, strict=True)
    for start, end, at, is_scored in windows:
        if is_scored:
            cells.append(maker.add(start, end, at))
        else:
            maker.interrupt()
    return PreparedScores(timeline, tuple(cells), scores[timeline.scored])


def find_events(
    timeline: Timeline | PreparedScores, settings: EventSettings, *, smoothing: Smoothing | None = None
) -> list[Event]:
    """The events of a recorded video, by start, then label.

    Args:
        timeline: Its scores; or those prepared, where many settings are tried.
        settings: When scores are an event.
        smoothing: How neighbouring windows are blended first; none if not given.

    Raises:
        ValueError: If a threshold is for a label that the timeline does not have.
    """
    prepared = timeline if isinstance(timeline, PreparedScores) else prepare_scores(timeline, smoothing)
    line = prepared.timeline
    _check_labels(settings, line.labels)
    events = [event for label in settings.on for event in prepared.events_of(label, settings)]
    timed = [Event(**{**asdict(event), "start_time": line.wall_clock(event.start_seconds)}) for event in events]
    return sorted(timed, key=lambda event: (event.start_seconds, line.labels.index(event.label)))


def _check_labels(settings: EventSettings, labels: Sequence[str]) -> None:
    for label in settings.on:
        if label not in labels:
            raise ValueError(
                f"threshold is for a label {label!r} that the scores do not have; they have {', '.join(labels)}"
            )


def write_events(
    folder: str | Path,
    timeline: Timeline,
    events: Sequence[Event],
    settings: EventSettings,
    *,
    smoothing: Smoothing | None = None,
    blind: Sequence[Mapping[str, Any]] | None = None,
) -> Path:
    """Write events.json and events.csv; the table's first columns are those of a table of true events.

    `blind` are stretches in which the camera was blind: reason, start_seconds, end_seconds. They are no events. A live
    watch, which tells them as messages, gives none.
    """
    rows = [_rounded(event) for event in events]
    content = {
        "version": _VERSION,
        "video": timeline.video,
        "model": timeline.model,
        "camera": timeline.camera,
        "settings": settings_content(settings, smoothing or Smoothing()),
        "watched_seconds": round(timeline.watched_seconds, 3),
        **({} if blind is None else {"blind": list(blind)}),
        "events": rows,
    }
    path = Path(folder) / EVENTS_NAME
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    columns = ["video", *(item.name for item in fields(Event)), "camera"]
    with whole_file(path.with_suffix(".csv")) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({"video": timeline.video, **row, "camera": timeline.camera or ""} for row in rows)
    return path


def settings_content(settings: EventSettings, smoothing: Smoothing) -> dict[str, Any]:
    """How events were found, as events.json tells it."""
    return {
        "on": dict(settings.on),
        "off": {label: settings.off_of(label) for label in settings.on},
        "min_dwell_seconds": settings.min_dwell_seconds,
        "merge_gap_seconds": settings.merge_gap_seconds,
        "smoothing": asdict(smoothing),
    }


def read_events(folder: str | Path) -> tuple[list[Event], EventSettings, Smoothing]:
    """Read events.json: the events, and how they were found.

    Args:
        folder: The folder, or the file itself.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged or of another version.
    """
    path = Path(folder)
    path = path / EVENTS_NAME if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; name a folder that railsformer watch wrote to its end")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            raise ValueError(f"version must be {_VERSION}, got {content['version']!r}")
        how = dict(content["settings"])
        smoothing = Smoothing(**how.pop("smoothing"))
        return [_checked(Event(**event)) for event in content["events"]], EventSettings(**how), smoothing
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no whole events.json ({error}); run railsformer watch again") from error


def _checked(event: Event) -> Event:
    """The event, if its label is text and its numbers are numbers."""
    if not isinstance(event.label, str):
        raise ValueError(f"label must be text, got {event.label!r}")
    for name in ("start_seconds", "end_seconds", "peak_seconds", "score"):
        value = getattr(event, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{name} must be a number, got {value!r}")
    return event


def _rounded(event: Event) -> dict[str, Any]:
    """As it is written: times to the millisecond."""
    row = asdict(event)
    return {name: round(value, 3) if name.endswith("_seconds") else value for name, value in row.items()}
