"""A long recording, watched from end to end: windows, scores, events, and a page to look at them.

The scores are the slow part. They are written as they are made, and kept: the same command goes on after a kill, and a
command with other thresholds finds its events in the scores that are there.
"""

import json
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from railsformer.data.folders import building_folder
from railsformer.data.video import open_video
from railsformer.inference.blind_stretches import (
    BlindRecorder,
    BlindStretch,
    RecorderFile,
    is_hidden,
    stretch_rows,
)
from railsformer.inference.event_wishes import EventWishes, event_settings
from railsformer.inference.events import Event, EventSettings, find_events, write_events
from railsformer.inference.pictures import Picture, SourceEvent
from railsformer.inference.predictor import Predictor
from railsformer.inference.regions import Region
from railsformer.inference.score_log import ScoredWindow, ScoreLog
from railsformer.inference.timeline import SCORES_NAME, Smoothing, Timeline, read_timeline, write_timeline
from railsformer.inference.watch_folder import (
    WATCH_NAME,
    check_text,
    check_watch_folder,
    creation_time,
    watch_request,
    write_json,
)
from railsformer.inference.watch_pages import write_pages
from railsformer.inference.windows import Window, WindowPlan, iterate_windows

__all__ = [
    "WatchSettings",
    "WatchSummary",
    "plan_of",
    "smooth_seconds_of",
    "watch_video",
]

_log = logging.getLogger(__name__)
_LOG_NAME = "scores.jsonl"
_BLINDNESS_NAME = "blindness.npz"
_VERSION = 1
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt} s of footage [{elapsed}<{remaining}{postfix}]"
_BAR_WITHOUT_END = "{desc}: {n_fmt} s of footage [{elapsed}{postfix}]"


@dataclass(frozen=True)
class WatchSettings:
    """How a recording is watched.

    Args:
        window_seconds: Length of a window; None takes that of the model's training clips.
        stride_seconds: From window to window; None takes half a window.
        smooth_seconds: Width of the centred blend; None takes half a window.
        smoothing: Mean or median.
        wishes: When scores are an event.
        start_time: Wall clock of the first picture; None takes the file's own.
        camera: Name of the camera.
        region: What of the picture is looked at.
        clips: Cut one clip an event.
        annotate: Write the video with scores and events burnt in.
        copy_video: Put a copy of the video into the folder, which can then be moved or sent.
        batch_size: Windows a forward pass.
        blindness: Look for stretches in which the camera was blind.
    """

    window_seconds: float | None = None
    stride_seconds: float | None = None
    smooth_seconds: float | None = None
    smoothing: str = "mean"
    wishes: EventWishes = field(default_factory=EventWishes)
    start_time: datetime | None = None
    camera: str | None = None
    region: Region | None = None
    clips: bool = False
    annotate: bool = False
    copy_video: bool = False
    batch_size: int = 8
    blindness: bool = True

    def __post_init__(self) -> None:
        """Check the values that nobody else checks."""
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        check_text("camera", self.camera or "", "give another name")


@dataclass(frozen=True)
class WatchSummary:
    """What a watch found.

    Args:
        output_dir: Where everything is.
        timeline: The scores.
        events: What was found in them.
        settings: The thresholds they were found with.
        source_events: Size or rate changes, gaps and damage of the file.
        blind: When the camera was blind, and why.
        windows_scored: By this call; the others were there.
        footage_seconds: That this call went through.
        seconds: That it took.
    """

    output_dir: Path
    timeline: Timeline
    events: list[Event]
    settings: EventSettings
    source_events: list[SourceEvent]
    blind: list[BlindStretch]
    windows_scored: int
    footage_seconds: float
    seconds: float


def watch_video(
    model: Predictor | str | Path,
    video: str | Path,
    *,
    output_dir: str | Path,
    settings: WatchSettings | None = None,
    progress: bool = False,
) -> WatchSummary:
    """Score a recording window by window and write what happens in it.

    Writes `scores.parquet`, `events.json`, `events.csv`, `timeline.png`, `timeline.html`, `watch.json` and, where
    asked for, `clips/` and `annotated.mp4`. Every picture is decoded once. Memory does not grow with the length, but
    for the scores: some 100 bytes a window and label. Windows in which the camera was black, covered or frozen are
    not scored.

    Args:
        model: A predictor, run folder, checkpoint or Hub id.
        video: A file.
        output_dir: Absent, empty, or what an earlier watch of this video with this model and these windows left: its
            scores are taken, finished or not.
        settings: How.
        progress: Show a bar with the footage a second.

    Raises:
        FileExistsError: If the folder holds something else, or another process writes it.
        ValueError: If a setting is out of range or the video is shorter than half a window.
        VideoDecodeError: If the file cannot be read.
        DiskFullError: If there is no room; the same command goes on.
    """
    settings = settings or WatchSettings()
    predictor = model if isinstance(model, Predictor) else Predictor.from_pretrained(model)
    plan = plan_of(predictor, settings)
    how = event_settings(predictor, settings.wishes)
    smoothing = Smoothing(smooth_seconds_of(plan, settings), settings.smoothing)  # type: ignore[arg-type]
    request = watch_request(predictor, Path(video), plan, settings.region, blindness=settings.blindness)
    folder = check_watch_folder(Path(output_dir), request)
    began = time.monotonic()
    with building_folder(folder) as parts:
        timeline, source_events, blind, work = _timeline(
            predictor, Path(video), plan, settings, request, folder=folder, parts=parts, progress=progress
        )
        timeline = _described(timeline, predictor, Path(video), settings)
        events = find_events(timeline, how, smoothing=smoothing)
        write_timeline(folder, timeline)
        write_events(folder, timeline, events, how, smoothing=smoothing, blind=stretch_rows(blind))
        write_json(
            folder / WATCH_NAME,
            {
                "version": _VERSION,
                "request": request,
                "camera": timeline.camera,
                "start_time": timeline.wall_clock(0.0),
                "num_windows": len(timeline),
                "num_scored": int(timeline.scored.sum()),
                "watched_seconds": round(timeline.watched_seconds, 3),
                "blind": stretch_rows(blind),
                "source_events": [asdict(event) for event in source_events],
            },
        )
        write_pages(
            folder,
            Path(video),
            timeline,
            events=events,
            how=how,
            smoothing=smoothing,
            window_seconds=plan.window_seconds,
            blind=blind,
            annotate=settings.annotate,
            clips=settings.clips,
            copy_video=settings.copy_video,
        )
    return WatchSummary(
        output_dir=folder,
        timeline=timeline,
        events=events,
        settings=how,
        source_events=source_events,
        blind=blind,
        windows_scored=work.windows,
        footage_seconds=work.footage_seconds,
        seconds=time.monotonic() - began,
    )


def plan_of(predictor: Predictor, settings: WatchSettings) -> WindowPlan:
    """The windows that are asked for, or that suit the model."""
    return WindowPlan.for_model(
        predictor.name,
        predictor.sampling,
        window_seconds=settings.window_seconds,
        stride_seconds=settings.stride_seconds,
    )


def smooth_seconds_of(plan: WindowPlan, settings: WatchSettings) -> float:
    """The width of the blend that is asked for, or half a window."""
    return plan.window_seconds / 2 if settings.smooth_seconds is None else settings.smooth_seconds


@dataclass
class _Work:
    windows: int = 0
    footage_seconds: float = 0.0


def _timeline(
    predictor: Predictor,
    video: Path,
    plan: WindowPlan,
    settings: WatchSettings,
    request: dict[str, Any],
    *,
    folder: Path,
    parts: Path,
    progress: bool,
) -> tuple[Timeline, list[SourceEvent], list[BlindStretch], _Work]:
    """The scores that are there, or those that are made now."""
    if (folder / WATCH_NAME).is_file() and (folder / SCORES_NAME).is_file():
        earlier = json.loads((folder / WATCH_NAME).read_text(encoding="utf-8"))
        try:
            timeline = read_timeline(folder)
        except ValueError as error:
            raise ValueError(f"{error} after removing {folder}") from error
        happened = [SourceEvent(**event) for event in earlier["source_events"]]
        return timeline, happened, [BlindStretch(**row) for row in earlier["blind"]], _Work()
    log = ScoreLog.open(parts / _LOG_NAME, request)
    eyes = _Eyes(RecorderFile(parts / _BLINDNESS_NAME, request), log) if settings.blindness else None
    work = _Work()
    try:
        _score(predictor, video, plan, settings, log, eyes, work, progress=progress)
    finally:
        log.close()
    blind = eyes.recorder.stretches() if eyes else []
    missing = np.full(len(predictor.labels), np.nan)
    scores = [missing if window.scores is None else window.scores for window in log.windows]
    timeline = Timeline(
        labels=predictor.labels,
        start_seconds=np.array([window.start_seconds for window in log.windows]),
        end_seconds=np.array([window.end_seconds for window in log.windows]),
        scores=np.array(scores).reshape(len(scores), len(predictor.labels)),
        stride_seconds=plan.stride_seconds,
    )
    hidden = is_hidden(timeline.start_seconds, timeline.end_seconds, blind)
    timeline = replace(timeline, scores=np.where(hidden[:, None], np.nan, timeline.scores))
    return timeline, log.source_events, blind, work


class _Eyes:
    """Looks for blindness in the pictures on their way to the windows, and goes on where it was.

    Args:
        file: Keeps what it knows.
        log: Windows that are scored already.
    """

    def __init__(self, file: RecorderFile, log: ScoreLog) -> None:
        self.recorder = BlindRecorder()
        self._file, self._scored = file, log.next_index
        if self._scored:
            file.load(self.recorder)

    def first_index(self, plan: WindowPlan) -> int:
        """The window from which on the file is read: a little before the next one, as looks are kept now and then."""
        return min(self._scored, int(self.recorder.looked_seconds / plan.stride_seconds))

    def look(self, windows: Iterator[Window]) -> Iterator["_Looked"]:
        """Windows that are not scored yet, without pixels where the camera is known to be blind by now."""
        for window in windows:
            if window.index < self._scored:
                continue
            if self.recorder.hides(window.start_seconds, window.end_seconds):
                window = replace(window, pixel_values=None)
            yield _Looked(window, self.recorder.state())

    def keep(self, looked: "_Looked") -> None:
        """Keep what was known with that window."""
        if looked.state is not None:
            self._file.save(looked.state)


@dataclass(frozen=True)
class _Looked:
    """A window, and what was known of blindness when it was complete."""

    window: Window
    state: dict[str, Any] | None = None


def _score(
    predictor: Predictor,
    video: Path,
    plan: WindowPlan,
    settings: WatchSettings,
    log: ScoreLog,
    eyes: _Eyes | None,
    work: _Work,
    *,
    progress: bool,
) -> None:
    """Score the windows that the log does not hold yet."""
    happened: deque[SourceEvent] = deque()  # filled by the reader
    first = eyes.first_index(plan) if eyes else log.next_index
    known = tuple(log.source_events)
    with _Bar(video, seconds=first * plan.stride_seconds, progress=progress) as bar:

        def see(picture: Picture) -> None:
            bar.see(picture)
            if eyes:
                eyes.recorder.see(picture)

        windows = iterate_windows(
            video,
            plan,
            predictor.sampling,
            predictor.pixels,
            region=settings.region,
            first_index=first,
            on_event=happened.append,
            on_picture=see,
            also_wanted=eyes.recorder.wanted if eyes else None,
        )
        looked = eyes.look(windows) if eyes else (_Looked(window) for window in windows)
        for batch in _batches(_read_ahead(looked, settings.batch_size), settings.batch_size):
            log.add(_scored(predictor, [item.window for item in batch]), _drained(happened, known))
            if eyes:
                eyes.keep(batch[-1])
            work.windows += len(batch)
        log.add([], _drained(happened, known))
        work.footage_seconds = bar.seconds


def _drained(happened: deque[SourceEvent], known: Sequence[SourceEvent]) -> list[SourceEvent]:
    """What is new: one that goes on starts a little before its first window, and is told again what happened there."""
    told = [happened.popleft() for _ in range(len(happened))]
    return [event for event in told if event not in known]


def _read_ahead(windows: Iterator[_Looked], number: int) -> Iterator[_Looked]:
    """The same windows, decoded in a thread of its own while others are scored; at most `number` wait."""
    waiting: queue.Queue[_Looked | BaseException | None] = queue.Queue(number)
    stopped = threading.Event()

    def put(item: _Looked | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def read() -> None:
        try:
            for window in windows:
                if not put(window):
                    return
            put(None)
        except BaseException as error:  # raised where the windows are wanted
            put(error)

    reader = threading.Thread(target=read, name="railsformer-reader", daemon=True)
    reader.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        reader.join()


def _batches(windows: Iterator[_Looked], batch_size: int) -> Iterator[list[_Looked]]:
    """Windows in order, `batch_size` scored ones at a time."""
    batch: list[_Looked] = []
    for window in windows:
        batch.append(window)
        if sum(item.window.pixel_values is not None for item in batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _scored(predictor: Predictor, batch: Sequence[Window]) -> list[ScoredWindow]:
    pixels = [window.pixel_values for window in batch if window.pixel_values is not None]
    rows = iter(predictor.score_pixels(torch.stack(pixels)) if pixels else ())
    return [
        ScoredWindow(
            window.index,
            window.start_seconds,
            window.end_seconds,
            None if window.pixel_values is None else next(rows),
        )
        for window in batch
    ]


class _Bar:
    """Seconds of footage, of all that the file says it has, and how many times real time that is."""

    def __init__(self, video: Path, *, seconds: float, progress: bool) -> None:
        with open_video(video) as container:
            total = container.duration / 1e6 if container.duration else None
        self.seconds = 0.0
        self._first = seconds
        self._began = time.monotonic()
        self._shown = -math.inf
        self._bar = tqdm(
            total=total and round(total),
            initial=round(min(seconds, total or seconds)),
            desc="watching",
            unit="s",
            disable=not progress,
            bar_format=_BAR if total else _BAR_WITHOUT_END,
        )

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def see(self, picture: Picture) -> None:
        self.seconds = max(self.seconds, picture.until_seconds - self._first)
        if picture.seconds - self._shown < 1:
            return
        self._shown = picture.seconds
        elapsed = time.monotonic() - self._began
        self._bar.n = max(self._bar.n, round(picture.seconds))
        self._bar.set_postfix_str(f"{max(self.seconds, 0) / max(elapsed, 1e-3):.1f}x real time", refresh=False)
        self._bar.update(0)


def _described(timeline: Timeline, predictor: Predictor, video: Path, settings: WatchSettings) -> Timeline:
    """Say what the scores are of."""
    return replace(
        timeline,
        video=str(video),
        model=predictor.name,
        camera=settings.camera,
        start_time=settings.start_time or creation_time(video),
        thresholds=dict(predictor.thresholds or {}),
        negative_labels=tuple(predictor.negative_labels),
    )
