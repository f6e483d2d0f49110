"""Gaussian rewards: how near the score is."""

import math

import jax.numpy as jnp

from jaxqa.rewards.answers import Answers, Targets, compiled, scorable
from jaxqa.typing import Array, Float


@compiled
def gaussian(answers: Answers, targets: Targets, *, sigma: float) -> Float[Array, "N G"]:
    """Return exp(-(answer - target)^2 / (2 sigma^2)); 0 where there is no score or no label.

    OmniQuality-R uses sigma 0.8 on a scale of 1 to 5.
    """
    if not (sigma > 0 and math.isfinite(sigma)):
        raise ValueError(f"sigma is {sigma}, expected a finite number above 0")
    distance = (answers.score - targets.score[:, None]) / sigma
    nearness = jnp.exp(-0.5 * jnp.square(distance))
    return jnp.where(scorable(answers, targets), nearness, 0.0)


@compiled
def absolute_error(
    answers: Answers, targets: Targets, *, sigma: float = 0.1, epsilon: float = 1e-5
) -> Float[Array, "N G"]:
    """Return `gaussian` plus `epsilon`; 0 where there is no score or no label.

    Aes-R1 (equation 6), for a scale of 0 to 1. The paper adds a small epsilon so that no score
    earns nothing and does not say how small; the default is the published code's.
    """
    if not (epsilon >= 0 and math.isfinite(epsilon)):
        raise ValueError(f"epsilon is {epsilon}, expected a finite number of at least 0")
    nearness = gaussian(answers, targets, sigma=sigma)
    return jnp.where(scorable(answers, targets), nearness + epsilon, 0.0)
