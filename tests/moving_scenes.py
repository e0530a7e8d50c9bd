"""Pictures of a fixed camera in front of which discs move, and videos of them."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FPS = 8
WIDTH, HEIGHT = 160, 120


def scene(*, camera: int, motion: int | None, seconds: float = 6.0) -> np.ndarray:
    """Return RGB pictures, uint8, shape (T, H, W, 3).

    Args:
        camera: Chooses the background.
        motion: Chooses the ways of the discs; None means that nothing moves.
        seconds: Length.
    """
    rng = np.random.default_rng(camera)
    background = np.full((HEIGHT, WIDTH, 3), 128.0)
    for size, span in ((40, 80), (20, 25), (10, 8)):  # coarse and fine, as real scenes are
        levels = rng.uniform(-span, span, (HEIGHT // size, WIDTH // size, 3))
        background += levels.repeat(size, axis=0).repeat(size, axis=1)
    pictures = np.tile(background.clip(0, 255), (round(seconds * FPS), 1, 1, 1))
    if motion is not None:
        _draw_discs(pictures, np.random.default_rng(1000 + motion))
    return pictures.astype(np.uint8)


def _draw_discs(pictures: np.ndarray, rng: np.random.Generator) -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    times = np.arange(len(pictures)) / FPS
    for _ in range(3):
        radius, level = rng.uniform(8, 20), rng.choice([10, 250])
        phases, speeds = rng.uniform(0, 6.3, 4), rng.uniform(0.4, 2.5, 4)
        ways = [
            (np.sin(speeds[k] * times + phases[k]) + np.sin(speeds[k + 1] * times + phases[k + 1])) for k in (0, 2)
        ]
        for picture, across, down in zip(pictures, *ways, strict=True):
            inside = (x - WIDTH * (0.5 + 0.22 * across)) ** 2 + (y - HEIGHT * (0.5 + 0.22 * down)) ** 2 < radius**2
            picture[inside] = level


def write_scene(
    path: Path,
    pictures: np.ndarray,
    *,
    fps: Fraction | int = FPS,
    codec: str = "libx264",
    crf: int = 20,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    first_seconds: float = 0.0,
) -> Path:
    """Encode pictures.

    Args:
        path: Where to; its suffix chooses the container.
        pictures: RGB, uint8, shape (T, H, W, 3).
        fps: Pictures a second.
        codec: Encoder.
        crf: Quality of libx264; lower is better.
        size: Width and height in px, even.
        first_seconds: Time stamp of the first picture.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        options = {"crf": str(crf), "preset": "veryfast"} if codec == "libx264" else {}
        stream = container.add_stream(codec, rate=Fraction(fps), options=options)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = 1 / (Fraction(fps) * 1000)
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = frame.reformat(width=size[0], height=size[1], format="yuv420p")
            frame.pts = index * 1000 + round(first_seconds * float(fps) * 1000)
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def remux(source: Path, target: Path, *, later_seconds: float) -> Path:
    """Copy the coded pictures into another container, with time stamps that are later."""
    with av.open(str(source)) as container, av.open(str(target), "w") as output:
        stream = container.streams.video[0]
        copied = output.add_stream_from_template(stream)
        shift = round(later_seconds / stream.time_base)
        for packet in container.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, copied
                output.mux(packet)
    return target
