"""Let the tests of this folder import `tiny_model`, whatever pytest's import mode."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scoring"))
