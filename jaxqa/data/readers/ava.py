"""AVA.txt: 15 numbers a line, separated by blanks; the label is the mean of ten vote counts.

index, image id, votes for 1 to 10, two tags, challenge.
"""

import dataclasses
import math
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxqa.data import tables
from jaxqa.data.layouts import Layout
from jaxqa.data.readers import plain, rows
from jaxqa.data.records import Labels
from jaxqa.errors import UserError

_SCORES = tuple(range(1, 11))
_SQUARES = tuple(score * score for score in _SCORES)
_VOTES = tuple(f"votes_{score}" for score in _SCORES)
_HEADER = ("index", "image", *_VOTES, "tag_1", "tag_2", "challenge")


def read(folder: Path, layout: Layout) -> Labels:
    """Rows of AVA.txt, labelled with the mean vote."""
    columns = dataclasses.replace(layout.columns, score=("mean",), std="deviation")
    found = []
    for file, path in plain.present(folder, layout):
        table = tables.read_columns(path, _HEADER)
        found.append((file.part, [(w, {**row, **_statistics(row, w)}) for w, row in table]))
    return rows.labels(found, dataclasses.replace(layout, columns=columns))


def _statistics(row: Mapping[str, Any], where: str) -> dict[str, float]:
    votes = [tables.number(row, name, where=where) for name in _VOTES]
    total = sum(votes)
    if total <= 0 or min(votes) < 0:
        raise UserError(f"{where}: the ten vote counts are {votes}, expected at least one vote")
    mean = sum(map(operator.mul, _SCORES, votes)) / total
    square = sum(map(operator.mul, _SQUARES, votes)) / total  # exact: counts are whole numbers
    return {"mean": mean, "deviation": math.sqrt(max(0.0, square - mean * mean))}
