"""timeline.png and timeline.html in one folder, with a video that a browser plays."""

import base64
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
from markupsafe import Markup

from railsformer.data.files import whole_file
from railsformer.data.folders import NO_ROOM, DiskFullError
from railsformer.inference.encode_video import encode_part, is_web_playable
from railsformer.inference.timeline_pages.figure import draw_timeline
from railsformer.inference.timeline_pages.page_data import Footage, check_footage, island, page_data

__all__ = ["write_timeline_pages"]

_TEMPLATES = Path(__file__).parent / "templates"
_SCRIPTS = ("review.js", "tracks.js", "timeline.js")
_WEB_COPY = "timeline_video.mp4"
_OWN_VIDEOS = (_WEB_COPY, "annotated.mp4")
_WEB_COPY_SHORT_SIDE_PX = 720
_WEB_COPY_CRF = 26


def write_timeline_pages(
    folder: str | Path,
    *,
    times_seconds: np.ndarray,
    scores: np.ndarray,
    labels: Sequence[str],
    events: Sequence[Mapping[str, Any]],
    video: str | Path | None,
    duration_seconds: float,
    window_seconds: float,
    negative_labels: Sequence[str] = (),
    thresholds: Mapping[str, float] | None = None,
    camera: str | None = None,
    start_time: datetime | None = None,
    not_scored: Sequence[tuple[float, float, str]] = (),
    blind: Sequence[tuple[float, float, str]] = (),
    model: str = "",
    copy_video: bool = False,
    salvage: bool = True,
    on_progress: Callable[[float], None] | None = None,
) -> list[Path]:
    """Write timeline.png and timeline.html, over those that are there.

    The page opens without a server or a network. It plays the video where it lies, or timeline_video.mp4, a copy that
    is made where browsers do not play the original or where the folder is to hold it.

    Args:
        folder: Is there already.
        times_seconds: Instant of each row of `scores`, ascending, in seconds since the first picture, shape (N,).
        scores: From 0 to 1, NaN where nothing was scored, shape (N, L).
        labels: Names of the columns, in the model's order.
        events: Entries of events.json.
        video: The original file, which the tables name; None for a live stream.
        duration_seconds: Of the footage.
        window_seconds: Of one window; also the length of the stretches of normal footage.
        negative_labels: Labels that mean 'nothing'; rejected events get the first one, or `Other` where there is none.
        thresholds: Label to the score that begins an event.
        camera: Its name, which is also the group of the rows; without it that is the file.
        start_time: Wall clock of the first picture.
        not_scored: Start, end and reason of stretches without scores.
        blind: Start, end and reason of stretches in which the camera was blind.
        model: Name of the run.
        copy_video: Whether the folder is to hold the video, so that it can be moved or sent.
        salvage: Of a copy that is encoded: skip what is damaged.
        on_progress: Told the seconds of it encoded so far.

    Returns:
        The files that were written, the copy among them.

    Raises:
        FileNotFoundError: If there is no such video.
        ValueError: If shapes, times or labels do not go together.
        VideoDecodeError: If the video cannot be decoded.
        DiskFullError: If there is no room.
    """
    folder = Path(folder)
    if video is not None and not Path(video).is_file():
        raise FileNotFoundError(f"{video}: no such video file")
    footage = Footage(
        times=np.asarray(times_seconds, dtype=np.float64),
        scores=np.asarray(scores, dtype=np.float64),
        labels=tuple(labels),
        events=tuple(sorted(events, key=lambda event: (event["start_seconds"], event["end_seconds"]))),
        duration_seconds=float(duration_seconds),
        window_seconds=float(window_seconds),
        negative_labels=tuple(negative_labels),
        thresholds=dict(thresholds or {}),
        video=None if video is None else Path(video),
        camera=camera,
        start_time=start_time,
        not_scored=tuple(not_scored),
        blind=tuple(blind),
        model=model,
    )
    check_footage(footage)
    shown = None
    if footage.video is not None:
        shown = _shown_video(footage.video, folder, copy_video=copy_video, salvage=salvage, on_progress=on_progress)
    content = page_data(footage, source=_url(shown, folder), is_copy=shown is not None and shown != footage.video)
    with whole_file(folder / "timeline.png") as partial:
        partial.write_bytes(draw_timeline(footage))
    with whole_file(folder / "timeline.html") as partial:
        partial.write_text(render_page(content), encoding="utf-8")
    written = [folder / "timeline.png", folder / "timeline.html"]
    return [*written, shown] if shown is not None and shown.parent == folder and shown != footage.video else written


def render_page(content: Mapping[str, Any]) -> str:
    """Render timeline.html.

    Args:
        content: What `page_data` returns.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    script = "\n".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("timeline.html").render(
        title=content["title"],
        style=Markup((_TEMPLATES / "timeline.css").read_text(encoding="utf-8")),
        data=Markup(island(content)),
        script=Markup(script),
        digest=digest,
    )


def _shown_video(
    video: Path, folder: Path, *, copy_video: bool, salvage: bool, on_progress: Callable[[float], None] | None
) -> Path:
    """The file that the page plays."""
    if not is_web_playable(video):
        return encode_part(
            video,
            folder / _WEB_COPY,
            short_side_px=_WEB_COPY_SHORT_SIDE_PX,
            crf=_WEB_COPY_CRF,
            salvage=salvage,
            on_progress=on_progress,
        )
    inside = folder.resolve() in video.resolve().parents
    if not copy_video or inside:
        return video
    # A recording may have the name of a file that a watch writes.
    copy = folder / (f"original_{video.name}" if video.name in _OWN_VIDEOS else video.name)
    if not copy.is_file() or copy.stat().st_size != video.stat().st_size:
        try:
            with whole_file(copy) as partial:
                shutil.copyfile(video, partial)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise DiskFullError(f"{copy}: no room for the video on this disk; free some space") from error
            raise
    return copy


def _url(video: Path | None, folder: Path) -> str | None:
    """Path of a video relative to the folder, as it stands in a page."""
    if video is None:
        return None
    try:
        relative = os.path.relpath(video.resolve(), folder.resolve())
    except ValueError:  # on another drive
        return video.resolve().as_uri()
    return quote(Path(relative).as_posix(), errors="surrogateescape")
