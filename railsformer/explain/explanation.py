"""One clip explained: its maps by one or several methods, and all that is written of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from railsformer.explain.attribution import METHODS, attribute
from railsformer.explain.heat import HeatScale, RelevanceTrack
from railsformer.explain.seen import SeenClip
from railsformer.explain.trust import TrustReport, trust_report
from railsformer.inference.events import Event
from railsformer.inference.predictor import Predictor

__all__ = ["Explanation", "MethodMap", "check_methods", "check_target", "explain_clip", "write_arrays"]

EVEN_WORDS = "nearly even: it points nowhere"
_TITLES = {
    "rollout": "attention rollout",
    "gradient_rollout": "gradient-weighted rollout",
    "occlusion": "occlusion",
}
_MEANINGS = {
    "rollout": "where attention led; it knows no class",
    "gradient_rollout": "attention that speaks for the class",
    "occlusion": "how far the score falls when the place is covered",
}
_LEAST_PEAK = 1.1  # times what each frame would have if all were alike
_VERSION = 1


@dataclass(frozen=True)
class MethodMap:
    """The map of one method.

    Attributes:
        method: One of METHODS.
        relevance: Shape (T, h, w), float32; signed with occlusion.
        trust: How far it can be trusted; None where that was not measured.
    """

    method: str
    relevance: np.ndarray
    trust: TrustReport | None = None

    @property
    def title(self) -> str:
        """The method's name in words."""
        return _TITLES[self.method]

    @property
    def meaning(self) -> str:
        """What it shows, in a few words."""
        return _MEANINGS[self.method]

    @property
    def scale(self) -> HeatScale:
        """Colours of its cells."""
        return HeatScale.of(self.relevance, signed=self.method == "occlusion")

    @property
    def scale_words(self) -> tuple[str, str, str]:
        """What the scale measures, and its two ends."""
        scale = self.scale
        if scale.signed:
            low, high = scale.ends
            return "fall of the score (log-odds) when covered", f"{low:+.2g}, it rises", f"{high:+.2g}, it falls"
        return "relevance of a place (mean: 1)", "0", f"{scale.high / scale.mean:.3g}" if scale.mean else "none"

    @property
    def frame_shares(self) -> np.ndarray:
        """Relevance of each frame, shape (T,): its share of the clip's, or with occlusion the mean fall."""
        if self.method == "occlusion":
            return self.relevance.mean(axis=(1, 2))
        total = float(self.relevance.sum())
        return self.relevance.sum(axis=(1, 2)) / (total if total > 0 else 1.0)

    @property
    def peak_frame(self) -> int | None:
        """The frame of most relevance; None where it hardly stands out among the others."""
        shares = self.frame_shares
        frame = int(shares.argmax())
        return frame if shares[frame] > max(0.0, _LEAST_PEAK * float(shares.mean())) else None

    @property
    def judgement(self) -> tuple[str, bool]:
        """In a few words whether to trust the map, and whether that is a warning."""
        if self.scale.is_empty:
            return "empty: nothing speaks for the class", True
        words = [EVEN_WORDS] if self.scale.is_even else []
        if self.trust is None:
            words.append("trust not measured")
        else:
            better = self.trust.curves.better_than_chance
            words.append(self.trust.verdict + ("" if better else "; do not rely on it"))
        is_good = self.trust is not None and self.trust.curves.better_than_chance and not self.scale.is_even
        return "; ".join(words), not is_good


@dataclass(frozen=True)
class Explanation:
    """Why a model said what it said of one clip.

    Attributes:
        clip: What it saw.
        model: Its name.
        scores: Calibrated, of this clip, the highest first.
        target: Class that is explained.
        maps: One a method.
        decisions: Whether each label's score reaches its threshold; None without operating points.
        event: Event of `watch` that the clip belongs to.
        event_number: Its number in events.json, from 1.
    """

    clip: SeenClip
    model: str
    scores: Mapping[str, float]
    target: str
    maps: tuple[MethodMap, ...]
    decisions: Mapping[str, bool] | None = None
    event: Event | None = None
    event_number: int | None = None

    @property
    def label(self) -> str:
        """The class with the highest score."""
        return next(iter(self.scores))

    @property
    def headline(self) -> str:
        """What is explained, in one line."""
        return f"{self.target}, {100 * self.scores[self.target]:.0f} %"

    @property
    def cautions(self) -> list[str]:
        """What a reader must know before the maps, one sentence each."""
        lines = [self.clip.note] if self.clip.note else []
        if self.target != self.label:
            said = f"{self.label} ({100 * self.scores[self.label]:.0f} %)"
            lines.append(f"The model named {said}; the maps are about {self.target}.")
        for each in self.maps:
            if each.scale.is_empty:
                lines.append(f"{each.title.capitalize()}: nothing speaks for {self.target}; this map is empty.")
            elif each.scale.is_even:
                lines.append(f"{each.title.capitalize()} is {EVEN_WORDS}.")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """As explanation.json tells it."""
        clip = self.clip
        return {
            "version": _VERSION,
            "video": str(clip.video),
            "model": self.model,
            "target": self.target,
            "label": self.label,
            "scores": dict(self.scores),
            "decisions": None if self.decisions is None else dict(self.decisions),
            "event": None if self.event is None else {"number": self.event_number, **asdict(self.event)},
            "part_seconds": [round(clip.start_seconds, 3), round(clip.end_seconds, 3)],
            "duration_seconds": round(clip.duration_seconds, 3),
            "times_seconds": [round(float(seconds), 4) for seconds in clip.times_seconds],
            "picture_px": list(clip.size),
            "crop_px": [round(side, 2) for side in clip.box],
            "notes": self.cautions,
            "methods": {each.method: self._method(each) for each in self.maps},
            "versions": {name: version(name) for name in ("railsformer", "torch", "transformers")},
        }

    def _method(self, each: MethodMap) -> dict[str, Any]:
        shares = each.frame_shares
        peak = each.peak_frame
        frame, row, column = np.unravel_index(int(each.relevance.argmax()), each.relevance.shape)
        return {
            "cells": list(each.relevance.shape),
            "frame_relevance": [float(share) for share in shares],
            "peak_seconds": None if peak is None else round(float(self.clip.times_seconds[peak]), 4),
            "nearly_even": each.scale.is_even,
            "strongest_cell": {"frame": int(frame), "row": int(row), "column": int(column)},
            "trust": None if each.trust is None else each.trust.to_dict(),
        }


def check_methods(methods: Sequence[str]) -> tuple[str, ...]:
    """The methods in the order asked for, each once.

    Raises:
        ValueError: If one is unknown, or there is none.
    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown or not methods:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {unknown[0] if unknown else 'none'}")
    return tuple(dict.fromkeys(methods))


def check_target(predictor: Predictor, target: str | None) -> None:
    """Refuse a class that the model lacks.

    Raises:
        ValueError: If it does.
    """
    if target is not None and target not in predictor.labels:
        raise ValueError(f"target {target!r} is no class of {predictor.name}; it has {', '.join(predictor.labels)}")


def explain_clip(
    predictor: Predictor,
    clip: SeenClip,
    *,
    methods: Sequence[str] = ("gradient_rollout",),
    target: str | None = None,
    trust: bool = True,
    event: Event | None = None,
    event_number: int | None = None,
) -> Explanation:
    """Compute the maps of a clip.

    Args:
        predictor: The model.
        clip: What it saw.
        methods: Any of METHODS.
        target: Class to explain; the one with the highest score if not given.
        trust: Whether to measure how far each map can be trusted, which costs many forward passes.
        event: Event that the clip belongs to.
        event_number: Its number.

    Raises:
        ValueError: If a method or the class is unknown.
    """
    methods = check_methods(methods)
    check_target(predictor, target)
    row = predictor.score_pixels(clip.pixel_values)[0]
    order = np.argsort(-row, kind="stable")
    scores = {predictor.labels[index]: float(row[index]) for index in order}
    about = target or next(iter(scores))
    pixel_values = clip.pixel_values.to(predictor.device, predictor.model.dtype)
    maps = {
        method: attribute(predictor.model, pixel_values, method=method, target=about).float().cpu()
        for method in methods
    }
    reports: dict[str, TrustReport | None] = dict.fromkeys(methods)
    if trust:
        reports |= {
            method: trust_report(
                predictor.model,
                pixel_values,
                {method: maps[method]} | maps,  # the first is judged
                predictor.labels.index(about),
                compare_with=_companion(methods),
                temperature=predictor.temperature,
                batch_size=predictor.batch_size,
            )
            for method in methods
        }
    return Explanation(
        clip=clip,
        model=predictor.name,
        scores=scores,
        target=about,
        maps=tuple(MethodMap(method, maps[method][0].numpy(), reports[method]) for method in methods),
        decisions=predictor.decide(row),
        event=event,
        event_number=event_number,
    )


def _companion(methods: Sequence[str]) -> str | None:
    """A cheap method to compare a lone map with."""
    if len(methods) > 1:
        return None
    return "gradient_rollout" if methods[0] == "rollout" else "rollout"


def write_arrays(explanation: Explanation, folder: Path) -> None:
    """Write relevance.npz and explanation.json into a folder."""
    clip = explanation.clip
    np.savez_compressed(
        folder / "relevance.npz",
        relevance=np.stack([each.relevance for each in explanation.maps]).astype(np.float32),
        methods=np.array([each.method for each in explanation.maps]),
        times_seconds=clip.times_seconds,
        crop_px=np.array(clip.box),
        picture_px=np.array(clip.size),
        target=np.array(explanation.target),
        labels=np.array(list(explanation.scores)),
        scores=np.array(list(explanation.scores.values())),
    )
    text = json.dumps(explanation.to_dict(), indent=2, ensure_ascii=False)
    (folder / "explanation.json").write_text(text + "\n", encoding="utf-8")


def track_of(explanation: Explanation, each: MethodMap) -> RelevanceTrack:
    """A map in time."""
    return RelevanceTrack.of(explanation.clip.times_seconds, each.relevance)
