"""KonIQ-10k's tables, in which the column MOS means two different things.

`koniq10k_scores_and_distributions.csv` has the Likert mean in MOS and the other in MOS_zscore;
in `koniq10k_distributions_sets.csv` and its copies MOS is the z-score mean (about 1 to 100) while
SD is on the Likert scale. The shares c1 to c5 of the five answers tell which: the mean answer is
the Likert mean, exactly.

Options of a layout: `scale`, "zscore" or "likert".
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxqa.data import tables
from jaxqa.data.layouts import Layout
from jaxqa.data.readers import plain, rows
from jaxqa.data.records import Labels
from jaxqa.data.tables import Row
from jaxqa.errors import UserError

ZSCORE_PER_LIKERT = 27.82
"""Slope of the z-score mean on the Likert mean: the deviation's factor between the scales."""

_SHARES = ("c1", "c2", "c3", "c4", "c5")


def read(folder: Path, layout: Layout) -> Labels:
    """Rows with the label in the scale that the layout's options name."""
    zscore = layout.options["scale"] == "zscore"
    columns = dataclasses.replace(
        layout.columns,
        score=("label",),
        std="SD",
        std_factor=ZSCORE_PER_LIKERT if zscore else 1.0,
    )
    notes = [f"label taken in the {layout.options['scale']} scale; SD is on the Likert scale"]
    found: list[tuple[str | None, list[Row]]] = []
    for file, path in plain.present(folder, layout):
        table = tables.read_csv(path, ("MOS",))
        likert = _mos_is_likert(table, path)
        notes.append(f"{path.name}: MOS is the {'Likert' if likert else 'z-score'} mean")
        labelled: list[Row] = [
            (where, {**row, "label": _label(row, likert, zscore, where)}) for where, row in table
        ]
        found.append((file.part, labelled))
    labels = rows.labels(found, dataclasses.replace(layout, columns=columns))
    return Labels(rows=labels.rows, notes=(*labels.notes, *notes))


def _mos_is_likert(table: list[Row], path: Path) -> bool:
    """Whether MOS is the mean of the answers; by its size where the answers are not given."""
    if not table:
        return False
    if not all(share in table[0][1] for share in _SHARES):
        return max(tables.number(row, "MOS", where=where) for where, row in table) <= 5
    errors = [
        abs(tables.number(row, "MOS", where=where) - _mean_answer(row, where))
        for where, row in table
    ]
    if max(errors) > 0.01 and min(errors) <= 0.01 and sorted(errors)[len(errors) // 2] <= 0.01:
        raise UserError(f"{path}: MOS is the mean of c1 to c5 in some rows and not in others")
    return max(errors) <= 0.01


def _mean_answer(row: Mapping[str, Any], where: str) -> float:
    shares = [tables.number(row, share, where=where) for share in _SHARES]
    total = math.fsum(shares)
    if total <= 0:
        raise UserError(f"{where}: c1 to c5 are all 0, expected the shares of five answers")
    return math.fsum(i * share for i, share in enumerate(shares, start=1)) / total


def _label(row: Mapping[str, Any], likert: bool, zscore: bool, where: str) -> float:
    if zscore and "MOS_zscore" in row:
        return tables.number(row, "MOS_zscore", where=where)
    if zscore == likert and not zscore:
        if not all(share in row for share in _SHARES):
            raise UserError(
                f"{where}: no Likert mean: MOS is the z-score mean, c1 to c5 are absent"
            )
        return _mean_answer(row, where)
    if zscore and likert:
        raise UserError(
            f"{where}: MOS is the Likert mean, and there is no MOS_zscore, which is the label of "
            "koniq10k; use the data set koniq10k_likert"
        )
    return tables.number(row, "MOS", where=where)
