"""From rows of any table to labelled images, by what a layout says of its columns."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from jaxqa.data import tables
from jaxqa.data.layouts import Columns, Layout
from jaxqa.data.records import OWN, PARTS, LabelledImage, Labels
from jaxqa.data.tables import Row
from jaxqa.errors import UserError
from jaxqa.rewards.labels import CHOICES, DISTORTION_CLASSES, SEVERITIES, TASKS

_ANSWERS = {"distortion_class": DISTORTION_CLASSES, "severity": SEVERITIES, "choice": CHOICES}

_PART_WORDS = {
    **{part: part for part in PARTS},
    **{"training": "train", "val": "validation", "valid": "validation", "testing": "test"},
}


def labels(found: Iterable[tuple[str | None, Iterable[Row]]], layout: Layout) -> Labels:
    """Labelled images of `(part, rows)` tables; a row said twice over must agree with itself.

    Raises:
        UserError: a row is malformed, or two rows label one image.
    """
    images: dict[str, tuple[str, LabelledImage]] = {}
    dropped = 0
    for part, rows in found:
        for where, row in rows:
            image = image_of(row, layout, part=part, where=where)
            if image is None:
                dropped += 1
                continue
            if image.name in images:
                first = images[image.name][0]
                raise UserError(f"{where}: {image.name} is listed twice, first in {first}")
            images[image.name] = (where, image)
    notes = (f"{dropped} rows left out: {layout.columns.drop_reason}",) if dropped else ()
    return Labels(rows=[image for _, image in images.values()], notes=notes)


def image_of(
    row: Mapping[str, Any], layout: Layout, *, part: str | None, where: str
) -> LabelledImage | None:
    """The labelled image of one row; None for a row that is not part of the data set."""
    columns = layout.columns
    files = (_file(row, columns.image, columns, where=where),)
    base = files[0].rpartition("/")[2]
    if columns.drop and re.fullmatch(columns.drop, base):
        return None
    files += tuple(_file(row, (name,), columns, where=where) for name in columns.extra_images)
    metadata = _metadata(row, columns, base, where=where)
    return LabelledImage(
        name="|".join(_name(file, columns) for file in files),
        files=files,
        score=_score(row, columns, where=where),
        reference=metadata.get("reference"),
        parts=_parts(row, columns, layout.split, part, where=where),
        task=_task(row, columns, where=where),
        prompt=_optional(row, columns.prompt, where=where),
        rationale=_optional(row, columns.rationale, where=where),
        answer_labels={
            label: _answer(row, label, name, where=where) for label, name in columns.answers.items()
        },
        metadata=metadata,
    )


def with_label(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of Q-Align's, whose label may stand in its id only: `I66_01_01.png->4.3`."""
    identity = row.get("id")
    if "gt_score" in row or not isinstance(identity, str) or "->" not in identity:
        return row
    return {**row, "gt_score": identity.rpartition("->")[2]}


def first_of(row: Mapping[str, Any], names: tuple[str, ...], *, where: str) -> str:
    """The first of `names` that the row has.

    Raises:
        UserError: none of them.
    """
    for name in names:
        if row.get(name) is not None:
            return name
    raise UserError(
        f"{where}: missing columns {' or '.join(names)}; found {', '.join(map(str, row))}"
    )


def _file(row: Mapping[str, Any], names: tuple[str, ...], columns: Columns, *, where: str) -> str:
    name = first_of(row, names, where=where)
    value = row[name]
    if isinstance(value, list) and len(value) == 1:  # VisualQuality-R1's JSON lines
        value = value[0]
    file = tables.text({name: value}, name, where=where).replace("\\", "/")
    if columns.folder:
        file = f"{tables.text(row, columns.folder, where=where)}/{file}"
    if columns.suffix and "." not in file.rpartition("/")[2]:
        file += columns.suffix
    return file.removeprefix("./")


def _name(file: str, columns: Columns) -> str:
    """What of a path is the row's name: the same wherever the data set lies."""
    return "/".join(file.split("/")[-columns.name_depth :])


def _score(row: Mapping[str, Any], columns: Columns, *, where: str) -> float | None:
    if not columns.score:
        return None
    name = first_of(row, columns.score, where=where)
    return columns.offset + columns.factor * tables.number(row, name, where=where)


def _metadata(row: Mapping[str, Any], columns: Columns, base: str, *, where: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {name: row[name] for name in columns.keep if row.get(name)}
    if columns.reference and row.get(columns.reference) not in (None, ""):
        value = tables.text(row, columns.reference, where=where)
        metadata["reference"] = PurePosixPath(value).stem
    if columns.pattern:
        match = re.fullmatch(columns.pattern, base, re.ASCII | re.IGNORECASE)
        if match is None:
            raise UserError(f"{where}: unexpected file name {base!r}; expected {columns.pattern}")
        for key, value in match.groupdict().items():
            metadata[key] = int(value) if value.isdigit() and key != "reference" else value
        metadata["reference"] = metadata["reference"].upper()
    if columns.std and row.get(columns.std) not in (None, ""):
        metadata["label_std"] = _deviation(row, columns, where=where)
    return metadata


def _deviation(row: Mapping[str, Any], columns: Columns, *, where: str) -> float:
    """Standard deviation in the label's own scale."""
    value = tables.number(row, columns.std, where=where)
    if value < 0:
        kind = "variance" if columns.std_is_variance else "standard deviation"
        raise UserError(f"{where}: {columns.std} is {value}, expected a {kind} of 0 or more")
    value = math.sqrt(value) if columns.std_is_variance else value
    return value * columns.std_factor * abs(columns.factor)


def _parts(
    row: Mapping[str, Any], columns: Columns, split: str, part: str | None, *, where: str
) -> dict[str, str]:
    parts = {} if part is None else {split: part}
    if columns.part and row.get(columns.part) not in (None, ""):
        word = tables.text(row, columns.part, where=where)
        known = {**_PART_WORDS, **columns.part_words}
        if word.lower() not in known:
            raise UserError(
                f"{where}: {columns.part} is {word!r}, expected one of {', '.join(known)}"
            )
        parts[OWN] = known[word.lower()]
    return parts


def _task(row: Mapping[str, Any], columns: Columns, *, where: str) -> str | None:
    task = _optional(row, columns.task, where=where)
    if task is not None and task not in TASKS:
        raise UserError(f"{where}: task is {task!r}, expected one of {', '.join(TASKS)}")
    return task


def _answer(row: Mapping[str, Any], label: str, name: str, *, where: str) -> str:
    """One of the words that a task's answer can be; JSON's null stands for the word."""
    value = "null" if name in row and row[name] is None else tables.text(row, name, where=where)
    if value not in _ANSWERS[label]:
        raise UserError(
            f"{where}: {name} is {value!r}, expected one of {', '.join(_ANSWERS[label])}"
        )
    return value


def _optional(row: Mapping[str, Any], name: str, *, where: str) -> str | None:
    if not name or row.get(name) in (None, ""):
        return None
    return tables.text(row, name, where=where)
