"""The report of a comparison, of sections made by hand: what it says, what it never says, and how it is written."""

import json
import math
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from railsformer.cli import main
from railsformer.compare.comparison import ComparisonSettings, run_comparison
from railsformer.compare.curves import cost_curves
from railsformer.compare.report import PARTS, add_parts, read_comparison, short_answers, write_comparison
from railsformer.compare.report_pages.accuracy_sections import pair_lines
from railsformer.compare.report_pages.numbers import chance, figure, minutes, percent_difference, points, share
from railsformer.compare.report_pages.protocol import cost_protocol, hardware_words, protocol_line, told
from railsformer.compare.statistics import SeedRuns, compare_pairs, sentences, spread_of
from railsformer.model.configuration_railsformer import ATTENTION_TYPES

SCHEMES = list(ATTENTION_TYPES)
PROTOCOL = {
    "data": "yard",
    "dataset_fingerprint": "9f3a2c",
    "split": "60 test videos of 12 groups, by recording",
    "counts": {"train": 240, "test": 60},
    "seeds": [0, 1, 2],
    "budget": {"epochs": 6.0, "max_steps": None, "clips_a_step": 8},
    "hardware": {"processor": "Some CPU", "cores": 2, "threads": 2, "memory_gib": 15.6, "gpus": []},
    "recipe": "toy.yaml",
}
NOTE = "timed with torch 2.14.1, pytorchvideo 0.1.5, the other networks with torch 2.13.0"
REASON = "no --peer_python was given: <b>pytorchvideo</b> & its environment"


def _trained(names, shares, *, seeds=(0, 1, 2)):
    """A section as `compare_accuracy` returns it, of videos that are right as often as told."""
    generator = np.random.default_rng(0)
    runs = [
        SeedRuns(name, {seed: (generator.random(60) < share).astype(float) for seed in seeds})
        for name, share in zip(names, shares, strict=True)
    ]
    pairs = compare_pairs(runs, [f"recording {place // 5}" for place in range(60)])
    rows = [
        {
            "name": run.name,
            "seeds": list(seeds),
            **{key: spread_of(right.mean() for right in run.right.values()) for key in ("accuracy", "f1_macro")},
            "seconds": 222.0,
            "not_measured": None,
        }
        for run in runs
    ]
    protocol = PROTOCOL | {"seeds": list(seeds)}
    return {"protocol": protocol, "rows": rows, "pairs": pairs, "sentences": sentences(pairs)}


def _probe():
    rows = []
    for name, (as_filmed, other) in {"divided_space_time": (0.9, 0.5), "space_only": (0.48, 0.48)}.items():
        orders = dict.fromkeys(("shuffled", "reversed", "middle"), other) | {"forwards": as_filmed}
        row = {
            order: {
                "accuracy": spread_of([value] * 3),
                "f1_macro": spread_of([value] * 3),
                "changed": spread_of([0.4]),
            }
            for order, value in orders.items()
        }
        rows.append({"name": name, "seeds": [0, 1, 2], "not_measured": None} | row)
    return {"protocol": PROTOCOL, "rows": rows}


def _cost_row(name, *, scheme=None, family="base", **figures):
    row = dict.fromkeys(("parameters", "macs_a_view", "macs_all_views", "comparisons_a_patch"))
    row |= dict.fromkeys(("forward_seconds", "training_step_seconds", "forward_peak_bytes", "training_peak_bytes"))
    row |= {"name": name, "scheme": scheme, "family": family, "views": 3, "num_frames": 8, "image_size": 224}
    return row | {"paper": {}, "differences": [], "not_measured": None, "forward_repeats": 5} | figures


@pytest.fixture(scope="module")
def cost():
    marked = {"what": "macs_all_views", "share": 0.0312, "marked": True, "why": "it pools <i>once</i> more"}
    rows = [
        _cost_row(
            "base 8x224, divided_space_time", scheme="divided_space_time", parameters=121_392_558, macs_a_view=196e9,
            macs_all_views=588e9, comparisons_a_patch=205.0, forward_seconds=2.613, training_step_seconds=8.9,
            forward_peak_bytes=2**30, training_peak_bytes=3 * 2**30,
            paper={"parameters": 121_392_558, "macs_a_view": 196e9},
        ),
        _cost_row(
            "base 8x224, joint_space_time", scheme="joint_space_time", parameters=85_938_606, macs_a_view=180.1e9,
            macs_all_views=540e9, comparisons_a_patch=1569.0, forward_seconds=2.4,
            not_measured="training step: out of memory",
        ),
        _cost_row(
            "I3D 8x8 R50", family="3d_cnn", parameters=28_043_472, macs_a_view=38.1e9, views=30,
            macs_all_views=1.145e12, paper={"parameters": 28.0e6, "macs_all_views": 1.11e12}, differences=[marked],
            note=NOTE,
        ),
        _cost_row("SlowFast 8x8 R50", family="3d_cnn", views=30, paper={"parameters": 34.6e6}, not_measured=REASON),
    ]  # fmt: skip
    protocol = {"hardware": "Some CPU, 2 cores", "threads": 2, "memory_limit_gib": 10.8, "quick": False}
    curves = cost_curves(free_bytes=12 * 2**30)
    return {"protocol": protocol, "rows": rows, "curves": curves, "sentences": list(curves["sentences"])}


@pytest.fixture(scope="module")
def written(tmp_path_factory, cost):
    """A whole comparison."""
    folder = tmp_path_factory.mktemp("comparison")
    accuracy = _trained(SCHEMES, (0.92, 0.9, 0.47, 0.88, 0.7))
    accuracy["rows"].append(
        {"name": "3D CNN", "seeds": [], "accuracy": spread_of([]), "f1_macro": spread_of([]), "seconds": None,
         "not_measured": REASON, "note": None}
    )  # fmt: skip
    parts = {
        "cost": cost,
        "accuracy": accuracy,
        "positions": _trained(["space_time", "space", "none"], (0.9, 0.9, 0.9)),
        "views": _trained(["1 clip x 1 crop", "3 clips x 3 crops"], (0.9, 0.9)),
        "probe": _probe(),
    }
    add_parts(folder, parts, command="railsformer compare --what cost accuracy positions views probe")
    return folder


class _Page(HTMLParser):
    """What a reader of the page meets: text by table, addresses of pictures, headings."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.tags, self.tables, self._cell = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "srcset", "href")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._cell = None

    def handle_data(self, data):
        if self._cell:
            self.tables[-1][-1][-1] += data


def _row(page, name, *, column):
    """A cell by the name of its row and the name of its column."""
    for head, *rows in page.tables:
        for row in rows:
            if row[0] == name and column in head:
                return row[head.index(column)].replace("\xa0", " ")
    raise AssertionError(f"no table has {name} and {column}")


@pytest.fixture(scope="module")
def page(written):
    return _Page((written / "compare.html").read_text(encoding="utf-8"))


# Files


def test_the_folder_holds_data_two_pages_and_pictures(written):
    content = json.loads((written / "compare.json").read_text(encoding="utf-8"))
    assert content["version"] == 1
    assert [name for name in content if name in PARTS] == list(PARTS)
    assert content["commands"][0].startswith("railsformer compare --what cost")
    for name in ("accuracy", "accuracy_pairs", "positions", "views", "time_order", "cost_memory"):
        picture = Image.open(BytesIO((written / "figures" / f"{name}.png").read_bytes()))
        assert picture.width >= 1500, "a slide needs it that wide"
    assert not list(written.rglob("*.partial"))


def test_the_page_asks_the_network_for_nothing(page):
    assert page.addresses
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert "script" not in page.tags


def test_markdown_names_pictures_that_are_there(written):
    text = (written / "compare.md").read_text(encoding="utf-8")
    names = re.findall(r"^!\[.*\]\((\S+)\)$", text, flags=re.MULTILINE)
    assert len(names) >= 8
    assert all((written / name).is_file() for name in names)


def test_pages_are_named_for_what_they_hold_and_not_for_hazards(written):
    for name in ("compare.html", "compare.md"):
        assert "Hazards" not in (written / name).read_text(encoding="utf-8")
    assert "## In short" in (written / "compare.md").read_text(encoding="utf-8")


def test_a_later_part_keeps_the_earlier_ones_and_the_same_part_is_replaced(tmp_path):
    add_parts(tmp_path, {"probe": _probe()}, command="first")
    add_parts(tmp_path, {"positions": _trained(["space", "none"], (0.9, 0.9))}, command="second")
    one = _probe() | {"rows": _probe()["rows"][:1]}
    content = add_parts(tmp_path, {"probe": one}, command="first")
    assert content == read_comparison(tmp_path)
    assert len(content["probe"]["rows"]) == 1
    assert "positions" in content
    assert content["commands"] == ["first", "second"]


def test_nan_is_refused_and_the_earlier_report_stays(tmp_path):
    add_parts(tmp_path, {"probe": _probe()})
    before = (tmp_path / "compare.html").read_bytes()
    broken = _probe()
    broken["rows"][0]["forwards"]["accuracy"]["mean"] = math.nan
    with pytest.raises(ValueError, match="must be a finite number"):
        write_comparison(tmp_path, {"version": 1, "probe": broken})
    assert (tmp_path / "compare.html").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "told"),
    [("{", "is damaged"), ('{"version": 7}', "must be of version 1, got 7"), ("[]", "must be of version 1, got None")],
)
def test_a_foreign_or_damaged_table_is_named(tmp_path, text, told):
    (tmp_path / "compare.json").write_text(text)
    with pytest.raises(ValueError, match=rf"compare\.json {told}"):
        read_comparison(tmp_path)


# What it says


def test_every_section_says_data_split_seeds_budget_and_hardware(written):
    text = (written / "compare.md").read_text(encoding="utf-8")
    sections = [part for part in text.split("\n## ") if "\n|" in part]
    assert len(sections) >= 7
    for part in sections:
        line = next(line for line in part.splitlines() if line.startswith("Data: "))
        assert all(f" {name}: " in line for name in ("Split", "Seeds", "Budget", "Hardware"))
        assert "not stated" not in line


def test_what_a_protocol_does_not_say_is_said_to_be_missing():
    assert protocol_line({"split": "test"}) == (
        "Data: not stated. Split: test. Seeds: not stated. Budget: not stated. Hardware: not stated."
    )


def test_no_winner_is_set_in_bold(written):
    text = (written / "compare.html").read_text(encoding="utf-8")
    body = text[text.index("<body>") :]
    assert not re.search(r"<(b|strong|em)\b", body)
    cells = [
        line for line in (written / "compare.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")
    ]
    assert not any("**" in line for line in cells)


def test_counts_stand_to_the_integer_beside_the_paper(page):
    assert _row(page, "base 8x224, divided", column="parameters") == "121,392,558"
    assert _row(page, "base 8x224, divided: parameters", column="difference") == "none"
    assert _row(page, "I3D 8x8 R50: parameters", column="paper") == "28.0 M"


def test_a_difference_over_2_percent_is_marked_with_its_reason(page):
    assert _row(page, "I3D 8x8 R50", column="difference") == "+3.1 %, over 2 %"
    assert _row(page, "I3D 8x8 R50", column="why") == "it pools <i>once</i> more"


def test_out_of_memory_and_not_measured_say_so_in_their_row(page):
    assert _row(page, "base 8x224, joint", column="training step") == "out of memory"
    assert _row(page, "base 8x224, joint", column="peak memory, training") == "out of memory"
    assert _row(page, "SlowFast 8x8 R50", column="parameters") == "not measured"
    assert _row(page, "SlowFast 8x8 R50", column="reason") == REASON
    assert REASON in _row(page, "3D CNN", column="note")


def test_peaks_of_a_forward_pass_and_of_training_stand_apart(page, written):
    assert _row(page, "base 8x224, divided", column="peak memory, forward") == "1.00 GiB"
    assert _row(page, "base 8x224, divided", column="peak memory, training") == "3.00 GiB"
    assert "| peak memory, forward |" in (written / "compare.md").read_text(encoding="utf-8")


def test_a_3d_cnn_tells_the_torch_that_it_was_timed_with(page):
    assert _row(page, "I3D 8x8 R50", column="note") == NOTE


def test_the_memory_where_joint_attention_ends_is_that_of_the_curves(page, cost):
    limit = next(
        one
        for one in cost["curves"]["limits"]
        if one["memory"] == "16 GiB"
        and (one["mode"], one["axis"], one["scheme"]) == ("training", "frames", "joint_space_time")
    )
    assert _row(page, "16 GiB: joint", column="frames, matrices") == str(limit["materialised"])
    assert _row(page, "16 GiB: joint", column="frames, SDPA") == str(limit["sdpa"])


def test_accuracy_is_a_mean_with_its_spread_and_range(page, written):
    row = read_comparison(written)["accuracy"]["rows"][0]
    spread = row["accuracy"]
    told = f"{share(spread['mean'])} ± {share(spread['spread'])}"
    assert _row(page, "divided", column="accuracy") == told
    assert _row(page, "divided", column="lowest to highest").startswith(share(min(spread["values"])))


def test_pairs_are_shown_with_interval_and_p_and_only_told_apart_where_p_says_so():
    apart = _trained(["joint_space_time", "space_only"], (0.95, 0.4))
    lines = pair_lines(apart)
    assert lines[0].startswith("The two can be told apart here: p ")
    assert "joint_space_time is right more often than space_only" in lines[1]
    alike = pair_lines(_trained(["joint_space_time", "axial"], (0.8, 0.8)))
    assert alike[0].startswith("The two cannot be told apart here: p ")
    assert "not distinguishable here" in alike[1]


def test_many_pairs_are_gathered_and_none_is_lost():
    section = _trained(SCHEMES, (0.95, 0.95, 0.2, 0.95, 0.2))
    lines = pair_lines(section)
    text = " ".join(lines)
    for pair in section["pairs"]:
        told_apart = pair["p_holm"] < 0.05
        better, worse = (pair["a"], pair["b"]) if pair["difference"] > 0 else (pair["b"], pair["a"])
        if told_apart:
            gathered = next(line for line in lines if line.startswith(f"Right more often than {worse}: "))
            assert f"{better} (+" in gathered
        else:
            assert f"{pair['a']} and {pair['b']} " in text


def test_pairs_without_enough_videos_say_nothing():
    section = _trained(["a", "b"], (0.9, 0.1))
    section["pairs"][0] |= {"p": None, "p_holm": None, "interval": None}
    section["sentences"] = ["Of a and b nothing can be said: there are too few test videos."]
    assert pair_lines(section) == [
        "Nothing can be said of any pair: there are too few test videos.",
        "Of a and b nothing can be said: there are too few test videos.",
    ]


def test_short_answers_carry_the_numbers_and_name_what_was_not_measured(written, cost, tmp_path):
    answers = dict(short_answers(read_comparison(written)))
    assert "divided .900 to .500, space only .480 to .480" in answers["Time order"]
    assert "I3D 8x8 R50 1.15 TMACs in 30 views" in answers["Why not a 3D CNN"]
    assert "Accuracy of one was not measured here" in answers["Why not a 3D CNN"]
    assert "None of the 3 pairs can be told apart" in answers["Position embeddings"]
    content = add_parts(tmp_path, {"cost": cost | {"curves": {}, "sentences": []}})
    assert list(dict(short_answers(content))) == ["What it costs", "Where memory ends", "Why not a 3D CNN"]
    assert "Not measured yet: --what probe answers it." in (tmp_path / "compare.html").read_text(encoding="utf-8")


def test_one_seed_and_a_trial_run_are_told_before_any_figure(tmp_path, cost):
    quick = cost | {"protocol": cost["protocol"] | {"quick": True}, "curves": {}, "sentences": []}
    add_parts(tmp_path, {"cost": quick, "accuracy": _trained(["a", "b"], (0.9, 0.8), seeds=(3,))})
    text = (tmp_path / "compare.md").read_text(encoding="utf-8")
    first = text[: text.index("## In short")]
    assert "**RED: A trial run.**" in first
    assert "**BEWARE: One seed.**" in first
    assert "one seed" in text[text.index("## Accuracy") :]


def test_a_part_of_which_every_cell_failed_still_makes_a_report(tmp_path):
    failed = _trained(["a", "b"], (0.9, 0.8))
    for row in failed["rows"]:
        row |= {"seeds": [], "accuracy": spread_of([]), "f1_macro": spread_of([]), "not_measured": "out of memory"}
    failed |= {"pairs": [], "sentences": []}
    add_parts(tmp_path, {"accuracy": failed})
    page = _Page((tmp_path / "compare.html").read_text(encoding="utf-8"))
    assert _row(page, "a", column="accuracy") == "not measured"
    assert _row(page, "b", column="note") == "not measured: out of memory"


def test_names_cannot_break_the_pages(tmp_path):
    section = _trained(["a|b<script>", "*c*"], (0.9, 0.3))
    add_parts(tmp_path, {"accuracy": section}, command="railsformer compare --dataset '<script>'")
    assert "<script" not in (tmp_path / "compare.html").read_text(encoding="utf-8")
    lines = (tmp_path / "compare.md").read_text(encoding="utf-8").splitlines()
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("| a")]
    assert widths
    assert len(set(widths[:1])) == 1
    assert not any(re.search(r"(?<!\\)<script", line) for line in lines)


# Numbers


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (chance(0.0001), "below .001"), (chance(0.0496), ".0496"), (chance(0.06), ".060"), (chance(1.0), "1"),
        (chance(None), "too little to say"),
        (points(-0.126), "−12.6"), (points(-0.0001), "0.0"), (points(0.5), "+50.0"), (share(1.0), "1.000"),
        (share(None), "not measured"), (percent_difference(-0.0049), "−0.5 %"),
        (percent_difference(1e-5), "under 0.1 %"),
        (figure("macs_all_views", 1.965e12), "1.97"), (figure("training_peak_bytes", 2**30), "1.00 GiB"),
        (figure("forward_seconds", 123.4), "123 s"), (minutes(30.0), "30 s"), (minutes(600.0), "10 min"),
        (minutes(7200.0), "2.0 h"), (told({"a_b": [1, 2], "c": None}), "a b 1, 2"),
    ],
)  # fmt: skip
def test_numbers_are_told(found, told):
    assert found == told


def test_data_and_split_are_told_with_their_numbers():
    line = protocol_line(PROTOCOL | {"budget": {"epochs": 1.0, "max_steps": None, "clips_a_step": 1}})
    assert line.startswith("Data: yard, 240 videos to train on. Split: 60 test videos of 12 groups, by recording. ")
    assert "Budget: 1 epoch, 1 clip a step." in line


def test_hardware_is_told_in_words():
    hardware = {"processor": "Some CPU", "cores": 2, "threads": 1, "memory_gib": 15.6, "gpus": ["Some GPU"]}
    assert hardware_words(hardware) == "Some CPU, Some GPU, 1 thread of 2 cores, 15.6 GiB"
    assert hardware_words([hardware, {"processor": "Another"}]).endswith(", 15.6 GiB; Another")


def test_the_protocol_of_cost_says_what_it_needs_no_data_for(cost):
    line = protocol_line(cost_protocol(cost))
    assert "random pixels" in line
    assert "median of up to 5 forward passes, 10.8 GiB a process" in line


# The verb


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--what", "accuracy"], "--what accuracy trains networks and needs --dataset"),
        (["--what", "cost", "--memory_gib", "0"], "--memory_gib must be positive, got 0.0"),
    ],
)
def test_what_is_missing_is_refused_in_one_line_before_any_work(capsys, tmp_path, flags, told):
    assert main(["compare", "--output_dir", str(tmp_path / "out"), *flags]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("railsformer: error: ")] == [
        f"railsformer: error: {lines[-1][20:]}"
    ]
    assert told in lines[-1]
    assert not (tmp_path / "out").exists()


def test_a_view_that_is_none_is_refused(capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["compare", "--what", "views", "--output_dir", str(tmp_path / "out"), "--views", "5by3"])
    assert ended.value.code == 2
    assert "must be clips x crops such as 5x3, got '5by3'" in capsys.readouterr().err


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "holiday.txt").write_text("sun")
    with pytest.raises(FileExistsError, match="already holds something"):
        run_comparison(tmp_path, ComparisonSettings(what=("cost",), quick=True))
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]


def test_positions_and_views_alone_train_divided_alone():
    settings = {"dataset": "D", "config": "C"}
    assert ComparisonSettings(what=("positions",), **settings).trained_schemes == ("divided_space_time",)
    assert ComparisonSettings(what=("views", "probe"), **settings).trained_schemes == tuple(ATTENTION_TYPES)
    chosen = ComparisonSettings(what=("accuracy",), schemes=("axial",), **settings)
    assert chosen.trained_schemes == ("axial",)


@pytest.mark.slow
def test_the_verb_measures_cost_and_the_same_command_does_nothing_again(tmp_path, capsys):
    command = ["compare", "--what", "cost", "--quick", "--num_threads", "1", "--output_dir", str(tmp_path / "out")]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "What it costs: " in told
    assert "report: " in told
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").rglob("result.json")}
    assert cells
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").rglob("result.json")} == cells
    content = read_comparison(tmp_path / "out")
    assert len(content["commands"]) == 1
    assert (tmp_path / "out" / "figures" / "cost_memory.png").is_file()
