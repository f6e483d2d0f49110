"""From text to arrays: what stands in `<answer>`, and which layouts the whole text has."""

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxqa.rewards.answers import LAYOUTS, Answers
from jaxqa.rewards.labels import ABSENT, CHOICES, DISTORTION_CLASSES, SEVERITIES
from jaxqa.rewards.layouts import layouts_of

ScoreRange = tuple[float, float]

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_OPEN, _CLOSE = "<answer>", "</answer>"
# Rewards are computed in float32, where a larger number would become infinite.
_LARGEST = float(np.finfo(np.float32).max)
# Integers become floats at once: thousands of digits are no error then, only infinite.
_JSON = json.JSONDecoder(parse_int=float, parse_constant=lambda _: None)
_CLASS_IDS = {name: place for place, name in enumerate(DISTORTION_CLASSES)}
_SEVERITY_IDS = {name: place for place, name in enumerate(SEVERITIES)}
_CHOICE_IDS = {name: place for place, name in enumerate(CHOICES)}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ParsedAnswer:
    """One completion, read.

    Attributes:
      score: the number in the last `<answer>`, or None.
      error: why there is no score, or None.
      layouts: which of `answers.LAYOUTS` the whole text has.
      word_count: words of the whole text, split at white space, tags included.
      class_id: place in `labels.DISTORTION_CLASSES` of what the answer names, else -1.
      severity_id: place in `labels.SEVERITIES` of what the answer names, else -1.
      choice_id: place in `labels.CHOICES` of the answer, else -1.
    """

    score: float | None
    error: str | None
    layouts: tuple[bool, ...]
    word_count: int
    class_id: int = ABSENT
    severity_id: int = ABSENT
    choice_id: int = ABSENT


def parse_answer(text: str, *, score_range: ScoreRange | None = None) -> ParsedAnswer:
    """Read the last `<answer> ... </answer>` of `text`.

    A score is one decimal number and nothing else, or a JSON object whose `rating` is a number;
    a degradation is a JSON object with the strings `distortion_class` and `severity`; a comparison
    is the choice alone. JSON may stand in a Markdown code fence. Anything else, or a number outside
    `score_range` (inclusive), is not read: never a guess, never a clipped value.
    """
    answer = last_answer(text)
    fields = None if answer is None else _json_object(answer)
    score, error = _read_score(answer, fields)
    if score is not None and score_range is not None:
        low, high = score_range
        if not low <= score <= high:
            score, error = None, f"answer {score:g} lies outside [{low:g}, {high:g}]"
    return ParsedAnswer(
        score=score,
        error=error,
        layouts=layouts_of(text, is_object=fields is not None),
        word_count=len(text.split()),
        class_id=_place(_CLASS_IDS, fields and fields.get("distortion_class")),
        severity_id=_place(_SEVERITY_IDS, fields and fields.get("severity")),
        choice_id=_place(_CHOICE_IDS, answer),
    )


def parse_answers(
    texts: Sequence[Sequence[str]], *, score_range: ScoreRange | None = None
) -> Answers:
    """Parse G texts for each of N prompts into NumPy arrays [N G]; see `parse_answer`."""
    group_sizes = {len(group) for group in texts}
    if len(group_sizes) != 1:
        raise ValueError(
            f"groups have {sorted(group_sizes)} texts, expected the same number (at least one "
            "group) for every prompt"
        )
    parsed = [parse_answer(text, score_range=score_range) for group in texts for text in group]
    shape = (len(texts), group_sizes.pop())

    def array(read: Callable[[ParsedAnswer], Any], dtype: type, *more: int) -> np.ndarray:
        return np.array([read(answer) for answer in parsed], dtype).reshape(*shape, *more)

    return Answers(
        score=array(lambda answer: answer.score or 0.0, np.float32),
        valid=array(lambda answer: answer.score is not None, np.bool_),
        layouts=array(lambda answer: answer.layouts, np.bool_, len(LAYOUTS)),
        word_count=array(lambda answer: answer.word_count, np.int32),
        class_id=array(lambda answer: answer.class_id, np.int32),
        severity_id=array(lambda answer: answer.severity_id, np.int32),
        choice_id=array(lambda answer: answer.choice_id, np.int32),
    )


def last_answer(text: str) -> str | None:
    """What stands in the last complete `<answer>` block, without outer space or code fence."""
    # The last `<answer>` that a `</answer>` follows, up to the first one that does.
    start = text.rfind(_OPEN, 0, max(text.rfind(_CLOSE), 0))
    if start < 0:
        return None
    start += len(_OPEN)
    return without_code_fence(text[start : text.find(_CLOSE, start)].strip())


def without_code_fence(answer: str) -> str:
    """Return `answer` without the Markdown code fence around all of it, if there is one."""
    if len(answer) < 6 or not (answer.startswith("```") and answer.endswith("```")):
        return answer
    return answer[3:-3].removeprefix("json").strip()


def is_finite_score(score: float) -> bool:
    """Whether a number stays finite in float32."""
    return abs(score) <= _LARGEST


def _read_score(
    answer: str | None, fields: dict[str, Any] | None
) -> tuple[float | None, str | None]:
    """The score and no error, or no score and the reason."""
    if answer is None:
        return None, "no <answer>...</answer>"
    rating = fields and fields.get("rating")
    score = rating if isinstance(rating, float) else None
    if _NUMBER.fullmatch(answer):
        score = float(answer)
    if score is None:
        return None, f"answer {_shortened(answer)} is neither a number nor JSON with a rating"
    if not is_finite_score(score):
        return None, f"answer {_shortened(answer)} is too large a number"
    return score, None


def _json_object(answer: str) -> dict[str, Any] | None:
    """The JSON object that `answer` is, else None."""
    if not answer.startswith("{"):
        return None
    try:
        return _JSON.decode(answer)
    except (json.JSONDecodeError, RecursionError):  # RecursionError: '{"a":{"a":' thousands deep
        return None


def _place(places: dict[str, int], name: Any) -> int:
    return places.get(name, ABSENT) if isinstance(name, str) else ABSENT


def _shortened(answer: str, limit: int = 40) -> str:
    return repr(answer if len(answer) <= limit else answer[:limit] + "...")
