"""The toy yard: what it says is what its pictures show."""

import csv
import hashlib
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from railsformer.data.toy_yard import HAZARDS, LABELS, plan_recording, render_toy_yard
from railsformer.data.yard_scene import Actor, Keyframe, draw_frames, encode_video, project_boxes


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("yard")
    table = render_toy_yard(root, num_recordings=2, seed=3, num_workers=1, progress=False)
    assert table == root / "annotations.csv"
    return root


def read_rows(root: Path) -> list[dict[str, str]]:
    with (root / "annotations.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_truth(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "truth.jsonl").read_text(encoding="utf-8").splitlines()]


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_recording_is_a_function_of_seed_and_index(yard: Path, tmp_path: Path) -> None:
    render_toy_yard(tmp_path, num_recordings=1, seed=3, num_workers=1, progress=False)
    once, again = digests(yard), digests(tmp_path)
    videos = [name for name in again if name.endswith(".mp4")]
    assert len(videos) == 8
    assert all(again[name] == once[name] for name in videos)
    assert not any(".part" in name for name in again)
    assert plan_recording(4, index=0)[1] != plan_recording(3, index=0)[1]


@pytest.mark.slow
def test_processes_draw_the_same(yard: Path, tmp_path: Path) -> None:
    render_toy_yard(tmp_path, num_recordings=2, seed=3, num_workers=2, progress=False)
    assert digests(tmp_path) == digests(yard)


def test_an_interrupted_run_is_completed_by_the_same_call(yard: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos" / read_rows(yard)[0]["recording"]
    folder.mkdir(parents=True)
    (folder / "idle_0.mp4").write_bytes(b"cut off")
    render_toy_yard(tmp_path, num_recordings=1, seed=3, num_workers=1, progress=False)
    assert digests(tmp_path)[f"videos/{folder.name}/idle_0.mp4"] == digests(yard)[f"videos/{folder.name}/idle_0.mp4"]


def test_rows_name_what_happens(yard: Path) -> None:
    rows = read_rows(yard)
    assert len(rows) == 16
    assert {row["label"] for row in rows} == set(LABELS)
    assert len({row["recording"] for row in rows}) == len({row["camera"] for row in rows}) == 2
    for row in rows:
        assert (yard / row["file_name"]).is_file()
        expected = HAZARDS[row["scene"]] if row["direction"] == "towards" else "Other"
        assert row["label"] == expected
        assert (
            (row["scene"] == "idle")
            == (row["direction"] == "none")
            == (row["pair"] == "")
            == (not row["event_seconds"])
        )


def test_every_hazard_has_one_twin_in_its_recording(yard: Path) -> None:
    pairs: dict[str, list[dict[str, str]]] = {}
    for row in read_rows(yard):
        if row["pair"]:
            pairs.setdefault(row["pair"], []).append(row)
    assert len(pairs) == 6
    for pair in pairs.values():
        assert sorted(row["direction"] for row in pair) == ["away", "towards"]
        for column in ("recording", "camera", "scene", "fps", "event_seconds"):
            assert len({row[column] for row in pair}) == 1


def test_a_twin_is_its_hazard_backwards(yard: Path) -> None:
    rows = read_rows(yard)
    for hazard, twin in pairwise(rows):
        if hazard["direction"] != "towards":
            continue
        forwards, backwards = decode(yard / hazard["file_name"]), decode(yard / twin["file_name"])
        assert forwards.shape == backwards.shape
        loss = np.abs(forwards.astype(int) - backwards[::-1]).mean()
        motion = np.abs(forwards.astype(int) - backwards).mean()
        assert loss < 6
        assert motion > 1.5 * loss


def test_the_middle_picture_does_not_betray_the_direction() -> None:
    # An instant before and after the middle everything is where it is in the middle, to a tenth of a patch.
    _, clips = plan_recording(0, index=0)
    for clip in clips:
        if clip.direction == "towards":
            around = clip.duration_seconds / 2 + np.array([-1, 1]) / 6
            boxes = project_boxes(clip.scene, times_seconds=around)
            for before, after in boxes.values():
                assert np.abs(np.subtract(before, after)).max() < 3.0


def test_motion_is_symmetric_in_time() -> None:
    actor = Actor("worker", "worker", (Keyframe(0.5, 0.0, 1.0), Keyframe(2.5, 4.0, 1.0)))
    times = np.linspace(0, 3, 31)
    x = actor.poses(times)[:, 0]
    np.testing.assert_allclose(x + x[::-1], 4.0, atol=1e-9)
    assert x[0] == 0
    assert np.all(np.diff(x) >= -1e-12)


def test_keyframes_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="worker: keyframes must follow each other"):
        Actor("worker", "worker", (Keyframe(1.0, 0, 0), Keyframe(1.0, 1, 0)))


def test_what_moves_is_large_and_inside_the_boxes() -> None:
    for index in range(3):
        for clip in plan_recording(7, index=index)[1]:
            if clip.direction != "towards":
                continue
            scene = replace(clip.scene, look=replace(clip.scene.look, noise=0.0))
            times = np.linspace(0, clip.duration_seconds, 9)
            frames = np.stack(list(draw_frames(scene, times_seconds=times))).astype(int)
            boxes = project_boxes(scene, times_seconds=times)
            changed = np.abs(frames - frames[:1]).max(axis=-1) > 24
            inside = np.zeros(changed.shape, dtype=bool)
            for track in boxes.values():
                for frame in range(len(times)):
                    for box in (track[frame], track[0]):
                        if box is not None:
                            left, top, right, bottom = np.rint(box).astype(int)
                            inside[frame, max(top - 2, 0) : bottom + 3, max(left - 2, 0) : right + 2] = True
            assert (changed & inside).sum() > 0.97 * changed.sum()
            mover = {"track_excavator": "excavator", "bucket_worker": "excavator.bucket", "cabin_worker": "worker"}
            first, last = (boxes[mover[clip.scene_name]][frame] for frame in (0, -1))
            moved = abs((first[0] + first[2]) - (last[0] + last[2])) / 2
            assert moved > 0.25 * min(scene.camera.width, scene.camera.height)


def test_boxes_have_one_entry_a_frame_and_lie_in_the_picture(yard: Path) -> None:
    for clip in read_truth(yard):
        assert len(decode(yard / clip["file_name"])) == clip["num_frames"]
        assert clip["boxes"]
        for track in clip["boxes"].values():
            assert len(track) == clip["num_frames"]
            for left, top, right, bottom in filter(None, track):
                assert 0 <= left < right <= clip["width"]
                assert 0 <= top < bottom <= clip["height"]
        if clip["scene"] != "idle":
            assert 0 <= clip["motion"]["start_seconds"] < 0.2
            assert clip["motion"]["end_seconds"] > 2.5


def test_the_files_say_what_the_table_says(yard: Path) -> None:
    for clip in read_truth(yard)[::3]:
        with av.open(str(yard / clip["file_name"])) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height) == (clip["width"], clip["height"])
            assert stream.average_rate == clip["fps"]
            assert stream.codec_context.name == "h264"
            assert 2.8 < float(stream.duration * stream.time_base) < 3.4


def test_recordings_vary() -> None:
    cameras = [plan_recording(0, index=index)[1][0].scene.camera for index in range(40)]
    assert {camera.fps for camera in cameras} == {10, 12, 15, 20, 24, 25, 30}
    assert len({(camera.width, camera.height) for camera in cameras}) >= 6
    assert all(camera.width > camera.height for camera in cameras)
    assert {camera.mirrored for camera in cameras} == {True, False}


def test_recordings_may_share_the_cameras_of_a_site() -> None:
    recordings = [plan_recording(0, index=index, num_cameras=2)[1][0].scene for index in range(6)]
    assert len({scene.camera for scene in recordings}) == 2
    assert recordings[0].camera == recordings[2].camera
    assert len({scene.look.track_x for scene in recordings}) == 2
    assert len({scene.look.seed for scene in recordings}) == 6  # other days
    assert len({scene.actors for scene in recordings}) == 6


def test_shared_cameras_stand_in_the_table(tmp_path: Path) -> None:
    rendered = render_toy_yard(tmp_path, num_recordings=3, num_cameras=2, idle_per_recording=0, progress=False)
    with rendered.open(newline="", encoding="utf-8") as file:
        cameras = [row["camera"] for row in csv.DictReader(file)]
    assert cameras == ["camera_yard0_000"] * 6 + ["camera_yard0_001"] * 6 + ["camera_yard0_000"] * 6
    with pytest.raises(ValueError, match="num_cameras must be at least 1, got 0"):
        render_toy_yard(tmp_path / "none", num_recordings=1, num_cameras=0)


def test_a_longer_scene_is_drawn_in_pieces_alike() -> None:
    # An hour is drawn chunk by chunk: what a picture shows must not depend on where drawing began.
    scene = plan_recording(0, index=0)[1][4].scene
    scene = replace(scene, look=replace(scene.look, noise=0.0))
    times = np.arange(300) / 100
    frames = list(draw_frames(scene, times_seconds=times))
    assert len(frames) == 300
    np.testing.assert_array_equal(frames[280], next(iter(draw_frames(scene, times_seconds=times[280:]))))


def test_encode_video_leaves_nothing_half_written(tmp_path: Path) -> None:
    def broken() -> Any:
        yield np.zeros((16, 32, 3), dtype=np.uint8)
        raise RuntimeError("camera fell down")

    with pytest.raises(RuntimeError, match="fell down"):
        encode_video(tmp_path / "clip.mp4", broken(), fps=10)
    assert not (tmp_path / "clip.mp4").exists()


def test_counts_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_recordings must be at least 1"):
        render_toy_yard(tmp_path / "none", num_recordings=0)
    assert not (tmp_path / "none").exists()
