"""One process of an evaluation that torchrun started: CPU, gloo. Arguments: those of `railsformer evaluate`."""

import sys

from railsformer.cli import main
from railsformer.evaluation import processes

if __name__ == "__main__":
    processes.available_cores = lambda: 1  # tiny models on two threads of a busy machine crawl
    sys.exit(main(["evaluate", *sys.argv[1:]]))
