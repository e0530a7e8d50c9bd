"""Shifts of the toy yard: long videos of one fixed camera, mostly idle, with hazards at known seconds.

A shift shows one kind of scene. Its mover is at rest nearly always. Now and then it makes the hazard's motion, rests
where that ends, and makes the opposite motion, which is labelled Other as in `toy_yard`. In between an arm trembles or
somebody strolls far off. A hazard lasts as long as its motion: standing still is Other, wherever.
"""

import csv
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm.auto import tqdm

from railsformer.data.files import whole_file
from railsformer.data.isolation import Lost, run_isolated
from railsformer.data.probe import available_cores
from railsformer.data.toy_yard import HAZARDS, plan_recording
from railsformer.data.yard_scene import Actor, Keyframe, Scene, draw_frames, encode_video

__all__ = ["Motion", "Shift", "plan_shift", "render_toy_shifts"]

COLUMNS = ("video", "label", "start_seconds", "end_seconds", "direction", "camera")
_PLAN_NAME = "shifts.json"
_LONGEST_SECONDS = 24 * 3600.0  # to draw a shift
_MOTION_SECONDS = (2.8, 3.1)  # as in a clip of the toy yard, without its rests
_REST_SECONDS = (12.0, 40.0)  # at the hazard's place, at least
_TREMBLE = 0.05  # radians
_STEP = 3.0 / 8  # between the keyframes of a trembling arm


@dataclass(frozen=True)
class Motion:
    """A motion of the shift's mover, `start_seconds` to `end_seconds`; towards the danger is a hazard."""

    label: str
    start_seconds: float
    end_seconds: float
    direction: Literal["towards", "away"]


@dataclass(frozen=True)
class Shift:
    """One long video."""

    name: str
    scene_name: str
    scene: Scene
    duration_seconds: float
    motions: tuple[Motion, ...]


def plan_shift(
    seed: int, *, index: int, duration_seconds: float = 1200.0, hazards: int = 8, fps: int | None = None
) -> Shift:
    """Decide what a shift shows, as a function of the arguments alone.

    Camera, look and places are those of the toy yard's recording of the same seed and index.

    Args:
        seed: Other seeds give other shifts.
        index: Of the shift; kinds of scenes take turns.
        duration_seconds: Of the shift.
        hazards: How many, each in a stretch of its own.
        fps: Pictures a second; None takes the camera's.

    Raises:
        ValueError: If the hazards do not fit into the shift, or a count is negative.
    """
    shortest = 2 * _MOTION_SECONDS[1] + 3 * _REST_SECONDS[0]
    if hazards < 0 or duration_seconds < max(hazards, 1) * shortest:
        raise ValueError(
            f"a shift must last at least {shortest:g} s for each of its hazards, got {duration_seconds:g} s for "
            f"{hazards}"
        )
    rng = np.random.default_rng([seed, index, 1])
    scene_name, label = list(HAZARDS.items())[index % len(HAZARDS)]
    _, clips = plan_recording(seed, index=index)
    scene = next(clip.scene for clip in clips if clip.scene_name == scene_name and clip.direction == "towards")
    motions = tuple(_plan_motions(rng, label, duration_seconds, hazards))
    actors = tuple(_act(rng, actor, motions, duration_seconds) for actor in scene.actors)
    scene = replace(scene, actors=(*actors, _plan_stroller(rng, motions, duration_seconds)))
    if fps is not None:
        scene = replace(scene, camera=replace(scene.camera, fps=fps))
    return Shift(f"shift{seed}_{index:03d}", scene_name, scene, duration_seconds, motions)


def render_toy_shifts(
    output_dir: str | os.PathLike[str],
    *,
    num_shifts: int,
    seed: int = 0,
    duration_seconds: float = 1200.0,
    hazards: int = 8,
    fps: int | None = None,
    num_workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Render shifts as MP4 files with the table of what happens in them.

    The table is written last: a folder without `truth.csv` was interrupted, and the same call completes it.

    Args:
        output_dir: Receives `videos/<shift>.mp4` and `truth.csv` with the columns video, label, start_seconds,
            end_seconds, direction and camera: a row a motion, opposite motions being of label Other.
        num_shifts: Each has a camera and a look of its own.
        seed: As in `plan_shift`.
        duration_seconds: Of each.
        hazards: Of each.
        fps: As in `plan_shift`.
        num_workers: Processes; None takes one a core.
        progress: Show a progress bar.

    Returns:
        The path of `truth.csv`.

    Raises:
        FileExistsError: If the folder holds shifts of other arguments.
        OSError: If a shift cannot be drawn or written.
        ValueError: If num_shifts < 1 or the hazards do not fit into a shift.
    """
    if num_shifts < 1:
        raise ValueError(f"num_shifts must be at least 1, got {num_shifts}")
    how: dict[str, Any] = {"duration_seconds": duration_seconds, "hazards": hazards, "fps": fps}
    plan_shift(seed, index=0, **how)  # says what is wrong before processes do
    root = Path(output_dir)
    _check_same_plan(root / _PLAN_NAME, {"seed": seed, **how})
    (root / "videos").mkdir(parents=True, exist_ok=True)
    with whole_file(root / _PLAN_NAME) as partial:
        partial.write_text(json.dumps({"seed": seed, **how}) + "\n", encoding="utf-8")
    finished = run_isolated(
        f"{__name__}:render_shift",
        [[index, str(root), seed, how] for index in range(num_shifts)],
        timeouts_seconds=[_LONGEST_SECONDS] * num_shifts,
        num_workers=num_workers or available_cores(),
    )
    rows: list[list[dict[str, object]]] = [[] for _ in range(num_shifts)]
    for index, result in tqdm(finished, total=num_shifts, desc="rendering shifts", unit="shift", disable=not progress):
        if isinstance(result, Lost):
            raise OSError(f"shift {index} of the toy yard could not be rendered: {result.detail}")
        rows[index] = result
    table = root / "truth.csv"
    with whole_file(table) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for shift in rows for row in shift)
    return table


def _check_same_plan(path: Path, plan: dict[str, Any]) -> None:
    """Videos that are there are kept, so the table would tell of other motions than they show."""
    if path.is_file() and (earlier := json.loads(path.read_text(encoding="utf-8"))) != plan:
        raise FileExistsError(f"{path.parent} holds shifts of {earlier}, not of {plan}; name another folder")


def render_shift(task: tuple[int, str, int, dict[str, Any]]) -> list[dict[str, object]]:
    """Render one shift into its folder, unless it is there: what a worker process does.

    Args:
        task: Index, root and seed of the shift, and the rest of what `plan_shift` takes.

    Returns:
        Its rows of `truth.csv`.
    """
    index, root, seed, how = task
    shift = plan_shift(seed, index=index, **how)
    camera = shift.scene.camera
    file_name = f"videos/{shift.name}.mp4"
    times = np.arange(round(shift.duration_seconds * camera.fps)) / camera.fps
    path = Path(root, file_name)
    if not path.is_file():
        encode_video(path, draw_frames(shift.scene, times_seconds=times), fps=camera.fps, crf=shift.scene.look.crf)
    return [
        {
            "video": file_name,
            "label": motion.label,
            "start_seconds": round(motion.start_seconds, 3),
            "end_seconds": round(motion.end_seconds, 3),
            "direction": motion.direction,
            "camera": f"camera_{shift.name}",
        }
        for motion in shift.motions
    ]


def _plan_motions(rng: np.random.Generator, label: str, duration: float, hazards: int) -> Iterator[Motion]:
    """A hazard and its opposite in each of equal stretches, with rests before, between and after."""
    for number in range(hazards):
        stretch = duration / hazards
        towards, away = rng.uniform(*_MOTION_SECONDS, size=2)
        free = stretch - towards - away - 2 * _REST_SECONDS[0]
        rest = min(rng.uniform(*_REST_SECONDS), free)
        start = number * stretch + _REST_SECONDS[0] + rng.uniform(0, free - rest)
        yield Motion(label, start, start + towards, "towards")
        back = start + towards + rest
        yield Motion("Other", back, back + away, "away")


def _act(rng: np.random.Generator, actor: Actor, motions: tuple[Motion, ...], duration: float) -> Actor:
    """The actor over the whole shift: the one that moved in the scene makes the motions."""
    far, near = actor.keyframes[0], actor.keyframes[-1]
    here, keys = replace(far, seconds=0.0), [replace(far, seconds=0.0)]
    for motion in motions if len(actor.keyframes) > 1 else ():
        there = near if motion.direction == "towards" else far
        keys += _rest(rng, actor, here, keys[-1].seconds, motion.start_seconds)
        keys.append(replace(here, seconds=motion.start_seconds))
        here = replace(there, seconds=motion.end_seconds)
        keys.append(here)
    keys += _rest(rng, actor, here, keys[-1].seconds, duration)
    return replace(actor, keyframes=tuple(keys))


def _rest(rng: np.random.Generator, actor: Actor, here: Keyframe, start: float, end: float) -> Iterator[Keyframe]:
    """Stay from start to end; an excavator's arm trembles for some seconds in half of the longer rests."""
    if actor.kind != "excavator" or end - start < _REST_SECONDS[0] or rng.random() < 0.5:
        return
    begin = rng.uniform(start + 4, end - 7)
    yield replace(here, seconds=begin)
    for step in range(1, 8):
        yield replace(here, seconds=begin + step * _STEP, slew=here.slew + rng.normal(0, _TREMBLE))
    yield replace(here, seconds=begin + 8 * _STEP)


def _plan_stroller(rng: np.random.Generator, motions: tuple[Motion, ...], duration: float) -> Actor:
    """Somebody far behind, who takes a few steps, there and back, about once in two minutes."""
    x, y = rng.uniform(-3, 1.5), rng.uniform(5, 8)
    keys = [Keyframe(0.0, x, y)]
    for start in np.arange(30.0, duration - 20, 120.0) + rng.uniform(0, 10):
        begin = float(start)
        if begin + 10 >= duration or any(math.fabs(begin - motion.start_seconds) < 10 for motion in motions):
            continue
        step = rng.uniform(0.8, 2)
        keys += [Keyframe(begin, x, y), Keyframe(begin + 1.5, x + step, y), Keyframe(begin + 3, x, y)]
    return Actor("stroller", "worker", tuple(keys))
