"""The review page: its picture, its data, the video it plays, and tables that build takes."""

import base64
import csv
import hashlib
import io
import json
import re
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image
from videos import frame_number, write_video

from railsformer.data.builder import build_dataset
from railsformer.data.video import read_frames
from railsformer.inference.timeline_pages import REVIEW_COLUMNS, TRUTH_COLUMNS, write_timeline_pages
from railsformer.inference.timeline_pages import writer as writer_module
from railsformer.inference.timeline_pages.figure import duration_words, tick_seconds
from railsformer.inference.timeline_pages.page_data import pooled

LABELS = ["Fall", "Fire", "Other"]
EVENTS = [
    {"label": "Fall", "start_seconds": 2.0, "end_seconds": 4.0, "peak_seconds": 3.0, "score": 0.91},
    {"label": "Fire", "start_seconds": 3.5, "end_seconds": 6.0, "peak_seconds": 5.0, "score": 0.7},
    {"label": "Fire", "start_seconds": 9.0, "end_seconds": 11.0, "peak_seconds": 10.0, "score": 0.65},
    {"label": "Fall", "start_seconds": 15.0, "end_seconds": 16.0, "peak_seconds": 15.5, "score": 0.6},
]
# What the page downloads once the first event is accepted, the second rejected, the third made a Fall, one added from
# 13 to 14 s and normal footage taken; the fourth is not reviewed.
DOWNLOADED = """\
file_name,label,start_seconds,end_seconds,group,camera,review,model_label,model_score
gate.mp4,Fall,2,4,gate_0,gate_0,accepted,Fall,0.91
gate.mp4,Other,4,6,gate_0,gate_0,rejected,Fire,0.7
gate.mp4,Fall,9,11,gate_0,gate_0,relabelled,Fire,0.65
gate.mp4,Fall,13,14,gate_0,gate_0,added,,
gate.mp4,Other,17,19,gate_0,gate_0,normal,,
"""
DECISIONS = """
const items = Review.fromModel(data);
items[0].verdict = "accepted";
items[1].verdict = "rejected";
items[2].verdict = "accepted"; items[2].label = "Fall";
items.push({id: "a", start: 13, end: 14, label: "Fall", verdict: "accepted", origin: "person", modelLabel: "",
  modelScore: null, peak: 13});
items.push(...Review.normalStretches(data, items, 2, "even"));
"""


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / "videos" / "gate.mp4", num_frames=100, fps=5)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def _write(folder: Path, video: Path | None, **changes) -> list[Path]:
    times = np.arange(1.0, 20.0)
    scores = np.tile([0.2, 0.1, 0.7], (len(times), 1))
    given = {
        "times_seconds": times,
        "scores": scores,
        "labels": LABELS,
        "events": EVENTS,
        "video": video,
        "duration_seconds": 20.0,
        "window_seconds": 2.0,
        "negative_labels": ["Other"],
        "thresholds": {"Fall": 0.5},
        "camera": "gate_0",
    }
    return write_timeline_pages(folder, **given | changes)


def _island(folder: Path) -> dict:
    page = (folder / "timeline.html").read_text(encoding="utf-8")
    (text,) = re.findall(r'<script type="application/json" id="timeline-data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def _run_script(folder: Path, code: str) -> str:
    """Run the page's own script of tables on its own data, where node is installed."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node to run the page's script")
    script = Path(writer_module.__file__).parent / "templates" / "review.js"
    head = f"const Review = require({str(script)!r}); const data = {json.dumps(_island(folder))};"
    return subprocess.run([node, "-e", head + code], capture_output=True, text=True, check=True).stdout


def test_a_picture_and_a_page_are_written(video, folder):
    assert _write(folder, video) == [folder / "timeline.png", folder / "timeline.html"]
    assert sorted(path.name for path in folder.iterdir()) == ["timeline.html", "timeline.png"]
    assert Image.open(folder / "timeline.png").width == 2000


def test_the_page_needs_no_network_and_runs_its_own_script_only(video, folder):
    _write(folder, video)
    page = (folder / "timeline.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|<link|@import|url\(", page)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert len(scripts) == 1
    assert f"script-src 'sha256-{digest}'" in page
    assert "default-src 'none'" in page


def test_the_data_tell_all_that_the_page_shows(video, folder):
    scores = np.tile([0.25, 0.125, 0.7], (19, 1))
    scores[4] = np.nan
    _write(
        folder,
        video,
        scores=scores,
        start_time=datetime(2026, 11, 2, 5, 47, 12),
        not_scored=[(4.0, 5.0, "gap")],
        model="/runs/run7",
    )
    data = _island(folder)
    assert data["video"] == "../videos/gate.mp4"
    assert data["file_name"] == "gate.mp4"
    assert (data["date"], data["clock_seconds"]) == ("2 Nov 2026", 5 * 3600 + 47 * 60 + 12)
    assert list(data["scores"]) == ["Fall", "Fire"]
    assert data["model"] == "run7"
    assert data["scores"]["Fall"][3:6] == [250, None, 250]
    assert data["not_scored"] == [[4.0, 5.0, "gap"]]
    assert [event["label"] for event in data["events"]] == ["Fall", "Fire", "Fire", "Fall"]
    assert data["review_columns"] == list(REVIEW_COLUMNS)
    assert data["truth_columns"] == list(TRUTH_COLUMNS)


def test_names_cannot_break_out_of_the_page(tmp_path, folder):
    name = "a </script> & 'b' #1 %20 ü.mp4".replace("/", "_")
    video = write_video(tmp_path / "videos" / name, num_frames=5)
    labels = ["</script><script>alert(1)</script>", "<!--", "Other"]
    events = [EVENTS[0] | {"label": labels[0]}]
    _write(folder, video, labels=labels, events=events, thresholds={}, camera="<b>")
    page = (folder / "timeline.html").read_text(encoding="utf-8")
    assert page.count("<script") == 2
    assert "<!--" not in page
    data = _island(folder)
    assert data["labels"] == labels
    assert data["file_name"] == name
    assert "#" not in data["video"]
    assert "%2520" in data["video"]


@pytest.mark.parametrize(("name", "codec", "irregular"), [("gate.mkv", "libx264", True), ("gate.mp4", "mpeg4", False)])
def test_a_video_that_browsers_do_not_play_is_copied_as_one_that_they_do(tmp_path, folder, name, codec, irregular):
    times = [0.0, 0.1, 0.4, 0.5, 0.9] if irregular else [0.0, 0.1, 0.2, 0.3, 0.4]
    video = write_video(tmp_path / name, num_frames=5, times_seconds=times if irregular else None, codec=codec)
    written = _write(folder, video)
    assert written[2:] == [folder / "timeline_video.mp4"]
    assert _island(folder)["video"] == "timeline_video.mp4"
    assert _island(folder)["file_name"] == name
    assert [frame_number(picture) for picture in read_frames(written[2], times)] == [0, 1, 2, 3, 4]
    made = written[2].stat().st_mtime_ns
    assert _write(folder, video) == written
    assert written[2].stat().st_mtime_ns == made


def test_the_folder_holds_the_video_where_asked(video, folder):
    written = _write(folder, video, copy_video=True)
    assert written[2] == folder / "gate.mp4"
    assert written[2].read_bytes() == video.read_bytes()
    assert _island(folder)["video"] == "gate.mp4"


@pytest.mark.parametrize("name", ["annotated.mp4", "timeline_video.mp4"])
def test_a_copy_does_not_take_the_name_of_a_file_that_a_watch_writes(folder, tmp_path, name):
    video = write_video(tmp_path / name, num_frames=20)
    written = _write(folder, video, copy_video=True)
    assert written[2].name == f"original_{name}"
    assert _island(folder)["file_name"] == name


def test_without_a_video_or_events_there_is_a_page_too(folder):
    _write(folder, None, events=[], times_seconds=np.zeros(0), scores=np.zeros((0, 3)), camera=None)
    data = _island(folder)
    assert (data["video"], data["group"], data["events"]) == (None, "live", [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.zeros((19, 2))}, r"scores must be of shape \(19, 3\).* got \(19, 2\)"),
        ({"times_seconds": np.arange(19.0)[::-1]}, "times_seconds must be finite and ascending"),
        ({"events": [EVENTS[0] | {"label": "Flood"}]}, "event 0 is of label 'Flood', which the model does not know"),
        ({"events": [EVENTS[0] | {"end_seconds": 1.0}]}, "event 0 must end after it starts.* got 2.0 to 1.0"),
        ({"duration_seconds": 0}, "duration_seconds must be a number above 0, got 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(video, folder, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        _write(folder, video, **changes)
    assert "\n" not in str(error.value)
    assert not list(folder.iterdir())


def test_a_missing_video_is_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4: no such video file"):
        _write(folder, tmp_path / "gone.mp4")


def test_decisions_are_kept_under_the_footage_not_the_model(video, folder):
    _write(folder, video)
    first = _island(folder)
    _write(folder, video, events=EVENTS[:1], model="another")
    second = _island(folder)
    assert first["storage_key"] == second["storage_key"]
    assert first["fingerprint"] != second["fingerprint"]
    _write(folder, video, camera="gate_1")
    assert _island(folder)["storage_key"] != first["storage_key"]


def test_pooling_keeps_every_peak_and_gap():
    times = np.arange(100_000.0)
    scores = np.zeros((100_000, 2))
    scores[[7, 50_000, 99_999], 1] = [0.7, 0.8, 0.9]
    scores[20_000:30_000] = np.nan
    fewer, highest = pooled(times, scores, 1000)
    assert highest.shape == (1000, 2)
    assert set(np.unique(highest[np.isfinite(highest)])) == {0.0, 0.7, 0.8, 0.9}
    assert np.isnan(highest[250]).all()
    assert np.abs(fewer[highest[:, 1] == 0.8] - 50_000) < 100
    assert pooled(times[:5], scores[:5], 10)[0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("duration", [0.5, 10.2, 59, 61, 600, 3600, 5000, 43_200, 200_000, 2_000_000])
def test_axes_have_a_few_round_marks(duration):
    ticks = tick_seconds(duration)
    steps = np.diff(ticks)
    assert 1 <= len(ticks) <= 10
    assert np.allclose(steps, steps[:1])
    assert ticks[-1] <= duration
    assert ((np.array(tick_seconds(3600, 47 * 60 + 12)) + 47 * 60 + 12) % 600 == 0).all()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(12.54, "12.5 s"), (185, "3 min 5 s"), (3600, "1 h"), (3599.9, "1 h"), (7440, "2 h 4 min"), (59.99, "60 s")],
)
def test_lengths_in_words(seconds, words):
    assert duration_words(seconds) == words


def test_the_page_s_script_writes_the_table(video, folder):
    _write(folder, video)
    code = "process.stdout.write(Review.csv(data.review_columns, Review.trainingRows(data, items).rows));"
    assert _run_script(folder, DECISIONS + code) == DOWNLOADED
    assert next(csv.reader(io.StringIO(DOWNLOADED))) == list(REVIEW_COLUMNS)


def test_the_page_s_script_writes_the_truth(video, folder):
    _write(folder, video)
    code = "process.stdout.write(Review.csv(data.truth_columns, Review.truthRows(data, items)));"
    wanted = "video,label,start_seconds,end_seconds\ngate.mp4,Fall,2,4\ngate.mp4,Fall,9,11\ngate.mp4,Fall,13,14\n"
    assert _run_script(folder, DECISIONS + code) == wanted


def test_two_labels_at_one_moment_are_a_problem_that_the_page_tells(video, folder):
    _write(folder, video)
    code = """
const items = Review.fromModel(data).map((item) => ({...item, verdict: "accepted"}));
console.log(JSON.stringify(Review.trainingRows(data, items).problems.map((pair) => pair.map((item) => item.label))));
"""
    assert json.loads(_run_script(folder, code)) == [["Fall", "Fire"]]


def test_decisions_on_an_earlier_timeline_are_kept_and_not_asked_again(video, folder):
    _write(folder, video)
    code = """
const items = Review.fromModel(data);
items[0].verdict = "accepted"; items[1].verdict = "rejected";
const saved = {fingerprint: "of another model", items};
const found = Review.restore(data, saved);
const told = found.items.map((item) => [item.start, item.verdict]);
console.log(JSON.stringify([found.kept, told, Review.restore(data, null).items.length]));
"""
    kept, told, fresh = json.loads(_run_script(folder, code))
    assert kept == 2
    assert told == [[2, "accepted"], [3.5, "rejected"], [9, "pending"], [15, "pending"]]
    assert fresh == 4


def test_normal_footage_is_taken_where_nothing_is(video, folder):
    scores = np.tile([0.1, 0.1, 0.8], (19, 1))
    scores[17] = [0.4, 0.1, 0.5]
    _write(folder, video, scores=scores, not_scored=[(11.0, 13.0, "gap")])
    code = """
const items = Review.fromModel(data);
const taken = (count, how) => Review.normalStretches(data, items, count, how).map((item) => [item.start, item.end]);
console.log(JSON.stringify([taken(1, "hardest"), taken(99, "even")]));
"""
    hardest, every = json.loads(_run_script(folder, code))
    assert hardest == [[17, 19]]
    for start, end in every:
        assert end - start == pytest.approx(2.0)
        assert all(end <= event["start_seconds"] - 1 or start >= event["end_seconds"] + 1 for event in EVENTS)
        assert end <= 11 or start >= 13


def test_build_takes_the_downloaded_tables(tmp_path):
    source = tmp_path / "videos"
    head, *rows = DOWNLOADED.splitlines()
    for camera in range(3):
        write_video(source / f"gate_{camera}.mp4", num_frames=100, fps=5, first_number=70 * camera)
    lines = [
        line.replace("gate.mp4", f"gate_{camera}.mp4").replace("gate_0,gate_0", f"camera_{camera},camera_{camera}")
        for camera in range(3)
        for line in rows
    ]
    table = tmp_path / "review.csv"
    table.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    build_dataset(
        source, output_dir=tmp_path / "dataset", annotations=table, splits=(0.34, 0.33, 0.33), progress=False
    )
    built = load_dataset(str(tmp_path / "dataset"))
    names = built["train"].features["label"].names
    rows = [row for split in built.values() for row in split.remove_columns("video").to_list()]
    assert names == ["Fall", "Other"]
    assert len(rows) == 15
    one = sorted(
        (names[row["label"]], row["start_seconds"], row["end_seconds"], row["review"])
        for row in rows
        if row["group"] == "camera_1"
    )
    assert one == [
        ("Fall", 2.0, 4.0, "accepted"),
        ("Fall", 9.0, 11.0, "relabelled"),
        ("Fall", 13.0, 14.0, "added"),
        ("Other", 4.0, 6.0, "rejected"),
        ("Other", 17.0, 19.0, "normal"),
    ]
    for split in built.values():
        assert len(set(split["group"])) == 1
