"""Rewards for answers that are names, not numbers."""

import math

import jax.numpy as jnp

from jaxqa.rewards.answers import Answers, Targets, Values, compiled
from jaxqa.rewards.labels import ABSENT
from jaxqa.typing import Array, Bool, Float


@compiled
def degradation(
    answers: Answers, targets: Targets, *, class_weight: float = 0.25, severity_weight: float = 0.75
) -> Float[Array, "N G"]:
    """Return `class_weight` for the right class, `severity_weight` more for its right severity.

    Q-Insight: the severity counts only where the class is right. 0 without a label.
    """
    for name, weight in (("class_weight", class_weight), ("severity_weight", severity_weight)):
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"{name} is {weight}, expected a finite number of at least 0")
    right_class = _equal(answers.class_id, targets.class_id)
    right_severity = right_class & _equal(answers.severity_id, targets.severity_id)
    return jnp.where(right_class, class_weight, 0.0) + jnp.where(
        right_severity, severity_weight, 0.0
    )


@compiled
def comparison(answers: Answers, targets: Targets) -> Float[Array, "N G"]:
    """Return 1 where the right one of two images, or "Similar", was chosen; 0 without a label."""
    return jnp.asarray(_equal(answers.choice_id, targets.choice_id), jnp.float32)


def _equal(answered: Values, wanted: Values) -> Bool[Array, "N G"]:
    return (answered == wanted[:, None]) & (answered != ABSENT)
