"""ArtiMuse-10K: JSON lists of scores, and a file of conversations with the experts' remarks.

The remarks are in any file beside the lists whose name contains `text` and ends in `.jsonl`; a line
asks about one of eight attributes of one image and answers. Lists that were merged with them
already have the key `aesthetic_attributes`.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxqa.data import tables
from jaxqa.data.layouts import Layout
from jaxqa.data.readers import plain, rows
from jaxqa.data.records import Labels
from jaxqa.errors import UserError

ATTRIBUTES: Mapping[str, str] = {
    "Composition & Structure": "composition_structure",
    "Composition & Design": "composition_structure",
    "Visual Elements": "visual_elements",
    "Visual Elements & Structure": "visual_elements",
    "Technical Execution": "technical_execution",
    "Originality & Creativity": "originality_creativity",
    "Theme & Communication": "theme_communication",
    "Emotion & Viewer Response": "emotion_viewer_response",
    "Overall Gestalt": "overall_gestalt",
    "Overall Evaluation": "overall_evaluation",
    "Comprehensive Evaluation": "overall_evaluation",
}
"""Attribute as a question names it, in TATAR's data or in ArtiMuse's paper -> our key."""

KEY = "aesthetic_attributes"

# The released data misspell the word.
_QUESTION = re.compile(r"from the (?:ae?spect|attribute) of\s+([^\n\r.?\u3002\uff1f]+)")


def read(folder: Path, layout: Layout) -> Labels:
    """Rows of the lists, with the remarks on each image."""
    files = sorted(folder.glob("*text*.jsonl"))
    remarks = _remarks(files)
    found = []
    for file, path in plain.present(folder, layout):
        table = tables.read_json_list(path)
        found.append((file.part, [(where, _with_remarks(row, remarks)) for where, row in table]))
    labels = rows.labels(found, layout)
    told = sum(KEY in row.metadata for row in labels.rows)
    names = ", ".join(path.name for path in files) or "the lists themselves"
    note = f"experts' remarks on {told} of {len(labels.rows)} images, from {names}"
    return dataclasses.replace(labels, notes=(*labels.notes, note))


def _with_remarks(
    row: Mapping[str, Any], remarks: Mapping[str, Mapping[str, str]]
) -> Mapping[str, Any]:
    attributes = remarks.get(_base(str(row.get("image"))))
    return row if attributes is None or row.get(KEY) else {**row, KEY: attributes}


def _remarks(paths: list[Path]) -> dict[str, dict[str, str]]:
    """Name of an image, without folders -> attribute -> remark; of two about one, the last."""
    remarks: dict[str, dict[str, str]] = {}
    for path in paths:
        for where, row in tables.read_json_lines(path, ("image",)):
            question, answer = _turns(row, where=where)
            attribute = _attribute(question, where=where)
            remarks.setdefault(_base(row["image"]), {})[attribute] = answer
    return remarks


def _turns(row: Mapping[str, Any], *, where: str) -> tuple[str, str]:
    talk = row.get("conversations")
    if isinstance(talk, list) and len(talk) >= 2:
        question, answer = (
            turn.get("value") if isinstance(turn, dict) else None for turn in talk[:2]
        )
        if isinstance(question, str) and isinstance(answer, str):
            return question, answer.strip()
    raise UserError(f"{where}: expected conversations, a question and an answer, each with a value")


def _attribute(question: str, *, where: str) -> str:
    match = _QUESTION.search(question)
    if match is None:
        raise UserError(
            f"{where}: expected a question about an aspect ('... from the aspect of Overall "
            f"Gestalt'); found {question[:120]!r}"
        )
    name = match.group(1).strip()
    if name not in ATTRIBUTES:
        raise UserError(f"{where}: unknown attribute {name!r}; expected {', '.join(ATTRIBUTES)}")
    return ATTRIBUTES[name]


def _base(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]
