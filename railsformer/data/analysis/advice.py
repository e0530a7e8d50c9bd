"""What is out of line in a dataset: one sentence each, with the number and what to do."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from railsformer.data.analysis.measure import DEFAULT_CLIP, default_clip_seconds

__all__ = ["LEVELS", "Advice", "advise"]

Level = Literal["repair", "beware", "note"]
# In the order of the report: figures are wrong, figures mean less than they seem, good to know.
LEVELS: dict[Level, str] = {"repair": "Repair first", "beware": "Beware", "note": "Note"}

FEW_CLIPS = 50
FEW_TESTED = 10
_TELLING_GAIN = 0.10  # a property that tells the label this much better than the commonest label does
_FEWEST_TO_JUDGE = 40  # clips below which such a gain may be luck
_DARK_GAP = 15.0  # grey levels between the darkest quarter and the middle that make it another kind of light
_SHORT_SHARE = 0.05
_OTHER_RATE_SHARE = 0.02
_LOST_SHARE = 0.01
_COPIES_SHARE = 0.10
_MAX_NAMED = 6


@dataclass(frozen=True)
class Advice:
    """One kind of thing that is out of line.

    Attributes:
        code: Its name for programs.
        level: How much it matters.
        text: One sentence.
    """

    code: str
    level: Level
    text: str


def advise(statistics: Mapping[str, Any]) -> list[Advice]:
    """Return what is out of line, the worst first.

    Args:
        statistics: What `describe_clips` returns.
    """
    found = [advice for rule in _RULES for advice in rule(statistics)]
    order = list(LEVELS)
    return sorted(found, key=lambda advice: order.index(advice.level))


def _unreadable(statistics: Mapping[str, Any]) -> Iterator[Advice]:
    count = len(statistics["unreadable"])
    if count:
        yield Advice(
            "unreadable",
            "repair",
            f"{_clips(count)} of the dataset cannot be read (first {statistics['unreadable'][0]['name']}): "
            "copy the files again, or build again with --on_bad drop.",
        )


def _leaks(statistics: Mapping[str, Any]) -> Iterator[Advice]:
    copies = statistics["copies"] or {}
    exact, near = copies.get("exact_on_several_sides", 0), copies.get("near_on_several_sides", 0)
    if exact or near:
        yield Advice(
            "copies_across_sides",
            "repair",
            f"Copies lie on several sides ({exact} exact, {near} near), so that test figures are too good: remove the "
            "copies, or build again so that they share a group.",
        )
    conflicts = copies.get("label_conflicts", 0)
    if conflicts:
        yield Advice(
            "copies_with_two_labels",
            "repair",
            f"{conflicts} {'pair' if conflicts == 1 else 'pairs'} of near copies have two labels: look at each pair "
            "in audit.json and correct the wrong label.",
        )
    groups = statistics["groups_on_several_sides"]
    if groups:
        yield Advice(
            "groups_across_sides",
            "beware",
            f"{groups} of {statistics['num_groups']} groups lie on several sides, so that the test says nothing about "
            "unseen ones: build again without --split random.",
        )
    elif statistics["recordings_unknown"]:
        yield Advice(
            "recordings_unknown",
            "beware",
            f"Every file is its own group ({statistics['num_clips']} clips), so that one recording may lie on several "
            "sides: build again with --group_by a camera or recording.",
        )


def _classes(statistics: Mapping[str, Any]) -> Iterator[Advice]:
    by_split = statistics["balance"]["by_split"]
    by_group = statistics["balance"]["by_group"]
    totals = {label: sum(counts[label] for counts in by_split.values()) for label in statistics["labels"]}
    for side, counts in by_split.items():
        absent = [label for label in counts if not counts[label]]
        if absent:
            what = "cannot be learned" if side == "train" else "gets no figure there"
            yield Advice(
                f"absent_from_{side}",
                "repair" if side == "train" else "beware",
                f"{side} has 0 clips of {_names(absent)}, so that it {what}: film more, or choose the groups of each "
                "side with --test_groups and --validation_groups.",
            )
    tested = by_split.get("test", {})
    barely = _few(tested, FEW_TESTED)
    if barely:
        yield Advice(
            "few_in_test",
            "beware",
            f"test has fewer than {FEW_TESTED} clips of {_list(barely)}, so that one mistake moves recall by "
            f"more than {100 // FEW_TESTED} points: choose groups that show more of them with --test_groups.",
        )
    few = _few(totals, FEW_CLIPS)
    if few:
        yield Advice(
            "few_clips",
            "beware",
            f"There are fewer than {FEW_CLIPS} clips of {_list(few)}, too few to learn on new cameras: film more.",
        )
    if statistics["recordings_unknown"] or len(by_group) < 2:
        return
    showing = {label: [group for group in by_group if by_group[group][label]] for label in statistics["labels"]}
    alone = [f"{_quoted(label)} ({_quoted(groups[0])})" for label, groups in showing.items() if len(groups) == 1]
    if alone:
        yield Advice(
            "one_group",
            "beware",
            f"Shown by 1 of {len(by_group)} groups only: {_list(alone)}; no test can judge this where training has "
            "not been, so film it elsewhere too.",
        )


def _light(statistics: Mapping[str, Any]) -> Iterator[Advice]:
    overall, dark = statistics["brightness"]["all"], statistics["dark_quarter"]
    if not overall or overall["count"] < _FEWEST_TO_JUDGE or overall["median"] - dark["at_most"] < _DARK_GAP:
        return
    shares = {side: share for side, share in dark["share_by_split"].items() if share is not None}
    seen = shares.get("train")
    if seen is None:
        return
    for side, share in shares.items():
        told = f"{share:.0%} of {side} and {seen:.0%} of train"
        limit = f"the darkest quarter of all clips (mean grey at most {dark['at_most']:.0f})"
        if side != "train" and share >= 0.25 and seen <= 0.05:
            yield Advice(
                "dark_not_trained",
                "beware",
                f"{told} are of {limit}, so that {side} judges light that training has not seen: add dark clips to "
                "train.",
            )
        elif side != "train" and share <= 0.05 and seen >= 0.20:
            yield Advice(
                "dark_not_judged",
                "note",
                f"{told} are of {limit}, so that {side} says little of work in the dark: add dark clips to {side}.",
            )


def _shortcuts(statistics: Mapping[str, Any]) -> Iterator[Advice]:
    told = statistics["label_told_by"]
    if not told or statistics["num_clips"] < _FEWEST_TO_JUDGE:
        return
    base = told["commonest_label"]
    remedies = {
        "group": "The group (camera or recording)",
        "size": "The picture's size",
        "brightness": "Brightness",
        "duration": "The clip's length",
    }
    for name, words in remedies.items():
        if name == "group" and statistics["recordings_unknown"]:
            continue
        if told[name] - base >= _TELLING_GAIN:
            yield Advice(
                f"label_told_by_{name}",
                "beware",
                f"{words} alone tells the label of {told[name]:.0%} of clips (always saying the commonest: "
                f"{base:.0%}), which a model can learn instead of the event: balance it over the classes.",
            )


def _footage(statistics: Mapping[str, Any]) -> Iterator[Advice]:
    durations, short = statistics["duration_seconds"]["all"], statistics["num_shorter_than_default_clip"]
    if durations and short / durations["count"] >= _SHORT_SHARE:
        # so that nineteen clips of twenty are long enough
        interval = int(durations["p05"] * DEFAULT_CLIP.nominal_fps / DEFAULT_CLIP.num_frames)
        fitting = max(1, min(interval, DEFAULT_CLIP.frame_interval - 1))
        yield Advice(
            "short_clips",
            "note",
            f"{short} of {_clips(durations['count'])} {'is' if short == 1 else 'are'} shorter than the default "
            f"clip of {default_clip_seconds():.1f} s ({DEFAULT_CLIP.num_frames} pictures, "
            f"{DEFAULT_CLIP.step_seconds:.2f} s apart): train with --frame_interval {fitting} to fit "
            "nearly all.",
        )
    rates = statistics["rates"]
    total = sum(rates.values())
    others = total - max(rates.values(), default=0)
    if total and others / total >= _OTHER_RATE_SHARE:
        main = next(iter(rates))
        yield Advice(
            "mixed_rates",
            "note",
            f"{others} of {_clips(total)} {'has' if others == 1 else 'have'} another rate than the commonest ({main} "
            "pictures a second): clips are cut in time, so keep them, but see that no class has a rate of its own.",
        )


def _copies_left_out(statistics: Mapping[str, Any]) -> Iterator[Advice]:
    lost = (statistics["copies"] or {}).get("num_left_out", 0)
    whole = lost + statistics["num_clips"]
    if lost and lost / whole > _COPIES_SHARE:
        yield Advice(
            "copies_left_out",
            "beware",
            f"{lost} of {whole} readable clips ({lost / whole:.0%}) were left out as copies of clips on another side: "
            "look at some of them (audit.json, left_out), and to keep them choose groups with --group_by, "
            "--test_groups and --validation_groups so that copies share a side.",
        )


def _lost(statistics: Mapping[str, Any]) -> Iterator[Advice]:
    lost = statistics["quarantine"]["num_files"]
    whole = lost + statistics["num_clips"] + (statistics["copies"] or {}).get("num_left_out", 0)
    if lost and lost / whole >= _LOST_SHARE:
        yield Advice(
            "quarantine",
            "note",
            f"{lost} of {whole} clips ({lost / whole:.1%}) were left out as damaged: copy them again from where they "
            "were recorded, and build again.",
        )


_RULES: tuple[Callable[[Mapping[str, Any]], Iterator[Advice]], ...] = (
    _unreadable,
    _leaks,
    _classes,
    _light,
    _shortcuts,
    _footage,
    _copies_left_out,
    _lost,
)


def _clips(count: int) -> str:
    return f"{count} clip" if count == 1 else f"{count} clips"


def _quoted(name: str) -> str:
    return f"'{name}'"


def _few(counts: Mapping[str, int], limit: int) -> list[str]:
    """Labels that occur, but less often than that, the rarest first."""
    rare = sorted((count, label) for label, count in counts.items() if 0 < count < limit)
    return [f"{_quoted(label)} ({count})" for count, label in rare]


def _names(names: Sequence[str]) -> str:
    return _list([_quoted(name) for name in names])


def _list(words: Sequence[str]) -> str:
    """The first few, and how many more."""
    shown, more = list(words[:_MAX_NAMED]), len(words) - _MAX_NAMED
    if more > 0:
        shown.append(f"{more} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if shown[1:] else shown[0]
