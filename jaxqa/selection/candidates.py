"""The candidates of a prompt: what is known of each, and which is best."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxqa.scoring.results import Score
from jaxqa.selection.panel import Weights, combine
from jaxqa.selection.prompt_sets import PromptSet


@dataclasses.dataclass(kw_only=True)
class Candidate:
    """One image that may be chosen.

    Attributes:
      number: among the candidates of its prompt, over all rounds.
      round: in which it was made; 0 comes before any reflection.
      path: of the image; None where there is none.
      instruction: the text that it was made from.
      seed: that it was made with; None for images that were there already.
      start: path of the image that an editor made it from, if any.
      error: why there is no image; None if there is one.
      scores: what each judge said, by its name: score, normalised, range, rationale, error.
    """

    number: int
    round: int
    path: str | None
    instruction: str
    seed: int | None = None
    start: str | None = None
    error: str | None = None
    scores: dict[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def combined(self, weights: Weights) -> float | None:
        """Weighted mean of the normalised scores; None if one with a weight is missing."""
        return combine({n: s["normalised"] for n, s in self.scores.items()}, weights)

    def why_unscored(self, weights: Weights) -> str | None:
        """Why there is no combined score; None if there is one."""
        if self.error is not None or self.combined(weights) is not None:
            return self.error
        failed = {n: s["error"] for n, s in self.scores.items() if weights.get(n) and s["error"]}
        return "; ".join(dict.fromkeys(failed.values())) or "not scored"


@dataclasses.dataclass(kw_only=True)
class Selection:
    """A prompt with its candidates.

    Attributes:
      prompts: the prompt.
      candidates: in the order of their numbers.
      stopped: why no further round was made; None without reflection.
    """

    prompts: PromptSet
    candidates: list[Candidate] = dataclasses.field(default_factory=list)
    stopped: str | None = None

    def best(self, weights: Weights, *, rounds: int | None = None) -> Candidate | None:
        """The candidate with the highest combined score; the first of equal ones.

        Args:
          weights: of the judges.
          rounds: only those of the first so many rounds.
        """
        among = [c for c in self.candidates if rounds is None or c.round < rounds]
        return best_of(among, weights)


def best_of(candidates: Iterable[Candidate], weights: Weights) -> Candidate | None:
    """The candidate with the highest combined score, the first of equal ones; None if none has."""
    best, highest = None, float("-inf")
    for candidate in candidates:
        value = candidate.combined(weights)
        if value is not None and value > highest:
            best, highest = candidate, value
    return best


def plain_score(score: Score) -> dict[str, Any]:
    """What is written down of a score; the distribution, hundreds of numbers, is not."""
    found = score.as_dict()
    return {name: found[name] for name in found if name not in ("distribution", "samples")}


def trace(selections: Sequence[Selection], weights: Weights) -> list[dict[str, Any]]:
    """One line for each candidate, with its combined score and whether it is chosen."""
    lines = []
    for selection in selections:
        best = selection.best(weights)
        lines += [
            {
                "key": selection.prompts.key,
                "prompt": selection.prompts.prompt,
                **dataclasses.asdict(candidate),
                "combined": candidate.combined(weights),
                "chosen": candidate is best,
                "error": candidate.why_unscored(weights),
            }
            for candidate in selection.candidates
        ]
    return lines
