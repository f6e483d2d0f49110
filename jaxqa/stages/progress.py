"""What a stage shows while it trains: a live bar on a terminal, plain lines elsewhere."""

import contextlib
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
    """The few metrics worth watching, in fixed width."""
    return "  ".join(f"{name} {metrics[name]:7.4f}" for name in SHOWN if name in metrics)


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
