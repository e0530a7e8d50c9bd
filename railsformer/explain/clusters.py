"""Whether clip embeddings lie together by label or by camera, and their two-dimensional pictures.

Silhouettes and neighbours are measured on the embeddings themselves, never on a picture of them. Distance is cosine
distance: 1 minus the cosine of the angle between two embeddings.
"""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score

from railsformer.evaluation.report_pages.words import counted, percent

__all__ = [
    "LEAST_VIDEOS",
    "Clusters",
    "Neighbours",
    "measure_clusters",
    "nearest",
    "neighbour_words",
    "project_pca",
    "project_tsne",
]

LEAST_VIDEOS = 3  # fewer have no plane of their own
_ALIKE = 0.02  # silhouettes that differ by no more say nothing about each other
_NO_CLUSTERS = 0.02  # a silhouette below this is that of no clusters
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Neighbours:
    """How often a video's nearest other one is of the same kind.

    Args:
        share: Of the videos.
        chance: The share if the nearest one were drawn at random among those that are looked at.
        num_videos: Videos that have another one to be compared with.
    """

    share: float
    chance: float
    num_videos: int


@dataclass(frozen=True)
class Clusters:
    """How the embeddings of some videos lie.

    Args:
        videos: Which: `all`, or a split.
        num_videos: How many.
        silhouette_label: Mean silhouette by label, from -1 to 1; None where there is none.
        silhouette_camera: By camera, in the same way.
        why_no_label: Why there is no silhouette by label; empty where there is one.
        why_no_camera: In the same way.
        same_label: Of the nearest neighbour; None where there is one label only.
        same_camera: Of the nearest neighbour; None where there is one camera only.
        same_label_elsewhere: Of the nearest neighbour among the videos of other cameras.
        one_label_a_camera: Whether each camera has one label only, so that the two cannot be told apart.
        sentence: What it means.
    """

    videos: str
    num_videos: int
    silhouette_label: float | None
    silhouette_camera: float | None
    why_no_label: str
    why_no_camera: str
    same_label: Neighbours | None
    same_camera: Neighbours | None
    same_label_elsewhere: Neighbours | None
    one_label_a_camera: bool
    sentence: str

    @property
    def follows_camera(self) -> bool:
        """Whether the camera's clusters are clearer than the label's."""
        return _verdict(self.silhouette_label, self.silhouette_camera) == "camera"

    def to_dict(self) -> dict[str, Any]:
        """Entry of embeddings.json."""
        return asdict(self) | {"follows_camera": self.follows_camera}


def measure_clusters(
    embeddings: np.ndarray,
    labels: Sequence[str],
    cameras: Sequence[str] | None,
    *,
    videos: str,
    no_cameras: str = "nobody says which camera a video is from",
    camera_word: str = "camera",
) -> Clusters:
    """Measure silhouettes and nearest neighbours by label and by camera.

    Args:
        embeddings: Shape (num_videos, D).
        labels: One a video.
        cameras: One a video; None where they are not known.
        videos: Name of this set of videos.
        no_cameras: Why cameras are not known.
        camera_word: What a camera is called in the sentence.
    """
    label_score, why_no_label = _silhouette(embeddings, labels, "label")
    camera_score, why_no_camera = None, no_cameras
    if cameras is not None:
        camera_score, why_no_camera = _silhouette(embeddings, cameras, camera_word)
    label_codes = np.unique(np.asarray(labels, dtype=str), return_inverse=True)[1]
    camera_codes = None if cameras is None else np.unique(np.asarray(cameras, dtype=str), return_inverse=True)[1]
    one_label = camera_codes is not None and _determines(camera_codes, label_codes)
    elsewhere = None
    if camera_codes is not None and label_codes.max(initial=0) > 0:
        elsewhere = _neighbours(embeddings, label_codes, other_than=camera_codes)
    return Clusters(
        videos=videos,
        num_videos=len(embeddings),
        silhouette_label=label_score,
        silhouette_camera=camera_score,
        why_no_label=why_no_label,
        why_no_camera=why_no_camera,
        same_label=_neighbours(embeddings, label_codes),
        same_camera=None if camera_codes is None else _neighbours(embeddings, camera_codes),
        same_label_elsewhere=elsewhere,
        one_label_a_camera=one_label and camera_score is not None,
        sentence=_sentence(
            videos, len(embeddings), label_score, camera_score, why_no_label, why_no_camera, camera_word, one_label
        ),
    )


def nearest(embeddings: np.ndarray, count: int, *, other_than: np.ndarray | None = None) -> np.ndarray:
    """Indices of the nearest other videos by cosine, the nearest first.

    Args:
        embeddings: Shape (n, D).
        count: How many; fewer where there are fewer others.
        other_than: Codes, shape (n,): only videos of another code are looked at; -1 stands where there is none.

    Returns:
        Shape (n, min(count, n - 1)).
    """
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    count = min(count, len(unit) - 1)
    found = np.empty((len(unit), count), dtype=np.int64)
    for first in range(0, len(unit), _ROWS_AT_ONCE):
        rows = np.arange(first, min(first + _ROWS_AT_ONCE, len(unit)))
        similarity = unit[rows] @ unit.T
        similarity[np.arange(len(rows)), rows] = -np.inf
        if other_than is not None:
            similarity[other_than[rows, None] == other_than[None]] = -np.inf
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
        found[rows] = np.where(np.isneginf(np.take_along_axis(similarity, order, axis=1)), -1, order)
    return found


def project_pca(embeddings: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """The two directions of greatest variance.

    Args:
        embeddings: Shape (n, D), n >= LEAST_VIDEOS, not all the same.

    Returns:
        Places, shape (n, 2), and the share of the variance along each axis.
    """
    pca = PCA(n_components=2, svd_solver="full")
    places = pca.fit_transform(np.asarray(embeddings, dtype=np.float64))
    across, up = pca.explained_variance_ratio_.tolist()
    return places, (across, up)


def project_tsne(embeddings: np.ndarray, *, perplexity: float, seed: int) -> tuple[np.ndarray, float]:
    """t-SNE by cosine distance, from the PCA.

    Args:
        embeddings: Shape (n, D), n >= LEAST_VIDEOS, not all the same.
        perplexity: How many neighbours each video keeps near, about; lowered to a third of the others in small sets.
        seed: Of what is random in it.

    Returns:
        Places, shape (n, 2), and the perplexity that was taken.
    """
    taken = float(max(1.0, min(perplexity, (len(embeddings) - 1) / 3)))
    tsne = TSNE(metric="cosine", init="pca", perplexity=taken, random_state=seed, n_jobs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(tsne.fit_transform(np.asarray(embeddings, dtype=np.float32)), dtype=np.float64), taken


def _silhouette(embeddings: np.ndarray, kinds: Sequence[str], what: str) -> tuple[float | None, str]:
    """Mean silhouette, or why there is none."""
    counts = np.unique(np.asarray(kinds, dtype=str), return_counts=True)[1]
    if len(counts) < 2:
        return None, f"all are of one {what}"
    if counts.max() < 2:
        return None, f"each video has a {what} of its own"
    return float(silhouette_score(embeddings, kinds, metric="cosine")), ""


def _neighbours(
    embeddings: np.ndarray, codes: np.ndarray, *, other_than: np.ndarray | None = None
) -> Neighbours | None:
    """Share of videos whose nearest (among those of another code, if given) is of the same kind; None if no kinds."""
    if codes.max(initial=0) == 0:
        return None
    chosen = nearest(embeddings, 1, other_than=other_than)[:, 0]
    has = chosen >= 0
    if not has.any():
        return None
    same, others = np.bincount(codes)[codes] - 1, np.full(len(codes), len(codes) - 1)
    if other_than is not None:
        table = np.zeros((codes.max() + 1, other_than.max() + 1), dtype=np.int64)
        np.add.at(table, (codes, other_than), 1)
        same = table.sum(axis=1)[codes] - table[codes, other_than]
        others = len(codes) - table.sum(axis=0)[other_than]
    chances = same[has] / others[has]
    return Neighbours(float((codes[chosen] == codes)[has].mean()), float(chances.mean()), int(has.sum()))


def _determines(cameras: np.ndarray, labels: np.ndarray) -> bool:
    """Whether each of several cameras has one label only."""
    pairs = np.unique(np.stack((cameras, labels)), axis=1).shape[1]
    return bool(cameras.max(initial=0) > 0 and pairs == cameras.max() + 1)


def _verdict(label: float | None, camera: float | None) -> str:
    if label is None or camera is None:
        return "unknown"
    if max(label, camera) < _NO_CLUSTERS:
        return "neither"
    if abs(label - camera) <= _ALIKE:
        return "both"
    return "camera" if camera > label else "label"


def _sentence(
    videos: str,
    num_videos: int,
    label: float | None,
    camera: float | None,
    why_no_label: str,
    why_no_camera: str,
    word: str,
    one_label: bool,
) -> str:
    whose = f"All {counted(num_videos, 'video', 'videos')}" if videos == "all" else f"{videos} ({num_videos})"
    if label is None or camera is None:
        missing = [f"by label ({why_no_label})"] if label is None else []
        missing += [f"by {word} ({why_no_camera})"] if camera is None else []
        known = f"; by label it is {label:.2f}" if label is not None else ""
        known += f"; by {word} it is {camera:.2f}" if camera is not None else ""
        return f"{whose}: no silhouette {' and none '.join(missing)}{known}."
    told = {
        "camera": f"clusters follow the {word} rather than the label",
        "label": f"clusters follow the label rather than the {word}",
        "both": f"clusters follow the {word} as much as the label",
        "neither": f"no clusters to speak of, neither by label nor by {word}",
    }[_verdict(label, camera)]
    confounded = f" Every {word} has one label here, so that the two cannot be told apart." if one_label else ""
    return f"{whose}: {told} (silhouette by {word} {camera:.2f}, by label {label:.2f}).{confounded}"


def neighbour_words(found: Neighbours | None) -> str:
    """Share and chance for a table."""
    return "–" if found is None else f"{percent(found.share)} ({percent(found.chance)} by chance)"
