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


COLUMNS = (
    Column("stage"),
    Column("PLCC", best="highest"),
    Column("SRCC", best="highest"),
    Column("mean abs. error", best="lowest"),
    Column("unparsed", best=None),
    Column("completions/s", best=None),
    Column("seconds", best=None),
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One formatted entry; `is_best` marks the best of its column where that says anything."""

    text: str
    is_best: bool = False


def table_rows(summary: Mapping[str, Any]) -> list[list[Cell]]:
    """One row of cells per stage of `summary.json`, in the order of `COLUMNS`.

    A stage that was not evaluated, or has no throughput, shows a dash.
    """
    numbers = [_numbers(stage) for stage in summary["stages"]]
    texts = [_texts(stage) for stage in summary["stages"]]
    best = [
        _best(column, values) for column, values in zip(COLUMNS, _columns(numbers), strict=True)
    ]
    return [
        [
            Cell(text, is_best=number is not None and number == top)
            for text, number, top in zip(row, values, best, strict=True)
        ]
        for row, values in zip(texts, numbers, strict=True)
    ]


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


def _texts(stage: Mapping[str, Any]) -> list[str]:
    evaluation = stage.get("evaluation")
    scores = [format_number((evaluation or {}).get(name), 3) for name in ("plcc", "srcc", "mae")]
    return [
        str(stage["name"]),
        *scores,
        format_failures(evaluation) if evaluation else MISSING,
        format_number(stage.get("completions_per_second"), 1),
        format_number(stage.get("seconds"), 1),
    ]


def _numbers(stage: Mapping[str, Any]) -> list[float | None]:
    evaluation = stage.get("evaluation") or {}
    return [None, *(evaluation.get(name) for name in ("plcc", "srcc", "mae")), None, None, None]


def _columns(rows: Sequence[Sequence[float | None]]) -> list[list[float | None]]:
    return [[row[index] for row in rows] for index in range(len(COLUMNS))]


def _best(column: Column, values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if column.best is None or len(known) < 2:
        return None
    return max(known) if column.best == "highest" else min(known)
