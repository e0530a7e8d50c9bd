"""The verb `explain`: its flags, and what it prints. Heavy imports happen when it runs, so that --help is instant."""

import argparse
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from railsformer.explain.requests import Request
    from railsformer.inference.predictor import Predictor

__all__ = ["add_explain", "run_explain"]

logger = logging.getLogger(__name__)

_METHODS = ("rollout", "gradient_rollout", "occlusion")
_DEFAULT_METHOD = "gradient_rollout"
# Flags that only maps of videos have, and their values where they are not given.
_MAP_FLAGS: dict[str, Any] = {
    "method": None,
    "target": None,
    "start": None,
    "end": None,
    "events": None,
    "event": None,
    "region": None,
    "no_video": False,
    "no_trust": False,
}
_EMBEDDING_FLAGS: dict[str, Any] = {"split": None, "camera_column": None, "seed": None}


def add_explain(verbs: "argparse._SubParsersAction[Any]", *, run: Callable[[argparse.Namespace], None]) -> None:
    """Add the verb with its flags; `run` is what it does."""
    explain = verbs.add_parser("explain", help="why a model said so: maps in space and time, and their trust")
    explain.add_argument("--model", required=True, help="run folder, checkpoint or Hub id")
    explain.add_argument(
        "videos", nargs="*", metavar="VIDEO", help="video files; none with --events that names its own"
    )
    explain.add_argument("--output_dir", required=True, help="folder of the pictures; must be absent or empty")
    explain.add_argument("--device", help="cpu, cuda, cuda:1, mps, ... (default: the accelerator where there is one)")
    explain.add_argument("--batch_size", type=int, default=8, help="clips a forward pass (default: 8)")
    maps = explain.add_argument_group("maps of videos")
    maps.add_argument(
        "--method",
        action="append",
        choices=_METHODS,
        help=f"how relevance is found; may be given several times (default: {_DEFAULT_METHOD})",
    )
    maps.add_argument(
        "--target", metavar="LABEL", help="class to explain (default: the highest score; of an event its own)"
    )
    maps.add_argument("--start", type=float, metavar="SECONDS", help="explain a part of a video, from here")
    maps.add_argument("--end", type=float, metavar="SECONDS", help="to here")
    maps.add_argument("--events", metavar="FILE", help="events.json of railsformer watch: explain each event's peak")
    maps.add_argument(
        "--event", type=int, action="append", metavar="N", help="this event only, from 1; may be given several times"
    )
    maps.add_argument(
        "--region", metavar="FILE", help="look at this part of the picture only, as in predict and watch"
    )
    maps.add_argument("--no_video", action="store_true", help="write no overlay video")
    maps.add_argument(
        "--no_trust", action="store_true", help="do not measure how far maps can be trusted, which takes most time"
    )
    model = explain.add_argument_group("the model itself")
    model.add_argument(
        "--positions", action="store_true", help="how alike places and instants are in its position tables"
    )
    model.add_argument(
        "--embeddings", metavar="DATASET", help="clips of a dataset in two dimensions, as one HTML page"
    )
    model.add_argument("--split", action="append", help="of that dataset; may be given several times (default: all)")
    model.add_argument("--camera_column", help="column that tells cameras apart (default: group)")
    model.add_argument("--seed", type=int, help="draws the two dimensions (default: 0)")
    explain.set_defaults(run=run)


def run_explain(parsed: argparse.Namespace) -> str:
    """Explain, and return what to print."""
    _check_flags(parsed)
    from railsformer.cli_evaluate import quiet_transformers

    quiet_transformers()
    if parsed.positions:
        from railsformer.explain.positions import write_positions

        lines = [*write_positions(parsed.model, parsed.output_dir).lines(), f"pictures: {parsed.output_dir}"]
    elif parsed.embeddings:
        from railsformer.explain.embeddings import write_embeddings

        given = {name: getattr(parsed, name) for name in ("camera_column", "seed")}
        report = write_embeddings(
            parsed.model,
            parsed.embeddings,
            parsed.output_dir,
            splits=parsed.split or (),
            device=parsed.device,
            batch_size=parsed.batch_size,
            **{name: value for name, value in given.items() if value is not None},
        )
        lines = [*report.lines(), f"page: {parsed.output_dir}"]
    else:
        lines = _explain_videos(parsed)
    return "\n".join(lines)


def _check_flags(parsed: argparse.Namespace) -> None:
    """Refuse what does not go together, before anything heavy is loaded."""
    if parsed.positions and parsed.embeddings:
        raise ValueError("--positions and --embeddings are two explanations; give one")
    mode = "positions" if parsed.positions else "embeddings" if parsed.embeddings else None
    if mode and parsed.videos:
        raise ValueError(f"--{mode} looks at no video, got {parsed.videos[0]}; leave one of the two out")
    foreign = dict(_MAP_FLAGS) if mode else dict(_EMBEDDING_FLAGS)
    if mode == "positions":
        foreign |= _EMBEDDING_FLAGS
    for name, default in foreign.items():
        if getattr(parsed, name) != default:
            raise ValueError(
                f"--{name} has no meaning {f'with --{mode}' if mode else 'without --embeddings'}; drop it"
            )
    if mode:
        return
    if parsed.event and parsed.events is None:
        raise ValueError("--event picks from --events; name the events.json of a railsformer watch")
    if parsed.events is None and not parsed.videos:
        raise ValueError("there is nothing to explain; name a VIDEO, --events, --positions or --embeddings")
    parts = parsed.start is not None or parsed.end is not None
    if parts and parsed.events is not None:
        raise ValueError("--start and --end are a part of a video, --events has its own; drop one of them")
    if len(parsed.videos) > 1 and (parts or parsed.events is not None):
        raise ValueError(f"--start, --end and --events are for one video, got {len(parsed.videos)}; name one")


def _explain_videos(parsed: argparse.Namespace) -> list[str]:
    from railsformer.explain.requests import ExplainSettings, explain, lines_of
    from railsformer.inference.predictor import Predictor
    from railsformer.inference.regions import Region

    predictor = Predictor.from_pretrained(parsed.model, device=parsed.device, batch_size=parsed.batch_size)
    settings = ExplainSettings(
        methods=tuple(parsed.method or (_DEFAULT_METHOD,)),
        target=parsed.target,
        region=None if parsed.region is None else Region.read(parsed.region),
        with_video=not parsed.no_video,
        with_trust=not parsed.no_trust,
    )
    requests = _requests(parsed, predictor)
    explanations = explain(
        predictor,
        requests,
        output_dir=parsed.output_dir,
        settings=settings,
        on_done=lambda request, _: logger.info("%s done", request.folder) if len(requests) > 1 else None,
    )
    return [*lines_of(explanations), f"pictures: {parsed.output_dir}"]


def _requests(parsed: argparse.Namespace, predictor: "Predictor") -> "list[Request]":
    from railsformer.explain.requests import event_requests, video_requests

    if parsed.events is None:
        return video_requests(parsed.videos, start_seconds=parsed.start, end_seconds=parsed.end)
    video = parsed.videos[0] if parsed.videos else None
    return event_requests(parsed.events, predictor, video=video, numbers=parsed.event or ())
