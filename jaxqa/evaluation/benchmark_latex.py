"""A benchmark as LaTeX tables that fit the line: `booktabs` and `graphicx` are all they need."""

from collections.abc import Sequence

from jaxqa.evaluation.benchmark import Benchmark
from jaxqa.evaluation.benchmark_table import breadth, turn, wide
from jaxqa.evaluation.table import MISSING

_LINE = 72  # characters of a line of text; broader tables are made smaller
_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"}
_SPECIAL |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_SPECIAL |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
_ESCAPES = str.maketrans(_SPECIAL)


def to_latex(benchmark: Benchmark, notes: Sequence[str] = ()) -> str:
    """One `table` per protocol, turned to its narrower side; counts beside every figure."""
    blocks = [f"% {' '.join(note.split())}" for note in notes]
    blocks.append(r"% \usepackage{booktabs,graphicx}")
    for protocol in benchmark.settings.protocols:
        caption = (
            f"PLCC / SRCC under the protocol \\texttt{{{_escape(protocol.name)}}} "
            f"({_escape(protocol.summary)}); in brackets scored + failed images. "
            "Best in bold, second underlined."
        )
        blocks += [
            r"\begin{table}[t]",
            r"\centering",
            f"\\caption{{{caption}}}",
            r"\smallskip",
            *_tabular(benchmark, protocol.name),
            r"\end{table}",
            "",
        ]
    return "\n".join(blocks)


def _tabular(benchmark: Benchmark, protocol: str) -> list[str]:
    plain = wide(benchmark, protocol, lambda text, rank: text)
    header, rows = wide(benchmark, protocol, _mark, escape=_escape)
    if breadth(turn(plain)) < breadth(plain):
        plain, (header, rows) = turn(plain), turn((header, rows))
        averages = len(benchmark.datasets)
    else:
        averages = len(rows)
    lines = [" & ".join(row) + r" \\" for row in rows]
    if averages < len(rows):
        lines.insert(averages, r"\midrule")
    shrink = breadth(plain) > _LINE
    return [
        *[r"\resizebox{\linewidth}{!}{%"] * shrink,
        f"\\begin{{tabular}}{{l{'c' * (len(header) - 1)}}}",
        r"\toprule",
        " & ".join(header) + r" \\",
        r"\midrule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}" + "}" * shrink,
    ]


def _mark(text: str, rank: int | None) -> str:
    text = "--" if text == MISSING else text.replace("-", "$-$")
    return {1: f"\\textbf{{{text}}}", 2: f"\\underline{{{text}}}"}.get(rank or 0, text)


def _escape(text: str) -> str:
    return text.translate(_ESCAPES)
