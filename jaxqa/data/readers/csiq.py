"""csiq.DMOS.xlsx, sheet all_by_image, header in line 4, or that sheet saved as CSV.

A row says image, dst_idx, dst_type, dst_lev, dmos_std, dmos; the file is made of them:
`1600.AWGN.1.png` of image 1600, dst_type noise, level 1.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxqa.data import binary_tables, tables
from jaxqa.data.layouts import Layout
from jaxqa.data.readers import plain, rows
from jaxqa.data.records import Labels
from jaxqa.errors import UserError

SHEET, HEADER_ROW = "all_by_image", 4

_TOKENS = {
    "noise": "AWGN",
    "blur": "BLUR",
    "contrast": "contrast",
    "fnoise": "fnoise",
    "jpeg": "JPEG",
    "jpeg 2000": "jpeg2000",
}


def read(folder: Path, layout: Layout) -> Labels:
    """Rows of the workbook's sheet."""
    path = plain.present(folder, layout)[0][1]
    if path.suffix.lower() == ".xlsx":
        table = binary_tables.read_xlsx(path, sheet=SHEET, header_row=HEADER_ROW)
    else:
        table = tables.read_csv(path, ("image", "dst_type", "dst_lev", "dmos"))
    return rows.labels(
        [(None, [(where, {**row, "file": _file(row, where)}) for where, row in table])], layout
    )


def _file(row: Mapping[str, Any], where: str) -> str:
    kind = tables.text(row, "dst_type", where=where).lower()
    if kind not in _TOKENS:
        raise UserError(f"{where}: dst_type is {kind!r}, expected one of {', '.join(_TOKENS)}")
    image = tables.text(row, "image", where=where)
    level = int(tables.number(row, "dst_lev", where=where))
    token = _TOKENS[kind]
    return f"{token.lower()}/{image}.{token}.{level}.png"
