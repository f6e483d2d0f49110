"""Let the tests of this folder import their helpers, whatever pytest's import mode."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "scoring"), str(Path(__file__).parent)]
