"""What choosing is worth: each judge alone against the combined score, over all prompts.

A selector picks one of a prompt's candidates; the study tells what every judge thinks of those
that each selector picks. With fewer than all candidates it is the exact expectation over all
subsets of that size, not one draw: among M candidates in the selector's order, the one of rank r
(from 0) is the best of a random subset of N with probability C(M - 1 - r, N - 1) / C(M, N).

Candidates of the first round count, which were drawn alike, and only those that every judge
scored. Intervals are bootstrapped over prompts, gains over the same prompts.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from jaxqa.metrics.bootstrap import Interval, confidence_interval
from jaxqa.selection.candidates import Candidate, Selection
from jaxqa.selection.panel import Weights
from jaxqa.typing import Float

COMBINED = "combined"
RANDOM = "random"
FIRST = "first"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What one column says of the images that one selector picks.

    Attributes:
      selector: a judge's name, "combined", "random" or "first".
      n: candidates that it picks from; None for all that a prompt has.
      column: a judge's name (on its own scale), or "combined" (0 to 1).
      prompts: how many the means are over.
      mean, spread: over prompts; the spread is the standard deviation (nan for one prompt).
      interval: of the mean.
      gain: the mean minus that of a random choice.
      gain_interval: its interval.
      gain_first: the mean minus that of the first candidate; nan where n is given.
      gain_first_interval: its interval.
    """

    selector: str
    n: int | None
    column: str
    prompts: int
    mean: float
    spread: float
    interval: Interval
    gain: float
    gain_interval: Interval
    gain_first: float = math.nan
    gain_first_interval: Interval = Interval(low=math.nan, high=math.nan)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A selector study.

    Attributes:
      columns: judges, and "combined" at the end.
      rows: over all candidates of each prompt.
      sweep: over N of 1, 2, 4, ...; a prompt counts where it has so many.
      left_out: prompts without a candidate that every judge scored.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    sweep: tuple[Row, ...]
    left_out: int


def study(selections: Sequence[Selection], weights: Weights, *, seed: int = 0) -> Study:
    """The study of a run; `seed` names the bootstrap's draws."""
    columns = (*weights, COMBINED)
    tables = [_table(selection, weights) for selection in selections]
    known = [table for table in tables if len(table)]
    rows: list[Row] = []
    sweep: list[Row] = []
    for place, selector in enumerate(columns):
        rows += _rows(selector, None, columns, known, [_best(t, place) for t in known], seed)
    rows += _rows(RANDOM, None, columns, known, [t.mean(0) for t in known], seed)
    rows += _rows(FIRST, None, columns, known, [t[0] for t in known], seed)
    for n in sizes([len(table) for table in known]):
        large = [table for table in known if len(table) >= n]
        for place, selector in enumerate(columns):
            means = [expected_choice(t, t[:, place], n) for t in large]
            sweep += _rows(selector, n, columns, large, means, seed)
    return Study(
        columns=columns, rows=tuple(rows), sweep=tuple(sweep), left_out=len(tables) - len(known)
    )


def sizes(counts: Sequence[int]) -> list[int]:
    """1, 2, 4, ... up to the largest count, and that count itself."""
    largest = max(counts, default=0)
    powers = [2**power for power in range(largest.bit_length()) if 2**power < largest]
    return [*powers, largest] if largest else []


def expected_choice(
    values: Float[np.ndarray, "M K"], keys: Float[np.ndarray, " M"], n: int
) -> Float[np.ndarray, " K"]:
    """Mean of `values` of the candidate that has the highest key among `n` random ones.

    Exact: over all subsets of `n` of the M candidates. Of equal keys the first counts as higher.
    """
    order = np.argsort(-keys, kind="stable")
    return choice_probabilities(len(keys), n) @ values[order]


def choice_probabilities(count: int, n: int) -> Float[np.ndarray, " M"]:
    """How likely the candidate of each rank is the best of a random subset of `n` of `count`."""
    if not 1 <= n <= count:
        raise ValueError(f"n is {n}; expected 1 to {count}")
    subsets = math.comb(count, n)
    return np.array([math.comb(count - 1 - rank, n - 1) / subsets for rank in range(count)])


def _table(selection: Selection, weights: Weights) -> Float[np.ndarray, "M K"]:
    """Scores of a prompt's candidates [M, judges and combined]; M may be 0."""
    rows = [_values(c, weights) for c in selection.candidates if c.round == 0]
    found = [row for row in rows if row is not None]
    return np.array(found, np.float64).reshape(len(found), len(weights) + 1)


def _values(candidate: Candidate, weights: Weights) -> list[float] | None:
    scores = [candidate.scores.get(name, {}).get("score") for name in weights]
    combined = candidate.combined(weights)
    if combined is None or any(score is None for score in scores):
        return None
    return [*map(float, scores), combined]  # type: ignore[arg-type]


def _best(table: np.ndarray, place: int) -> np.ndarray:
    return table[int(np.argmax(table[:, place]))]


def _rows(
    selector: str,
    n: int | None,
    columns: Sequence[str],
    tables: Sequence[np.ndarray],
    chosen: Sequence[np.ndarray],
    seed: int,
) -> list[Row]:
    """One row for each column, from what was chosen of each table."""
    if not tables:
        return []
    picked = np.stack(chosen)
    random = np.stack([table.mean(0) for table in tables])
    first = np.stack([table[0] for table in tables])
    found = []
    for place, column in enumerate(columns):
        x, y = picked[:, place], random[:, place]
        row = Row(
            selector=selector,
            n=n,
            column=column,
            prompts=len(tables),
            mean=float(x.mean()),
            spread=float(x.std(ddof=1)) if len(x) > 1 else math.nan,
            interval=confidence_interval(_mean, x, x, seed=seed),
            gain=float((x - y).mean()),
            gain_interval=confidence_interval(_difference, x, y, seed=seed),
        )
        if n is None:
            y = first[:, place]
            row = dataclasses.replace(
                row,
                gain_first=float((x - y).mean()),
                gain_first_interval=confidence_interval(_difference, x, y, seed=seed),
            )
        found.append(row)
    return found


def _mean(values: np.ndarray, _: np.ndarray) -> np.ndarray:
    return values.mean(-1)


def _difference(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    return (values - others).mean(-1)
