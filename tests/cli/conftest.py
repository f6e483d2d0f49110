"""Let the tests of this folder import what other folders' tests share."""

import signal
import sys
from pathlib import Path

import pytest

for folder in ("scoring", "reasoning", "distill", "selection"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))


@pytest.fixture(autouse=True)
def hang_up_is_heard():
    """By the children of a test, also where the tests run under `nohup`."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, previous)
