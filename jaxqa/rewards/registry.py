"""Rewards by name, and their weighted sum."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxqa.rewards.answers import Answers, Targets
from jaxqa.rewards.format import answer_format
from jaxqa.rewards.gaussian import gaussian
from jaxqa.rewards.threshold import threshold
from jaxqa.typing import Array, Float

REWARDS: Mapping[str, Callable[..., jax.Array]] = {
    "format": answer_format,
    "gaussian": gaussian,
    "threshold": threshold,
}
"""Name -> f(answers, targets, **options) -> float32 [N G]."""

Option = float | int | bool | str


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardTerm:
    """One reward in the sum.

    Attributes:
      name: a key of `REWARDS`.
      weight: what the reward is multiplied by.
      options: keyword arguments of the reward function.
    """

    name: str
    weight: float = 1.0
    options: Mapping[str, Option] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in REWARDS:
            raise ValueError(f"reward is {self.name!r}, expected one of {sorted(REWARDS)}")
        if not math.isfinite(self.weight):
            raise ValueError(f"weight of reward {self.name!r} is {self.weight}, expected finite")
        _check_options(self.name, self.options)

    def __hash__(self) -> int:
        return hash((self.name, self.weight, frozenset(self.options.items())))


def _check_options(name: str, options: Mapping[str, Option]) -> None:
    """Raise ValueError unless `options` are what the reward function takes, in kind and value."""
    parameters = {
        key: parameter
        for key, parameter in inspect.signature(REWARDS[name]).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    unknown = sorted(options.keys() - parameters.keys())
    needed = {key for key, p in parameters.items() if p.default is inspect.Parameter.empty}
    missing = sorted(needed - options.keys())
    if unknown or missing:
        raise ValueError(
            f"reward {name!r} takes the options {sorted(parameters)}, of which {sorted(needed)} "
            f"must be given; unknown: {unknown}, missing: {missing}"
        )
    for key, value in options.items():
        kind = parameters[key].annotation
        accepted = (float, int) if kind is float else kind
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{key} of reward {name!r} is {value!r}, expected a {kind.__name__}")
    # The function itself knows which values are possible; it is only traced here.
    jax.eval_shape(functools.partial(REWARDS[name], **options), *_ONE_ANSWER)


_ONE_ANSWER = (
    Answers(
        score=np.zeros((1, 1), np.float32),
        valid=np.ones((1, 1), bool),
        format_ok=np.ones((1, 1), bool),
        word_count=np.zeros((1, 1), np.int32),
    ),
    Targets(score=np.zeros(1, np.float32), pool=np.zeros(1, np.int32)),
)


@functools.partial(jax.jit, static_argnums=0)
def combine(
    terms: tuple[RewardTerm, ...], answers: Answers, targets: Targets
) -> tuple[Float[Array, "N G"], dict[str, jax.Array]]:
    """Return the weighted sum of the terms, and each term unweighted by its name, all [N G]."""
    names = [term.name for term in terms]
    if not terms or len(set(names)) != len(names):
        raise ValueError(f"reward terms are {names}, expected at least one and each name once")
    values = {term.name: REWARDS[term.name](answers, targets, **term.options) for term in terms}
    total = jnp.zeros_like(values[names[0]])
    for term in terms:
        total += term.weight * values[term.name]
    return total, values
