"""The result table of a run, as text cells: the terminal and the report show the same one."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

MISSING = "–"


@dataclasses.dataclass(frozen=True)
class Column:
    """One column: its heading and, for numbers, which end of the scale is good."""

    title: str
    best: str | None = None


_STAGE = Column("stage")
_SOURCE = Column("source")
_SCORES = {
    "plcc": Column("PLCC", best="highest"),
    "srcc": Column("SRCC", best="highest"),
    "mae": Column("mean abs. error", best="lowest"),
}
_ACCURACIES = {
    "class_accuracy": Column("class accuracy", best="highest"),
    "severity_accuracy": Column("severity accuracy", best="highest"),
    "choice_accuracy": Column("choice accuracy", best="highest"),
}
_REST = (Column("unparsed"), Column("completions/s"), Column("seconds"))


@dataclasses.dataclass(frozen=True)
class Cell:
    """One formatted entry; `is_best` marks the best of its column where that says anything."""

    text: str
    is_best: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tested:
    """One row of the table: a stage, or one of the sources that were tested after it.

    Attributes:
      stage: the stage's number.
      source: name of the source; empty where there is only one, or no test.
      entry: the stage's entry in the summary.
      evaluation: what was measured, or None.
    """

    stage: int
    source: str
    entry: Mapping[str, Any]
    evaluation: Mapping[str, Any] | None


def tested(summary: Mapping[str, Any]) -> list[Tested]:
    """The rows of the table: one for each source that was tested after a stage, at least one."""
    rows = []
    for number, entry in enumerate(summary["stages"]):
        several = entry.get("evaluations") or {"": entry.get("evaluation")}
        rows += [
            Tested(stage=number, source=source, entry=entry, evaluation=evaluation or None)
            for source, evaluation in several.items()
        ]
    return rows


def table_columns(summary: Mapping[str, Any]) -> list[Column]:
    """The columns: sources and accuracies only where the run has any."""
    rows = tested(summary)
    sources = [_SOURCE] if any(row.source for row in rows) else []
    return [_STAGE, *sources, *_metrics(rows).values(), *_REST]


def table_rows(summary: Mapping[str, Any]) -> list[list[Cell]]:
    """Cells in the order of `table_columns`, a row for each of `tested`.

    What was not evaluated, or has no throughput, shows a dash. The best of a column is the best of
    its source.
    """
    rows = tested(summary)
    return [_cells(row, rows) for row in rows]


def format_seconds(seconds: float | None) -> str:
    """Seconds as a person reads them: 8.3 s, 4 min 07 s, 2 h 05 min."""
    if seconds is None:
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_number(value: float | None, digits: int) -> str:
    """A number with fixed digits and a true minus sign, or a dash."""
    return MISSING if value is None else f"{value:.{digits}f}".replace("-", "−")


def format_failures(evaluation: Mapping[str, Any]) -> str:
    """How many images got no valid score, of how many."""
    return f"{evaluation['n_failed']} of {evaluation['n']}"


def _metrics(rows: Sequence[Tested]) -> dict[str, Column]:
    """The metrics that the table shows, with their columns."""
    measured = {name for row in rows for name in row.evaluation or ()}
    return _SCORES | {name: column for name, column in _ACCURACIES.items() if name in measured}


def _cells(row: Tested, rows: Sequence[Tested]) -> list[Cell]:
    first = row is next(other for other in rows if other.stage == row.stage)
    rivals = [other for other in rows if other.source == row.source]
    texts = [str(row.entry["name"])]
    if any(other.source for other in rows):
        texts.append(row.source or MISSING)
    speed, seconds = row.entry.get("completions_per_second"), row.entry.get("seconds")
    return [
        *map(Cell, texts),
        *(_metric(name, column, row, rivals) for name, column in _metrics(rows).items()),
        Cell(format_failures(row.evaluation) if row.evaluation else MISSING),
        Cell(format_number(speed if first else None, 1)),
        Cell(format_number(seconds if first else None, 1)),
    ]


def _metric(name: str, column: Column, row: Tested, rivals: Sequence[Tested]) -> Cell:
    value = (row.evaluation or {}).get(name)
    known = [v for other in rivals if (v := (other.evaluation or {}).get(name)) is not None]
    top = (max(known) if column.best == "highest" else min(known)) if len(known) > 1 else None
    return Cell(format_number(value, 3), is_best=value is not None and value == top)
