"""KADID-10k's layout: `images/` and `dmos.csv` with the header dist_img,ref_img,dmos,var.

Two optional files beside dmos.csv, which the demo data set has:
`splits.csv` (header ref_img,split; split is train, validation or test) and
`rationales.jsonl` (objects with dist_img and rationale).

Two traps: `dmos` rises with quality although its name says otherwise, and `var` is a variance;
its square root is kept in the metadata as `label_std`.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from jaxqa.data.readers import tables
from jaxqa.data.records import PARTS, LabelledImage
from jaxqa.errors import UserError

LABELS = "dmos.csv"
IMAGES = "images"
SPLITS = "splits.csv"
RATIONALES = "rationales.jsonl"

_NAME = re.compile(r"I(?P<reference>.+)_(?P<type>\d{1,3})_(?P<level>\d{1,3})\.\w+", re.ASCII)


def read(root: Path) -> list[LabelledImage]:
    """All rows of `root`/dmos.csv in file order; does not look at the image files.

    Raises:
        UserError: a file is missing or unreadable, a row is malformed or doubled.
    """
    parts = _read_parts(root / SPLITS)
    rationales = _read_rationales(root / RATIONALES)
    rows: dict[str, LabelledImage] = {}
    for line, row in tables.read_csv(root / LABELS, ("dist_img", "ref_img", "dmos", "var")):
        image = _parse_row(row, root, line=line, parts=parts, rationales=rationales)
        if image.name in rows:
            raise UserError(f"{root / LABELS}, line {line}: {image.name} is listed twice")
        rows[image.name] = image
    unknown = [name for name in rationales if name not in rows]
    if unknown:
        raise UserError(
            f"{root / RATIONALES}: {len(unknown)} images are not in {LABELS}, first {unknown[0]}"
        )
    return list(rows.values())


def _parse_row(
    row: Mapping[str, str],
    root: Path,
    *,
    line: int,
    parts: Mapping[str, str] | None,
    rationales: Mapping[str, str],
) -> LabelledImage:
    path = root / LABELS
    name, reference = row["dist_img"], PurePosixPath(row["ref_img"]).stem
    match = _NAME.fullmatch(name)
    if match is None or "/" in name or "\\" in name:  # also keeps every path inside images/
        raise UserError(
            f"{path}, line {line}: dist_img is {name!r}, expected I<reference>_<type>_<level>.png"
        )
    if reference != f"I{match['reference']}":
        raise UserError(f"{path}, line {line}: {name} does not belong to ref_img {row['ref_img']}")
    if parts is not None and reference not in parts:
        raise UserError(f"{root / SPLITS}: no split for {reference}, which {LABELS} uses")
    variance = tables.parse_number(row["var"], path=path, line=line, column="var")
    if variance < 0:
        raise UserError(f"{path}, line {line}: var is {variance}, expected a variance of 0 or more")
    metadata: dict[str, Any] = {
        "reference": reference,
        "distortion_type": int(match["type"]),
        "distortion_level": int(match["level"]),
        "label_std": math.sqrt(variance),
    }
    return LabelledImage(
        name=name,
        path=root / IMAGES / name,
        score=tables.parse_number(row["dmos"], path=path, line=line, column="dmos"),
        reference=reference,
        part=None if parts is None else parts[reference],
        rationale=rationales.get(name),
        metadata=metadata,
    )


def _read_parts(path: Path) -> dict[str, str] | None:
    """Reference -> part of the optional splits.csv; None where there is no such file."""
    if not path.exists():
        return None
    parts: dict[str, str] = {}
    for line, row in tables.read_csv(path, ("ref_img", "split")):
        reference, part = PurePosixPath(row["ref_img"]).stem, row["split"]
        if part not in PARTS:
            raise UserError(
                f"{path}, line {line}: split is {part!r}, expected one of {', '.join(PARTS)}"
            )
        if parts.setdefault(reference, part) != part:
            raise UserError(f"{path}, line {line}: {reference} is in {parts[reference]} and {part}")
    return parts


def _read_rationales(path: Path) -> dict[str, str]:
    """Image -> rationale of the optional rationales.jsonl."""
    rationales: dict[str, str] = {}
    if not path.exists():
        return rationales
    for line, row in tables.read_json_lines(path, ("dist_img", "rationale")):
        if row["dist_img"] in rationales:
            raise UserError(f"{path}, line {line}: a second rationale for {row['dist_img']}")
        rationales[row["dist_img"]] = row["rationale"]
    return rationales
