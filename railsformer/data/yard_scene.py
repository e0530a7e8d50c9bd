"""Pictures of a yard: what stands in it and moves, drawn from a camera and encoded. `toy_yard` decides what happens.

A scene of any length is a list of keyframes for each actor, so an hour is drawn as a clip is. Everything is boxes in
metres, seen in perspective, painted from far to near at twice the size and averaged down.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

import av
import numpy as np
from PIL import Image, ImageDraw

from railsformer.data.files import whole_file

__all__ = ["Actor", "Camera", "Keyframe", "Look", "Scene", "draw_frames", "encode_video", "project_boxes"]

_SUPERSAMPLING = 2
_WALK_PERIOD_METRES = 1.3
_CHUNK_FRAMES = 256

# The eight corners of a box as signs along its half-axes, and its six faces as (corners in order, axis, sign).
_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
_FACES = np.array([(4, 5, 7, 6), (0, 1, 3, 2), (2, 3, 7, 6), (0, 1, 5, 4), (1, 3, 7, 5), (0, 2, 6, 4)])
_NORMALS = np.repeat(np.eye(3), 2, axis=0) * np.array([1, -1] * 3)[:, None]


@dataclass(frozen=True)
class Camera:
    """A fixed camera. It looks at the yard's origin; x runs right, y away from it, z up, all in metres."""

    width: int
    height: int
    fps: int
    distance: float
    elevation: float
    azimuth: float
    view_metres: float  # seen across the picture's height, at the origin
    mirrored: bool

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pixel positions (..., 2) and depths (...) of points (..., 3)."""
        right, up, forward = self._axes()
        offset = points - self.position
        depth = np.maximum(offset @ forward, 0.1)
        scale = self.height * self.distance / self.view_metres / depth
        x = offset @ right * scale * (-1 if self.mirrored else 1) + self.width / 2
        return np.stack([x, self.height / 2 - offset @ up * scale], axis=-1), depth

    def ground(self, supersampling: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the yard's x and y under every pixel of the picture, and which pixels show sky."""
        right, up, forward = self._axes()
        rows = 0.5 - (np.arange(self.height * supersampling) + 0.5) / (self.height * supersampling)
        columns = (np.arange(self.width * supersampling) + 0.5) / (self.width * supersampling) - 0.5
        columns = columns * (-1 if self.mirrored else 1) * self.width / self.height
        per_metre = self.view_metres / self.distance
        rays = forward + per_metre * (rows[:, None, None] * up + columns[None, :, None] * right)
        sky = rays[..., 2] > -0.02
        steps = self.position[2] / np.where(sky, 1.0, -rays[..., 2])
        return self.position[0] + steps * rays[..., 0], self.position[1] + steps * rays[..., 1], sky

    @property
    def position(self) -> np.ndarray:
        """Where the camera hangs, (3,) metres."""
        flat = self.distance * math.cos(self.elevation)
        x, y = flat * math.sin(self.azimuth), -flat * math.cos(self.azimuth)
        return np.array([x, y, 0.9 + self.distance * math.sin(self.elevation)])

    def _axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        forward = (np.array([0.0, 0.0, 0.9]) - self.position) / self.distance
        right = np.array([math.cos(self.azimuth), math.sin(self.azimuth), 0.0])
        return right, np.cross(right, forward), forward


@dataclass(frozen=True)
class Look:
    """What a recording looks like, whatever happens in it."""

    seed: int
    paint: tuple[int, int, int]
    vest: tuple[int, int, int]
    ground: tuple[int, int, int]
    light: tuple[float, float, float]
    haze: float  # share of fog, 0 to 1
    noise: float  # standard deviation of the sensor noise, of 255
    crf: int
    track_x: float
    sun: tuple[float, float, float]

    def tone(self, colours: np.ndarray) -> np.ndarray:
        """Return colours (..., 3) under this recording's light and haze."""
        return np.clip(colours * np.array(self.light) * (1 - self.haze) + 205 * self.haze, 0, 255)


@dataclass(frozen=True)
class Keyframe:
    """Where an actor is at an instant; `slew` (radians) and `reach` (0 to 1) are the excavator's arm."""

    seconds: float
    x: float
    y: float
    slew: float = 0.0
    reach: float = 0.0


@dataclass(frozen=True)
class Actor:
    """Something that may move. It travels between its keyframes and rests before the first and after the last."""

    name: str
    kind: Literal["excavator", "worker"]
    keyframes: tuple[Keyframe, ...]
    heading: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be interpolated."""
        seconds = [key.seconds for key in self.keyframes]
        if not seconds or any(after <= before for before, after in pairwise(seconds)):
            raise ValueError(f"{self.name}: keyframes must follow each other in time, got seconds {seconds}")

    def poses(self, times_seconds: np.ndarray) -> np.ndarray:
        """Return x, y, slew and reach at each time, shape (F, 4)."""
        keys = np.array([(key.seconds, key.x, key.y, key.slew, key.reach) for key in self.keyframes])
        if len(keys) == 1:
            return np.repeat(keys[:, 1:], len(times_seconds), axis=0)
        leg = np.clip(np.searchsorted(keys[:, 0], times_seconds, side="right") - 1, 0, len(keys) - 2)
        share = np.clip((times_seconds - keys[leg, 0]) / (keys[leg + 1, 0] - keys[leg, 0]), 0, 1)
        # Speed 1 - cos(4 pi t): starts, rests half way and stops gently, the same forwards and backwards.
        share = (share - np.sin(4 * np.pi * share) / (4 * np.pi))[:, None]
        return keys[leg, 1:] * (1 - share) + keys[leg + 1, 1:] * share


@dataclass(frozen=True)
class Scene:
    """All that is needed to draw pictures at any time."""

    camera: Camera
    look: Look
    actors: tuple[Actor, ...]


def project_boxes(scene: Scene, *, times_seconds: np.ndarray) -> dict[str, list[list[float] | None]]:
    """Return each actor's box at each time, in pixels (left, top, right, bottom), None where out of sight.

    The excavator's bucket is given a second time, on its own, as `<name>.bucket`.
    """
    camera = scene.camera
    limits = np.array([camera.width, camera.height])
    boxes: dict[str, list[list[float] | None]] = {}
    for actor in scene.actors:
        centres, axes, _ = _actor_parts(actor, scene.look, times_seconds)
        parts = {actor.name: slice(None)}
        if actor.kind == "excavator":
            parts[f"{actor.name}.bucket"] = slice(-1, None)
        points, _ = camera.project(centres[:, :, None] + _CORNERS @ axes)
        for name, chosen in parts.items():
            corners = points[:, chosen].reshape(len(times_seconds), -1, 2)
            low = np.clip(corners.min(axis=1), 0, limits)
            high = np.clip(corners.max(axis=1), 0, limits)
            boxes[name] = [
                [round(float(value), 1) for value in (*a, *b)] if (b > a).all() else None
                for a, b in zip(low, high, strict=True)
            ]
    return boxes


def draw_frames(scene: Scene, *, times_seconds: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the picture at each time, uint8 (height, width, 3), with sensor noise that knows no order."""
    camera, look = scene.camera, scene.look
    rng = np.random.default_rng([look.seed, 1])
    noise = np.rint(rng.normal(0, look.noise, (camera.height + 64, camera.width + 64, 1))).astype(np.int16)
    background = _draw_background(camera, look)
    for start in range(0, len(times_seconds), _CHUNK_FRAMES):
        chunk = times_seconds[start : start + _CHUNK_FRAMES]
        for picture in _paint(scene, background, chunk):
            row, column = rng.integers(0, 65, size=2)
            grain = noise[row : row + camera.height, column : column + camera.width]
            yield np.clip(picture + grain, 0, 255).astype(np.uint8)


def _paint(scene: Scene, background: Image.Image, times_seconds: np.ndarray) -> Iterator[np.ndarray]:
    camera, look = scene.camera, scene.look
    parts = [_actor_parts(actor, look, times_seconds) for actor in scene.actors]
    centres = np.concatenate([part[0] for part in parts], axis=1)
    axes = np.concatenate([part[1] for part in parts], axis=1)
    colours = np.concatenate([part[2] for part in parts])
    polygons = _visible_faces(camera, look, centres, axes, colours)
    shadows = _project_shadows(camera, scene.actors, times_seconds)
    for faces, shades in zip(polygons, shadows, strict=True):
        canvas = background.copy()
        brush = ImageDraw.Draw(canvas, "RGBA")
        for outline in shades:
            brush.polygon(outline, fill=(0, 0, 0, 70))
        brush = ImageDraw.Draw(canvas)
        for face, colour in faces:
            brush.polygon(face, fill=colour)
        yield np.asarray(canvas.reduce(_SUPERSAMPLING))


def encode_video(path: Path, frames: Iterable[np.ndarray], *, fps: int, crf: int = 23) -> None:
    """Write frames as H.264; the file appears under its name only once it is complete."""
    with whole_file(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        options = {"crf": str(crf), "preset": "veryfast", "bf": "0", "g": str(fps)}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.codec_context.thread_count = 1
        stream.pix_fmt = "yuv420p"
        for count, frame in enumerate(frames):
            if count == 0:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def _actor_parts(actor: Actor, look: Look, times_seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the boxes an actor is built of: centres (F, N, 3), half-axes (F, N, 3, 3), colours (N, 3)."""
    poses = actor.poses(times_seconds)
    build = {"excavator": _excavator_parts, "worker": _worker_parts}[actor.kind]
    centres, axes, colours = build(actor, look, poses)
    centres = centres + np.concatenate([poses[:, None, :2], np.zeros((len(poses), 1, 1))], axis=2)
    return centres, axes, colours


def _excavator_parts(actor: Actor, look: Look, poses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    paint = np.array(look.paint, dtype=float)
    dark, glass = np.array([52.0, 52, 56]), np.array([58.0, 84, 104])
    base = [
        ((0, 0.68, 0.33), (1.15, 0.24, 0.33)),
        ((0, -0.68, 0.33), (1.15, 0.24, 0.33)),
        ((0, 0, 0.5), (0.6, 0.5, 0.16)),
    ]
    house = [
        ((-0.2, 0, 0.98), (0.9, 0.82, 0.32)),
        ((-1.1, 0, 0.98), (0.25, 0.78, 0.4)),
        ((0.12, 0.4, 1.75), (0.5, 0.4, 0.5)),
        ((0.12, 0.4, 1.82), (0.51, 0.33, 0.33)),
        ((0.12, 0.4, 1.82), (0.42, 0.41, 0.33)),
        ((0.12, 0.4, 2.28), (0.56, 0.46, 0.05)),
    ]
    colours = [dark, dark, dark * 0.8, paint, paint * 0.55, paint * 0.92, glass, glass, paint * 0.8]
    num_frames = len(poses)
    centres = np.repeat(np.array([part[0] for part in base + house], dtype=float)[None], num_frames, axis=0)
    axes = np.repeat(np.array([np.diag(part[1]) for part in base + house])[None], num_frames, axis=0)
    reach = poses[:, 3]
    height = np.zeros(num_frames)
    shoulder = np.stack([height + 0.6, height - 0.2, height + 1.1], axis=1)
    elbow = np.stack([0.95 + 0.5 * reach, height - 0.2, 2.35 - 0.1 * reach], axis=1)
    wrist = np.stack([1.45 + 1.0 * reach, height - 0.2, 1.15 - 0.1 * reach], axis=1)
    for start, end, thickness in ((shoulder, elbow, 0.17), (elbow, wrist, 0.13)):
        along = (end - start) / 2
        across = np.stack([-along[:, 2], height, along[:, 0]], axis=1)
        across *= thickness / np.linalg.norm(along, axis=1, keepdims=True)
        sideways = np.repeat([[0.0, thickness, 0.0]], num_frames, axis=0)
        centres = np.concatenate([centres, ((start + end) / 2)[:, None]], axis=1)
        axes = np.concatenate([axes, np.stack([along, sideways, across], axis=1)[:, None]], axis=1)
    centres = np.concatenate([centres, (wrist + np.array([0.08, 0, -0.3]))[:, None]], axis=1)
    axes = np.concatenate([axes, np.repeat(np.diag([0.34, 0.42, 0.32])[None, None], num_frames, axis=0)], axis=1)
    colours += [paint * 0.9, paint * 0.8, dark * 1.3]
    heading = np.full(num_frames, actor.heading)
    for part in range(centres.shape[1]):
        turn = _turn(heading if part < len(base) else poses[:, 2])
        centres[:, part] = np.einsum("fi,fij->fj", centres[:, part], turn)
        axes[:, part] = axes[:, part] @ turn
    return centres, axes, np.array(colours)


def _worker_parts(actor: Actor, look: Look, poses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A figure without a front: it does not look where it walks, and its legs open and close alike."""
    vest, trousers = np.array(look.vest, dtype=float), np.array([44.0, 50, 78])
    parts = [
        ((-0.16, 0, 0.42), (0.13, 0.15, 0.42), trousers),
        ((0.16, 0, 0.42), (0.13, 0.15, 0.42), trousers),
        ((0, 0, 1.2), (0.33, 0.24, 0.4), vest),
        ((0, 0, 1.12), (0.335, 0.245, 0.07), np.array([226.0, 228, 222])),
        ((-0.42, 0, 1.2), (0.1, 0.13, 0.36), vest * 0.85),
        ((0.42, 0, 1.2), (0.1, 0.13, 0.36), vest * 0.85),
        ((0, 0, 1.77), (0.17, 0.17, 0.18), np.array([206.0, 160, 130])),
        ((0, 0, 1.98), (0.22, 0.22, 0.1), np.array([240.0, 240, 244])),
    ]
    num_frames = len(poses)
    centres = np.repeat(np.array([part[0] for part in parts], dtype=float)[None], num_frames, axis=0)
    axes = np.repeat(np.array([np.diag(part[1]) for part in parts])[None], num_frames, axis=0)
    start = actor.keyframes[0]
    walked = np.hypot(poses[:, 0] - start.x, poses[:, 1] - start.y)
    stride = 0.14 * np.sin(2 * np.pi * walked / _WALK_PERIOD_METRES) ** 2
    centres[:, 0, 0] -= stride
    centres[:, 1, 0] += stride
    return centres, axes, np.array([part[2] for part in parts])


def _turn(angles: np.ndarray) -> np.ndarray:
    """Return rotations about the vertical, (F, 3, 3), for row vectors."""
    zero, one = np.zeros_like(angles), np.ones_like(angles)
    cosine, sine = np.cos(angles), np.sin(angles)
    return np.stack([cosine, sine, zero, -sine, cosine, zero, zero, zero, one], axis=1).reshape(-1, 3, 3)


def _visible_faces(
    camera: Camera, look: Look, centres: np.ndarray, axes: np.ndarray, colours: np.ndarray
) -> Iterator[list[tuple[list[tuple[float, float]], tuple[int, int, int]]]]:
    """Yield, picture by picture, the outlines that face the camera with their colours, farthest first."""
    # Vector units add in an order that depends on where an array lies in memory. Rounded, a last bit that differs
    # turns no outline, no order of faces and no colour round, so that every process draws the same.
    points, _ = camera.project(centres[:, :, None] + _CORNERS @ axes)
    points = np.round(points * _SUPERSAMPLING, 3)
    normals = _NORMALS @ axes
    middles = centres[:, :, None] + normals
    normals = normals / np.linalg.norm(normals, axis=-1, keepdims=True)
    facing = ((middles - camera.position) * normals).sum(-1) < -1e-6
    distance = np.round(np.linalg.norm(middles - camera.position, axis=-1), 6)
    light = 0.62 + 0.38 * np.clip(normals @ np.array(look.sun), 0, 1)
    shades = np.round(look.tone(colours[None, :, None, :] * light[..., None]), 3).astype(np.uint8)
    for frame in range(len(centres)):
        parts, faces = np.nonzero(facing[frame])
        order = np.argsort(-distance[frame, parts, faces], kind="stable")
        outlines = points[frame, parts[order, None], _FACES[faces[order]]].reshape(len(order), 8)
        yield [
            (outline, tuple(shade))
            for outline, shade in zip(
                outlines.tolist(), shades[frame, parts[order], faces[order]].tolist(), strict=True
            )
        ]


def _project_shadows(
    camera: Camera, actors: tuple[Actor, ...], times_seconds: np.ndarray
) -> Iterator[list[list[float]]]:
    angles = np.linspace(0, 2 * math.pi, 16, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles), np.zeros(16)], axis=1)
    outlines = []
    for actor in actors:
        poses = actor.poses(times_seconds)
        places = np.concatenate([poses[:, None, :2], np.zeros((len(poses), 1, 1))], axis=2)
        points, _ = camera.project(places + circle * {"excavator": 1.3, "worker": 0.45}[actor.kind])
        outlines.append(np.round(points * _SUPERSAMPLING, 3).reshape(len(poses), -1).tolist())
    return (list(shades) for shades in zip(*outlines, strict=True))


@lru_cache(maxsize=4)
def _draw_background(camera: Camera, look: Look) -> Image.Image:
    """Draw ground, track, sky and what stands about in them, at the supersampled size."""
    rng = np.random.default_rng([look.seed, 0])
    x, y, sky = camera.ground(_SUPERSAMPLING)
    x, y = np.round(x, 6), np.round(y, 6)  # as in _visible_faces
    grain = rng.normal(0, 1, (128, 128))
    coarse = grain[(np.floor(y * 1.3).astype(int)) % 128, (np.floor(x * 1.3).astype(int)) % 128]
    fine = grain[(np.floor(y * 9).astype(int)) % 128, (np.floor(x * 9).astype(int)) % 128]
    colour = np.array(look.ground, dtype=float) + (5 * coarse + 5 * fine)[..., None]
    for track_x in (look.track_x, look.track_x + 4.2):
        off = np.abs(x - track_x)
        stones = 108 + 14 * fine
        colour = np.where((off < 1.35)[..., None], stones[..., None] * np.array([1.0, 0.97, 0.93]), colour)
        sleepers = (off < 1.05) & (np.mod(y, 0.75) < 0.32)
        colour = np.where(sleepers[..., None], np.array([92.0, 72, 56]) + 4 * fine[..., None], colour)
        colour = np.where((np.abs(off - 0.66) < 0.075)[..., None], np.array([176.0, 178, 186]), colour)
    share = np.linspace(0, 1, sky.shape[0])[:, None, None] * 3
    colour = np.where(sky[..., None], np.array([150.0, 186, 222]) + share * np.array([60.0, 40, 16]), colour)
    canvas = Image.fromarray(np.round(look.tone(colour), 3).astype(np.uint8))
    parts: list[tuple[tuple[float, float, float], tuple[float, float, float], np.ndarray]] = []
    for wagon in range(-4, 5):
        paint = np.array([(112, 58, 48), (70, 84, 96), (92, 98, 70), (124, 104, 72)][rng.integers(4)], dtype=float)
        parts.append(((wagon * 6.0 + rng.uniform(-0.3, 0.3), 17.0, 1.7), (2.7, 1.2, 1.2), paint))
        parts.append(((wagon * 6.0, 17.0, 0.4), (2.5, 1.0, 0.3), np.array([46.0, 44, 44])))
    for mast in range(1, 4):
        parts.append(((look.track_x + 2.1, mast * 5.0, 2.5), (0.07, 0.07, 2.5), np.array([118.0, 122, 126])))
        parts.append(((look.track_x + 1.4, mast * 5.0, 4.7), (0.8, 0.05, 0.05), np.array([118.0, 122, 126])))
    centres = np.array([[part[0] for part in parts]])
    axes = np.array([[np.diag(part[1]) for part in parts]])
    brush = ImageDraw.Draw(canvas)
    for outline, shade in next(_visible_faces(camera, look, centres, axes, np.array([part[2] for part in parts]))):
        brush.polygon(outline, fill=shade)
    return canvas
