"""Maps as pictures: in the right place, at the right time, on one scale."""

import io
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from tiny_run import write_tiny_run
from videos import frame_number, write_video

from railsformer.data.video import iterate_frames, read_frames
from railsformer.explain.explanation import Explanation, MethodMap, explain_clip
from railsformer.explain.heat import HeatScale, RelevanceTrack, paint, seen_mask
from railsformer.explain.overlay import overlay_span, write_overlay
from railsformer.explain.pictures import clock, draw_contact_sheet, draw_curve, shown_frames
from railsformer.explain.requests import lines_of
from railsformer.explain.seen import Box, see_clip, square_pixels
from railsformer.inference.predictor import Predictor
from railsformer.inference.regions import Region
from railsformer.inference.views import Viewing, read_views


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return Predictor.from_pretrained(write_tiny_run(tmp_path_factory.mktemp("run")), device="cpu")


def _clip(predictor, path, **part):
    return see_clip(path, Viewing(predictor.sampling, predictor.pixels), **part)


def _explanation(predictor, path, relevance=None, method="rollout", target="fall") -> Explanation:
    clip = _clip(predictor, path)
    count = len(clip.times_seconds)
    maps = np.ones((count, 2, 2), dtype=np.float32) if relevance is None else relevance
    scores = {"fall": 0.7, "idle": 0.2, "intrusion": 0.1}
    scores = scores if target in scores else {target: 0.7, "idle": 0.3}
    return Explanation(clip, "run", scores, target, (MethodMap(method, maps),))


def test_the_clip_is_the_one_that_predict_looks_at(predictor, tmp_path):
    video = write_video(tmp_path / "a.mp4", num_frames=30)
    clip = _clip(predictor, video)
    seen = read_views(video, Viewing(predictor.sampling, predictor.pixels))
    assert (clip.pixel_values == seen.pixel_values).all()
    assert [frame_number(picture) for picture in clip.pictures] == [
        frame_number(picture) for picture in read_frames(video, clip.times_seconds)
    ]


def test_a_part_is_looked_at_as_a_video_of_its_own(predictor, tmp_path):
    clip = _clip(predictor, write_video(tmp_path / "a.mp4", num_frames=60), start_seconds=4.0, end_seconds=5.0)
    assert clip.times_seconds.tolist() == pytest.approx([4.25, 4.75])


def test_a_short_video_says_so_and_holds_its_last_picture(predictor, tmp_path):
    video = write_video(tmp_path / "a.mp4", num_frames=3)
    clip = _clip(predictor, video)
    assert "0.30 s, less than the 0.50 s of a clip" in clip.note
    seen = read_views(video, Viewing(predictor.sampling, predictor.pixels))
    assert (clip.pixel_values == seen.pixel_values).all()


@pytest.mark.parametrize(("start", "end"), [(-1.0, 2.0), (9.0, 10.0), (2.0, 1.0), (0.0, 50.0)])
def test_a_part_outside_the_video_is_refused(predictor, tmp_path, start, end):
    with pytest.raises(ValueError, match="must be"):
        _clip(predictor, write_video(tmp_path / "a.mp4", num_frames=30), start_seconds=start, end_seconds=end)


@pytest.mark.parametrize(("width", "height"), [(64, 48), (48, 96), (64, 64), (150, 48)])
def test_the_box_is_what_the_crop_shows(predictor, tmp_path, width, height):
    # What the crop shows keeps its width and height in px of the model's input: 32 of 36 of the short side.
    box = _clip(predictor, write_video(tmp_path / "a.mp4", width=width, height=height)).box
    short = min(width, height)
    assert box.right - box.left == pytest.approx(short * 32 / 36, rel=0.03)
    assert box.bottom - box.top == pytest.approx(short * 32 / 36, rel=0.03)
    assert (box.left + box.right) / 2 == pytest.approx(width / 2, abs=width / 36)
    assert (box.top + box.bottom) / 2 == pytest.approx(height / 2, abs=height / 36)


def test_a_strong_cell_is_painted_where_it_lies(predictor):
    relevance = np.zeros((1, 4, 4), dtype=np.float32)
    relevance[0, 3, 0] = 1.0  # bottom left
    picture, box = np.full((100, 200, 3), 128, dtype=np.uint8), Box(50, 0, 150, 100)
    painted = paint(picture, relevance[0], box, HeatScale.of(relevance, signed=False), seen_mask(100, 200, box))
    colourful = np.ptp(painted.astype(int), axis=-1)
    row, column = np.unravel_index(colourful.argmax(), colourful.shape)
    assert row > 75
    assert 50 <= column < 75
    assert painted[:, :50].max() < 70  # outside the crop it is dim
    assert colourful[:50, 100:150].max() < 10


def test_what_lies_outside_the_region_is_dim(predictor):
    region = Region(polygons=(((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)),))
    box = Box(0, 0, 100, 100)
    picture, relevance = np.full((100, 100, 3), 128, dtype=np.uint8), np.zeros((1, 2, 2), dtype=np.float32)
    painted = paint(
        picture, relevance[0], box, HeatScale.of(relevance, signed=False), seen_mask(100, 100, box, region)
    )
    assert painted[:, 60:].max() < 70 < painted[:, :40].min()


def test_signs_have_colours_of_their_own():
    scale = HeatScale.of(np.array([[[-1.0, 0.0, 1.0]]]), signed=True)
    colours, opacity = scale.table
    assert colours[-1, 0] > 200
    assert colours[0, 0] < 50
    assert opacity[0] == opacity[-1]
    assert opacity[127] < 0.01


def test_one_cell_above_all_leaves_the_others_some_colour():
    relevance = np.full((8, 10, 10), 0.1)
    relevance[0, 0, 0] = 100.0
    assert HeatScale.of(relevance, signed=False).high == 25.0


def test_maps_are_interpolated_between_instants_and_end_with_them():
    track = RelevanceTrack.of(np.array([1.0, 3.0]), np.array([[[0.0]], [[1.0]]]))
    assert track.at(1.0)[0, 0] == 0.0
    assert track.at(2.5)[0, 0] == pytest.approx(0.75)
    assert track.at(3.9)[0, 0] == 1.0  # half a step beyond
    assert track.at(4.1) is None


def test_frames_of_one_instant_are_averaged():
    track = RelevanceTrack.of(np.array([0.0, 1.0, 1.0]), np.array([[[0.0]], [[1.0]], [[3.0]]]))
    assert track.maps[:, 0, 0].tolist() == [0.0, 2.0]


def test_the_overlay_keeps_times_and_pictures(predictor, tmp_path):
    times = [0.0, 0.1, 0.35, 0.4, 0.9, 1.0, 1.3]
    video = write_video(tmp_path / "a.mp4", num_frames=7, times_seconds=times, width=320, height=240)
    explanation = _explanation(predictor, video, np.zeros((2, 2, 2), np.float32))
    whole = replace(explanation.clip, box=Box(0, 0, 320, 240))  # nothing is dim
    target = write_overlay(replace(explanation, clip=whole), explanation.maps[0], tmp_path / "o.mp4")
    assert [seconds for seconds, _ in iterate_frames(target)] == pytest.approx(times, abs=2e-4)
    pictures = read_frames(target, times)
    assert pictures.shape[2] == 640  # enlarged until letters fit below it
    assert pictures.shape[1] > 480
    assert [frame_number(picture[:480]) for picture in pictures] == list(range(7))


def test_a_long_video_s_overlay_is_the_clip_and_a_little_around_it(predictor, tmp_path):
    video = write_video(tmp_path / "a.mp4", num_frames=400)
    explanation = _explanation(predictor, video)
    first, last = explanation.clip.times_seconds[[0, -1]]
    assert overlay_span(explanation) == pytest.approx((first - 5, last + 5))
    target = write_overlay(explanation, explanation.maps[0], tmp_path / "o.mp4")
    shown = read_frames(target, [0.0, 5.25])
    assert frame_number(shown[0][:480]) == int(10 * (first - 5) + 1e-6) % 256  # dim as a whole
    assert shown[0][:480].mean() < 0.7 * shown[1][:480].mean()  # what was not looked at is dim


def test_a_strip_of_a_picture_has_an_overlay_that_can_be_encoded(predictor, tmp_path):
    video = write_video(tmp_path / "a.mp4", num_frames=7, width=16, height=640)
    explanation = _explanation(predictor, video)
    target = write_overlay(explanation, explanation.maps[0], tmp_path / "o.mp4")
    assert max(read_frames(target, [0.0]).shape) < 5000


@pytest.mark.parametrize(("frames", "size"), [(2, (64, 48)), (8, (48, 96)), (96, (96, 48))])
def test_sheets_hold_any_number_of_frames_and_any_shape(tmp_path, frames, size):
    run = write_tiny_run(tmp_path / "run", num_frames=frames, frame_interval=1)
    predictor = Predictor.from_pretrained(run, device="cpu")
    video = write_video(tmp_path / "a.mp4", num_frames=40, width=size[0], height=size[1])
    relevance = np.random.default_rng(0).random((frames, 2, 2), dtype=np.float32)
    sheet = Image.open(io.BytesIO(draw_contact_sheet(_explanation(predictor, video, relevance))))
    assert sheet.width == 1560
    assert 600 < sheet.height < 4000
    assert Image.open(io.BytesIO(draw_curve(_explanation(predictor, video, relevance)))).width == 1200


def test_a_page_shows_the_most_relevant_of_many_frames(tmp_path):
    predictor = Predictor.from_pretrained(
        write_tiny_run(tmp_path / "run", num_frames=96, frame_interval=1), device="cpu"
    )
    relevance = np.ones((96, 2, 2), dtype=np.float32)
    relevance[37] = 9.0
    frames = shown_frames(_explanation(predictor, write_video(tmp_path / "a.mp4", num_frames=40), relevance))
    assert len(frames) == 12
    assert 37 in frames
    assert frames == sorted(frames)


def test_odd_names_are_drawn(predictor, tmp_path):
    video = write_video(tmp_path / f"{'long' * 40}.mp4")
    name = "crossing_the_track_in_front_of_a_moving_train_$x$\nand_more_of_it_" * 2
    assert draw_contact_sheet(_explanation(predictor, video, target=name))


def test_an_empty_map_says_so(predictor, tmp_path):
    explanation = _explanation(
        predictor, write_video(tmp_path / "a.mp4"), np.zeros((2, 2, 2), np.float32), method="gradient_rollout"
    )
    assert any("nothing speaks for fall; this map is empty" in line for line in explanation.cautions)
    assert draw_contact_sheet(explanation)
    write_overlay(explanation, explanation.maps[0], tmp_path / "o.mp4")


@pytest.fixture
def texts(monkeypatch):
    """What is written on figures."""
    found = []
    write = Figure.text

    def note(figure, x, y, text, **style):
        found.append(text)
        return write(figure, x, y, text, **style)

    monkeypatch.setattr(Figure, "text", note)
    return found


def _judged(explanation, verdict):
    """The explanation as if its map had been measured."""
    curves = SimpleNamespace(better_than_chance=verdict == "better than chance")
    trust = SimpleNamespace(verdict=verdict, curves=curves, lines=lambda: [f"This map is {verdict}."], to_dict=dict)
    return replace(explanation, maps=(replace(explanation.maps[0], trust=trust),))


@pytest.mark.parametrize(
    ("verdict", "told"),
    [
        (None, "trust not measured"),
        ("better than chance", "better than chance"),
        ("no better than chance", "no better than chance; do not rely on it"),
    ],
)
def test_overlay_and_curve_tell_how_far_to_trust_the_map(predictor, tmp_path, texts, verdict, told):
    relevance = np.array([[[9, 1], [1, 1]], [[1, 1], [1, 1]]], np.float32)
    explanation = _explanation(predictor, write_video(tmp_path / "a.mp4"), relevance)
    explanation = explanation if verdict is None else _judged(explanation, verdict)
    assert explanation.maps[0].judgement == (told, verdict != "better than chance")
    draw_curve(explanation)
    assert f"Attention rollout: {told}" in texts
    texts.clear()
    write_overlay(explanation, explanation.maps[0], tmp_path / "o.mp4")
    assert told in texts
    assert list(lines_of([explanation]))[1] == f"  attention rollout: {told}"


def test_a_nearly_even_map_says_so_everywhere_and_is_not_painted_as_all_relevant(predictor, tmp_path, texts):
    even = 1 + 0.1 * np.random.default_rng(0).random((2, 2, 2), dtype=np.float32)
    explanation = _judged(_explanation(predictor, write_video(tmp_path / "a.mp4"), even), "better than chance")
    (each,) = explanation.maps
    told = "nearly even: it points nowhere"
    assert each.scale.is_even
    assert each.judgement == (f"{told}; better than chance", True)
    assert each.scale.levels(even).max() < 150  # of 255
    assert explanation.to_dict()["methods"]["rollout"]["nearly_even"]
    for draw in (draw_contact_sheet, draw_curve, lambda _: write_overlay(explanation, each, tmp_path / "o.mp4")):
        texts.clear()
        draw(explanation)
        assert any(told in text for text in texts)
        assert not any(text.endswith("peak") for text in texts)
    assert told in list(lines_of([explanation]))[1]


def test_a_map_with_a_hot_place_is_not_even():
    relevance = np.ones((2, 6, 6))
    relevance[0, 0, 0] = 9.0
    scale = HeatScale.of(relevance, signed=False)
    assert not scale.is_even
    assert scale.levels(relevance).max() == 255


@pytest.mark.parametrize(
    ("frames", "method", "peak"),
    [
        ([1.0, 1.05], "rollout", None),
        ([1.0, 1.3], "rollout", 1),
        ([0.0, 0.0], "gradient_rollout", None),
        ([0.1, -0.2], "occlusion", 0),
        ([-0.1, -0.2], "occlusion", None),
    ],
)
def test_a_peak_is_a_frame_that_stands_out(predictor, tmp_path, texts, frames, method, peak):
    relevance = np.ones((2, 2, 2), np.float32) * np.array(frames, np.float32)[:, None, None]
    explanation = _explanation(predictor, write_video(tmp_path / "a.mp4"), relevance, method=method)
    assert explanation.maps[0].peak_frame == peak
    draw_contact_sheet(explanation)
    assert sum(text.endswith("peak") for text in texts) == (peak is not None)
    seconds = explanation.to_dict()["methods"][method]["peak_seconds"]
    assert seconds == (None if peak is None else pytest.approx(explanation.clip.times_seconds[peak], abs=1e-3))


def test_maps_of_another_class_than_the_named_one_say_so(predictor, tmp_path):
    clip = _clip(predictor, write_video(tmp_path / "a.mp4"))
    named = explain_clip(predictor, clip, trust=False)
    other = next(label for label in predictor.labels if label != named.label)
    assert named.cautions == []
    asked = explain_clip(predictor, clip, target=other, trust=False)
    assert asked.target == other
    assert f"The model named {named.label}" in asked.cautions[0]


def test_pixels_are_made_square():
    picture = np.zeros((40, 40, 3), dtype=np.uint8)
    assert square_pixels(picture, Fraction(2)).shape == (40, 80, 3)
    assert square_pixels(picture, Fraction(1), least_width_px=101, even=True).shape == (100, 100, 3)


@pytest.mark.parametrize(("seconds", "told"), [(0.0, "00:00.00"), (59.999, "01:00.00"), (3725.5, "1:02:05.50")])
def test_the_clock(seconds, told):
    assert clock(seconds) == told
