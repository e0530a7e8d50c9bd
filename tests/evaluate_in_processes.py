"""One process of an evaluation that torchrun started: CPU, gloo. Arguments: those of `railsformer evaluate`."""

import sys

import torch

from railsformer.cli import main

if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(["evaluate", *sys.argv[1:]]))
