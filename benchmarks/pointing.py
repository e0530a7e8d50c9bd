"""The pointing game on the toy yard: do maps of why lie on the actors, whose boxes the renderer knows?

    python benchmarks/pointing.py --run RUN --output_dir DIR

RUN is a model of the toy yard that has not seen these recordings (seed 20260511): benchmarks/toy_events.py leaves one.
For every hazard clip the map of its true class is made. A map points at the cell with the most relevance of the whole
clip; it hits if the middle of that cell lies in a box of an actor of the hazard (excavator, bucket, worker; whoever
stands or strolls elsewhere does not count), or of what moves most. Beside it: chance, the share of all cells that
would hit, and the middle of the picture. `mass` is the share of the relevance that lies on such cells.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from railsformer.data.toy_yard import HAZARDS, render_toy_yard
from railsformer.evaluation.intervals import wilson_interval
from railsformer.explain import attribute
from railsformer.explain.seen import SeenClip, see_clip
from railsformer.inference.predictor import Predictor
from railsformer.inference.views import Viewing

SEED = 20_260_511
ELSEWHERE = ("bystander", "stroller")


def hits(clip: SeenClip, truth: Mapping[str, Any], boxes: Sequence[np.ndarray], grid: tuple[int, int]) -> np.ndarray:
    """Whether the middle of each cell lies in a box, shape (T, h, w); `boxes` are (pictures, 4), in px."""
    high, wide = grid
    across = clip.box.left + (np.arange(wide) + 0.5) / wide * (clip.box.right - clip.box.left)
    down = clip.box.top + (np.arange(high) + 0.5) / high * (clip.box.bottom - clip.box.top)
    pictures = np.clip(np.round(clip.times_seconds * truth["fps"]).astype(int), 0, truth["num_frames"] - 1)
    inside = np.zeros((len(pictures), high, wide), dtype=bool)
    for box in boxes:
        left, top, right, bottom = (box[pictures, side][:, None] for side in range(4))
        inside |= ((down >= top) & (down < bottom))[:, :, None] & ((across >= left) & (across < right))[:, None, :]
    return inside


def boxes_of(truth: Mapping[str, Any]) -> dict[str, list[np.ndarray]]:
    """Boxes of the hazard's actors, and of the one of them that moves most."""
    actors = {name: np.array(box) for name, box in truth["boxes"].items() if name not in ELSEWHERE}
    ways = {name: np.ptp((box[:, :2] + box[:, 2:]) / 2, axis=0).sum() for name, box in actors.items()}
    return {"actors": list(actors.values()), "what moves": [actors[max(ways, key=lambda name: ways[name])]]}


def measure(predictor: Predictor, yard: Path, methods: Sequence[str]) -> list[dict[str, Any]]:
    """A row a clip, kind of box and method."""
    truths = [json.loads(line) for line in (yard / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    truths = [truth for truth in truths if truth["label"] in HAZARDS.values()]
    viewing, rows = Viewing(predictor.sampling, predictor.pixels), []
    for truth in tqdm(truths, unit="clip"):
        clip = see_clip(yard / truth["file_name"], viewing)
        is_right = predictor.labels[int(predictor.score_pixels(clip.pixel_values)[0].argmax())] == truth["label"]
        maps = {
            method: attribute(predictor.model, clip.pixel_values, method, truth["label"])[0].numpy()
            for method in methods
        }
        for kind, boxes in boxes_of(truth).items():
            inside = hits(clip, truth, boxes, maps[methods[0]].shape[1:])
            facts = {"label": truth["label"], "boxes": kind, "right": is_right, "chance": float(inside.mean())}
            middle = hits(clip, truth, boxes, (1, 1)).mean()
            rows.append(facts | {"method": "middle of the picture", "hit": float(middle), "mass": None})
            for method, relevance in maps.items():
                positive = np.maximum(relevance, 0)
                hit = float(inside.reshape(-1)[relevance.reshape(-1).argmax()])
                mass = float(positive[inside].sum() / positive.sum()) if positive.sum() else None
                rows.append(facts | {"method": method, "hit": hit, "mass": mass})
    return rows


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Hits by method, boxes and class."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    print("| boxes | class | clips | method | hits | mass | chance |\n|---|---|---|---|---|---|---|")
    for kind in dict.fromkeys(row["boxes"] for row in rows):
        for label in (*HAZARDS.values(), "all"):
            for method in methods:
                own = [row for row in rows if row["boxes"] == kind and row["method"] == method]
                own = [row for row in own if label in ("all", row["label"])]
                total = sum(row["hit"] for row in own)
                interval = wilson_interval(round(total), len(own)) or (float("nan"), float("nan"))
                masses = [row["mass"] for row in own if row["mass"] is not None]
                mass = f"{np.mean(masses):.2f}" if masses else ""
                print(
                    f"| {kind} | {label} | {len(own)} | {method} | {total / len(own):.2f} "
                    f"({interval[0]:.2f} to {interval[1]:.2f}) | {mass} | {np.mean([r['chance'] for r in own]):.2f} |"
                )


def main() -> None:
    """Render, explain, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="a model of the toy yard")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--recordings", type=int, default=24)
    parser.add_argument("--methods", nargs="+", default=["rollout", "gradient_rollout", "occlusion"])
    options = parser.parse_args()
    yard = options.output_dir / "yard"
    if not (yard / "annotations.csv").is_file():
        render_toy_yard(yard, num_recordings=options.recordings, seed=SEED)
    rows = measure(Predictor.from_pretrained(options.run), yard, options.methods)
    (options.output_dir / "pointing.json").write_text(json.dumps(rows) + "\n", encoding="utf-8")
    right = np.mean([row["right"] for row in rows])
    print(f"{right:.0%} of the clips are recognised\n")
    print_table(rows)


if __name__ == "__main__":
    main()
