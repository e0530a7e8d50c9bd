"""The published schema of metrics.json, and what JSON cannot say at all."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["check_numbers", "load_schema"]

_SCHEMA = Path(__file__).parent / "metrics.schema.json"


def load_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of metrics.json, version 2."""
    schema: dict[str, Any] = json.loads(_SCHEMA.read_text(encoding="utf-8"))
    return schema


def check_numbers(value: Any, *, name: str = "metrics") -> None:
    """Refuse NaN and infinity, which JSON does not know.

    Raises:
        ValueError: If there is one; it is named by its place.
    """
    if isinstance(value, Mapping):
        for key, entry in value.items():
            check_numbers(entry, name=f"{name}[{key!r}]")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for place, entry in enumerate(value):
            check_numbers(entry, name=f"{name}[{place}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number or null, got {value}; give null for what is not known")
