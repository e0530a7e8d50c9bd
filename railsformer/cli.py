"""The command line: one thin subcommand a verb. Heavy imports happen inside the verbs, so that --help is instant."""

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from railsformer.cli_compare import add_compare, run_compare
from railsformer.cli_evaluate import add_evaluate, quiet_transformers, run_evaluate
from railsformer.cli_explain import add_explain, run_explain
from railsformer.cli_export import add_export, run_export
from railsformer.cli_inference import (
    EVENTS_VERB,
    add_evaluate_events,
    add_watch,
    asks_for_events,
    run_evaluate_events,
    run_watch,
)
from railsformer.cli_predict import add_predict, run_predict

if TYPE_CHECKING:
    from railsformer.data.proxies import ProxySettings

__all__ = ["main"]

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: Arguments after the program's name; those of the process if not given.

    Returns:
        0, or 2 after one line on stderr for bad input. RAILSFORMER_TRACEBACK=1 shows where an error came from.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    # The flags of train belong to HfArgumentParser, which needs torch; everything else is parsed here.
    if arguments[:1] == ["train"]:
        verb: Callable[[], None] = lambda: _train(arguments[1:])  # noqa: E731
    elif arguments[:1] == ["crossval"]:
        verb = lambda: _crossval(arguments[1:])  # noqa: E731
    else:
        events = [EVENTS_VERB, *arguments[1:]] if asks_for_events(arguments) else None
        parsed = parser.parse_args(events or arguments)
        parsed.command = shlex.join(["railsformer", *arguments])
        verb = lambda: parsed.run(parsed)  # noqa: E731
    _quiet_libraries()
    try:
        verb()
    except (ValueError, OSError, RuntimeError) as error:
        message = _user_message(error)
        if message is None or os.environ.get("RAILSFORMER_TRACEBACK"):
            raise
        _close_progress_bars()
        # Processes of one launch fail together, of one cause; only a video is read by one of them alone.
        if os.environ.get("RANK", "0") == "0" or type(error).__name__ == "VideoDecodeError" or _from_worker(error):
            print(f"railsformer: error: {message}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("railsformer: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _close_progress_bars() -> None:
    """End the bars that an error left open, so that its line stands on a line of its own."""
    if "tqdm" in sys.modules:
        import tqdm

        for bar in list(getattr(tqdm.tqdm, "_instances", ())):
            bar.close()


def _user_message(error: Exception) -> str | None:
    """One line for the user, or None for an error that is not of the user's making."""
    text = str(error)
    if _from_worker(error):  # torch wraps the worker's traceback into the message; its last line is ours
        name, _, text = text.strip().splitlines()[-1].partition(": ")
        if not name.endswith(("VideoDecodeError", "FileNotFoundError", "ValueError")):
            return None
    elif isinstance(error, RuntimeError):
        return None
    elif isinstance(error, BrokenPipeError):  # whoever read our output has left
        text = "the output was closed before it was complete"
    elif isinstance(error, OSError) and error.errno is not None:
        text = f"{error.filename or 'a file'}: {error.strerror}; check the disk and the permissions"
    return " ".join(text.split())


def _from_worker(error: Exception) -> bool:
    return "in DataLoader worker" in str(error)


class _Parser(argparse.ArgumentParser):
    """Errors as one line, and no abbreviated flags."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Exit with 2 after one line."""
        print(f"railsformer: error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="railsformer",
        description="Fine-tune TimeSformer to recognise dangerous situations in railway yards, "
        "and say how far it can be trusted.",
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=_Parser)
    _add_build(verbs)
    _add_analyze(verbs)
    train = verbs.add_parser(
        "train", help="fine-tune a model (= accelerate launch scripts/finetune.py)", add_help=False
    )
    train.set_defaults(run=lambda parsed: None)
    crossval = verbs.add_parser("crossval", help="train and test fold by fold, one table at the end", add_help=False)
    crossval.set_defaults(run=lambda parsed: None)
    add_evaluate(verbs, run=_evaluate)
    add_evaluate_events(verbs, run=_evaluate_events)
    add_predict(verbs, run=run_predict)
    add_watch(verbs, run=_watch)
    add_explain(verbs, run=_explain)
    add_export(verbs, run=_export)
    add_compare(verbs, run=lambda parsed: print(run_compare(parsed)))
    _add_convert(verbs)
    _add_push(verbs)
    _add_demo(verbs)
    return parser


def _add_build(verbs: "argparse._SubParsersAction[_Parser]") -> None:
    build = verbs.add_parser("build", help="turn a folder of videos and labels into a dataset")
    build.add_argument(
        "source",
        help="folder with one folder a class, or with the files that --annotations names; or a Hub dataset of videos",
    )
    build.add_argument("--output_dir", required=True, help="folder of the dataset; must be absent or empty")
    build.add_argument(
        "--annotations",
        help="table (.csv, .tsv, .jsonl, .parquet) with the columns file_name and label, and where wanted "
        "start_seconds, end_seconds and split; or an mmaction2 list (.txt) of `path label_index` lines",
    )
    build.add_argument("--label_names", help="names for the indices of a list, one a line (default: labels.txt)")
    build.add_argument("--allow_outside", action="store_true", help="let the table name files outside SOURCE")
    build.add_argument(
        "--group_by",
        help="what must stay on one side of the split: a column of the table, the word 'folder', or a regular "
        "expression with one capture group on the path; without it every file is a group of its own",
    )
    build.add_argument(
        "--splits",
        nargs=3,
        type=float,
        default=(0.7, 0.15, 0.15),
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="shares of the three sides (default: 0.7 0.15 0.15)",
    )
    build.add_argument("--test_groups", type=_names, default=(), help="groups of the test side, separated by commas")
    build.add_argument("--validation_groups", type=_names, default=(), help="groups of the validation side")
    build.add_argument(
        "--split",
        choices=("group", "random"),
        default="group",
        help="random splits videos whatever their group, and every report says so (default: group)",
    )
    build.add_argument("--seed", type=int, default=0, help="breaks ties between equally good splits (default: 0)")
    build.add_argument(
        "--on_bad",
        choices=("fail", "drop", "salvage"),
        default="fail",
        help="what to do with a file that cannot be read to its end: refuse the source, leave it out and list it, or "
        "keep what decodes (default: fail)",
    )
    _add_proxy(build)
    limits = build.add_argument_group("limits", "of one file; what is beyond them is treated as a bad file")
    limits.add_argument("--max_pixels", type=int, help="of one picture (default: 8192 x 8192)")
    limits.add_argument("--max_seconds", type=float, help="default: 24 hours")
    limits.add_argument("--max_frames", type=int, help="default: 24 hours at 60 a second")
    limits.add_argument("--max_proxy_bytes", type=int, help="of the proxy of one segment (default: none)")
    build.add_argument("--num_workers", type=int, help="processes that read and encode (default: one for each core)")
    build.set_defaults(run=_build)


def _add_proxy(build: argparse.ArgumentParser) -> None:
    proxies = build.add_argument_group(
        "proxies", "every video is encoded once more so that training reads any of its pictures at once"
    )
    proxies.add_argument(
        "--proxy",
        choices=("small", "fast"),
        default="small",
        help="small is H.264, fast is MJPEG at several times the bytes (default: small)",
    )
    proxies.add_argument("--no_proxy", action="store_true", help="keep the originals, byte for byte")
    proxies.add_argument("--proxy_short_side", type=int, metavar="PX", help="largest short side; nothing is enlarged")
    proxies.add_argument("--proxy_fps", type=float, metavar="FPS", help="instants are right to within half of 1/FPS")
    proxies.add_argument("--proxy_quality", type=int, help="CRF of H.264 or quantiser of MJPEG: lower is better")


def _add_analyze(verbs: "argparse._SubParsersAction[_Parser]") -> None:
    analyze = verbs.add_parser("analyze", help="look at what is in a dataset: figures, contact sheets, advice")
    analyze.add_argument("dataset", help="dataset folder or Hub id")
    analyze.add_argument("--output_dir", required=True, help="folder of the report; must be absent or empty")
    analyze.add_argument("--seed", type=int, default=0, help="draws the clips of the contact sheets (default: 0)")
    analyze.add_argument("--num_workers", type=int, help="threads that read (default: one for each core)")
    analyze.set_defaults(run=_analyze)


def _add_convert(verbs: "argparse._SubParsersAction[_Parser]") -> None:
    convert = verbs.add_parser(
        "convert", help="bring a checkpoint of TimeSformer's authors or of mmaction2 into our layout"
    )
    convert.add_argument("checkpoint", help=".pyth of facebookresearch/TimeSformer or .pth of mmaction2")
    convert.add_argument("--output_dir", required=True, help="folder of the model; must be absent or empty")
    convert.set_defaults(run=_convert)


def _add_push(verbs: "argparse._SubParsersAction[_Parser]") -> None:
    push = verbs.add_parser("push", help="upload a run with its report, a dataset or a metric to the Hugging Face Hub")
    push.add_argument(
        "source",
        help="run folder, dataset folder, or the word 'metric' or 'score-metric' for our evaluate modules of "
        "predictions and of scores",
    )
    push.add_argument("repo_id", help="USER/NAME on the Hub")
    push.add_argument(
        "--report", help="report of the run to push along (default: the one whose figures the run's card shows)"
    )
    push.add_argument(
        "--with_footage",
        action="store_true",
        help="push what shows or names videos too: predictions.csv, contact sheets, the report's pages as they are",
    )
    push.add_argument("--public", action="store_true", help="let everybody see it (default: private)")
    push.set_defaults(run=_push)


def _add_demo(verbs: "argparse._SubParsersAction[_Parser]") -> None:
    demo = verbs.add_parser("demo", help="the whole way on a rendered railway yard, offline, in minutes")
    demo.add_argument("--output_dir", default="demo_output", help="folder to work in (default: demo_output)")
    demo.set_defaults(run=_demo)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _quiet_libraries() -> None:
    """Our own messages and warnings; not every library's news."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("railsformer").setLevel(logging.INFO)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # each retry twice, where one line follows anyway
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def _build(parsed: argparse.Namespace) -> None:
    from railsformer.data.builder import build_dataset
    from railsformer.data.probe import VideoLimits

    limits = {name: getattr(parsed, name) for name in ("max_pixels", "max_seconds", "max_frames")}
    summary = build_dataset(
        parsed.source,
        output_dir=parsed.output_dir,
        annotations=parsed.annotations,
        label_names=parsed.label_names,
        group_by=parsed.group_by,
        allow_outside=parsed.allow_outside,
        splits=tuple(parsed.splits),
        test_groups=parsed.test_groups,
        validation_groups=parsed.validation_groups,
        split=parsed.split,
        seed=parsed.seed,
        on_bad=parsed.on_bad,
        proxy=_proxy_settings(parsed),
        limits=VideoLimits(**{name: value for name, value in limits.items() if value is not None}),
        max_proxy_bytes=parsed.max_proxy_bytes,
        num_workers=parsed.num_workers,
        command=parsed.command,
        progress=True,
    )
    print(summary.balance_table())
    print(
        f"\nsplit {summary.split_kind}; on more than one side: {summary.groups_on_several_sides} groups, "
        f"{summary.copies_on_several_sides} exact copies, {summary.near_copies_on_several_sides} near copies"
    )
    if summary.num_copies_left_out:
        print(f"{summary.num_copies_left_out} videos left out because a copy lies on another side: audit.json")
    print(f"{summary.leak_sentence}\ndataset: {summary.output_dir}")


def _proxy_settings(parsed: argparse.Namespace) -> "ProxySettings | None":
    from railsformer.data.proxies import PROXY_PRESETS

    names = {"short_side_px": "proxy_short_side", "fps": "proxy_fps", "quality": "proxy_quality"}
    asked = {field: getattr(parsed, flag) for field, flag in names.items() if getattr(parsed, flag) is not None}
    if parsed.no_proxy:
        if asked:
            raise ValueError(f"--no_proxy keeps the originals; drop it, or drop --{names[next(iter(asked))]}")
        return None
    try:
        return replace(PROXY_PRESETS[parsed.proxy], **asked)
    except ValueError as error:
        name, _, rest = str(error).partition(" ")
        raise ValueError(f"--{names[name]} {rest}" if name in names else str(error)) from error


def _analyze(parsed: argparse.Namespace) -> None:
    from railsformer.data.analysis.report import analyze_dataset

    summary = analyze_dataset(
        parsed.dataset,
        output_dir=parsed.output_dir,
        seed=parsed.seed,
        num_workers=parsed.num_workers,
        progress=True,
    )
    print(summary)


def _train(argv: Sequence[str]) -> None:
    from railsformer.training.arguments import parse_settings, print_help

    if "--help" in argv or "-h" in argv:
        print_help()
        print("  --plan                Measure memory and seconds of training steps, say which setting fits, and end")
        return
    settings = parse_settings([flag for flag in argv if flag != "--plan"])
    quiet_transformers()
    if "--plan" in argv:
        from railsformer.training.plan import plan_memory

        print(plan_memory(settings, confirm=True).table())
        return
    from railsformer.evaluation.processes import end_processes
    from railsformer.hub.cards import write_run_card
    from railsformer.training.stopping import EXIT_TERMINATED, RunTerminatedError
    from railsformer.training.trainer import train

    terminated = False
    try:
        summary = train(settings)
    except RunTerminatedError:  # let go of before the processes part: its traceback holds the model
        terminated = True
    end_processes()
    if terminated:
        raise SystemExit(EXIT_TERMINATED)
    if not summary.is_main_process:
        return
    write_run_card(summary.run_dir)
    if figures := summary.validation:
        print(f"validation macro F1 {figures['f1_macro']:.3f}, accuracy {figures['accuracy']:.3f}")
    print(f"model: {summary.run_dir}")


def _crossval(argv: Sequence[str]) -> None:
    from railsformer.training.crossval import cross_validate, crossval_parser, parse_crossval
    from railsformer.training.crossval_table import crossval_table

    if "--help" in argv or "-h" in argv:
        crossval_parser().print_help()
        return
    settings = parse_crossval(argv)
    content = cross_validate(settings, progress=True)
    print(crossval_table(content))
    print(f"\ntable: {settings.output_dir / 'crossval.md'}")


def _evaluate(parsed: argparse.Namespace) -> None:
    if text := run_evaluate(parsed):
        print(text)


def _evaluate_events(parsed: argparse.Namespace) -> None:
    print(run_evaluate_events(parsed))


def _export(parsed: argparse.Namespace) -> None:
    print(run_export(parsed))


def _watch(parsed: argparse.Namespace) -> None:
    if text := run_watch(parsed):
        print(text)


def _explain(parsed: argparse.Namespace) -> None:
    print(run_explain(parsed))


def _convert(parsed: argparse.Namespace) -> None:
    from railsformer.data.folders import check_output_dir, whole_folder
    from railsformer.data.transforms import PixelSettings
    from railsformer.model.convert import convert_checkpoint

    check_output_dir(parsed.output_dir)
    quiet_transformers()
    converted = convert_checkpoint(parsed.checkpoint)
    config = converted.model.config
    side = config.image_height_width[0]
    with whole_folder(parsed.output_dir) as folder:
        converted.model.save_pretrained(folder)
        PixelSettings(side, side, mean=(converted.mean,) * 3, std=(converted.std,) * 3).save_pretrained(folder)
        (folder / "README.md").write_text(converted.card(Path(parsed.checkpoint).name), encoding="utf-8")
    print(f"{config.attention_type}, {config.num_frames} frames of {side} px, {config.num_labels} labels")
    print(f"model: {parsed.output_dir}")


def _push(parsed: argparse.Namespace) -> None:
    from railsformer.hub.push import push

    url = push(
        parsed.source,
        parsed.repo_id,
        public=parsed.public,
        report=parsed.report,
        with_footage=parsed.with_footage,
    )
    print(f"{'public' if parsed.public else 'private'}: {url}")


def _demo(parsed: argparse.Namespace) -> None:
    from railsformer.demo import run_demo

    run_demo(parsed.output_dir, run_verb=main)


if __name__ == "__main__":
    sys.exit(main())
