from types import SimpleNamespace

import numpy as np
import pytest
from videos import frame_number, write_video

from railsformer.data.sampling import ClipSampling
from railsformer.data.video import read_frames


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


@pytest.mark.parametrize("name", ["num_frames", "frame_interval", "nominal_fps"])
def test_values_must_be_positive(name):
    values = {"num_frames": 8, "frame_interval": 4, "nominal_fps": 30.0}
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
        ClipSampling(**{**values, name: 0})


def test_there_is_at_least_one_clip():
    with pytest.raises(ValueError, match="num_clips must be at least 1, got 0"):
        ClipSampling(8, 4).evaluation_starts(0.0, 1.0, num_clips=0)


def test_the_sampling_of_a_model():
    config = SimpleNamespace(num_frames=8, frame_interval=16, nominal_fps=25)
    assert ClipSampling.from_config(config) == ClipSampling(8, 16, 25.0)
