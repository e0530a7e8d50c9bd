from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from videos import frame_number, write_video

from railsformer.data.sampling import ClipRule, ClipSampling, ShortVideoRule
from railsformer.data.video import read_frames
from railsformer.model import configuration_railsformer


@pytest.mark.parametrize(
    ("num_frames", "frame_interval", "nominal_fps", "start", "expected"),
    [
        (4, 3, 30.0, 0.0, [0.0, 0.1, 0.2, 0.3]),
        (4, 3, 30.0, 2.5, [2.5, 2.6, 2.7, 2.8]),
        (3, 32, 32.0, 1.0, [1.0, 2.0, 3.0]),
        (2, 1, 25.0, 0.0, [0.0, 0.04]),
        (1, 16, 30.0, 7.0, [7.0]),
    ],
)
def test_clip_times(num_frames, frame_interval, nominal_fps, start, expected):
    sampling = ClipSampling(num_frames, frame_interval, nominal_fps)
    np.testing.assert_allclose(sampling.clip_times(start), expected)
    assert sampling.span_seconds == pytest.approx(expected[-1] - expected[0])


def test_the_papers_clip_spans_seven_steps():
    assert ClipSampling(8, 32).span_seconds == pytest.approx(7 * 32 / 30)


@pytest.mark.parametrize(
    ("segment", "num_clips", "expected"),
    [
        ((0.0, 7.0), 1, [3.0]),  # slack 6 s: the middle
        ((0.0, 7.0), 3, [1.0, 3.0, 5.0]),
        ((10.0, 17.0), 2, [11.5, 14.5]),
        ((0.0, 1.0), 2, [0.0, 0.0]),  # just fits
        ((4.0, 4.5), 3, [4.0, 4.0, 4.0]),  # too short: from its start, the reader holds the end
        ((0.0, 0.0), 1, [0.0]),
    ],
)
def test_evaluation_starts(segment, num_clips, expected):
    sampling = ClipSampling(num_frames=3, frame_interval=5, nominal_fps=10.0)  # spans 1 s
    np.testing.assert_allclose(sampling.evaluation_starts(*segment, num_clips=num_clips), expected)


def test_training_starts_fill_what_fits():
    sampling = ClipSampling(num_frames=3, frame_interval=5, nominal_fps=10.0)
    rng = np.random.default_rng(0)
    starts = np.array([sampling.training_start(2.0, 6.0, rng) for _ in range(2000)])
    assert starts.min() >= 2.0
    assert starts.max() < 5.0  # the last instant stays before 6 s
    assert (starts.min(), starts.max()) == pytest.approx((2.0, 5.0), abs=0.02)
    assert starts.mean() == pytest.approx(3.5, abs=0.06)


def test_a_short_segment_is_taken_from_its_start_and_uses_one_draw_all_the_same():
    sampling = ClipSampling(num_frames=8, frame_interval=32)
    short, long = np.random.default_rng(3), np.random.default_rng(3)
    assert sampling.training_start(1.0, 2.0, short) == 1.0
    sampling.training_start(0.0, 60.0, long)
    assert short.random() == long.random()


def test_cameras_of_different_rates_show_the_same_instants(tmp_path):
    slow = write_video(tmp_path / "slow.mp4", num_frames=40, fps=10)
    fast = write_video(tmp_path / "fast.mp4", num_frames=120, fps=30)
    sampling = ClipSampling(num_frames=4, frame_interval=9)  # 0.3 s
    for start in (0.0, 0.7, 2.9):
        times = sampling.clip_times(start)
        shown_slow = [frame_number(picture) for picture in read_frames(slow, times)]
        shown_fast = [frame_number(picture) for picture in read_frames(fast, times)]
        assert shown_slow == [round(time * 10) for time in times]
        assert shown_fast == [3 * number for number in shown_slow]


SHORT_RULES, CLIP_RULES = get_args(ShortVideoRule), get_args(ClipRule)
# 8 frames 0.1 s apart, but for `segments`, which has no interval.
RULES = [{"short_video": rule} for rule in SHORT_RULES] + [{"clip_sampling": "segments"}]


def _sampling(num_frames=8, **rules):
    return ClipSampling(num_frames, 3, 30.0, **rules)


@pytest.mark.parametrize(
    ("rules", "duration", "expected"),
    [
        ({"short_video": "hold"}, 0.5, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        ({"short_video": "loop"}, 0.5, [0.0, 0.1, 0.2, 0.3, 0.4, 0.0, 0.1, 0.2]),
        ({"short_video": "loop"}, 0.25, [0.0, 0.1, 0.2, 0.05, 0.15, 0.0, 0.1, 0.2]),
        ({"short_video": "loop"}, 0.3, [0.0, 0.1, 0.2, 0.0, 0.1, 0.2, 0.0, 0.1]),  # 3 x 0.1 is not 0.3 in floats
        ({"short_video": "stretch"}, 0.35, [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35]),
        ({"short_video": "stretch"}, 0.7, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),  # just fits
        ({"clip_sampling": "segments"}, 1.6, [0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5]),
        ({"clip_sampling": "segments"}, 0.16, [0.01, 0.03, 0.05, 0.07, 0.09, 0.11, 0.13, 0.15]),
        # long enough: the middle, whatever the rule for short ones
        *[({"short_video": rule}, 1.7, [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2]) for rule in SHORT_RULES],
    ],
)
@pytest.mark.parametrize("start", [0.0, 4.0])
def test_instants_under_each_rule(rules, duration, expected, start):
    times = _sampling(**rules).evaluation_times(start, start + duration)
    assert times.shape == (1, 8)
    np.testing.assert_allclose(times[0], start + np.array(expected), atol=1e-6)


def test_several_clips_of_segments_share_out_each_part():
    times = _sampling(2, clip_sampling="segments").evaluation_times(10.0, 22.0, num_clips=3)
    np.testing.assert_allclose(times, [[11.0, 17.0], [13.0, 19.0], [15.0, 21.0]])


def test_several_clips_of_interval_begin_at_the_starts():
    sampling = _sampling(4)
    times = sampling.evaluation_times(1.0, 9.0, num_clips=5)
    np.testing.assert_array_equal(times[:, 0], sampling.evaluation_starts(1.0, 9.0, num_clips=5))
    np.testing.assert_allclose(np.diff(times, axis=1), 0.1)


def test_training_times_of_interval_are_the_drawn_start_and_its_steps():
    for seed, (start, end) in enumerate([(0.0, 3.0), (5.0, 5.5), (2.0, 60.0)]):
        drawn = _sampling().training_start(start, end, np.random.default_rng(seed))
        times = _sampling().training_times(start, end, np.random.default_rng(seed))
        np.testing.assert_array_equal(times, _sampling().clip_times(drawn))


def test_training_instants_of_segments_fill_every_part_and_no_other():
    sampling, rng = _sampling(4, clip_sampling="segments"), np.random.default_rng(0)
    times = np.stack([sampling.training_times(10.0, 14.0, rng) for _ in range(2000)])
    np.testing.assert_array_equal(np.floor(times), np.tile([10, 11, 12, 13], (2000, 1)))
    np.testing.assert_allclose((times % 1).mean(axis=0), 0.5, atol=0.03)
    assert np.abs(np.corrcoef(times.T) - np.eye(4)).max() < 0.1  # a draw for each part, not one for the clip


@pytest.mark.parametrize("rules", RULES)
def test_no_instant_leaves_the_segment_but_for_hold(rules):
    rng = np.random.default_rng(7)
    for _ in range(1500):
        sampling = ClipSampling(
            int(rng.integers(1, 33)), int(rng.integers(1, 65)), rng.choice([29.97, 30, 7]), **rules
        )
        start = float(rng.choice([0.0, rng.random() * 1e4]))
        end = start + float(rng.choice([1e-9, 0.01, sampling.span_seconds, 10 ** rng.uniform(-4, 3)]))
        clips = sampling.evaluation_times(start, end, num_clips=int(rng.integers(1, 6)))
        for times in (*clips, sampling.training_times(start, end, rng)):
            assert times.shape == (sampling.num_frames,)
            assert np.isfinite(times).all()
            assert times.min() >= start
            held = rules.get("short_video") == "hold" and end - start <= sampling.span_seconds
            assert held or times.max() < end or end == start
            if rules.get("short_video") != "loop":
                assert (np.diff(times) >= 0).all()


@pytest.mark.parametrize("rules", RULES)
def test_a_segment_without_length_shows_its_one_picture(rules):
    sampling = _sampling(**rules)
    for times in (*sampling.evaluation_times(3.0, 3.0, num_clips=2), sampling.training_times(3.0, 3.0, _rng())):
        assert times[0] == 3.0
        assert rules.get("short_video") == "hold" or (times == 3.0).all()


def _rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (0.0, float("nan"), "end_seconds must be a finite number of seconds, got nan"),
        (float("nan"), 1.0, "start_seconds must be a finite number of seconds, got nan"),
        (0.0, float("inf"), "end_seconds must be a finite number of seconds, got inf"),
        (2.0, 1.0, "end_seconds must be at least start_seconds 2, got 1"),
    ],
)
def test_times_that_are_no_segment_are_refused(rules, start, end, message):
    sampling = _sampling(**rules)
    with pytest.raises(ValueError, match=message):
        sampling.evaluation_times(start, end)
    with pytest.raises(ValueError, match=message):
        sampling.training_times(start, end, _rng())


@pytest.fixture(scope="module")
def two_cameras(tmp_path_factory):
    """The same 4 s as a 10 fps and a 30 fps camera record them."""
    folder = tmp_path_factory.mktemp("cameras")
    return {
        fps: write_video(folder / f"{fps}.mp4", num_frames=4 * fps, fps=fps, width=40, height=16) for fps in (10, 30)
    }


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("interval", [3, 10, 31])  # the clip of 8 spans 0.7, 2.3 and 7.2 s
def test_any_clip_is_the_same_from_two_cameras(two_cameras, rules, interval):
    sampling = ClipSampling(8, interval, 30.0, **rules)
    rng = np.random.default_rng(interval)
    clips = [
        *sampling.evaluation_times(0.0, 4.0, num_clips=2),
        *(sampling.training_times(0.0, 4.0, rng) for _ in "ab"),
    ]
    for times in clips:
        middles = {}  # of the time that each picture stands for
        for fps, path in two_cameras.items():
            numbers = np.array([frame_number(picture) for picture in read_frames(path, times)])
            middles[fps] = (numbers + 0.5) / fps
            on_screen = np.minimum(times, 4.0)
            assert np.abs(middles[fps] - on_screen).max() <= 0.5 / fps + 0.002
        assert np.abs(middles[10] - middles[30]).max() <= 0.05


@pytest.mark.parametrize("name", ["num_frames", "frame_interval", "nominal_fps"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_values_must_be_positive(name, value):
    values = {"num_frames": 8, "frame_interval": 4, "nominal_fps": 30.0}
    with pytest.raises(ValueError, match=f"{name} must be positive, got {value}"):
        ClipSampling(**{**values, name: value})


def test_rules_are_known_by_name():
    with pytest.raises(ValueError, match="short_video must be one of hold, loop, stretch, got 'repeat'"):
        ClipSampling(8, 4, short_video="repeat")
    with pytest.raises(ValueError, match="clip_sampling must be one of interval, segments, got 'tsn'"):
        ClipSampling(8, 4, clip_sampling="tsn")


def test_there_is_at_least_one_clip():
    with pytest.raises(ValueError, match="num_clips must be at least 1, got 0"):
        ClipSampling(8, 4).evaluation_starts(0.0, 1.0, num_clips=0)


def test_the_sampling_of_a_model():
    config = SimpleNamespace(num_frames=8, frame_interval=16, nominal_fps=25)
    assert ClipSampling.from_config(config) == ClipSampling(8, 16, 25.0)  # a stock config names no rules
    config.short_video, config.clip_sampling = "loop", "segments"
    expected = ClipSampling(8, 16, 25.0, short_video="loop", clip_sampling="segments")
    assert ClipSampling.from_config(config) == expected


def test_the_models_configuration_knows_the_same_rules():
    assert configuration_railsformer.SHORT_VIDEO_RULES == SHORT_RULES
    assert configuration_railsformer.CLIP_RULES == CLIP_RULES
