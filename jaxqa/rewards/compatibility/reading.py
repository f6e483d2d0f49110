"""Answers read by a published parser instead of ours."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from jaxqa.rewards.answers import Answers
from jaxqa.rewards.parsing import is_finite_score, parse_answers


def read_scores(texts: Sequence[Sequence[str]], read: Callable[[str], float | None]) -> Answers:
    """Our answers with the scores that `read` finds; a number too large for float32 is none."""
    found = [[_finite(read(text)) for text in group] for group in texts]
    return dataclasses.replace(
        parse_answers(texts),
        score=np.array([[score or 0.0 for score in row] for row in found], np.float32),
        valid=np.array([[score is not None for score in row] for row in found], np.bool_),
    )


def first_answer(text: str) -> str | None:
    """What stands between the first `<answer>` and the `</answer>` after it, as it is."""
    _, opened, rest = text.partition("<answer>")
    answer, closed, _ = rest.partition("</answer>")
    return answer if opened and closed else None


def _finite(score: float | None) -> float | None:
    return score if score is not None and is_finite_score(score) else None
