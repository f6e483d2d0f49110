"""Tabulate what the detectors of GenEval (results.jsonl) and T2I-CompBench (a .json list) found."""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxqa.cli.errors import run_door
from jaxqa.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status."""
    return run_door(tabulate, argv)


def tabulate(argv: Sequence[str] | None) -> int:
    """Read the files and print one line for each.

    Raises:
      UserError: a file that is no result file, or two of one name.
    """
    flags = _parser().parse_args(argv)
    from jaxqa.selection import benchmark_files, tables  # here: these load JAX

    named = [_named(text) for text in flags.results]
    if len({name for name, _ in named}) < len(named):
        raise UserError("two result files have one name; write NAME=FILE")
    results = {name: benchmark_files.read_results(path) for name, path in named}
    header, rows = benchmark_files.result_table(results)
    if flags.format == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerows([header, *rows])
    elif flags.format == "markdown":
        print(tables.markdown([("", header, rows)]).strip())
    elif flags.format == "json":
        print(json.dumps({name: vars(result) for name, result in results.items()}))
    else:
        _print(header, rows)
    return 0


def _named(text: str) -> tuple[str, Path]:
    """NAME=FILE, or FILE, which is its own name."""
    name, equals, path = text.partition("=")
    return (name, Path(path)) if equals else (text, Path(text))


def _print(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(header):
        table.add_column(name, justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("tabulate", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "results", nargs="+", metavar="[NAME=]FILE", help="result files, a line of the table each"
    )
    parser.add_argument("--format", choices=("table", "markdown", "csv", "json"), default="table")
    return parser
