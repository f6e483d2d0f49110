"""Evaluate models on data sets; see `python launchers/evaluate.py --help`."""

import sys

from jaxqa.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
