"""What a stage shows: its metrics, and waiting for data where it matters."""

import io
import math

import pytest
from rich.console import Console

from jaxqa.stages import progress


def shown(function, *arguments):
    console = Console(file=io.StringIO(), width=200)
    function(console, *arguments)
    return console.file.getvalue()


def test_waiting_is_shown_from_a_tenth_of_the_time_on():
    assert progress.describe({"loss": 0.5, "other": 1.0}) == "loss  0.5000"
    assert progress.describe({"loss": 0.5, "waiting": 0.09}) == "loss  0.5000"
    healthy = {"unparsed": 0.02, "all_filtered": 0.0, "nan_label": 0.0, "alone_in_pool": 0.0}
    assert progress.describe({"loss": 0.5} | healthy) == "loss  0.5000"
    ill = {"entropy": math.nan, "unparsed": 1.0, "all_filtered": 1.0, "alone_in_pool": 3.0}
    assert progress.describe(ill | {"nan_label": 0.5}) == (
        "entropy       \N{EN DASH}  unparsed 100%  every group filtered  without label 0.5  "
        "alone in their pool 3"
    )
    assert progress.describe({"reward": 1.0, "waiting": 0.25}) == (
        "reward  1.0000  waits for data  25%"
    )


def test_the_share_is_that_since_the_last_look(monkeypatch):
    clock, waited = [10.0], [3.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    waits = progress.DataWaits(lambda: waited[0])
    clock[0], waited[0] = 14.0, 4.0
    assert waits.share()[progress.WAITING] == pytest.approx(0.25)
    clock[0] = 15.0
    assert waits.share()[progress.WAITING] == 0.0


@pytest.mark.parametrize(
    ("waited", "seconds", "said"), [(3.0, 10.0, True), (0.5, 1.0, False), (3.0, 100.0, False)]
)
def test_much_waiting_is_said_at_the_end(waited, seconds, said):
    text = shown(progress.advise, "sft", waited, seconds)
    assert ("sft: 30% of the time (3 s) the device waited for data; more" in text) == said
