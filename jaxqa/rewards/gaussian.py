"""Gaussian reward: how near the score is."""

import math

import jax.numpy as jnp

from jaxqa.rewards.answers import Answers, Targets
from jaxqa.typing import Array, Float


def gaussian(answers: Answers, targets: Targets, *, sigma: float) -> Float[Array, "N G"]:
    """Return exp(-(answer - target)^2 / (2 sigma^2)); 0 where no score could be read.

    OmniQuality-R uses sigma 0.8 on a scale of 1 to 5, Aes-R1 (equation 6) 0.1 on 0 to 1.
    """
    if not (sigma > 0 and math.isfinite(sigma)):
        raise ValueError(f"sigma is {sigma}, expected a finite number above 0")
    distance = (answers.score - targets.score[:, None]) / sigma
    return jnp.where(answers.valid, jnp.exp(-0.5 * jnp.square(distance)), 0.0)
