"""The pages of a watched recording, and the videos that were asked for."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from railsformer.inference.blind_stretches import HIDING_REASONS, BlindStretch
from railsformer.inference.events import Event, EventSettings
from railsformer.inference.timeline import Smoothing, Timeline, unbroken_pieces

__all__ = ["write_pages"]

_log = logging.getLogger(__name__)


def write_pages(
    folder: Path,
    video: Path,
    timeline: Timeline,
    *,
    events: Sequence[Event],
    how: EventSettings,
    smoothing: Smoothing,
    window_seconds: float,
    blind: Sequence[BlindStretch] = (),
    annotate: bool = False,
    clips: bool = False,
    copy_video: bool = False,
) -> None:
    """Write timeline.png, timeline.html and, where asked for, annotated.mp4, clips/ and a copy of the video."""
    from railsformer.inference.overlay_video import cut_event_clips, write_annotated_video
    from railsformer.inference.timeline_pages import write_timeline_pages

    rows = [asdict(event) for event in events]
    scores, _ = timeline.smoothed(smoothing)
    shown: dict[str, Any] = {
        "times_seconds": timeline.middle_seconds,
        "scores": scores,
        "labels": timeline.labels,
        "events": rows,
        "negative_labels": timeline.negative_labels,
        "thresholds": how.on,
        "start_time": timeline.start_time,
    }
    write_timeline_pages(
        folder,
        video=video,
        duration_seconds=float(timeline.end_seconds.max(initial=0.0)),
        window_seconds=window_seconds,
        camera=timeline.camera,
        not_scored=_not_scored(timeline, blind),
        blind=[(stretch.start_seconds, stretch.end_seconds, stretch.reason) for stretch in blind],
        model=timeline.model,
        copy_video=copy_video,
        **shown,
    )
    for name, wanted in (("annotated.mp4", annotate), ("clips", clips)):
        if not wanted and (folder / name).exists():
            _log.warning("%s is of an earlier command, and may show other events than this one found", folder / name)
    if annotate:
        write_annotated_video(video, folder / "annotated.mp4", **shown)
    if clips:
        cut_event_clips(video, folder / "clips", rows)


def _not_scored(timeline: Timeline, blind: Sequence[BlindStretch]) -> list[tuple[float, float, str]]:
    """Stretches that no scored window covers, and why."""
    pieces = unbroken_pieces(timeline)
    edges = [(timeline.start_seconds[piece[0]], timeline.end_seconds[piece[-1]]) for piece in pieces]
    ends, starts = [0.0, *(end for _, end in edges)], [start for start, _ in edges]
    starts.append(float(timeline.end_seconds.max(initial=0.0)))
    return [
        (float(end), float(start), _why(float(end), float(start), blind))
        for end, start in zip(ends, starts, strict=True)
        if start - end > 1e-3
    ]


def _why(start_seconds: float, end_seconds: float, blind: Sequence[BlindStretch]) -> str:
    inside = [
        stretch.reason
        for stretch in blind
        if stretch.reason in HIDING_REASONS
        and stretch.start_seconds < end_seconds
        and stretch.end_seconds > start_seconds
    ]
    return "camera " + ", ".join(dict.fromkeys(inside)) if inside else "no pictures"
