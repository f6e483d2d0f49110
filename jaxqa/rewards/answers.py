"""The arrays that reward functions see: what was answered, and what is true."""

import dataclasses
import functools
import typing

import jax
import numpy as np

Values = jax.Array | np.ndarray  # NumPy as parsed on the host, JAX inside a jitted function


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["score", "valid", "format_ok", "word_count"],
    meta_fields=[],
)
@typing.no_type_check  # transformations put shapes and shardings into the fields
@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """G answers to each of N prompts.

    Attributes:
      score: float32 [N G], 0 where invalid.
      valid: bool [N G], whether a score could be read.
      format_ok: bool [N G], whether the whole text has the wanted layout.
      word_count: int32 [N G], words of the whole text, split at white space, tags included.
    """

    score: Values
    valid: Values
    format_ok: Values
    word_count: Values


@functools.partial(jax.tree_util.register_dataclass, data_fields=["score", "pool"], meta_fields=[])
@typing.no_type_check  # transformations put shapes and shardings into the fields
@dataclasses.dataclass(frozen=True, kw_only=True)
class Targets:
    """What N prompts should be answered.

    Attributes:
      score: float32 [N], on the scale of the answers.
      pool: int32 [N], prompts of different pools (data sets) are never ranked against each other.
    """

    score: Values
    pool: Values
