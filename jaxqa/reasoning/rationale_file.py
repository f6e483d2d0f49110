"""The file that a pipeline writes: one line per image, kept or dropped, and how it is read back."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxqa.data.encoding import image_name
from jaxqa.data.records import Example, stable_id
from jaxqa.errors import UserError
from jaxqa.reasoning.human_audit import read_verdicts
from jaxqa.reasoning.labels import lacks_score, unit_score
from jaxqa.reasoning.pipeline import Item, Outcome
from jaxqa.train.json_lines import Record, decode_line


def record_of(item: Item, outcome: Outcome, *, group: str) -> Record:
    """The line of one image; `unit_score` is its label from 0 (worst) to 1 (best)."""
    example = item.example
    return {
        "example_id": example.example_id,
        "dataset": example.dataset,
        "source": item.source.name,
        "task": item.source.template.task,
        "image": image_name(example),
        "prompt": example.prompt,
        "score": example.score,
        "unit_score": None if lacks_score(item) else unit_score(item),
        "group": group,
        "kept": outcome.reason is None,
        "reason": outcome.reason,
        "detail": outcome.detail,
        "rationales": list(outcome.rationales),
        "dropped": dict(outcome.dropped),
        "notes": dict(outcome.notes),
    }


def read_rationales(path: Path) -> dict[int, tuple[str, ...]]:
    """Example id -> its texts, of the images that were kept and that no person has rejected.

    Raises:
      UserError: there is no such file, a line is cut or lacks its texts, or nothing is left.
    """
    if not path.is_file():
        raise UserError(
            f"no rationales at {path}; expected a file with a JSON object per line, with "
            "example_id and rationales; run the stage that writes it first"
        )
    rejected = read_verdicts(path).rejected
    texts: dict[int, tuple[str, ...]] = {}
    for place, record in _whole_lines(path):
        if record.get("kept", True):
            example_id, found = _checked(record, place)
            if example_id not in rejected:
                texts[example_id] = found
    if not texts:
        raise UserError(f"{path} keeps no rationale; its audit table says why each was dropped")
    return texts


def with_rationales(
    examples: Iterable[Example], texts: Mapping[int, Sequence[str]]
) -> list[Example]:
    """An example for each text about each of `examples`; those without a text are left out.

    The first text's example keeps its number, further ones get numbers of their own.
    """
    return [
        dataclasses.replace(
            example,
            rationale=text,
            example_id=_numbered(example, position),
        )
        for example in examples
        for position, text in enumerate(texts.get(example.example_id, ()))
    ]


def _whole_lines(path: Path) -> Iterator[tuple[str, Record]]:
    """Where each object of `path` stands, and the object; the last line may lack its end."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            place = f"{path}, line {number}"
            if line.strip():
                record = decode_line(line.rstrip(b"\n") + b"\n")
                if record is None:
                    raise UserError(
                        f"{place}: expected a JSON object, found {line[:60]!r}; the line is cut or "
                        "damaged: mend or delete it (run the stage that wrote it to ask again)"
                    )
                yield place, record


def _numbered(example: Example, position: int) -> int:
    if position == 0:
        return example.example_id
    return stable_id(example.dataset, f"{example.example_id}#{position}")


def _checked(record: Mapping[str, Any], place: str) -> tuple[int, tuple[str, ...]]:
    example_id, texts = record.get("example_id"), record.get("rationales")
    if (
        not isinstance(example_id, int)
        or not isinstance(texts, list)
        or not texts
        or not all(isinstance(text, str) and text.strip() for text in texts)
    ):
        raise UserError(
            f"{place}: expected example_id (an integer) and rationales (a list of texts); "
            f"found {example_id!r} and {str(texts)[:80]}"
        )
    return example_id, tuple(texts)
