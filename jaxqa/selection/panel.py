"""Who judges an image, and how several judges' scores become one.

A judge is one question put to one scorer. Scores are normalised to 0..1 by the range of their
judge, so that quality, aesthetics and alignment can be added with weights.
"""

import dataclasses
import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxqa.errors import UserError
from jaxqa.scoring.api import ImageScorer
from jaxqa.scoring.question import Question
from jaxqa.scoring.results import Score

Weights = Mapping[str, float | int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
    """One question put to one scorer.

    Attributes:
      name: what tables call it; a task's name where one model judges several tasks.
      scorer: who answers.
      question: what is asked, and how the score is read.
      weight: of its normalised score in the combined one; 0 only looks on.
    """

    name: str
    scorer: ImageScorer
    question: Question
    weight: float | int = 1.0

    def __post_init__(self):
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise UserError(f"weight of {self.name} is {self.weight}; expected 0 or more")
        self.scorer.asker(self.question)  # refuses now what it would refuse later

    @property
    def needs_prompts(self) -> bool:
        """Whether it judges how well an image shows a text."""
        return self.question.task == "alignment"

    def stream(
        self, images: Sequence[Any], prompts: Sequence[str | None]
    ) -> Iterator[tuple[int, Score]]:
        """Yield (number of the image, score) as scores come."""
        shown = prompts if self.needs_prompts else None
        return self.scorer.stream(images, self.question, prompts=shown)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a panel makes of one image.

    Attributes:
      scores: by judge.
      combined: weighted mean of the normalised scores; None where a judge with a weight gave none.
    """

    scores: Mapping[str, Score]
    combined: float | None

    @property
    def error(self) -> str | None:
        """Why there is no combined score; None if there is one."""
        if self.combined is not None:
            return None
        lacking = {name: score.error for name, score in self.scores.items() if score.error}
        return "; ".join(dict.fromkeys(f"{name}: {error}" for name, error in lacking.items()))


class Panel:
    """Several judges, whose normalised scores add up with their weights."""

    def __init__(self, judges: Iterable[Judge]):
        """Take the judges.

        Raises:
          UserError: there is none, none has a weight, or two have one name.
        """
        self.judges = tuple(judges)
        names = [judge.name for judge in self.judges]
        if len(set(names)) < len(names):
            raise UserError(f"judges are {', '.join(names)}; expected each name once")
        if not any(judge.weight for judge in self.judges):
            raise UserError("no judge has a weight; give at least one a weight above 0")
        self._lock = threading.Lock()

    @property
    def weights(self) -> dict[str, float | int]:
        """Weight of each judge."""
        return {judge.name: judge.weight for judge in self.judges}

    def judge(self, images: Sequence[Any], prompts: Sequence[str | None]) -> list[Verdict]:
        """What the judges make of each image, in the order of the images; one call at a time.

        Args:
          images: see `jaxqa.scoring.image_inputs.ImageInput`.
          prompts: the texts that the images were made from, one each.
        """
        if len(images) != len(prompts):
            raise UserError(f"{len(images)} images with {len(prompts)} prompts; expected one each")
        found: list[dict[str, Score]] = [{} for _ in images]
        with self._lock:  # trainers call rewards from several threads; the device is one
            for judge in self.judges:
                for number, score in judge.stream(images, prompts):
                    found[number][judge.name] = score
        weights = self.weights
        return [
            Verdict(scores, combine({n: s.normalised for n, s in scores.items()}, weights))
            for scores in found
        ]


def panel(
    scorer: ImageScorer,
    weights: Weights | None = None,
    *,
    mode: str | None = None,
    samples: int | None = None,
    temperature: float | None = None,
    seed: int = 0,
) -> Panel:
    """A panel of one scorer's tasks.

    Args:
      scorer: what `jaxqa.load` returns.
      weights: task -> weight; the scorer's first task alone by default.
      mode: how scores are read; see `jaxqa.scoring.question.Question`.
      samples: answers per image, in the modes "mean" and "expected".
      temperature: of sampled answers.
      seed: names the random draws.

    Raises:
      UserError: a task that the scorer does not know, or weights that make no sense.
    """
    options: dict[str, Any] = {"samples": samples, "temperature": temperature, "seed": seed}
    return Panel(
        Judge(
            name=task,
            scorer=scorer,
            question=scorer.question(task, mode, **options),
            weight=weight,
        )
        for task, weight in (weights or {scorer.tasks[0]: 1.0}).items()
    )


def combine(normalised: Mapping[str, float | None], weights: Weights) -> float | None:
    """Weighted mean of normalised scores; None where one with a weight is missing."""
    total = 0.0
    for name, weight in weights.items():
        value = normalised.get(name)
        if weight and value is None:
            return None
        total += weight * (value or 0.0)
    return total / sum(weights.values())
