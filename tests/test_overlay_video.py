"""Annotated copies and event clips: right pictures at right times, whole files, flat memory."""

import subprocess
import sys
from datetime import datetime
from pathlib import Path

import av
import numpy as np
import pytest
from videos import frame_number, write_video

from railsformer.data.video import VideoDecodeError, iterate_frames, read_frames
from railsformer.inference.colours import label_colours
from railsformer.inference.encode_video import is_web_playable
from railsformer.inference.overlay_video import cut_event_clips, write_annotated_video

LABELS = ["Fall", "Fire", "Other"]


def _event(start: float, end: float, label: str = "Fall") -> dict:
    return {"label": label, "start_seconds": start, "end_seconds": end, "peak_seconds": start, "score": 0.9}


def _annotate(video: Path, target: Path, **changes) -> Path:
    times = np.arange(0.5, 4.0, 0.5)
    scores = np.tile([0.9, 0.1, 0.0], (len(times), 1))
    given = {
        "times_seconds": times,
        "scores": scores,
        "labels": LABELS,
        "events": [_event(1.0, 2.0)],
        "negative_labels": ["Other"],
        "thresholds": {"Fall": 0.5},
    }
    return write_annotated_video(video, target, **given | changes)


def _times(path: Path) -> list[float]:
    return [seconds for seconds, _ in iterate_frames(path)]


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / "source.mp4", num_frames=40, fps=10, width=160, height=96)


def test_pictures_and_their_times_stay(tmp_path):
    times = [0.0, 0.1, 0.35, 0.4, 2.9, 3.0, 3.3]
    source = write_video(tmp_path / "source.mp4", num_frames=7, times_seconds=times, width=160, height=96)
    copy = _annotate(source, tmp_path / "copy.mp4", events=[])
    assert _times(copy) == pytest.approx(times, abs=2e-4)
    pictures = read_frames(copy, times)
    assert pictures.shape[1] > 96
    assert pictures.shape[2] == 160
    assert [frame_number(picture[:96]) for picture in pictures] == list(range(7))


def test_rate_and_length_are_the_source_s(video, tmp_path):
    copy = _annotate(video, tmp_path / "copy.mp4")
    with av.open(str(copy)) as container:
        assert container.streams.video[0].average_rate == 10
        assert container.duration / 1e6 == pytest.approx(4.0, abs=0.01)
        assert not container.streams.audio
    assert is_web_playable(copy)


def test_an_event_is_named_and_framed_while_it_lasts(video, tmp_path):
    copy = _annotate(video, tmp_path / "copy.mp4")
    colour = label_colours(LABELS, ["Other"])["Fall"]
    wanted = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)])
    corners = read_frames(copy, [0.95, 1.0, 1.9, 2.0])[:, :8, :8].mean(axis=(1, 2))
    near = np.abs(corners - wanted).max(axis=1) < 40
    assert near.tolist() == [False, True, True, False]


def test_the_bar_is_as_long_as_the_score(video, tmp_path):
    times = np.array([1.0, 3.0])
    scores = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]])
    copy = _annotate(video, tmp_path / "copy.mp4", times_seconds=times, scores=scores, events=[], thresholds={})
    early, late = read_frames(copy, [0.5, 3.5])[:, 96:].astype(int)
    blue = [(panel[..., 2] - panel[..., 0] > 60).sum() for panel in (early, late)]
    orange = [(panel[..., 0] - panel[..., 2] > 60).sum() for panel in (early, late)]
    assert blue[0] > 4 * blue[1]
    assert orange[1] > 4 * orange[0]


def test_what_was_not_scored_has_no_bar(video, tmp_path):
    scores = np.full((1, 3), np.nan)
    copy = _annotate(video, tmp_path / "copy.mp4", times_seconds=np.array([1.0]), scores=scores, events=[])
    (panel,) = read_frames(copy, [1.0])[:, 96:].astype(int)
    assert (np.abs(panel[..., 2] - panel[..., 0]) > 60).sum() == 0


def test_no_windows_at_all_and_a_wall_clock_can_be_drawn(video, tmp_path):
    copy = _annotate(
        video,
        tmp_path / "copy.mp4",
        times_seconds=np.zeros(0),
        scores=np.zeros((0, 3)),
        events=[],
        start_time=datetime(2026, 11, 22, 23, 59, 58),
    )
    assert len(_times(copy)) == 40


def test_a_finished_copy_is_kept_and_one_of_other_scores_is_made_anew(video, tmp_path):
    copy = _annotate(video, tmp_path / "copy.mp4")
    made = copy.stat().st_mtime_ns
    assert _annotate(video, copy).stat().st_mtime_ns == made
    assert _annotate(video, copy, scores=np.zeros((7, 3))).stat().st_mtime_ns != made


def test_scores_of_another_shape_are_refused(video, tmp_path):
    with pytest.raises(ValueError, match=r"scores must be of shape \(7, 3\), got \(7, 2\)"):
        _annotate(video, tmp_path / "copy.mp4", scores=np.zeros((7, 2)))


def test_a_picture_size_that_changes_is_rescaled(tmp_path):
    parts = [
        write_video(tmp_path / f"{width}.ts", num_frames=10, width=width, height=48, first_number=first)
        for width, first in ((64, 0), (96, 10))
    ]
    source = tmp_path / "both.ts"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    copy = _annotate(source, tmp_path / "copy.mp4", events=[])
    pictures = read_frames(copy, _times(copy))
    assert pictures.shape[2] == 64
    assert [frame_number(picture[:48]) for picture in pictures][::6] == [0, 6, 13, 19]


def test_clips_hold_the_event_and_its_margins(video, tmp_path):
    clips = cut_event_clips(
        video, tmp_path / "clips", [_event(1.0, 2.0), _event(3.5, 3.9, "Fire in/the cabin")], margin_seconds=0.5
    )
    assert [clip.name for clip in clips] == ["001_Fall_00h00m01s.mp4", "002_Fire_in_the_cabin_00h00m03s.mp4"]
    numbers = [[frame_number(picture) for picture in read_frames(clip, _times(clip))] for clip in clips]
    assert numbers == [list(range(5, 25)), list(range(30, 40))]
    assert _times(clips[0])[0] == 0


def test_finished_clips_are_kept_and_those_of_moved_events_are_not(video, tmp_path):
    (clip,) = cut_event_clips(video, tmp_path, [_event(1.0, 2.0)], margin_seconds=0.5)
    made = clip.stat().st_mtime_ns
    (again,) = cut_event_clips(video, tmp_path, [_event(1.0, 2.0)], margin_seconds=0.5)
    assert again.stat().st_mtime_ns == made
    (moved,) = cut_event_clips(video, tmp_path, [_event(1.2, 2.0)], margin_seconds=0.5)
    assert moved == clip
    assert moved.stat().st_mtime_ns != made


def test_an_event_after_the_end_is_refused(video, tmp_path):
    with pytest.raises(VideoDecodeError, match="has no picture from 97 s on"):
        cut_event_clips(video, tmp_path / "clips", [_event(99.0, 100.0)])
    assert not list((tmp_path / "clips").iterdir())
    with pytest.raises(ValueError, match="margin_seconds must be 0 or more, got -1"):
        cut_event_clips(video, tmp_path / "clips", [], margin_seconds=-1)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on files there")
def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(video, tmp_path):
    code = f"""
import resource, sys
from railsformer.inference.overlay_video import cut_event_clips
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
event = {{"label": "Fall", "start_seconds": 1.0, "end_seconds": 2.0, "score": 0.9}}
try:
    cut_event_clips({str(video)!r}, {str(tmp_path / "clips")!r}, [event])
except OSError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("DiskFullError")
    assert "no room for the video on this disk; free some space" in done.stdout
    assert done.stdout.count("\n") == 1
    assert not list((tmp_path / "clips").iterdir())


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path):
    source = write_video(tmp_path / "long.mp4", num_frames=1500, fps=5, width=160, height=120)
    code = f"""
import numpy as np, psutil
from railsformer.inference.overlay_video import write_annotated_video
times = np.arange(0.5, 300)
scores = np.random.default_rng(0).random((len(times), 2))
events = [dict(label="a", start_seconds=s, end_seconds=s + 2, score=.5) for s in range(5, 290, 5)]
process, used = psutil.Process(), {{}}
def note(seconds):
    used[round(seconds)] = process.memory_info().rss
write_annotated_video({str(source)!r}, {str(tmp_path / "copy.mp4")!r}, times_seconds=times, scores=scores,
                      labels=["a", "b"], events=events, on_progress=note)
print((used[295] - used[60]) / 2**20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 8
