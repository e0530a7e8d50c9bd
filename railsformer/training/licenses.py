"""What the base model's licence allows, told before anyone spends a night of training on it."""

import json
from fnmatch import fnmatch
from pathlib import Path

import yaml
from huggingface_hub import metadata_load

__all__ = ["PERMISSIVE_START", "is_non_commercial", "license_of_base", "non_commercial_notice"]

PERMISSIVE_START = "start from an Apache-2.0 image model: --image_model facebook/dinov2-small"

# As stated on the models' Hub pages; the first pattern that fits wins.
_LICENSES = {
    "facebook/timesformer-*": "cc-by-nc-4.0",
    "fcakyon/timesformer-*": "cc-by-nc-4.0",  # conversions of the same weights
    "facebook/dinov2-*": "apache-2.0",
    "google/vit-*": "apache-2.0",
}


def license_of_base(base_model: str) -> str | None:
    """Return the licence of a base model as a Hub licence id, as far as it can be told offline.

    A local folder is asked first: the licence in its model card, else what its card or config says it was made from.
    A repository name is looked up in a table of the bases that our recipes name.

    Args:
        base_model: A Hub repository or a local folder.

    Returns:
        A licence id in lower case such as `cc-by-nc-4.0`, or None where it is not known.
    """
    seen: set[str] = set()
    waiting = [base_model]
    while waiting:
        name = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        folder = Path(name)
        if not folder.is_dir():
            license_id = _license_of_repository(name)
        else:
            card = _card_metadata(folder)
            license_id = str(card["license"]).lower() if isinstance(card.get("license"), str) else None
            waiting += _origins(card, folder)
        if license_id is not None:
            return license_id
    return None


def is_non_commercial(license_id: str | None) -> bool:
    """Return whether a licence id forbids commercial use (its words include `nc`, as in `cc-by-nc-4.0`)."""
    return license_id is not None and "nc" in license_id.lower().split("-")


def non_commercial_notice(base_model: str) -> str | None:
    """Return one line that warns of a non-commercial base and names a permissive way, or None where none is needed.

    Args:
        base_model: A Hub repository or a local folder.
    """
    license_id = license_of_base(base_model)
    if not is_non_commercial(license_id):
        return None
    return (
        f"{base_model} is licensed {license_id}: neither it nor a model fine-tuned from it may be used commercially; "
        f"to be free of that, {PERMISSIVE_START}"
    )


def _license_of_repository(name: str) -> str | None:
    return next((value for pattern, value in _LICENSES.items() if fnmatch(name.lower(), pattern)), None)


def _card_metadata(folder: Path) -> dict[str, object]:
    readme = folder / "README.md"
    if not readme.is_file():
        return {}
    try:
        return metadata_load(readme) or {}
    except (ValueError, yaml.YAMLError):  # a card that cannot be read tells no licence
        return {}


def _origins(card: dict[str, object], folder: Path) -> list[str]:
    """Return what a local model says it was made from: the card's base_model, the config's _name_or_path."""
    stated = card.get("base_model")
    origins = [stated] if isinstance(stated, str) else list(stated) if isinstance(stated, list) else []
    config = folder / "config.json"
    if config.is_file():
        try:
            content = json.loads(config.read_text(encoding="utf-8"))
        except ValueError:  # a damaged config is the loader's to report
            content = {}
        origins.append(content.get("_name_or_path") if isinstance(content, dict) else None)
    return [origin for origin in origins if isinstance(origin, str) and origin]
