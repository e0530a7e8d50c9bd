"""Fine-tune on one or many processes: `accelerate launch scripts/finetune.py --config configs/NAME.yaml ...`."""

import sys

from railsformer.cli import main
from railsformer.training.stopping import stop_with_launcher

if __name__ == "__main__":
    stop_with_launcher()
    sys.exit(main(["train", *sys.argv[1:]]))
