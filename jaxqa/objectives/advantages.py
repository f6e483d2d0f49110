"""How much better each completion did than the others of its prompt."""

import dataclasses
import math
from typing import Literal, get_args

import jax.numpy as jnp

from jaxqa.typing import Array, Float

Scale = Literal["bessel", "population", "none"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
    """How rewards of one group become advantages.

    Attributes:
      scale: divide by the group's standard deviation with G - 1 ("bessel", as the published GRPO
        code does) or with G ("population"), or only subtract the mean ("none").
      epsilon: added to the standard deviation.
    """

    scale: Scale = "bessel"
    epsilon: float = 1e-4

    def __post_init__(self) -> None:
        if self.scale not in get_args(Scale):
            raise ValueError(f"scale is {self.scale!r}, expected one of {get_args(Scale)}")
        if not (self.epsilon > 0 and math.isfinite(self.epsilon)):
            raise ValueError(f"epsilon is {self.epsilon}, expected a finite number above 0")


def group_advantages(rewards: Float[Array, "B G"], config: AdvantageConfig) -> Float[Array, "B G"]:
    """Return (reward - mean) / (standard deviation + epsilon) within each row, in float32.

    A group of equal rewards, or of one completion, gets exactly 0. Every completion counts: one
    that could not be parsed enters with the reward 0 that it earned.
    """
    rewards = rewards.astype(jnp.float32)
    # Rewards relative to the first one are exactly 0 in a group of equals; the mean of equal
    # floats is not always that float.
    relative = rewards - rewards[:, :1]
    centred = relative - relative.mean(axis=1, keepdims=True)
    if config.scale == "none":
        return centred
    group_size = rewards.shape[1]
    degrees = max(group_size - 1, 1) if config.scale == "bessel" else group_size
    deviation = jnp.sqrt(jnp.square(centred).sum(axis=1, keepdims=True) / degrees)
    return centred / (deviation + config.epsilon)
