"""A prepared data set as `jaxqa.data.preparation` writes it: what is in the folder, and reading it.

NAME/dataset.json                        what was prepared from what; written last
NAME/PART/labels.jsonl                   one row per record, in its order
NAME/PART/images/1.0.0/*.array_record*   a TensorFlow Datasets builder: the encoded images
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxqa.data import tables
from jaxqa.data.records import LabelledImage, Labels
from jaxqa.data.stored import StoredImage
from jaxqa.errors import UserError
from jaxqa.files import read_json

MANIFEST = "dataset.json"
LABELS = "labels.jsonl"
PART = "part.json"
FORMAT = "jaxqa prepared data set, version 1"


def find(name: str, root: Path) -> Path | None:
    """The prepared data set's folder, if `root` is or holds one.

    Raises:
        UserError: one that was left unfinished.
    """
    for folder in (root / name, root):
        if manifest := _manifest(folder):
            if manifest.get("name") != name:
                raise UserError(
                    f"{folder}: holds the prepared data set {manifest.get('name')}, not {name}"
                )
            return folder
        if folder == root / name and any(folder.glob(f"*/{PART}")):
            raise UserError(
                f"{folder}: {name} is not prepared to the end; run the same `jaxqa data prepare` "
                "again: finished parts are kept"
            )
    return None


def is_one(name: str, folder: Path) -> bool:
    """Whether `folder` is the prepared data set called `name`."""
    return _manifest(folder).get("name") == name


def _manifest(folder: Path) -> dict[str, Any]:
    """What a folder's manifest says; nothing where it has none, or a file of that name only."""
    try:
        manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
    except UserError:  # somebody else's dataset.json, of any content
        return {}
    return manifest if manifest.get("format") == FORMAT else {}


def read_labels(name: str, folder: Path) -> Labels:
    """All rows of a prepared data set, their images in its records.

    Raises:
        UserError: files are missing or damaged.
    """
    manifest = read_json(folder / MANIFEST)
    rows: list[LabelledImage] = []
    for part, count in manifest["parts"].items():
        found = read_part(folder / part)
        if len(found) != count:
            raise UserError(
                f"{folder / part}: {len(found)} rows of {name}, expected {count}; prepare it again"
            )
        rows += found
    rows.sort(key=lambda row: row.metadata["row"])
    return Labels(
        rows=[_without_row(row) for row in rows],
        notes=(f"prepared from {manifest['source']}", *manifest["notes"]),
    )


def read_part(folder: Path) -> list[LabelledImage]:
    """Rows of one part, with the number that each had in the label file as metadata `row`."""
    builder = str(builder_folder(folder))
    found = []
    for record, (where, row) in enumerate(tables.read_json_lines(folder / LABELS)):
        try:
            found.append(_row(dict(row), builder, record))
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(f"{where}: not a row of a prepared data set: {error}") from error
    return found


def builder_folder(part: Path) -> Path:
    """Folder of the files of the TensorFlow Datasets builder of a part."""
    return part / "images" / "1.0.0"


def as_line(row: LabelledImage, number: int, sizes: Sequence[tuple[int, int]]) -> str:
    """A row as a line of labels.jsonl.

    Args:
        row: The row.
        number: Its place in the label file.
        sizes: Height and width of each of its images.
    """
    value = dataclasses.asdict(dataclasses.replace(row, encoded=()))
    value["encoded"] = sizes
    value["metadata"]["row"] = number
    return as_json(value)


def as_json(value: Any) -> str:
    """JSON on one line, letters as they are."""
    return json.dumps(value, ensure_ascii=False)


def _row(value: dict[str, Any], builder: str, record: int) -> LabelledImage:
    files = tuple(value.pop("files"))
    images = tuple(
        StoredImage(folder=builder, record=record, place=place, name=file, size=(height, width))
        for place, (file, (height, width)) in enumerate(
            zip(files, value.pop("encoded"), strict=True)
        )
    )
    return LabelledImage(files=files, encoded=images, **value)


def _without_row(row: LabelledImage) -> LabelledImage:
    metadata = {key: value for key, value in row.metadata.items() if key != "row"}
    return dataclasses.replace(row, metadata=metadata)
