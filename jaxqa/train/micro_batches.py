"""A batch in slices, one after the other: sums add up, rows are joined again."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxqa.typing import Int


def micro_batch_rows(num_rows: int, micro_batches: int) -> Int[np.ndarray, "B"]:
    """Return the rows of a batch in the order of its micro-batches, one after the other."""
    return np.arange(num_rows).reshape(-1, micro_batches).T.ravel()


def over_micro_batches(
    function: Callable[[Any], tuple[Any, Any]],
    batch: Any,
    *,
    micro_batches: int,
    used: jax.Array | None = None,
) -> tuple[Any, Any]:
    """Return the sums over `micro_batches` slices of the rows, and their outputs, row by row.

    Only the first `used` slices are computed; the sums lack the others, their outputs are 0. How
    many that are is a value, not a shape: it compiles nothing anew.

    Args:
      function: `(rows) -> (sums, outputs)`, trees of arrays; outputs lead with the rows.
      batch: tree whose arrays lead with the rows; each slice gets its scalars whole.
      micro_batches: divides the number of rows.
      used: int32 [], at most `micro_batches`; None for all.
    """
    if micro_batches == 1 and used is None:
        return function(batch)

    slices = jax.tree.map(partial(_split_rows, parts=micro_batches), batch)

    def of(number: jax.Array | int) -> Any:
        return jax.tree.map(
            lambda leaf: jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False), slices
        )

    def add(number: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        total, joined = carry
        sums, outputs = function(of(number))
        joined = jax.tree.map(
            lambda whole, part: jax.lax.dynamic_update_index_in_dim(whole, part, number, 0),
            joined,
            outputs,
        )
        return jax.tree.map(jnp.add, total, sums), joined

    sums, outputs = jax.eval_shape(lambda: function(of(0)))
    total = jax.tree.map(jnp.zeros_like, sums)
    joined = jax.tree.map(lambda o: jnp.zeros((micro_batches, *o.shape), o.dtype), outputs)
    count = micro_batches if used is None else used
    total, joined = jax.lax.fori_loop(0, count, add, (total, joined))
    return total, jax.tree.map(_join_rows, joined)


def _split_rows(leaf: jax.Array, parts: int) -> jax.Array:
    """[B, ...] -> [parts, B / parts, ...], row i to slice i % parts: every slice stays spread over
    the devices that hold the rows (`micro_batch_rows`). Scalars are repeated."""
    if leaf.ndim == 0:
        return jnp.broadcast_to(leaf, (parts,))
    return leaf.reshape(leaf.shape[0] // parts, parts, *leaf.shape[1:]).swapaxes(0, 1)


def _join_rows(leaf: jax.Array) -> jax.Array:
    """Undo `_split_rows`."""
    return leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:])
