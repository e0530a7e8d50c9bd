"""metrics.json as others may see it: every figure, but no name of a video and no path of this machine."""

import copy
from collections.abc import Mapping
from typing import Any

from railsformer.hub.wording import shown, without_paths

__all__ = ["public_metrics"]

WITHHELD = "name withheld"
_NAMING_COLUMNS = ("video", "file_name", "source")


def public_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics without what names footage: the mistakes, the unread, copies found in training, slices by file.

    Their numbers stay. Names of cameras and recordings stay too: without them nobody knows what was tested.

    Args:
        metrics: Content of metrics.json, of version 1 or 2; left as it is.
    """
    public = copy.deepcopy(dict(metrics))
    if "mistakes" in public:
        public["mistakes"] = []
    if "unread" in public:  # as many as there were, with what was wrong with them
        public["unread"] = [one | {"video": WITHHELD, "reason": WITHHELD} for one in public["unread"]]
    public |= {key: shown(str(public[key])) for key in ("dataset", "model") if public.get(key)}
    if public.get("compare"):
        public["compare"]["other"] = shown(str(public["compare"]["other"]))
    protocol = public.get("protocol") or {}
    if found := protocol.get("mixed_splits"):
        found["videos"] = [WITHHELD for _ in found.get("videos") or ()]
        found["reason"] = without_paths(found.get("reason") or "")
    naming = set(_NAMING_COLUMNS)
    if _groups_are_files(protocol):
        naming.add("group")
        protocol["groups"] = None
    if "slices" in public:
        public["slices"] = [part for part in public["slices"] if part["column"] not in naming]
    if (public.get("worst_slice") or {}).get("column") in naming:
        public["worst_slice"] = None
    return public


def _groups_are_files(protocol: Mapping[str, Any]) -> bool:
    """Return whether every file is a group of its own, so that a group's name is a file's."""
    return str(protocol.get("split_kind") or "").startswith("by file")
