"""The model card: what it is, what its licence allows, what it was tested on, and how to load it."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from railsformer.training.licenses import (
    PERMISSIVE_START,
    is_non_commercial,
)

__all__ = ["write_model_card", "write_run_card"]

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"

# metrics.json key -> (name in the card, metric type of the model index, arguments of that metric)
_OVERALL: dict[str, tuple[str, str, dict[str, str] | None]] = {
    "accuracy": ("Accuracy", "accuracy", None),
    "balanced_accuracy": ("Balanced accuracy", "balanced_accuracy", None),
    "f1_macro": ("Macro F1", "f1", {"average": "macro"}),
    "f1_weighted": ("Weighted F1", "f1", {"average": "weighted"}),
}


FACTS_FILE = "run.json"  # what `railsformer.training` leaves about a run


def write_run_card(run_dir: str | Path, *, metrics: Mapping[str, Any] | None = None) -> bool:
    """Write the card of a run from what its training left, with the figures of an evaluation where there are any.

    Figures go to the card only where they are of the dataset that the run was trained for, as the videos are, and not
    of the training split. A card that somebody edited is left alone.

    Args:
        run_dir: A run folder.
        metrics: Content of metrics.json.

    Returns:
        Whether the card was written.
    """
    facts_file, card = Path(run_dir) / FACTS_FILE, Path(run_dir) / "README.md"
    if not facts_file.is_file():
        return False
    facts = json.loads(facts_file.read_text(encoding="utf-8"))
    if card.is_file() and hashlib.sha256(card.read_bytes()).hexdigest() != facts.get("card_sha256"):
        return False
    if metrics is not None and (
        metrics["dataset_fingerprint"] != facts["dataset_fingerprint"]
        or metrics["split"] == "train"
        or metrics["protocol"]["frame_order"] != "forwards"
    ):
        return False
    settings = {"split": facts["split_kind"], "dataset_fingerprint": facts["dataset_fingerprint"]}
    write_model_card(
        run_dir,
        base_model=facts["base"],
        base_license=facts["base_license"],
        dataset=facts["dataset"],
        labels=facts["labels"],
        metrics=metrics,
        training={key: value for key, value in facts["given"].items() if key != "output_dir"} | settings,
    )
    facts["card_sha256"] = hashlib.sha256(card.read_bytes()).hexdigest()
    facts_file.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return True


def write_model_card(
    run_dir: str | Path,
    *,
    base_model: str | None,
    base_license: str | None,
    dataset: str,
    labels: Sequence[str],
    metrics: Mapping[str, Any] | None = None,
    split: str | None = None,
    training: Mapping[str, Any],
) -> Path:
    """Write README.md into a run folder, over the one that is there.

    Paths of this machine do not reach the card: of a local base or dataset it gives the folder's name.

    Args:
        run_dir: The run folder; its config.json, where present, tells the clip's shape.
        base_model: Hub repository or local folder that training started from; None where it began from scratch.
        base_license: Licence id of the base, as `license_of_base` gives it; None where unknown.
        dataset: Hub repository or local folder of the dataset.
        labels: Names of the classes, in the order of their ids.
        metrics: Content of metrics.json; None before an evaluation.
        split: Name of the split that was measured; that of the metrics where None.
        training: Settings to list, name to value.

    Returns:
        The path of the card.

    Raises:
        FileNotFoundError: If run_dir is not a folder.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; the card goes beside a saved model")
    config = _read_config(folder)
    model_name = folder.resolve().name
    split = split or (metrics or {}).get("split") or "unknown"
    data = ModelCardData(
        license=base_license,
        library_name="transformers",
        pipeline_tag="video-classification",
        tags=["video-classification", "timesformer", "railway", "safety", "railsformer"],
        base_model=base_model if base_model and _is_on_hub(base_model) else None,
        datasets=[dataset] if _is_on_hub(dataset) else None,
        metrics=["accuracy", "f1"],
        model_name=model_name,
        eval_results=_eval_results(metrics, dataset=dataset, split=split) if metrics else None,
    )
    shown_base = _shown(base_model) if base_model else None
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        model_name=model_name,
        base_model=shown_base,
        base_license=base_license,
        notice=_notice(shown_base, base_license),
        dataset=f"`{_shown(dataset)}`",
        labels=[_cell(label) for label in labels],
        split=split,
        training=_rows(training),
        remote_code=", trust_remote_code=True" if "auto_map" in config else "",
        num_frames=config.get("num_frames", 8),
        image_size=config.get("image_size", 224),
        clip=_describe_clip(config),
        **_figures(metrics),
    )
    path = folder / "README.md"
    card.save(path)
    return path


def _notice(base_model: str | None, base_license: str | None) -> str | None:
    if not is_non_commercial(base_license):
        return None
    return (
        f"The base model {base_model or ''} is licensed {base_license}, and these weights are made from it. "
        f"For a model without that limit, {PERMISSIVE_START}."
    ).replace("  ", " ")


def _figures(metrics: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the tables of the card, ready to print; absent figures are a dash."""
    if not metrics:
        return {"metrics": None, "split_kind": None, "groups": None}
    matrix = metrics.get("confusion_matrix")
    per_class = metrics.get("per_class") or {}
    protocol = dict(metrics.get("protocol") or {})
    groups = protocol.pop("groups", None)
    if metrics.get("dataset_fingerprint"):
        protocol["dataset_fingerprint"] = metrics["dataset_fingerprint"]
    return {
        "metrics": metrics,
        "split_kind": protocol.pop("split_kind", None),
        "groups": ", ".join(f"`{_cell(group)}`" for group in groups) if groups else None,
        "overall": [(name, _figure(metrics.get(key))) for key, (name, _, _) in _OVERALL.items()],
        "per_class": [
            [_cell(label), *(_figure(row.get(key)) for key in ("precision", "recall", "f1")), row.get("support", 0)]
            for label, row in per_class.items()
        ],
        "absent": ", ".join(_cell(label) for label, row in per_class.items() if not row.get("support")),
        "confusion": {
            "labels": [_cell(label) for label in matrix["labels"]],
            "rows": [(_cell(label), row) for label, row in zip(matrix["labels"], matrix["matrix"], strict=True)],
        }
        if matrix
        else None,
        "protocol": _rows(protocol),
    }


def _eval_results(metrics: Mapping[str, Any], *, dataset: str, split: str) -> list[EvalResult]:
    """Return the model index; figures that are absent (a class with no video) are left out, not made up."""
    arguments = {
        "split_kind": (metrics.get("protocol") or {}).get("split_kind"),
        "dataset_fingerprint": metrics.get("dataset_fingerprint"),
    }
    arguments = {key: value for key, value in arguments.items() if value}
    shared: dict[str, Any] = {
        "task_type": "video-classification",
        "task_name": "Video classification",
        "dataset_type": dataset if _is_on_hub(dataset) else "videofolder",
        "dataset_name": _shown(dataset),
        "dataset_split": split,
        "dataset_args": arguments or None,
    }
    figures = [
        (metrics.get(key), metric_type, name, metric_args)
        for key, (name, metric_type, metric_args) in _OVERALL.items()
    ]
    figures += [
        (row.get("recall"), "recall", f"Recall, {label}", {"label": label})
        for label, row in (metrics.get("per_class") or {}).items()
    ]
    return [
        EvalResult(
            **shared,
            metric_type=metric_type,
            metric_name=name,
            metric_value=round(float(value), 6),
            metric_args=metric_args,
        )
        for value, metric_type, name, metric_args in figures
        if value is not None and math.isfinite(value)
    ]


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _describe_clip(config: Mapping[str, Any]) -> str | None:
    interval, fps, num_frames = (config.get(key) for key in ("frame_interval", "nominal_fps", "num_frames"))
    if not (interval and fps and num_frames):
        return None
    if config.get("clip_sampling") == "segments":
        return f"{num_frames} frames, one from each of {num_frames} equal parts of the video"
    seconds = interval / fps
    return f"{num_frames} frames {seconds:.2f} s apart, about {num_frames * seconds:.1f} s"


def _is_on_hub(name: str) -> bool:
    """Return whether a name is a Hub repository: user/name, and no such folder here."""
    if Path(name).exists() or name.count("/") != 1:
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _shown(name: str) -> str:
    return name if _is_on_hub(name) else PurePath(name).name or name


def _rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(_cell(name), _cell(_public_value(value))) for name, value in values.items() if value is not None]


def _public_value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str | PurePath):
        return PurePath(value).name if PurePath(value).is_absolute() else str(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _figure(value: float | None) -> str:
    return f"{value:.3f}" if value is not None and math.isfinite(value) else "–"


def _cell(value: object) -> str:
    """Return text that cannot break out of a table's cell."""
    return str(value).replace("|", "\\|").replace("\n", " ")
