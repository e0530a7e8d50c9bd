"""Upload a model, a dataset or the metric to the Hugging Face Hub.

Private unless asked otherwise: this is footage of people at work, and models made from it. The visibility of a
repository that exists is never changed, and nothing is sent to one whose visibility is not the one asked for.
"""

import glob
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib.resources import files as package_files
from pathlib import Path

import httpx2
import yaml
from huggingface_hub import HfApi, RepoCard, constants, get_token, metadata_load
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

__all__ = ["push", "push_metric"]

logger = logging.getLogger(__name__)

METRIC = "metric"
# What makes a run folder a model on the Hub. Checkpoints, optimizer states, pickles and logs stay at home.
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_RESULTS = ("metrics.json", "operating_points.json")
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
    *_RESULTS,
)
_METRIC_CARD = """---
title: {name}
sdk: static
tags:
- evaluate
- metric
license: apache-2.0
---
# {name}

Accuracy, balanced accuracy, F1, per-class figures and the confusion matrix of a video classifier, over scikit-learn.

```python
import evaluate

metric = evaluate.load("{repo_id}")
metric.compute(predictions=[0, 1], references=[0, 0], label_names=["danger", "other"])
```
"""
_METRIC_PAGE = (
    '<!doctype html><title>{name}</title><p>Load this metric with <code>evaluate.load("{repo_id}")</code>.\n'
)
_METRIC_REQUIREMENTS = "datasets\nevaluate\nnumpy\nscikit-learn\n"


def push(source: str | Path, repo_id: str, *, public: bool = False) -> str:
    """Upload a run folder or a dataset folder, whichever it is, or the metric.

    Pushing again replaces what is there: weights, figures and clips that went from the folder go from the repository
    too, so that nothing old stays beside the new.

    Args:
        source: A folder with a model, a folder with a dataset in the layout that `build` writes, or the word `metric`.
        repo_id: Where to, as `user/name`.
        public: Whether a repository made here may be seen by everyone.

    Returns:
        The address of the repository.

    Raises:
        FileNotFoundError: If the folder, the weights or the processor are missing.
        ValueError: If source is neither model nor dataset, repo_id is malformed, there is no token, the Hub refuses or
            cannot be reached, or the repository exists with the other visibility.
    """
    if str(source) == METRIC:
        return push_metric(repo_id, public=public)
    _check_repo_id(repo_id)
    folder = Path(source)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give a run folder or a dataset folder")
    if (folder / "config.json").is_file():
        names = _model_files(folder)
        logger.info("pushing %d files of the model in %s", len(names), folder)
        return _upload(
            folder,
            repo_id,
            repo_type="model",
            public=public,
            allow_patterns=[glob.escape(name) for name in names],
            delete_patterns=[*_WEIGHTS, *_RESULTS],
        )
    if _is_dataset(folder):
        return _upload(
            folder,
            repo_id,
            repo_type="dataset",
            public=public,
            allow_patterns=None,
            delete_patterns=["data/*"],
        )
    raise ValueError(
        f"{folder} is neither a model (no config.json) nor a dataset (no README.md with `configs` beside "
        "a data folder); give the output folder of `railsformer train` or `railsformer build`"
    )


def push_metric(repo_id: str, *, public: bool = False) -> str:
    """Upload railsformer's evaluate module as a Space, so that `evaluate.load(repo_id)` works without railsformer.

    Args:
        repo_id: Where to, as `user/name`; evaluate imports the script by this name, so it holds no dot.
        public: Whether a Space made here may be seen by everyone.

    Returns:
        The address of the Space.

    Raises:
        ValueError: If repo_id is malformed, there is no token, the Hub refuses or cannot be reached, or the Space
            exists with the other visibility.
    """
    _check_repo_id(repo_id)
    if "." in repo_id:
        raise ValueError(
            f"repo_id of a metric must hold no dot, got {repo_id!r}; evaluate imports the script by that name"
        )
    name = repo_id.split("/")[1]
    script = package_files("railsformer.evaluation").joinpath("metrics.py").read_bytes()
    contents = {
        "README.md": _METRIC_CARD.format(name=name, repo_id=repo_id).encode(),
        "index.html": _METRIC_PAGE.format(name=name, repo_id=repo_id).encode(),
        "requirements.txt": _METRIC_REQUIREMENTS.encode(),
        f"{name}.py": script,
    }
    with tempfile.TemporaryDirectory() as folder:
        for file_name, content in contents.items():
            Path(folder, file_name).write_bytes(content)
        return _upload(
            Path(folder), repo_id, repo_type="space", public=public, allow_patterns=None, delete_patterns=["*.py"]
        )


def _check_repo_id(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"repo_id {repo_id!r} is malformed: {_one_line(error)}; expected user/name") from error
    if repo_id.count("/") != 1:
        raise ValueError(f"repo_id must be user/name, got {repo_id!r}; put your user or organisation before it")


def _model_files(folder: Path) -> list[str]:
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
    if "README.md" not in names:
        logger.warning(
            "%s has no README.md: the model goes up without a card and without the licence of its base", folder
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
    folder: Path,
    repo_id: str,
    *,
    repo_type: str,
    public: bool,
    allow_patterns: list[str] | None,
    delete_patterns: list[str],
) -> str:
    """Make the repository where there is none, check who may see it, and send the folder."""
    wanted = "public" if public else "private"
    with _errors_in_one_line(repo_id):
        if constants.is_offline_mode():
            raise OfflineModeIsEnabled
        if get_token() is None:
            raise ValueError("no token; log in with `hf auth login`, or set HF_TOKEN")
        if (folder / "README.md").is_file():  # before anything is made that a refusal would leave behind
            _validate_card(folder / "README.md", repo_type=repo_type)
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
        api.upload_folder(
            folder_path=folder,
            repo_id=repo_id,
            repo_type=repo_type,
            allow_patterns=allow_patterns,
            delete_patterns=delete_patterns,
            commit_message=f"Upload {repo_type} with railsformer",
        )
    logger.info("pushed %s (%s)", url, wanted)
    return str(url)


def _validate_card(card: Path, *, repo_type: str) -> None:
    try:
        RepoCard.load(card).validate(repo_type=repo_type)
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
