"""How good events are, against a table of what truly happened; thresholds and dwells are tried without the network.

What counts as found. An alarm and a true event belong together if they are of one label and one video and overlap in
time (with `tolerance_seconds`, if they come that near). An alarm finds at most one true event and a true event is
found by at most one alarm, paired so that as many as possible are found: an alarm that never ends finds one event, not
all. An alarm that overlaps no true event of its label is false. One that overlaps but is not needed is a `repeat`:
neither.

Hours. False alarms of a label are counted over the hours watched outside its true events; those of all hazards over
all hours watched. Only footage within a scored window is watched. A true event in footage that was not watched is
missed like any other.

Time to alarm. From the onset of a found event to the first moment at which all the footage that its first alarm needed
had been seen, the computing time not included; below 0 where the alarm came first.

Temporal IoU. Average precision as in ActivityNet's evaluation: events of all videos by falling score, each takes the
free true event of its video that it overlaps most, if their intersection over union is at least the threshold; the
precision is made falling and summed over recall. Averaged over the hazards that truly happened. Only events at the
operating point are ranked, not all candidates, so it is a lower bound of a detector's.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from railsformer.evaluation.intervals import poisson_rate_interval, wilson_interval
from railsformer.inference.events import Event, EventSettings, PreparedScores, find_events

__all__ = [
    "SWEEP_DWELLS_SECONDS",
    "SWEEP_THRESHOLDS",
    "TrueEvent",
    "WatchedVideo",
    "measure_events",
    "read_true_events",
    "sweep_events",
    "temporal_average_precision",
    "temporal_iou",
]

TIOU_SHOWN = (0.3, 0.5, 0.7)
TIOU_AVERAGED = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
SWEEP_THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
SWEEP_DWELLS_SECONDS = (0.0, 1.0, 2.0, 4.0)
_COLUMNS = ("video", "label", "start_seconds", "end_seconds")


@dataclass(frozen=True)
class TrueEvent:
    """What truly happened in a video, `start_seconds` to `end_seconds`."""

    video: str
    label: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class WatchedVideo:
    """One video: its scores, what truly happened in it and the events that were found.

    Args:
        prepared: Its scores, smoothed.
        truth: Of this video, hazards alone.
        events: What was found.
    """

    prepared: PreparedScores
    truth: tuple[TrueEvent, ...]
    events: tuple[Event, ...] = ()

    def with_events(self, settings: EventSettings) -> "WatchedVideo":
        """The same video with the events of other settings."""
        return replace(self, events=tuple(find_events(self.prepared, settings)))


@dataclass(frozen=True)
class _Pairing:
    """Alarms of one label against its true events, in one video."""

    alarms: tuple[Event, ...]
    truth: tuple[TrueEvent, ...]
    found: np.ndarray  # of each true event, whether
    false: np.ndarray  # of each alarm, whether
    delays_seconds: tuple[float, ...]  # of the found


def read_true_events(path: str | Path) -> list[TrueEvent]:
    """Read a table with the columns video, label, start_seconds and end_seconds; others are left alone.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If a column is missing, or a row is not an interval; it names the row.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(f"{path} must have the columns {', '.join(_COLUMNS)}; {missing[0]} is missing")
            return [_true_event(row, f"{path}, line {reader.line_num}") for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV table in UTF-8 ({error})") from error
    except FileNotFoundError:
        columns = ", ".join(_COLUMNS)
        raise FileNotFoundError(f"{path}: no such table of true events; --events names a CSV with {columns}") from None
    except IsADirectoryError:
        raise FileNotFoundError(f"{path} is a folder; name the CSV table of true events") from None


def _true_event(row: Mapping[str, Any], where: str) -> TrueEvent:
    try:
        start, end = float(row["start_seconds"]), float(row["end_seconds"])
    except (TypeError, ValueError):
        times = f"{row['start_seconds']!r} and {row['end_seconds']!r}"
        raise ValueError(f"{where}: start_seconds and end_seconds must be numbers, got {times}") from None
    if not 0 <= start < end < math.inf:
        raise ValueError(f"{where}: an event must end after it starts, at 0 or later, got {start:g} to {end:g}")
    if not row["video"] or not row["label"]:
        raise ValueError(f"{where}: video and label must be given")
    return TrueEvent(row["video"], row["label"], start, end)


def temporal_iou(start: float, end: float, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Intersection over union of one interval with others, shape (num_others,)."""
    shared = np.clip(np.minimum(end, ends) - np.maximum(start, starts), 0, None)
    return shared / ((end - start) + (ends - starts) - shared)


def temporal_average_precision(videos: Sequence[WatchedVideo], label: str, *, tiou: float) -> float | None:
    """Average precision of one label at one temporal IoU, 0 to 1; None where the label never happened."""
    truth = [[event for event in video.truth if event.label == label] for video in videos]
    total = sum(map(len, truth))
    if not total:
        return None
    ranked = [(event, index) for index, video in enumerate(videos) for event in video.events if event.label == label]
    ranked.sort(key=lambda pair: -pair[0].score)
    free = [np.ones(len(events), dtype=bool) for events in truth]
    hits = np.zeros(len(ranked))
    for rank, (event, index) in enumerate(ranked):
        starts = np.array([true.start_seconds for true in truth[index]])
        ends = np.array([true.end_seconds for true in truth[index]])
        overlaps = np.where(free[index], temporal_iou(event.start_seconds, event.end_seconds, starts, ends), -1.0)
        if len(overlaps) and overlaps.max() >= tiou:
            hits[rank] = 1
            free[index][overlaps.argmax()] = False
    recall, precision = hits.cumsum() / total, hits.cumsum() / np.arange(1, len(hits) + 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * falling).sum())


def measure_events(
    videos: Sequence[WatchedVideo], hazards: Sequence[str], *, tolerance_seconds: float = 0.0, level: float = 0.95
) -> dict[str, Any]:
    """The figures of events against truth; how they are counted is said at the top of this module.

    Args:
        videos: With their events.
        hazards: Labels that are measured.
        tolerance_seconds: How far apart an alarm and a true event may lie and still belong together.
        level: Of the intervals: Wilson's for recall, the exact one for Poisson counts for false alarms per hour. Both
            take events as independent.

    Returns:
        `overall` and `per_label`: `num_events`, `num_found`, `recall`, `num_alarms`, `num_false_alarms`,
        `num_repeats`, `hours`, `false_alarms_per_hour`, `false_seconds_per_hour` (time in alarm outside true events),
        `seconds_to_alarm` (`median`, `percentile_90`), `intervals`, and `average_precision` by temporal IoU with its
        `mean` over .5 to .95. What there is nothing to say about is None.

    Raises:
        ValueError: If the tolerance is negative.
    """
    if not 0 <= tolerance_seconds < math.inf:
        raise ValueError(f"tolerance_seconds must be 0 or more, got {tolerance_seconds:g}")
    watched = sum(video.prepared.timeline.watched_seconds for video in videos)
    per_label, pairings = {}, {}
    for label in hazards:
        pairings[label] = [_pair(video, label, tolerance_seconds) for video in videos]
        quiet = sum(_quiet_seconds(*both) for both in zip(videos, pairings[label], strict=True))
        figures = _figures(pairings[label], quiet, level=level)
        per_label[label] = figures | {"average_precision": _precisions(videos, label)}
    overall = _figures([pairing for label in hazards for pairing in pairings[label]], watched, level=level)
    overall["average_precision"] = _mean_precisions([figures["average_precision"] for figures in per_label.values()])
    return {"level": level, "tolerance_seconds": tolerance_seconds, "overall": overall, "per_label": per_label}


def list_mistakes(
    videos: Sequence[WatchedVideo], hazards: Sequence[str], *, tolerance_seconds: float = 0.0
) -> list[dict[str, Any]]:
    """Missed events and false alarms, to be looked at: kind, video, label, start_seconds, end_seconds, score."""
    rows: list[dict[str, Any]] = []
    for video in videos:
        for label in hazards:
            pairing = _pair(video, label, tolerance_seconds)
            missed = [event for event, found in zip(pairing.truth, pairing.found, strict=True) if not found]
            false = [event for event, wrong in zip(pairing.alarms, pairing.false, strict=True) if wrong]
            for kind, events in (("missed", missed), ("false_alarm", false)):
                rows += [_mistake(kind, video.prepared.timeline.video, event) for event in events]
    return rows


def _mistake(kind: str, video: str, event: TrueEvent | Event) -> dict[str, Any]:
    score = event.score if isinstance(event, Event) else ""
    start, end = round(event.start_seconds, 3), round(event.end_seconds, 3)
    return {
        "kind": kind,
        "video": video,
        "label": event.label,
        "start_seconds": start,
        "end_seconds": end,
        "score": score,
    }


def _pair(video: WatchedVideo, label: str, tolerance: float) -> _Pairing:
    alarms = tuple(event for event in video.events if event.label == label)
    truth = tuple(sorted((e for e in video.truth if e.label == label), key=lambda event: event.start_seconds))
    starts, ends = (np.array([getattr(e, name) for e in truth]) for name in ("start_seconds", "end_seconds"))
    touching = np.zeros((len(truth), len(alarms)), dtype=bool)
    for column, alarm in enumerate(alarms):
        shared = np.minimum(ends, alarm.end_seconds) - np.maximum(starts, alarm.start_seconds)
        touching[:, column] = shared > -tolerance if tolerance == 0 else shared >= -tolerance
    if not touching.size:
        return _Pairing(alarms, truth, np.zeros(len(truth), bool), np.ones(len(alarms), bool), ())
    found = maximum_bipartite_matching(csr_matrix(touching), perm_type="column") >= 0
    delays = tuple(
        min(alarms[column].alarm_seconds for column in np.flatnonzero(touching[row])) - truth[row].start_seconds
        for row in np.flatnonzero(found)
    )
    return _Pairing(alarms, truth, found, np.logical_not(touching.any(axis=0)), delays)


def _figures(pairings: Sequence[_Pairing], seconds: float, *, level: float) -> dict[str, Any]:
    hours = seconds / 3600
    total = sum(len(pairing.truth) for pairing in pairings)
    found = sum(int(pairing.found.sum()) for pairing in pairings)
    alarms = sum(len(pairing.alarms) for pairing in pairings)
    false = sum(int(pairing.false.sum()) for pairing in pairings)
    false_seconds = sum(_outside(pairing) for pairing in pairings)
    delays = [delay for pairing in pairings for delay in pairing.delays_seconds]
    return {
        "num_events": total,
        "num_found": found,
        "recall": found / total if total else None,
        "num_alarms": alarms,
        "num_false_alarms": false,
        "num_repeats": alarms - false - found,
        "hours": hours,
        "false_alarms_per_hour": false / hours if hours else None,
        "false_seconds_per_hour": false_seconds / hours if hours else None,
        "seconds_to_alarm": {
            "median": float(np.median(delays)) if delays else None,
            "percentile_90": float(np.percentile(delays, 90)) if delays else None,
        },
        "intervals": {
            "recall": wilson_interval(found, total, level=level),
            "false_alarms_per_hour": poisson_rate_interval(false, hours, level=level),
        },
    }


def _outside(pairing: _Pairing) -> float:
    """Seconds in alarm outside true events."""
    truth = [(event.start_seconds, event.end_seconds) for event in pairing.truth]
    alarms = [(event.start_seconds, event.end_seconds) for event in pairing.alarms]
    return _covered([*alarms, *truth]) - _covered(truth)


def _quiet_seconds(video: WatchedVideo, pairing: _Pairing) -> float:
    """Seconds that were watched outside true events."""
    truth = [(event.start_seconds, event.end_seconds) for event in pairing.truth]
    return _covered([*video.prepared.timeline.watched_spans, *truth]) - _covered(truth)


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Seconds that lie in any of the spans."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _precisions(videos: Sequence[WatchedVideo], label: str) -> dict[str, float | None]:
    shown = {f"{tiou:g}": temporal_average_precision(videos, label, tiou=tiou) for tiou in TIOU_SHOWN}
    values = [temporal_average_precision(videos, label, tiou=tiou) for tiou in TIOU_AVERAGED]
    return {**shown, "mean": None if values[0] is None else float(np.mean([value or 0.0 for value in values]))}


def _mean_precisions(labels: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for key in (*(f"{tiou:g}" for tiou in TIOU_SHOWN), "mean"):
        known = [value for precisions in labels if (value := precisions[key]) is not None]
        means[key] = float(np.mean(known)) if known else None
    return means


def sweep_events(
    videos: Sequence[WatchedVideo],
    hazards: Sequence[str],
    settings: EventSettings,
    *,
    thresholds: Sequence[float] = SWEEP_THRESHOLDS,
    dwells_seconds: Sequence[float] = SWEEP_DWELLS_SECONDS,
    tolerance_seconds: float = 0.0,
) -> list[dict[str, Any]]:
    """Recall and false alarms of each hazard at each threshold and dwell; the network does not run.

    Args:
        videos: Their scores and truth.
        hazards: Labels that are measured.
        settings: Of what is not swept. The off threshold keeps its ratio to the on threshold.
        thresholds: On thresholds, above 0 to 1; a label's own is added.
        dwells_seconds: Minimum dwells; that of `settings` is added.
        tolerance_seconds: As in `measure_events`.

    Returns:
        One row a label, dwell and threshold: `label`, `threshold`, `min_dwell_seconds`, `chosen` (the one of
        `settings`), and figures of `measure_events`, flat.
    """
    rows = []
    for label in hazards:
        own = settings.on.get(label)
        share = settings.off_of(label) / own if own else 0.8
        quiet: float | None = None  # the same at all points
        for dwell in sorted({*dwells_seconds, settings.min_dwell_seconds}):
            for on in sorted({*thresholds, *([own] if own else [])}):
                tried = EventSettings({label: on}, {label: share * on}, dwell, settings.merge_gap_seconds)
                pairings = [_pair(video.with_events(tried), label, tolerance_seconds) for video in videos]
                if quiet is None:
                    quiet = sum(_quiet_seconds(*both) for both in zip(videos, pairings, strict=True))
                chosen = own == on and dwell == settings.min_dwell_seconds
                rows.append(_sweep_row(label, on, dwell, _figures(pairings, quiet, level=0.95), chosen))
    return rows


def _sweep_row(label: str, on: float, dwell: float, figures: Mapping[str, Any], chosen: bool) -> dict[str, Any]:
    recall, rate = (figures["intervals"][name] or (None, None) for name in ("recall", "false_alarms_per_hour"))
    return {
        "label": label,
        "threshold": on,
        "min_dwell_seconds": dwell,
        "chosen": chosen,
        "num_events": figures["num_events"],
        "num_found": figures["num_found"],
        "recall": figures["recall"],
        "recall_low": recall[0],
        "recall_high": recall[1],
        "num_false_alarms": figures["num_false_alarms"],
        "false_alarms_per_hour": figures["false_alarms_per_hour"],
        "false_alarms_per_hour_low": rate[0],
        "false_alarms_per_hour_high": rate[1],
        "false_seconds_per_hour": figures["false_seconds_per_hour"],
        "median_seconds_to_alarm": figures["seconds_to_alarm"]["median"],
    }
