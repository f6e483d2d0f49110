"""Score images; see `python launchers/score.py --help`."""

import sys

from jaxqa.cli.score import main

if __name__ == "__main__":
    sys.exit(main())
