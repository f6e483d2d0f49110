"""What a stage shows while it trains: a live bar on a terminal, plain lines elsewhere."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SHOWN = ("loss", "reward", "entropy")
SECONDS_BETWEEN_LINES = 15.0
WAITING = "waiting"
"""Name of the share of the time in which the device waits for data; not logged: it is not the
run's but the machine's."""
WORTH_SAYING = 0.1
TROUBLES = {
    "unparsed": (WORTH_SAYING, "unparsed {:.0%}"),
    "all_filtered": (1.0, "every group filtered"),
    "nan_label": (1e-6, "without label {:g}"),
    "alone_in_pool": (1e-6, "alone in their pool {:g}"),
}
"""Metric -> the least that is worth saying, and how it is said."""
SAID_UNREADABLE = 5

Advance = Callable[[int, Mapping[str, float]], None]


@contextlib.contextmanager
def show_progress(console: Console, name: str, steps: int, done: int) -> Iterator[Advance]:
    """Yield `advance(step, metrics)`, to be called once per training step (from 1)."""
    if console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task(name, total=steps, completed=done, metrics="")
            yield lambda step, metrics: bar.update(
                task, completed=step, metrics=describe(metrics), refresh=False
            )
    else:
        yield _line_writer(console, name, steps)


def describe(metrics: Mapping[str, float]) -> str:
    """The few metrics worth watching, in fixed width; troubles only where there are some.

    A mean over nothing has no number: of no token, where every group is filtered.
    """
    values = {name: metrics[name] for name in SHOWN if name in metrics}
    shown = [
        f"{name} {value:7.4f}" if math.isfinite(value) else f"{name} {'–':>7}"
        for name, value in values.items()
    ]
    shown += [
        words.format(metrics[name])
        for name, (least, words) in TROUBLES.items()
        if metrics.get(name, 0.0) >= least
    ]
    if metrics.get(WAITING, 0.0) >= WORTH_SAYING:
        shown.append(f"waits for data {metrics[WAITING]:4.0%}")
    return "  ".join(shown)


class DataWaits:
    """Share of the time since the last look in which the device waited for data."""

    def __init__(self, waited: Callable[[], float]):
        """Take what gives the seconds waited so far."""
        self._waited = waited
        self._last = (time.monotonic(), waited())

    def share(self) -> dict[str, float]:
        """The share, under its name among the metrics that are shown."""
        (then, before), now = self._last, (time.monotonic(), self._waited())
        self._last = now
        return {WAITING: (now[1] - before) / max(now[0] - then, 1e-9)}


def advise(console: Console, name: str, waited: float, seconds: float) -> None:
    """Say it if a stage spent much of its time waiting for data, and what helps."""
    if waited >= max(WORTH_SAYING * seconds, 1.0):
        console.print(
            f"{name}: {waited / seconds:.0%} of the time ({waited:.0f} s) the device waited for "
            "data; more config.data.workers, or cache_mb for a small data set, may help",
            highlight=False,
        )


def tell_unreadable(console: Console, name: str, reasons: Mapping[int, str]) -> None:
    """Say how many images a stage could not read but went on, and why, for a few.

    An image that several sources ask about is one image: its reason, which names it, is the same.
    """
    if reasons:
        different = list(dict.fromkeys(reasons.values()))
        console.print(
            f"{name}: images that could not be read: {len(different)}",
            *different[:SAID_UNREADABLE],
            sep="\n  ",
            highlight=False,
            markup=False,
        )


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("[bold]{task.description:<8}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[metrics]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=4,
    )


def _line_writer(console: Console, name: str, steps: int) -> Advance:
    last = time.monotonic() - SECONDS_BETWEEN_LINES

    def write(step: int, metrics: Mapping[str, float]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES or step == steps:
            last = now
            console.print(f"{name} {step}/{steps}  {describe(metrics)}", highlight=False)

    return write
