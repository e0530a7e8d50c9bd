"""Trains a 3D CNN of pytorchvideo on clips that railsformer dumped; runs in an environment of its own.

It imports nothing of railsformer, and only what any torch 2.1 or later on Python 3.8 or later has. The arguments are
the path of a request and, for a start that is not random, that of a state dict; clips are uint8 arrays (N, T, height,
width, 3) beside the request. It leaves `scores.npy`, one softmax row a test video, and `facts.json`; after an end it
goes on with the epoch that was not finished. Stdin stays open: where it ends, whoever asked is gone, and so this
process goes too.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import runpy
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["load_weights", "main", "train_peer"]

STATE_FILE = "peer_state.pt"
_MEAN, _STD = 0.45, 0.225
_OVERFLOW_WORDS = ("out of memory", "allocate memory")  # and not "illegal memory access"
_WRAPPERS = ("model_state", "state_dict")  # under which checkpoints of the library keep their weights


def main() -> int:
    """Train and test; 2 after an error, which is told in one line."""
    threading.Thread(target=_go_with_the_asker, daemon=True).start()
    path = Path(sys.argv[1])
    request = json.loads(path.read_text(encoding="utf-8"))
    try:
        train_peer(request, path.parent, weights=sys.argv[2] if len(sys.argv) > 2 else None)
    except ImportError as error:
        sys.stderr.write(f"railsformer: error: the peer's environment lacks a library: {error}\n")
        return 2
    except (ValueError, OSError, pickle.UnpicklingError) as error:
        sys.stderr.write(f"railsformer: error: {' '.join(str(error).split())}\n")
        return 2
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in _OVERFLOW_WORDS):
            raise
        sys.stderr.write("railsformer: error: out of memory\n")
        return 2
    return 0


def _go_with_the_asker() -> None:
    sys.stdin.read()
    os._exit(143)


def train_peer(
    request: dict[str, Any],
    folder: Path,
    *,
    weights: str | None = None,
    build: Callable[[dict[str, Any]], Any] | None = None,
) -> None:
    """Train as many epochs as the recipe, keep the best on validation, score the test clips.

    Args:
        request: `model` (the config of `peer_cost.build_peer`), `epochs`, `batch_size`, `learning_rate`,
            `weight_decay`, `warmup` (steps, or a share of all), `seed`, `num_threads`, `num_draws`; and where given
            `label_smoothing` and `class_weights`.
        folder: With the clips; for the results.
        weights: File that the network starts from; random weights if None.
        build: Makes the model and what it is called with; that of `peer_cost` if not given.
    """
    torch.set_num_threads(request["num_threads"])
    torch.manual_seed(request["seed"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    of_cost = runpy.run_path(str(Path(__file__).with_name("peer_cost.py")))
    model, inputs = (build or of_cost["build_peer"])(request["model"])
    left_out = load_weights(model, Path(weights)) if weights else []
    network = _Network(model.to(device), slow_and_fast=isinstance(inputs[0], list))
    training = _Training(network, request, folder, device)
    training.run()
    scores = training.scores("test")
    np.save(folder / "scores.npy", scores)
    facts = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "validation": {"f1_macro": training.best},
        "device": str(device),
        "left_out": left_out,
        **of_cost["library_versions"](),
    }
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def load_weights(model: torch.nn.Module, path: Path) -> list[str]:
    """Start from a state dict of the same network; its head stays random where it is of other labels.

    Args:
        model: Takes the weights.
        path: File that `torch.load` reads with weights_only.

    Returns:
        Names of the weights that were left out.

    Raises:
        ValueError: If anything but the head does not fit.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name in _WRAPPERS:
        state = state[name] if isinstance(state, dict) and isinstance(state.get(name), dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} must hold a state dict of create_slowfast, got {type(state).__name__}")
    wanted = model.state_dict()
    names = list(wanted)
    head = {name for name in names if name.rsplit(".", 1)[0] == names[-1].rsplit(".", 1)[0]}  # the last layer
    differing = [name for name, value in wanted.items() if name not in state or state[name].shape != value.shape]
    foreign = [name for name in [*differing, *state.keys() - wanted.keys()] if name not in head]
    if foreign:
        raise ValueError(
            f"{path} must be of pytorchvideo's create_slowfast, whose layers it does not have: {foreign[0]} and "
            f"{len(foreign) - 1} more are missing, of another shape or unknown"
        )
    model.load_state_dict({name: value for name, value in state.items() if name not in differing}, strict=False)
    return differing


class _Network(torch.nn.Module):
    """uint8 clips in, logits out."""

    def __init__(self, model: torch.nn.Module, *, slow_and_fast: bool) -> None:
        super().__init__()
        self.model = model
        self.slow_and_fast = slow_and_fast

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Logits, shape (B, num_labels), of clips of shape (B, T, height, width, 3)."""
        pixels = (clips.permute(0, 4, 1, 2, 3).float() / 255 - _MEAN) / _STD
        logits: torch.Tensor = self.model([pixels[:, :, ::4], pixels] if self.slow_and_fast else pixels)
        return logits


class _Training:
    """Epochs of AdamW with warm-up and a cosine; the state is kept after each."""

    def __init__(self, network: _Network, request: dict[str, Any], folder: Path, device: torch.device) -> None:
        self.network, self.request, self.folder, self.device = network, request, folder, device
        weights = request.get("class_weights")
        self.class_weights = None if weights is None else torch.tensor(weights, device=device)
        self.best, self.best_weights, self.epoch = -1.0, network.state_dict(), 0
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=request["learning_rate"], weight_decay=request["weight_decay"]
        )
        steps = math.ceil(len(self._array("labels-0")) / request["batch_size"]) * request["epochs"]
        warmup = request["warmup"] if request["warmup"] >= 1 else math.ceil(request["warmup"] * steps)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: (
                min(1.0, (step + 1) / max(1, warmup))
                * 0.5
                * (1 + math.cos(math.pi * min(1.0, max(0, step - warmup) / max(1, steps - warmup))))
            ),
        )

    def run(self) -> None:
        """All epochs that are not done yet; the best weights are in the network then."""
        if (self.folder / STATE_FILE).is_file():
            state = torch.load(self.folder / STATE_FILE, map_location=self.device, weights_only=True)
            self.network.load_state_dict(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.best, self.best_weights, self.epoch = state["best"], state["best_weights"], state["epoch"]
        while self.epoch < self.request["epochs"]:
            self._train_epoch()
            self.epoch += 1
            figure = _f1_macro(self.scores("validation").argmax(axis=1), self._array("labels-validation"))
            if figure > self.best:
                self.best = figure
                self.best_weights = {name: value.clone() for name, value in self.network.state_dict().items()}
            sys.stderr.write(f"epoch {self.epoch} of {self.request['epochs']}: validation macro F1 {figure:.3f}\n")
            self._save()
        self.network.load_state_dict(self.best_weights)

    def _train_epoch(self) -> None:
        self.network.train()
        draw, size = self.epoch % self.request["num_draws"], self.request["batch_size"]
        clips, labels = self._array(f"train-{draw}"), self._array(f"labels-{draw}")
        order = np.arange(len(labels))
        if self.epoch >= self.request["num_draws"]:  # the same clips again, in another order
            order = np.random.default_rng([self.request["seed"], self.epoch]).permutation(len(labels))
        for first in range(0, len(order), size):
            rows = order[first : first + size]
            logits = self.network(torch.from_numpy(clips[rows]).to(self.device))
            loss = self._loss(logits, torch.from_numpy(labels[rows]).to(self.device))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """That of railsformer: smoothed labels, and each clip by the weight of its label over the number of clips."""
        smoothing = self.request.get("label_smoothing", 0.0)
        losses = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
        return (losses if self.class_weights is None else losses * self.class_weights[labels]).mean()

    @torch.no_grad()
    def scores(self, split: str) -> np.ndarray:
        """Softmax of every clip of a split, shape (N, num_labels)."""
        self.network.eval()
        clips, size = self._array(f"clips-{split}"), self.request["batch_size"]
        parts = [
            # The library's head has a softmax of its own in evaluation, where it has one at all.
            _as_probabilities(self.network(torch.from_numpy(np.array(clips[first : first + size])).to(self.device)))
            for first in range(0, len(clips), size)
        ]
        return np.concatenate(parts)

    def _save(self) -> None:
        partial = self.folder / f".{STATE_FILE}.partial"
        state = {
            "weights": self.network.state_dict(),
            "best_weights": self.best_weights,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "best": self.best,
            "epoch": self.epoch,
        }
        torch.save(state, partial)
        partial.replace(self.folder / STATE_FILE)

    def _array(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")


def _as_probabilities(outputs: torch.Tensor) -> np.ndarray:
    outputs = outputs.double().cpu()
    are_probabilities = bool((outputs >= 0).all()) and bool((outputs.sum(dim=1) - 1).abs().max() < 1e-3)
    probabilities: np.ndarray = (outputs if are_probabilities else outputs.softmax(dim=1)).numpy()
    return probabilities / probabilities.sum(axis=1, keepdims=True)


def _f1_macro(predictions: np.ndarray, labels: np.ndarray) -> float:
    figures = []
    for label in np.unique(labels):
        hits = int(((predictions == label) & (labels == label)).sum())
        figures.append(2 * hits / max(1, int((predictions == label).sum() + (labels == label).sum())))
    return float(np.mean(figures))


if __name__ == "__main__":
    sys.exit(main())
