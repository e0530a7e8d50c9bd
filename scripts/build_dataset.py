"""Turn videos and labels into a dataset: the same as `railsformer build`."""

import sys

from railsformer.cli import main

if __name__ == "__main__":
    sys.exit(main(["build", *sys.argv[1:]]))
