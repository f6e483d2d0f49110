"""What `best-of-n` shows: bars while images are made and scored, and the study at the end."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from jaxqa.selection import tables
from jaxqa.selection.candidates import Selection
from jaxqa.selection.panel import Weights
from jaxqa.selection.run import Watch
from jaxqa.selection.study import Study
from jaxqa.train.stop import StopRequest

_SECONDS_BETWEEN_LINES = 15.0
_NAMED = 10


@contextlib.contextmanager
def watching(console: Console, stop: StopRequest) -> Iterator[Watch]:
    """Yield what a run calls after each step; it raises `Stopped` when the run was asked to stop.

    Live bars on a terminal, a plain line now and then elsewhere.
    """
    if not console.is_terminal:
        yield _lines(console, stop)
        return
    columns = (
        TextColumn("[bold]{task.description:<6}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=4, transient=True) as bar:
        bars: dict[str, TaskID] = {}

        def watch(what: str, done: int, total: int) -> None:
            if done == 1 and what in bars:  # another round
                bar.reset(bars[what], total=total)
            if what not in bars:
                bars[what] = bar.add_task(what, total=total)
            bar.update(bars[what], completed=done, total=total)
            stop.check("making images" if what == "make" else "scoring")

        yield watch


def _lines(console: Console, stop: StopRequest) -> Watch:
    last = 0.0

    def watch(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last > _SECONDS_BETWEEN_LINES:
            last = now
            past = {"make": "made", "score": "scored"}[what]
            console.print(f"{past} {done}/{total}", highlight=False)
        stop.check("making images" if what == "make" else "scoring")

    return watch


def report(
    selections: Sequence[Selection],
    weights: Weights,
    study: Study,
    output: Path,
    console: Console,
) -> None:
    """The study's tables, and what was chosen and what failed."""
    shown = tables.study_tables(study)[:2]
    rounds = tables.round_table(selections, weights)
    for caption, header, rows in [*([rounds] if rounds else []), *shown]:
        table = Table(title=caption, title_justify="left", box=None, pad_edge=False)
        for place, name in enumerate(header):
            table.add_column(name, justify="right" if place else "left")
        for row in rows:
            table.add_row(*map(Text, row))  # [0.1, 0.2] is no markup
        Console().print(table, "")
    everything = [candidate for s in selections for candidate in s.candidates]
    failed = [candidate for candidate in everything if candidate.combined(weights) is None]
    without = [s.prompts.key for s in selections if s.best(weights) is None]
    lacking = f", {len(failed)} without a score" if failed else ""
    console.print(
        f"{len(selections)} prompts, {len(everything)} candidates{lacking}; "
        f"{len(selections) - len(without)} chosen; wrote {output}/index.html",
        highlight=False,
        soft_wrap=True,
    )
    if failed:
        reason = failed[0].why_unscored(weights)
        console.print(f"no score: {reason}", highlight=False, soft_wrap=True, markup=False)
    if without:
        more = ", ..." if len(without) > _NAMED else ""
        named = ", ".join(without[:_NAMED])
        console.print(f"no image for prompt {named}{more}", highlight=False, soft_wrap=True)
