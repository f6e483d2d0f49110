"""Rewards by name, and their weighted sum.

| name               | published as                    | value                 |
|--------------------|---------------------------------|-----------------------|
| format             | all: format reward              | 0 or 1                |
| gaussian           | OmniQuality-R                   | 0 to 1                |
| absolute_error     | Aes-R1, equation 6              | 0 to 1 (plus epsilon) |
| adaptive_gaussian  | TATAR, quality (and aesthetics) | 0 to 1                |
| threshold          | Q-Insight; Aes-R1, equation 13  | 0 or 1                |
| two_step           | Aes-R1's ablation, as coded     | 0, one half or 1      |
| thurstone_fidelity | VisualQuality-R1                | 0 to 1 (plus epsilon) |
| frank              | Aes-R1, equations 3 to 5        | 0 to 1                |
| completion_ranking | TATAR, aesthetics               | 0 to 1                |
| degradation        | Q-Insight                       | 0, 0.25 or 1          |
| comparison         | Q-Insight                       | 0 or 1                |
| thinking_cost      | TATAR names one                 | -1 to 0               |

Whatever the input, values are finite. An answer that cannot be read earns 0 (and pays for its
length), and so does a row of another task, and one without the label that the reward needs.
"""

import dataclasses
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxqa.rewards.adaptive_gaussian import adaptive_gaussian
from jaxqa.rewards.answers import LAYOUTS, Answers, Targets, score_targets
from jaxqa.rewards.counters import count
from jaxqa.rewards.format import answer_format
from jaxqa.rewards.gaussian import absolute_error, gaussian
from jaxqa.rewards.labelled import comparison, degradation
from jaxqa.rewards.labels import ABSENT, TASKS
from jaxqa.rewards.ranking import completion_ranking, frank, thurstone_fidelity
from jaxqa.rewards.thinking_cost import thinking_cost
from jaxqa.rewards.threshold import threshold, two_step
from jaxqa.typing import Array, Bool, Float

RANKING: Mapping[str, Callable[..., jax.Array]] = types.MappingProxyType(
    {
        "completion_ranking": completion_ranking,
        "frank": frank,
        "thurstone_fidelity": thurstone_fidelity,
    }
)
"""Those of `REWARDS` that compare rows with each other."""

REWARDS: Mapping[str, Callable[..., jax.Array]] = types.MappingProxyType(
    {
        "absolute_error": absolute_error,
        "adaptive_gaussian": adaptive_gaussian,
        "comparison": comparison,
        "degradation": degradation,
        "format": answer_format,
        "gaussian": gaussian,
        "thinking_cost": thinking_cost,
        "threshold": threshold,
        "two_step": two_step,
        **RANKING,
    }
)
"""Name -> f(answers, targets, **options) -> float32 [N G]."""

Option = float | int | bool | str


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardTerm:
    """One reward in the sum.

    Attributes:
      name: a key of `REWARDS`.
      weight: what the reward is multiplied by.
      tasks: tasks whose rows it is for, of `labels.TASKS`; empty: all. Other rows earn 0.
      options: keyword arguments of the reward function.
    """

    name: str
    weight: float = 1.0
    tasks: tuple[str, ...] = ()
    options: Mapping[str, Option] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in REWARDS:
            raise ValueError(f"reward is {self.name!r}, expected one of {sorted(REWARDS)}")
        if not math.isfinite(self.weight):
            raise ValueError(f"weight of reward {self.name!r} is {self.weight}, expected finite")
        if not set(self.tasks) <= set(TASKS) or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(
                f"tasks of reward {self.name!r} are {self.tasks}, expected some of {TASKS}, each "
                "once"
            )
        _check_options(self.name, self.options)

    def __hash__(self) -> int:
        return hash((self.name, self.weight, self.tasks, frozenset(self.options.items())))


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
        _check_kind(f"{key} of reward {name!r}", value, parameters[key].annotation)
    # The function itself knows which values are possible; it is only traced here.
    jax.eval_shape(functools.partial(REWARDS[name], **options), *_ONE_ANSWER)


def _check_kind(what: str, value: Option, kind: typing.Any) -> None:
    if typing.get_origin(kind) is typing.Literal:
        if value not in typing.get_args(kind):
            raise ValueError(f"{what} is {value!r}, expected one of {typing.get_args(kind)}")
        return
    accepted = (float, int) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{what} is {value!r}, expected {kind.__name__}")


_NONE = np.full((1, 1), ABSENT, np.int32)
_ONE_ANSWER = (
    Answers(
        score=np.zeros((1, 1), np.float32),
        valid=np.ones((1, 1), bool),
        layouts=np.ones((1, 1, len(LAYOUTS)), bool),
        word_count=np.zeros((1, 1), np.int32),
        class_id=_NONE,
        severity_id=_NONE,
        choice_id=_NONE,
    ),
    score_targets(np.zeros(1), np.zeros(1)),
)


@functools.partial(jax.jit, static_argnums=0)
def combine(
    terms: tuple[tuple[str, RewardTerm], ...], answers: Answers, targets: Targets
) -> tuple[Float[Array, "N G"], dict[str, jax.Array], dict[str, jax.Array]]:
    """Return the weighted sum of the terms, each term unweighted by its key, and counters.

    The first two are [N G]; for the counters see `counters.count`.
    """
    keys = [key for key, _ in terms]
    if not terms or len(set(keys)) != len(keys):
        raise ValueError(f"reward terms are {keys}, expected at least one and each key once")
    rows = {key: _rows(term, targets) for key, term in terms}
    values = {
        key: jnp.where(
            rows[key][:, None], REWARDS[term.name](answers, targets, **term.options), 0.0
        )
        for key, term in terms
    }
    total = jnp.zeros_like(values[keys[0]])
    for key, term in terms:
        total += term.weight * values[key]
    ranked = [rows[key] for key, term in terms if term.name in RANKING]
    return total, values, count(answers, targets, ranked)


def _rows(term: RewardTerm, targets: Targets) -> Bool[Array, " N"]:
    """Rows that a term is for."""
    if not term.tasks:
        return jnp.ones(jnp.shape(targets.task), bool)
    tasks = jnp.asarray([TASKS.index(task) for task in term.tasks], jnp.int32)
    return (jnp.asarray(targets.task)[:, None] == tasks[None, :]).any(axis=1)
