"""TATAR's Gaussian: its width grows with the error, so that far answers still feel a slope."""

import math

import jax.numpy as jnp

from jaxqa.rewards.answers import Answers, Targets, compiled, scorable
from jaxqa.typing import Array, Float


@compiled
def adaptive_gaussian(
    answers: Answers,
    targets: Targets,
    *,
    label_range: float = 100.0,
    tolerance: float = 8.75,
    growth: float = 0.8,
    scale: float = 1.0,
    min_words: int = 0,
    max_words: int = 0,
) -> Float[Array, "N G"]:
    """Return min(1, scale * exp(-d^2 / (2 s(d)^2))), s(d) = s0 (1 + growth * d / 100).

    d is the error in hundredths of the label range, s0 = tolerance / sqrt(2 ln 2): without growth
    an answer off by `tolerance` hundredths earns half. 0 without a score or a label, and where the
    whole text has fewer than `min_words` words or more than `max_words` (0: no limit).
    TATAR: growth 0.8, scale 1, at most 65 words for quality; 2.0, 1.5, at least 125 for aesthetics.

    Args:
      label_range: highest minus lowest score on the scale of the prompt.
    """
    _check(label_range, tolerance, growth, scale)
    if min_words < 0 or max_words < 0 or 0 < max_words < min_words:
        raise ValueError(
            f"min_words is {min_words} and max_words {max_words}, expected numbers of at least 0 "
            "that leave room between them"
        )
    error = jnp.abs(answers.score - targets.score[:, None]) * (100.0 / label_range)
    error = jnp.minimum(error, 1e9)  # far beyond any scale, and no infinity divides another
    width = tolerance / math.sqrt(2 * math.log(2)) * (1.0 + growth * error / 100.0)
    nearness = jnp.minimum(scale * jnp.exp(-0.5 * jnp.square(error / width)), 1.0)
    counted = scorable(answers, targets) & (answers.word_count >= min_words)
    if max_words:
        counted &= answers.word_count <= max_words
    return jnp.where(counted, nearness, 0.0)


def _check(label_range: float, tolerance: float, growth: float, scale: float) -> None:
    for name, value in (("label_range", label_range), ("tolerance", tolerance), ("scale", scale)):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} is {value}, expected a finite number above 0")
    if not (growth >= 0 and math.isfinite(growth)):
        raise ValueError(f"growth is {growth}, expected a finite number of at least 0")
