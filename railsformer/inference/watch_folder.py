"""What a watch depends on, and what its folder holds already."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from railsformer.data.files import whole_file
from railsformer.data.video import VideoDecodeError, find_video_stream, open_video
from railsformer.inference.model_identity import model_changed

if TYPE_CHECKING:
    from railsformer.inference.predictor import Predictor
    from railsformer.inference.regions import Region
    from railsformer.inference.windows import WindowPlan

__all__ = [
    "WATCH_NAME",
    "check_live_folder",
    "check_text",
    "check_watch_folder",
    "creation_time",
    "parse_start_time",
    "watch_request",
    "write_json",
]

WATCH_NAME = "watch.json"
BUILDING = ".railsformer-building"  # what `building_folder` keeps while a watch is not finished
_LATEST_YEAR = 9000
_EARLIEST_YEAR = 1990  # clocks that were never set say 1904 or 1970


def watch_request(
    predictor: "Predictor", video: Path, plan: "WindowPlan", region: "Region | None", *, blindness: bool = True
) -> dict[str, Any]:
    """What scores depend on; JSON."""
    try:
        facts = video.stat()
    except OSError as error:
        raise VideoDecodeError(
            video, f"it cannot be opened ({error.strerror}); correct the name", "missing"
        ) from error
    check_text("video", str(video.resolve()), "rename it")
    check_text("model", predictor.name, "rename its folder")
    return {
        "video": str(video.resolve()),
        "video_bytes": facts.st_size,
        "video_changed": facts.st_mtime_ns,
        "model": predictor.name,
        "model_changed": model_changed(predictor.name),
        "temperature": predictor.temperature,
        "dtype": str(predictor.model.dtype),
        "window_seconds": plan.window_seconds,
        "stride_seconds": plan.stride_seconds,
        "max_gap_seconds": plan.max_gap_seconds,
        "region": None if region is None else region.digest,
        "blindness": blindness,
    }


def check_watch_folder(folder: Path, request: Mapping[str, Any]) -> Path:
    """Make the folder, or see that it is of the same watch."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"output_dir {folder} is a file; name a folder")
    done = folder / WATCH_NAME
    if done.is_file():
        try:
            earlier = json.loads(done.read_text(encoding="utf-8"))["request"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{done} is damaged ({error}); remove {folder} or name another folder") from error
        changed = [name for name, value in request.items() if earlier.get(name) != value]
        if changed:
            name = changed[0]
            raise FileExistsError(
                f"output_dir {folder} holds another watch ({name} {earlier.get(name)!r}, now {request[name]!r}); "
                "remove it or name another folder"
            )
    elif folder.is_dir() and (names := {entry.name for entry in folder.iterdir()}) and BUILDING not in names:
        raise FileExistsError(f"output_dir {folder} already holds something; remove it or name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_live_folder(folder: Path) -> Path:
    """Make the folder of a live watch; its files may be there, those of a recording may not."""
    recorded = folder / WATCH_NAME
    parts = folder / BUILDING / "parts"
    if recorded.exists() or (parts.is_dir() and any(parts.iterdir())):
        raise FileExistsError(f"output_dir {folder} holds the watch of a recording; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_text(name: str, value: str, fix: str) -> None:
    """Refuse bytes that are no text before the work, not when they are to be written after it.

    Raises:
        ValueError: If they are none.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} {value!r} is no UTF-8 text, which the results could not name; {fix}") from None


def parse_start_time(text: str) -> datetime:
    """Read an ISO 8601 wall clock.

    Raises:
        ValueError: If it is none.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"--start_time must be ISO 8601 such as 2026-03-01T06:30:00+01:00, got {text!r}") from None
    if not _EARLIEST_YEAR <= moment.year <= _LATEST_YEAR:  # times of events are counted on from it
        raise ValueError(f"--start_time must lie in {_EARLIEST_YEAR} to {_LATEST_YEAR}, got {text!r}")
    return moment


def creation_time(video: str | Path) -> datetime | None:
    """The wall clock that a file gives for itself, None where there is none or its clock was never set."""
    with open_video(video) as container:
        texts = (
            container.metadata.get("creation_time"),
            find_video_stream(container, video).metadata.get("creation_time"),
        )
    for text in texts:
        try:
            moment = datetime.fromisoformat(text) if text else None
        except ValueError:
            continue
        if moment and _EARLIEST_YEAR <= moment.year <= _LATEST_YEAR:
            return moment
    return None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
