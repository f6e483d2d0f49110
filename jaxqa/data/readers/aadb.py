"""AADB: a text file `name score` per part and attribute; the file of the score is the label.

One attribute's files are called BalacingElements, misspelt; they are read as balancing_elements.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from jaxqa.data import tables
from jaxqa.data.layouts import Layout
from jaxqa.data.readers import plain, rows
from jaxqa.data.records import Labels
from jaxqa.data.tables import Row

_ATTRIBUTES = (
    *("BalacingElements", "ColorHarmony", "Content", "DoF", "Light", "MotionBlur", "Object"),
    *("Repetition", "RuleOfThirds", "Symmetry", "VividColor"),
)
_HEADER = ("image", "score")


def attribute_name(name: str) -> str:
    """The attribute as metadata call it: words with underscores, the misspelling mended."""
    corrected = {"BalacingElements": "BalancingElements", "DoF": "DepthOfField"}.get(name, name)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", corrected).lower()


def read(folder: Path, layout: Layout) -> Labels:
    """Rows of the score lists, with the attributes whose lists are there."""
    found = []
    for file, path in plain.present(folder, layout):
        attributes = _attributes(path)
        table: list[Row] = [
            (where, {**row, **attributes.get(row["image"], {})})
            for where, row in tables.read_columns(path, _HEADER)
        ]
        found.append((file.part, table))
    return rows.labels(found, layout)


def _attributes(path: Path) -> dict[str, dict[str, float]]:
    """Image -> attribute -> value, of the lists beside a list of scores."""
    values: dict[str, dict[str, float]] = {}
    for attribute in _ATTRIBUTES:
        beside = path.with_name(path.name.replace("_score.txt", f"_{attribute}.txt"))
        if beside.is_file():
            _add(values, attribute_name(attribute), beside)
    return values


def _add(values: dict[str, dict[str, float]], attribute: str, path: Path) -> None:
    for where, row in tables.read_columns(path, _HEADER):
        named: Mapping[str, str] = dict(row)
        value = tables.number(named, "score", where=where)
        values.setdefault(named["image"], {})[attribute] = value


KEEP = tuple(attribute_name(attribute) for attribute in _ATTRIBUTES)
"""Metadata that the rows may have."""
