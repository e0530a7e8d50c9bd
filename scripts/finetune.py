"""Fine-tune on one or many processes: `accelerate launch scripts/finetune.py --config configs/NAME.yaml ...`."""

import sys

from railsformer.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
