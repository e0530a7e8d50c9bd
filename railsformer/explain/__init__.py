"""Why the model said so: maps of relevance in space and time, and how far they can be trusted."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from railsformer.explain.attribution import attribute

__all__ = ["attribute"]

# Imported when first asked for, so that `railsformer --help` does not wait for torch.
_HOMES = {"attribute": "railsformer.explain.attribution"}


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'railsformer.explain' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
