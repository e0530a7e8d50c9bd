"""Which thresholds events are found with: the user's, else the model's operating points."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from railsformer.inference.events import EventSettings
from railsformer.inference.predictor import Predictor
from railsformer.inference.timeline import hazards_of

__all__ = ["EventWishes", "event_settings"]

DEFAULT_THRESHOLD = 0.5
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EventWishes:
    """What the user says of events; what is left out comes from the model.

    Args:
        thresholds: Label to its on threshold; the label None is for all without one of their own.
        off_share: Off thresholds as a share of the on thresholds.
        min_dwell_seconds: How long a run must last to count.
        merge_gap_seconds: Longest pause within one event.
    """

    thresholds: Mapping[str | None, float] = field(default_factory=dict)
    off_share: float = 0.8
    min_dwell_seconds: float = 1.0
    merge_gap_seconds: float = 2.0


def event_settings(predictor: Predictor, wishes: EventWishes) -> EventSettings:
    """The thresholds to use: the user's, else the model's operating points, else .5, which is said in the log.

    Raises:
        ValueError: If a threshold is for a label that is no hazard of the model, or out of range.
    """
    hazards = hazards_of(predictor.labels, predictor.negative_labels)
    for label in wishes.thresholds:
        if label is not None and label not in hazards:
            raise ValueError(
                f"--threshold {label} is for a label that is no hazard of this model; its hazards are "
                f"{', '.join(hazards) or 'none'}"
            )
    if not hazards:
        raise ValueError(
            f"{predictor.name} knows negative labels alone ({', '.join(predictor.labels)}): nothing to watch for"
        )
    if not 0 <= wishes.off_share <= 1:
        raise ValueError(f"--off_share must lie in 0 to 1, got {wishes.off_share:g}")
    known = predictor.thresholds or {}
    common = wishes.thresholds.get(None)
    unknown = [label for label in hazards if label not in known and label not in wishes.thresholds]
    if unknown and common is None:
        _log.warning(
            "%s has no operating point for %s: the threshold %g is nobody's choice; %s; or give --threshold",
            predictor.name,
            ", ".join(unknown),
            DEFAULT_THRESHOLD,
            predictor.points_advice,
        )
    on = {
        label: wishes.thresholds.get(label, known.get(label, DEFAULT_THRESHOLD) if common is None else common)
        for label in hazards
    }
    off = {label: wishes.off_share * threshold for label, threshold in on.items()}
    return EventSettings(on, off, wishes.min_dwell_seconds, wishes.merge_gap_seconds)
