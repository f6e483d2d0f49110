"""Tabulate benchmark results; see `python launchers/tabulate.py --help`."""

import sys

from jaxqa.cli.tabulate import main

if __name__ == "__main__":
    sys.exit(main())
