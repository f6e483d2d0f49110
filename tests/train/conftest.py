"""Let the tests of this folder import the helpers of these, whatever pytest's import mode."""

import sys
from pathlib import Path

sys.path[:0] = [
    str(Path(__file__).parents[1] / name) for name in (".", "train", "scoring", "distill")
]
