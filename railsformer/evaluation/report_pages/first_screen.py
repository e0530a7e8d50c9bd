"""What a safety engineer asks first: what is missed, how often it cries wolf, where, how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from railsformer.evaluation.report_pages.words import (
    TOO_FEW,
    counted,
    length,
    listed,
    of_count,
    percent,
    rate,
    span,
    target_kept,
    target_words,
)

__all__ = ["Banner", "Hazard", "banners", "facts", "hazard_labels", "hazards", "mistake_kind"]

Level = Literal["repair", "beware"]

# Title and text by the order of the frames, where it is not their own.
_FRAME_ORDERS = {
    "middle": (
        "Without motion.",
        "Every frame was replaced by the clip's middle one: these figures say what is seen without motion.",
    ),
    "shuffled": (
        "Frames shuffled.",
        "The frames of every clip were shown in a random order: these figures say what is seen whatever their order.",
    ),
    "reversed": (
        "Frames reversed.",
        "Every clip was shown from its last frame to its first: what happens there is not what the label says.",
    ),
}


@dataclass(frozen=True)
class Banner:
    """What must be known before any figure is read.

    Attributes:
        level: `repair` is red: the figures must not be used as they are.
        title: In a few words.
        text: The sentence.
    """

    level: Level
    title: str
    text: str


@dataclass(frozen=True)
class Hazard:
    """One hazard on the first screen.

    Attributes:
        label: Its name.
        found: `52 of 57`; None where the split has none.
        found_detail: Share and interval.
        share: Of the hazards that were found.
        interval: Of that share; None means too few to say.
        alarms: `3.1`, or a count where hours are not known.
        alarms_unit: What it counts.
        alarms_detail: Interval and footage.
        setting: How its threshold was set and whether it kept its target.
        kept: Whether the target is kept on this split; None where there is none or it cannot be told.
        sentence: All of it as one sentence.
    """

    label: str
    found: str | None
    found_detail: str
    share: float | None
    interval: Sequence[float] | None
    alarms: str
    alarms_unit: str
    alarms_detail: str
    setting: str
    kept: bool | None
    sentence: str


def hazard_labels(metrics: Mapping[str, Any]) -> list[str]:
    """The labels that raise an alarm; all of them where nobody said which mean nothing dangerous."""
    if metrics["operating_points"]:
        return list(metrics["operating_points"]["labels"])
    negative = metrics["protocol"].get("negative_labels") or []
    return [label for label in metrics["confusion_matrix"]["labels"] if label not in negative]


def mistake_kind(mistake: Mapping[str, Any], *, hazards: Sequence[str]) -> str:
    """What a mistake means to the yard."""
    if mistake["label"] in hazards:
        return "Mix-up" if mistake["prediction"] in hazards else "Missed"
    return "False alarm" if mistake["prediction"] in hazards else "Mix-up"


def hazards(metrics: Mapping[str, Any]) -> list[Hazard]:
    """One entry a hazard, that with the least found first and those without a video last."""
    labels = hazard_labels(metrics)
    if metrics["operating_points"]:
        entries = [_at_threshold(metrics, label) for label in labels]
    else:
        entries = [_as_named(metrics, label) for label in labels]
    return sorted(entries, key=lambda entry: 2.0 if entry.share is None else entry.share)


def _at_threshold(metrics: Mapping[str, Any], label: str) -> Hazard:
    points = metrics["operating_points"]
    point = points["labels"][label]
    if point["threshold"] is None or point["on_split"] is None:
        return _without_threshold(metrics, label, point)
    here, intervals = point["on_split"], point["on_split"]["intervals"]
    alarms, hours = here["false_alarms_per_hour"], here["negative_hours"]
    if alarms is None:
        shown, unit, detail = "Not known", "false alarms an hour", "too little footage without it"
    else:
        shown, unit = rate(alarms), _alarms(rate(alarms), "an hour")
        found = intervals["false_alarms_per_hour"]
        detail = f"{_interval(metrics, found, of='rate')}, over {length(hours)} of other footage"
    kept = target_kept(point["target"], here)
    setting = f"Threshold {point['threshold']:.3f}, set on {points['split']} for {target_words(point['target'])}"
    if point["reached"] is False:
        setting += ", which was not reached there"
    elif kept is False:
        setting += "; not kept here"
    elif kept:
        worst = {"recall": (intervals["recall"] or [None])[0]}
        worst["false_alarms_per_hour"] = (intervals["false_alarms_per_hour"] or [None])[-1]
        sure = target_kept(point["target"], worst)
        setting += "; kept here" if sure else "; kept here, on too little to be sure of it"
    return _hazard(
        metrics, label, share=here["recall"], count=here["num_positives"], interval=intervals["recall"],
        alarms=(shown, unit, detail), setting=f"{setting}.", kept=False if point["reached"] is False else kept,
    )  # fmt: skip


def _without_threshold(metrics: Mapping[str, Any], label: str, point: Mapping[str, Any]) -> Hazard:
    """Nothing raises its alarm, so nothing is known of it."""
    split, target = metrics["operating_points"]["split"], target_words(point["target"])
    detail = f"{split} could not say which threshold gives {target}"
    if metrics["protocol"].get("thresholds") == "stored":
        detail = "the model is used without a threshold for it"
    alarms = ("Not known", "false alarms an hour", "no threshold, no alarms")
    sentence = f"{label}: {detail}, so what is missed is not known."
    return Hazard(label, None, detail, None, None, *alarms, "No threshold was set.", False, sentence)


def _as_named(metrics: Mapping[str, Any], label: str) -> Hazard:
    """Without a threshold: found is what was named so."""
    names, matrix = metrics["confusion_matrix"]["labels"], metrics["confusion_matrix"]["matrix"]
    place, row = names.index(label), metrics["per_class"][label]
    others = sum(map(sum, matrix)) - sum(matrix[place])
    wrong = sum(line[place] for line in matrix) - matrix[place][place]
    detail = f"of {counted(others, 'other video', 'other videos')}; a rate an hour needs a threshold"
    return _hazard(
        metrics, label, share=row["recall"], count=row["support"],
        interval=metrics["intervals"]["per_class"].get(label, {}).get("recall"),
        alarms=(str(wrong), _alarms(str(wrong), ""), detail), setting="", kept=None,
    )  # fmt: skip


def _hazard(
    metrics: Mapping[str, Any],
    label: str,
    *,
    share: float | None,
    count: int,
    interval: Sequence[float] | None,
    alarms: tuple[str, str, str],
    setting: str,
    kept: bool | None,
) -> Hazard:
    shown, unit, detail = alarms
    wolf = f"{shown[0].lower()}{shown[1:]} {unit} ({detail})"
    if share is None or not count:
        missing = "no video of it in this split, so what is missed is not known"
        return Hazard(
            label, None, missing, None, None, shown, unit, detail, setting, kept, f"{label}: {missing}; {wolf}."
        )
    found = round(share * count)
    told = f"{percent(share)}, {_interval(metrics, interval)}"
    verb = "was" if found == 1 else "were"
    videos = "video" if count == 1 else "videos"
    sentence = f"Of {count} {label} {videos} {found} {verb} found ({told}); {wolf}."
    return Hazard(label, f"{found} of {count}", told, share, interval, shown, unit, detail, setting, kept, sentence)


def _interval(metrics: Mapping[str, Any], interval: Sequence[float] | None, *, of: str = "share") -> str:
    level = percent(metrics["intervals"]["level"])
    return f"{level} interval {TOO_FEW if interval is None else span(interval, of=of)}"


def _alarms(shown: str, each: str) -> str:
    return f"{'false alarm' if shown == '1' else 'false alarms'} {each}".strip()


def banners(metrics: Mapping[str, Any]) -> list[Banner]:
    """What must be known before any figure is read, the worst first."""
    protocol = metrics["protocol"]
    found: list[Banner] = [*_mixed(metrics), *_same_cameras(metrics), *_stored_thresholds(metrics)]
    kind = protocol["split_kind"]
    if kind.startswith("random"):
        text = f"The split is {kind}. The model may have seen the same camera, even the same minute: split by group."
        found.append(Banner("repair", "This split mixes recordings.", text))
    elif "unknown" in kind:
        text = f"The split is {kind}: what was trained on may be of the same recording."
        found.append(Banner("beware", "Nobody knows what keeps the splits apart.", text))
    if protocol["frame_order"] != "forwards":
        found.append(Banner("beware", *_FRAME_ORDERS[protocol["frame_order"]]))
    if metrics["num_unread"]:
        videos = counted(metrics["num_unread"], "video", "videos")
        names = listed([entry["video"] for entry in metrics["unread"]], most=3)
        text = f"{videos} of the split count in no figure, neither as found nor as missed: {names}."
        found.append(Banner("beware", "Not all could be read.", text))
    if metrics["absent_labels"]:
        text = f"{listed(metrics['absent_labels'])}: what is missed cannot be told."
        found.append(Banner("beware", "No video in this split.", text))
    return found


def _mixed(metrics: Mapping[str, Any]) -> list[Banner]:
    state = metrics["protocol"]["mixed_splits"]
    if state["state"] == "unknown":
        text = f"It could not be checked whether the run was trained on these videos: {state['reason'].rstrip('.')}."
        return [Banner("beware", "Mixed splits cannot be ruled out.", text)]
    if state["state"] != "mixed":
        return []
    exact, near = state["num_exact"] or 0, state["num_near"] or 0
    total = metrics["num_videos"] + metrics["num_unread"]
    reason = state["reason"].rstrip(".")
    text = (
        f"The run saw {exact + near} of these {total} videos in training or validation ({exact} the very same, {near} "
        "near copies), so every figure below is better than a new camera will be. Do not rely on them. "
        f"{reason[:1].upper()}{reason[1:]}. First: {listed(state['videos'], most=3)}."
    )
    return [Banner("repair", "This report mixes splits.", text)]


def _same_cameras(metrics: Mapping[str, Any]) -> list[Banner]:
    """Other videos of a camera that the run was trained on: no copy, and yet not what a new camera will give."""
    count = metrics["protocol"]["mixed_splits"].get("num_same_group") or 0
    if not count:
        return []
    videos = counted(metrics["num_videos"] + metrics["num_unread"], "video", "videos")
    text = (
        f"{count} of {videos} are of cameras or recordings with the names of those in the run's training or "
        "validation: these figures say less about a camera that it has not seen."
    )
    return [Banner("beware", "The run knows some of these cameras.", text)]


def _stored_thresholds(metrics: Mapping[str, Any]) -> list[Banner]:
    """Thresholds were brought along and not fitted to these cameras."""
    protocol = metrics["protocol"]
    if protocol.get("thresholds") != "stored":
        return []
    note = protocol["calibration_note"]
    text = f"{note[:1].upper()}{note[1:]}. With them predict and watch alarm as this report says."
    return [Banner("beware", "Measured with the thresholds in use.", text)]


def facts(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Short answers: worst slice, which cameras, how sure, how good over all."""
    return [
        ("Worst where", _worst(metrics)),
        ("Which cameras", _cameras(metrics)),
        ("How sure", _how_sure(metrics)),
        ("Over all", _over_all(metrics)),
    ]


def _worst(metrics: Mapping[str, Any]) -> str:
    worst = metrics["worst_slice"]
    if not worst:
        return "Not known: no column was sliced, or every slice has too few videos to say."
    text = f"{worst['column']} {worst['value']}: macro F1 {_short(worst['f1_macro'])} on "
    text += f"{counted(worst['num_videos'], 'video', 'videos')}, {_short(metrics['f1_macro'])} over all."
    entry = next((e for e in metrics["slices"] if all(e[key] == worst[key] for key in ("column", "value"))), None)
    labels = [label for label in hazard_labels(metrics) if entry and entry["recall"].get(label) is not None]
    if entry and labels:
        label = min(labels, key=lambda name: (entry["recall"][name], -entry["supports"][name]))
        text += f" There {of_count(entry['recall'][label], entry['supports'][label])} {label} are named rightly."
        if point := entry.get("points", {}).get(label):
            alarms = rate(point["false_alarms_per_hour"])
            reach = of_count(point["recall"], point["num_positives"])
            text += f" Its threshold finds {reach}, at {alarms} {_alarms(alarms, 'an hour')}."
    return text


def _cameras(metrics: Mapping[str, Any]) -> str:
    protocol = metrics["protocol"]
    groups, count = protocol["groups"], metrics["intervals"]["num_groups"]
    if groups:
        told = f"{counted(len(groups), 'group', 'groups')}: {listed(groups)}."
    else:
        told = f"{counted(count, 'group', 'groups')}." if count else "Groups are not known."
    clean = protocol["mixed_splits"]["state"] == "clean"
    apart = " No video, nor a copy of one, was in training." if clean else ""
    return f"{told} Split {protocol['split_kind']}.{apart}"


def _how_sure(metrics: Mapping[str, Any]) -> str:
    intervals = metrics["intervals"]
    level = percent(intervals["level"])
    if intervals["method"] == "groups":
        return f"{level} intervals over whole groups ({intervals['num_groups']}): what to expect of others like them."
    note = intervals["note"] or "within these cameras only"
    groups = counted(intervals["num_groups"], "group tells", "groups tell")
    return f"{level} intervals over single videos, {note}: {groups} too little about a camera that was not seen."


def _over_all(metrics: Mapping[str, Any]) -> str:
    interval = metrics["intervals"]["figures"].get("accuracy")
    accuracy = f"{percent(metrics['accuracy'])} named rightly ({_interval(metrics, interval)})"
    return (
        f"{accuracy}, macro F1 {_short(metrics['f1_macro'])}, on {counted(metrics['num_videos'], 'video', 'videos')}."
    )


def _short(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2f}"
