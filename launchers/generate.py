"""Write completions for images and a prompt; see `python launchers/generate.py --help`."""

import sys

from jaxqa.cli.generate import main

if __name__ == "__main__":
    sys.exit(main())
