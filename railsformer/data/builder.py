"""Labelled videos in, a Hub-style dataset on disk out.

The way: annotations, probe, fingerprints, files, sides, card. What each step has finished is kept beside the output,
so that a build that was stopped goes on where it was.
"""

import json
import logging
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from railsformer.data.annotations import read_annotations
from railsformer.data.copies.clusters import Copies
from railsformer.data.copies.fingerprints import SegmentOfFile, fingerprint_videos
from railsformer.data.copies.search import find_copies
from railsformer.data.dataset_card import BuildSummary, dataset_card
from railsformer.data.folders import building_folder, check_output_dir, whole_folder
from railsformer.data.hub_source import read_hub_annotations
from railsformer.data.metadata import StoredRow, column_dtypes, dataset_fingerprint, write_metadata
from railsformer.data.probe import VideoFacts, VideoLimits, probe_videos
from railsformer.data.proxies import PROXY_PRESETS, ProxySettings
from railsformer.data.quarantine import Quarantine, write_probe_table, write_quarantine
from railsformer.data.segments import Annotations, Segment, check_segment_ends
from railsformer.data.splits.audit import Audit, audit_split, check_labels_of_copies
from railsformer.data.splits.plan import SplitPlan, plan_split
from railsformer.data.splits.sides import SPLITS, SplitBy, count_labels, describe_split
from railsformer.data.store import encode_segments, name_rows, put_in_place
from railsformer.data.video import VideoDecodeError

__all__ = ["BuildSummary", "OnBad", "build_dataset"]

logger = logging.getLogger(__name__)

OnBad = Literal["fail", "drop", "salvage"]

_VERSION = 1
_SHOWN_BAD_FILES = 3


def build_dataset(
    source: str | Path,
    *,
    output_dir: str | Path,
    annotations: str | Path | None = None,
    label_names: str | Path | None = None,
    group_by: str | None = None,
    allow_outside: bool = False,
    splits: Sequence[float] = (0.7, 0.15, 0.15),
    test_groups: Sequence[str] = (),
    validation_groups: Sequence[str] = (),
    split: SplitBy = "group",
    seed: int = 0,
    on_bad: OnBad = "fail",
    proxy: ProxySettings | None = PROXY_PRESETS["small"],
    limits: VideoLimits | None = None,
    max_proxy_bytes: int | None = None,
    command: str | None = None,
    num_workers: int | None = None,
    progress: bool = True,
) -> BuildSummary:
    """Build a dataset that `datasets.load_dataset(output_dir)` reads.

    Either the whole dataset appears in `output_dir` or nothing does. What was finished when a build was stopped stays
    in a hidden folder beside it until the same build has ended.

    Args:
        source: Folder of videos, or a Hub dataset of videos (`user/name`).
        output_dir: Where the dataset goes; must not exist or be empty.
        annotations: Table or list of labels and times, see `read_annotations`; None means that the source's folders
            are the labels.
        label_names: Names of a list's label indices.
        group_by: See `read_annotations`.
        allow_outside: Whether the table may name files outside `source`.
        splits: Shares of train, validation and test; above 0, sum 1.
        test_groups: Groups that make up the test side.
        validation_groups: Groups that make up the validation side.
        split: `group` keeps each group on one side; `random` draws rows, blind to groups. Copies stay on one side in
            both.
        seed: Breaks ties, or draws the rows.
        on_bad: What happens to files that cannot be read to their end: `fail` refuses the source, `drop` leaves them
            out and lists them, `salvage` keeps what decodes of them and drops the rest.
        proxy: How videos are re-encoded for fast reading; None keeps the originals (segments of longer files are cut
            out and encoded finely).
        limits: What a file may hold; None means the defaults.
        max_proxy_bytes: Largest proxy of one segment.
        command: What the user typed, for the card.
        num_workers: Processes that read and encode; None means one for each core.
        progress: Whether to draw bars on stderr.

    Returns:
        What was built.

    Raises:
        FileExistsError: If `output_dir` holds something, or another build is writing it.
        PermissionError: If `output_dir` cannot be written.
        FileNotFoundError: If the source, the table or a file named in it is missing.
        VideoDecodeError: If files cannot be read and `on_bad` is `fail`.
        ValueError: If labels, groups or splits cannot be as asked for, or one video has two labels.
    """
    output_dir = Path(output_dir)
    _check_choices(split=(split, ("group", "random")), on_bad=(on_bad, ("fail", "drop", "salvage")))
    _check_positive(num_workers=num_workers, max_proxy_bytes=max_proxy_bytes)
    _check_place(output_dir, Path(source))
    plan = partial(_plan, split=split, ratios=splits, seed=seed, test=test_groups, validation=validation_groups)
    work = _Work(
        on_bad=on_bad,
        proxy=proxy,
        limits=limits or VideoLimits(),
        limit_bytes=max_proxy_bytes,
        num_workers=num_workers,
        progress=progress,
    )
    with building_folder(output_dir) as parts:
        found = _read_source(
            source,
            parts / "source",
            annotations=annotations,
            label_names=label_names,
            group_by=group_by,
            allow_outside=allow_outside,
        )
        plan(found)  # refuse before hours of reading
        material = work.prepare(found, source=source, parts=parts)
        kept = material.found
        sides = plan(kept, material.copies.clusters())
        audit = audit_split(
            [segment.name for segment in kept.segments],
            kept.groups,
            kept.labels,
            sides.sides,
            copies=material.copies,
            split_kind=_split_kind(kept, split),
            left_out=sides.left_out,
            ratios=splits,
            seed=seed,
        )
        _warn_of_label_conflicts(audit)
        settings = {
            "split": split,
            "group_by": kept.group_by,
            "splits": list(splits),
            "test_groups": list(test_groups),
            "validation_groups": list(validation_groups),
            "on_bad": on_bad,
            "proxy": None if proxy is None else asdict(proxy),
            "command": command,
            "versions": _versions(),
        }
        with whole_folder(output_dir) as folder:
            rows = _store(material, sides, folder / "data", num_workers=num_workers, progress=progress)
            summary = _summarize(rows, material, audit, output_dir, seed=seed)
            _write_tables(folder, rows, material, audit)
            _write_json(folder / "dataset.json", summary, settings)
            card = dataset_card(summary, settings, column_dtypes(kept), audit=audit.to_markdown())
            (folder / "README.md").write_text(card, encoding="utf-8")
    return summary


@dataclass(frozen=True)
class _Material:
    """What is left of a source once its files were read.

    Attributes:
        found: The good segments, with their ends filled in.
        videos: The file that holds each of them.
        copies: Which of them are copies of each other.
        facts: What was found out about each source file, by name.
        quarantine: The rows that were left out.
    """

    found: Annotations
    videos: list[Path]
    copies: Copies
    facts: dict[str, VideoFacts | VideoDecodeError]
    quarantine: list[Quarantine]


@dataclass
class _Work:
    """The long part of a build: probe, fingerprints, encoding; each goes on where it was stopped."""

    on_bad: OnBad
    proxy: ProxySettings | None
    limits: VideoLimits
    limit_bytes: int | None
    num_workers: int | None
    progress: bool

    @property
    def salvage(self) -> bool:
        return self.on_bad == "salvage"

    def prepare(self, found: Annotations, *, source: str | Path, parts: Path) -> _Material:
        """Read every file and encode what is to be stored."""
        options: dict[str, Any] = {"num_workers": self.num_workers, "progress": self.progress}
        self.quarantine: list[Quarantine] = []
        self.source = source
        paths = {segment.file_name: segment.path for segment in found.segments}
        probed = probe_videos(
            list(paths.values()), limits=self.limits, salvage=self.salvage, record=parts / "probe.jsonl", **options
        )
        facts = dict(zip(paths, probed, strict=True))
        found, _ = self._keep(found, [facts[segment.file_name] for segment in found.segments])
        seconds = {name: fact.duration_seconds for name, fact in facts.items() if isinstance(fact, VideoFacts)}
        found = check_segment_ends(found, seconds)
        fingerprints = fingerprint_videos(
            [_segment_of_file(segment) for segment in found.segments],
            record=parts / "fingerprints",
            salvage=self.salvage,
            timeout_seconds=self.limits.timeout_seconds,
            max_pixels=self.limits.max_pixels,
            **options,
        )
        found, prints = self._keep(found, fingerprints)
        copies = find_copies(prints)
        check_labels_of_copies([segment.name for segment in found.segments], found.labels, copies)
        encoded = encode_segments(
            found.segments,
            parts / "videos",
            proxy=self.proxy,
            facts=facts,
            limits=self.limits,
            salvage=self.salvage,
            limit_bytes=self.limit_bytes,
            **options,
        )
        kept = [at for at, video in enumerate(encoded) if isinstance(video, Path)]
        found, videos = self._keep(found, encoded)
        if len(kept) < len(prints):
            copies = find_copies([prints[at] for at in kept])
        return _Material(found, videos, copies, facts, self.quarantine)

    def _keep(self, found: Annotations, results: Sequence[Any]) -> tuple[Annotations, list[Any]]:
        """Take out the segments whose result is an error, or refuse the source if that was asked for."""
        pairs = list(zip(found.segments, results, strict=True))
        bad = [(segment, error) for segment, error in pairs if isinstance(error, VideoDecodeError)]
        good = [(segment, result) for segment, result in pairs if not isinstance(result, VideoDecodeError)]
        if bad and self.on_bad == "fail":
            _refuse_bad_files(
                bad, num_files=len({segment.file_name for segment in found.segments}), source=self.source
            )
        for label in sorted({segment.label for segment, _ in bad} - {segment.label for segment, _ in good}):
            first, error = next((segment, error) for segment, error in bad if segment.label == label)
            raise ValueError(
                f"label '{label}' has no video left: none of its files can be read (first {first.name}: "
                f"{error.reason}); repair them or remove the label"
            )
        if bad:
            logger.warning("%d of %d videos left out: they cannot be read", len(bad), len(pairs))
        self.quarantine += [
            Quarantine(segment.name, segment.label, segment.group, error.reason_class, error.reason)
            for segment, error in bad
        ]
        return replace(found, segments=[segment for segment, _ in good]), [result for _, result in good]


def _refuse_bad_files(bad: Sequence[tuple[Segment, VideoDecodeError]], *, num_files: int, source: str | Path) -> None:
    reasons = {segment.file_name: error.reason for segment, error in bad}
    shown = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:_SHOWN_BAD_FILES])
    more = f"; and {len(reasons) - _SHOWN_BAD_FILES} more" if len(reasons) > _SHOWN_BAD_FILES else ""
    raise VideoDecodeError(
        source,
        f"{len(reasons)} of {num_files} files cannot be read as videos ({shown}{more}); repair or remove them, leave "
        "them out with --on_bad drop, or keep what decodes with --on_bad salvage",
    )


def _segment_of_file(segment: Segment) -> SegmentOfFile:
    if segment.is_whole_file:
        return SegmentOfFile(segment.path)
    return SegmentOfFile(segment.path, segment.start_seconds, segment.end_seconds)


def _read_source(
    source: str | Path, folder: Path, *, annotations: str | Path | None, group_by: str | None, **options: Any
) -> Annotations:
    """Read a folder of videos, or a Hub dataset: a folder of that layout, or a name where there is no such folder."""
    path = Path(source)
    if path.is_dir():
        is_hub = (path / "README.md").is_file() and any(path.glob("data/*/metadata.*"))
    else:
        is_hub = not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) is not None
    if is_hub and annotations is None:
        return read_hub_annotations(str(source), folder=folder, group_by=group_by)
    return read_annotations(source, annotations=annotations, group_by=group_by, **options)


def _plan(
    found: Annotations,
    copies: Sequence[Sequence[int]] = (),
    *,
    split: SplitBy,
    ratios: Sequence[float],
    seed: int,
    test: Sequence[str],
    validation: Sequence[str],
) -> SplitPlan:
    """Give every segment its side; sides that the annotations name are taken from there."""
    named = {
        side: sorted({segment.group for segment in found.segments if segment.split == side})
        for side in ("validation", "test")
    }
    if any(named.values()):
        if test or validation or split == "random":
            raise ValueError(
                "the annotations name a split for every video; drop their split column, or drop --test_groups, "
                "--validation_groups and --split random"
            )
        test, validation = named["test"], named["validation"]
    return plan_split(
        found.groups,
        found.labels,
        split=split,
        ratios=ratios,
        seed=seed,
        test_groups=test,
        validation_groups=validation,
        copies=copies,
    )


def _split_kind(found: Annotations, split: SplitBy) -> str:
    kind = describe_split(split=split, group_by=found.group_by, num_groups=len(set(found.groups)))
    sides = {segment.split for segment in found.segments} - {None}
    if len(sides) < 2:
        return kind
    given = " and ".join(side for side in SPLITS if side in sides)
    drawn = "".join(f"; {side} drawn from train" for side in SPLITS if side not in sides)
    return f"{kind}; {given} as the annotations say{drawn}"


def _warn_of_label_conflicts(audit: Audit) -> None:
    if audit.label_conflicts:
        pair = audit.copies.near[audit.label_conflicts[0]]
        logger.warning(
            "%d pair(s) of near copies have two labels (first %s and %s); look at them, see label_conflicts in "
            "audit.json",
            len(audit.label_conflicts),
            audit.names[pair.first],
            audit.names[pair.second],
        )


def _store(
    material: _Material, plan: SplitPlan, data_dir: Path, *, num_workers: int | None, progress: bool
) -> list[StoredRow]:
    placed = [
        (segment, side, video)
        for segment, side, video in zip(material.found.segments, plan.sides, material.videos, strict=True)
        if side is not None
    ]
    segments, sides, videos = (list(column) for column in zip(*placed, strict=True))
    rows = name_rows(segments, sides, videos)
    return put_in_place(rows, videos, data_dir, num_workers=num_workers, progress=progress)


def _check_choices(**choices: tuple[str, tuple[str, ...]]) -> None:
    for name, (value, expected) in choices.items():
        if value not in expected:
            raise ValueError(f"{name} must be one of {', '.join(expected)}, got {value}")


def _check_positive(**numbers: int | None) -> None:
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}; leave it out for the default")


def _check_place(output_dir: Path, source: Path) -> None:
    check_output_dir(output_dir)
    if output_dir.resolve().is_relative_to(source.resolve()) and source.exists():
        raise ValueError(f"output_dir {output_dir} lies inside the source {source}; name a folder outside it")
    if re.search(r"[*?\[\]]", str(output_dir.resolve())):
        raise ValueError(f"output_dir {output_dir} must not contain * ? [ or ]: load_dataset takes them for a pattern")


def _summarize(
    rows: Sequence[StoredRow], material: _Material, audit: Audit, output_dir: Path, *, seed: int
) -> BuildSummary:
    labels, sides = [row.segment.label for row in rows], [row.split for row in rows]
    return BuildSummary(
        output_dir=output_dir,
        fingerprint=dataset_fingerprint(rows),
        split_kind=audit.split_kind,
        seed=seed,
        labels=tuple(sorted(set(labels))),
        counts=count_labels(labels, sides),
        groups={side: len({row.segment.group for row in rows if row.split == side}) for side in SPLITS},
        groups_on_several_sides=audit.groups_on_several_sides,
        copies_on_several_sides=audit.exact_on_several_sides,
        near_copies_on_several_sides=audit.near_on_several_sides,
        num_copies_left_out=len(audit.left_out),
        num_dropped=len(material.quarantine),
        num_left_out=len(material.found.left_out),
        random_split_leaks=audit.to_json()["random_split"],
    )


def _write_tables(folder: Path, rows: Sequence[StoredRow], material: _Material, audit: Audit) -> None:
    write_metadata(folder / "data", rows, column_dtypes(material.found))
    write_probe_table(folder / "probe.parquet", material.facts)
    if material.quarantine:
        write_quarantine(folder / "quarantine.csv", material.quarantine)
    text = json.dumps(audit.to_json(), indent=2, ensure_ascii=False)
    (folder / "audit.json").write_text(text + "\n", encoding="utf-8")


def _write_json(path: Path, summary: BuildSummary, settings: dict[str, Any]) -> None:
    facts = {key: value for key, value in asdict(summary).items() if key != "output_dir"}
    text = json.dumps({"version": _VERSION, **facts, **settings}, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("railsformer", "datasets", "av")}
    return packages | {"python": platform.python_version()}
