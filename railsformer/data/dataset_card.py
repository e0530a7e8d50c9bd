"""The card of a dataset: YAML that load_dataset goes by, and text for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from railsformer.data.splits.sides import SPLITS

__all__ = ["BuildSummary", "dataset_card"]


@dataclass(frozen=True)
class BuildSummary:
    """What was built; written to dataset.json.

    Attributes:
        output_dir: Folder of the dataset.
        fingerprint: SHA-256 over the sorted (split, SHA-256 of the file, label, group) of all rows.
        split_kind: How the sides were told apart, in words.
        seed: What broke ties, or drew the rows.
        labels: Label names in the order of their ids.
        counts: Videos by side and label.
        groups: Number of groups by side.
        groups_on_several_sides: 0 unless the split is random.
        copies_on_several_sides: Sets of videos with the same pictures that lie on more than one side.
        near_copies_on_several_sides: Pairs of near copies that were found and lie on two sides.
        num_copies_left_out: Videos left out because a copy of them lies on another side.
        num_dropped: Videos left out because they cannot be read.
        num_left_out: Videos in the source that no label points to.
        random_split_leaks: What a random split would have leaked, as in audit.json.
    """

    output_dir: Path
    fingerprint: str
    split_kind: str
    seed: int
    labels: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    groups: dict[str, int]
    groups_on_several_sides: int
    copies_on_several_sides: int
    near_copies_on_several_sides: int = 0
    num_copies_left_out: int = 0
    num_dropped: int = 0
    num_left_out: int = 0
    random_split_leaks: dict[str, float] = field(default_factory=dict)

    @property
    def leak_sentence(self) -> str:
        """What a random split would have leaked."""
        leaks = self.random_split_leaks
        return (
            f"A random split would have tested on {leaks['test_rows']:.0f} videos, of which {leaks['same_group']:.0f} "
            f"have their own group in training, {leaks['exact_leaked']:.1f} an exact and {leaks['near_leaked']:.1f} a "
            "near copy (means over draws)."
        )

    def balance_table(self) -> str:
        """Return videos by label and side as a Markdown table."""
        lines = ["| label | " + " | ".join(SPLITS) + " | all |", "|---|" + "---:|" * (len(SPLITS) + 1)]
        rows = [(label, [self.counts[side][label] for side in SPLITS]) for label in self.labels]
        totals = [sum(self.counts[side].values()) for side in SPLITS]
        for name, numbers in [*rows, ("**all**", totals)]:
            name = name.replace("|", "\\|")
            lines.append(f"| {name} | " + " | ".join(str(number) for number in [*numbers, sum(numbers)]) + " |")
        return "\n".join(lines)


def dataset_card(
    summary: BuildSummary, settings: Mapping[str, Any], dtypes: Mapping[str, str], *, audit: str = ""
) -> str:
    """Return README.md: what load_dataset needs in YAML, then what a reader needs.

    Args:
        summary: What was built.
        settings: How: command, splits and versions are told.
        dtypes: Type of every metadata column but file_name.
        audit: The leak audit in Markdown.
    """
    header = yaml.safe_dump(_header(summary, dtypes), allow_unicode=True, sort_keys=False)
    return "---\n" + header + "---\n\n" + _body(summary, settings, dtypes, audit)


def _header(summary: BuildSummary, dtypes: Mapping[str, str]) -> dict[str, Any]:
    return {
        "license": "unknown",
        "task_categories": ["video-classification"],
        "tags": ["railsformer", "video"],
        "configs": [
            {
                "config_name": "default",
                # load_dataset keys its cache by this block and the folder's last name, not by the folder's path nor by
                # its files: without words that are new at every build it would read another dataset of that name.
                "description": f"{summary.fingerprint[:16]} built {datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f} UTC",
                "data_files": [{"split": side, "path": f"data/{side}/**"} for side in SPLITS],
                # Here and not under dataset_info, which load_dataset ignores for folders of videos.
                "features": _features(summary.labels, dtypes),
            }
        ],
    }


def _body(summary: BuildSummary, settings: Mapping[str, Any], dtypes: Mapping[str, str], audit: str) -> str:
    sides = "\n".join(f"| {side} | {sum(summary.counts[side].values())} | {summary.groups[side]} |" for side in SPLITS)
    versions = ", ".join(f"{name} {number}" for name, number in settings["versions"].items())
    # file_name, label, group, source, start_seconds and end_seconds come first
    carried = "".join(f", {name}" for name in list(dtypes)[5:])
    return f"""# {summary.output_dir.resolve().name}

{sum(sum(row.values()) for row in summary.counts.values())} labelled videos in {len(summary.labels)} classes, built \
with railsformer. Nobody has stated a licence yet: fill in `license` above before sharing.

## Classes

{summary.balance_table()}

## Split

{summary.split_kind[0].upper() + summary.split_kind[1:]}. Groups on more than one side: \
{summary.groups_on_several_sides}; sets of exact copies: {summary.copies_on_several_sides}; pairs of near copies \
that were found: {summary.near_copies_on_several_sides}. {summary.num_copies_left_out} video(s) were left out because \
a copy lies on another side.

| split | videos | groups |
|---|---:|---:|
{sides}

## Leak audit

{audit.strip()}

## Videos

{_describe_videos(settings.get("proxy"))}

## Columns

`file_name`, label, group (what the split keeps together), source (the file's path where it came from), start_seconds,
end_seconds{carried}.

## Reading it

```python
from datasets import Video, load_dataset

dataset = load_dataset("{summary.output_dir.resolve().name}")  # this folder, or the repository's name on the Hub
dataset = dataset.cast_column("video", Video(decode=False))  # paths; decoding in datasets needs torchcodec
```

`load_dataset` keeps a copy of the table: after editing metadata or moving the folder say
`load_dataset(..., download_mode="force_redownload")`. railsformer itself sees such changes.

## How it was built

- Command: `{settings["command"] or "railsformer.data.builder.build_dataset"}`
- Seed {summary.seed}, shares {" ".join(f"{share:g}" for share in settings["splits"])}
- Versions: {versions}
- Fingerprint: `{summary.fingerprint}`
{_notes(summary)}"""


def _describe_videos(proxy: Mapping[str, Any] | None) -> str:
    if proxy is None:
        return "The originals, byte for byte; parts of longer files were cut out and encoded finely."
    return (
        f"Training proxies, not the originals: {proxy['kind']}, every picture a key picture, short side at most "
        f"{proxy['short_side_px']} px, {proxy['fps']:g} to {2 * proxy['fps']:g} pictures a second at their own times, "
        "no sound. At any instant a proxy shows what the original shows or a picture at most "
        f"{0.5 / proxy['fps']:.3g} s older."
    )


def _notes(summary: BuildSummary) -> str:
    notes = []
    if summary.num_dropped:
        notes.append(f"- {summary.num_dropped} video(s) could not be read and were left out: quarantine.csv")
    if summary.num_left_out:
        notes.append(f"- {summary.num_left_out} video(s) of the source had no label and were left out")
    for side in SPLITS:
        absent = [label for label in summary.labels if not summary.counts[side][label]]
        if absent:
            notes.append(f"- No video in {side} of: {', '.join(absent)}")
    return "".join(note + "\n" for note in notes)


def _features(labels: Sequence[str], dtypes: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the YAML form of the features; file_name becomes video."""
    names = {str(index): label for index, label in enumerate(labels)}
    typed = [{"name": name, "dtype": dtype} for name, dtype in dtypes.items() if name != "label"]
    return [
        {"name": "video", "dtype": "video"},
        {"name": "label", "dtype": {"class_label": {"names": names}}},
        *typed,
    ]
