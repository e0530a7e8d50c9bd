"""What the network sees of a video or of frames: instants, pixels, crops and region; here, or in other processes."""

import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from railsformer.data.isolation import Lost, run_isolated
from railsformer.data.probe import probe_video
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings, evaluation_crops, evaluation_pixels
from railsformer.data.video import TOLERANCE_SECONDS, VideoDecodeError, read_frames
from railsformer.inference.regions import Region

__all__ = ["VideoViews", "Viewing", "decode_task", "frame_views", "read_many", "read_views"]

# No file takes this long to be probed and read at a few instants; one that hangs is stopped and named.
_TIMEOUT_SECONDS = 300.0
_AHEAD = 4  # videos for each process that may be decoded and wait for the network


@dataclass(frozen=True)
class Viewing:
    """How a video becomes what the network sees.

    Args:
        sampling: How clips are cut from time.
        pixels: The model's input.
        num_clips: Clips a video, spread over its length.
        num_crops: Crops of a clip: 1, the centre, or 3 along the long side.
        region: What of the picture is looked at; all if None.

    Raises:
        ValueError: If num_clips < 1, or num_crops is neither 1 nor 3.
    """

    sampling: ClipSampling
    pixels: PixelSettings
    num_clips: int = 1
    num_crops: int = 1
    region: Region | None = None

    def __post_init__(self) -> None:
        if self.num_clips < 1:
            raise ValueError(f"num_clips must be at least 1, got {self.num_clips}")
        if self.num_crops not in (1, 3):
            raise ValueError(f"num_crops must be 1 or 3, got {self.num_crops}")

    def times(self, duration_seconds: float) -> np.ndarray:
        """Instants of the clips of a video, shape (num_clips, T)."""
        return self.sampling.evaluation_times(0.0, duration_seconds, num_clips=self.num_clips)

    def pixels_of(self, frames: np.ndarray) -> torch.Tensor:
        """What the network sees of a clip, shape (num_crops, T, 3, y, x)."""
        if self.region is not None:
            frames = self.region.fill(frames, self.pixels)
        if self.num_crops == 3:
            return evaluation_crops(frames, self.pixels)
        return evaluation_pixels(frames, self.pixels)[None]


@dataclass(frozen=True)
class VideoViews:
    """What the network sees of one video.

    Args:
        pixel_values: Shape (num_clips * num_crops, T, 3, y, x).
        duration_seconds: Of the video; None where it has no times.
        clips_seconds: First and last instant of each clip.
    """

    pixel_values: torch.Tensor
    duration_seconds: float | None
    clips_seconds: tuple[tuple[float, float], ...]


def read_views(path: str | Path, viewing: Viewing) -> VideoViews:
    """Decode what the network sees of a file.

    Raises:
        FileNotFoundError: If there is no such file.
        VideoDecodeError: If it cannot be read.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such video file; correct the name")
    duration = probe_video(path, thorough=False).duration_seconds
    times = viewing.times(duration)
    # A clip at a time: read together, the pictures between two clips far apart would count as needed.
    views = [viewing.pixels_of(read_frames(path, instants)) for instants in times]
    return VideoViews(torch.cat(views), duration, _spans(times))


def frame_views(frames: np.ndarray, seconds: Sequence[float] | np.ndarray | None, viewing: Viewing) -> VideoViews:
    """What the network sees of frames: those on screen at the clips' instants, or all where they have no times.

    Args:
        frames: RGB, uint8, shape (N, height, width, 3).
        seconds: When each begins, ascending, shape (N,).
        viewing: How they are looked at.

    Raises:
        ValueError: If they have another shape, number or order.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ValueError(
            f"frames must be uint8 RGB of shape (N, height, width, 3), got {frames.dtype} of shape {frames.shape}"
        )
    wanted = viewing.sampling.num_frames
    if seconds is None:
        if len(frames) != wanted or viewing.num_clips > 1:
            raise ValueError(
                f"without `seconds` the frames are one clip of {wanted}, got {len(frames)} frames and num_clips "
                f"{viewing.num_clips}; pass when each frame begins as seconds=..."
            )
        return VideoViews(viewing.pixels_of(frames), None, ())
    begins = np.asarray(seconds, dtype=np.float64)
    if begins.shape != (len(frames),) or not np.isfinite(begins).all() or (np.diff(begins) <= 0).any():
        raise ValueError(f"seconds must be {len(frames)} ascending numbers, one a frame, got shape {begins.shape}")
    begins = begins - begins[0]
    step = float(np.median(np.diff(begins))) if len(begins) > 1 else 0.0
    duration = float(begins[-1]) + step
    times = viewing.times(duration)
    places = np.maximum(np.searchsorted(begins, times + TOLERANCE_SECONDS, side="right") - 1, 0)
    views = torch.cat([viewing.pixels_of(frames[few]) for few in places])
    return VideoViews(views, duration, _spans(times))


def read_many(paths: Sequence[str], viewing: Viewing, *, num_workers: int) -> Generator[VideoViews | str, None, None]:
    """What the network sees of each file, in their order, decoded in processes of their own.

    A file that crashes or hangs the decoder costs itself only. Processes wait where the network is slower than they.

    Args:
        paths: The files.
        viewing: How they are looked at.
        num_workers: Processes; 0 decodes in this one.

    Yields:
        Views, or one sentence on what is wrong with the file.
    """
    if not num_workers:
        yield from (_read_or_reason(path, viewing) for path in paths)
        return
    with TemporaryDirectory(prefix="railsformer-views-") as folder:
        tasks = _PacedTasks(_tasks(paths, viewing, Path(folder)), ahead=_AHEAD * num_workers)
        answers = run_isolated(
            f"{__name__}:decode_task",
            tasks,
            timeouts_seconds=[_TIMEOUT_SECONDS] * len(paths),
            num_workers=num_workers,
        )
        early: dict[int, Any] = {}
        try:
            for place in range(len(paths)):
                while place not in early:
                    index, early[index] = next(answers)
                yield _received(early.pop(place))
                tasks.make_room()
        finally:
            tasks.make_room(len(paths))  # a thread that waits for room would never end
            answers.close()


def decode_task(task: dict[str, Any]) -> dict[str, Any]:
    """What a process of `read_many` does: the views of a file into a file beside the others', or what is wrong."""
    mask = task["mask"]
    viewing = Viewing(
        ClipSampling(**task["sampling"]),
        PixelSettings(**task["pixels"]),
        num_clips=task["num_clips"],
        num_crops=task["num_crops"],
        region=Region(tuple(task["polygons"]), np.load(mask) if mask else None) if mask or task["polygons"] else None,
    )
    views = _read_or_reason(task["path"], viewing)
    if isinstance(views, str):
        return {"error": views}
    try:
        np.save(task["target"], views.pixel_values.numpy())
    except OSError as error:  # no fault of the video's
        return {"unwritten": f"{Path(task['target']).parent}: {error.strerror}"}
    return {"file": task["target"], "duration_seconds": views.duration_seconds, "clips_seconds": views.clips_seconds}


def _tasks(paths: Sequence[str], viewing: Viewing, folder: Path) -> list[dict[str, Any]]:
    region = viewing.region
    mask = ""
    if region is not None and region.picture is not None:
        mask = str(folder / "mask.npy")
        np.save(mask, region.picture)
    common = {
        "sampling": asdict(viewing.sampling),
        "pixels": asdict(viewing.pixels),
        "num_clips": viewing.num_clips,
        "num_crops": viewing.num_crops,
        "polygons": region.polygons if region else (),
        "mask": mask,
    }
    return [{**common, "path": path, "target": str(folder / f"{place}.npy")} for place, path in enumerate(paths)]


def _received(answer: Any) -> VideoViews | str:
    if isinstance(answer, Lost):
        word = "hangs" if answer.reason_class == "timeout" else "crashes"
        return f"it {word} the decoder ({answer.detail}); remove it"
    if "unwritten" in answer:
        raise OSError(f"{answer['unwritten']}; free some space there, set TMPDIR, or take --num_workers 0")
    if "error" in answer:
        return str(answer["error"])
    path = Path(answer["file"])
    pixel_values = torch.from_numpy(np.load(path))
    path.unlink()
    spans = tuple((float(first), float(last)) for first, last in answer["clips_seconds"])
    return VideoViews(pixel_values, answer["duration_seconds"], spans)


def _read_or_reason(path: str, viewing: Viewing) -> VideoViews | str:
    try:
        return read_views(path, viewing)
    except VideoDecodeError as error:
        return error.reason
    except FileNotFoundError:
        return "there is no such file; correct the name"
    except (ValueError, OSError) as error:
        return " ".join(str(error).split())


class _PacedTasks(Sequence[dict[str, Any]]):
    """Tasks of which a process gets the next one only when there is room for what comes of it."""

    def __init__(self, tasks: Sequence[dict[str, Any]], *, ahead: int) -> None:
        self._tasks = tasks
        self._room = threading.Semaphore(ahead)

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._tasks)

    def __getitem__(self, index: Any) -> Any:
        self._room.acquire()
        return self._tasks[index]

    def make_room(self, places: int = 1) -> None:
        """Say that a result was taken."""
        self._room.release(places)


def _spans(times: np.ndarray) -> tuple[tuple[float, float], ...]:
    return tuple((float(clip.min()), float(clip.max())) for clip in times)
