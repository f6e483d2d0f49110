"""Image, rationales, score: what the distillation learns from."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from jaxqa.data.records import ImageSource
from jaxqa.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Triplet:
    """One image with what a reasoning model wrote about it.

    Attributes:
        name: what messages call it.
        example_id: stable number; draws of this image derive from it.
        image: encoded bytes, a file, or a record of a prepared data set.
        rationales: one or several texts, for example of several seeds.
        score: the label to fit, in the scale that the scorer shall answer in.
    """

    name: str
    example_id: int
    image: ImageSource
    rationales: tuple[str, ...]
    score: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreRange:
    """Lowest and highest score, inclusive; higher is better."""

    low: float
    high: float

    def __post_init__(self):
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low={self.low}, high={self.high}: expected low < high, both finite")

    def holds(self, score: float) -> bool:
        """Whether a score lies inside; NaN does not."""
        return self.low <= score <= self.high


def check_triplets(
    triplets: Sequence[Triplet], scores: ScoreRange, *, with_texts: bool = True
) -> None:
    """Find what cannot be learned from, before hours of training.

    Args:
        triplets: all of them.
        scores: where every score must lie.
        with_texts: whether rationales are needed.

    Raises:
        UserError: no triplets, one id twice, a missing image file, no or an empty rationale, a
            score that is not a number or out of range, or the same score everywhere.
    """
    if not triplets:
        raise UserError("no image with rationale and score; expected at least one")
    seen: dict[int, str] = {}
    for triplet in triplets:
        if (other := seen.setdefault(triplet.example_id, triplet.name)) != triplet.name:
            raise UserError(f"{triplet.name} and {other} have one id; expected one for each image")
        _check(triplet, scores, with_texts)
    if len(seen) != len(triplets):
        raise UserError(f"{len(triplets) - len(seen)} images are listed twice; list each once")
    if len({triplet.score for triplet in triplets}) == 1:
        raise UserError(
            f"all {len(triplets)} images have the score {triplets[0].score:g}; expected different "
            "ones, since nothing can be learned from one score"
        )


def _check(triplet: Triplet, scores: ScoreRange, with_texts: bool) -> None:
    if not scores.holds(triplet.score):
        raise UserError(
            f"{triplet.name}: the score is {triplet.score:g}, expected a number from "
            f"{scores.low:g} to {scores.high:g}; correct the label or leave the image out"
        )
    if isinstance(triplet.image, Path) and not triplet.image.is_file():
        raise UserError(
            f"{triplet.name}: no image file {triplet.image}; restore it or leave the image out"
        )
    if not with_texts:
        return
    if not triplet.rationales:
        raise UserError(f"{triplet.name}: no rationale; expected at least one, or leave it out")
    for number, text in enumerate(triplet.rationales, start=1):
        if not text.strip():
            raise UserError(
                f"{triplet.name}: rationale {number} of {len(triplet.rationales)} is empty; "
                "expected text: leave it out"
            )
