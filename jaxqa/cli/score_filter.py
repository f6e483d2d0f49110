"""Which of the scored images to keep."""

import math
from collections.abc import Sequence

import numpy as np

from jaxqa.errors import UserError


def check(top: int | None, threshold: float | None, quantile: float | None) -> bool:
    """Whether anything is filtered.

    Raises:
      UserError: a number that cannot be meant.
    """
    if top is not None and top < 1:
        raise UserError(f"--top is {top}; expected at least 1")
    if threshold is not None and not math.isfinite(threshold):
        raise UserError(f"--threshold is {threshold}; expected a number")
    if quantile is not None and not 0 <= quantile <= 1:
        raise UserError(f"--quantile is {quantile}; expected a number from 0 to 1")
    return any(value is not None for value in (top, threshold, quantile))


def keep(
    scores: Sequence[float | None],
    *,
    top: int | None = None,
    threshold: float | None = None,
    quantile: float | None = None,
) -> list[bool | None]:
    """Whether to keep each image; None for those without a score, of which nothing is known.

    Args:
      scores: of the images.
      top: the best so many; of equal scores, those that come first.
      threshold: those of at least this score.
      quantile: those of at least this quantile of the scores, linearly interpolated.
    """
    known = [number for number, score in enumerate(scores) if score is not None]
    kept: set[int] = set()
    if known:
        values = np.array([scores[number] for number in known], np.float64)
        if top is not None:
            best = np.argsort(-values, kind="stable")[:top]
            kept = {known[place] for place in best}
        else:
            least = threshold if quantile is None else np.quantile(values, quantile)
            kept = {n for n, value in zip(known, values, strict=True) if value >= least}
    return [None if score is None else n in kept for n, score in enumerate(scores)]
