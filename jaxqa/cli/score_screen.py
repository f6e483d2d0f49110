"""Scores on a terminal: a card for one image, a table for several, and a bar meanwhile."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

Row = dict[str, Any]

_BARS = " ▁▂▃▄▅▆▇█"
_WIDTH = 40
_SECONDS_BETWEEN_LINES = 15.0


class _Speed(ProgressColumn):
    """Images per second, since this run began."""

    def render(self, task: Task) -> Text:
        done = task.completed - task.fields["already"]
        return Text(f"{done / task.elapsed:.1f} images/s" if task.elapsed and done else "")


@contextlib.contextmanager
def progress(console: Console, total: int, already: int) -> Iterator[Callable[[int], None]]:
    """Yield `advance(done)`; a live bar on a terminal, a plain line now and then elsewhere."""
    if not console.is_terminal:
        yield _lines(console, total, already)
        return
    columns = (
        TextColumn("[bold]score"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        _Speed(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=4, transient=True) as bar:
        task = bar.add_task("score", total=total, completed=already, already=already)
        yield lambda done: bar.update(task, completed=done)


def _lines(console: Console, total: int, already: int) -> Callable[[int], None]:
    begun = last = time.monotonic()

    def advance(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _SECONDS_BETWEEN_LINES and done < total:
            return
        last = now
        speed = (done - already) / max(now - begun, 1e-9)
        left = (total - done) / speed if speed else 0.0
        console.print(
            f"scored {done}/{total}, {speed:.1f} images/s, {left:.0f} s left", highlight=False
        )

    return advance


def card(row: Row, score_range: tuple[float, float], *, question: str) -> Panel:
    """One image's score with all that is known about it."""
    low, high = score_range
    lines: list[Any] = []
    if row["error"] is not None:
        lines.append(Text(f"no score: {row['error']}", style="bold red"))
    else:
        share = row["normalised"]
        filled = round(share * _WIDTH)
        head = Text.assemble(
            (f"{row['score']:.2f}", "bold"),
            f"  of {low:g} to {high:g}",
            f"   ±{row['spread']:.2f}" if row.get("spread") is not None else "",
        )
        bar = Text.assemble(
            ("━" * filled, "cyan"), ("─" * (_WIDTH - filled), "dim"), f"  {share:.0%}"
        )
        lines += [head, bar]
    if row.get("distribution"):
        lines += [Text(), *_histogram(row["distribution"], score_range)]
    if row.get("rationale"):
        lines += [Text(), Text(row["rationale"])]
    width = min(88, max(60, Console().width))
    return Panel(
        Group(*lines),
        title=Text(_end_of(row["path"], width - 6), style="bold"),
        subtitle=Text(question, style="dim"),
        title_align="left",
        subtitle_align="right",
        width=width,
        padding=(1, 2),
    )


def _end_of(text: str, length: int) -> str:
    """A long path without its beginning: the file's name says more."""
    return text if len(text) <= length else f"…{text[1 - length :]}"


def _histogram(distribution: Row, score_range: tuple[float, float]) -> list[Text]:
    """Probabilities of scores, in `_WIDTH` bins over the range."""
    low, high = score_range
    share = (np.asarray(distribution["values"]) - low) / (high - low)
    # A hair to the right: numbers with two decimals lie on the bins' borders.
    bins = np.clip(np.floor(share * _WIDTH + 1e-6).astype(int), 0, _WIDTH - 1)
    heights = np.bincount(bins, weights=distribution["probabilities"], minlength=_WIDTH)
    levels = np.ceil(heights / heights.max() * (len(_BARS) - 1) - 0.1).astype(int)
    scale = f"{low:g}{f'{high:g}':>{_WIDTH - len(f'{low:g}')}}"
    return [Text("".join(_BARS[level] for level in levels), style="cyan"), Text(scale, style="dim")]


def print_table(rows: Sequence[Row]) -> None:
    """Print `table`; in a pipe, a row is one line, however long."""
    console = Console()
    if console.is_terminal:
        console.print(table(rows))
        return
    longest = max(len(row["path"]) + len(row["error"] or "") for row in rows)
    Console(width=longest + 40).print(table(rows), soft_wrap=True)


def table(rows: Sequence[Row]) -> Table:
    """Path, score and what is wrong, a line each."""
    shown = Table(box=None, pad_edge=False)
    filtered = any(row.get("keep") is not None for row in rows)
    shown.add_column("path", overflow="fold")
    shown.add_column("score", justify="right")
    shown.add_column("0-1", justify="right")
    if filtered:
        shown.add_column("keep")
    shown.add_column("error", overflow="fold")
    for row in rows:
        score, share = row["score"], row["normalised"]
        cells = [
            Text(row["path"]),
            Text("–" if score is None else f"{score:.3f}"),
            Text("–" if share is None else f"{share:.3f}"),
        ]
        if filtered:
            cells.append(Text({True: "keep", False: "drop", None: ""}[row["keep"]]))
        shown.add_row(*cells, Text(row["error"] or "", style="red"))
    return shown
