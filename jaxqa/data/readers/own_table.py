"""The user's own table, in our columns or in one of the forms that the field passes around.

CSV, JSON, JSON lines, Parquet, Excel and columns of text. What a file is, is told by its ending
and by the names of its columns, never by its values:

| form              | told by                                             |
|-------------------|-----------------------------------------------------|
| ours              | columns image and score                             |
| IQA-Dataset       | columns dis_img_path and score                      |
| pyiqa             | any other CSV: columns by position                  |
| Q-Align, DeQA, TATAR, ArtiMuse | keys image or img_path, and gt_score   |
| VisualQuality-R1  | keys image and conversations; or text columns       |
| Aes-R1            | keys images and messages                            |
| Q-Insight         | keys ref_image, ImageA, ImageB, result; or distortion_class and severity |
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxqa.data import binary_tables, tables
from jaxqa.data.layouts import Columns, Layout
from jaxqa.data.readers import artimuse, generated, plain, pyiqa, rows
from jaxqa.data.records import LabelledImage, Labels
from jaxqa.data.tables import Row
from jaxqa.errors import UserError

_OURS = Columns(
    score=("score", "gt_score"),
    std="std",
    part="split",
    reference="reference",
    prompt="prompt",
    rationale="rationale",
    task="task",
    keep=(artimuse.KEY,),
    name_depth=0,
)
COMPARISON = Columns(
    image=("ref_image",),
    extra_images=("ImageA", "ImageB"),
    score=(),
    answers={"choice": "result"},
    reference="ref_image",
    part="split",
    rationale="rationale",
    name_depth=0,
)
DEGRADATION = Columns(
    score=(),
    answers={"distortion_class": "distortion_class", "severity": "severity"},
    part="split",
    reference="reference",
    rationale="rationale",
    name_depth=0,
)
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE]-?\d+)?")


def read(folder: Path, layout: Layout) -> Labels:
    """Rows of one table of the user's."""
    path = plain.present(folder, layout)[0][1]
    ending = path.suffix.lower()
    if ending in (".csv", ".tsv"):
        return _read_csv(path, layout, delimiter="," if ending == ".csv" else "\t")
    if ending == ".txt":
        return _labels(_text_rows(path), _OURS, layout)
    readers = {
        ".json": tables.read_json_list,
        ".jsonl": tables.read_json_lines,
        ".parquet": binary_tables.read_parquet,
        ".xlsx": binary_tables.read_xlsx,
    }
    if ending not in readers:
        raise UserError(
            f"{path}: expected a table that ends in .csv, .tsv, .txt, {', '.join(readers)}"
        )
    table = readers[ending](path)
    if ending == ".parquet":
        return _with_images(table, layout)
    table = [(where, _common(row, where)) for where, row in table]
    return _labels(table, _columns_of(table), layout)


def _labels(table: list[Row], columns: Columns, layout: Layout) -> Labels:
    factor = {"offset": layout.columns.offset, "factor": layout.columns.factor}
    columns = dataclasses.replace(columns, **factor)
    return rows.labels([(None, table)], dataclasses.replace(layout, columns=columns))


def _columns_of(table: list[Row]) -> Columns:
    keys = set(table[0][1]) if table else set()
    if {"ref_image", "ImageA", "ImageB"} <= keys:
        return COMPARISON
    if {"distortion_class", "severity"} <= keys:
        return DEGRADATION
    if "gt_score" in keys:
        return dataclasses.replace(_OURS, reference="")
    return _OURS


def _common(row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A row in our keys: the label of a conversation becomes `score`."""
    row = rows.with_label(row)
    talk = row.get("conversations")
    if isinstance(talk, list) and "gt_score" not in row and "score" not in row:
        return {**row, "score": _said(talk, "value", where)}
    talk = row.get("messages")
    if isinstance(talk, list) and "images" in row:
        return {**row, "image": row["images"], "score": _said(talk, "content", where)}
    return row


def _said(talk: list[Any], key: str, where: str) -> Any:
    if not talk or not isinstance(talk[-1], dict) or key not in talk[-1]:
        raise UserError(f"{where}: the conversation does not end with an answer")
    return talk[-1][key]


def _read_csv(path: Path, layout: Layout, *, delimiter: str) -> Labels:
    header = [cell.strip() for cell in tables.read_text(path).split("\n", 1)[0].split(delimiter)]
    ours = {"image", "score"} <= set(header) or {"image", "distortion_class"} <= set(header)
    if ours or "ref_image" in header:
        table = tables.read_csv(path, delimiter=delimiter)
        return _labels(table, _columns_of(table), layout)
    if "dis_img_path" in header:
        table = tables.read_csv(path, ("dis_img_path", "score"), delimiter=delimiter)
        columns = dataclasses.replace(
            _OURS,
            image=("dis_img_path",),
            keep=("dis_type",),
            reference="ref_img_path" if "ref_img_path" in header else "",
        )
        return _labels(table, columns, layout)
    return _read_pyiqa(path, layout, header, delimiter)


def _read_pyiqa(path: Path, layout: Layout, header: list[str], delimiter: str) -> Labels:
    if not any(header):
        raise UserError(f"{path}: the file is empty; expected a line of columns: image, score, ...")
    table = tables.read_csv(path, delimiter=delimiter)
    if not table:
        return Labels(rows=[])
    first = list(table[0][1].values())
    numbers = [_NUMBER.fullmatch(cell) is not None for cell in first[:3]]
    if numbers[:2] != [False, True] and numbers != [False, False, True]:
        raise UserError(
            f"{path}: missing columns image, score; found {', '.join(header)}; expected those "
            "(separated by commas), or a meta file of pyiqa: image, label, ..."
            + tables.delimiter_hint(header, delimiter)
        )
    columns = dataclasses.replace(layout.columns, name_depth=0)
    options = {"full_reference": not numbers[1]}
    return pyiqa.read(path.parent, dataclasses.replace(layout, columns=columns, options=options))


def _text_rows(path: Path) -> list[Row]:
    """VisualQuality-R1's columns: [reference] image label [deviation]; the label tells them."""
    table: list[Row] = []
    for number, line in enumerate(tables.read_text(path).splitlines(), start=1):
        cells = line.split()
        if not cells:
            continue
        where = f"{path}, line {number}"
        names = ["image", "score", "std"]
        if len(cells) > 2 and not _NUMBER.fullmatch(cells[1]):
            names = ["reference", *names]
        if not 2 <= len(cells) <= len(names):
            raise UserError(f"{where}: expected [reference] image label [deviation]")
        table.append((where, dict(zip(names, cells, strict=False))))
    return table


def _with_images(table: list[Row], layout: Layout) -> Labels:
    """Rows of Parquet, whose image may be a path or the image itself."""
    found: list[LabelledImage] = []
    columns = dataclasses.replace(
        _columns_of(table), offset=layout.columns.offset, factor=layout.columns.factor
    )
    changed = dataclasses.replace(layout, columns=columns)
    names = set()
    for number, (where, row) in enumerate(table):
        cell = row.get("image")
        encoded = () if isinstance(cell, str) else (generated.embedded(cell, where=where),)
        if encoded:
            given = cell.get("path") if isinstance(cell, dict) else None
            row = {**row, "image": given or f"row_{number:08d}"}
        image = rows.image_of(row, changed, part=None, where=where)
        if image is None:
            continue
        if image.name in names:
            raise UserError(f"{where}: {image.name} is listed twice")
        names.add(image.name)
        found.append(dataclasses.replace(image, encoded=encoded))
    return Labels(rows=found)
