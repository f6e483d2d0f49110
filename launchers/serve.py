"""Serve scores; see `python launchers/serve.py --help`."""

import sys

from jaxqa.cli.serve import main

if __name__ == "__main__":
    sys.exit(main())
