"""List, check and prepare data sets; see `python launchers/data.py --help`."""

import sys

from jaxqa.cli.data import main

if __name__ == "__main__":
    sys.exit(main())
