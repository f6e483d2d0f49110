"""A scoring model that is instant: an image's score follows from its mean brightness."""

import dataclasses

import numpy as np

from jaxqa.errors import UserError
from jaxqa.scoring.blocks import Asker
from jaxqa.scoring.results import Score


@dataclasses.dataclass(frozen=True)
class StandInRow:
    """One picture."""

    brightness: float
    bucket: int


@dataclasses.dataclass
class StandInAsker:
    """See `blocks.Asker`; remembers its blocks."""

    rows: int = 3
    blocks: list = dataclasses.field(default_factory=list)

    def prepare(self, pictures, prompt):
        if prompt == "unusable":
            raise UserError("the prompt is unusable")
        (pixels,) = pictures
        return StandInRow(float(np.mean(pixels)) / 255, pixels.shape[0])

    def dispatch(self, rows):
        assert 1 <= len(rows) <= self.rows and len({row.bucket for row in rows}) == 1
        self.blocks.append(len(rows))
        return rows

    def collect(self, running):
        return [
            Score(score=1 + 4 * row.brightness, error=None, score_range=(1.0, 5.0))
            for row in running
        ]

    def failed(self, error):
        return Score(score=None, error=error, score_range=(1.0, 5.0))


class StandInModel:
    """See `api.ScoringModel`."""

    tasks = ("quality", "alignment")

    def __init__(self, asker=None):
        self.made = asker or StandInAsker()

    def default_mode(self, task):
        return "think"

    def score_range(self, task):
        return 1.0, 5.0

    def asker(self, question) -> Asker[Score]:
        if question.mode == "fast":
            raise UserError("mode 'fast': not this model")
        return self.made

    def chooser(self, decoding):
        return None


def grey(level, size=(8, 8)):
    return np.full((*size, 3), level, np.uint8)
