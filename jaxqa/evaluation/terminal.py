"""The table at the end of a run."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxqa.evaluation.table import format_seconds, table_columns, table_rows


def summary_table(summary: Mapping[str, Any]) -> Table:
    """The stages of `summary.json` as a rich table, best values in bold."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in table_columns(summary):
        is_text = column.title in ("stage", "source")
        table.add_column(column.title, justify="left" if is_text else "right", no_wrap=True)
    for row in table_rows(summary):
        table.add_row(*(Text(cell.text, style="bold" if cell.is_best else "") for cell in row))
    return table


def print_summary(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints the table and the run's whole duration."""
    console = console or Console()
    console.print()
    console.print(summary_table(summary))
    total = format_seconds(summary.get("seconds"))
    console.print(Text(f"\nwhole run: {total}", style="dim"))
