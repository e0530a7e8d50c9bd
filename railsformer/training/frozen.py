"""A head on a frozen trunk: every clip's embedding is computed once, and the head solved on them in seconds."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F
from tqdm.auto import tqdm

from railsformer.data.clips import LOST_LABEL, ClipDataset, LostClip, VideoDataset, collate_training_clips
from railsformer.data.files import whole_file
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings
from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification
from railsformer.training.arguments import LOWER_IS_BETTER, RunArguments, Settings
from railsformer.training.bad_clips import KeptPlaces, LostClips
from railsformer.training.figures import check_selection, score_figures, validation_figures
from railsformer.training.samplers import even_chances
from railsformer.training.start import choose_augmentation, choose_loss, groups_of

__all__ = [
    "REGULARISATIONS",
    "HeadFit",
    "cached_embeddings",
    "fit_frozen_trunk",
    "fit_head",
    "solve_head",
]

# Inverse strengths of the squared penalty on standardised embeddings, strongest first.
REGULARISATIONS = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0)
# Clips of a file: what a killed run computes again at most.
_CLIPS_OF_A_FILE = 128
# Logit of a class without training clips: no score in any precision.
_NEVER = -1e4


@dataclass(frozen=True)
class HeadFit:
    """What was tried and what was taken.

    Args:
        regularisation: Inverse strength that was taken.
        validation: Figures of the head that was taken.
        tried: Figure on validation by inverse strength.
        lost_clips: Training files that could not be read: `file`, `count`, `reason`.
        lost_validation: The same of validation.
        class_weights: Weight of each class, where they differ.
    """

    regularisation: float
    validation: dict[str, float]
    tried: dict[float, float]
    lost_clips: list[dict[str, Any]] = field(default_factory=list)
    lost_validation: list[dict[str, Any]] = field(default_factory=list)
    class_weights: tuple[float, ...] | None = None


def fit_frozen_trunk(
    settings: Settings,
    dataset: VideoDataset,
    model: RailsformerForVideoClassification,
    pixels: PixelSettings,
    *,
    folder: Path,
) -> HeadFit:
    """A whole run of `trainable=head` with `cache_embeddings`: embeddings into the folder, the head into the model.

    Each video counts once however many clips of it are embedded. With class_balance `sampler` labels, and groups
    within a label, count alike; with `loss` classes count by their effective number of clips; `both` multiplies them.
    A clip that cannot be read costs its place, a video of validation is left out of the figures; both are counted.

    Args:
        settings: The recipe.
        dataset: With train and validation.
        model: On the device where it is to run; its head is replaced.
        pixels: Its input.
        folder: For the embeddings; what a killed run left there is taken over.

    Raises:
        ValueError: If there are several processes, a split is missing, validation has not the chosen figure, the
            folder holds embeddings of something else, or more clips than max_lost_share cannot be read.
    """
    run = settings.run
    if run.world_size > 1:
        raise ValueError(f"cache_embeddings runs in one process, got {run.world_size}; start it without a launcher")
    rows, validation_rows = dataset.split("train"), dataset.split("validation")
    figure = str(run.metric_for_best_model).removeprefix("eval_")
    check_selection(figure, label_names=dataset.labels, validation_labels=validation_rows["label"])
    views, draws = run.embedding_views or 1, run.embedding_draws or 0
    lost = LostClips(clips_of_epoch=len(rows) * (views + draws), max_share=run.max_lost_share)
    lost_videos = LostClips(clips_of_epoch=len(validation_rows), max_share=run.max_lost_share, split="validation")
    found = {}
    for name, clips in _clips_to_embed(settings, rows, validation_rows, model.config, pixels).items():
        counted = lost_videos if name == "validation" else lost
        found[name] = _embed(model, clips, run, folder=folder / name, fingerprint=dataset.fingerprint, lost=counted)
    labels, validation_labels = np.array(rows["label"]), np.array(validation_rows["label"])
    class_weights, weights = _video_weights(settings, labels, groups_of(rows), num_labels=len(dataset.labels))
    embeddings = np.concatenate([found[name] for name in ("train", "train-augmented") if name in found])
    # Evaluation clips go video by video, draws all videos by all videos.
    order = np.concatenate((np.repeat(np.arange(len(labels)), views), np.tile(np.arange(len(labels)), draws)))
    read, shown = _are_read(embeddings), _are_read(found["validation"])
    fit = fit_head(
        model,
        embeddings=embeddings[read],
        labels=labels[order][read],
        weights=weights[order][read] / (views + draws),
        validation_embeddings=found["validation"][shown],
        validation_labels=validation_labels[shown],
        label_names=dataset.labels,
        figure=figure,
    )
    told, told_videos = lost.gathered(), lost_videos.gathered()
    return replace(fit, lost_clips=told, lost_validation=told_videos, class_weights=class_weights)


def _embed(
    model: RailsformerForVideoClassification,
    clips: ClipDataset,
    run: RunArguments,
    *,
    folder: Path,
    fingerprint: str,
    lost: LostClips,
) -> np.ndarray:
    """Embeddings as the recipe wants them; a clip that could not be read is a row that is not a number.

    Raises:
        ValueError: If too many clips could not be read, or all of them, with the list.
    """
    found = cached_embeddings(
        model,
        clips,
        folder=folder,
        fingerprint=fingerprint,
        num_draws=run.embedding_draws or 0,
        batch_size=run.per_device_eval_batch_size,
        num_workers=run.dataloader_num_workers,
        progress=not run.disable_tqdm,
        lost=lost,
    )
    read = _are_read(found)
    if lost.count(int((~read).sum()), epoch=0) or not read.any():
        what = "validation videos" if lost.split == "validation" else "training clips"
        raise lost.refusal(Path(str(run.output_dir)), what=what, is_main_process=True)
    return found


def cached_embeddings(
    model: RailsformerForVideoClassification,
    clips: ClipDataset,
    *,
    folder: Path,
    fingerprint: str = "",
    num_draws: int = 1,
    batch_size: int = 16,
    num_workers: int = 0,
    progress: bool = False,
    lost: LostClips | None = None,
) -> np.ndarray:
    """CLS of the trunk after its last norm for every clip, computed where the folder does not hold it yet.

    Args:
        model: Its trunk is used as it is.
        clips: Evaluation clips, or training clips with augmentation.
        folder: Holds a file for every few clips, and what they were computed from.
        fingerprint: Of the dataset.
        num_draws: Of training clips: how many of each.
        batch_size: Clips of a forward pass.
        num_workers: Processes that decode.
        progress: Show a bar.
        lost: Counts clips that cannot be read: rows of NaN, tried again the next time. None: the first one raises.

    Returns:
        Embeddings, shape (num_clips, hidden_size), with all draws one after the other.

    Raises:
        ValueError: If the folder holds embeddings of something else, or the trunk gives what is no number.
        VideoDecodeError: If a video cannot be read, without `lost`.
    """
    _claim(folder, _identity(model, clips, fingerprint=fingerprint, num_draws=num_draws))
    num_clips = len(clips) * (num_draws if clips.augmentation else 1)
    parts = []
    starts = range(0, num_clips, _CLIPS_OF_A_FILE)
    for start in tqdm(starts, desc=f"embeddings of {folder.name}", unit="file", disable=not progress, leave=False):
        path = folder / f"{start:07d}.npy"
        size = min(_CLIPS_OF_A_FILE, num_clips - start)
        part = np.load(path) if path.is_file() else np.full((size, model.config.hidden_size), np.nan, np.float32)
        absent = np.flatnonzero(~_are_read(part))
        if absent.size:
            some = torch.utils.data.Subset(KeptPlaces(clips) if lost else clips, (start + absent).tolist())
            part[absent], missing = _embeddings(model, some, batch_size=batch_size, num_workers=num_workers)
            if lost:
                lost.add(missing)
            with whole_file(path) as partial, partial.open("wb") as file:
                np.save(file, part)
        parts.append(part)
    return np.concatenate(parts)


@torch.inference_mode()
def _embeddings(
    model: RailsformerForVideoClassification, clips: torch.utils.data.Dataset, *, batch_size: int, num_workers: int
) -> tuple[np.ndarray, list[LostClip]]:
    """CLS of the trunk for every clip, shape (num_clips, hidden_size); that of a lost clip is not a number.

    Raises:
        ValueError: If the trunk gives what is no number.
    """
    model.eval()
    loader: torch.utils.data.DataLoader = torch.utils.data.DataLoader(
        clips, batch_size=batch_size, num_workers=num_workers, collate_fn=collate_training_clips
    )
    parts, lost = [], []
    for batch in loader:
        part = model.timesformer(batch["pixel_values"].to(model.device)).last_hidden_state[:, 0].float().cpu()
        if not torch.isfinite(part).all():
            raise ValueError("the trunk gives embeddings that are not numbers; its weights may have diverged")
        part[batch["labels"] == LOST_LABEL] = torch.nan
        parts.append(part)
        lost += batch["lost"]
    return torch.cat(parts).numpy(), lost


def _are_read(embeddings: np.ndarray) -> np.ndarray:
    """Which clips could be read, shape (num_clips,)."""
    return ~np.isnan(embeddings).any(axis=-1)


def fit_head(
    model: RailsformerForVideoClassification,
    *,
    embeddings: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    validation_embeddings: np.ndarray,
    validation_labels: np.ndarray,
    label_names: Sequence[str],
    figure: str = "f1_macro",
    regularisations: Sequence[float] = REGULARISATIONS,
) -> HeadFit:
    """Solve the head at each regularisation, keep the best on validation, and put it into the model.

    Args:
        model: Gets the head, in place.
        embeddings: Of the training clips, shape (num_clips, hidden_size).
        labels: Their class indices, shape (num_clips,).
        weights: How much each counts, shape (num_clips,); scaled to 1 a video by the caller, so that more views of a
            video do not weaken the regularisation.
        validation_embeddings: One a video, shape (num_videos, hidden_size).
        validation_labels: Their class indices, shape (num_videos,).
        label_names: Names of all classes.
        figure: What chooses: a figure of the report, of a label as recall/LABEL, or loss.
        regularisations: Inverse strengths to try; among equals the first is taken.

    Raises:
        ValueError: If the figure cannot be computed.
    """
    best: tuple[float, float, dict[str, float]] | None = None
    head: tuple[np.ndarray, np.ndarray] | None = None
    tried: dict[float, float] = {}
    for regularisation in regularisations:
        matrix, bias = solve_head(
            embeddings, labels, weights, num_labels=len(label_names), regularisation=regularisation
        )
        logits = validation_embeddings @ matrix.T + bias
        figures = _figures(logits, validation_labels, label_names=label_names, needed=figure)
        score = -figures[figure] if figure in LOWER_IS_BETTER else figures[figure]
        tried[regularisation] = figures[figure]
        if best is None or score > best[0]:
            best, head = (score, regularisation, figures), (matrix, bias)
    if best is None or head is None:
        raise ValueError("regularisations must hold at least one value, got none")
    with torch.no_grad():
        model.classifier.weight.copy_(torch.from_numpy(head[0]))
        model.classifier.bias.copy_(torch.from_numpy(head[1]))
    return HeadFit(regularisation=best[1], validation=best[2], tried=tried)


def _figures(logits: np.ndarray, labels: np.ndarray, *, label_names: Sequence[str], needed: str) -> dict[str, float]:
    """All that an evaluation of the Trainer gives.

    Raises:
        ValueError: If the needed one cannot be computed.
    """
    figures = validation_figures(logits.argmax(axis=1), labels, label_names=label_names)
    figures |= score_figures(logits, labels, label_names=label_names)
    figures["loss"] = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)).item()
    if needed not in figures:
        raise ValueError(
            f"metric_for_best_model {needed} cannot be computed on the {len(labels)} validation videos that could be "
            "read; name another one, or repair the dataset"
        )
    return figures


def solve_head(
    embeddings: np.ndarray, labels: np.ndarray, weights: np.ndarray, *, num_labels: int, regularisation: float
) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regression on standardised embeddings, with the standardisation folded into the head.

    Args:
        embeddings: Shape (num_clips, hidden_size).
        labels: Class indices, shape (num_clips,).
        weights: How much each counts, shape (num_clips,).
        num_labels: Number of classes; one without clips gets a logit that never wins.
        regularisation: Inverse strength of the squared penalty.

    Returns:
        Matrix (num_labels, hidden_size) and bias (num_labels,) for embeddings as they are.

    Raises:
        ValueError: If all clips have one label.
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise ValueError(f"the training split must hold at least two labels for a head, got {len(present)}")
    scaler = StandardScaler().fit(embeddings)
    solver = LogisticRegression(C=regularisation, max_iter=5000)
    solver.fit(scaler.transform(embeddings), labels, sample_weight=weights)
    rows, offsets = solver.coef_, solver.intercept_
    if len(present) == 2:  # one row, for the second class against the first
        rows, offsets = np.concatenate((-rows, rows)) / 2, np.concatenate((-offsets, offsets)) / 2
    matrix, bias = np.zeros((num_labels, embeddings.shape[1])), np.full(num_labels, _NEVER)
    matrix[present] = rows / scaler.scale_  # w (x - mean) / scale + b
    bias[present] = offsets - matrix[present] @ scaler.mean_
    return matrix, bias


def _clips_to_embed(
    settings: Settings,
    rows: datasets.Dataset,
    validation_rows: datasets.Dataset,
    config: RailsformerConfig,
    pixels: PixelSettings,
) -> dict[str, ClipDataset]:
    """Evaluation clips of both splits and, where draws are asked for, training clips with augmentation."""
    sampling, run = ClipSampling.from_config(config), settings.run
    clips = {
        "train": ClipDataset(rows, sampling=sampling, pixels=pixels, num_clips=run.embedding_views or 1),
        "validation": ClipDataset(validation_rows, sampling=sampling, pixels=pixels),
    }
    if run.embedding_draws:
        augmentation = choose_augmentation(settings.data, pixels)
        clips["train-augmented"] = ClipDataset(
            rows, sampling=sampling, pixels=pixels, augmentation=augmentation, seed=run.seed
        )
    return clips


def _video_weights(
    settings: Settings, labels: np.ndarray, groups: list[str], *, num_labels: int
) -> tuple[tuple[float, ...] | None, np.ndarray]:
    """Weight of each class where they differ, and how much each video counts, 1 on average, shape (num_videos,)."""
    weights = np.ones(len(labels))
    if settings.data.class_balance in ("sampler", "both"):
        weights = even_chances(labels.tolist(), groups) * len(labels)
    loss = choose_loss(settings.data, settings.run, labels=labels.tolist(), num_labels=num_labels)
    if loss.class_weights is not None:
        weights = weights * np.array(loss.class_weights)[labels]
    return loss.class_weights, weights


def _identity(
    model: RailsformerForVideoClassification, clips: ClipDataset, *, fingerprint: str, num_draws: int
) -> dict[str, Any]:
    """All that embeddings depend on."""
    weights = hashlib.sha256()
    for name, tensor in sorted(model.timesformer.state_dict().items()):
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    drawn = (
        {"seed": clips.seed, "epoch": clips.epoch, "num_draws": num_draws, "of": asdict(clips.augmentation)}
        if clips.augmentation
        else None
    )
    return {
        "trunk": weights.hexdigest(),
        "dataset": fingerprint,
        "num_videos": len(clips.rows),
        "labels": hashlib.sha256(str(clips.labels).encode()).hexdigest(),
        "sampling": asdict(clips.sampling),
        "pixels": asdict(clips.pixels),
        "clips": clips.num_clips,
        "drawn": drawn,
    }


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Note in the folder what its embeddings are of, or find that it says the same.

    Raises:
        ValueError: If it holds embeddings of something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, text = folder / "identity.json", json.dumps(identity, indent=2, sort_keys=True)
    if path.is_file():
        held = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key, value in json.loads(text).items() if held.get(key) != value]
        if changed:
            raise ValueError(f"{folder} holds embeddings of another {', '.join(changed)}; take another output_dir")
        return
    path.write_text(text + "\n", encoding="utf-8")
