"""Let the tests of this folder import what other folders' tests share."""

import sys
from pathlib import Path

for folder in ("scoring", "reasoning", "distill", "selection"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))
