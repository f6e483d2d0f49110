"""A benchmark as Markdown, LaTeX, CSV or JSON; scored and failed images beside every figure."""

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxqa.errors import UserError
from jaxqa.evaluation.benchmark import DIGITS, Benchmark, Comparison, Result
from jaxqa.evaluation.protocols import METRICS, Figure, get_protocol
from jaxqa.evaluation.table import MISSING
from jaxqa.train.json_lines import replacing

TITLES = {"plcc": "PLCC", "srcc": "SRCC", "krcc": "KRCC", "rmse": "RMSE", "mae": "MAE"}
TITLES |= {"pairwise_accuracy": "pairwise acc.", "element_accuracy": "element acc."}
TITLES |= {"final": "final"}
_LISTED_FAILURES = 20
_LATEX = str.maketrans({c: f"\\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}"})


def write_benchmark(path: Path, benchmark: Benchmark, notes: Sequence[str] = ()) -> None:
    """Write the whole file at once, in the format of its suffix.

    Args:
      notes: lines about how the scores were made, for those formats that hold text.

    Raises:
      UserError: an unknown suffix, or the disk refuses.
    """
    content = writer(path)(benchmark, notes)
    with replacing(path) as file:
        file.write(content.encode())


def writer(path: Path) -> Callable[[Benchmark, Sequence[str]], str]:
    """What formats a file of this suffix; UserError lists the suffixes."""
    if path.suffix not in _WRITERS:
        raise UserError(f"{path}: expected a file name that ends in {', '.join(_WRITERS)}")
    return _WRITERS[path.suffix]


def to_markdown(benchmark: Benchmark, notes: Sequence[str] = ()) -> str:
    """One wide table per protocol, then details, paired tests and failures."""
    lines = ["# Benchmark", "", *(f"- {note}" for note in notes), *([""] if notes else [])]
    for protocol in benchmark.settings.protocols:
        lines += [f"## Protocol `{protocol.name}`", "", f"{protocol.summary}.", ""]
        lines += [
            "PLCC / SRCC, in brackets the images that are scored + those without a score. "
            "**Best**, <u>second</u>.",
            "",
        ]
        lines += _markdown_table(*_wide(benchmark, protocol.name, _markdown_mark))
        lines += ["", f"### Details, {_level(benchmark)} intervals over images", ""]
        lines += _markdown_table(*_long(benchmark, protocol.name, _markdown_mark))
        found = [c for c in benchmark.comparisons if c.protocol == protocol.name]
        if found:
            lines += ["", "### Paired tests on the same images", ""]
            lines += _markdown_table(_COMPARED, [_compared(c) for c in found])
        lines.append("")
    lines += _listed_failures(benchmark)
    return "\n".join(lines) + "\n"


def to_latex(benchmark: Benchmark, notes: Sequence[str] = ()) -> str:
    """One `table` per protocol for booktabs; counts under every figure."""
    blocks = [f"% {note}" for note in notes]
    for protocol in benchmark.settings.protocols:
        header, rows = _wide(benchmark, protocol.name, _latex_mark, escape=_escape)
        caption = (
            f"PLCC / SRCC under the protocol \\texttt{{{_escape(protocol.name)}}} "
            f"({_escape(protocol.summary)}); in brackets scored + failed images. "
            "Best in bold, second underlined."
        )
        blocks += [
            r"\begin{table}[t]",
            r"\centering",
            f"\\caption{{{caption}}}",
            f"\\begin{{tabular}}{{l{'c' * (len(header) - 1)}}}",
            r"\toprule",
            " & ".join(header) + r" \\",
            r"\midrule",
            *(" & ".join(row) + r" \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    return "\n".join(blocks)


def to_csv(benchmark: Benchmark, notes: Sequence[str] = ()) -> str:
    """One row per figure: protocol, model, data set, metric, value, interval, counts, rank."""
    del notes
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(
        ["protocol", "model", "dataset", "metric", "value", "low", "high", "scored", "failed"]
        + ["rank", "note"]
    )
    for result in (*benchmark.results, *benchmark.averages):
        for metric, figure in result.figures.items():
            numbers = ["" if v is None else repr(v) for v in dataclasses.astuple(figure)]
            rows.writerow(
                [result.protocol, result.model, result.dataset, metric, *numbers]
                + [result.scored, result.failed, result.marks.get(metric, ""), result.note or ""]
            )
    return buffer.getvalue()


def to_json(benchmark: Benchmark, notes: Sequence[str] = ()) -> str:
    """Everything, failures included."""
    failures = [
        {"model": model, "dataset": dataset, "image": p.image, "error": p.error}
        for model, dataset, p in benchmark.failures
    ]
    content: dict[str, Any] = {
        "notes": list(notes),
        "resamples": benchmark.settings.resamples,
        "level": benchmark.settings.level,
        "results": [dataclasses.asdict(result) for result in benchmark.results],
        "averages": [dataclasses.asdict(result) for result in benchmark.averages],
        "comparisons": [dataclasses.asdict(comparison) for comparison in benchmark.comparisons],
        "failures": failures,
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


_WRITERS = {".md": to_markdown, ".tex": to_latex, ".csv": to_csv, ".json": to_json}

Mark = Callable[[str, int | None], str]
Table = tuple[list[str], list[list[str]]]


def plain_table(benchmark: Benchmark, protocol: str) -> Table:
    """Heading and rows for a terminal: models down, data sets and averages across."""
    return _wide(benchmark, protocol, lambda text, rank: f"{text}*" if rank == 1 else text)


def _wide(
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


def _cell(result: Result | None, mark: Mark) -> str:
    if result is None or not result.scored + result.failed:
        return MISSING
    pair = (mark(_text(result.figures[m]), result.marks.get(m)) for m in ("plcc", "srcc"))
    return f"{' / '.join(pair)} ({result.scored} + {result.failed})"


def _long(benchmark: Benchmark, protocol: str, mark: Mark) -> Table:
    metrics = (*METRICS, *get_protocol(protocol).extras)
    header = ["data set", "model", *(TITLES[metric] for metric in metrics), "scored", "failed"]
    rows = []
    for dataset in benchmark.datasets:
        for result in benchmark.results:
            if (result.protocol, result.dataset) == (protocol, dataset):
                figures = [
                    mark(_text(result.figures[m]), result.marks.get(m)) + _interval(result, m)
                    for m in metrics
                ]
                counts = [str(result.scored), str(result.failed)]
                rows.append([dataset, result.model, *figures, *counts])
                if result.note:
                    rows[-1][2] += f" ({result.note})"
    return header, rows


_COMPARED = ["data set", "metric", "first", "second", "images", "difference", "p bootstrap"]
_COMPARED += ["p Williams"]


def _compared(comparison: Comparison) -> list[str]:
    difference = _text(Figure(value=comparison.difference))
    if comparison.low is not None and comparison.high is not None:
        difference += f" [{comparison.low:.{DIGITS}f}, {comparison.high:.{DIGITS}f}]"
    return [
        comparison.dataset,
        TITLES[comparison.metric],
        comparison.first,
        comparison.second,
        str(comparison.images),
        difference,
        _p(comparison.p_bootstrap),
        _p(comparison.p_williams),
    ]


def _listed_failures(benchmark: Benchmark) -> Iterator[str]:
    if not benchmark.failures:
        return
    yield f"## Images without a score ({len(benchmark.failures)})"
    yield ""
    for model, dataset, prediction in benchmark.failures[:_LISTED_FAILURES]:
        yield f"- {model}, {dataset}: `{prediction.image}`: {prediction.error}"
    if len(benchmark.failures) > _LISTED_FAILURES:
        yield f"- and {len(benchmark.failures) - _LISTED_FAILURES} more, see the answers' files"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]


def _text(figure: Figure) -> str:
    return MISSING if figure.value is None else f"{figure.value:.{DIGITS}f}"


def _interval(result: Result, metric: str) -> str:
    figure = result.figures[metric]
    if figure.low is None or figure.high is None:
        return ""
    return f" [{figure.low:.{DIGITS}f}, {figure.high:.{DIGITS}f}]"


def _p(value: float | None) -> str:
    return MISSING if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def _level(benchmark: Benchmark) -> str:
    return f"{100 * benchmark.settings.level:g} %"


def _markdown_mark(text: str, rank: int | None) -> str:
    return {1: f"**{text}**", 2: f"<u>{text}</u>"}.get(rank or 0, text)


def _latex_mark(text: str, rank: int | None) -> str:
    text = "--" if text == MISSING else text
    return {1: f"\\textbf{{{text}}}", 2: f"\\underline{{{text}}}"}.get(rank or 0, text)


def _escape(text: str) -> str:
    return text.replace("\\", r"\textbackslash ").translate(_LATEX)
