"""The study as tables: a row for each figure as CSV, and Markdown to read."""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from jaxqa.metrics.bootstrap import Interval
from jaxqa.selection.candidates import Selection
from jaxqa.selection.panel import Weights
from jaxqa.selection.study import Row, Study

Table = tuple[str, list[str], list[list[str]]]
"""Caption, header, cells."""


def study_csv(study: Study) -> str:
    """Every figure, a line each."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(_record_names()), lineterminator="\n")
    writer.writeheader()
    writer.writerows(_record(row) for row in (*study.rows, *study.sweep))
    return text.getvalue()


def study_tables(study: Study) -> list[Table]:
    """The study for readers: scores, gains, and a table over N for each column."""
    if not study.rows:
        return []
    selectors = list(dict.fromkeys(row.selector for row in study.rows))
    found = {(row.selector, row.column): row for row in study.rows}
    prompts = _prompts(study.rows[0].prompts)
    header = ["chosen by", *study.columns]
    scores = [[s, *(_with_spread(found[s, column]) for column in study.columns)] for s in selectors]
    gains = [
        [s, *(_gain(found[s, column]) for column in study.columns)]
        for s in selectors
        if s != "random"
    ]
    tables: list[Table] = [
        (f"Mean score of the chosen images ± its spread over {prompts}", header, scores),
        ("Gain over a random choice, with a 95 % interval over prompts", header, gains),
    ]
    return tables + [_sweep(study, column) for column in study.columns]


def round_table(selections: Sequence[Selection], weights: Weights) -> Table | None:
    """The best image so far after each round of reflection; None without any."""
    last = max((c.round for s in selections for c in s.candidates), default=0)
    if not last:
        return None
    rows = []
    for number in range(last + 1):
        best = [s.best(weights, rounds=number + 1) for s in selections]
        known = [candidate for candidate in best if candidate is not None]
        made = sum(c.round == number for s in selections for c in s.candidates)
        means = [_mean([c.scores[name]["score"] for c in known]) for name in weights]
        combined = _mean([c.combined(weights) for c in known])
        rows.append([str(number), str(made), *means, combined])
    header = ["round", "images made", *weights, "combined"]
    return f"The best image so far, mean over {_prompts(len(selections))}", header, rows


def markdown(tables: Sequence[Table]) -> str:
    """Tables one below the other."""
    parts = []
    for caption, header, rows in tables:
        lines = [caption, "", _line(header), _line(["---", *["---:"] * (len(header) - 1)])]
        parts.append("\n".join([*lines, *(_line(row) for row in rows)]) + "\n")
    return "\n".join(parts)


def number(value: float | None, digits: int = 3) -> str:
    """A figure with a true minus; a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}".replace("-", "−")


def _prompts(count: int) -> str:
    return f"{count} prompt{'' if count == 1 else 's'}"


def _sweep(study: Study, column: str) -> Table:
    sizes = list(dict.fromkeys(row.n for row in study.sweep))
    found = {(row.selector, row.n): row for row in study.sweep if row.column == column}
    rows = [
        [selector, *(number(found[selector, n].mean) for n in sizes)] for selector in study.columns
    ]
    prompts = [str(found[study.columns[0], n].prompts) for n in sizes]
    header = ["chosen by, best of", *map(str, sizes)]
    return f"{column} of the best of N, expected", header, [*rows, ["prompts", *prompts]]


def _with_spread(row: Row) -> str:
    return f"{number(row.mean)} ± {number(row.spread)}"


def _gain(row: Row) -> str:
    sign = "+" if row.gain >= 0 else ""
    interval = row.gain_interval
    return f"{sign}{number(row.gain)} [{number(interval.low)}, {number(interval.high)}]"


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return number(sum(known) / len(known) if known else None)


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("\\", "\\\\").replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _record_names() -> list[str]:
    plain = ["selector", "n", "column", "prompts", "mean", "spread", "low", "high"]
    return [*plain, *_GAINS, *(name.replace("gain", "gain_first") for name in _GAINS)]


_GAINS = ("gain", "gain_low", "gain_high")


def _record(row: Row) -> dict[str, Any]:
    record: dict[str, Any] = {
        name: getattr(row, name)
        for name in ("selector", "n", "column", "prompts", "mean", "spread", "gain", "gain_first")
    }
    record |= _bounds("", row.interval) | _bounds("gain_", row.gain_interval)
    record |= _bounds("gain_first_", row.gain_first_interval)
    return {
        name: "" if value is None or (isinstance(value, float) and math.isnan(value)) else value
        for name, value in record.items()
    }


def _bounds(prefix: str, interval: Interval) -> dict[str, float]:
    return {f"{prefix}low": interval.low, f"{prefix}high": interval.high}
