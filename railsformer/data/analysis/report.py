"""What is in a dataset: report.html (one file), report.md, statistics.json and PNGs for slides.

statistics.json holds, labels, splits and groups by name and null where a thing is not known:

dataset, dataset_fingerprint, split_kind, labels, splits   what was looked at
num_clips, num_groups, groups_by_split                      how much of it
groups_on_several_sides, recordings_unknown                 0 and false where the split can be trusted
balance                      by_split and by_group: clips by label
duration_seconds, num_frames, brightness, motion            all, by_label, by_split: count, mean, min, quantiles, max;
                             brightness is mean luma (0 to 255), motion a share of the picture (0 to 1)
num_shorter_than_default_clip, num_variable_rate            clips
dark_quarter                 at_most: the brightness below which a quarter of all clips lies; share_by_split
rates, sizes                 clips by pictures a second and by WIDTHxHEIGHT of the upright picture
label_told_by                share of clips whose label group, size, brightness or duration alone tells, and that of
                             always naming the commonest label
copies                       audit.json in numbers (audited: 1), or what dataset.json counts (audited: 0)
quarantine                   num_files and by_reason_class
unreadable                   name, label, group, reason_class, reason of each clip that cannot be read now
advice                       code, level (repair, beware, note) and text, the worst first
settings                     seed, num_thumbnails, motion_gap_seconds, change_grey_levels
"""

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from railsformer.data.analysis.advice import LEVELS, Advice, advise
from railsformer.data.analysis.companions import Companions, read_companions
from railsformer.data.analysis.contact_sheets import Sheet, draw_sheet, read_sheets
from railsformer.data.analysis.figures import Drawing, draw_figures, printable, shorten
from railsformer.data.analysis.measure import (
    CHANGE_GREY_LEVELS,
    MOTION_GAP_SECONDS,
    describe_clips,
    measure_clips,
)
from railsformer.data.clips import load_video_dataset
from railsformer.data.folders import check_output_dir, whole_folder

__all__ = ["AnalysisSummary", "analyze_dataset"]

_TEMPLATES = Path(__file__).parent / "templates"
_MAX_LISTED = 50


@dataclass(frozen=True)
class AnalysisSummary:
    """Where the report is and what it says.

    Attributes:
        output_dir: Folder with report.html, report.md, statistics.json and the figures.
        statistics: Content of statistics.json.
        advice: What is out of line, the worst first.
    """

    output_dir: Path
    statistics: dict[str, Any]
    advice: tuple[Advice, ...]

    def __str__(self) -> str:
        lines = [f"{number}. {LEVELS[item.level]}: {item.text}" for number, item in enumerate(self.advice, start=1)]
        return _one_line_each([*(lines or ["Nothing is out of line."]), f"Report: {self.output_dir / 'report.html'}"])


@dataclass(frozen=True)
class _Table:
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False  # cells of text, not numbers
    sum: bool = False  # the last row adds up the others


@dataclass(frozen=True)
class _Section:
    anchor: str
    title: str
    lines: Sequence[str] = ()
    drawings: Sequence[Drawing] = ()
    tables: Sequence[_Table] = field(default=())


def analyze_dataset(
    dataset: str | Path,
    *,
    output_dir: str | Path,
    num_thumbnails: int = 8,
    seed: int = 0,
    num_workers: int | None = None,
    progress: bool = True,
) -> AnalysisSummary:
    """Say what is in a dataset and what is out of line.

    Args:
        dataset: Dataset folder or Hub id. A clip that cannot be read is listed, not fatal.
        output_dir: Folder to write; must be absent or empty.
        num_thumbnails: Clips of each class on the contact sheets.
        seed: Draws those clips.
        num_workers: Threads that read; None means one for each core.
        progress: Whether to draw bars on stderr.

    Raises:
        FileExistsError: If `output_dir` holds something.
        FileNotFoundError: If the dataset is not there.
        PermissionError: If `output_dir` cannot be written.
        ValueError: If the dataset or a table beside it is damaged, or a number is out of range.
    """
    for name, value, least in (("num_thumbnails", num_thumbnails, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name} must be {least} or more, got {value}")
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"num_workers must be 1 or more, got {num_workers}")
    folder = check_output_dir(output_dir)
    if Path(dataset).is_dir() and folder.resolve().is_relative_to(Path(dataset).resolve()):
        raise ValueError(f"output_dir {output_dir} lies inside the dataset {dataset}; name a folder outside it")
    loaded = load_video_dataset(dataset)
    companions = read_companions(dataset)
    clips = measure_clips(loaded, companions, num_workers=num_workers, progress=progress)
    statistics = describe_clips(loaded, clips, companions)
    advice = advise(statistics)
    statistics["advice"] = [asdict(item) for item in advice]
    statistics["settings"] = {
        "seed": seed,
        "num_thumbnails": num_thumbnails,
        "motion_gap_seconds": MOTION_GAP_SECONDS,
        "change_grey_levels": CHANGE_GREY_LEVELS,
    }
    sheets = read_sheets(
        loaded, clips, num_thumbnails=num_thumbnails, seed=seed, num_workers=num_workers, progress=progress
    )
    with whole_folder(folder) as whole:
        _write(whole, statistics, draw_figures(statistics, clips), sheets, companions)
    return AnalysisSummary(folder, statistics, tuple(advice))


def _one_line_each(lines: Sequence[str]) -> str:
    """Lines of text whose names cannot add lines of their own."""
    return "\n".join(map(printable, lines))


def _write(
    folder: Path,
    statistics: Mapping[str, Any],
    drawings: Sequence[Drawing],
    sheets: Sequence[Sheet],
    companions: Companions,
) -> None:
    text = json.dumps(statistics, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "statistics.json").write_text(text + "\n", encoding="utf-8", errors="replace")
    for drawing in drawings:
        (folder / f"{drawing.name}.png").write_bytes(drawing.slide)
    for sheet in sheets:
        (folder / sheet.file_name).write_bytes(draw_sheet(sheet))
    content = {
        "title": printable(Path(statistics["dataset"]).name or statistics["dataset"]),
        "split_sentence": f"{statistics['num_clips']} clips; split: {statistics['split_kind']}.",
        "headline": _headline(statistics),
        "advice": [{"level": item["level"], "text": printable(item["text"])} for item in statistics["advice"]],
        "levels": LEVELS,
        "sections": _sections(statistics, {drawing.name: drawing for drawing in drawings}, companions),
        "sheets": sheets,
        "seed": statistics["settings"]["seed"],
        "method": _method(statistics, companions),
    }
    page = _environment(autoescape=True)
    page.filters["flags"] = _mark_flags
    page.globals |= {"png": partial(_data_uri, kind="png"), "jpeg": _jpeg_uri}
    html = page.get_template("analysis.html").render(content)
    (folder / "report.html").write_text(html, encoding="utf-8", errors="replace")
    plain = _environment(autoescape=False)
    plain.filters["cell"] = _markdown_cell
    markdown = plain.get_template("analysis.md").render(content)
    (folder / "report.md").write_text(markdown, encoding="utf-8", errors="replace")


def _environment(*, autoescape: bool) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )


def _data_uri(content: bytes, *, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _jpeg_uri(picture: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="jpeg", quality=82)
    return _data_uri(file.getvalue(), kind="jpeg")


def _mark_flags(text: str) -> Markup:
    """Escaped text whose --flags are set as code, so that they are not broken at their hyphens."""
    return Markup(re.sub(r"(--[a-z_]+)", r"<code>\1</code>", str(escape(text))))


def _markdown_cell(value: object) -> str:
    """Text that can neither end a cell nor begin HTML, a link or emphasis."""
    return re.sub(r"([\\`*_\[\]|<>#~$])", r"\\\1", printable(str(value))).replace("&", "&amp;")


def _headline(statistics: Mapping[str, Any]) -> list[tuple[str, str]]:
    durations = statistics["duration_seconds"]["all"]
    seconds = durations["mean"] * durations["count"] if durations else 0.0
    lines = [
        ("clips", f"{statistics['num_clips']:,}"),
        ("classes", str(len(statistics["labels"]))),
        ("groups", str(statistics["num_groups"]) if not statistics["recordings_unknown"] else "unknown"),
        ("footage", _length(seconds)),
        ("left out", _left_out(statistics)),
    ]
    if statistics["unreadable"]:
        lines.append(("cannot be read", str(len(statistics["unreadable"]))))
    return lines


def _left_out(statistics: Mapping[str, Any]) -> str:
    damaged, copies = statistics["quarantine"]["num_files"], statistics["copies"]
    if not copies or not copies["audited"]:
        return f"{damaged} damaged"
    return f"{damaged} damaged, {_counted(copies['num_left_out'], 'copy', 'copies')}"


def _counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def _length(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _sections(
    statistics: Mapping[str, Any], drawings: Mapping[str, Drawing], companions: Companions
) -> list[_Section]:
    def drawn(*names: str) -> list[Drawing]:
        return [drawings[name] for name in names if name in drawings]

    return [
        _Section("balance", "Class balance", (), drawn("balance", "groups"), _balance_tables(statistics)),
        _Section(
            "durations",
            "Durations",
            (),
            drawn("durations"),
            [_spread_table(statistics, "duration_seconds", "seconds")],
        ),
        _Section(
            "footage",
            "Frames, rates and sizes",
            _rate_lines(statistics),
            drawn("footage"),
            [
                _spread_table(statistics, "num_frames", "pictures a clip", digits=0),
                _tally_table("Clips by rate", "pictures a second", statistics["rates"]),
                _tally_table("Clips by size", "px", statistics["sizes"]),
            ],
        ),
        _Section(
            "light", "Brightness", (), drawn("brightness"), [_spread_table(statistics, "brightness", "grey levels")]
        ),
        _Section(
            "motion",
            "Motion",
            (
                f"Share of the picture that differs by more than {CHANGE_GREY_LEVELS:g} grey levels after "
                f"{MOTION_GAP_SECONDS:g} s, once flicker and exposure (one gain and offset a picture) are taken out.",
            ),
            drawn("motion"),
            [_spread_table(statistics, "motion", "percent of the picture", scale=100.0)],
        ),
        _copies_section(statistics, drawn("leaks"), companions),
        *_left_out_section(companions),
        _quarantine_section(statistics, companions),
    ]


def _rate_lines(statistics: Mapping[str, Any]) -> tuple[str, ...]:
    varying = statistics["num_variable_rate"]
    return () if varying is None else (f"Clips whose rate varies: {varying}.",)


def _balance_tables(statistics: Mapping[str, Any]) -> list[_Table]:
    by_split, labels = statistics["balance"]["by_split"], statistics["labels"]
    rows = [[label, *(str(counts[label]) for counts in by_split.values())] for label in labels]
    rows = [[*row, str(sum(counts[row[0]] for counts in by_split.values()))] for row in rows]
    totals = [sum(counts.values()) for counts in by_split.values()]
    rows.append(["all", *map(str, totals), str(sum(totals))])
    tables = [_Table("Clips by class and split", ["class", *by_split, "all"], rows, sum=True)]
    by_group = statistics["balance"]["by_group"]
    if by_group and not statistics["recordings_unknown"]:
        names = sorted(by_group, key=lambda group: -sum(by_group[group].values()))
        more = f", the {_MAX_LISTED} largest of {len(names)}" if len(names) > _MAX_LISTED else ""
        rows = [
            [name, *(str(by_group[name][label]) for label in labels), str(sum(by_group[name].values()))]
            for name in names[:_MAX_LISTED]
        ]
        tables.append(
            _Table(
                f"Clips by group and class{more}", ["group", *(shorten(label, 24) for label in labels), "all"], rows
            )
        )
    return tables


def _spread_table(
    statistics: Mapping[str, Any], key: str, unit: str, *, digits: int = 1, scale: float = 1.0
) -> _Table:
    columns = {"clips": "count", "least": "min", "5%": "p05", "median": "median", "95%": "p95", "most": "max"}
    rows = []
    figures = statistics[key]
    for name, told in [*figures["by_label"].items(), *figures["by_split"].items(), ("all", figures["all"])]:
        cells = [
            "–" if told is None else str(told[column]) if column == "count" else f"{told[column] * scale:.{digits}f}"
            for column in columns.values()
        ]
        rows.append([name, *cells])
    return _Table(f"By class, by split and overall, in {unit}", ["", *columns], rows, sum=True)


def _tally_table(caption: str, head: str, tally: Mapping[str, int], *, of: str = "clips") -> _Table:
    return _Table(caption, [head, of], [[name, str(count)] for name, count in list(tally.items())[:_MAX_LISTED]])


def _copies_section(statistics: Mapping[str, Any], drawings: Sequence[Drawing], companions: Companions) -> _Section:
    copies = statistics["copies"]
    if copies is None:
        return _Section("copies", "Copies", ("Nobody has looked for copies: there is no audit.json in this dataset.",))
    if not copies["audited"]:
        line = (
            f"Files with an exact copy on another side: {copies['exact_on_several_sides']}. Nobody has looked for "
            "near copies: there is no audit.json in this dataset."
        )
        return _Section("copies", "Copies", (line,))
    lines = [
        f"Found in the source: {_counted(copies['exact_clusters'], 'set', 'sets')} of exact copies "
        f"({copies['files_in_exact_clusters']} clips) and {_counted(copies['near_pairs'], 'pair', 'pairs')} of near "
        f"copies. {_counted(copies['num_left_out'], 'copy was', 'copies were')} left out; of what is in the dataset "
        f"{copies['exact_on_several_sides']} sets and {copies['near_on_several_sides']} pairs lie across sides."
    ]
    still = companions.audit.get("too_still_to_judge") or []
    if still:
        lines.append(
            f"{_counted(len(still), 'clip hardly moves', 'clips hardly move')}: few near copies are found there."
        )
    pairs = (companions.audit.get("near_copies") or {}).get("pairs") or []
    alike = sum(bool(pair.get("still")) for pair in pairs)
    if alike:
        lines.append(f"In {alike} of the near pairs nothing moves: they look alike, but may be of different moments.")
    return _Section("copies", "Copies", lines, drawings, _copies_tables(companions.audit))


def _copies_tables(audit: Mapping[str, Any]) -> list[_Table]:
    clusters = (audit.get("exact_copies") or {}).get("clusters") or []
    tables = []
    if clusters:
        rows = [[", ".join(map(str, names))] for names in clusters[:_MAX_LISTED]]
        tables.append(_Table(f"Sets of exact copies{_listed(clusters)}", ["clips"], rows, words=True))
    conflicts = audit.get("label_conflicts") or []
    if conflicts:
        rows = [list(map(str, names)) for names in conflicts[:_MAX_LISTED]]
        head = ["clip", "looks like"]
        tables.append(_Table(f"Near copies with two labels{_listed(conflicts)}", head, rows, words=True))
    pairs = (audit.get("near_copies") or {}).get("pairs") or []
    if pairs:
        rows = [
            [
                str(pair.get("first")),
                str(pair.get("second")),
                _number(pair.get("similarity")),
                "no" if pair.get("still") else "yes",
            ]
            for pair in pairs[:_MAX_LISTED]
        ]
        head = ["clip", "looks like", "similarity", "moves"]
        tables.append(_Table(f"Near copies{_listed(pairs)}", head, rows, words=True))
    return tables


def _left_out_section(companions: Companions) -> list[_Section]:
    lost = companions.audit.get("left_out") or []
    if not lost:
        return []
    line = (
        f"{_counted(len(lost), 'clip is', 'clips are')} in no split: each is a copy of a clip on another side. No "
        "figure but those on copies counts them."
    )
    rows = [[str(row.get(key) or "") for key in ("file_name", "copy_of", "kind")] for row in lost[:_MAX_LISTED]]
    table = _Table(f"Clips left out{_listed(lost)}", ["left out", "copy of", "kind"], rows, words=True)
    return [_Section("left_out", "Left out as copies", (line,), (), (table,))]


def _quarantine_section(statistics: Mapping[str, Any], companions: Companions) -> _Section:
    tables = []
    unreadable, lost = statistics["unreadable"], companions.quarantine
    if unreadable:
        rows = [[row["name"], row["label"], row["reason"]] for row in unreadable[:_MAX_LISTED]]
        head = ["clip", "class", "reason"]
        tables.append(_Table(f"Clips of the dataset that cannot be read{_listed(unreadable)}", head, rows, words=True))
    if lost:
        tables.append(
            _tally_table(
                "Left out as damaged, by kind", "kind", statistics["quarantine"]["by_reason_class"], of="files"
            )
        )
        rows = [[row.file_name, row.label, row.reason] for row in lost[:_MAX_LISTED]]
        tables.append(_Table(f"Left out as damaged{_listed(lost)}", ["file", "class", "reason"], rows, words=True))
    lines = () if tables else ("Every clip can be read, and no file was left out as damaged.",)
    return _Section("quarantine", "Damaged files", lines, (), tables)


def _listed(entries: Sequence[Any]) -> str:
    return f", the first {_MAX_LISTED} of {len(entries)}" if len(entries) > _MAX_LISTED else ""


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "–"


def _method(statistics: Mapping[str, Any], companions: Companions) -> list[str]:
    where = "the source files (probe.parquet)" if companions.probe else "the files of the dataset"
    return [
        f"Eight pictures of each clip were looked at: four pairs {MOTION_GAP_SECONDS:g} s apart, spread over its "
        "length. Brightness is the mean luma of all eight.",
        f"Rates, sizes and pictures are those of {where}.",
        f"Dataset fingerprint {statistics['dataset_fingerprint'] or 'none stated'}. All numbers: statistics.json.",
    ]
