"""Scores that other tools have written: CSV or JSON lines with `path` and `score`."""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jaxqa.data.records import DatasetInfo, Example
from jaxqa.errors import UserError
from jaxqa.evaluation.evaluator import Prediction

PATH_COLUMNS = ("path", "image", "img_path", "image_path", "name", "filename", "img_name")
SCORE_COLUMNS = ("score", "pred", "prediction", "pred_score", "quality", "total_score")
ELEMENT_COLUMN = "element_score"
"""Of EvalMuse-40K's labels and of its challenge's result files: element of the text -> score."""

Elements = dict[str, float]
_Found = TypeVar("_Found")

_ABSENT = object()
_JSON = (".jsonl", ".json")


def read_scores(paths: Sequence[Path]) -> dict[str, float]:
    """Image path as the files write it -> score; rows without a number are left out.

    Raises:
      UserError: no such file, no usable columns, one image with two different scores, or no score.
    """
    scores: dict[str, float] = {}
    for path in paths:
        before = len(scores)
        for number, (name, value, _) in enumerate(_rows(path), start=1):
            score = _number(value)
            if score is not None and scores.setdefault(name, score) != score:
                raise UserError(
                    f"{path}, row {number}: {name} has the scores {scores[name]:g} and {score:g}; "
                    "expected one row for each image"
                )
        if len(scores) == before:
            raise UserError(f"{path}: no row holds a new score; expected columns path and score")
    return scores


def read_elements(paths: Sequence[Path]) -> dict[str, Elements]:
    """Image path as the files write it -> element -> score in [0, 1], where files hold any.

    Raises:
      UserError: as `read_scores`; or elements that are no object of numbers from 0 to 1.
    """
    found: dict[str, Elements] = {}
    for path in paths:
        for number, (name, _, record) in enumerate(_rows(path), start=1):
            given = record.get(ELEMENT_COLUMN)
            if given is None or path.suffix not in _JSON:
                continue
            scores = given.values() if isinstance(given, dict) else (None,)
            if not all(
                (score := _number(value)) is not None and 0 <= score <= 1 for value in scores
            ):
                raise UserError(
                    f"{path}, row {number}: {ELEMENT_COLUMN} is {given!r}; expected an object of "
                    "numbers from 0 to 1 by element"
                )
            found[name] = {element: float(value) for element, value in given.items()}
    return found


def match_scores(
    scores: dict[str, float],
    examples: Sequence[Example],
    info: DatasetInfo,
    *,
    source: str,
    higher_is_better: bool = True,
    elements: Mapping[str, Elements] | None = None,
) -> list[Prediction]:
    """A prediction for each example; an image that the file lacks is a failure, and is counted.

    Images are found by their whole path, else by as many last parts of it as the file writes, else
    by name where names are unique. Scores keep their scale; where the tool's direction is not the
    labels', they change their sign, so that agreement is positive; answers, whose scale TATAR's
    script guesses from their size, are mirrored inside the file's range instead.

    Raises:
      UserError: none of the images is in the file.
    """
    by_end, mirror = _by_end(scores), min(scores.values()) + max(scores.values())
    elements_by_end = _by_end(elements or {})
    sign = 1.0 if higher_is_better == info.higher_is_better else -1.0
    predictions, found = [], 0
    for example in examples:
        score = _find(by_end, Path(str(example.image)))
        found += score is not None
        predictions.append(
            Prediction(
                example_id=example.example_id,
                image=str(example.image),
                dataset=example.dataset,
                label=float(example.score or 0.0),
                score=None if score is None else sign * score,
                text="",
                error=None if score is not None else f"{source} has no score for it",
                answer=None if score is None else score if sign > 0 else mirror - score,
                elements=_judged(_find(elements_by_end, Path(str(example.image))), example),
            )
        )
    if not found:
        raise UserError(
            f"{source}: none of the {len(examples)} images of {info.name} is in it, for example "
            f"{Path(str(examples[0].image)).name}; it names {next(iter(scores))} first: expected "
            "paths, or names, of this data set's images"
        )
    return predictions


def _judged(scores: Elements | None, example: Example) -> dict[str, tuple[float, float]] | None:
    """Score and truth, the mean of the raters, of the elements that have both."""
    truths = example.metadata.get(ELEMENT_COLUMN)
    if not scores or not isinstance(truths, dict):
        return None
    found = {}
    for element, ratings in truths.items():
        numbers = [
            n
            for r in (ratings if isinstance(ratings, list) else [ratings])
            if (n := _number(r)) is not None
        ]
        if element in scores and numbers:
            found[element] = (scores[element], math.fsum(numbers) / len(numbers))
    return found


def _rows(path: Path) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Name, score and the whole row."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; expected CSV or JSON lines") from error
    except OSError as error:
        raise UserError(f"cannot read the scores in {path}: {error.strerror}") from error
    records = _json_lines(path, text) if path.suffix in _JSON else _csv(path, text)
    for record in records:
        name = next((record[n] for n in PATH_COLUMNS if n in record), None)
        value = next((record[n] for n in SCORE_COLUMNS if n in record), _ABSENT)
        if name is None or value is _ABSENT:
            raise UserError(
                f"{path}: found the columns {', '.join(map(str, record))}; expected one of "
                f"{', '.join(PATH_COLUMNS)} and one of {', '.join(SCORE_COLUMNS)}"
            )
        yield str(name).strip(), value, record


def _csv(path: Path, text: str) -> Iterator[dict[str, Any]]:
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    for row in csv.DictReader(text.splitlines(), delimiter=delimiter, skipinitialspace=True):
        yield {str(key).strip().lower(): value for key, value in row.items()}


def _json_lines(path: Path, text: str) -> Iterator[dict[str, Any]]:
    try:
        whole = json.loads(text) if text.lstrip().startswith("[") else None
        records = whole or [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON lines: {error}") from error
    if not all(isinstance(record, dict) for record in records):
        raise UserError(f"{path}: expected one JSON object per line, with path and score")
    yield from records


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _by_end(scores: Mapping[str, _Found]) -> dict[tuple[str, ...], _Found | None]:
    """Every path's last parts -> its score; None where several paths end alike."""
    ends: dict[tuple[str, ...], _Found | None] = {}
    for name, score in scores.items():
        parts = Path(name.replace("\\", "/")).parts
        for start in range(len(parts)):
            end = parts[start:]
            ends[end] = score if end not in ends or ends[end] == score else None
    return ends


def _find(by_end: Mapping[tuple[str, ...], _Found | None], path: Path) -> _Found | None:
    for start in range(len(path.parts)):
        score = by_end.get(path.parts[start:])
        if score is not None:
            return score
    return None
