"""Threshold rewards: near enough or not."""

import math

import jax.numpy as jnp

from jaxqa.rewards.answers import Answers, Targets, compiled, scorable
from jaxqa.typing import Array, Float


@compiled
def threshold(answers: Answers, targets: Targets, *, tolerance: float) -> Float[Array, "N G"]:
    """Return 1 where |answer - target| < tolerance, else 0; 0 without a score or a label.

    Q-Insight uses 0.35 on a scale of 1 to 5. Decimals behave as decimals: 3.35 against 3.0 at
    tolerance 0.35 is not inside, although in float32 the difference is a little below 0.35.
    """
    if not (tolerance > 0 and math.isfinite(tolerance)):
        raise ValueError(f"tolerance is {tolerance}, expected a finite number above 0")
    target = targets.score[:, None]
    distance = jnp.abs(answers.score - target)
    # Reading three decimals into float32 and subtracting is off by less than this.
    rounding = (jnp.abs(answers.score) + jnp.abs(target) + tolerance) * 2.0**-23
    inside = scorable(answers, targets) & (distance < tolerance - rounding)
    return jnp.asarray(inside, jnp.float32)


@compiled
def two_step(
    answers: Answers,
    targets: Targets,
    *,
    inner: float = 0.07,
    outer: float = 0.1,
    partial: float = 0.5,
) -> Float[Array, "N G"]:
    """Return 1 nearer than `inner`, `partial` nearer than `outer`, else 0; decimals as decimals.

    The binary reward of Aes-R1's ablation, in the published code's two steps on a scale of 0 to 1;
    the paper's equation 13 has one, which is `threshold`.
    """
    if not inner < outer:
        raise ValueError(f"inner is {inner} and outer {outer}, expected inner below outer")
    if not 0 <= partial <= 1:
        raise ValueError(f"partial is {partial}, expected a number from 0 to 1")
    near = threshold(answers, targets, tolerance=inner)
    around = threshold(answers, targets, tolerance=outer)
    return partial * around + (1 - partial) * near
