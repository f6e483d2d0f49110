"""A benchmark as Markdown, LaTeX, CSV or JSON; scored and failed images beside every figure."""

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxqa.errors import UserError
from jaxqa.evaluation.benchmark import DIGITS, Benchmark, Comparison
from jaxqa.evaluation.benchmark_latex import to_latex
from jaxqa.evaluation.benchmark_table import TITLES, long, text, wide
from jaxqa.evaluation.protocols import Figure
from jaxqa.evaluation.table import MISSING
from jaxqa.train.json_lines import replacing

_LISTED_FAILURES = 20


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
        lines += _markdown_table(*wide(benchmark, protocol.name, _markdown_mark))
        lines += ["", f"### Details, {_level(benchmark)} intervals over images", ""]
        lines += _markdown_table(*long(benchmark, protocol.name, _markdown_mark))
        found = [c for c in benchmark.comparisons if c.protocol == protocol.name]
        if found:
            lines += ["", "### Paired tests on the same images", ""]
            lines += _markdown_table(_COMPARED, [_compared(c) for c in found])
        lines.append("")
    lines += _listed_failures(benchmark)
    return "\n".join(lines) + "\n"


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

_COMPARED = ["data set", "metric", "first", "second", "images", "difference", "p bootstrap"]
_COMPARED += ["p Williams"]


def _compared(comparison: Comparison) -> list[str]:
    difference = text(Figure(value=comparison.difference))
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


def _p(value: float | None) -> str:
    return MISSING if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def _level(benchmark: Benchmark) -> str:
    return f"{100 * benchmark.settings.level:g} %"


def _markdown_mark(text: str, rank: int | None) -> str:
    return {1: f"**{text}**", 2: f"<u>{text}</u>"}.get(rank or 0, text)
