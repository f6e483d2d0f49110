"""Rounds after the first: what the judges found fault with becomes the next instruction.

Test-time optimisation as OmniQuality-R describes it (arXiv:2510.10609, Table 5): the best of N
candidates, then up to R rounds in which the generator is told what was said of the best image so
far. The paper follows Reflect-DiT (arXiv:2503.12271), whose generator was trained on such
feedback; one that was not reads it as part of its prompt, or as the order to an editor.
"""

import dataclasses
import math
import re

from jaxqa.errors import UserError
from jaxqa.selection.candidates import Candidate, Selection, best_of
from jaxqa.selection.panel import Weights

TEMPLATE = "{prompt}. Correct these faults of the last image: {rationale}"
WORST = "worst"

_FIELDS = ("prompt", "rationale", "score", "round")
_FIELD = re.compile(r"\{(" + "|".join(_FIELDS) + r")\}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reflection:
    """How often, and when to stop.

    Attributes:
      rounds: at most so many after the first; 0 makes none.
      candidates: of each of these rounds.
      template: the instruction; {prompt} is the prompt, {rationale} what a judge said of the best
        image so far, {score} its combined score from 0 to 1, {round} the number of the round.
      judge: whose rationale; "worst" is the judge with a weight whose normalised score is lowest.
      stop_at: no further round for a prompt whose best combined score is at least this.
      epsilon: a round that gains less than this does not count as a gain.
      patience: no further round for a prompt after so many without a gain; 0 for no such stop.
      budget: images in the whole run, failed ones too; 0 for no limit.
    """

    rounds: int = 0
    candidates: int = 1
    template: str = TEMPLATE
    judge: str = WORST
    stop_at: float = math.inf
    epsilon: float = 0.0
    patience: int = 0
    budget: int = 0

    def __post_init__(self):
        for name, least in (("rounds", 0), ("candidates", 1), ("patience", 0), ("budget", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; expected at least {least}")
        if math.isnan(self.stop_at) or not self.epsilon >= 0:
            raise UserError(
                f"stop_at is {self.stop_at} and epsilon {self.epsilon}; expected numbers, epsilon "
                "at least 0"
            )
        if "{rationale}" not in self.template:
            raise UserError(
                f"template {self.template!r} lacks {{rationale}}; it may hold "
                f"{', '.join(f'{{{name}}}' for name in _FIELDS)}"
            )

    def instruction(
        self, prompt: str, best: Candidate, weights: Weights, number: int
    ) -> str | None:
        """What the generator is told in a round; None if the judge gave no reasons."""
        name = self.judge if self.judge != WORST else worst_judge(best, weights)
        rationale = " ".join(str(best.scores[name].get("rationale") or "").split())
        if not rationale:
            return None
        fields = {
            "prompt": prompt,
            "rationale": rationale,
            "score": f"{best.combined(weights) or 0.0:.2f}",
            "round": str(number),
        }
        return _FIELD.sub(lambda found: fields[found[1]], self.template)

    def why_stop(self, selection: Selection, weights: Weights, number: int) -> str | None:
        """Why a prompt gets no round `number` (from 1); None if it does."""
        best = selection.best(weights)
        if best is None:
            return "no candidate has a score"
        value = best.combined(weights)
        assert value is not None
        if value >= self.stop_at:
            return f"the score reached {self.stop_at:g}"
        if self.patience and self._idle_rounds(selection, weights, number) >= self.patience:
            return f"no gain in {self.patience} rounds"
        return "all rounds made" if number > self.rounds else None

    def _idle_rounds(self, selection: Selection, weights: Weights, number: int) -> int:
        """How many of the last rounds brought less than `epsilon`, or nothing."""
        idle, highest = 0, -math.inf
        for place in range(number):
            best = best_of([c for c in selection.candidates if c.round == place], weights)
            value = -math.inf if best is None else best.combined(weights)
            assert value is not None
            gained = value > highest and value - highest >= self.epsilon
            idle = 0 if gained else idle + 1
            highest = max(highest, value)
        return idle


def worst_judge(best: Candidate, weights: Weights) -> str:
    """The judge with a weight whose normalised score is lowest; the first of equal ones."""
    return min(
        (name for name in best.scores if weights.get(name)),
        key=lambda name: best.scores[name]["normalised"],
    )
