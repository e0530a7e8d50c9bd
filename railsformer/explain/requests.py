"""What is to be explained: videos, parts of one, or events that `watch` found; and the folders that come of it."""

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from railsformer.data.analysis.figures import printable
from railsformer.data.folders import check_output_dir, whole_folder
from railsformer.data.probe import probe_video
from railsformer.data.video import VideoDecodeError
from railsformer.explain.explanation import Explanation, check_methods, check_target, explain_clip, write_arrays
from railsformer.explain.overlay import write_overlay
from railsformer.explain.pictures import draw_contact_sheet, draw_curve
from railsformer.explain.seen import see_clip
from railsformer.inference.events import EVENTS_NAME, Event, read_events
from railsformer.inference.predictor import Predictor
from railsformer.inference.regions import Region
from railsformer.inference.views import Viewing
from railsformer.inference.watch_folder import WATCH_NAME
from railsformer.inference.windows import WindowPlan

__all__ = [
    "ExplainSettings",
    "Request",
    "event_requests",
    "explain",
    "lines_of",
    "video_requests",
    "write_explanation",
]

logger = logging.getLogger(__name__)

_GRID_SLACK_SECONDS = 2e-3  # events.json rounds times to milliseconds


@dataclass(frozen=True)
class ExplainSettings:
    """How clips are explained.

    Args:
        methods: Any of METHODS; the first one's peak chooses the frames of a long clip's contact sheet.
        target: Class to explain; of an event its own, else the one with the highest score, if not given.
        region: What of the picture is looked at; all if not given.
        with_video: Whether to write overlay videos.
        with_trust: Whether to measure how far the maps can be trusted.
    """

    methods: tuple[str, ...] = ("gradient_rollout",)
    target: str | None = None
    region: Region | None = None
    with_video: bool = True
    with_trust: bool = True

    def __post_init__(self) -> None:
        """Check the methods."""
        check_methods(self.methods)


@dataclass(frozen=True)
class Request:
    """One clip to explain.

    Attributes:
        video: The file.
        folder: Name of its folder in the output.
        start_seconds: Of the part that the clip is cut from; None means the video's start.
        end_seconds: Likewise its end.
        event: That the part belongs to.
        event_number: Its number, from 1.
    """

    video: Path
    folder: str
    start_seconds: float | None = None
    end_seconds: float | None = None
    event: Event | None = None
    event_number: int | None = None


def video_requests(
    videos: Sequence[str | Path], *, start_seconds: float | None = None, end_seconds: float | None = None
) -> list[Request]:
    """One request a video, each with a folder of its own.

    Raises:
        FileNotFoundError: If a video is not there.
    """
    requests: list[Request] = []
    for path in map(Path, videos):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such video file; correct the name")
        used = {request.folder for request in requests}
        stem = _slug(path.stem) or "video"
        names = (stem if number == 1 else f"{stem}_{number}" for number in range(1, len(used) + 2))
        folder = next(name for name in names if name not in used)
        requests.append(Request(path, folder, start_seconds, end_seconds))
    return requests


def event_requests(
    events: str | Path,
    predictor: Predictor,
    *,
    video: str | Path | None = None,
    numbers: Sequence[int] = (),
) -> list[Request]:
    """One request an event: the window of footage that had its highest score.

    Args:
        events: events.json, or the folder of `watch` that holds it.
        predictor: The model; its window counts where watch.json does not tell that of the watch.
        video: The footage; the one that events.json names if not given.
        numbers: Which events, from 1; all if not given.

    Raises:
        FileNotFoundError: If there are no events.json or no video.
        ValueError: If a file is damaged, there is no event, or none of such a number.
    """
    path = Path(events) / EVENTS_NAME if Path(events).is_dir() else Path(events)
    found, _, _ = read_events(path)
    if not found:
        raise ValueError(f"{path} holds no event; give --start and --end, or watch with a lower --threshold")
    for number in numbers:
        if not 1 <= number <= len(found):
            raise ValueError(f"event must be 1 to {len(found)}, the events of {path}, got {number}")
    content = json.loads(path.read_text(encoding="utf-8"))
    watched_by = str(content.get("model") or predictor.name)
    if Path(watched_by).resolve() != Path(predictor.name).resolve():
        logger.warning("%s is of the model %s: its scores are not those of %s", path, watched_by, predictor.name)
    footage = _footage(path, video)
    duration = probe_video(footage, thorough=False).duration_seconds
    plan = _plan(path, predictor)
    requests = []
    for number in dict.fromkeys(numbers or range(1, len(found) + 1)):
        event = found[number - 1]
        start, end = _peak_window(event, plan, duration)
        folder = f"event_{number:03d}_{_slug(event.label)}"
        requests.append(Request(footage, folder, start, end, event, number))
    return requests


def explain(
    predictor: Predictor,
    requests: Sequence[Request],
    *,
    output_dir: str | Path,
    settings: ExplainSettings | None = None,
    on_done: Callable[[Request, Explanation], None] | None = None,
) -> list[Explanation]:
    """Explain clips and write a folder each; the output appears whole or not at all.

    Args:
        predictor: The model.
        requests: What is explained; a video that cannot be read is left out with a warning, unless all are.
        output_dir: Must be absent or empty.
        settings: How.
        on_done: Told of each explanation once it is written.

    Raises:
        FileExistsError: If output_dir holds something.
        ValueError: If the class or a method is unknown, a part does not lie in its video, or no video can be read.
    """
    settings = settings or ExplainSettings()
    check_target(predictor, settings.target)
    for request in requests:
        check_target(predictor, request.event.label if request.event else None)
    output_dir = check_output_dir(output_dir)
    explanations: list[Explanation] = []
    first_error: VideoDecodeError | None = None
    with whole_folder(output_dir) as whole:
        for request in requests:
            try:
                explanation = _explained(predictor, request, settings)
                write_explanation(explanation, whole / request.folder, with_video=settings.with_video)
            except VideoDecodeError as error:
                first_error = first_error or error
                shutil.rmtree(whole / request.folder, ignore_errors=True)  # what was written before it showed
                if len(requests) > 1:
                    logger.warning("left out: %s", error)
                continue
            explanations.append(explanation)
            if on_done:
                on_done(request, explanation)
        if not explanations:
            raise first_error or ValueError("there is nothing to explain; name a video")
    return explanations


def write_explanation(explanation: Explanation, folder: str | Path, *, with_video: bool = True) -> Path:
    """Write all files of an explanation into a folder of its own, which is made."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    write_arrays(explanation, folder)
    (folder / "contact_sheet.png").write_bytes(draw_contact_sheet(explanation))
    (folder / "relevance_curve.png").write_bytes(draw_curve(explanation))
    if with_video:
        for each in explanation.maps:
            write_overlay(explanation, each, folder / f"overlay_{each.method}.mp4")
    return folder


def _explained(predictor: Predictor, request: Request, settings: ExplainSettings) -> Explanation:
    viewing = Viewing(predictor.sampling, predictor.pixels, region=settings.region)
    clip = see_clip(request.video, viewing, start_seconds=request.start_seconds, end_seconds=request.end_seconds)
    if clip.note:
        logger.warning("%s: %s", request.video, clip.note)
    return explain_clip(
        predictor,
        clip,
        methods=settings.methods,
        target=settings.target or (request.event.label if request.event else None),
        trust=settings.with_trust,
        event=request.event,
        event_number=request.event_number,
    )


def _footage(events: Path, video: str | Path | None) -> Path:
    """The given video, or the one that events.json names, from here or from its folder."""
    if video is not None:
        if not Path(video).is_file():
            raise FileNotFoundError(f"{video}: no such video file; correct the name")
        return Path(video)
    named = str(json.loads(events.read_text(encoding="utf-8")).get("video") or "")
    for path in (Path(named), events.parent / named):
        if named and path.is_file():
            return path
    raise FileNotFoundError(f"{named or 'the video'} that {events} is about is not there; name the video, too")


def _plan(events: Path, predictor: Predictor) -> WindowPlan:
    """Windows of the watch as its watch.json tells them; those that suit the model where there is none."""
    told: dict[str, Any] = {}
    path = events.parent / WATCH_NAME
    if path.is_file():
        try:
            told = dict(json.loads(path.read_text(encoding="utf-8"))["request"])
            plan = WindowPlan(float(told["window_seconds"]), float(told["stride_seconds"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}); run railsformer watch again") from error
        if told.get("region"):
            logger.warning("%s: the watch looked at a region of the picture; give the same --region", events)
        return plan
    return WindowPlan.for_model(predictor.name, predictor.sampling)


def _peak_window(event: Event, plan: WindowPlan, duration: float) -> tuple[float, float]:
    """The window whose middle is the event's peak; the last one of the footage may be cut short by its end."""
    window, stride = plan.window_seconds, plan.stride_seconds
    for start in (event.peak_seconds - window / 2, 2 * event.peak_seconds - duration):
        on_grid = round(start / stride) * stride
        if on_grid >= 0 and abs(on_grid - start) <= _GRID_SLACK_SECONDS:
            return on_grid, min(on_grid + window, duration)
    start = min(max(0.0, event.peak_seconds - window / 2), max(0.0, duration - window))
    return start, min(start + window, duration)


def _slug(name: str) -> str:
    return re.sub(r"[^\w-]+", "_", printable(name)).strip("_")[:60]


def lines_of(explanations: Sequence[Explanation]) -> Iterator[str]:
    """What to print: a few lines a clip."""
    for explanation in explanations:
        number = "" if explanation.event_number is None else f" event {explanation.event_number}"
        yield f"{explanation.clip.video}{number}: {explanation.headline}"
        for each in explanation.maps:
            yield f"  {each.title}: {each.judgement[0]}"
