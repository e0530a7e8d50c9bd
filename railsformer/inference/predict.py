"""Predictions of many videos: found, decoded in processes, batched, and written a row a video as they come."""

import csv
import glob
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from tqdm.auto import tqdm

from railsformer.data.folders import try_lock
from railsformer.data.segments import READ_SUFFIXES
from railsformer.inference.model_identity import score_digest
from railsformer.inference.predictor import Prediction, Predictor, check_top_k
from railsformer.inference.regions import Region
from railsformer.inference.views import VideoViews, Viewing, read_many

__all__ = ["PredictedVideo", "RowFormat", "RowWriter", "check_wishes", "find_videos", "predict_videos"]

RowFormat = Literal["jsonl", "csv", "table"]


@dataclass(frozen=True)
class PredictedVideo:
    """A video and what came of it.

    Args:
        video: Its name as it was given or found.
        prediction: None where it could not be read.
        error: What is wrong with it, one sentence; None where it was read.
    """

    video: str
    prediction: Prediction | None = None
    error: str | None = None


def find_videos(names: Iterable[str], *, listed: IO[str] | None = None) -> list[str]:
    """The files that names stand for, each once, in the order of the names.

    Args:
        names: Files, folders (all videos in them and below), globs (`**` too), or `-` for names on `listed`, one a
            line. A file that is not there stays in the list, so that it is reported like one that cannot be read.
        listed: What `-` reads, standard input as a rule.

    Raises:
        ValueError: If nothing is named, or a folder or glob holds no video.
    """
    found: dict[str, None] = {}
    for name in names:
        if name == "-":
            lines = () if listed is None else listed
            found.update(
                dict.fromkeys(path for line in lines if (text := line.rstrip("\r\n")) for path in _files(text))
            )
        else:
            found.update(dict.fromkeys(_files(name)))
    if not found:
        raise ValueError("no video is named; give files, folders, globs, or - and names on standard input")
    return list(found)


def predict_videos(
    predictor: Predictor,
    videos: Sequence[str],
    *,
    num_clips: int = 1,
    num_crops: int = 1,
    top_k: int | None = None,
    region: Region | None = None,
    num_workers: int = 2,
    progress: bool = False,
) -> Iterator[PredictedVideo]:
    """Predict videos in their order, their views batched together; a bad file costs only itself.

    Args:
        predictor: The model.
        videos: Files.
        num_clips: Clips a video, their scores averaged.
        num_crops: Crops of a clip, 1 or 3, their scores averaged.
        top_k: Scores to return of each; all if not given.
        region: What of the picture is looked at.
        num_workers: Processes that decode; 0 decodes in this one, which a file that crashes the decoder then takes
            along.
        progress: Show a bar.

    Yields:
        One result a video.

    Raises:
        ValueError: If an argument is out of range or scores are not numbers.
    """
    viewing = check_wishes(
        predictor, num_clips=num_clips, num_crops=num_crops, top_k=top_k, region=region, num_workers=num_workers
    )
    size = max(1, predictor.batch_size // (num_clips * num_crops))
    waiting: list[tuple[str, VideoViews | str]] = []
    bar = tqdm(total=len(videos), desc="predicting", unit="video", disable=not progress, leave=False)
    with bar, closing(read_many(videos, viewing, num_workers=num_workers)) as reads:
        for video, read in zip(videos, reads, strict=True):
            waiting.append((video, read))
            if sum(not isinstance(each, str) for _, each in waiting) == size:
                yield from _predicted(predictor, waiting, top_k)
                bar.update(len(waiting))
                waiting = []
        yield from _predicted(predictor, waiting, top_k)
        bar.update(len(waiting))


def check_wishes(
    predictor: Predictor,
    *,
    num_clips: int = 1,
    num_crops: int = 1,
    top_k: int | None = None,
    region: Region | None = None,
    num_workers: int = 2,
) -> Viewing:
    """Refuse what `predict_videos` would refuse, before anything is written; what is looked at of each video.

    Raises:
        ValueError: If an argument is out of range.
    """
    check_top_k(top_k)
    if num_workers < 0:
        raise ValueError(f"num_workers must be at least 0, got {num_workers}")
    return Viewing(predictor.sampling, predictor.pixels, num_clips, num_crops, region)


def _predicted(
    predictor: Predictor, waiting: Sequence[tuple[str, VideoViews | str]], top_k: int | None
) -> Iterator[PredictedVideo]:
    views = [read for _, read in waiting if not isinstance(read, str)]
    predictions = iter(predictor.predict_views(views, top_k=top_k))
    for video, read in waiting:
        if isinstance(read, str):
            yield PredictedVideo(video, error=read)
        else:
            yield PredictedVideo(video, next(predictions))


def _files(name: str) -> list[str]:
    """The files that one name stands for."""
    if os.path.isdir(name):
        found = _videos_below(name)
        if not found:
            raise ValueError(f"{name}: no video in this folder or below; name one that holds some")
        return found
    if os.path.lexists(name) or not glob.has_magic(name):
        return [name]
    matches = sorted(glob.glob(name, recursive=True))
    if not matches:
        raise ValueError(f"{name}: nothing matches; quote the pattern, or correct it")
    return [path for match in matches for path in (_videos_below(match) if os.path.isdir(match) else [match])]


def _videos_below(folder: str) -> list[str]:
    paths = (path for path in Path(folder).rglob("*") if path.suffix.lower() in READ_SUFFIXES)
    return sorted(str(path) for path in paths if path.is_file())


class RowWriter:
    """Writes a row a video as it comes; with a file it goes on after the rows that are there.

    Args:
        row_format: `jsonl`, `csv`, or `table` for reading.
        predictor: Whose labels and thresholds the rows are of.
        views: Clips x crops a video, as `1x1`.
        region: What of the picture is looked at.
        output: File; None means `stream`.
        stream: Where rows go without a file.

    Raises:
        FileExistsError: If another process is writing the file.
        ValueError: If the file holds something else than rows of this model (its weights, temperature and thresholds
            as they are now), these views and this region.
    """

    def __init__(
        self,
        row_format: RowFormat,
        predictor: Predictor,
        *,
        views: str,
        region: Region | None = None,
        output: str | Path | None = None,
        stream: IO[str],
    ) -> None:
        if output is not None and row_format == "table":
            raise ValueError("format table is for reading; with --output take --format jsonl or csv")
        self.done: dict[str, bool] = {}
        self._format, self._predictor, self._views, self._stream = row_format, predictor, views, stream
        self._digest = "" if row_format == "table" else score_digest(predictor, region)
        self._columns = [
            *("video", "label", "score", "duration_seconds", "error", "model", "views", "digest"),
            *(f"decision_{name}" for name in predictor.thresholds or ()),
            *(f"score_{name}" for name in predictor.labels),
        ]
        self._file: IO[str] | None = None
        begun = False
        if output is not None:
            self._file = self._stream = open(  # noqa: SIM115  # closed by `close`
                output, "a", encoding="utf-8", newline="", errors="surrogateescape"
            )
            if Path(output).is_file() and sys.platform != "win32" and not try_lock(self._file):
                self._file.close()
                raise FileExistsError(f"{output} is being written by another process; wait for it or name another")
            try:
                begun = self._go_on(Path(output))
            except ValueError:
                self._file.close()
                raise
        if row_format != "jsonl" and not begun:
            self._write(self._head())

    def write(self, videos: Iterable[PredictedVideo]) -> None:
        """Write a row for each, at once: what was written outlives whatever ends the process."""
        row = {"jsonl": self._json, "csv": self._csv, "table": self._line}[self._format]
        for video in videos:
            self._write(row(video))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def _head(self) -> str:
        if self._format == "csv":
            return _csv_line(self._columns)
        width = max(len("label"), *(len(name) for name in self._predictor.labels))
        return f"{'score':>5}  {'label':{width}}  {'alarm':{width}}  video\n"

    def _json(self, video: PredictedVideo) -> str:
        found = video.prediction
        content: dict[str, Any] = {"video": video.video, "label": None, "score": None, "scores": None}
        content |= {"decisions": None, "duration_seconds": None, "error": video.error}
        if found is not None:
            content |= {"label": found.label, "score": found.scores[found.label], "scores": found.scores}
            content |= {"decisions": found.decisions, "duration_seconds": found.duration_seconds}
        content |= {"model": self._predictor.name, "views": self._views, "digest": self._digest}
        return json.dumps(content, ensure_ascii=False) + "\n"

    def _csv(self, video: PredictedVideo) -> str:
        found = video.prediction
        cells: dict[str, Any] = {"video": video.video, "error": video.error or ""}
        cells |= {"model": self._predictor.name, "views": self._views, "digest": self._digest}
        if found is not None:
            cells |= {"label": found.label, "score": f"{found.scores[found.label]:.6f}"}
            cells |= {"duration_seconds": "" if found.duration_seconds is None else f"{found.duration_seconds:.3f}"}
            cells |= {f"score_{name}": f"{score:.6f}" for name, score in found.scores.items()}
            cells |= {f"decision_{name}": str(is_on).lower() for name, is_on in (found.decisions or {}).items()}
        return _csv_line([cells.get(name, "") for name in self._columns])

    def _line(self, video: PredictedVideo) -> str:
        width = max(len("label"), *(len(name) for name in self._predictor.labels))
        found = video.prediction
        if found is None:
            return f"{'-':>5}  {'-':{width}}  {'-':{width}}  {video.video}: {video.error}\n"
        alarms = "?" if found.decisions is None else "+".join(name for name, is_on in found.decisions.items() if is_on)
        return f"{found.scores[found.label]:5.3f}  {found.label:{width}}  {alarms or '-':{width}}  {video.video}\n"

    def _go_on(self, path: Path) -> bool:
        """Read which videos have a row, and cut off a last half line; whether the file has begun."""
        if not path.is_file():  # none yet, or a device or pipe, which cannot be read back
            return False
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        begin = (_csv_line(self._columns) if self._format == "csv" else '{"video": ').encode(errors="surrogateescape")
        if not (whole or content.startswith(begin) or begin.startswith(content)):
            raise ValueError(f"{path} holds something else than rows of predictions; name another --output")
        lines = list(io.StringIO(whole.decode("utf-8", errors="surrogateescape"), newline="\n"))
        rows = self._read_csv(path, lines) if self._format == "csv" else self._read_json(path, lines)
        for number, row in enumerate(rows, start=1):
            for key, ours in (("model", self._predictor.name), ("views", self._views)):
                if row.get(key) != ours:
                    raise ValueError(
                        f"{path}, row {number}: its {key} is {row.get(key)!r}, not {ours!r}; name another --output"
                    )
            if row.get("digest") != self._digest:
                raise ValueError(
                    f"{path}, row {number}: it was written with other weights, temperature, thresholds or region than "
                    f"now (digest {row.get('digest')!r}, now {self._digest!r}); name another --output"
                )
            self.done[str(row["video"])] = not row.get("error")
        if len(whole) < len(content):  # a process was stopped in the middle of a row
            os.truncate(path, len(whole))
        return bool(whole)

    def _read_json(self, path: Path, lines: Sequence[str]) -> list[dict[str, Any]]:
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                row["video"], row["model"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number} is no row of predictions ({error}); name another --output"
                ) from error
            rows.append(row)
        return rows

    def _read_csv(self, path: Path, lines: Sequence[str]) -> list[dict[str, Any]]:
        reader = csv.reader(lines)
        head = next(reader, self._columns)
        if head != self._columns:
            raise ValueError(
                f"{path}: its columns are {','.join(head)[:80]!r}, not those of this model; name another --output"
            )
        return [dict(zip(self._columns, row, strict=False)) for row in reader]


def _csv_line(cells: Sequence[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()
