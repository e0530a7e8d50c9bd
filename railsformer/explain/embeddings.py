"""Clip embeddings of a dataset in two dimensions, and whether their clusters follow the label or the camera.

An embedding is CLS after the trunk's last norm, which the head reads, of one evaluation clip a video. D hidden size.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from railsformer.data.analysis.figures import printable
from railsformer.data.clips import ClipDataset, VideoDataset, load_video_dataset
from railsformer.data.folders import check_output_dir, whole_folder
from railsformer.data.transforms import PixelSettings
from railsformer.data.video import VideoDecodeError
from railsformer.evaluation.calibration import apply_temperature
from railsformer.evaluation.measured_split import video_names
from railsformer.evaluation.report_pages.words import counted
from railsformer.explain.clusters import (
    LEAST_VIDEOS,
    Clusters,
    measure_clusters,
    nearest,
    project_pca,
    project_tsne,
)
from railsformer.explain.embedding_page import EmbeddedVideos, render_embeddings
from railsformer.inference.predictor import Predictor

__all__ = ["EmbeddingsReport", "write_embeddings"]

_THUMBNAIL_PX = 112
_NUM_NEIGHBOURS = 6
_UNKNOWN_RECORDINGS = "recordings unknown"  # as `describe_split` says it where every file is a group of its own
_MISSING = ("missing", "there is no such file; put it back")
_NONE = "(none)"


@dataclass(frozen=True)
class EmbeddingsReport:
    """What the embeddings of a dataset say.

    Args:
        model: Name of the run.
        dataset: Name of the dataset.
        fingerprint: Of the dataset.
        splits: Number of videos in each split that was looked at.
        num_videos: Videos that have an embedding.
        num_left_out: Videos that were not looked at, because there are more than max_videos.
        unread: Videos that cannot be read: `split`, `video`, `reason_class` and `reason`.
        clusters: Of all videos and of each split.
        explained: Shares of the variance along the two axes of the PCA.
        perplexity: Of the t-SNE.
        seed: Of the t-SNE and of the draw of videos.
        camera_column: Column that tells the camera.
    """

    model: str
    dataset: str
    fingerprint: str
    splits: dict[str, int]
    num_videos: int
    num_left_out: int
    unread: tuple[dict[str, str], ...]
    clusters: tuple[Clusters, ...]
    explained: tuple[float, float]
    perplexity: float
    seed: int
    camera_column: str

    @property
    def headline(self) -> Clusters:
        """The videos that tell most: of a split that was not trained on, where it has several labels and cameras."""
        order = ("test", "validation", *(name for name in self.splits if name != "train"), "all", "train")
        by_name = {each.videos: each for each in self.clusters}
        known = [by_name[name] for name in order if name in by_name and _is_known(by_name[name])]
        return known[0] if known else self.clusters[0]

    def lines(self) -> list[str]:
        """Sentences to print: what was found, then what one must know of it."""
        lines = [self.headline.sentence]
        lines += [each.sentence for each in self.clusters if each is not self.headline]
        if "train" in self.splits and (self.headline.videos in ("all", "train")):
            lines.append(
                "Videos of split train are among them: the model has learned their labels, if not these same."
            )
        if self.num_left_out:
            lines.append(
                f"{counted(self.num_left_out, 'video', 'videos')} not looked at: {self.num_videos + len(self.unread)} "
                f"were drawn at random (seed {self.seed}); raise max_videos for more."
            )
        if self.unread:
            first = self.unread[0]
            lines.append(
                f"{counted(len(self.unread), 'video', 'videos')} cannot be read, first {first['video']}: "
                f"{first['reason']}."
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """What embeddings.json holds."""
        return {
            "version": 1,
            "model": self.model,
            "dataset": self.dataset,
            "dataset_fingerprint": self.fingerprint,
            "splits": self.splits,
            "num_videos": self.num_videos,
            "num_left_out": self.num_left_out,
            "unread": list(self.unread),
            "embedding": "CLS after the trunk's last norm, one evaluation clip a video",
            "distance": "cosine, on the embeddings themselves",
            "camera_column": self.camera_column,
            "clusters": [each.to_dict() for each in self.clusters],
            "pca": {"explained_variance": [round(share, 6) for share in self.explained]},
            "tsne": {"perplexity": self.perplexity, "distance": "cosine"},
            "seed": self.seed,
            "lines": self.lines(),
        }


def write_embeddings(
    model_name: str | Path,
    dataset: str | Path,
    output_dir: str | Path,
    *,
    splits: Sequence[str] = (),
    camera_column: str = "group",
    max_videos: int = 2000,
    perplexity: float = 30.0,
    seed: int = 0,
    device: str | None = None,
    batch_size: int = 8,
    num_workers: int = 2,
    progress: bool = True,
) -> EmbeddingsReport:
    """Embed the videos of a dataset and write embeddings.html, .csv, .npz and .json.

    Args:
        model_name: Run folder, checkpoint or Hub id.
        dataset: Folder or Hub id.
        output_dir: Empty or not there yet.
        splits: Which; all that hold videos unless given.
        camera_column: Column that tells the camera.
        max_videos: Of a larger dataset as many are drawn at random.
        perplexity: Of the t-SNE; lowered in small sets.
        seed: Of the t-SNE and of that draw.
        device: Where the model runs; the accelerator where there is one unless given.
        batch_size: Clips of a forward pass.
        num_workers: Processes that decode.
        progress: Show a bar.

    Returns:
        What was found; `.lines()` are the sentences to print.

    Raises:
        FileExistsError: If output_dir holds something.
        FileNotFoundError: If there is no such model or dataset.
        ValueError: If an argument is out of range, there is no such split or column, fewer than 3 videos can be read,
            or the embeddings are not numbers or all the same.
    """
    if max_videos < LEAST_VIDEOS or not perplexity > 0 or num_workers < 0:
        raise ValueError(
            f"max_videos must be at least {LEAST_VIDEOS}, perplexity above 0 and num_workers at least 0, got "
            f"max_videos {max_videos}, perplexity {perplexity} and num_workers {num_workers}"
        )
    check_output_dir(output_dir)
    loaded = load_video_dataset(dataset)
    names = list(dict.fromkeys(splits)) or [name for name, rows in loaded.splits.items() if len(rows)]
    for name in names:
        loaded.split(name)
    _check_column(camera_column, loaded, names)
    predictor = Predictor.from_pretrained(model_name, device=device, batch_size=batch_size)
    chosen, num_left_out = _draw(loaded, names, max_videos=max_videos, seed=seed)
    found = [
        _embed(predictor, loaded, name, rows, num_workers=num_workers, progress=progress)
        for name, rows in chosen.items()
    ]
    videos = _joined(found, predictor, loaded)
    _check_embeddings(videos.embeddings, model_name, num_unread=sum(len(each.unread) for each in found))
    cameras, no_cameras = _cameras(videos, loaded, camera_column)
    pca, explained = project_pca(videos.embeddings)
    tsne, taken = project_tsne(videos.embeddings, perplexity=perplexity, seed=seed)
    report = EmbeddingsReport(
        model=_shown_name(str(model_name)),
        dataset=_shown_name(str(dataset)),
        fingerprint=loaded.fingerprint,
        splits={name: len(loaded.splits[name]) for name in names},
        num_videos=len(videos.embeddings),
        num_left_out=num_left_out,
        unread=tuple(one for each in found for one in each.unread),
        clusters=_all_clusters(videos, cameras, no_cameras, camera_column),
        explained=explained,
        perplexity=taken,
        seed=seed,
        camera_column=camera_column,
    )
    with whole_folder(output_dir) as folder:
        _write(folder, report, videos, pca=pca, tsne=tsne, cameras=cameras, predictor=predictor)
    return report


@dataclass(frozen=True)
class _EmbeddedSplit:
    """Some videos of one split; what could not be read has no row in the arrays."""

    split: str
    rows: list[int]
    embeddings: np.ndarray
    scores: np.ndarray
    thumbnails: list[bytes]
    unread: list[dict[str, str]]


class _SeenClips(torch.utils.data.Dataset):
    """Some clips with a small picture of their middle frame; one that cannot be read says so."""

    def __init__(self, clips: ClipDataset, rows: Sequence[int]) -> None:
        self.clips, self.rows = clips, list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        row = self.rows[place]
        try:
            pixel_values = self.clips[row]["pixel_values"]
        except (VideoDecodeError, FileNotFoundError) as error:
            damage = (error.reason_class, error.reason) if isinstance(error, VideoDecodeError) else _MISSING
            return {"row": row, "damage": damage}
        middle = pixel_values[len(pixel_values) // 2]
        return {"row": row, "pixel_values": pixel_values, "thumbnail": _thumbnail(middle, self.clips.pixels)}


def _thumbnail(frame: torch.Tensor, pixels: PixelSettings) -> bytes:
    """A normalised frame (3, y, x), what the model saw, as a small JPEG."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (pixels.mean, pixels.std))
    picture = ((frame * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    image = Image.fromarray(picture)
    image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, format="jpeg", quality=78)
    return file.getvalue()


@torch.inference_mode()
def _embed(
    predictor: Predictor, dataset: VideoDataset, split: str, rows: list[int], *, num_workers: int, progress: bool
) -> _EmbeddedSplit:
    """Decode and embed the named rows of a split."""
    model, data = predictor.model, dataset.split(split)
    clips = ClipDataset(data, sampling=predictor.sampling, pixels=predictor.pixels)
    loader: torch.utils.data.DataLoader = torch.utils.data.DataLoader(
        _SeenClips(clips, rows), batch_size=predictor.batch_size, num_workers=num_workers, collate_fn=list
    )
    names = video_names(data)
    read: list[int] = []
    embeddings, logits, thumbnails, unread = [], [], [], []
    for batch in tqdm(loader, desc=f"embeddings of {split}", unit="batch", disable=not progress, leave=False):
        for item in batch:
            if "damage" in item:
                kind, reason = item["damage"]
                unread.append({"split": split, "video": names[item["row"]], "reason_class": kind, "reason": reason})
        seen = [item for item in batch if "damage" not in item]
        if not seen:
            continue
        pixel_values = torch.stack([item["pixel_values"] for item in seen]).to(predictor.device, model.dtype)
        cls = model.timesformer(pixel_values).last_hidden_state[:, 0]
        embeddings.append(cls.float().cpu().numpy())
        logits.append(model.classifier(cls).float().cpu())
        thumbnails += [item["thumbnail"] for item in seen]
        read += [item["row"] for item in seen]
    width, num_labels = model.config.hidden_size, model.config.num_labels
    return _EmbeddedSplit(
        split=split,
        rows=read,
        embeddings=np.concatenate([np.empty((0, width), dtype=np.float32), *embeddings]),
        scores=torch.cat([torch.empty(0, num_labels), *logits]).softmax(dim=-1).double().numpy(),
        thumbnails=thumbnails,
        unread=unread,
    )


def _draw(
    dataset: VideoDataset, names: Sequence[str], *, max_videos: int, seed: int
) -> tuple[dict[str, list[int]], int]:
    """Rows of each split that are looked at, and how many are not."""
    places = [(name, row) for name in names for row in range(len(dataset.splits[name]))]
    kept: Sequence[int] = range(len(places))
    if len(places) > max_videos:
        kept = sorted(np.random.default_rng(seed).choice(len(places), max_videos, replace=False).tolist())
    chosen: dict[str, list[int]] = {}
    for place in kept:
        chosen.setdefault(places[place][0], []).append(places[place][1])
    return chosen, len(places) - len(kept)


def _joined(found: Sequence[_EmbeddedSplit], predictor: Predictor, dataset: VideoDataset) -> EmbeddedVideos:
    """The videos of all splits, one after the other, with their metadata."""
    scores = np.concatenate([each.scores for each in found])
    scores = apply_temperature(scores, predictor.temperature) if np.isfinite(scores).all() else scores
    best = scores.argmax(axis=1) if len(scores) else np.empty(0, dtype=int)
    columns: dict[str, list[Any]] = {}
    for each in found:
        rows = dataset.splits[each.split]
        for column in rows.column_names:
            columns.setdefault(column, [])
    labels, files = [], []
    for each in found:
        rows = dataset.splits[each.split].select(each.rows)
        labels += [dataset.labels[index] if index >= 0 else _NONE for index in rows["label"]]
        names = video_names(dataset.splits[each.split])
        files += [names[row] for row in each.rows]
        for column, values in columns.items():
            values += list(rows[column]) if column in rows.column_names else [None] * len(rows)
    return EmbeddedVideos(
        embeddings=np.concatenate([each.embeddings for each in found]),
        splits=[each.split for each in found for _ in each.rows],
        files=files,
        labels=labels,
        predictions=[predictor.labels[index] for index in best],
        scores=scores.max(axis=1, initial=0.0),
        thumbnails=[picture for each in found for picture in each.thumbnails],
        columns={name: values for name, values in columns.items() if name not in ("video", "label")},
    )


def _check_embeddings(embeddings: np.ndarray, model_name: str | Path, *, num_unread: int) -> None:
    if len(embeddings) < LEAST_VIDEOS:
        raise ValueError(
            f"a picture of embeddings needs {LEAST_VIDEOS} videos, got {len(embeddings)} that can be read and "
            f"{num_unread} that cannot; name more splits, or put the files back"
        )
    if not np.isfinite(embeddings).all():
        raise ValueError(
            f"{model_name}: the embeddings are not numbers (NaN); its weights are damaged or its training diverged"
        )
    if np.ptp(embeddings, axis=0).max() < 1e-6:
        raise ValueError(
            f"{model_name}: all {len(embeddings)} videos have the same embedding, so there is nothing to draw; its "
            "training collapsed, or the videos are all the same"
        )


def _check_column(name: str, dataset: VideoDataset, splits: Sequence[str]) -> None:
    """Refuse a column that is named and not there; without the usual one cameras are not known."""
    columns = {column for split in splits for column in dataset.splits[split].column_names}
    there = sorted(columns - {"video", "label"})  # these tell no camera
    if name in there or name == "group":
        return
    close = get_close_matches(name, there, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(there)}"
    raise ValueError(f"camera_column: the dataset {dataset.name} has no column {name!r}; {hint}")


def _cameras(videos: EmbeddedVideos, dataset: VideoDataset, column: str) -> tuple[list[str] | None, str]:
    """Camera of each video, or why they are not known."""
    if column not in videos.columns:
        return None, f"the dataset has no column {column}"
    if column == "group" and _UNKNOWN_RECORDINGS in dataset.split_kind:
        return None, "the dataset was built without --group_by, so nobody knows the cameras"
    return [_NONE if value is None else printable(str(value)) for value in videos.columns[column]], ""


def _all_clusters(
    videos: EmbeddedVideos, cameras: Sequence[str] | None, no_cameras: str, column: str
) -> tuple[Clusters, ...]:
    """Of all videos, and of each split where there are several."""
    parts = {"all": list(range(len(videos.labels)))}
    there = list(dict.fromkeys(videos.splits))
    if len(there) > 1:
        parts |= {name: [row for row, split in enumerate(videos.splits) if split == name] for name in there}
    else:
        parts = {there[0]: parts["all"]}
    return tuple(
        measure_clusters(
            videos.embeddings[places],
            [videos.labels[place] for place in places],
            None if cameras is None else [cameras[place] for place in places],
            videos=name,
            no_cameras=no_cameras,
            camera_word="camera" if column == "group" else column,
        )
        for name, places in parts.items()
        if len(places) >= LEAST_VIDEOS
    )


def _is_known(clusters: Clusters) -> bool:
    return clusters.silhouette_label is not None and clusters.silhouette_camera is not None


def _write(
    folder: Path,
    report: EmbeddingsReport,
    videos: EmbeddedVideos,
    *,
    pca: np.ndarray,
    tsne: np.ndarray,
    cameras: Sequence[str] | None,
    predictor: Predictor,
) -> None:
    np.savez_compressed(
        folder / "embeddings.npz",
        embeddings=videos.embeddings,
        pca=pca.astype(np.float32),
        tsne=tsne.astype(np.float32),
        video=np.array(videos.files, dtype=str),
        split=np.array(videos.splits, dtype=str),
        label=np.array(videos.labels, dtype=str),
        prediction=np.array(videos.predictions, dtype=str),
    )
    _write_table(folder / "embeddings.csv", videos, {"pca": pca, "tsne": tsne})
    text = json.dumps(report.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)
    (folder / "embeddings.json").write_text(text + "\n", encoding="utf-8", errors="replace")
    page = render_embeddings(
        videos,
        {"t-SNE": tsne, "PCA": pca},
        cameras=cameras,
        camera_column=report.camera_column,
        neighbours=nearest(videos.embeddings, _NUM_NEIGHBOURS),
        clusters=report.clusters,
        headline=report.headline,
        facts=report.to_dict(),
        label_order=predictor.labels,
        negative_labels=predictor.negative_labels,
    )
    (folder / "embeddings.html").write_text(page, encoding="utf-8")


def _write_table(path: Path, videos: EmbeddedVideos, places: Mapping[str, np.ndarray]) -> None:
    fixed = ("split", "video", "label", "prediction", "score")
    metadata = {name: values for name, values in videos.columns.items() if name not in fixed}
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow([*fixed, *(f"{name}_{axis}" for name in places for axis in "xy"), *metadata])
        for row, video in enumerate(videos.files):
            at = [f"{value:.6g}" for each in places.values() for value in each[row]]
            told = [_cell(values[row]) for values in metadata.values()]
            score = f"{videos.scores[row]:.6g}"
            writer.writerow(
                [videos.splits[row], video, videos.labels[row], videos.predictions[row], score, *at, *told]
            )


def _cell(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def _shown_name(name: str) -> str:
    """Its last two folders: where it lies on this machine is nobody's business where the page is sent."""
    return printable("/".join(Path(name).parts[-2:]) if Path(name).is_absolute() else name)
