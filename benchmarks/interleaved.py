"""Times of functions that are run in turn: what disturbs the machine disturbs all of them."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Seconds(NamedTuple):
    """The least of all rounds: by the clock, and of this process on all cores."""

    wall: float
    cpu: float


def fastest(functions: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Seconds]:
    """Run every function once to compile, then `rounds` times in turn; return the minima.

    Functions must return when their work is done. With one thread the CPU time is what a quiet
    machine's clock would show; with more, waiting threads count too.
    """
    for function in functions.values():
        function()
    found: dict[str, list[Seconds]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            wall, cpu = time.perf_counter(), time.process_time()
            function()
            found[name].append(Seconds(time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: Seconds(min(s.wall for s in seconds), min(s.cpu for s in seconds))
        for name, seconds in found.items()
    }
