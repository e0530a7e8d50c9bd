"""The pages of a report: what they say, and that nothing in the content can break them."""

import copy
import html.parser
import json
import re

import numpy as np
import pytest
import report_content as make

from railsformer.evaluation.report_pages import load_schema, read_predictions, write_report
from railsformer.evaluation.report_pages.compare import compare_lines, compare_table
from railsformer.evaluation.report_pages.figures import draw_figures
from railsformer.evaluation.report_pages.first_screen import hazards
from railsformer.evaluation.report_pages.predictions import Predictions, write_predictions
from railsformer.evaluation.report_pages.sections import make_sections

ODD = [
    "<script>alert('x')</script>",
    "a & b | \"c\" 'd' `e` $x$ [l](u)",
    "作業員と掘削機",
    "a very long label of a hazard that goes on and on without_end_and_underscores_everywhere",
    "Other",
]


class Page(html.parser.HTMLParser):
    """Text, tags and attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.words, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).replace("\xa0", " ").split())


@pytest.fixture(scope="module")
def toy():
    predictions = make.draw_predictions(num_videos=120)
    return predictions, make.content(predictions)


@pytest.fixture(scope="module")
def written(toy, tmp_path_factory):
    """A whole report with pictures, mixed splits and another run beside it."""
    folder = tmp_path_factory.mktemp("report")
    predictions, metrics = toy
    metrics = make.compared(make.mixed(metrics))
    files = write_report(folder, metrics, predictions, mistakes_frames=make.toy_frames(metrics))
    return folder, metrics, files


@pytest.fixture(scope="module")
def clean(toy, tmp_path_factory):
    """The page and the Markdown of a report of which nothing is wrong, and its folder."""
    folder = tmp_path_factory.mktemp("clean")
    return *_write(folder, toy[1], toy[0]), folder


def _write(folder, metrics, predictions):
    folder.mkdir(exist_ok=True)
    write_report(folder, metrics, predictions)
    return Page((folder / "report.html").read_text(encoding="utf-8")), (folder / "report.md").read_text("utf-8")


def test_every_file_is_there_and_nothing_else(written):
    folder, _, files = written
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in files}
    figures = {"confusion_matrix", "precision_recall", "scores", "reliability", "slices", "comparison"}
    assert {f"{name}.{kind}" for name in figures for kind in ("png", "svg")} <= names
    assert {"metrics.json", "predictions.csv", "report.html", "report.md", "mistakes.png"} <= names


def test_the_page_needs_no_network(written):
    text = (written[0] / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "srcset"):
            assert attributes.get(name, "data:image/").startswith("data:image/")
        assert attributes.get("href", "#").startswith("#")
    assert not re.search(r"https?://|@import|url\(", re.sub(r"data:[^\"]*", "", text))


def test_every_picture_says_what_it_shows(written):
    page = Page((written[0] / "report.html").read_text(encoding="utf-8"))
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) >= 6
    assert all(len(picture["alt"]) > 20 for picture in pictures)
    assert all("![" not in line or len(line) > 30 for line in (written[0] / "report.md").read_text().splitlines())


def test_tables_scroll_on_a_phone(written):
    text = (written[0] / "report.html").read_text(encoding="utf-8")
    assert text.count('<div class="scroll"') == text.count("<table") > 5
    assert 'name="viewport"' in text


def test_the_first_screen_answers_for_every_hazard(toy, clean):
    _, metrics = toy
    point = metrics["operating_points"]["labels"]["Track-Excavator"]["on_split"]
    found = round(point["recall"] * point["num_positives"])
    page, markdown, _ = clean
    assert f"Of {point['num_positives']} Track-Excavator videos {found} were found" in markdown
    first = page.text[: page.text.index("Operating points")]
    assert f"{found} of {point['num_positives']} found" in first
    for words in ("Bucket-Worker", "Cabin-Worker", "false alarms an hour", "95 % interval", "Worst where", "How sure"):
        assert words in first
    worst = metrics["worst_slice"]
    assert f"{worst['column']} {worst['value']}: macro F1" in first


def test_the_hazard_of_which_most_is_missed_comes_first(toy, clean):
    _, metrics = toy
    recalls = {label: point["on_split"]["recall"] for label, point in metrics["operating_points"]["labels"].items()}
    _, markdown, _ = clean
    places = [markdown.index(f" {label} videos") for label in sorted(recalls, key=recalls.get)]
    assert places == sorted(places)


def test_mixed_splits_stand_in_red_above_everything(written):
    folder, _, _ = written
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text.index('class="banner repair"') < text.index("<h1>")
    assert "saw 12 of these 120 videos in training or validation (9 the very same, 3 near copies)" in Page(text).text
    assert (folder / "report.md").read_text().index("RED: This report mixes splits.") < 400


def test_cameras_that_the_run_knows_are_told_where_no_video_is_a_copy(toy, tmp_path):
    predictions, metrics = toy
    state = metrics["protocol"]["mixed_splits"] | {"num_same_group": 16}
    known = metrics | {"protocol": metrics["protocol"] | {"mixed_splits": state}}
    page, markdown = _write(tmp_path, known, predictions)
    for text in (page.text, markdown):
        assert "16 of 120 videos are of cameras or recordings with the names of those in the run's training" in text


def test_a_clean_report_has_nothing_in_red(clean):
    page, markdown, _ = clean
    assert "RED" not in markdown
    assert not any(attributes.get("class") == "banner repair" for _, attributes in page.tags)


def test_a_random_split_stands_in_red(toy, tmp_path):
    predictions, metrics = toy
    protocol = metrics["protocol"] | {"split_kind": "random rows; recordings may lie on both sides"}
    _, markdown = _write(tmp_path, metrics | {"protocol": protocol}, predictions)
    assert "RED: This split mixes recordings." in markdown


def test_what_is_not_known_is_said_in_words(toy, tmp_path):
    page, markdown = _write(tmp_path, make.bare(toy[1]), toy[0])
    for text in (page.text, markdown):
        assert not re.search(r"\b(None|nan|null|NaN|inf)\b", text)
        assert "too few to say" in text
        assert "not in this split" in text
    assert "None" not in "".join(str(value) for _, attributes in page.tags for value in attributes.values() if value)


def test_a_target_that_is_missed_is_named(clean):
    page, _, _ = clean
    assert "Target missed. Threshold 0.500, set on validation for recall of at least 90 %" in page.text


@pytest.mark.parametrize(
    ("figure", "target", "value", "interval", "told"),
    [
        ("recall", "recall>=0.9", 0.97, [0.92, 0.99], "kept here."),
        ("recall", "recall>=0.9", 0.97, [0.85, 0.99], "kept here, on too little to be sure of it."),
        ("recall", "recall>=0.9", 1.0, None, "kept here, on too little to be sure of it."),
        ("false_alarms_per_hour", "false_alarms_per_hour<=5", 1.0, [0.2, 4.0], "kept here."),
        ("false_alarms_per_hour", "false_alarms_per_hour<=5", 0.0, [0.0, 612.0], "kept here, on too little"),
        ("recall", "recall>=0.9", 0.8, [0.7, 0.95], "not kept here."),
    ],
)
def test_a_target_is_kept_for_sure_only_where_the_interval_keeps_it(toy, figure, target, value, interval, told):
    metrics = copy.deepcopy(toy[1])
    label, point = next(iter(metrics["operating_points"]["labels"].items()))
    point.update(target=target, reached=True)
    point["on_split"][figure] = value
    point["on_split"]["intervals"][figure] = interval
    (hazard,) = [one for one in hazards(metrics) if one.label == label]
    assert f"; {told}" in hazard.setting


def test_a_hazard_without_a_threshold_is_not_known(toy, tmp_path):
    predictions, metrics = toy
    page, markdown = _write(tmp_path, make.without_thresholds(metrics), predictions)
    sentence = "validation could not say which threshold gives recall of at least 90 %, so what is missed is not known"
    assert f"Track-Excavator: {sentence}" in markdown
    assert "Not known" in page.text
    assert not re.search(r"\b(None|nan)\b", page.text + markdown)


def test_unread_videos_are_listed_and_counted_nowhere(toy, clean):
    _, metrics = toy
    page, markdown, _ = clean
    for entry in metrics["unread"]:
        assert entry["video"] in page.text
    assert "3 videos of the split count in no figure" in markdown


def test_two_runs_stand_side_by_side(written):
    text = Page((written[0] / "report.html").read_text(encoding="utf-8")).text
    assert "Only this run is right on 19, only the other on 9" in text
    assert "p = 0.087" in text
    assert "not told apart" in text


@pytest.mark.parametrize(
    ("name", "better"), [("accuracy", "this"), ("brier", "other"), ("calibration_error", "other")]
)
def test_of_errors_the_smaller_one_is_better(toy, name, better):
    entry = {"this": 0.5, "other": 0.3, "difference": 0.2, "interval": [0.1, 0.3]}
    compare = make.compared(toy[1])["compare"] | {"figures": {name: entry}}
    assert compare_table(compare).rows[0][-1] == better
    turned = {"this": 0.3, "other": 0.5, "difference": -0.2, "interval": [-0.3, -0.1]}
    assert (
        compare_table(compare | {"figures": {name: turned}}).rows[0][-1] == {"this": "other", "other": "this"}[better]
    )


def test_errors_are_not_drawn_on_the_side_of_the_better_run(toy, tmp_path):
    predictions, metrics = toy
    metrics = make.compared(metrics)
    metrics["compare"]["figures"]["brier"] = {"this": 0.5, "other": 0.3, "difference": 0.2, "interval": [0.1, 0.3]}
    drawn = {drawing.name: drawing for drawing in draw_figures(metrics, predictions)}
    assert "Brier" not in drawn["comparison"].alt
    assert "macro F1" in drawn["comparison"].alt


def test_two_runs_that_are_right_on_the_same_videos(toy):
    compare = make.compared(toy[1])["compare"]
    compare |= {"mcnemar": {"only_this_right": 0, "only_other_right": 0, "p_value": 1.0}}
    assert "neither is right more often" in compare_lines(compare)[-1]


def test_slices_say_what_each_threshold_does_there(toy, clean):
    _, metrics = toy
    section = next(part for part in make_sections(metrics, []) if part.anchor == "slices")
    overall, *tables = section.tables
    assert overall.head == ["slice", "videos", "macro F1", "accuracy"]
    assert [table.caption.partition(" at its")[0] for table in tables] == list(metrics["operating_points"]["labels"])
    assert all(len(table.head) == 5 for table in tables)  # as wide as a phone can scroll
    point = metrics["slices"][0]["points"]["Track-Excavator"]
    name = f"{metrics['slices'][0]['column']} {metrics['slices'][0]['value']}"
    (row,) = [row for row in tables[0].rows if row[0] == name]
    assert row[1] == f"{round(point['recall'] * point['num_positives'])} of {point['num_positives']}"
    alarms = point["intervals"]["false_alarms_per_hour"]
    assert row[3].endswith("(too few to say)" if alarms is None else ")")
    points = [entry["points"]["Track-Excavator"] for entry in _by_rows(metrics, tables[0])]
    enough = [point["recall"] for point in points if point["num_positives"] >= 5]
    assert enough == sorted(enough)
    assert any("By group every slice lies within one group" in line for line in section.lines)
    for text in (clean[0].text, clean[1]):
        assert "Track-Excavator at its threshold, where most is missed first" in text


def _by_rows(metrics, table):
    named = {f"{entry['column']} {entry['value']}": entry for entry in metrics["slices"]}
    return [named[row[0]] for row in table.rows]


def test_many_hazards_share_one_table_of_slices():
    labels = [f"hazard_{number}" for number in range(6)]
    metrics = make.content(make.draw_predictions(labels=labels, num_videos=90), negative_labels=())
    section = next(part for part in make_sections(metrics, []) if part.anchor == "slices")
    assert [row[0] for row in section.tables[1].rows] == labels
    assert len(section.tables) == 2


def test_slices_without_thresholds_tell_what_was_named_rightly(toy):
    metrics = make.bare(toy[1]) | {"slices": [{**one, "points": {}} for one in toy[1]["slices"]]}
    section = next(part for part in make_sections(metrics, []) if part.anchor == "slices")
    assert len(section.tables) == 1
    assert "Track-Excavator found" in section.tables[0].head
    old = [{key: value for key, value in one.items() if key not in ("points", "method")} for one in toy[1]["slices"]]
    section = next(part for part in make_sections(toy[1] | {"slices": old}, []) if part.anchor == "slices")
    assert len(section.tables) == 1  # a report of an earlier release


def test_thresholds_that_were_brought_along_are_told_at_once(toy, tmp_path):
    predictions, metrics = toy
    page, markdown = _write(tmp_path, make.stored_thresholds(metrics), predictions)
    for text in (page.text, markdown):
        assert "Measured with the thresholds in use. Nothing was fitted: temperature and thresholds are those" in (
            text.replace("**", "")
        )
        assert "Track-Excavator: the model is used without a threshold for it" in markdown
        assert "As stored with the model, set on validation" in text
        assert not re.search(r"\b(None|nan)\b", text)
    pytest.importorskip("jsonschema").validate(make.stored_thresholds(metrics), load_schema())


def test_a_report_without_thresholds_says_why(toy):
    metrics = make.bare(toy[1])
    metrics["protocol"] = metrics["protocol"] | {"calibration_note": "nothing was fitted: there is no validation"}
    section = next(part for part in make_sections(metrics, []) if part.anchor == "operating_points")
    assert section.lines[-1] == "Nothing was fitted: there is no validation."


def test_names_are_text_and_never_markup(tmp_path):
    predictions = make.draw_predictions(labels=ODD, num_videos=60)
    metrics = make.content(predictions)
    metrics["model"] = "runs/<b>&'\"|x"
    metrics["slices"][0]["value"] = "<img src=x>\n| y"
    metrics["mistakes"][0]["file"] = '"><svg onload=1>'
    page, markdown = _write(tmp_path, metrics, predictions)
    assert not {tag for tag, _ in page.tags} & {"script", "svg"}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    for label in ODD:
        assert label.replace(" ", "") in page.text.replace(" ", "")
    assert ODD[2] in markdown
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    assert not any("<script" in re.sub(r"\\<", "", line) for line in tables)
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in tables]
    rules = [place for place, line in enumerate(tables) if line.startswith("|---")]
    for place, after in zip(rules, [*(rule - 1 for rule in rules[1:]), len(tables)], strict=True):
        assert set(widths[place - 1 : after]) == {widths[place]}


@pytest.mark.parametrize("count", [1, pytest.param(30, marks=pytest.mark.slow)])
def test_any_number_of_classes(tmp_path, count):
    labels = [f"hazard_{number}" for number in range(count)]
    predictions = make.draw_predictions(labels=labels, num_videos=5 * count + 10)
    page, markdown = _write(tmp_path, make.content(predictions, negative_labels=()), predictions)
    assert all(label in markdown.replace("\\", "") for label in labels)
    assert page.text.count("found ") >= count


def test_no_hazard_and_no_video_that_could_be_read(tmp_path, toy):
    predictions, metrics = toy
    page, _ = _write(
        tmp_path,
        make.bare(metrics) | {"protocol": metrics["protocol"] | {"negative_labels": list(make.LABELS)}},
        predictions,
    )
    assert "No label of this model is a hazard." in page.text


def test_the_same_content_gives_the_same_files(toy, clean, tmp_path):
    predictions, metrics = toy
    _write(tmp_path, metrics, predictions)
    for path in clean[2].iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_predictions_come_back_from_their_table(toy, clean):
    predictions, _ = toy
    back = read_predictions(clean[2] / "predictions.csv")
    assert back.label_names == list(predictions.label_names)
    assert back.videos == predictions.videos
    assert back.metadata == predictions.metadata
    np.testing.assert_array_equal(back.references, predictions.references)
    np.testing.assert_allclose(back.scores, predictions.scores, rtol=1e-8)
    assert (~back.is_read).sum() == 3


def test_a_column_named_like_a_score_comes_back_as_metadata(tmp_path):
    given = Predictions(
        ["a", "b"],
        ["1.mp4"],
        np.array([1]),
        np.array([[0.25, 0.75]]),
        {"score_of_operator": [3], "prediction": ["x"], "light": [9]},
    )
    write_predictions(tmp_path / "predictions.csv", given)
    found = read_predictions(tmp_path / "predictions.csv")
    assert found.label_names == ["a", "b"]
    assert found.scores.tolist() == [[0.25, 0.75]]
    assert found.metadata == {"score_of_operator": ["3"], "prediction": ["x"], "light": ["9"]}


def test_a_table_that_is_no_text_is_named(tmp_path):
    (tmp_path / "predictions.csv").write_bytes(b"\xff\xfe\x00video")
    with pytest.raises(ValueError, match=r"predictions\.csv is damaged .*; evaluate that model again"):
        read_predictions(tmp_path / "predictions.csv")


def test_a_table_that_is_no_predictions_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="first line must be video,label,prediction"):
        read_predictions(tmp_path / "x.csv")


def test_temperature_keeps_the_order_and_the_sum(toy):
    predictions, _ = toy
    _, plain = predictions.scored()
    _, soft = predictions.scored(2.0)
    np.testing.assert_allclose(soft.sum(axis=1), 1.0)
    np.testing.assert_array_equal(plain.argmax(axis=1), soft.argmax(axis=1))
    assert soft.max(axis=1).mean() < plain.max(axis=1).mean()


def test_a_figure_that_is_no_number_is_named(toy, tmp_path):
    predictions, metrics = toy
    with pytest.raises(ValueError, match=r"metrics\['map'\] must be a finite number or null, got nan"):
        write_report(tmp_path, metrics | {"map": float("nan")}, predictions)


def test_frames_must_be_one_entry_a_mistake(toy, tmp_path):
    predictions, metrics = toy
    with pytest.raises(ValueError, match="mistakes_frames must hold one entry a mistake"):
        write_report(tmp_path, metrics, predictions, mistakes_frames=[None])


def test_the_schema_holds_for_whole_and_bare_reports(written, toy):
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(load_schema())
    validator.check_schema(load_schema())
    validator.validate(json.loads((written[0] / "metrics.json").read_text(encoding="utf-8")))
    validator.validate(make.bare(toy[1]))
    validator.validate(make.without_thresholds(toy[1]))
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(toy[1] | {"accuracy": 1.5})


def test_the_schema_names_every_part_of_metrics(written):
    schema = load_schema()
    assert set(schema["properties"]) == set(schema["required"]) == set(written[1])


def test_small_scores_keep_their_order_in_the_table(tmp_path):
    scores = np.array([[0.99999997, 2e-8, 1e-8], [1e-9, 0.6, 0.4 - 1e-9]])
    write_predictions(tmp_path / "x.csv", Predictions(["a", "b", "c"], ["1", "2"], np.array([2, 0]), scores))
    back = read_predictions(tmp_path / "x.csv").scores
    np.testing.assert_allclose(back, scores, rtol=1e-8)
    np.testing.assert_array_equal(back.argsort(axis=1), scores.argsort(axis=1))
