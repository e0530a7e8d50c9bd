"""Windows over long footage: the clips that a dataset of the same segments would give, in one pass."""

import json

import av
import datasets
import numpy as np
import pytest
import torch
from videos import frame_number, write_video

from railsformer.data.clips import ClipDataset
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings
from railsformer.data.video import VideoDecodeError
from railsformer.inference.regions import Region
from railsformer.inference.windows import Picture, WindowCutter, WindowPlan, decode_pictures, iterate_windows

PIXELS = PixelSettings(32, 36)
SAMPLING = ClipSampling(4, 15)  # 4 frames, half a second apart
LOSSLESS = 0


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    """12 s at 10 fps with a key picture each second."""
    folder = tmp_path_factory.mktemp("footage")
    return write_video(folder / "long.mkv", num_frames=120, fps=10, gop=10, crf=LOSSLESS)


def _windows(path, plan, sampling=SAMPLING, **options):
    return list(iterate_windows(path, plan, sampling, PIXELS, **options))


def _evaluation_clip(folder, *, start_seconds, seconds, sampling):
    """What a dataset gives of the segment, stored as a file of its own."""
    first = round(start_seconds * 10)
    path = write_video(
        folder / f"{first}.mkv", num_frames=round(seconds * 10), fps=10, first_number=first, crf=LOSSLESS
    )
    row = {"video": {"path": str(path), "bytes": None}, "label": 0, "start_seconds": 0.0, "end_seconds": seconds}
    clips = ClipDataset(datasets.Dataset.from_list([row]), sampling=sampling, pixels=PIXELS)
    return clips[0]["pixel_values"]


@pytest.mark.parametrize(
    ("sampling", "seconds"),
    [
        (SAMPLING, 2.0),
        (SAMPLING, 3.5),
        (SAMPLING, 1.0),  # shorter than the clip: its last picture is held
        (ClipSampling(4, 15, short_video="loop"), 1.0),
        (ClipSampling(4, 15, short_video="stretch"), 1.0),
        (ClipSampling(5, 15, clip_sampling="segments"), 3.0),
    ],
)
def test_a_window_is_the_evaluation_clip_of_its_segment(footage, tmp_path, sampling, seconds):
    windows = _windows(footage, WindowPlan(seconds, 0.7), sampling)
    assert [window.index for window in windows] == list(range(len(windows)))
    for window in windows[::3]:
        if window.end_seconds - window.start_seconds < seconds - 1e-6:
            continue  # the last one holds, which a segment of its own length would not
        expected = _evaluation_clip(tmp_path, start_seconds=window.start_seconds, seconds=seconds, sampling=sampling)
        torch.testing.assert_close(window.pixel_values, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("stride", [2.0, 0.5, 0.1])
def test_each_picture_is_decoded_once_whatever_the_overlap(footage, stride):
    seen: list[Picture] = []
    windows = _windows(footage, WindowPlan(2.0, stride), on_picture=seen.append)
    assert len(windows) == round((12 - 2) / stride) + 1
    assert len(seen) == 120
    assert len({picture.seconds for picture in seen}) == 120


def test_pictures_that_no_window_shows_are_not_converted(footage):
    seen: list[Picture] = []
    windows = _windows(footage, WindowPlan(2.0, 2.0), on_picture=seen.append)
    assert sum(picture.rgb is not None for picture in seen) == 4 * len(windows) + 1  # the last one could be held


@pytest.mark.parametrize("suffix", ["mkv", "avi", "ts"])
def test_going_on_at_a_window_gives_the_same_windows(tmp_path, suffix):
    path = write_video(tmp_path / f"long.{suffix}", num_frames=120, fps=10, gop=10)
    plan = WindowPlan(2.0, 0.5)
    whole = _windows(path, plan)
    rest = _windows(path, plan, first_index=13)
    assert [window.index for window in rest] == [window.index for window in whole[13:]]
    for again, window in zip(rest, whole[13:], strict=True):
        assert (again.start_seconds, again.end_seconds) == (window.start_seconds, window.end_seconds)
        assert torch.equal(again.pixel_values, window.pixel_values)


def test_windows_that_touch_a_gap_are_marked_and_those_inside_left_out(tmp_path):
    times = [index / 10 + (20 if index >= 60 else 0) for index in range(120)]  # nothing from 6 s to 26 s
    path = write_video(tmp_path / "gap.mkv", num_frames=120, times_seconds=times)
    events = []
    windows = _windows(path, WindowPlan(2.0, 1.0), on_event=events.append)
    assert [window.index for window in windows if window.gap] == [5, 25]
    assert [window.index for window in windows if not window.gap] == [0, 1, 2, 3, 4, *range(26, 31)]
    assert all((window.pixel_values is None) == window.gap for window in windows)
    assert [(event.kind, event.seconds) for event in events] == [("gap", pytest.approx(5.9))]
    assert events[0].detail == "no picture for 20.10 s"


def test_a_slow_camera_has_no_gaps(tmp_path):
    path = write_video(tmp_path / "slow.mp4", num_frames=12, times_seconds=[3.0 * index for index in range(12)])
    events = []
    windows = _windows(path, WindowPlan(9.0, 9.0), ClipSampling(4, 75), on_event=events.append)
    assert not events
    assert [window.gap for window in windows] == [False] * 4


def test_pictures_of_another_size_are_brought_to_the_models_and_told(tmp_path):
    first = write_video(tmp_path / "first.ts", num_frames=40, fps=10)
    second = write_video(tmp_path / "second.ts", num_frames=40, fps=10, width=128, height=96, first_number=40)
    path = tmp_path / "both.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    events = []
    windows = _windows(path, WindowPlan(2.0, 0.5), on_event=events.append)
    assert [event.detail for event in events if event.kind == "size_change"] == [
        "the picture size changes from 64x48 to 128x96"
    ]
    assert {window.pixel_values.shape for window in windows} == {(4, 3, 32, 32)}
    assert windows[-1].end_seconds == pytest.approx(8.0, abs=0.3)


def test_a_rate_that_changes_is_told_once(tmp_path):
    times = [*(index / 10 for index in range(80)), *(8 + index / 4 for index in range(80))]
    path = write_video(tmp_path / "rate.mkv", num_frames=160, times_seconds=times)
    events = []
    windows = _windows(path, WindowPlan(2.0, 1.0), on_event=events.append)
    assert [(event.kind, event.detail) for event in events] == [
        ("rate_change", "the rate changes from 10 to 4 pictures a second")
    ]
    assert windows[-1].end_seconds == pytest.approx(28.0, abs=0.2)


def test_damage_is_skipped_and_told(tmp_path):
    path = write_video(tmp_path / "damaged.ts", num_frames=120, fps=10, gop=10, crf=1)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 1500] = np.random.default_rng(0).bytes(1500)
    path.write_bytes(content)
    events = []
    windows = _windows(path, WindowPlan(2.0, 0.5), on_event=events.append)
    assert "damage" in {event.kind for event in events}
    assert windows[-1].end_seconds == pytest.approx(12.0, abs=0.2)


def test_a_file_that_breaks_off_says_so(footage, tmp_path):
    path = tmp_path / "half.mkv"
    path.write_bytes(footage.read_bytes()[: footage.stat().st_size // 2])
    events = []
    windows = _windows(path, WindowPlan(2.0, 0.5), on_event=events.append)
    assert 4 < windows[-1].end_seconds < 8
    assert events[-1].kind == "damage"
    assert events[-1].detail.endswith("s, the header tells of 12.00 s")


def test_the_last_window_holds_the_last_picture(footage):
    windows = _windows(footage, WindowPlan(2.0, 1.5), ClipSampling(8, 15, clip_sampling="segments"))
    assert [window.start_seconds for window in windows][-1] == 10.5  # 1.5 s of it are there
    assert windows[-1].end_seconds == pytest.approx(12.0)
    assert torch.equal(windows[-1].pixel_values[-1], windows[-1].pixel_values[-2])


def test_a_tail_that_fills_less_than_half_a_window_is_left_out(footage):
    windows = _windows(footage, WindowPlan(2.5, 2.3))  # the sixth would begin at 11.5 s
    assert [window.index for window in windows] == [0, 1, 2, 3, 4]


def test_a_window_that_is_a_little_longer_than_the_video_is_one_window(footage):
    (window,) = _windows(footage, WindowPlan(12.2, 5.0), ClipSampling(4, 15, clip_sampling="segments"))
    assert (window.start_seconds, window.end_seconds) == (0.0, pytest.approx(12.0))


def test_a_window_of_more_than_twice_the_video_is_refused(footage):
    with pytest.raises(ValueError, match=r"lasts 12\.00 s, less than half a window of 30 s; give a --window"):
        _windows(footage, WindowPlan(30.0, 5.0))


def test_an_eager_window_comes_with_its_last_picture_and_is_the_same(footage):
    plan = WindowPlan(3.0, 0.5)
    patient = {window.index: window for window in _windows(footage, plan)}
    cutter = WindowCutter(plan, SAMPLING, PIXELS, eager=True)
    num_seen = 0
    for picture in decode_pictures(footage, short_side_px=36, wanted=cutter.wanted):
        for window in cutter.push(picture):
            num_seen += 1
            last_instant = window.start_seconds + 0.75 + 1.5
            assert picture.until_seconds == pytest.approx(last_instant, abs=0.11)
            if window.index in patient:
                assert torch.equal(window.pixel_values, patient[window.index].pixel_values)
    assert num_seen >= len(patient)


def test_pictures_must_ascend(footage):
    cutter = WindowCutter(WindowPlan(2.0, 1.0), SAMPLING, PIXELS)
    cutter.push(Picture(1.0, 1.1, None))
    with pytest.raises(ValueError, match=r"must come in their order, got 0\.5 s after 1"):
        cutter.push(Picture(0.5, 0.6, None))


def test_only_the_region_is_looked_at(footage):
    region = Region(polygons=(((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)),))
    whole = _windows(footage, WindowPlan(2.0, 2.0))
    masked = _windows(footage, WindowPlan(2.0, 2.0), region=region)
    for window, part in zip(whole, masked, strict=True):
        assert torch.equal(part.pixel_values[..., :15], window.pixel_values[..., :15])
        assert part.pixel_values[..., 17:].abs().max() < 0.01  # the mean colour


def test_an_open_container_is_read_from_a_given_time_on(footage):
    with av.open(str(footage)) as container:
        pictures = list(decode_pictures(container, start_seconds=100.0, threads=1))
    assert len(pictures) == 120
    assert (pictures[0].seconds, pictures[-1].until_seconds) == (100.0, pytest.approx(112.0))
    assert [frame_number(picture.rgb) for picture in pictures] == list(range(120))
    assert pictures[0].rgb.shape == (48, 64, 3)


def test_footage_after_a_reconnect_leaves_a_gap(footage):
    """The second connection begins 20 s after the first one did, which gave 12 s."""
    cutter = WindowCutter(WindowPlan(2.0, 1.0), SAMPLING, PIXELS, eager=True)
    windows = []
    for start in (0.0, 20.0):
        with av.open(str(footage)) as container:
            for picture in decode_pictures(container, short_side_px=36, wanted=cutter.wanted, start_seconds=start):
                windows += cutter.push(picture)
    assert [window.index for window in windows if window.gap] == [11, 19]
    assert [window.index for window in windows if not window.gap] == [*range(11), *range(20, 31)]


def test_what_is_no_video_is_named(tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("no video")
    with pytest.raises(VideoDecodeError, match=r"text\.mp4"):
        _windows(path, WindowPlan(2.0, 1.0))
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4: no such video file"):
        _windows(tmp_path / "gone.mp4", WindowPlan(2.0, 1.0))


@pytest.mark.parametrize(("window", "stride"), [(0.0, 1.0), (2.0, -1.0), (float("nan"), 1.0), (2.0, float("inf"))])
def test_lengths_must_be_positive(window, stride):
    with pytest.raises(ValueError, match="must be a number of seconds above 0"):
        WindowPlan(window, stride)


def test_a_plan_follows_the_models_clip(tmp_path):
    assert WindowPlan.for_model(tmp_path, SAMPLING) == WindowPlan(2.0, 1.0)
    assert WindowPlan.for_model(tmp_path, SAMPLING, window_seconds=3.0, stride_seconds=0.25) == WindowPlan(3.0, 0.25)


def test_a_model_of_whole_videos_asks_for_the_windows_length_or_finds_it_in_its_run(tmp_path, yard_dataset):
    whole_videos = ClipSampling(4, 15, clip_sampling="segments")
    with pytest.raises(ValueError, match="give --window_seconds"):
        WindowPlan.for_model(tmp_path, whole_videos)
    (tmp_path / "run.json").write_text(json.dumps({"dataset": str(yard_dataset)}))
    rows = datasets.load_dataset(str(yard_dataset), split="train").cast_column("video", datasets.Video(decode=False))
    durations = [end - start for start, end in zip(rows["start_seconds"], rows["end_seconds"], strict=True)]
    assert WindowPlan.for_model(tmp_path, whole_videos).window_seconds == pytest.approx(np.median(durations))
    (tmp_path / "training_videos.json").write_text(json.dumps({"median_seconds": 7.5}))
    assert WindowPlan.for_model(tmp_path, whole_videos).window_seconds == 7.5
