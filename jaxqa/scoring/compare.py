"""Which of two images is better: answers in both orders, or two scores."""

import dataclasses
from collections.abc import Sequence

from jaxqa.rewards.labels import CHOICES
from jaxqa.rewards.parsing import parse_answer
from jaxqa.scoring.results import Comparison, Score, rationale_of
from jaxqa.scoring.scorer import Reply

FIRST, SECOND, SIMILAR = CHOICES
_SHARES = {FIRST: 1.0, SECOND: 0.0, SIMILAR: 0.5}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """What the model chose when it was shown two images in one order.

    Attributes:
      answers: choice of each completion that has one; the first image shown is "Image A".
      rationale: of the first completion.
      error: why there is no answer; None if there is one.
    """

    answers: Sequence[str]
    rationale: str = ""
    error: str | None = None

    @property
    def preference(self) -> float:
        """Share of the answers for the image shown first, ties counted half."""
        return sum(_SHARES[answer] for answer in self.answers) / len(self.answers)


def read_choice(reply: Reply) -> Choice:
    """The choices in a reply; completions without one are left out."""
    places = [parse_answer(text).choice_id for text in reply.texts]
    answers = [CHOICES[place] for place in places if place >= 0]
    error = None if answers else f"the answer is none of {', '.join(CHOICES)}"
    return Choice(answers=answers, rationale=rationale_of(reply.texts[0]), error=error)


def failed_choice(error: str) -> Choice:
    """No choice, because an image could not be used."""
    return Choice(answers=(), error=error)


def combine(forward: Choice, backward: Choice) -> Comparison:
    """The choice between A and B from the order A, B and the order B, A.

    Each order counts half; where they contradict each other, the position decided, and the images
    count as similar.
    """
    rationales = (forward.rationale, backward.rationale)
    error = forward.error or backward.error
    if error is not None:
        return _failed("prompt", error, rationales)
    first, second = forward.preference, 1 - backward.preference
    preference = (first + second) / 2
    return Comparison(
        choice=_choice(preference),
        preference=preference,
        consistent=_choice(first) == _choice(second),
        method="prompt",
        rationales=rationales,
        orders=(first, second),
    )


def compare_scores(a: Score, b: Score) -> Comparison:
    """The choice between two images that were scored apart; only equal scores are similar."""
    rationales, scores = (a.rationale, b.rationale), (a.score, b.score)
    if a.score is None or b.score is None:
        return _failed("scores", f"{a.error or b.error}", rationales, scores)
    preference = 0.5 if a.score == b.score else float(a.score > b.score)
    return Comparison(
        choice=_choice(preference),
        preference=preference,
        consistent=True,
        method="scores",
        rationales=rationales,
        scores=scores,
    )


def _choice(preference: float) -> str:
    if preference == 0.5:
        return SIMILAR
    return FIRST if preference > 0.5 else SECOND


def _failed(
    method: str,
    error: str,
    rationales: tuple[str, ...],
    scores: tuple[float | None, ...] = (),
) -> Comparison:
    return Comparison(
        choice=None,
        preference=None,
        consistent=None,
        method=method,
        rationales=rationales,
        scores=scores,
        error=error,
    )
