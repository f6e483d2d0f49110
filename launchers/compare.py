"""Compare two images; see `python launchers/compare.py --help`."""

import sys

from jaxqa.cli.compare import main

if __name__ == "__main__":
    sys.exit(main())
