"""Scores one model under several protocols, in a process of its own: other views, or frames in another order.

`railsformer.compare.cells` runs this module with the path of a request as its only argument.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from railsformer.data.clips import ClipDataset, VideoDataset, load_video_dataset
from railsformer.data.files import whole_file
from railsformer.data.sampling import ClipSampling
from railsformer.data.transforms import PixelSettings
from railsformer.data.video import VideoDecodeError
from railsformer.evaluation.measured_split import MeasuredSplit
from railsformer.evaluation.processes import this_process
from railsformer.evaluation.report_pages.predictions import write_predictions
from railsformer.evaluation.views import score_videos
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

__all__ = ["FACTS_FILE", "PREDICTIONS_FILE", "end_with_errors", "main", "score_protocol"]

PREDICTIONS_FILE = "predictions.csv"
FACTS_FILE = "facts.json"


def main() -> int:
    """Score what the request asks for; 2 after an error, which is told in one line."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return end_with_errors(lambda: _score(request))


def end_with_errors(work: Any) -> int:
    """Run a cell's work and return its exit code, with errors told as our command line tells them."""
    try:
        work()
    except (ValueError, OSError, VideoDecodeError) as error:
        sys.stderr.write(f"railsformer: error: {' '.join(str(error).split())}\n")
        return 2
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error)):
            raise
        sys.stderr.write("railsformer: error: out of memory\n")
        return 2
    return 0


def _score(request: Mapping[str, Any]) -> None:
    if request.get("num_threads"):
        torch.set_num_threads(request["num_threads"])
    dataset = load_video_dataset(request["dataset"])
    model = RailsformerForVideoClassification.from_pretrained(request["model"]).to(this_process().device)
    pixels = PixelSettings.from_pretrained(request["model"])
    for name, protocol in request["protocols"].items():
        folder = Path(request["output_dir"]) / name
        if not (folder / FACTS_FILE).is_file():
            feeding, weights = request["feeding"], request.get("weights")
            score_protocol(model, dataset, pixels, protocol, folder=folder, feeding=feeding, weights=weights)


def score_protocol(
    model: Any,
    dataset: VideoDataset,
    pixels: PixelSettings,
    protocol: Mapping[str, Any],
    *,
    folder: Path,
    feeding: Mapping[str, Any],
    label_names: Sequence[str] | None = None,
    split: str = "test",
    weights: str | None = None,
) -> None:
    """Score a split and leave predictions.csv and facts.json.

    Args:
        model: Returns logits for `pixel_values`; its config says how a clip is cut.
        dataset: With the split.
        pixels: The model's input.
        protocol: `num_clips`, `num_crops` and `frame_order`, all with defaults.
        folder: Where to.
        feeding: `batch_size`, `num_workers` and `progress` of `score_videos`.
        label_names: Of the model, in the order of its outputs; its config's if not given.
        split: To score.
        weights: Hash of the model's, to be kept beside what it says.

    Raises:
        ValueError: If more than half of the videos cannot be read.
    """
    began = time.monotonic()
    clips = ClipDataset(
        dataset.split(split), sampling=ClipSampling.from_config(model.config), pixels=pixels, **protocol
    )
    scores = score_videos(model, clips, **feeding)
    names = label_names or [model.config.id2label[index] for index in range(model.config.num_labels)]
    order = protocol.get("frame_order", "forwards")
    measured = MeasuredSplit(split, dataset, scores=scores, label_names=names, frame_order=order)
    measured.check_read()
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / PREDICTIONS_FILE) as partial:
        write_predictions(partial, measured.predictions())
    facts = {"seconds": time.monotonic() - began, "protocol": dict(protocol), "weights": weights}
    with whole_file(folder / FACTS_FILE) as partial:  # last: a protocol that has it is done
        partial.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
