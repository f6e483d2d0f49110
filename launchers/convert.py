"""Convert a model directory; see `python launchers/convert.py --help`."""

import sys

from jaxqa.cli.convert import main

if __name__ == "__main__":
    sys.exit(main())
