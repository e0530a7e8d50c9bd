"""A rendered railway yard: real MP4 files whose labels and boxes are known, for the demo and for tests.

`plan_recording` decides what happens; `yard_scene` draws any scene at any times and encodes it.

What happens is told by motion alone. Every hazard has a twin, labelled Other, made of the very same pictures in the
opposite order, so a model that is blind to order gets exactly one of the two right. Motions are symmetric in time and
rest for an instant half way, so that the middle picture does not betray the direction either.
"""

import csv
import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm.auto import tqdm

from railsformer.data.files import whole_file
from railsformer.data.isolation import Lost, run_isolated
from railsformer.data.probe import available_cores
from railsformer.data.yard_scene import Actor, Camera, Keyframe, Look, Scene, draw_frames, encode_video, project_boxes

__all__ = ["HAZARDS", "LABELS", "Clip", "plan_recording", "render_toy_yard"]

HAZARDS = {"track_excavator": "Track-Excavator", "bucket_worker": "Bucket-Worker", "cabin_worker": "Cabin-Worker"}
LABELS = (*HAZARDS.values(), "Other")
_COLUMNS = ("file_name", "label", "recording", "camera", "scene", "direction", "pair", "event_seconds", "fps")

_LONGEST_SECONDS = 3600.0  # to draw a recording
_OF_A_CAMERA = 1  # keeps the chance of shared cameras apart from that of recordings

_SIZES_PX = ((128, 96), (144, 96), (144, 112), (160, 112), (160, 120), (176, 128), (192, 128), (192, 144))
_RATES_FPS = (10, 12, 15, 20, 24, 25, 30)
_PAINTS = ((235, 180, 35), (226, 120, 38), (196, 62, 48), (92, 142, 78), (84, 128, 176), (214, 206, 186))
_GROUNDS = ((150, 138, 118), (128, 126, 122), (140, 128, 100), (118, 128, 98))
_VESTS = ((255, 112, 24), (240, 236, 40), (176, 240, 48))


@dataclass(frozen=True)
class Clip:
    """One file of a recording. A twin is its pair's scene shown backwards."""

    name: str
    label: str
    scene_name: str
    direction: Literal["towards", "away", "none"]
    pair: str
    event_seconds: float | None
    duration_seconds: float
    scene: Scene


def render_toy_yard(
    output_dir: str | os.PathLike[str],
    *,
    num_recordings: int,
    seed: int = 0,
    pairs_per_scene: int = 1,
    idle_per_recording: int = 2,
    num_cameras: int | None = None,
    num_workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Render recordings of the yard as MP4 files with a table of labels and the truth about every picture.

    A recording depends on (seed, its index) alone, never on how many there are or how many processes draw. The tables
    are written last: a folder without `annotations.csv` was interrupted, and the same call completes it.

    Args:
        output_dir: Receives `videos/<recording>/<clip>.mp4`, `annotations.csv` and `truth.jsonl`.
        num_recordings: Each has a camera and a look of its own, unless num_cameras is given.
        seed: Other seeds give other recordings.
        pairs_per_scene: Hazards of each kind in a recording, each with its twin.
        idle_per_recording: Clips of a recording in which nothing of note happens.
        num_cameras: Fixed cameras, each with its look, that the recordings share in turn, as on one site.
        num_workers: Processes; None takes one a core.
        progress: Show a progress bar.

    Returns:
        The path of `annotations.csv`.

    Raises:
        OSError: If a recording cannot be drawn or written.
        ValueError: If a count is not positive.
    """
    if num_recordings < 1 or pairs_per_scene < 0 or idle_per_recording < 0:
        raise ValueError(
            "num_recordings must be at least 1 and the clips of a recording at least 0, got "
            f"{num_recordings}, {pairs_per_scene} and {idle_per_recording}"
        )
    if num_cameras is not None and num_cameras < 1:
        raise ValueError(f"num_cameras must be at least 1, got {num_cameras}; leave it out for one a recording")
    root = Path(output_dir)
    root.mkdir(parents=True, exist_ok=True)
    common = [str(root), seed, pairs_per_scene, idle_per_recording, num_cameras]
    recordings = _render_recordings(
        [[index, *common] for index in range(num_recordings)],
        num_workers=num_workers or available_cores(),
        progress=progress,
    )
    rows = [row for recording in recordings for row in recording]
    with whole_file(root / "truth.jsonl") as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    table = root / "annotations.csv"
    with whole_file(table) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return table


def plan_recording(
    seed: int, *, index: int, pairs_per_scene: int = 1, idle_per_recording: int = 2, num_cameras: int | None = None
) -> tuple[str, list[Clip]]:
    """Decide what a recording shows: its name and its clips, hazards directly followed by their twins."""
    rng = np.random.default_rng([seed, index])
    camera, look = _draw_camera(rng), _draw_look(rng)
    if num_cameras is not None:  # the site stays; weather, light and machines change
        of_camera = np.random.default_rng([seed, index % num_cameras, _OF_A_CAMERA])
        camera, look = _draw_camera(of_camera), replace(look, track_x=_draw_look(of_camera).track_x)
    recording = f"yard{seed}_{index:03d}"
    clips: list[Clip] = []
    for scene_name, label in HAZARDS.items():
        for repeat in range(pairs_per_scene):
            duration = float(rng.uniform(2.9, 3.3))
            rest = float(rng.uniform(0.03, 0.12))
            scene = Scene(camera, look, _PLANS[scene_name](rng, look.track_x, (rest, duration - rest)))
            name = f"{scene_name}_{repeat}"
            pair = f"{recording}/{name}"
            hazard = Clip(f"{name}_towards", label, scene_name, "towards", pair, rest, duration, scene)
            clips += [hazard, replace(hazard, name=f"{name}_away", label="Other", direction="away")]
    for repeat in range(idle_per_recording):
        duration = float(rng.uniform(2.9, 3.3))
        scene = Scene(camera, look, _plan_idle(rng, look.track_x, (0.1, duration - 0.1)))
        clips.append(Clip(f"idle_{repeat}", "Other", "idle", "none", "", None, duration, scene))
    return recording, clips


def _render_recordings(tasks: list[list[Any]], *, num_workers: int, progress: bool) -> list[list[dict[str, object]]]:
    """Rows of each recording, each drawn in a fresh process: what else the caller has loaded can turn last bits."""
    rows: list[list[dict[str, object]]] = [[] for _ in tasks]
    finished = run_isolated(
        f"{__name__}:render_recording",
        tasks,
        timeouts_seconds=[_LONGEST_SECONDS] * len(tasks),
        num_workers=num_workers,
    )
    bar = tqdm(finished, total=len(tasks), desc="rendering the toy yard", unit="recording", disable=not progress)
    for index, result in bar:
        if isinstance(result, Lost):
            raise OSError(f"recording {index} of the toy yard could not be rendered: {result.detail}")
        rows[index] = result
    return rows


def render_recording(task: tuple[int, str, int, int, int, int | None]) -> list[dict[str, object]]:
    """Render one recording into its folder: what a worker process does.

    Args:
        task: Index, root, seed, pairs of a scene and idle clips of the recording, and the number of cameras.

    Returns:
        Its lines of `truth.jsonl`.
    """
    index, root, seed, pairs_per_scene, idle_per_recording, num_cameras = task
    recording, clips = plan_recording(
        seed,
        index=index,
        pairs_per_scene=pairs_per_scene,
        idle_per_recording=idle_per_recording,
        num_cameras=num_cameras,
    )
    camera_name = f"camera_{recording}" if num_cameras is None else f"camera_yard{seed}_{index % num_cameras:03d}"
    folder = Path(root, "videos", recording)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    frames: list[np.ndarray] = []
    for clip in clips:
        camera = clip.scene.camera
        times = np.arange(round(clip.duration_seconds * camera.fps)) / camera.fps
        # Pictures lie evenly about the scene's middle, so that a clip and its twin begin to move at the same second.
        span = clip.duration_seconds - float(times[-1])
        boxes = project_boxes(clip.scene, times_seconds=times + span / 2)
        if clip.direction == "away":  # the pair's pictures are still at hand
            frames.reverse()
            boxes = {name: values[::-1] for name, values in boxes.items()}
        else:
            frames = list(draw_frames(clip.scene, times_seconds=times + span / 2))
        file_name = f"videos/{recording}/{clip.name}.mp4"
        encode_video(Path(root, file_name), frames, fps=camera.fps, crf=clip.scene.look.crf)
        row = _describe(clip, file_name, recording, len(times), span / 2, boxes)
        rows.append(row | {"camera": camera_name})
    return rows


def _describe(
    clip: Clip,
    file_name: str,
    recording: str,
    num_frames: int,
    offset_seconds: float,
    boxes: dict[str, list[list[float] | None]],
) -> dict[str, object]:
    """Return one line of `truth.jsonl`; its first keys are the columns of `annotations.csv`."""
    start = None if clip.event_seconds is None else round(max(clip.event_seconds - offset_seconds, 0.0), 3)
    camera = clip.scene.camera
    duration = num_frames / camera.fps
    motion = None if start is None else {"start_seconds": start, "end_seconds": round(duration - start, 3)}
    return {
        "file_name": file_name,
        "label": clip.label,
        "recording": recording,
        "camera": f"camera_{recording}",
        "scene": clip.scene_name,
        "direction": clip.direction,
        "pair": clip.pair,
        "event_seconds": "" if start is None else start,
        "fps": camera.fps,
        "width": camera.width,
        "height": camera.height,
        "num_frames": num_frames,
        "motion": motion,
        "boxes": boxes,
    }


def _draw_camera(rng: np.random.Generator) -> Camera:
    width, height = _SIZES_PX[rng.integers(len(_SIZES_PX))]
    return Camera(
        width=width,
        height=height,
        fps=int(rng.choice(_RATES_FPS)),
        distance=float(rng.uniform(10, 15)),
        elevation=float(rng.uniform(0.2, 0.42)),
        azimuth=float(rng.uniform(-0.35, 0.35)),
        view_metres=float(rng.uniform(5.5, 6.5)),
        mirrored=bool(rng.random() < 0.5),
    )


def _draw_look(rng: np.random.Generator) -> Look:
    brightness = rng.uniform(0.72, 1.12)
    warmth = rng.uniform(-0.1, 0.1)
    angle = rng.uniform(0, 2 * math.pi)
    red, green, blue = _GROUNDS[rng.integers(len(_GROUNDS))]
    shift = int(rng.integers(-10, 11))
    return Look(
        seed=int(rng.integers(2**31)),
        paint=_PAINTS[rng.integers(len(_PAINTS))],
        vest=_VESTS[rng.integers(len(_VESTS))],
        ground=(red + shift, green + shift, blue + shift),
        light=(brightness * (1 + warmth), brightness, brightness * (1 - warmth)),
        haze=float(rng.uniform(0, 0.2)),
        noise=float(rng.uniform(1.5, 6)),
        crf=int(rng.integers(18, 27)),
        track_x=float(rng.uniform(1.3, 1.9)),
        sun=(math.cos(angle) * 0.6, -0.5 + 0.3 * math.sin(angle), 0.75),
    )


def _plan_track(rng: np.random.Generator, track_x: float, span: tuple[float, float]) -> tuple[Actor, ...]:
    y, slew = rng.uniform(-0.5, 0.8), rng.choice([0.0, math.pi]) + rng.uniform(-0.6, 0.6)
    far, near = rng.uniform(-2.6, -2.0), track_x + rng.uniform(-0.25, 0.25)
    path = tuple(Keyframe(at, x, y, slew, 0.15) for at, x in zip(span, (far, near), strict=True))
    return (Actor("excavator", "excavator", path), *_plan_bystander(rng, span))


def _plan_bucket(rng: np.random.Generator, track_x: float, span: tuple[float, float]) -> tuple[Actor, ...]:
    x, y = rng.uniform(-0.5, 0.5), rng.uniform(0.0, 0.6)
    side = rng.choice([-1.0, 1.0])
    worker = Keyframe(0, x + side * rng.uniform(2.3, 2.6), y - rng.uniform(0.3, 0.9))
    # Angles run from the worker's side, 0, over the side nearest to the camera to the other side, pi.
    near, far = rng.uniform(0.25, 0.5), rng.uniform(2.5, 3.2)
    reach = rng.uniform(0.5, 0.8)
    path = tuple(
        Keyframe(at, x, y, -angle if side > 0 else angle - math.pi, reach)
        for at, angle in zip(span, (far, near), strict=True)
    )
    heading = rng.uniform(-0.5, 0.5)
    return (Actor("excavator", "excavator", path, heading), Actor("worker", "worker", (worker,)))


def _plan_cabin(rng: np.random.Generator, track_x: float, span: tuple[float, float]) -> tuple[Actor, ...]:
    side = rng.choice([-1.0, 1.0])
    x, y = side * rng.uniform(1.0, 1.5), rng.uniform(0.2, 0.9)
    slew = rng.uniform(0, 2 * math.pi)
    machine = Actor("excavator", "excavator", (Keyframe(0, x, y, slew, 0.1),), rng.uniform(-0.4, 0.4))
    far = (-side * rng.uniform(2.3, 2.9), rng.uniform(-1.6, 0.6))
    near = (x - side * rng.uniform(0.4, 1.1), y - rng.uniform(1.2, 1.6))
    path = tuple(Keyframe(at, *place) for at, place in zip(span, (far, near), strict=True))
    return (machine, Actor("worker", "worker", path))


_PLANS = {"track_excavator": _plan_track, "bucket_worker": _plan_bucket, "cabin_worker": _plan_cabin}


def _plan_bystander(rng: np.random.Generator, span: tuple[float, float]) -> tuple[Actor, ...]:
    """A person far behind, in some scenes, who does not move."""
    if rng.random() < 0.5:
        return ()
    return (Actor("bystander", "worker", (Keyframe(span[0], rng.uniform(-3, 3), rng.uniform(5, 8)),)),)


def _plan_idle(rng: np.random.Generator, track_x: float, span: tuple[float, float]) -> tuple[Actor, ...]:
    """Nothing of note: all is still, the arm trembles, or somebody strolls far off, there and back."""
    kind = rng.integers(3)
    scene = _PLANS[list(_PLANS)[rng.integers(len(_PLANS))]](rng, track_x, span)
    share = rng.uniform(0, 1)
    still = []
    for actor in scene:
        first, last = actor.keyframes[0], actor.keyframes[-1]
        mix = {name: (1 - share) * getattr(first, name) + share * getattr(last, name) for name in ("x", "y", "slew")}
        here = Keyframe(span[0], reach=first.reach, **mix)
        keys: tuple[Keyframe, ...] = (here,)
        if kind == 1 and actor.kind == "excavator":
            times = np.linspace(*span, 9)[1:]
            keys += tuple(replace(here, seconds=float(at), slew=here.slew + rng.normal(0, 0.05)) for at in times)
        still.append(replace(actor, keyframes=keys))
    if kind == 2:
        x, y, step = rng.uniform(-3, 1.5), rng.uniform(5, 8), rng.uniform(0.8, 2)
        middle = (span[0] + span[1]) / 2
        path = (Keyframe(span[0], x, y), Keyframe(middle, x + step, y), Keyframe(span[1], x, y))
        still.append(Actor("stroller", "worker", path))
    return tuple(still)
