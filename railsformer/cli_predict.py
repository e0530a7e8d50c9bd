"""The verb `predict`: its flags, and what it prints. Heavy imports happen when it runs, so that --help is instant."""

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from railsformer.inference.predictor import Predictor

__all__ = ["add_predict", "load_predictor", "run_predict"]

logger = logging.getLogger(__name__)


def add_predict(verbs: "argparse._SubParsersAction[Any]", *, run: Callable[[argparse.Namespace], None]) -> None:
    """Add the verb with its flags; `run` is what it does."""
    predict = verbs.add_parser("predict", help="say what videos show: one row a video")
    predict.add_argument("--model", required=True, help="run folder, checkpoint or Hub id")
    predict.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="video file, folder (all videos in it and below), pattern such as 'yard/**/*.mp4', or - for names on "
        "standard input, one a line",
    )
    predict.add_argument(
        "--format",
        choices=("jsonl", "csv", "table"),
        help="of the rows: JSON lines, CSV, or a table for reading (default: by the suffix of --output, else jsonl)",
    )
    predict.add_argument(
        "--output",
        metavar="FILE",
        help="write rows to this file; the same command goes on where it was stopped, and rows that are there, those "
        "of errors too, are not done again (default: standard output)",
    )
    predict.add_argument("--top_k", type=int, help="scores to give of each video (default: all)")
    predict.add_argument("--num_clips", type=int, default=1, help="clips a video, their scores averaged (default: 1)")
    predict.add_argument(
        "--num_crops",
        type=int,
        choices=(1, 3),
        default=1,
        help="crops of a clip: 1, the centre, or 3 along the long side; scores averaged (default: 1)",
    )
    predict.add_argument(
        "--region",
        metavar="FILE",
        help="look at this part of the picture only: JSON polygons in shares of width and height (file or text), or a "
        "PNG in which white is looked at",
    )
    predict.add_argument(
        "--backend",
        choices=("torch", "onnx"),
        default="torch",
        help="onnx runs what `railsformer export` wrote, with onnxruntime (default: torch)",
    )
    predict.add_argument("--device", help="cpu, cuda, cuda:1, mps, ... (default: the accelerator where there is one)")
    predict.add_argument("--batch_size", type=int, default=8, help="clips x crops a forward pass (default: 8)")
    predict.add_argument(
        "--num_workers",
        type=int,
        default=2,
        help="processes that decode; with 0 a file that crashes the decoder ends everything (default: 2)",
    )
    predict.set_defaults(run=run)


def run_predict(parsed: argparse.Namespace) -> None:
    """Predict, print or write rows, and say on standard error what else one must know."""
    from railsformer.cli_evaluate import quiet_transformers
    from railsformer.inference.predict import RowWriter, check_wishes, find_videos, predict_videos
    from railsformer.inference.regions import Region

    quiet_transformers()
    videos = find_videos(parsed.paths, listed=sys.stdin)
    region = None if parsed.region is None else Region.read(parsed.region)
    predictor = load_predictor(parsed)
    wishes: dict[str, Any] = {
        "num_clips": parsed.num_clips,
        "num_crops": parsed.num_crops,
        "top_k": parsed.top_k,
        "region": region,
        "num_workers": parsed.num_workers,
    }
    check_wishes(predictor, **wishes)  # before there is a file
    views = f"{parsed.num_clips}x{parsed.num_crops}" + (f" {parsed.region}" if parsed.region else "")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="surrogateescape")  # a file name need not be text
    writer = RowWriter(_format(parsed), predictor, views=views, region=region, output=parsed.output, stream=sys.stdout)
    if predictor.thresholds is None:
        logger.warning("%s has no operating points: decisions are null; %s", parsed.model, predictor.points_advice)
    results = dict(writer.done)
    todo = [video for video in videos if video not in writer.done]
    if len(todo) < len(videos):
        logger.info("%d of %d videos have a row in %s already", len(videos) - len(todo), len(videos), parsed.output)
    first_error = ""
    before = signal.getsignal(signal.SIGTERM)
    is_main_thread = threading.current_thread() is threading.main_thread()  # Python allows handlers nowhere else
    try:
        if is_main_thread:  # so that SIGTERM, too, passes through here and what is half done is removed
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        for one in predict_videos(predictor, todo, **wishes, progress=parsed.output is not None):
            writer.write([one])
            results[one.video] = one.error is None
            first_error = first_error or (f"{one.video}: {one.error}" if one.error else "")
    finally:
        if is_main_thread:
            signal.signal(signal.SIGTERM, before)
        writer.close()
    num_bad = sum(not results[video] for video in videos)
    if num_bad == len(videos):
        raise ValueError(f"none of {num_bad} video(s) could be read, first {first_error or videos[0]}")
    if num_bad:
        logger.warning("%d of %d videos could not be read; their rows say why", num_bad, len(videos))


def load_predictor(parsed: argparse.Namespace) -> "Predictor":
    """The model of a verb that has --backend, --device and --batch_size."""
    from railsformer.inference.predictor import Predictor
    from railsformer.model.loading import ExportedModelError

    try:
        return Predictor.from_pretrained(
            parsed.model, device=parsed.device, batch_size=parsed.batch_size, backend=parsed.backend
        )
    except ExportedModelError as error:
        raise ValueError(f"{error}, or add --backend onnx") from error


def _format(parsed: argparse.Namespace) -> Any:
    if parsed.format is None and parsed.output is not None and parsed.output.lower().endswith(".csv"):
        return "csv"
    return parsed.format or "jsonl"
