"""What scoring returns."""

import dataclasses
import re
from typing import Any

import numpy as np

from jaxqa.scoring.expected import ScoreDistribution
from jaxqa.scoring.tokens import AnswerTokens

_THOUGHT = re.compile(r"<think>(.*?)(?:</think>|<answer>|$)", re.DOTALL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """What a model makes of one image: a score, or the reason why there is none.

    Attributes:
      score: on the model's own scale; None where there is none. Never made up, never clipped.
      error: why there is no score; None if there is one.
      score_range: lowest and highest score that the model can give.
      rationale: the model's reasons; empty where it gives none.
      text: the (first) whole answer; empty where the image could not be read.
      distribution: over scores, in expected mode.
      samples: each answer's score where several were asked for; None where one has none.
      tokens: of the (first) whole answer, with their entropies; None where nothing was written.
      name: what the image is called: its path, its URL, or its place among the images.
    """

    score: float | None
    error: str | None
    score_range: tuple[float, float]
    rationale: str = ""
    text: str = ""
    distribution: ScoreDistribution | None = None
    samples: tuple[float | None, ...] = ()
    tokens: AnswerTokens | None = dataclasses.field(default=None, repr=False)
    name: str = ""

    def __post_init__(self):
        if (self.score is None) == (self.error is None):
            raise ValueError(
                f"score {self.score!r} with error {self.error!r}; expected exactly one of the two"
            )
        low, high = self.score_range
        if self.score is not None and not low <= self.score <= high:  # also true of nan
            raise ValueError(f"score {self.score} is outside {low} to {high}")

    @property
    def normalised(self) -> float | None:
        """The score's place in its range, from 0 (worst) to 1 (best)."""
        low, high = self.score_range
        return None if self.score is None else (self.score - low) / (high - low)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the distribution, else of several samples, else None."""
        if self.distribution is not None:
            return self.distribution.spread
        known = [sample for sample in self.samples if sample is not None]
        return float(np.std(known)) if len(known) > 1 else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the distribution as values with their probabilities."""
        found: dict[str, Any] = {
            "score": self.score,
            "normalised": self.normalised,
            "range": list(self.score_range),
            "rationale": self.rationale,
            "error": self.error,
        }
        if self.spread is not None:
            found["spread"] = self.spread
        if self.samples:
            found["samples"] = list(self.samples)
        if self.distribution is not None:
            found["distribution"] = {
                "values": self.distribution.values.tolist(),
                "probabilities": self.distribution.probabilities.tolist(),
                "mass": self.distribution.mass,
            }
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Which of two images is better, asked in both orders.

    Attributes:
      choice: "Image A", "Image B" or "Similar"; None where there is no answer.
      preference: share of the answers for A, ties counted half: 1 is A, 0 is B.
      consistent: whether both orders agree; False where the position decided.
      method: "prompt" where the model was shown both, "scores" where it scored each.
      rationales: the model's reasons, of each order, or about each image where each was scored.
      orders: share of the answers for A with A shown first, and with B shown first; empty where
        each was scored.
      scores: of A and of B where each was scored, else empty.
      error: why there is no choice; None if there is one.
    """

    choice: str | None
    preference: float | None
    consistent: bool | None
    method: str
    rationales: tuple[str, ...] = ()
    orders: tuple[float, ...] = ()
    scores: tuple[float | None, ...] = ()
    error: str | None = None


def rationale_of(text: str) -> str:
    """What a completion says before its answer, without tags."""
    thought = _THOUGHT.search(text)
    return thought.group(1).strip() if thought else text.partition("<answer>")[0].strip()
