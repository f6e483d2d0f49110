"""Cells of a benchmark's tables: one wide table of correlations, and a long one of all figures."""

from collections.abc import Callable

from jaxqa.evaluation.benchmark import DIGITS, Benchmark, Result
from jaxqa.evaluation.protocols import METRICS, Figure, get_protocol
from jaxqa.evaluation.table import MISSING

TITLES = {"plcc": "PLCC", "srcc": "SRCC", "krcc": "KRCC", "rmse": "RMSE", "mae": "MAE"}
TITLES |= {"pairwise_accuracy": "pairwise acc.", "element_accuracy": "element acc."}
TITLES |= {"final": "final"}

Mark = Callable[[str, int | None], str]
"""Marks a figure of rank 1 or 2."""

Table = tuple[list[str], list[list[str]]]
"""Heading and rows; the first cell of each row says what the row is."""


def plain_table(benchmark: Benchmark, protocol: str, *, width: int) -> Table:
    """The wide table as text: turned round where it is broader than `width` characters."""
    table = wide(benchmark, protocol, lambda text, rank: f"{text}*" if rank == 1 else text)
    return table if breadth(table) <= width else min(table, turn(table), key=breadth)


def wide(
    benchmark: Benchmark, protocol: str, mark: Mark, *, escape: Callable[[str], str] = str
) -> Table:
    """Models down, data sets and averages across."""
    results = [r for r in (*benchmark.results, *benchmark.averages) if r.protocol == protocol]
    columns = list(dict.fromkeys(result.dataset for result in results))
    by_key = {(result.model, result.dataset): result for result in results}
    rows = []
    for model in benchmark.models:
        cells = [by_key.get((model, column)) for column in columns]
        rows.append([escape(model), *(_cell(cell, mark) for cell in cells)])
    return ["model", *map(escape, columns)], rows


def turn(table: Table) -> Table:
    """The wide table with data sets and averages down, models across."""
    header, rows = table
    down = [[name, *(row[n] for row in rows)] for n, name in enumerate(header[1:], start=1)]
    return ["data set", *(row[0] for row in rows)], down


def breadth(table: Table) -> int:
    """Characters of a line, two blanks between columns."""
    header, rows = table
    return sum(2 + max(map(len, column)) for column in zip(header, *rows, strict=True))


def long(benchmark: Benchmark, protocol: str, mark: Mark) -> Table:
    """A row for each data set and model: every metric with its interval, and the counts."""
    metrics = (*METRICS, *get_protocol(protocol).extras)
    header = ["data set", "model", *(TITLES[metric] for metric in metrics), "scored", "failed"]
    rows = []
    for dataset in benchmark.datasets:
        for result in benchmark.results:
            if (result.protocol, result.dataset) == (protocol, dataset):
                figures = [
                    mark(text(result.figures[m]), result.marks.get(m)) + _interval(result, m)
                    for m in metrics
                ]
                counts = [str(result.scored), str(result.failed)]
                rows.append([dataset, result.model, *figures, *counts])
                if result.note:
                    rows[-1][2] += f" ({result.note})"
    return header, rows


def text(figure: Figure) -> str:
    """The figure with its digits, or a dash."""
    return MISSING if figure.value is None else f"{figure.value:.{DIGITS}f}"


def _cell(result: Result | None, mark: Mark) -> str:
    if result is None or not result.scored + result.failed:
        return MISSING
    pair = (mark(text(result.figures[m]), result.marks.get(m)) for m in ("plcc", "srcc"))
    return f"{' / '.join(pair)} ({result.scored} + {result.failed})"


def _interval(result: Result, metric: str) -> str:
    figure = result.figures[metric]
    if figure.low is None or figure.high is None:
        return ""
    return f" [{figure.low:.{DIGITS}f}, {figure.high:.{DIGITS}f}]"
