"""A scoring model that is instant and gives reasons, distributions and choices: for the page."""

import dataclasses
import time

import numpy as np
from stand_in import StandInRow

from jaxqa.errors import UserError
from jaxqa.scoring.compare import Choice, failed_choice
from jaxqa.scoring.expected import ScoreDistribution
from jaxqa.scoring.results import Score
from jaxqa.scoring.tokens import AnswerTokens

RANGES = {"quality": (1.0, 5.0), "aesthetics": (0.0, 10.0), "alignment": (1.0, 5.0)}
REASONS = (
    "The subject is sharp and the light falls evenly, but the shadows are noisy and a little "
    "colour bleeds along the roof. Blocking is faint, seen only in the sky."
)


def answer_tokens(text):
    """Words as tokens, with entropies that repeat themselves."""
    words = [f"{' ' if place else ''}{word}" for place, word in enumerate(text.split(" "))]
    entropies = [(0.0, 0.1, 0.4, 0.02, 0.9, 0.0, 1.5, 0.03, 2.4)[n % 9] for n in range(len(words))]
    return AnswerTokens(
        ids=tuple(range(len(words))),
        entropies=tuple(entropies),
        decode=lambda ids: "".join(words[n] for n in ids),
    )


@dataclasses.dataclass
class WritingAsker:
    """See `blocks.Asker`."""

    task: str
    mode: str
    rows: int = 4
    seconds: float = 0.0

    def prepare(self, pictures, prompt):
        if prompt == "unusable":
            raise UserError("the prompt is unusable")
        return StandInRow(float(np.mean(pictures[0])) / 255, 0)

    def dispatch(self, rows):
        return rows

    def collect(self, running):
        time.sleep(self.seconds)
        return [self._score(row.brightness) for row in running]

    def failed(self, error):
        return Score(score=None, error=error, score_range=RANGES[self.task])

    def _score(self, brightness):
        low, high = RANGES[self.task]
        if brightness < 0.004:  # black
            return Score(
                score=None,
                error="the answer has no number in <answer>",
                score_range=(low, high),
                text="<think> Nothing is to be seen. </think>",
            )
        score = round(low + (high - low) * brightness, 2)
        reasons = "" if self.mode == "fast" else REASONS
        answer = f"<answer> {score:.2f} </answer>"
        text = f"<think> {reasons} </think> {answer}" if reasons else answer
        more = {}
        if self.mode == "expected":
            values = np.linspace(low, high, 401)
            weights = np.exp(-0.5 * ((values - score) / (0.07 * (high - low))) ** 2)
            weights = weights * (1 + 0.4 * np.cos(9 * values))
            probabilities = weights / weights.sum()
            more["distribution"] = ScoreDistribution(
                values=values, probabilities=probabilities, mass=0.993
            )
            score = more["distribution"].mean
        if self.mode == "mean":
            more["samples"] = tuple(
                min(high, max(low, round(score + step, 2))) for step in (-0.2, 0, 0.1, 0.12, -0.05)
            )
            score = float(np.mean(more["samples"]))
        return Score(
            score=score,
            error=None,
            score_range=(low, high),
            rationale=reasons,
            text=text,
            tokens=answer_tokens(text),
            **more,
        )


@dataclasses.dataclass(frozen=True)
class PairRow:
    """Two pictures in order."""

    first: float
    second: float
    bucket: int = 0


@dataclasses.dataclass
class ChoosingAsker:
    """Prefers the brighter picture, unless both are dark: then the one shown first."""

    rows: int = 2

    def prepare(self, pictures, prompt):
        _, first, second = (float(np.mean(picture)) / 255 for picture in pictures)
        return PairRow(first, second)

    def dispatch(self, rows):
        return rows

    def collect(self, running):
        found = []
        for row in running:
            is_first = row.first >= row.second or max(row.first, row.second) < 0.3
            answer = "Image A" if is_first else "Image B"
            found.append(Choice(answers=[answer], rationale=f"{answer} keeps more of the grain."))
        return found

    def failed(self, error):
        return failed_choice(error)


class WritingModel:
    """See `api.ScoringModel`."""

    tasks = tuple(RANGES)

    def __init__(self, *, seconds=0.0, compares=True):
        self._seconds, self._compares = seconds, compares

    def default_mode(self, task):
        return "think"

    def score_range(self, task):
        return RANGES[task]

    def asker(self, question):
        if question.task == "aesthetics" and question.mode == "fast":
            raise UserError("mode 'fast': not for this task")
        return WritingAsker(question.task, question.mode, seconds=self._seconds)

    def chooser(self, decoding):
        return ChoosingAsker() if self._compares else None
