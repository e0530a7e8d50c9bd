"""The pages of a report: what they say, and that nothing in the content can break them."""

import html.parser
import json
import re

import numpy as np
import pytest
import report_content as make

from railsformer.evaluation.report_pages import load_schema, read_predictions, write_report

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
    assert "trained on 12 of these 120 videos (9 the very same, 3 near copies)" in Page(text).text
    assert (folder / "report.md").read_text().index("RED: This report mixes splits.") < 400


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
    np.testing.assert_allclose(back.scores, predictions.scores, atol=1e-6)
    assert (~back.is_read).sum() == 3


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
