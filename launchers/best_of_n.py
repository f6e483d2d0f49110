"""Choose the best of several images; see `python launchers/best_of_n.py --help`."""

import sys

from jaxqa.cli.best_of_n import main

if __name__ == "__main__":
    sys.exit(main())
