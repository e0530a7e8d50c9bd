"""Do maps lie on a bright square that moves? Every scheme, every method, beside models that have learnt nothing.

    python benchmarks/moving_square.py                               the table of docs/results/explaining.md
    python benchmarks/moving_square.py --schemes space_only axial    these schemes alone

Small models are trained here to tell which way the square sets off (space_only: its colour), as in
tests/test_moving_square.py, whose clips and figures these are. A cell holds two shares: that of the relevance of the
top tenth of cells which lies on the square's path, and that of clips whose most relevant frame is one in which it
moves. The rows of untrained models are the check that counts: a map that does as well there does not show what was
learnt. One thread, minutes in all.
"""

import argparse
import runpy
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from railsformer.explain.attribution import METHODS, attribute
from railsformer.model.configuration_railsformer import ATTENTION_TYPES
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

# By its path: it has the name of this file.
scene = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent.parent / "tests" / "moving_square.py")))

STEPS = {"sparse_local_global": 1000, "axial": 500}  # the others learn it in 300, as in the test
_UNSEEN, _EXPLAINED = 200, 12
_BATCH = 64


def share_right(model: RailsformerForVideoClassification) -> float:
    """Accuracy on clips that the model has not seen, standing ones among them."""
    unseen = scene.draw_clips(_UNSEEN, model.config.attention_type, torch.Generator().manual_seed(5))
    with torch.no_grad():
        return float((model(unseen.pixel_values).logits.argmax(dim=1) == unseen.labels).float().mean())


def measure(model: RailsformerForVideoClassification) -> dict[str, Any]:
    """Each method's figures on clips in which the square moves, for the class that is true."""
    clips = scene.draw_clips(
        _EXPLAINED, model.config.attention_type, torch.Generator().manual_seed(7), hazards_only=True
    )
    options: dict[str, dict[str, Any]] = {"occlusion": {"cube": (1, 1, 1), "batch_size": _BATCH}}
    return {
        method: scene.figures(
            attribute(model, clips.pixel_values, method, clips.labels, **options.get(method, {})), clips
        )
        for method in METHODS
    }


def rows(schemes: Sequence[str]) -> Iterator[list[str]]:
    """A row a scheme, trained and not, and the row of chance after it, which differs a little between schemes."""
    for scheme in schemes:
        began = time.perf_counter()
        models = {
            scheme: scene.trained_model(scheme, STEPS.get(scheme, 300)),
            "untrained": scene.fresh_model(scheme).eval(),
        }
        for name, model in models.items():
            found = measure(model)
            yield [name, _share(share_right(model)), *(_cell(each) for each in found.values())]
        chance = next(iter(found.values()))
        cell = f"{_share(chance.path_chance)} / {_share(chance.moving_chance)}"
        yield ["chance", "", *(cell for _ in METHODS)]
        print(f"{scheme}: {time.perf_counter() - began:.0f} s", file=sys.stderr)


def _cell(found: Any) -> str:
    return f"{_share(found.on_path)} / {_share(found.peaks_moving)}"


def _share(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemes", nargs="+", choices=ATTENTION_TYPES, default=list(ATTENTION_TYPES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    head = ["scheme", "right", *METHODS]
    for row in chain((head, ["---"] * len(head)), rows(arguments.schemes)):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
