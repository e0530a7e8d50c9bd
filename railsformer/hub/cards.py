"""The model card: what it is, what its licence allows, what it was tested on, and how to load it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from railsformer.data.files import whole_file
from railsformer.hub.card_tables import card_tables, tested_on
from railsformer.hub.model_index import model_index
from railsformer.hub.public_metrics import public_metrics
from railsformer.hub.wording import cell, is_on_hub, rows, shown
from railsformer.training.licenses import (
    PERMISSIVE_START,
    is_non_commercial,
)

__all__ = ["KnownReport", "card_for_repository", "report_of_run", "write_model_card", "write_run_card"]

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
FACTS_FILE = "run.json"  # what `railsformer.training` leaves about a run; it stays at home
CARD = "README.md"


@dataclass(frozen=True)
class KnownReport:
    """A report that a run remembers.

    Attributes:
        path: Its folder, absolute.
        metrics_sha256: Of its metrics.json when the card was written.
    """

    path: str
    metrics_sha256: str | None

    @classmethod
    def at(cls, folder: str | Path) -> "KnownReport":
        """The report in a folder, as it is now."""
        return cls(str(Path(folder).resolve()), _sha256(Path(folder) / "metrics.json"))

    @property
    def folder(self) -> Path:
        """Its folder."""
        return Path(self.path)

    def is_intact(self) -> bool:
        """Whether it is where it was, with the same figures."""
        return self.metrics_sha256 is not None and _sha256(self.folder / "metrics.json") == self.metrics_sha256


def write_run_card(
    run_dir: str | Path, *, metrics: Mapping[str, Any] | None = None, report_dir: str | Path | None = None
) -> bool:
    """Write the card of a run from what its training left, with the figures of an evaluation where there are any.

    Figures go to the card only where they are of the dataset that the run was trained for, as the videos are, and not
    of the training split. A card that somebody edited is left alone.

    Args:
        run_dir: A run folder.
        metrics: Content of metrics.json.
        report_dir: Folder of the report that holds these metrics. The run remembers it, so that `push` sends the
            report whose figures the card shows.

    Returns:
        Whether the card was written.
    """
    facts_file, card = Path(run_dir) / FACTS_FILE, Path(run_dir) / CARD
    if not facts_file.is_file():
        return False
    facts = json.loads(facts_file.read_text(encoding="utf-8"))
    if card.is_file() and not _is_ours(card, facts):
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
        has_report=report_dir is not None,
    )
    facts["card_sha256"] = _sha256(card)
    facts["report"] = asdict(KnownReport.at(report_dir)) if report_dir is not None else None
    with whole_file(facts_file) as partial:  # without it the run could be neither evaluated nor resumed
        partial.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return True


def report_of_run(run_dir: str | Path) -> KnownReport | None:
    """Return the report whose figures the card of a run shows; None where there is none.

    Args:
        run_dir: A run folder.
    """
    report = _read_facts(Path(run_dir)).get("report")
    return KnownReport(**report) if report else None


def card_for_repository(run_dir: str | Path, repo_id: str) -> bytes | None:
    """Return the card of a run under the name that it has on the Hub, so that its code loads what it stands beside.

    Args:
        run_dir: A run folder.
        repo_id: The model's repository, as `user/name`.

    Returns:
        The content of README.md; None where the card is missing, or somebody edited it: that one goes up as it is.
    """
    card = Path(run_dir) / CARD
    if not card.is_file() or not _is_ours(card, _read_facts(Path(run_dir))):
        return None
    loaded, name = ModelCard.load(card), repo_id.split("/")[1]
    before = loaded.data.model_name
    loaded.data.model_name = name  # the model index is written out under it
    text = loaded.text.replace(f"# {before}\n", f"# {name}\n", 1)
    text = text.replace(f'MODEL = "{before}"  # a folder, or user/name on the Hub', f'MODEL = "{repo_id}"', 1)
    return f"---\n{loaded.data.to_yaml()}\n---\n{text}".encode()


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
    has_report: bool = False,
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
        has_report: Whether a report of these metrics may be pushed along, for the card to point at.

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
    metrics = public_metrics(metrics) if metrics else None
    evaluation = card_tables(metrics, split=split) if metrics else None
    data = ModelCardData(
        license=base_license,
        library_name="transformers",
        pipeline_tag="video-classification",
        tags=["video-classification", "timesformer", "railway", "safety", "railsformer"],
        base_model=base_model if base_model and is_on_hub(base_model) else None,
        datasets=[dataset] if is_on_hub(dataset) else None,
        metrics=["accuracy", "f1"],
        model_name=model_name,
        eval_results=(model_index(metrics, dataset=dataset, split=split) or None) if metrics else None,
    )
    shown_base = shown(base_model) if base_model else None
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        model_name=model_name,
        base_model=shown_base,
        base_license=base_license,
        notice=_notice(shown_base, base_license),
        dataset=f"`{shown(dataset)}`",
        labels=[cell(label) for label in labels],
        quiet=[cell(label) for label in config.get("negative_labels") or () if label in labels],
        split=split,
        training=rows(training),
        remote_code=", trust_remote_code=True" if "auto_map" in config else "",
        num_frames=config.get("num_frames", 8),
        image_size=config.get("image_size", 224),
        clip=_describe_clip(config),
        evaluation=evaluation,
        absent=", ".join(cell(label) for label in _absent(metrics)),
        groups=tested_on(metrics),
        report=has_report,
    )
    path = folder / CARD
    card.save(path)
    return path


def _notice(base_model: str | None, base_license: str | None) -> str | None:
    if not is_non_commercial(base_license):
        return None
    return (
        f"The base model {base_model or ''} is licensed {base_license}, and these weights are made from it. "
        f"For a model without that limit, {PERMISSIVE_START}."
    ).replace("  ", " ")


def _absent(metrics: Mapping[str, Any] | None) -> list[str]:
    per_class = (metrics or {}).get("per_class") or {}
    return [label for label, row in per_class.items() if not row.get("support")]


def _is_ours(card: Path, facts: Mapping[str, Any]) -> bool:
    """Whether a card is as it was written here, and nobody's words are in it."""
    return _sha256(card) == facts.get("card_sha256")


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _read_facts(folder: Path) -> dict[str, Any]:
    path = folder / FACTS_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


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
