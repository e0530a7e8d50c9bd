"""Upload a model with its report, a dataset or a metric to the Hugging Face Hub.

Private unless asked otherwise: this is footage of people at work, and models made from it. The visibility of a
repository that exists is never changed, and nothing is sent to one whose visibility is not the one asked for.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.resources import files as package_files
from pathlib import Path

import httpx2
import yaml
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    RepoCard,
    constants,
    get_token,
    metadata_load,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import DEFAULT_IGNORE_PATTERNS, validate_repo_id

from railsformer.hub.cards import CARD, card_for_repository, report_of_run, write_run_card
from railsformer.hub.public_report import METRICS_FILE, read_metrics, report_files

__all__ = ["METRICS", "push", "push_metric"]

logger = logging.getLogger(__name__)

Content = Path | bytes

# What makes a run folder a model on the Hub. Checkpoints, optimizer states, pickles and logs stay at home.
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
POINTS_FILE = "operating_points.json"
REPORT = "report"  # folder of the report in the repository
_MODEL_FILES = (
    "config.json",
    *_WEIGHTS,
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "*.py",  # the code that a scheme unknown to stock transformers carries along
    "*.yaml",  # the resolved recipe
    "README.md",
    "LICENSE*",
    POINTS_FILE,
)
# What goes from the repository when it has gone from the folder. metrics.json lay at the top in earlier versions.
_REPLACED = (*_WEIGHTS, POINTS_FILE, METRICS_FILE, f"{REPORT}/*")


@dataclass(frozen=True)
class _Metric:
    """One of our evaluate modules: its file, and what its Space says of it."""

    script: str
    says: str
    predictions: str


# By the word that pushes it. Two Spaces, because evaluate loads one script from a Space, by the Space's name.
METRICS = {
    "metric": _Metric(
        "metrics.py",
        "Accuracy, balanced accuracy, F1, per-class figures and the confusion matrix of a video classifier, over "
        "scikit-learn.",
        "[0, 1]",
    ),
    "score-metric": _Metric(
        "score_metrics.py",
        "Top-k accuracy, average precision by class, calibration error, log-likelihood and Brier score of a video "
        "classifier, from its softmax scores.",
        "[[0.9, 0.1], [0.4, 0.6]]",
    ),
}
_METRIC_CARD = """---
title: {name}
sdk: static
tags:
- evaluate
- metric
license: apache-2.0
---
# {name}

{says}

```python
import evaluate

metric = evaluate.load("{repo_id}")
metric.compute(predictions={predictions}, references=[0, 0], label_names=["danger", "other"])
```
"""
_METRIC_PAGE = (
    '<!doctype html><title>{name}</title><p>Load this metric with <code>evaluate.load("{repo_id}")</code>.\n'
)
_METRIC_REQUIREMENTS = "datasets\nevaluate\nnumpy\nscikit-learn\n"


def push(
    source: str | Path,
    repo_id: str,
    *,
    public: bool = False,
    report: str | Path | None = None,
    with_footage: bool = False,
) -> str:
    """Upload a run folder with its report, or a dataset folder, whichever it is, or a metric.

    Pushing again replaces what is there: weights, report, thresholds and clips that went from the folder go from the
    repository too, so that nothing old stays beside the new.

    Args:
        source: A folder with a model, a folder with a dataset in the layout that `build` writes, or the word `metric`
            or `score-metric`.
        repo_id: Where to, as `user/name`.
        public: Whether a repository made here may be seen by everyone.
        report: Folder that `evaluate` wrote for this model; its figures go to the card too, as after `evaluate`. None:
            the one whose figures the card of the run shows.
        with_footage: Whether what shows or names videos goes up too: predictions.csv, contact sheets and the pages as
            they are. Without it the pages are written again without them.

    Returns:
        The address of the repository.

    Raises:
        FileNotFoundError: If the folder, the weights, the processor or the report are missing.
        ValueError: If source is neither model nor dataset, the report is of another model, repo_id is malformed, there
            is no token, the Hub refuses or cannot be reached, or the repository exists with the other visibility.
    """
    is_metric, folder = str(source) in METRICS, Path(source)
    _check_repo_id(repo_id)
    is_model = not is_metric and (folder / "config.json").is_file()
    if not is_metric and not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give a run folder or a dataset folder")
    if (report is not None or with_footage) and not is_model:
        raise ValueError(f"{source} is no run folder; --report and --with_footage go with a model only")
    if is_metric:
        return push_metric(repo_id, kind=str(source), public=public)
    if is_model:
        files = _model_files(folder, repo_id, report=report, with_footage=with_footage)
        logger.info("pushing %d files of the model in %s", len(files), folder)
        return _upload(files, repo_id, repo_type="model", public=public, replaced=_REPLACED)
    if _is_dataset(folder):
        return _upload(_all_files(folder), repo_id, repo_type="dataset", public=public, replaced=["data/*"])
    raise ValueError(
        f"{folder} is neither a model (no config.json) nor a dataset (no README.md with `configs` beside "
        "a data folder); give the output folder of `railsformer train` or `railsformer build`"
    )


def push_metric(repo_id: str, *, kind: str = "metric", public: bool = False) -> str:
    """Upload one of railsformer's evaluate modules as a Space: `evaluate.load(repo_id)` works without railsformer.

    Args:
        repo_id: Where to, as `user/name`; evaluate imports the script by this name, so it holds no dot.
        kind: `metric`, of predictions, or `score-metric`, of scores.
        public: Whether a Space made here may be seen by everyone.

    Returns:
        The address of the Space.

    Raises:
        ValueError: If kind or repo_id are not of these shapes, there is no token, the Hub refuses or cannot be
            reached, or the Space exists with the other visibility.
    """
    if kind not in METRICS:
        raise ValueError(f"kind must be one of {', '.join(METRICS)}, got {kind!r}")
    _check_repo_id(repo_id)
    if "." in repo_id:
        raise ValueError(
            f"repo_id of a metric must hold no dot, got {repo_id!r}; evaluate imports the script by that name"
        )
    name, metric = repo_id.split("/")[1], METRICS[kind]
    card = _METRIC_CARD.format(name=name, repo_id=repo_id, says=metric.says, predictions=metric.predictions)
    files: dict[str, Content] = {
        CARD: card.encode(),
        "index.html": _METRIC_PAGE.format(name=name, repo_id=repo_id).encode(),
        "requirements.txt": _METRIC_REQUIREMENTS.encode(),
        f"{name}.py": package_files("railsformer.evaluation").joinpath(metric.script).read_bytes(),
    }
    return _upload(files, repo_id, repo_type="space", public=public, replaced=["*.py"])


def _check_repo_id(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"repo_id {repo_id!r} is malformed: {_one_line(error)}; expected user/name") from error
    if repo_id.count("/") != 1:
        raise ValueError(f"repo_id must be user/name, got {repo_id!r}; put your user or organisation before it")


def _model_files(folder: Path, repo_id: str, *, report: str | Path | None, with_footage: bool) -> dict[str, Content]:
    """Return what goes up of a run: the model, its card under the name it will have, its report and thresholds."""
    names = _names_of_model(folder)
    found = _given_report(folder, Path(report)) if report is not None else _remembered_report(folder)
    files: dict[str, Content] = {name: folder / name for name in names}
    card = card_for_repository(folder, repo_id)
    if card is not None:
        files[CARD] = card
    if CARD not in files and not (folder / CARD).is_file():
        logger.warning(
            "%s has no README.md: the model goes up without a card and without the licence of its base", folder
        )
    if found is None:
        return files
    for name, content in report_files(found, with_footage=with_footage).items():
        files[f"{REPORT}/{name}"] = content
    if POINTS_FILE not in files and (found / POINTS_FILE).is_file():
        files[POINTS_FILE] = found / POINTS_FILE
    files.pop(f"{REPORT}/{POINTS_FILE}", None)  # once is enough, and two could disagree
    _warn_of_other_points(files.get(POINTS_FILE), found)
    return files


def _warn_of_other_points(points: Content | None, report: Path) -> None:
    """After --recalibrate the thresholds of a run are for another camera than its report."""
    if not isinstance(points, Path):
        return
    try:
        fitted = json.loads(points.read_text(encoding="utf-8")).get("dataset_fingerprint")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{points} is damaged ({_one_line(error)}); evaluate again") from error
    if fitted and fitted != read_metrics(report).get("dataset_fingerprint"):
        logger.warning("%s was fitted on other data than the report %s, whose table shows others", points, report)


def _given_report(folder: Path, report: Path) -> Path:
    """Return the report, once it is known to be of this model, and bring the card up to it."""
    metrics = read_metrics(report)
    of_report, of_model = metrics["confusion_matrix"]["labels"], _labels(folder)
    if of_model and of_report != of_model:
        raise ValueError(
            f"the report {report} is of a model with the labels {', '.join(of_report)}, but {folder} has "
            f"{', '.join(of_model)}; give the report of this model"
        )
    if not write_run_card(folder, metrics=metrics, report_dir=report):
        logger.warning("The card of %s stays as it is: it was edited, or the report is of other data.", folder)
    return report


def _remembered_report(folder: Path) -> Path | None:
    """Return the report whose figures the card shows, if it is where it was and as it was."""
    report = report_of_run(folder)
    if report is None:
        logger.info("%s knows of no report; name one with --report to push it along", folder)
        return None
    if not report.is_intact():
        logger.warning(
            "The report %s is gone, or not the one that the card of %s shows: it stays out; name one with --report.",
            report.folder,
            folder,
        )
        return None
    return report.folder


def _labels(folder: Path) -> list[str]:
    names = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("id2label") or {}
    return [names[index] for index in sorted(names, key=int)]


def _all_files(folder: Path) -> dict[str, Content]:
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: path
        for name, path in files.items()
        if not any(fnmatchcase(name, pattern) for pattern in DEFAULT_IGNORE_PATTERNS)
    }


def _names_of_model(folder: Path) -> list[str]:
    """Return the names of the files that make the model, refusing a folder from which it could not be loaded."""
    present = sorted(path.name for path in folder.iterdir() if path.is_file())
    names = [name for name in present if any(fnmatchcase(name, pattern) for pattern in _MODEL_FILES)]
    if not any(name.endswith(".safetensors") for name in names):
        raise FileNotFoundError(
            f"{folder} has a config.json but no *.safetensors weights; give a finished run or a checkpoint folder"
        )
    if not any(name.endswith("processor_config.json") for name in names):
        raise FileNotFoundError(
            f"{folder} has no preprocessor_config.json, so nobody could normalise frames as in training; "
            "save the processor there with save_pretrained"
        )
    return names


def _is_dataset(folder: Path) -> bool:
    """Return whether a folder has the layout that plain load_dataset reads: a card with `configs`, and data/."""
    card = folder / "README.md"
    if not (folder / "data").is_dir() or not card.is_file():
        return False
    try:
        metadata = metadata_load(card)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{card}: its YAML cannot be read ({_one_line(error)}); build the dataset again") from error
    return bool(metadata and metadata.get("configs"))


def _upload(
    files: Mapping[str, Content], repo_id: str, *, repo_type: str, public: bool, replaced: Sequence[str]
) -> str:
    """Make the repository where there is none, check who may see it, and send the files in one commit.

    Args:
        files: Name in the repository to content.
        repo_id: Where to.
        repo_type: `model`, `dataset` or `space`.
        public: Whether everybody may see it.
        replaced: Patterns of what is deleted there where it is not among the files.
    """
    wanted = "public" if public else "private"
    with _errors_in_one_line(repo_id):
        if constants.is_offline_mode():
            raise OfflineModeIsEnabled
        if get_token() is None:
            raise ValueError("no token; log in with `hf auth login`, or set HF_TOKEN")
        if CARD in files:  # before anything is made that a refusal would leave behind
            _validate_card(files[CARD], repo_type=repo_type)
        api = HfApi()
        url = api.create_repo(
            repo_id,
            repo_type=repo_type,
            private=not public,
            exist_ok=True,
            space_sdk="static" if repo_type == "space" else None,
        )
        private = bool(api.repo_info(repo_id, repo_type=repo_type).private)
        # `private` is ignored for a repository that exists: without this, private footage would go to a public one.
        if private == public:
            found = "private" if private else "public"
            raise ValueError(
                f"it exists and is {found}, but this push is {wanted}; take another name, change it in its "
                f"settings, or push {'without' if public else 'with'} --public"
            )
        gone = [
            name
            for name in api.list_repo_files(repo_id, repo_type=repo_type)
            if name not in files and any(fnmatchcase(name, pattern) for pattern in replaced)
        ]
        added = [CommitOperationAdd(name, content) for name, content in files.items()]
        api.create_commit(
            repo_id,
            [*(CommitOperationDelete(name) for name in gone), *added],
            repo_type=repo_type,
            commit_message=f"Upload {repo_type} with railsformer",
        )
    logger.info("pushed %s (%s)", url, wanted)
    return str(url)


def _validate_card(card: Content, *, repo_type: str) -> None:
    text = card.decode() if isinstance(card, bytes) else card.read_text(encoding="utf-8")
    try:
        RepoCard(text).validate(repo_type=repo_type)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"README.md: {_one_line(error)}") from error


@contextmanager
def _errors_in_one_line(repo_id: str) -> Iterator[None]:
    """Turn what the client raises into a ValueError of one line that says what to do."""
    told = f"cannot push to {repo_id}"
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise ValueError(f"{told}: offline mode is on; unset HF_HUB_OFFLINE and push again") from error
    except HfHubHTTPError as error:
        raise ValueError(f"{told}: {_explain(error)}") from error
    except httpx2.HTTPError as error:
        reason = f"{constants.ENDPOINT} cannot be reached ({_one_line(error) or type(error).__name__})"
        raise ValueError(f"{told}: {reason}; check the connection and HF_ENDPOINT") from error
    except (OSError, ValueError, RuntimeError) as error:  # a card the Hub refuses, a file whose upload broke off
        raise ValueError(f"{told}: {_one_line(error)}") from error


def _explain(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    said = _one_line(error.server_message or "") or f"HTTP {status}"
    if status == 401:
        return f"the token is not valid ({said}); log in again with `hf auth login`, or set HF_TOKEN"
    if status == 403:
        return f"the token may not write there ({said}); use your own user name, or a token with write access"
    return f"the Hub answered {status} ({said})"


def _one_line(message: object) -> str:
    return " ".join(str(message).split())
