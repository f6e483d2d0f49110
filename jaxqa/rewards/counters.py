"""What earned nothing for want of something: counted, so that it can be seen."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxqa.rewards.answers import Answers, Targets, understood
from jaxqa.rewards.labels import ABSENT, TASKS
from jaxqa.rewards.pairwise import can_pair, pair_mask
from jaxqa.typing import Array, Bool


def count(
    answers: Answers, targets: Targets, ranked: Sequence[Bool[Array, " N"]]
) -> dict[str, jax.Array]:
    """Return float32 scalars; the last two where there is a ranking term.

    - `unparsed`: share of the completions without the kind of answer that their task asks for;
    - `nan_label`: rows without the label that their task needs;
    - `too_few_scores`: rows to rank, with a label but fewer than two scores;
    - `alone_in_pool`: rows to rank, with a label and scores but without a partner.

    Args:
      ranked: the rows of each ranking term.
    """
    unparsed = 1.0 - jnp.mean(understood(answers, targets.task), dtype=jnp.float32)
    counted = {"unparsed": unparsed, "nan_label": _number(~_labelled(targets))}
    if ranked:
        rows = functools.reduce(jnp.logical_or, ranked) & jnp.isfinite(targets.score)
        able = can_pair(answers, targets)
        paired = pair_mask(answers, targets).any(axis=1)
        counted["too_few_scores"] = _number(rows & ~able)
        counted["alone_in_pool"] = _number(rows & able & ~paired)
    return counted


def _labelled(targets: Targets) -> Bool[Array, " N"]:
    """Rows that have the label that their task needs."""
    named = (targets.class_id != ABSENT) & (targets.severity_id != ABSENT)
    task = targets.task
    found = jnp.where(task == TASKS.index("degradation"), named, jnp.isfinite(targets.score))
    return jnp.where(task == TASKS.index("comparison"), targets.choice_id != ABSENT, found)


def _number(rows: Bool[Array, " N"]) -> jax.Array:
    return rows.sum(dtype=jnp.float32)
