"""Threshold reward: near enough or not (Q-Insight)."""

import math

import jax.numpy as jnp

from jaxqa.rewards.answers import Answers, Targets
from jaxqa.typing import Array, Float


def threshold(answers: Answers, targets: Targets, *, tolerance: float) -> Float[Array, "N G"]:
    """Return 1 where |answer - target| < tolerance, else 0; 0 where no score could be read.

    Q-Insight uses 0.35 on a scale of 1 to 5. Decimals behave as decimals: 3.35 against 3.0 at
    tolerance 0.35 is not inside, although in float32 the difference is a little below 0.35.
    """
    if not (tolerance > 0 and math.isfinite(tolerance)):
        raise ValueError(f"tolerance is {tolerance}, expected a finite number above 0")
    target = targets.score[:, None]
    distance = jnp.abs(answers.score - target)
    # Reading three decimals into float32 and subtracting is off by less than this.
    rounding = (jnp.abs(answers.score) + jnp.abs(target) + tolerance) * 2.0**-23
    inside = answers.valid & (distance < tolerance - rounding)
    return jnp.asarray(inside, jnp.float32)
