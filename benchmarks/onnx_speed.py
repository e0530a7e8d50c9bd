"""A model in PyTorch, as ONNX and as int8 ONNX: time of one clip, and clips a second eight at a time.

    python benchmarks/onnx_speed.py --model RUN                          on 1 and on 2 threads
    python benchmarks/onnx_speed.py --model RUN --exported DIR           what `railsformer export` wrote from RUN
    python benchmarks/onnx_speed.py --base --threads 2 --passes 3        a random divided model of base width, 8 x 224

PyTorch is measured as it is loaded and folded (`fold_for_inference`), as the exported file is. Every cell is the
median after one pass that is not counted. Thread counts run one after the other in one process; let nothing else run.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from railsformer.data.transforms import PixelSettings
from railsformer.export.onnx_export import INT8_NAME, export_onnx
from railsformer.export.quantise import median_seconds, quantise
from railsformer.inference.onnx_backend import MODEL_NAME, OnnxNetwork
from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

BATCH = 8


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="run folder or checkpoint")
    parser.add_argument("--exported", type=Path, help="what was exported from --model; exported anew unless given")
    parser.add_argument("--base", action="store_true", help="a random divided model of base width instead, 8 x 224")
    parser.add_argument("--layers", type=int, default=12, help="blocks of --base (default: 12)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--passes", type=int, default=5, help="that the median is taken of (default: 5)")
    parsed = parser.parse_args()
    if bool(parsed.model) == parsed.base:
        parser.error("give --model RUN or --base")
    if parsed.exported and parsed.base:
        parser.error("--exported belongs to --model")
    with tempfile.TemporaryDirectory() as folder:
        model = parsed.model or write_base_model(Path(folder) / "base", layers=parsed.layers)
        exported = parsed.exported or export_onnx(model, output_dir=Path(folder) / "exported").output_dir
        small = quantise(exported / MODEL_NAME, Path(folder) / INT8_NAME)
        large = OnnxNetwork(exported)
        config = RailsformerForVideoClassification.from_pretrained(model).config
        height, width = config.image_height_width
        print(f"{model}: {config.attention_type}, {config.num_hidden_layers} blocks of {config.hidden_size}, ", end="")
        print(f"{config.num_frames} x {height} x {width}; opset {large.opset}, file ", end="")
        size = sum(each.stat().st_size for each in large.files)
        print(f"{size / 1e6:.0f} MB, int8 {small.stat().st_size / 1e6:.0f} MB")
        print(f"{'threads':>7} {'network':16} {'ms, 1 clip':>11} {f'clips/s, {BATCH}':>11}")
        for threads in parsed.threads:
            for name, network in networks(model, exported, small, threads=threads):
                print(f"{threads:7d} {name:16} {measure(network, config, passes=parsed.passes)}", flush=True)


def write_base_model(folder: Path, *, layers: int) -> Path:
    """Save a random model of the paper's width."""
    torch.manual_seed(0)
    RailsformerForVideoClassification(RailsformerConfig(num_labels=4, num_hidden_layers=layers)).save_pretrained(
        folder
    )
    PixelSettings(224, 256).save_pretrained(folder)
    return folder


def networks(model: str | Path, exported: Path, small: Path, *, threads: int) -> list[tuple[str, Any]]:
    """All four on so many threads."""
    torch.set_num_threads(threads)
    plain, folded = (RailsformerForVideoClassification.from_pretrained(model).eval() for _ in range(2))
    folded.fold_for_inference()
    return [
        ("PyTorch", plain),
        ("PyTorch, folded", folded),
        ("ONNX float32", OnnxNetwork(exported, num_threads=threads)),
        ("ONNX int8", OnnxNetwork(small, num_threads=threads)),
    ]


def measure(network: Any, config: RailsformerConfig, *, passes: int) -> str:
    """Milliseconds of one clip and clips a second."""
    shape = (config.num_frames, config.num_channels, *config.image_height_width)
    one, many = torch.randn(1, *shape), torch.randn(BATCH, *shape)
    alone = median_seconds(lambda: network(pixel_values=one), passes=passes)
    together = median_seconds(lambda: network(pixel_values=many), passes=passes)
    return f"{alone * 1000:11.1f} {BATCH / together:11.2f}"


if __name__ == "__main__":
    main()
