"""The verb `export`: its flags, and what it prints. Heavy imports happen when it runs, so that --help is instant."""

import argparse
from collections.abc import Callable
from typing import Any

__all__ = ["add_export", "run_export"]


def add_export(verbs: "argparse._SubParsersAction[Any]", *, run: Callable[[argparse.Namespace], None]) -> None:
    """Add the verb with its flags; `run` is what it does."""
    export = verbs.add_parser("export", help="write a model as a file that runs without PyTorch")
    export.add_argument("--model", required=True, help="run folder, checkpoint or Hub id")
    export.add_argument("--format", required=True, choices=("onnx",), help="of the file")
    export.add_argument("--output_dir", required=True, help="folder of the file; must be absent or empty")
    export.add_argument("--opset", type=int, help="version of the ONNX operators, 18 to 23 (default: 18)")
    export.add_argument(
        "--batch", default="dynamic", metavar="N", help="clips a forward pass, or dynamic: any number (default)"
    )
    export.add_argument(
        "--int8",
        action="store_true",
        help="also write model.int8.onnx, weights and matrix products in 8 bits, and measure what it costs",
    )
    export.add_argument("--dataset", help="with --int8: dataset folder or Hub id that its cost is measured on")
    export.add_argument("--split", default="validation", help="with --int8: split of it (default: validation)")
    export.add_argument("--max_videos", type=int, metavar="N", help="with --int8: measure on N videos of it at most")
    export.set_defaults(run=run)


def run_export(parsed: argparse.Namespace) -> str:
    """Export, and return what to print: what was written and measured."""
    from railsformer.cli_evaluate import quiet_transformers
    from railsformer.export.onnx_export import DEFAULT_OPSET, export_onnx

    quiet_transformers()
    report = export_onnx(
        parsed.model,
        output_dir=parsed.output_dir,
        opset=DEFAULT_OPSET if parsed.opset is None else parsed.opset,
        batch=_batch(parsed.batch),
        int8=parsed.int8,
        dataset=parsed.dataset,
        split=parsed.split,
        max_videos=parsed.max_videos,
    )
    return _export_text(report.content, parsed.output_dir)


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"--batch must be a number of clips or dynamic, got {text!r}") from None


def _export_text(content: dict[str, Any], output_dir: str) -> str:
    largest = max(content["largest_difference"].values())
    lines = [
        f"{output_dir}/{content['file']}: {content['bytes'] / 1e6:.1f} MB, opset {content['opset']}, "
        f"batch {content['batch']}, float32",
        f"checked against PyTorch with onnxruntime: largest difference of a logit {largest:.1e} "
        f"(allowed {content['tolerance']:.0e})",
    ]
    if (int8 := content["int8"]) is not None:
        lines.append(f"{output_dir}/{int8['file']}: {int8['bytes'] / 1e6:.1f} MB, int8 (dynamic)")
        lines.append(f"on {int8['num_videos']} videos of {int8['dataset']}, {int8['num_threads']} thread(s):")
        lines.append(f"{'':8} {'accuracy':>8} {'macro F1':>8} {'same label':>10} {'ms a clip':>9}")
        for name, one in int8["networks"].items():
            lines.append(
                f"{name:8} {one['accuracy']:8.3f} {one['f1_macro']:8.3f} {one['same_label']:10.3f} "
                f"{one['seconds_per_clip'] * 1000:9.1f}"
            )
    lines.append(f"use it: railsformer predict --model {output_dir} --backend onnx VIDEO")
    return "\n".join(lines)
