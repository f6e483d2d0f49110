"""Compile a config's programs for a machine that need not be there; see `--help`."""

import sys

from jaxqa.cli.compile import main

if __name__ == "__main__":
    sys.exit(main())
