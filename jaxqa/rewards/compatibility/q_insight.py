"""Q-Insight's parser; its rewards are `threshold`, `degradation`, `comparison` and `format`."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from jaxqa.rewards.answers import Answers
from jaxqa.rewards.compatibility.reading import first_answer, read_scores
from jaxqa.rewards.labels import ABSENT, CHOICES, DISTORTION_CLASSES, SEVERITIES

_RATING = re.compile(r'"rating"\s*:\s*([0-9.]+)')
_CLASS = re.compile(r'"distortion_class"\s*:\s*"([^"]*)"')
_SEVERITY = re.compile(r'"severity"\s*:\s*"([^"]*)"')


def parse_answers(texts: Sequence[Sequence[str]]) -> Answers:
    """Read answers as the published code does.

    Quirks: the first `<answer>` counts, not the last; JSON is searched by pattern, not parsed, so a
    rating has no sign and no exponent and may stand in broken JSON; class and severity must be
    quoted and in that order; a severity without a class before it is not read.
    """
    answers = read_scores(texts, _rating)
    degradations = [[_degradation(text) for text in group] for group in texts]
    choices = [[_place(CHOICES, (first_answer(text) or "").strip()) for text in g] for g in texts]
    places = np.array(degradations, np.int32).reshape(*answers.valid.shape, 2)
    return dataclasses.replace(
        answers,
        class_id=places[..., 0],
        severity_id=places[..., 1],
        choice_id=np.array(choices, np.int32),
    )


def _rating(text: str) -> float | None:
    found = _RATING.search(first_answer(text) or "")
    if found is None:
        return None
    try:
        return float(found[1])
    except ValueError:  # "1.2.3"
        return None


def _degradation(text: str) -> tuple[int, int]:
    answer = first_answer(text) or ""
    named = _CLASS.search(answer)
    graded = _SEVERITY.search(answer, named.end()) if named else None
    if named is None or graded is None:
        return ABSENT, ABSENT
    return _place(DISTORTION_CLASSES, named[1]), _place(SEVERITIES, graded[1])


def _place(names: tuple[str, ...], name: str) -> int:
    return names.index(name) if name in names else ABSENT
