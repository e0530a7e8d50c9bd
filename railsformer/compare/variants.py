"""The networks whose cost is compared: every scheme, the paper's three clips, its 3D CNNs; and the paper's figures."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from railsformer.model.configuration_railsformer import ATTENTION_TYPES, RailsformerConfig

__all__ = ["Difference", "Variant", "cost_variants", "differences_from_paper"]

NUM_LABELS = 174  # Something-Something V2, for which the paper counts parameters
MARKED_SHARE = 0.02
# arXiv 2102.05095v4. MACs are its FLOPs; tables 1 and 2, and section 3 for comparisons a patch.
_PARAMETERS = {
    "space_only": 85_932_462,
    "joint_space_time": 85_938_606,
    "divided_space_time": 121_392_558,
    "sparse_local_global": 121_392_558,
    "axial": 156_846_510,
}
_GMACS_A_VIEW = {"space_only": 141, "joint_space_time": 180, "divided_space_time": 196}
_FAMILIES = {  # name -> frames, side in pixels, GMACs a view and TFLOPs of three views with divided attention
    "base": (8, 224, 196, 0.59),
    "HR": (16, 448, 1703, 5.11),
    "L": (96, 224, 2380, 7.14),
}
_PEERS = {  # name -> builder, frames, parameters and TFLOPs of 30 views, rounded by the paper
    "I3D 8x8 R50": ("i3d_8x8_r50", 8, 28.0e6, 1.11),
    "SlowFast 8x8 R50": ("slowfast_8x8_r50", 32, 34.6e6, 1.97),
}
_CROPS = 3
_COUNTED_ONLY = "counted only: of this clip one divided forward pass is measured, since each takes long"
_NO_TRAINING = "training is not measured at this clip, only a forward pass"
# The same code in a second, for tests; nothing of it is compared with the paper.
_QUICK = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 5,
}  # fmt: skip
_QUICK_CLIPS = {"base": (4, 32), "HR": (4, 64), "L": (12, 32)}
_WHY = {
    "comparisons_a_patch": "CLS takes no part in the time step here, as in the paper's own code; its N + F + 2 counts "
    "CLS in both steps",
}
_NO_REASON = "no reason is known; please report it with this table"


@dataclass(frozen=True)
class Variant:
    """One row of the comparison of cost.

    Attributes:
        name: Of the row.
        family: `base`, `HR`, `L`, or `3d_cnn`.
        scheme: Attention type; None for a 3D CNN.
        config: Keys of `RailsformerConfig`, or of `peer_cost.build_peer`.
        num_views: Clips x crops of the paper's test.
        measured: Of `forward` and `training`.
        repeats: Timed passes of each, after one that is not.
        paper: The paper's figures under the row's keys.
        not_measured: Why not all is measured; None where it is.
    """

    name: str
    family: str
    scheme: str | None
    config: Mapping[str, Any]
    num_views: int
    measured: tuple[str, ...] = ("forward", "training")
    repeats: Mapping[str, int] = field(default_factory=lambda: {"forward": 5, "training": 3})
    paper: Mapping[str, float] = field(default_factory=dict)
    not_measured: str | None = None

    @property
    def is_peer(self) -> bool:
        """Whether it runs in the peer's own environment."""
        return self.family == "3d_cnn"

    @property
    def clip(self) -> str:
        """Frames and side of its clip."""
        return f"{self.config['num_frames']}x{self.config['image_size']}"

    @property
    def folder_name(self) -> str:
        """Of its cells."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_")

    def model_config(self) -> RailsformerConfig:
        """Of a TimeSformer."""
        return RailsformerConfig(attention_type=self.scheme, **self.config)


@dataclass(frozen=True)
class Difference:
    """A figure that is not the paper's.

    Attributes:
        what: Key of the row.
        ours: Counted here.
        paper: The paper's.
        share: Of the paper's figure.
        marked: Whether it is over 2 %.
        why: The reason, a sentence.
    """

    what: str
    ours: float
    paper: float
    share: float
    marked: bool
    why: str


def cost_variants(*, quick: bool = False) -> list[Variant]:
    """All rows: five schemes at each of three clips, and two 3D CNNs.

    Args:
        quick: Tiny networks on tiny clips, of ours only one measured: no figure worth anything.
    """
    rows = [_transformer(family, scheme, quick=quick) for family in _FAMILIES for scheme in ATTENTION_TYPES]
    return rows + [_peer(name, quick=quick) for name in _PEERS]


def differences_from_paper(row: Mapping[str, Any]) -> list[Difference]:
    """What differs from the paper's figures: by over 2 %, or at all where the paper's figure is an exact count.

    Args:
        row: With `paper` and the counted figures under the same keys; those that are None are passed over.
    """
    found = []
    for what, theirs in row["paper"].items():
        ours = row[what]
        if ours is None or ours == theirs:
            continue
        share = ours / theirs - 1
        is_exact = isinstance(theirs, int)
        if is_exact or abs(share) > MARKED_SHARE:
            why = _WHY.get(what, _NO_REASON)
            found.append(Difference(what, ours, theirs, share, abs(share) > MARKED_SHARE, why))
    return found


def _transformer(family: str, scheme: str, *, quick: bool) -> Variant:
    frames, side, gmacs, tflops = _FAMILIES[family]
    paper: dict[str, float] = _comparisons(scheme, frames, (side // 16) ** 2)
    if family == "base":
        paper["parameters"] = _PARAMETERS[scheme]
        if scheme in _GMACS_A_VIEW:
            paper["macs_a_view"] = _GMACS_A_VIEW[scheme] * 1e9
    if scheme == "divided_space_time":
        paper |= {"macs_a_view": gmacs * 1e9, "macs_all_views": tflops * 1e12}
    config: dict[str, Any] = {"num_frames": frames, "image_size": side, "num_labels": NUM_LABELS}
    if quick:
        config = dict(zip(("num_frames", "image_size"), _QUICK_CLIPS[family], strict=True)) | _QUICK
    measured, reason = _what_is_measured(family, scheme, quick=quick)
    return Variant(
        name=f"{family} {config['num_frames']}x{config['image_size']}, {scheme}",
        family=family,
        scheme=scheme,
        config=config,
        num_views=_CROPS,
        measured=measured,
        repeats=_repeats(quick=quick, forward=5 if family == "base" else 2),
        paper={} if quick else paper,
        not_measured=reason,
    )


def _what_is_measured(family: str, scheme: str, *, quick: bool) -> tuple[tuple[str, ...], str | None]:
    """Which passes, and why not all."""
    is_divided = scheme == "divided_space_time"
    if family == "base" and (is_divided or not quick):
        return ("forward", "training"), None
    return (("forward",), _NO_TRAINING) if is_divided and not quick else ((), _COUNTED_ONLY)


def _comparisons(scheme: str, frames: int, patches: int) -> dict[str, float]:
    """N F + 1, N + F + 2 and N + 1 in section 3 of the paper, which tells no others."""
    known = {
        "joint_space_time": patches * frames + 1,
        "divided_space_time": patches + frames + 2,
        "space_only": patches + 1,
    }
    return {"comparisons_a_patch": known[scheme]} if scheme in known else {}


def _peer(name: str, *, quick: bool) -> Variant:
    """As in table 2 of the paper: Kinetics-400, 10 clips x 3 crops of 256 px."""
    builder, frames, parameters, tflops = _PEERS[name]
    config = {"builder": builder, "num_frames": frames, "image_size": 64 if quick else 256, "num_labels": 400}
    return Variant(
        name=name,
        family="3d_cnn",
        scheme=None,
        config=config,
        num_views=30,
        repeats=_repeats(quick=quick, forward=5),
        paper={} if quick else {"parameters": parameters, "macs_all_views": tflops * 1e12},
    )


def _repeats(*, quick: bool, forward: int) -> dict[str, int]:
    return {"forward": 1, "training": 1} if quick else {"forward": forward, "training": 3}
