"""`data`: list the data sets, check one on disk, or prepare one as ArrayRecord files."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jaxqa.cli.errors import run_door

PROBLEMS_STATUS = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status."""
    return run_door(data, argv)


def data(argv: Sequence[str] | None) -> int:
    """Parse flags, do one of the three.

    Returns:
      0, or 1 where `check` found problems.

    Raises:
      UserError: an unknown data set, one that is not there or cannot be read.
    """
    flags = _parser().parse_args(argv)
    return {"list": _list, "check": _check, "prepare": _prepare}[flags.action](flags)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("data", description=__doc__, allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|check|prepare")
    listing = actions.add_parser("list", help="the data sets that jaxqa knows", allow_abbrev=False)
    listing.add_argument("name", nargs="?", help="all that is known of one of them")
    check = actions.add_parser(
        "check",
        help="count, missing and unreadable images, range, direction, duplicates, leaks",
        allow_abbrev=False,
    )
    check.add_argument("--quick", action="store_true", help="read the images' headers only")
    prepare = actions.add_parser(
        "prepare", help="write ArrayRecord files; finished parts are kept", allow_abbrev=False
    )
    prepare.add_argument(
        "--output", type=Path, metavar="DIR", help="where NAME/ goes (default ROOT/prepared)"
    )
    for action in (check, prepare):
        action.add_argument("name", help="see `list`, or file:PATH#range=LOW..HIGH")
        action.add_argument(
            "--root",
            required=True,
            type=Path,
            metavar="DIR",
            help="the data set's folder, or the one that holds it",
        )
    return parser


def _list(flags: argparse.Namespace) -> int:
    from jaxqa.data import describing

    print("\n".join(describing.one(flags.name) if flags.name else describing.table()))
    return 0


def _check(flags: argparse.Namespace) -> int:
    from jaxqa.data import checking

    with _progress("looking at images") as progress:
        report = checking.check(flags.name, flags.root, decode=not flags.quick, progress=progress)
    for line in report.facts:
        print(line)
    for line in report.problems:
        print(f"problem: {line}")
    count = len(report.problems)
    print(f"{count} problem{'s' if count > 1 else ''}" if count else "no problems found")
    return PROBLEMS_STATUS if report.problems else 0


def _prepare(flags: argparse.Namespace) -> int:
    from jaxqa.data import preparation

    output = flags.output or flags.root / "prepared"
    with _progress(f"preparing {flags.name}") as progress:
        made = preparation.prepare(
            flags.name,
            flags.root,
            output,
            progress=lambda part, done, total: progress(done, total),
        )
    for part, count in made.parts.items():
        print(f"{part}: {count} images" + (", kept" if part in made.kept else ""))
    for name, reason in made.left_out:
        print(f"left out {name}: {reason}")
    print(f"wrote {made.folder}; train and evaluate with the data root {output}")
    return 0


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Calls with `(done, total)` move a bar on a terminal's stderr, and do nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=sys.stderr)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(title)
        yield lambda done, total: bar.update(task, completed=done, total=total)
