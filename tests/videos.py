"""Tiny encoded videos whose picture i shows i."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

_NUM_BITS = 8
_NUM_BARS = _NUM_BITS + 2  # white, the bits with the lowest first, black: the two ends tell what is bright and dark
_WHITE, _BLACK = 220, 30


def number_picture(number: int, *, width: int = 64, height: int = 48) -> np.ndarray:
    """Return an RGB picture, shape (height, width, 3), uint8, whose upright bars are the bits of `number`."""
    bits = [1, *((number >> bit & 1) for bit in range(_NUM_BITS)), 0]
    bars = np.array([_WHITE if bit else _BLACK for bit in bits], dtype=np.uint8)
    columns = bars[np.arange(width) * _NUM_BARS // width]
    return np.ascontiguousarray(np.broadcast_to(columns[None, :, None], (height, width, 3)))


def frame_number(picture: Any) -> int:
    """Return the number that a picture shows, modulo 256.

    Args:
        picture: Array or tensor (H, W), (H, W, 3) or (3, H, W) of any range or normalisation; resized as one likes and
            cropped only in height.
    """
    values = np.asarray(picture, dtype=np.float64)
    if values.ndim == 3:
        values = values.mean(axis=0 if values.shape[0] == 3 else -1)
    height, width = values.shape
    row = values[height // 4 : max(height // 4 + 1, height * 3 // 4)].mean(axis=0)
    centres = ((np.arange(_NUM_BARS) + 0.5) * width / _NUM_BARS).astype(int)
    bars = row[centres]
    middle = (bars[0] + bars[-1]) / 2
    return sum(int(bars[bit + 1] > middle) << bit for bit in range(_NUM_BITS))


def write_video(
    path: Path,
    *,
    num_frames: int = 12,
    fps: int = 10,
    width: int = 64,
    height: int = 48,
    first_number: int = 0,
    times_seconds: Sequence[float] | None = None,
    codec: str = "libx264",
    gop: int = 250,
    crf: int = 18,
    header_first: bool = False,
) -> Path:
    """Encode a video whose picture i shows `first_number + i`.

    Args:
        path: Where to; its suffix chooses the container and its folder is made.
        num_frames: Pictures.
        fps: Pictures a second, also the rate in the header.
        width: In px, even.
        height: In px, even.
        first_number: Number on the first picture.
        times_seconds: Presentation times, where they are to be irregular; None means i / fps.
        codec: Encoder.
        gop: Pictures from key picture to key picture.
        crf: Quality of libx264; lower is better.
        header_first: Whether an MP4's header stands before its pictures, so that a cut file can still be opened.

    Returns:
        The path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", container_options={"movflags": "faststart"} if header_first else {}) as container:
        stream = container.add_stream(codec, rate=fps, options={"crf": str(crf)} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = gop
        if times_seconds is not None:
            stream.codec_context.time_base = Fraction(1, 90_000)
        for index in range(num_frames):
            picture = number_picture(first_number + index, width=width, height=height)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times_seconds is None:
                frame.pts, frame.time_base = index, Fraction(1, fps)
            else:
                frame.pts, frame.time_base = round(times_seconds[index] * 90_000), Fraction(1, 90_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_playlists(folder: Path) -> list[Path]:
    """Write text files named as videos that name `folder`/other.mp4, a whole video, for FFmpeg to open."""
    write_video(folder / "other.mp4")
    segments = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nother.mp4\n#EXT-X-ENDLIST\n"
    texts = {
        "concat.mp4": "ffconcat version 1.0\nfile other.mp4\n",
        "hls.mp4": segments,
        "hls.m3u8": segments,
        "dash.mp4": '<?xml version="1.0"?>\n<MPD profiles="urn:mpeg:dash:profile:isoff-live:2011"></MPD>\n',
        "session.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [folder / name for name in texts]
