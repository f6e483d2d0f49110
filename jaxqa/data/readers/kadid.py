"""KADID-10k's own layout: `images/` and `dmos.csv` with the header dist_img,ref_img,dmos,var.

Two optional files beside dmos.csv, which the demo data set has:
`splits.csv` (header ref_img,split; split is train, validation or test) and
`rationales.jsonl` (objects with dist_img and rationale).

Two traps: `dmos` rises with quality although its name says otherwise, and `var` is a variance;
its square root is kept in the metadata as `label_std`.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from jaxqa.data import tables
from jaxqa.data.layouts import Columns, Layout, label_file
from jaxqa.data.readers import rows
from jaxqa.data.records import OWN, PARTS, LabelledImage, Labels
from jaxqa.errors import UserError

LABELS = "dmos.csv"
SPLITS = "splits.csv"
RATIONALES = "rationales.jsonl"
PATTERN = r"(?P<reference>I.+)_(?P<distortion_type>\d{1,3})_(?P<distortion_level>\d{1,3})\.\w+"

LAYOUT = Layout(
    name="official",
    reader="kadid",
    files=label_file(LABELS),
    images=("images",),
    columns=Columns(
        image=("dist_img",),
        score=("dmos",),
        std="var",
        std_is_variance=True,
        pattern=PATTERN,
    ),
)


def read(folder: Path, layout: Layout) -> Labels:
    """All rows of dmos.csv in file order; does not look at the image files.

    Raises:
        UserError: a file is missing or unreadable, a row is malformed or doubled.
    """
    parts = _read_parts(folder / SPLITS)
    rationales = _read_rationales(folder / RATIONALES)
    table = tables.read_csv(folder / LABELS, ("dist_img", "ref_img", "dmos", "var"))
    for where, row in table:
        _check_names(row, where=where)
    found = rows.labels([(None, table)], layout)
    known = {image.name for image in found.rows}
    unknown = [name for name in rationales if name not in known]
    if unknown:
        raise UserError(
            f"{folder / RATIONALES}: {len(unknown)} images are not in {LABELS}, first {unknown[0]}"
        )
    images = [
        dataclasses.replace(
            image,
            parts=_part_of(image, parts, folder),
            rationale=rationales.get(image.name),
        )
        for image in found.rows
    ]
    return Labels(rows=images, notes=found.notes)


def _check_names(row: Mapping[str, Any], *, where: str) -> None:
    name, reference = row["dist_img"], PurePosixPath(row["ref_img"]).stem
    if not name.lower().startswith(f"{reference.lower()}_"):
        raise UserError(
            f"{where}: {name} does not belong to ref_img {row['ref_img']}; expected "
            "I<reference>_<type>_<level>.png"
        )


def _part_of(image: LabelledImage, parts: Mapping[str, str] | None, folder: Path) -> dict[str, str]:
    if parts is None:
        return {}
    reference = image.reference or ""
    if reference not in parts:
        raise UserError(f"{folder / SPLITS}: no split for {reference}, which {LABELS} uses")
    return {OWN: parts[reference]}


def _read_parts(path: Path) -> dict[str, str] | None:
    """Reference -> part of the optional splits.csv; None where there is no such file."""
    if not path.exists():
        return None
    parts: dict[str, str] = {}
    for where, row in tables.read_csv(path, ("ref_img", "split")):
        reference, part = PurePosixPath(row["ref_img"]).stem.upper(), row["split"]
        if part not in PARTS:
            raise UserError(f"{where}: split is {part!r}, expected one of {', '.join(PARTS)}")
        if parts.setdefault(reference, part) != part:
            raise UserError(f"{where}: {reference} is in {parts[reference]} and {part}")
    return parts


def _read_rationales(path: Path) -> dict[str, str]:
    """Image -> rationale of the optional rationales.jsonl."""
    rationales: dict[str, str] = {}
    if not path.exists():
        return rationales
    for where, row in tables.read_json_lines(path, ("dist_img", "rationale")):
        if row["dist_img"] in rationales:
            raise UserError(f"{where}: a second rationale for {row['dist_img']}")
        rationales[row["dist_img"]] = row["rationale"]
    return rationales
