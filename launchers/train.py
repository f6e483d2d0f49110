"""Train a model; see `python launchers/train.py --help`."""

import sys

from jaxqa.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
