"""The verb `evaluate`: its flags, and what it prints. Heavy imports happen when it runs, so that --help is instant."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from railsformer.evaluation.report import EvaluationReport

__all__ = ["add_evaluate", "quiet_transformers", "run_evaluate"]


def add_evaluate(verbs: "argparse._SubParsersAction[Any]", *, run: Callable[[argparse.Namespace], None]) -> None:
    """Add the verb with its flags; `run` is what it does."""
    evaluate = verbs.add_parser(
        "evaluate",
        help="measure a model on one split, or the events of watched videos, and write a report",
        epilog="With --events TRUTH.csv --timeline DIR... it measures events instead: `railsformer evaluate --events "
        "TRUTH.csv --help`.",
    )
    evaluate.add_argument("--model", required=True, help="run folder, checkpoint or Hub id")
    evaluate.add_argument("--dataset", required=True, help="dataset folder or Hub id")
    evaluate.add_argument("--split", default="test", help="split to measure (default: test)")
    evaluate.add_argument("--output_dir", required=True, help="folder of the report; must be absent or empty")
    evaluate.add_argument("--num_clips", type=int, default=1, help="clips a video, their scores averaged (default: 1)")
    evaluate.add_argument(
        "--num_crops",
        type=int,
        choices=(1, 3),
        default=1,
        help="crops of a clip: 1, the centre, or 3 along the long side; scores averaged (default: 1)",
    )
    evaluate.add_argument(
        "--average",
        choices=("probabilities", "logits"),
        default="probabilities",
        help="what is averaged over the clips and crops of a video (default: probabilities)",
    )
    evaluate.add_argument(
        "--frame_order",
        choices=("forwards", "middle", "shuffled", "reversed"),
        default="forwards",
        help="middle shows the middle frame in every place: what is recognised without motion; shuffled and reversed: "
        "what is recognised whatever the order of the frames (default: forwards)",
    )
    evaluate.add_argument("--batch_size", type=int, default=8, help="clips x crops a forward pass (default: 8)")
    evaluate.add_argument("--num_workers", type=int, default=2, help="processes that decode (default: 2)")
    _add_fitting(evaluate)
    _add_questions(evaluate)
    evaluate.set_defaults(run=run)


def _add_fitting(evaluate: argparse.ArgumentParser) -> None:
    fitting = evaluate.add_argument_group(
        "thresholds", "temperature and alarm thresholds, fitted on a split that is not measured"
    )
    fitting.add_argument(
        "--calibration_split",
        help="split to fit them on (default: validation). On a dataset that is not the run's own, and on one without "
        "validation, nothing is fitted and those of the run are measured, unless this, --target or --recalibrate asks",
    )
    fitting.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="[LABEL:]TARGET",
        help="what a threshold shall reach: 'recall>=0.9' or 'false_alarms_per_hour<=1'; may be given once for all "
        "labels and once for each (default: what the run's thresholds were set for, else recall>=0.9)",
    )
    fitting.add_argument(
        "--recalibrate",
        action="store_true",
        help="fit them for another camera, from the few labelled clips of --calibration_split, without training; they "
        "go into the folder of --model and replace those there; of one view a video, as predict and watch score",
    )


def _add_questions(evaluate: argparse.ArgumentParser) -> None:
    questions = evaluate.add_argument_group("questions", "what else the report answers")
    questions.add_argument(
        "--slice_by",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="give the figures by these columns of the dataset, or by light, motion, duration_seconds, short_side_px "
        "or fps (default: all that cut the videos into a few parts)",
    )
    questions.add_argument(
        "--cost",
        metavar="FILE",
        help="CSV table of what each confusion costs: a row a true label, a column a predicted",
    )
    questions.add_argument("--compare", metavar="REPORT", help="report of another model on the same videos")
    questions.add_argument(
        "--leak_check",
        choices=("near", "exact"),
        default="near",
        help="how to look for videos that the run saw, in a dataset that is not the run's own: near decodes both and "
        "compares pictures, exact compares files (default: near)",
    )


def quiet_transformers() -> None:
    """No news and no bars of transformers."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def run_evaluate(parsed: argparse.Namespace) -> str:
    """Evaluate, and return what to print: nothing in all processes of a launch but the first."""
    from railsformer.evaluation.processes import end_processes, this_process
    from railsformer.evaluation.report import evaluate_model

    quiet_transformers()
    report = evaluate_model(
        parsed.model,
        dataset=parsed.dataset,
        output_dir=parsed.output_dir,
        split=parsed.split,
        num_clips=parsed.num_clips,
        num_crops=parsed.num_crops,
        average=parsed.average,
        frame_order=parsed.frame_order,
        calibration_split=parsed.calibration_split,
        targets=parsed.target,
        recalibrate=parsed.recalibrate,
        slice_by=parsed.slice_by,
        cost=parsed.cost,
        compare=parsed.compare,
        leak_check=parsed.leak_check,
        batch_size=parsed.batch_size,
        num_workers=parsed.num_workers,
        progress=True,
    )
    is_main = this_process().is_main
    end_processes()
    return _summary(report, Path(parsed.model)) if is_main else ""


def _summary(report: "EvaluationReport", model: Path) -> str:
    """The figures in short and what else one must know; the model's card is written on the way."""
    from railsformer.evaluation.report import per_class_table

    metrics = report.metrics
    lines = [per_class_table(metrics), ""]
    if metrics["num_unread"]:
        first = metrics["unread"][0]
        lines.append(
            f"{metrics['num_unread']} video(s) could not be read and count in no figure, first {first['video']}: "
            f"{first['reason']}"
        )
    if worst := metrics["worst_slice"]:
        lines.append(f"worst: {worst['column']} {worst['value']}, macro F1 {worst['f1_macro']:.3f}")
    mixed = metrics["protocol"]["mixed_splits"]
    if mixed["state"] == "mixed":
        lines.append(f"MIXED SPLITS, these figures are too good: {mixed['reason']}")
    lines.append(f"report: {report.output_dir / 'report.html'}")
    lines += _points_lines(report, model)
    if points := metrics["operating_points"]:
        silent = [name for name, point in points["labels"].items() if point["threshold"] is None]
        if silent:
            stored = metrics["protocol"].get("thresholds") == "stored"
            reason = f"{model} was given none" if stored else f"{points['split']} cannot say which"
            lines.append(f"NO THRESHOLD for {', '.join(silent)}: {reason}; it never alarms")
    return "\n".join(lines + _card_lines(report, model))


def _points_lines(report: "EvaluationReport", model: Path) -> list[str]:
    """Where the operating points are, and which of those in use were replaced."""
    metrics = report.metrics
    if report.stored_in_run:
        changes = _changes(report)
        told = f"; CHANGED in {model}: {', '.join(changes)}" if changes else "; unchanged" if report.replaced else ""
        return [f"operating points: {model / 'operating_points.json'}{told}"]
    if metrics["protocol"].get("thresholds") == "stored":
        return [f"operating points: {metrics['protocol']['calibration_note']}"]
    if metrics["operating_points"]:
        stays = "keeps its own, --recalibrate would replace them"
        if not (model.is_dir() and os.access(model, os.W_OK)):
            stays = "cannot be written to and stays as it is"
        elif not (model / "operating_points.json").is_file():
            stays = "has none, --recalibrate would give it some"
        return [f"operating points: {report.output_dir / 'operating_points.json'}; {model} {stays}"]
    note = metrics["protocol"]["calibration_note"]
    return [f"no operating points: {note}"] if note else []


def _changes(report: "EvaluationReport") -> list[str]:
    """`LABEL 0.412 -> 0.387` of every threshold that was replaced by another, and of the temperature."""
    before = report.replaced
    if before is None:
        return []
    labels = report.metrics["operating_points"]["labels"]
    now = report.metrics["calibration"]["temperature"]
    pairs: dict[str, tuple[float | None, float | None]] = {"temperature": (before.temperature, now)}
    for name in dict.fromkeys((*before.thresholds, *labels)):
        pairs[name] = (before.thresholds.get(name), labels.get(name, {}).get("threshold"))
    told = {name: ["none" if one is None else f"{one:.4g}" for one in pair] for name, pair in pairs.items()}
    return [f"{name} {old} -> {new}" for name, (old, new) in told.items() if old != new]


def _card_lines(report: "EvaluationReport", model: Path) -> list[str]:
    """Write the card of a run; what to say where it stays as it is. The report is written: nothing fails any more."""
    from railsformer.hub.cards import FACTS_FILE, write_run_card

    if not (model / FACTS_FILE).is_file():
        return []
    try:
        written = write_run_card(model, metrics=report.metrics, report_dir=report.output_dir)
    except OSError as error:
        return [f"The card of {model} cannot be written ({error.strerror or error}) and is without these figures."]
    told = f"The card of {model} stays as it is: it was edited, or these figures are of other data."
    return [] if written else [told]
