"""The verbs over footage: `watch`, and `evaluate --events`. Heavy imports happen when they run."""

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from railsformer.cli_evaluate import quiet_transformers

if TYPE_CHECKING:
    from railsformer.inference.predictor import Predictor
    from railsformer.inference.watch import WatchSettings, WatchSummary

__all__ = [
    "EVENTS_VERB",
    "add_evaluate_events",
    "add_watch",
    "asks_for_events",
    "run_evaluate_events",
    "run_watch",
]

_log = logging.getLogger(__name__)
EVENTS_VERB = "evaluate-events"  # what `evaluate --events` is parsed as: it shares no flag but --output_dir


def add_watch(verbs: "argparse._SubParsersAction[Any]", *, run: Callable[[argparse.Namespace], None]) -> None:
    """Add the verb `watch` with its flags; `run` is what it does."""
    watch = verbs.add_parser("watch", help="run a model over a long video or a live camera: timeline, events, alarms")
    watch.add_argument(
        "source", metavar="VIDEO_OR_URL", help="a video file; or rtsp://, http://, udp://, /dev/video0, -"
    )
    watch.add_argument("--model", required=True, help="run folder, checkpoint or Hub id")
    watch.add_argument(
        "--output_dir",
        required=True,
        help="folder of the timeline; the same command goes on in it, and one with other thresholds takes its scores",
    )
    watch.add_argument("--window_seconds", type=float, help="length of a window (default: that of the training clips)")
    watch.add_argument("--stride_seconds", type=float, help="from window to window (default: half a window)")
    watch.add_argument("--region", help="what is looked at: JSON polygons of relative corners, or a PNG mask")
    watch.add_argument("--camera", help="name of the camera, for the events")
    watch.add_argument(
        "--backend",
        choices=("torch", "onnx"),
        default="torch",
        help="onnx runs what `railsformer export` wrote, with onnxruntime (default: torch)",
    )
    watch.add_argument("--device", help="device of the network (default: a GPU if there is one)")
    watch.add_argument("--batch_size", type=int, default=8, help="windows a forward pass (default: 8)")
    _add_events(watch)
    _add_recordings(watch)
    _add_live(watch)
    watch.set_defaults(run=run)


def _add_recordings(watch: argparse.ArgumentParser) -> None:
    recorded = watch.add_argument_group("recordings")
    recorded.add_argument("--start_time", help="wall clock of the first picture, ISO 8601 (default: the file's own)")
    recorded.add_argument("--clips", action="store_true", help="cut one clip an event")
    recorded.add_argument(
        "--copy_video",
        action="store_true",
        help="put a copy of the video beside timeline.html, so that the folder can be moved or sent",
    )
    recorded.add_argument("--annotate", action="store_true", help="write the video with scores and events burnt in")
    recorded.add_argument(
        "--no_blindness",
        action="store_true",
        help="score black, covered and frozen stretches like any other (default: they are told, and not scored)",
    )


def _add_live(watch: argparse.ArgumentParser) -> None:
    live = watch.add_argument_group("live sources")
    live.add_argument("--webhook", metavar="URL", help="send each alarm there, too")
    live.add_argument("--alarm_command", metavar="COMMAND", help="run this for each alarm, which it gets on its stdin")
    live.add_argument("--heartbeat_seconds", type=float, default=10.0, help="between signs of life (default: 10)")
    live.add_argument("--keep_pictures", action="store_true", help="keep pictures of alarms (default: none are kept)")
    live.add_argument(
        "--start_timeout",
        type=float,
        default=60.0,
        help="give up on a source that never starts; 0: never (default: 60)",
    )
    live.add_argument("--max_seconds", type=float, help="end after this long (default: never)")


def _add_events(watch: argparse.ArgumentParser) -> None:
    events = watch.add_argument_group("events", "when scores are an event")
    events.add_argument(
        "--threshold",
        action="append",
        default=[],
        metavar="[LABEL=]P",
        help="score that begins an event, for all hazards or one; may be given several times (default: the model's "
        "operating points)",
    )
    events.add_argument(
        "--off_share", type=float, default=0.8, help="an event ends below this share of it (default: 0.8)"
    )
    events.add_argument("--min_dwell_seconds", type=float, default=1.0, help="shorter is no event (default: 1)")
    events.add_argument("--merge_gap_seconds", type=float, default=2.0, help="longest pause in an event (default: 2)")
    events.add_argument("--smooth_seconds", type=float, help="width of the blend of windows (default: half a window)")
    events.add_argument("--smoothing", choices=("mean", "median"), default="mean", help="default: mean")


def add_evaluate_events(
    verbs: "argparse._SubParsersAction[Any]", *, run: Callable[[argparse.Namespace], None]
) -> None:
    """Add what `evaluate --events` is parsed as; without help, so that it is not listed."""
    parser = verbs.add_parser(EVENTS_VERB, prog="railsformer evaluate")
    parser.add_argument(
        "--events",
        required=True,
        metavar="TRUTH",
        help="CSV table of what truly happened: video, label, start_seconds, end_seconds",
    )
    parser.add_argument(
        "--timeline", required=True, nargs="+", metavar="DIR", help="folders that railsformer watch wrote, one a video"
    )
    parser.add_argument("--output_dir", required=True, help="folder of the figures; must be absent or empty")
    parser.add_argument(
        "--tolerance_seconds",
        type=float,
        default=0.0,
        help="how far an alarm may lie from a true event and still have found it (default: 0, they must overlap)",
    )
    parser.add_argument("--sweep_thresholds", nargs="+", type=float, metavar="P", help="default: 0.05 to 0.95")
    parser.add_argument("--sweep_dwell_seconds", nargs="+", type=float, metavar="S", help="default: 0 1 2 4")
    parser.set_defaults(run=run)


def asks_for_events(arguments: list[str]) -> bool:
    """Whether a command line is `evaluate --events`."""
    return arguments[:1] == ["evaluate"] and any(word.split("=")[0] == "--events" for word in arguments)


def run_evaluate_events(parsed: argparse.Namespace) -> str:
    """Measure events, and return what to print."""
    from railsformer.inference.event_report import evaluate_events, event_table

    sweep = {"thresholds": parsed.sweep_thresholds, "dwells_seconds": parsed.sweep_dwell_seconds}
    content = evaluate_events(
        parsed.events,
        timelines=parsed.timeline,
        output_dir=parsed.output_dir,
        tolerance_seconds=parsed.tolerance_seconds,
        **{name: values for name, values in sweep.items() if values},
    )
    return f"{event_table(content)}\nfigures: {parsed.output_dir}"


def run_watch(parsed: argparse.Namespace) -> str:
    """Watch, and return what to print: nothing of a live source, whose alarms were printed as they came."""
    from railsformer.cli_predict import load_predictor
    from railsformer.inference.stream import is_live
    from railsformer.inference.watch import watch_video

    quiet_transformers()
    settings = _watch_settings(parsed)
    _check_kind(parsed, live=is_live(parsed.source))
    predictor = load_predictor(parsed)
    if is_live(parsed.source):
        _watch_live(parsed, predictor, settings)
        return ""
    summary = watch_video(predictor, parsed.source, output_dir=parsed.output_dir, settings=settings, progress=True)
    return _watch_text(summary)


def _check_kind(parsed: argparse.Namespace, *, live: bool) -> None:
    """Refuse flags that mean nothing for this kind of source, rather than ignore them."""
    streamed = ("webhook", "alarm_command", "keep_pictures", "max_seconds")
    recorded = ("start_time", "clips", "copy_video", "annotate", "no_blindness")
    kind, others = ("live source", recorded) if live else ("recording", streamed)
    for name in others:
        if getattr(parsed, name):
            raise ValueError(f"--{name} has no meaning for a {kind} such as {parsed.source}; leave it out")


def _watch_live(parsed: argparse.Namespace, predictor: "Predictor", settings: "WatchSettings") -> None:
    from railsformer.data.folders import building_folder
    from railsformer.inference.alarms import open_outbox
    from railsformer.inference.event_wishes import event_settings
    from railsformer.inference.stream import ALARMS_NAME, LiveSettings, watch_stream
    from railsformer.inference.timeline import Smoothing
    from railsformer.inference.watch import plan_of, smooth_seconds_of
    from railsformer.inference.watch_folder import check_live_folder

    plan = plan_of(predictor, settings)
    events = event_settings(predictor, settings.wishes)
    smoothing = Smoothing(smooth_seconds_of(plan, settings), parsed.smoothing, causal=True)
    live = LiveSettings(
        camera=parsed.camera or "camera",
        heartbeat_seconds=parsed.heartbeat_seconds,
        keep_pictures=parsed.keep_pictures,
        max_seconds=parsed.max_seconds,
        start_timeout_seconds=parsed.start_timeout,
    )
    output_dir = check_live_folder(Path(parsed.output_dir))
    with building_folder(output_dir):  # for its lock: two watches would write over each other's events
        outbox = open_outbox(
            stdout=sys.stdout, file=output_dir / ALARMS_NAME, webhook=parsed.webhook, command=parsed.alarm_command
        )
        summary = watch_stream(  # closes the outbox
            predictor,
            parsed.source,
            plan=plan,
            events=events,
            smoothing=smoothing,
            outbox=outbox,
            output_dir=output_dir,
            region=settings.region,
            settings=live,
        )
    if summary.exit_code:
        sys.exit(summary.exit_code)


def _watch_settings(parsed: argparse.Namespace) -> "WatchSettings":
    from railsformer.inference.event_wishes import EventWishes
    from railsformer.inference.regions import Region
    from railsformer.inference.watch import WatchSettings
    from railsformer.inference.watch_folder import parse_start_time

    return WatchSettings(
        window_seconds=parsed.window_seconds,
        stride_seconds=parsed.stride_seconds,
        smooth_seconds=parsed.smooth_seconds,
        smoothing=parsed.smoothing,
        wishes=EventWishes(
            thresholds=_thresholds(parsed.threshold),
            off_share=parsed.off_share,
            min_dwell_seconds=parsed.min_dwell_seconds,
            merge_gap_seconds=parsed.merge_gap_seconds,
        ),
        start_time=parse_start_time(parsed.start_time) if parsed.start_time else None,
        camera=parsed.camera,
        region=Region.read(parsed.region) if parsed.region else None,
        clips=parsed.clips,
        annotate=parsed.annotate,
        copy_video=parsed.copy_video,
        batch_size=parsed.batch_size,
        blindness=not parsed.no_blindness,
    )


def _thresholds(words: list[str]) -> dict[str | None, float]:
    thresholds: dict[str | None, float] = {}
    for word in words:
        label, sign, text = word.rpartition("=")
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"--threshold must be P or LABEL=P with a number P, got {word!r}") from None
        name = label if sign else None
        if name in thresholds:
            raise ValueError(f"--threshold {word} is the second one for {name or 'all labels'}; give one each")
        thresholds[name] = value
    return thresholds


def _watch_text(summary: "WatchSummary") -> str:
    watched = summary.timeline.watched_seconds
    lines = _blind_lines(summary)
    for event in summary.events:
        clock = f"  {event.start_time}" if event.start_time else ""
        lines.append(
            f"{_clock(event.start_seconds)} - {_clock(event.end_seconds)}  {event.label}  {event.score:.2f}{clock}"
        )
    for happened in summary.source_events[:5]:
        _log.warning("%s %s: %s", _clock(happened.seconds), happened.kind, happened.detail)
    if len(summary.source_events) > 5:
        _log.warning("and %d more: watch.json", len(summary.source_events) - 5)
    speed = f", {summary.footage_seconds / summary.seconds:.1f} times real time" if summary.windows_scored else ""
    lines.append(f"{len(summary.events)} events in {_clock(watched)} of footage{speed}")
    lines.append(f"timeline: {summary.output_dir / 'timeline.html'}")
    return "\n".join(lines)


def _blind_lines(summary: "WatchSummary") -> list[str]:
    """How long the camera was blind, if it was."""
    from railsformer.inference.blind_stretches import blind_seconds

    seconds = blind_seconds(summary.blind)
    if not seconds:
        return []
    reasons = ", ".join(f"{reason} {_clock(value)}" for reason, value in seconds.items())
    scored = "; what it saw when moved is scored" if "moved" in seconds else ""
    return [f"the camera was blind for {_clock(sum(seconds.values()))} ({reasons}){scored}"]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes // 60):02d}:{int(minutes % 60):02d}:{rest:04.1f}"
