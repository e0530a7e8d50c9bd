import csv
import json
import re
import shutil
from dataclasses import replace
from fractions import Fraction
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from railsformer.data.analysis.advice import LEVELS, advise
from railsformer.data.analysis.companions import Companions
from railsformer.data.analysis.figures import name_rows
from railsformer.data.analysis.measure import (
    ClipFacts,
    changed_share,
    describe_clips,
    label_told_by,
    picture_times,
)
from railsformer.data.analysis.report import analyze_dataset
from railsformer.data.builder import build_dataset
from railsformer.data.clips import VideoDataset
from railsformer.data.probe import VideoFacts
from railsformer.data.quarantine import Quarantine, write_probe_table
from railsformer.data.video import VideoDecodeError

HOSTILE = ['<script>alert("x")</script>', "a|b `c` $x^2$ \"'", "zwei\nZeilen & [mehr](#x)"]


def _write_clip(path: Path, *, grey: int, moving: bool = False, flicker: int = 0, fps: int = 10, seconds: float = 1.2):
    """A square on an even ground; `flicker` is how far every other picture is brighter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(round(seconds * fps)):
            picture = np.full((64, 96, 3), grey + flicker * (index % 2), dtype=np.uint8)
            left = 8 + (5 * index if moving else 0)
            picture[20:44, left : left + 24] += 40
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _write_dataset(folder: Path, rows: list[tuple[str, str, str, Path]], labels: list[str]) -> Path:
    """The layout by hand; a row is its split, label, group and the file to copy."""
    splits = list(dict.fromkeys(split for split, *_ in rows))
    features = [
        {"name": "video", "dtype": "video"},
        {"name": "label", "dtype": {"class_label": {"names": {str(n): label for n, label in enumerate(labels)}}}},
        *({"name": name, "dtype": "string"} for name in ("group", "source")),
        *({"name": name, "dtype": "float64"} for name in ("start_seconds", "end_seconds")),
    ]
    data_files = [{"split": split, "path": f"data/{split}/**"} for split in splits]
    header = {"configs": [{"config_name": "default", "data_files": data_files, "features": features}]}
    for split in splits:
        place = folder / "data" / split
        place.mkdir(parents=True)
        with (place / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["file_name", "label", "group", "source", "start_seconds", "end_seconds"])
            for number, (_, label, group, path) in enumerate(row for row in rows if row[0] == split):
                shutil.copyfile(path, place / f"{number}.mp4")
                writer.writerow([f"{number}.mp4", label, group, f"{split}/{number}.mp4", 0.0, 1.2])
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(header, allow_unicode=True)}---\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    return {
        "bright": _write_clip(folder / "bright.mp4", grey=200),
        "dark": _write_clip(folder / "dark.mp4", grey=30, moving=True),
        "middle": _write_clip(folder / "middle.mp4", grey=110),
    }


@pytest.fixture(scope="module")
def planted(clips, tmp_path_factory):
    """Bright and still, dark and moving, and a rare class that one camera shows and only training holds."""
    sides = {"train": ("cam 0", 30), "validation": ("cam 1", 12), "test": ("cam 2", 12)}
    rows = [
        (split, label, group, clips[label])
        for split, (group, count) in sides.items()
        for label in ("bright", "dark")
        for _ in range(count)
    ]
    rows += [("train", "rare", "cam 0", clips["middle"])] * 6
    folder = tmp_path_factory.mktemp("planted")
    dataset = _write_dataset(folder / "dataset", rows, ["bright", "dark", "rare"])
    (dataset / "data/test/0.mp4").write_bytes(b"no video")
    return analyze_dataset(dataset, output_dir=folder / "report", progress=False), dataset


@pytest.fixture(scope="module")
def hostile(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    rows = [(split, label, f"{label} {split}", clips["dark"]) for split in ("train", "test") for label in HOSTILE] * 2
    dataset = _write_dataset(folder / "dataset", rows, HOSTILE)
    with (dataset / "quarantine.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [
                ["file_name", "label", "group", "reason_class", "reason"],
                ["<img src=x>.mp4", HOSTILE[0], "g", "empty", "it is empty\nreally"],
            ]
        )
    analyze_dataset(dataset, output_dir=folder / "report", num_thumbnails=2, seed=1, progress=False)
    return folder / "report", dataset


class _Page(HTMLParser):
    """Every tag with its attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_statistics_tell_what_was_planted(planted):
    summary, _ = planted
    told = json.loads((summary.output_dir / "statistics.json").read_text(encoding="utf-8"))
    assert told == summary.statistics
    assert told["num_clips"] == 114
    assert told["balance"]["by_split"] == {
        "train": {"bright": 30, "dark": 30, "rare": 6},
        "validation": {"bright": 12, "dark": 12, "rare": 0},
        "test": {"bright": 12, "dark": 12, "rare": 0},
    }
    assert told["balance"]["by_group"]["cam 0"] == {"bright": 30, "dark": 30, "rare": 6}
    assert told["groups_by_split"] == {"train": 1, "validation": 1, "test": 1}
    assert told["groups_on_several_sides"] == 0
    assert told["rates"] == {"10": 113}
    assert told["sizes"] == {"96x64": 113}
    assert told["num_frames"]["all"]["median"] == 12
    assert told["duration_seconds"]["by_label"]["dark"]["max"] == pytest.approx(1.2)
    square = 40 * 24 * 24 / (96 * 64)
    for label, grey in (("bright", 200), ("dark", 30), ("rare", 110)):
        assert told["brightness"]["by_label"][label]["median"] == pytest.approx(grey + square, abs=4)
    assert told["motion"]["by_label"]["bright"]["max"] == told["motion"]["by_label"]["rare"]["max"] == 0
    # half a second is 5 pictures of 5 px: the 24 px high and wide square uncovers and covers 24 px of width each
    assert told["motion"]["by_label"]["dark"]["median"] == pytest.approx(2 * 24 * 24 / (96 * 64), rel=0.2)
    assert told["label_told_by"]["brightness"] > 0.9
    assert told["copies"] is None


def test_advice_is_what_was_planted_and_nothing_else(planted):
    summary, _ = planted
    assert {item.code for item in summary.advice} == {
        "unreadable",
        "absent_from_validation",
        "absent_from_test",
        "few_clips",
        "one_group",
        "label_told_by_brightness",
        "short_clips",
    }
    assert summary.advice[0].code == "unreadable"
    order = [list(LEVELS).index(item.level) for item in summary.advice]
    assert order == sorted(order)
    texts = {item.code: item.text for item in summary.advice}
    assert "fewer than 50 clips of 'rare' (6)," in texts["few_clips"]
    assert "1 of 3 groups only: 'rare' ('cam 0');" in texts["one_group"]
    assert texts["short_clips"].endswith("--frame_interval 4 to fit nearly all.")  # 8 x 4 / 30 s = 1.07 s


def test_unreadable_clip_is_listed_and_counted(planted):
    summary, _ = planted
    (entry,) = summary.statistics["unreadable"]
    reason = entry.pop("reason")
    assert entry == {"name": "test/0.mp4", "label": "bright", "group": "cam 2", "reason_class": "unreadable"}
    page = (summary.output_dir / "report.html").read_text(encoding="utf-8")
    assert "test/0.mp4" in page
    assert reason[:20] in page


def test_page_is_one_file_that_asks_for_nothing(planted, hostile):
    for folder in (planted[0].output_dir, hostile[0]):
        text = (folder / "report.html").read_text(encoding="utf-8")
        page = _Page(text)
        assert page.open == []
        assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base", "form"}
        for _, attributes in page.tags:
            for name in ("src", "srcset"):
                assert attributes.get(name, "data:image/").startswith("data:image/")
            assert attributes.get("href", "#").startswith("#")
            assert not any(name.startswith("on") for name in attributes)
        css = re.search(r"<style>(.*?)</style>", text, re.DOTALL).group(1)
        assert "url(" not in css
        assert "@import" not in css


def test_page_serves_those_who_do_not_see_the_pictures(planted):
    page = _Page((planted[0].output_dir / "report.html").read_text(encoding="utf-8"))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert images
    assert all(attributes["alt"].strip() for attributes in images)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("caption") == tags.count("table") > 0
    identifiers = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {attributes["href"][1:] for tag, attributes in page.tags if tag == "a"} <= identifiers


def test_markdown_links_pictures_of_a_slide_s_size(planted):
    folder = planted[0].output_dir
    named = re.findall(r"\]\(([^)]+\.png)\)", (folder / "report.md").read_text(encoding="utf-8"))
    assert sorted(named) == sorted(path.name for path in folder.glob("*.png"))
    assert {"balance.png", "groups.png", "durations.png", "brightness.png", "motion.png", "footage.png"} <= set(named)
    for name in named:
        with Image.open(folder / name) as image:
            assert image.width == 2000


def test_hostile_names_stay_text(hostile):
    folder, _ = hostile
    page = _Page((folder / "report.html").read_text(encoding="utf-8"))
    words = "".join(page.words)
    assert '<script>alert("x")</script>' in words
    assert "<img src=x>.mp4" in words
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    assert "<script" not in re.sub(r"\\<", "", markdown)
    for table in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert "a\\|b" in markdown
    told = json.loads((folder / "statistics.json").read_text(encoding="utf-8"))
    assert told["labels"] == HOSTILE
    names = {path.name for path in folder.iterdir()}
    assert all(re.fullmatch(r"[a-z0-9_.]+", name) for name in names)
    assert "clips_02_zwei_zeilen_mehr_x.png" in names


@pytest.mark.slow
def test_contact_sheets_are_a_function_of_the_seed(hostile, tmp_path):
    folder, dataset = hostile
    sheets = {path.name: path.read_bytes() for path in folder.glob("clips_*.png")}
    assert len(sheets) == 3
    for seed, same in ((1, True), (2, False)):
        again = analyze_dataset(
            dataset, output_dir=tmp_path / str(seed), num_thumbnails=2, seed=seed, num_workers=2, progress=False
        )
        drawn = {path.name: path.read_bytes() for path in again.output_dir.glob("clips_*.png")}
        assert (drawn == sheets) is same
        if same:
            names = ("report.html", "statistics.json")
            assert all((folder / name).read_bytes() == (again.output_dir / name).read_bytes() for name in names)


def test_what_the_build_left_is_shown(clips, tmp_path):
    rows = [(split, "dark", f"cam {split}", clips["dark"]) for split in ("train", "test")]
    dataset = _write_dataset(tmp_path / "dataset", rows, ["dark"])
    probe = {
        f"{split}/0.mp4": VideoFacts(10.0, 250, 25.0, 1920, 1080, "h264", 90, variable_rate=split == "test")
        for split in ("train", "test")
    }
    write_probe_table(dataset / "probe.parquet", probe | {"lost.mp4": VideoDecodeError("lost.mp4", "gone", "missing")})
    audit = {
        "version": 1,
        "exact_copies": {"clusters": [["train/0.mp4", "test/0.mp4"]], "on_several_sides": 1},
        "near_copies": {"pairs": [], "on_several_sides": 0},
        "random_split": {"draws": 10, "test_rows": 4.0, "exact_leaked": 1.0, "near_leaked": 0.0, "same_group": 3.0},
    }
    (dataset / "audit.json").write_text(json.dumps(audit))
    report = analyze_dataset(dataset, output_dir=tmp_path / "report", progress=False)
    told = report.statistics
    assert told["sizes"] == {"1080x1920": 2}
    assert told["rates"] == {"25": 2}
    assert told["num_variable_rate"] == 1
    assert told["num_frames"]["all"]["max"] == 30  # 1.2 s of them
    assert told["copies"]["exact_on_several_sides"] == 1
    assert told["copies"]["random_split"]["share_of_test"] == {
        "exact_leaked": 0.25,
        "near_leaked": 0.0,
        "same_group": 0.75,
    }
    assert report.advice[0].code == "copies_across_sides"
    assert (report.output_dir / "leaks.png").is_file()
    assert "train/0.mp4, test/0.mp4" in (report.output_dir / "report.html").read_text(encoding="utf-8")


def test_copies_left_out_are_told_and_listed(clips, tmp_path):
    rows = [(split, "dark", f"cam {split}", clips["dark"]) for split in ("train", "test")]
    dataset = _write_dataset(tmp_path / "dataset", rows, ["dark"])
    left_out = [{"file_name": f"a/<b>{n}.mp4", "copy_of": "test/0.mp4", "kind": "near"} for n in range(51)]
    (dataset / "audit.json").write_text(
        json.dumps({"left_out": left_out, "label_conflicts": [["one.mp4", "two.mp4"]]})
    )
    report = analyze_dataset(dataset, output_dir=tmp_path / "report", progress=False)
    assert "51 of 53 readable clips (96%)" in next(a.text for a in report.advice if a.code == "copies_left_out")
    words = "".join(_Page((report.output_dir / "report.html").read_text(encoding="utf-8")).words)
    assert "0 damaged, 51 copies" in words
    assert "Clips left out, the first 50 of 51" in words
    assert "a/<b>49.mp4" in words
    assert "a/<b>50.mp4" not in words
    assert "two.mp4" in words
    assert "**0 damaged, 51 copies**" in (report.output_dir / "report.md").read_text(encoding="utf-8")


def test_what_the_builder_writes_is_read(clips, tmp_path):
    for camera in range(3):
        for label, grey in (("bright", 200), ("dark", 30)):
            _write_clip(tmp_path / f"source/{label}/cam{camera}_a.mp4", grey=grey + 9 * camera, moving=camera > 0)
    shutil.copyfile(tmp_path / "source/dark/cam1_a.mp4", tmp_path / "source/dark/cam2_b.mp4")
    (tmp_path / "source/dark/cam0_lost.mp4").write_bytes(b"no video")
    build_dataset(
        tmp_path / "source",
        output_dir=tmp_path / "dataset",
        group_by=r"(cam\d)_",
        test_groups=["cam1"],
        validation_groups=["cam2"],
        on_bad="drop",
        num_workers=1,
        progress=False,
    )
    report = analyze_dataset(tmp_path / "dataset", output_dir=tmp_path / "report", progress=False)
    told = report.statistics
    audit = json.loads((tmp_path / "dataset/audit.json").read_text())
    assert told["quarantine"] == {"num_files": 1, "by_reason_class": {"unreadable": 1}}
    assert told["copies"]["num_left_out"] == len(audit["left_out"]) > 0
    assert told["num_clips"] == 7 - len(audit["left_out"])
    assert told["unreadable"] == []
    assert told["sizes"] == {"96x64": told["num_clips"]}
    assert told["num_variable_rate"] == 0
    page = (report.output_dir / "report.html").read_text(encoding="utf-8")
    assert all(entry["file_name"] in page for entry in audit["left_out"])
    assert "dark/cam0_lost.mp4" in page


@pytest.mark.parametrize("names", [HOSTILE, ["x" * 60, "a_" * 30, "person on track " * 4]])
def test_long_and_many_names_do_not_run_into_each_other(names):
    for count in (4, 12, 20):
        figure = Figure(figsize=(10, max(5.625, 1.4 + 0.36 * count)), layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots()
        name_rows(axes, [f"{number} {names[number % len(names)]}" for number in range(count)], narrow=False)
        canvas.draw()
        boxes = [text.get_window_extent() for text in axes.get_yticklabels()]
        assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(boxes))
        assert all(box.x0 >= 0 for box in boxes)


@pytest.mark.slow
def test_dataset_on_the_hub_is_read_with_what_lies_beside_it(clips, hub, tmp_path):
    rows = [(split, "dark", f"cam {split}", clips["dark"]) for split in ("train", "test")]
    dataset = _write_dataset(tmp_path / "dataset", rows, ["dark"])
    (dataset / "dataset.json").write_text(json.dumps({"split_kind": "by camera (2 groups)"}))
    audit = {"exact_copies": {"clusters": [["a", "b"]], "on_several_sides": 0}}
    (dataset / "audit.json").write_text(json.dumps(audit))
    push = "import json, sys; from railsformer.hub.push import push; print(json.dumps(push(*sys.argv[1:])))"
    hub.run(push, dataset, "user/yard")
    analyze = """
import json, sys
from railsformer.data.analysis.report import analyze_dataset
told = analyze_dataset("user/yard", output_dir=sys.argv[1], progress=False).statistics
copies, lost = told["copies"]["exact_clusters"], told["quarantine"]["num_files"]
print(json.dumps([told["split_kind"], copies, told["rates"], lost]))
"""
    assert hub.run(analyze, tmp_path / "report") == ["by camera (2 groups)", 1, {"10": 2}, 0]
    assert (tmp_path / "report" / "report.html").is_file()


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("audit.json", b"{", "audit.json is damaged"),
        ("quarantine.csv", b"\xff\xfe\x00", r"quarantine\.csv: no column file_name"),
        ("probe.parquet", b"PAR1", r"probe\.parquet: no Parquet table"),
    ],
)
def test_damaged_companion_is_named(clips, tmp_path, file, content, match):
    dataset = _write_dataset(tmp_path / "dataset", [("train", "dark", "cam", clips["dark"])], ["dark"])
    (dataset / file).write_bytes(content)
    with pytest.raises(ValueError, match=match) as error:
        analyze_dataset(dataset, output_dir=tmp_path / "report", progress=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "report").exists()


def test_bad_arguments_are_refused_before_the_work(tmp_path):
    for arguments, match in (
        ({"num_thumbnails": 0}, "num_thumbnails must be 1 or more, got 0"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"num_workers": 0}, "num_workers must be 1 or more, got 0"),
    ):
        with pytest.raises(ValueError, match=match):
            analyze_dataset(tmp_path / "none", output_dir=tmp_path / "report", **arguments)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(FileExistsError, match="already holds something"):
        analyze_dataset(tmp_path / "none", output_dir=tmp_path / "full")
    with pytest.raises(FileNotFoundError, match="no dataset here"):
        analyze_dataset(tmp_path / "none", output_dir=tmp_path / "report")


def _facts(split: str, label: str, group: str, **values) -> ClipFacts:
    given = {"duration_seconds": 10.0, "num_frames": 250, "fps": 25.0, "size": (320, 240), "brightness": 120.0}
    return ClipFacts("name", split, 0, label, group, "source", **(given | {"motion": 0.1} | values))


def _codes(clips: list[ClipFacts], *, split_kind: str = "by camera (6 groups)", **companions) -> set[str]:
    labels = tuple(sorted({clip.label for clip in clips}))
    splits = dict.fromkeys(("train", "validation", "test"))
    dataset = VideoDataset("name", splits, labels, "", split_kind)
    given = {"facts": {}, "audit": {}, "quarantine": [], "probe": {}} | companions
    return {advice.code for advice in advise(describe_clips(dataset, clips, Companions(**given)))}


def _sound() -> list[ClipFacts]:
    """120 clips, two classes in every one of six groups."""
    sides = ["train"] * 4 + ["validation", "test"]
    return [
        _facts(side, label, f"cam {number}", brightness=100.0 + 5 * (count % 8))
        for number, side in enumerate(sides)
        for label in ("a", "b")
        for count in range(10)
    ]


def test_sound_dataset_needs_no_advice():
    assert _codes(_sound()) == set()


def test_each_fault_gets_its_advice():
    sound = _sound()
    night = [replace(c, brightness=20.0) if c.split == "test" else c for c in sound]
    night += [replace(c, brightness=25.0) for c in sound if c.split == "test"]
    assert _codes(night) == {"dark_not_trained"}
    day = [replace(c, brightness=20.0) if c.group in ("cam 0", "cam 1") else c for c in sound]
    assert _codes(day) == {"dark_not_judged"}
    rates = [replace(c, fps=12.5) if c.group == "cam 3" else c for c in sound]
    assert _codes(rates) == {"mixed_rates"}
    short = [replace(c, duration_seconds=4.0) if c.group == "cam 3" else c for c in sound]
    assert _codes(short) == {"short_clips"}
    telling = [replace(c, label="a" if c.group in ("cam 0", "cam 2", "cam 4", "cam 5") else "b") for c in sound]
    assert "label_told_by_group" in _codes(telling)
    spread = [replace(c, group=f"cam {index % 6}") for index, c in enumerate(sound)]
    assert _codes(spread, split_kind="random rows; recordings may lie on both sides") == {"groups_across_sides"}
    by_file = [replace(c, group=str(index)) for index, c in enumerate(sound)]
    assert _codes(by_file, split_kind="by file; recordings unknown") == {"recordings_unknown"}
    rare = [c for index, c in enumerate(sound) if not (c.split == "test" and c.label == "b" and index % 2)]
    assert _codes(rare) == {"few_in_test"}
    assert _codes(sound, facts={"copies_on_several_sides": 2}) == {"copies_across_sides"}
    lost = Quarantine("lost.mp4", "a", "cam 0", "empty", "it is empty")
    assert _codes(sound, quarantine=[lost] * 3) == {"quarantine"}
    assert _codes(sound, quarantine=[lost]) == set()  # below one in a hundred
    copy = {"file_name": "again.mp4", "copy_of": "first.mp4", "kind": "exact"}
    assert _codes(sound, audit={"left_out": [copy] * 14}) == {"copies_left_out"}
    assert _codes(sound, audit={"left_out": [copy] * 13}) == set()  # below one in ten
    assert _codes(sound, audit={"label_conflicts": [["x", "y"]]}) == {"copies_with_two_labels"}


def test_flicker_is_no_motion():
    rng = np.random.default_rng(0)
    yard = np.kron(rng.integers(40, 140, (12, 16)), np.ones((8, 8)))[..., None].repeat(3, axis=2)
    still = yard.astype(np.uint8)
    brighter = (1.3 * yard + 12).astype(np.uint8)
    assert changed_share(still, brighter) == 0
    moved = brighter.copy()
    moved[:24, :32] = 250
    assert changed_share(still, moved) == pytest.approx(24 * 32 / (96 * 128), abs=0.005)
    assert changed_share(np.zeros_like(still), np.full_like(still, 30)) == 0  # flat


def test_pictures_lie_in_pairs_half_a_second_apart():
    times = picture_times(10.0).reshape(4, 2)
    np.testing.assert_allclose(times[:, 0], [1.1875, 3.5625, 5.9375, 8.3125])
    np.testing.assert_allclose(times[:, 1] - times[:, 0], 0.5)
    np.testing.assert_allclose(picture_times(0.4), [0.05, 0.15, 0.25, 0.35])


def test_only_what_recurs_tells_the_label():
    labels = ["a", "b"] * 50
    assert label_told_by(labels, labels) == 1.0
    assert label_told_by(range(100), labels) <= 0.55  # new in every clip
    assert label_told_by([0] * 100, ["a"] * 70 + ["b"] * 30) == pytest.approx(0.7)
