"""pyiqa's meta files: CSV whose first columns are read by position, then split columns by name.

No-reference files: image, label, [deviation]; full-reference files: reference, image, label,
[deviation]. A third or fourth column is the deviation if its header says so ("std", "var").
Split columns hold train, val, test, or 0, 1, 2 for them; `official_split` and `split` are the data
set's own, others (ratio802_seed123_split_01) keep their names.

Options of a layout: `full_reference`, whether the first column is a reference image.
"""

import csv
import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxqa.data import tables
from jaxqa.data.layouts import Layout
from jaxqa.data.readers import plain, rows
from jaxqa.data.records import OWN, LabelledImage, Labels
from jaxqa.errors import UserError

_PARTS = {
    **{"train": "train", "val": "validation", "test": "test"},
    **{"training": "train", "validation": "validation"},
    **{"0": "train", "1": "validation", "2": "test"},
}
_OWN_COLUMNS = ("official_split", "split", "set")


def read(folder: Path, layout: Layout) -> Labels:
    """Rows of a meta file with all splits that it assigns."""
    path = plain.present(folder, layout)[0][1]
    header = file_header(path)
    names = position_names(header, full_reference=layout.options["full_reference"])
    table = tables.read_csv(path, header=names, skip_header=True)
    splits = _split_columns(table, header[len(names) :])
    columns = dataclasses.replace(
        layout.columns,
        image=("image",),
        score=("score",),
        std="std" if "std" in names else "",
        reference="reference" if "reference" in names and not layout.columns.pattern else "",
    )
    changed = dataclasses.replace(layout, columns=columns)
    labels = rows.labels([(None, table)], changed)
    by_name = {image.name: image for image in labels.rows}
    found: list[LabelledImage] = []
    for where, row in table:
        image = rows.image_of(row, changed, part=None, where=where)
        if image is not None and image.name in by_name:
            found.append(dataclasses.replace(image, parts=_parts(row, splits)))
    return Labels(rows=found, notes=labels.notes)


def file_header(path: Path) -> list[str]:
    """Cells of the first line."""
    first = tables.read_text(path).split("\n", 1)[0]
    return [cell.strip() for cell in next(csv.reader(io.StringIO(first)), [])]


def position_names(header: list[str], *, full_reference: bool) -> list[str]:
    """Our names of the first columns."""
    names = ["reference", "image", "score"] if full_reference else ["image", "score"]
    if len(header) < len(names):
        raise UserError(
            f"a pyiqa meta file begins with {', '.join(names)}; found {', '.join(header)}"
        )
    following = header[len(names)].lower() if len(header) > len(names) else ""
    return [*names, "std"] if "std" in following or "var" in following else names


def _split_columns(table: list[tables.Row], names: list[str]) -> dict[str, str]:
    """Column -> split name, of the columns that hold nothing but parts."""
    splits = {}
    for name in names:
        values = {str(row[name]).lower() for _, row in table} - {""}
        if values and values <= _PARTS.keys():
            splits[name] = OWN if name in _OWN_COLUMNS else name
    return splits


def _parts(row: Mapping[str, Any], splits: Mapping[str, str]) -> dict[str, str]:
    return {
        split: _PARTS[str(row[column]).lower()] for column, split in splits.items() if row[column]
    }
