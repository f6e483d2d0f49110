"""The arrays that reward functions see: what was answered, and what is true."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxqa.rewards.labels import ABSENT, TASKS
from jaxqa.typing import Array, Bool, Int

LAYOUTS = ("tags", "lines", "answer_only", "json")
"""How a whole text can be laid out, see `layouts.layouts_of`."""

Values = jax.Array | np.ndarray  # NumPy as parsed on the host, JAX inside a jitted function


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "score",
        "valid",
        "layouts",
        "word_count",
        "class_id",
        "severity_id",
        "choice_id",
    ],
    meta_fields=[],
)
@typing.no_type_check  # transformations put shapes and shardings into the fields
@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """G answers to each of N prompts.

    Attributes:
      score: float32 [N G], finite; 0 where invalid.
      valid: bool [N G], whether a score could be read.
      layouts: bool [N G len(LAYOUTS)], which layouts the whole text has.
      word_count: int32 [N G], words of the whole text, split at white space, tags included.
      class_id: int32 [N G], place in `labels.DISTORTION_CLASSES`, -1 where none was read.
      severity_id: int32 [N G], place in `labels.SEVERITIES`, -1 where none was read.
      choice_id: int32 [N G], place in `labels.CHOICES`, -1 where none was read.
    """

    score: Values
    valid: Values
    layouts: Values
    word_count: Values
    class_id: Values
    severity_id: Values
    choice_id: Values


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["score", "pool", "task", "class_id", "severity_id", "choice_id"],
    meta_fields=[],
)
@typing.no_type_check  # transformations put shapes and shardings into the fields
@dataclasses.dataclass(frozen=True, kw_only=True)
class Targets:
    """What N prompts should be answered.

    Attributes:
      score: float32 [N], on the scale of the prompt; NaN where the task has none.
      pool: int32 [N], prompts of different pools (data sets) are never ranked against each other.
      task: int32 [N], place in `labels.TASKS`.
      class_id: int32 [N], place in `labels.DISTORTION_CLASSES`, -1 where the task has none.
      severity_id: int32 [N], place in `labels.SEVERITIES`, -1 where the task has none.
      choice_id: int32 [N], place in `labels.CHOICES`, -1 where the task has none.
    """

    score: Values
    pool: Values
    task: Values
    class_id: Values
    severity_id: Values
    choice_id: Values


def score_targets(score: Values, pool: Values, task: Values | None = None) -> Targets:
    """Return NumPy targets of prompts that ask for a score only, by default of the first task."""
    rows = np.shape(score)
    absent = np.full(rows, ABSENT, np.int32)
    return Targets(
        score=np.asarray(score, np.float32),
        pool=np.asarray(pool, np.int32),
        task=np.zeros(rows, np.int32) if task is None else np.asarray(task, np.int32),
        class_id=absent,
        severity_id=absent,
        choice_id=absent,
    )


def scorable(answers: Answers, targets: Targets) -> Bool[Array, "N G"]:
    """Where a score was read and there is a finite label to compare it with."""
    return jnp.asarray(answers.valid) & jnp.isfinite(targets.score)[:, None]


def understood(answers: Answers, task: Int[Values, " N"]) -> Bool[Values, "N G"]:
    """Where the kind of answer that the row's task asks for was read, right or wrong.

    NumPy's arrays give NumPy's, without a transfer.
    """
    xp = jnp if isinstance(task, jax.Array) else np
    task = task[:, None]
    labelled = (answers.class_id != ABSENT) & (answers.severity_id != ABSENT)
    found = xp.where(task == TASKS.index("degradation"), labelled, answers.valid)
    return xp.where(task == TASKS.index("comparison"), answers.choice_id != ABSENT, found)


def compiled(reward: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Compile a reward function; its keyword-only arguments are options, not arrays."""
    parameters = inspect.signature(reward).parameters.values()
    options = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    return jax.jit(reward, static_argnames=options)
