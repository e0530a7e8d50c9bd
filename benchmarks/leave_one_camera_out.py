"""Fine-tuning beside frozen features, on cameras that training never saw.

    python benchmarks/leave_one_camera_out.py --dataset DATASET --config RECIPE --output_dir DIR \\
        --clips CLIPS --image_model MODEL [--seeds 0 1] [any flag of `railsformer train`]

DATASET was built of CLIPS with --group_by camera. Each of the four large cameras is tested on once; whole other
cameras choose the epoch, the rest trains (`railsformer crossval`), so the recipe trains on fewer cameras than the
baseline, which has nothing to choose and takes all five (benchmarks/frozen_features.py; its features are kept in
DIR.npz). Go on with the same command after an interruption: what is finished is not done again. Without --clips the
baseline is left out.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from frozen_features import CAMERAS, FIGURES, leave_cameras_out, load_features, read_clips, table

from railsformer.training.crossval import cross_validate, parse_crossval
from railsformer.training.crossval_table import crossval_table


def beside(content: dict[str, Any], baseline: dict[str, dict], cameras: list[str]) -> str:
    """Macro F1 and balanced accuracy of both, camera by camera and as means, in Markdown; seeds are averaged."""
    header = [f"{who}: {name}" for name in FIGURES.values() for who in ("fine-tuned", "frozen")]
    rows = []
    for camera in cameras:
        tuned = [fold for fold in content["folds"] if fold["fold"] == camera]
        row = []
        for key in FIGURES:
            row += [sum(fold[key] for fold in tuned) / len(tuned), baseline[camera][key]]
        rows.append(row)
    means = [sum(column) / len(column) for column in zip(*rows, strict=True)]
    lines = [f"| test camera | {' | '.join(header)} |", "|---" * (len(header) + 1) + "|"]
    for camera, row in zip([*cameras, "**mean**"], [*rows, means], strict=True):
        lines.append(f"| {camera} | {' | '.join(f'{value:.3f}' for value in row)} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the flags, print the baseline, cross-validate, print both side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", nargs="+", default=list(CAMERAS), help="cameras to test on, one after the other")
    parser.add_argument("--clips", type=Path, help="folder with clips.csv, for the baseline")
    parser.add_argument("--image_model", help="frozen trunk of the baseline; the recipe's start too, if it names one")
    parser.add_argument("--cache", type=Path, help="features of the baseline (default: OUTPUT_DIR.npz)")
    options, flags = parser.parse_known_args()
    if options.image_model:
        flags += ["--image_model", options.image_model]
    try:
        settings = parse_crossval([*flags, "--folds", "group", "--groups", ",".join(options.cameras)])
        baseline = None
        if options.clips:
            if not options.image_model:
                raise ValueError("--clips wants --image_model too, the frozen trunk of the baseline")
            rows = read_clips(options.clips)
            cache = options.cache or settings.output_dir.with_name(f"{settings.output_dir.name}.npz")
            features = load_features(options.clips, rows, image_model=options.image_model, cache=cache)
            baseline = leave_cameras_out(features, rows, options.cameras)
            print(f"Frozen features, all other cameras trained on:\n\n{table(baseline)}\n", flush=True)
        content = cross_validate(settings, progress=True)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"\nFine-tuned, other cameras trained on and chosen with:\n\n{crossval_table(content)}")
    if baseline:
        print(f"\n{beside(content, baseline, options.cameras)}")


if __name__ == "__main__":
    main()
