"""How far a relevance map can be trusted: against chance, against other methods, against randomised weights.

Three questions, each of which a map can fail. Does the score follow the map (deletion and insertion, removal.py)? Do
other methods see the same places (agreement)? Does the map depend on what the model has learnt (Adebayo et al. 2018,
arXiv 1810.03292): with the weights' values shuffled it must change, and with the head's alone too if it is to tell
classes apart.

Dimensions: T frames, C channels, H and W patches down and across.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from scipy import stats

from railsformer.explain.attribution import Target, attribute, target_indices
from railsformer.explain.occlusion import Fill
from railsformer.explain.removal import RemovalCurves, deletion_insertion
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

__all__ = [
    "Agreement",
    "MapMaker",
    "SanityCheck",
    "TrustReport",
    "agreement",
    "rank_correlation",
    "sanity",
    "trust_report",
    "with_shuffled_weights",
]

# (model, pixel_values, target) -> map, shape (1, T, H, W)
MapMaker = Callable[[RailsformerForVideoClassification, torch.Tensor, int], torch.Tensor]
Part = Literal["head", "all"]

_PARTS: dict[Part, str] = {"head": "the head's weights", "all": "all weights"}
_UNCHANGED = 0.9  # a rank correlation from here on: the map has not changed
_PARTLY_CHANGED = 0.5
_FAINT = 0.1  # a smaller difference of probability between whole and empty clip leaves the curves little to show


@dataclass(frozen=True)
class Agreement:
    """How alike two methods rank the cells of a clip.

    Args:
        first: Method.
        second: Method.
        correlation: Spearman's, -1 to 1; None where a map is flat.
    """

    first: str
    second: str
    correlation: float | None


@dataclass(frozen=True)
class SanityCheck:
    """How alike a map is to that of the same model with shuffled weights.

    Args:
        part: Whose values were shuffled: 'head' or 'all'.
        correlation: Spearman's, -1 to 1; near 0 is good. None where a map is flat.
    """

    part: Part
    correlation: float | None

    @property
    def finding(self) -> Literal["unchanged", "partly changed", "changed", "flat"]:
        """'unchanged' from a correlation of 0.9, 'partly changed' from 0.5; 'flat' where there is none."""
        if self.correlation is None:
            return "flat"
        if self.correlation >= _UNCHANGED:
            return "unchanged"
        return "partly changed" if self.correlation >= _PARTLY_CHANGED else "changed"


@dataclass(frozen=True)
class TrustReport:
    """What is known of one map's worth.

    Args:
        method: That made the map.
        target: Label that it explains.
        curves: Deletion and insertion beside chance.
        agreements: With each other method and of these with each other.
        checks: With the head's weights shuffled and with all; empty where not done.
        num_companions: Maps that were made for the agreement alone.
    """

    method: str
    target: str
    curves: RemovalCurves
    agreements: tuple[Agreement, ...]
    checks: tuple[SanityCheck, ...]
    num_companions: int = 0

    @property
    def verdict(self) -> str:
        """Of the curves, such as 'no better than chance'."""
        return self.curves.verdict

    @property
    def forward_passes(self) -> int:
        """Clips that went through the network for the curves; each further map is made besides."""
        return self.curves.forward_passes

    @property
    def further_maps(self) -> int:
        """Maps that were made for the checks and the agreement."""
        return len(self.checks) + self.num_companions

    def lines(self) -> list[str]:
        """Plain sentences for under the picture."""
        return [
            _verdict_line(self),
            *_curve_lines(self.curves),
            *_agreement_lines(self.method, self.agreements),
            *(_check_line(check) for check in self.checks),
            _cost_line(self),
        ]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "method": self.method,
            "target": self.target,
            "verdict": self.verdict,
            "curves": self.curves.to_dict(),
            "agreement": [vars(each).copy() for each in self.agreements],
            "shuffled_weights": [
                {"part": each.part, "correlation": each.correlation, "finding": each.finding} for each in self.checks
            ],
            "forward_passes": self.forward_passes,
            "further_maps": self.further_maps,
            "lines": self.lines(),
        }


def trust_report(
    model: RailsformerForVideoClassification,
    pixel_values: torch.Tensor,
    maps: Mapping[str, torch.Tensor],
    target: Target = None,
    *,
    map_maker: MapMaker | None = None,
    compare_with: str | None = None,
    check_randomised: bool = True,
    steps: int = 8,
    num_random: int = 8,
    fill: Fill = "mean",
    temperature: float = 1.0,
    batch_size: int = 8,
    seed: int = 0,
) -> TrustReport:
    """Judge the first of a clip's maps, and measure its agreement with the others.

    With the defaults that takes 170 forward passes of a clip (`removal_passes`) and two further maps.

    Args:
        model: The classifier. Runs in evaluation mode and is left as it was.
        pixel_values: One normalised clip, shape (1, T, C, height, width).
        maps: Method to map, shape (1, T, H, W) or (T, H, W).
        target: Class that the first map explains, index or name; None for the predicted one.
        map_maker: How the first map is made anew for shuffled weights; `attribute` by the method's name unless given.
        compare_with: Method whose map is made, too, for the agreement; None leaves it with those in `maps`.
        check_randomised: Whether to make the map for shuffled weights too, which costs two more maps and a copy of
            the model.
        steps: As in `deletion_insertion`.
        num_random: As in `deletion_insertion`.
        fill: As in `deletion_insertion`.
        temperature: As in `deletion_insertion`.
        batch_size: As in `deletion_insertion`.
        seed: Of random orders and of shuffled weights.

    Raises:
        ValueError: If there is no map, or what `deletion_insertion` and `attribute` refuse.
    """
    if not maps:
        raise ValueError("maps must hold at least one map, method to relevance; got none")
    method, relevance = next(iter(maps.items()))
    if len(pixel_values) != 1:
        raise ValueError(f"pixel_values must hold one clip, got {len(pixel_values)}; call once a clip")
    index = int(target_indices(model, pixel_values, target)[0])
    curves = deletion_insertion(
        model,
        pixel_values,
        relevance,
        index,
        steps=steps,
        num_random=num_random,
        fill=fill,
        temperature=temperature,
        batch_size=batch_size,
        seed=seed,
    )
    checks: tuple[SanityCheck, ...] = ()
    if check_randomised:
        checks = sanity(model, pixel_values, map_maker or method, index, relevance=relevance, seed=seed)
    made = {
        name: attribute(model, pixel_values, method=name, target=index)
        for name in ((compare_with,) if compare_with is not None and compare_with not in maps else ())
    }
    return TrustReport(
        method=method,
        target=str(model.config.id2label[index]),
        curves=curves,
        agreements=agreement({**maps, **made}),
        checks=checks,
        num_companions=len(made),
    )


def agreement(maps: Mapping[str, torch.Tensor]) -> tuple[Agreement, ...]:
    """How alike methods rank the cells, every pair in the order of `maps`.

    Args:
        maps: Method to map, all of as many cells.

    Raises:
        ValueError: If two maps are of different sizes.
    """
    return tuple(
        Agreement(first, second, rank_correlation(maps[first], maps[second]))
        for first, second in combinations(maps, 2)
    )


def rank_correlation(first: torch.Tensor, second: torch.Tensor) -> float | None:
    """Spearman's rank correlation of two maps' cells, ties at their mean rank; None where a map is flat.

    Raises:
        ValueError: If they are of different sizes or not finite.
    """
    values = [each.detach().double().cpu().flatten().numpy() for each in (first, second)]
    if values[0].size != values[1].size:
        raise ValueError(f"maps must be of one size, got shapes {tuple(first.shape)} and {tuple(second.shape)}")
    if not all(np.isfinite(each).all() for each in values):
        raise ValueError("maps hold NaN or infinite values; ranks need numbers")
    if any(np.ptp(each) == 0 for each in values):
        return None
    return float(np.corrcoef(*(stats.rankdata(each) for each in values))[0, 1])


def sanity(
    model: RailsformerForVideoClassification,
    pixel_values: torch.Tensor,
    method: str | MapMaker,
    target: int,
    *,
    relevance: torch.Tensor | None = None,
    seed: int = 0,
) -> tuple[SanityCheck, ...]:
    """Make the map again with the head's weights shuffled and with all, and compare.

    Args:
        model: The classifier; it is copied, and left as it is.
        pixel_values: One normalised clip, shape (1, T, C, height, width).
        method: Name that `attribute` knows, or what makes the map.
        target: Class index, the same for all maps.
        relevance: The map as it is; made if not given.
        seed: Of the shuffling.

    Raises:
        ValueError: What the method refuses.
    """

    def make(classifier: RailsformerForVideoClassification) -> torch.Tensor:
        if callable(method):
            return method(classifier, pixel_values, target)
        return attribute(classifier, pixel_values, method=method, target=target)

    relevance = make(model) if relevance is None else relevance
    return tuple(
        SanityCheck(part, rank_correlation(relevance, make(with_shuffled_weights(model, part, seed=seed))))
        for part in _PARTS
    )


@torch.no_grad()
def with_shuffled_weights(
    model: RailsformerForVideoClassification, part: Part, *, seed: int = 0
) -> RailsformerForVideoClassification:
    """Copy a model and put the values of each weight tensor in random order.

    Each tensor keeps its size and spread, unlike in a newly drawn model, whose nearly even attention would make any
    map look changed.

    Args:
        model: Left as it is.
        part: 'head' for the classifier alone, or 'all'.
        seed: Of the order.
    """
    shuffled = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for parameter in (shuffled.classifier if part == "head" else shuffled).parameters():
        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return shuffled


def _verdict_line(report: TrustReport) -> str:
    curves = report.curves
    what = f"at finding what speaks for '{report.target}' (probability {curves.deletion[0]:.2f})"
    if curves.flat:
        return f"This map is no better than chance {what}: it gives every cell the same relevance."
    advice = "" if curves.better_than_chance else "; do not rely on it"
    return f"This map is {report.verdict} {what}{advice}."


def _curve_lines(curves: RemovalCurves) -> list[str]:
    low, high = curves.random_range
    lines = [
        f"Mean probability while the most relevant parts are removed first: {curves.deletion_area:.2f} (low is good); "
        f"while they are shown first: {curves.insertion_area:.2f} (high is good); in random order, in lumps as large "
        f"as the map's: {curves.random_mean:.2f} (95 % within {low:.2f} to {high:.2f}); in single cells scattered at "
        f"random: {curves.scattered_areas.mean():.2f}.",
        f"Shown first less removed first: {curves.difference:+.2f}; 95 % of random orders lie within "
        f"-{curves.random_difference:.2f} to +{curves.random_difference:.2f}.",
    ]
    whole, empty = curves.deletion[0], curves.deletion[-1]
    if empty > whole - _FAINT:
        lines.append(
            f"Even with everything removed the probability is {empty:.2f} (whole clip {whole:.2f}): an empty picture "
            f"itself speaks for this label, so these figures say little."
        )
    return lines


def _agreement_lines(method: str, agreements: tuple[Agreement, ...]) -> list[str]:
    own = [each for each in agreements if method in (each.first, each.second)]
    if not own:
        return []
    words = []
    for each in own:
        other = (each.second if each.first == method else each.first).replace("_", " ")
        words.append(f"{other} {'none, a map is flat' if each.correlation is None else f'{each.correlation:.2f}'}")
    return [f"Rank correlation with other methods (1 is the same order, 0 no relation): {', '.join(words)}."]


def _check_line(check: SanityCheck) -> str:
    start = f"With {_PARTS[check.part]} shuffled"
    if check.correlation is None:
        return f"{start} one of the two maps is flat, so they cannot be compared."
    value = f"(rank correlation {check.correlation:.2f})"
    if check.finding == "changed":
        return f"{start} the map changes, as it should {value}."
    if check.finding == "partly changed":
        return f"{start} the map changes only in part {value}: some of it does not come from them."
    if check.part == "head":
        return f"{start} the map does not change {value}: it does not tell one class from another."
    return f"{start} the map does not change {value}: it does not show what the model learnt."


def _cost_line(report: TrustReport) -> str:
    unchecked = "" if report.checks else "; not checked with shuffled weights"
    more = f" and {report.further_maps} further map{'s' * (report.further_maps > 1)}" if report.further_maps else ""
    return f"Measured with {report.forward_passes} forward passes of this clip{more}{unchecked}."
