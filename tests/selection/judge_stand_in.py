"""A scoring model that is instant and rates three tasks, with reasons, and makers of images.

Quality is brightness, aesthetics is redness, alignment is how near the brightness comes to the
number in the prompt.
"""

import dataclasses
import re
from pathlib import Path

import numpy as np
from PIL import Image

from jaxqa.errors import UserError
from jaxqa.scoring.api import ImageScorer
from jaxqa.scoring.results import Score

RANGES = {"quality": (1.0, 5.0), "aesthetics": (0.0, 10.0), "alignment": (0.0, 1.0)}
asked: list[tuple[str, str | None]] = []
"""(task, prompt) of every row that any model scored."""


@dataclasses.dataclass(frozen=True)
class JudgeRow:
    share: float
    rationale: str
    prompt: str | None
    bucket: int = 0


@dataclasses.dataclass
class JudgeAsker:
    task: str
    reasons: bool
    rows: int = 4

    def prepare(self, pictures, prompt):
        red, green, blue = np.asarray(pictures[0], np.float64).mean((0, 1)) / 255
        level = (red + green + blue) / 3
        if self.task == "alignment":
            number = re.search(r"\d+", prompt)
            wanted = float(number.group()) / 100 if number else 0.5
            return JudgeRow(1 - abs(level - wanted), f"off by {level - wanted:+.2f}", prompt)
        share = level if self.task == "quality" else red
        return JudgeRow(float(share), f"the {self.task} is {share:.2f}", prompt)

    def dispatch(self, rows):
        asked.extend((self.task, row.prompt) for row in rows)
        return rows

    def collect(self, running):
        low, high = RANGES[self.task]
        return [
            Score(
                score=low + (high - low) * row.share,
                error=None,
                score_range=(low, high),
                rationale=row.rationale if self.reasons else "",
            )
            for row in running
        ]

    def failed(self, error):
        return Score(score=None, error=error, score_range=RANGES[self.task])


class JudgeModel:
    """See `api.ScoringModel`."""

    def __init__(self, tasks=("quality", "aesthetics", "alignment"), *, reasons=True):
        self.tasks, self.reasons = tasks, reasons

    def default_mode(self, task):
        return "think"

    def score_range(self, task):
        if task not in self.tasks:
            raise UserError(f"this model does not rate {task}")
        return RANGES[task]

    def asker(self, question):
        self.score_range(question.task)
        return JudgeAsker(question.task, self.reasons)

    def chooser(self, decoding):
        return None


def judge_scorer(**options):
    return ImageScorer(JudgeModel(**options), name="stand-in", workers=2)


def colour(prompt, seed):
    """A colour that follows from a prompt and a seed."""
    return np.random.default_rng([seed, *prompt.encode()]).integers(0, 256, 3).tolist()


def paint(prompt, seed):
    """A picture of one colour; see `generators.Function`."""
    return Image.new("RGB", (16, 12), tuple(colour(prompt, seed)))


def lighten(prompt, image, seed):
    """Half way to white."""
    pixels = np.asarray(Image.open(image), np.float64)
    return ((pixels + 255) / 2).astype(np.uint8)


def write_picture(path: Path, level) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    level = (level,) * 3 if np.ndim(level) == 0 else tuple(level)
    Image.new("RGB", (16, 12), level).save(path)
    return path
