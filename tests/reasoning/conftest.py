import sys
from pathlib import Path

# `tiny_run`, the smallest run, lies beside the tests of the stages.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "stages")]
