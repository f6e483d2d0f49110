"""Pictures of what models do; see `python launchers/analyse.py --help`."""

import sys

from jaxqa.cli.analyse import main

if __name__ == "__main__":
    sys.exit(main())
