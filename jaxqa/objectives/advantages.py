"""How much better each completion did than the others of its prompt."""

import dataclasses
import math
from typing import Literal, get_args

import jax.numpy as jnp

from jaxqa.typing import Array, Bool, Float

Scale = Literal["bessel", "population", "none"]
Deviation = Literal["bessel", "population"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
    """How rewards of one group become advantages.

    Attributes:
      scale: divide by the group's standard deviation with G - 1 ("bessel", as the published GRPO
        code does) or with G ("population"), or only subtract the mean ("none", as Dr. GRPO does).
      epsilon: added to the standard deviation.
    """

    scale: Scale = "bessel"
    epsilon: float = 1e-4

    def __post_init__(self) -> None:
        if self.scale not in get_args(Scale):
            raise ValueError(f"scale is {self.scale!r}, expected one of {get_args(Scale)}")
        if not (self.epsilon > 0 and math.isfinite(self.epsilon)):
            raise ValueError(f"epsilon is {self.epsilon}, expected a finite number above 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Which groups are trained on.

    What is left is the batch: normalisers count its completions and tokens alone, as if the others
    had never been sampled. OmniQuality-R retains groups "for further training", and DAPO fills
    their places; counting them would only shrink the step. (The entropy gate says for itself what
    its quantile is taken over.)

    Attributes:
      tau: a group stays if the standard deviation of its (total) rewards is above this; None
        keeps all. OmniQuality-R has 0.001.
      deviation: with G - 1 ("bessel") or with G ("population"); the paper does not say.
      resample_rounds: how often, at most, further prompts are sampled in one step while kept
        groups do not fill the batch (DAPO's dynamic sampling); 0 trains on what is left.
    """

    tau: float | None = None
    deviation: Deviation = "bessel"
    resample_rounds: int = 0

    def __post_init__(self) -> None:
        if self.tau is not None and not (self.tau >= 0 and math.isfinite(self.tau)):
            raise ValueError(f"tau is {self.tau}, expected a finite number of at least 0, or None")
        if self.deviation not in get_args(Deviation):
            raise ValueError(
                f"deviation is {self.deviation!r}, expected one of {get_args(Deviation)}"
            )
        if self.resample_rounds < 0:
            raise ValueError(f"resample_rounds is {self.resample_rounds}, expected at least 0")
        if self.resample_rounds and self.tau is None:
            raise ValueError(
                f"resample_rounds is {self.resample_rounds}, which needs a tau: without one every "
                "group is kept"
            )


def group_advantages(rewards: Float[Array, "B G"], config: AdvantageConfig) -> Float[Array, "B G"]:
    """Return (reward - mean) / (standard deviation + epsilon) within each row, in float32.

    A group of equal rewards, or of one completion, gets exactly 0. Every completion counts: one
    that could not be parsed enters with the reward 0 that it earned.
    """
    centred = _centred(rewards)
    if config.scale == "none":
        return centred
    deviations = _deviations(centred, config.scale)
    return centred / (deviations[:, None] + config.epsilon)


def informative_groups(rewards: Float[Array, "B G"], config: FilterConfig) -> Bool[Array, "B"]:
    """Return which groups stay: those whose rewards deviate by more than `tau`."""
    if config.tau is None:
        return jnp.ones(rewards.shape[0], bool)
    return _deviations(_centred(rewards), config.deviation) > config.tau


def _centred(rewards: Float[Array, "B G"]) -> Float[Array, "B G"]:
    """Rewards less their group's mean, in float32."""
    rewards = rewards.astype(jnp.float32)
    # Rewards relative to the first one are exactly 0 in a group of equals; the mean of equal
    # floats is not always that float.
    relative = rewards - rewards[:, :1]
    return relative - relative.mean(axis=1, keepdims=True)


def _deviations(centred: Float[Array, "B G"], deviation: Deviation) -> Float[Array, "B"]:
    group_size = centred.shape[1]
    degrees = max(group_size - 1, 1) if deviation == "bessel" else group_size
    return jnp.sqrt(jnp.square(centred).sum(axis=1) / degrees)
