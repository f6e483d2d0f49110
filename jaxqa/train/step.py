"""One optimizer update: gradients over micro-batches, clip, step."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxqa import tree
from jaxqa.train.optimizer import global_norm
from jaxqa.train.state import TrainState, split_trained
from jaxqa.typing import Int, Params

Contributions = Mapping[str, Any]
Objective = Callable[[Params, Any], tuple[jax.Array, tuple[Contributions, Any]]]
"""`(params, batch) -> (loss, (metrics, outputs))`. Loss and metrics are *contributions*: what the
rows of a micro-batch add to the value over the whole batch, so micro-batches simply sum. Outputs
have a leading row axis (or are None)."""


def make_update(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    learning_rate: optax.Schedule,
    micro_batches: int = 1,
    trained: Callable[[str], bool] | None = None,
) -> Callable[..., tuple[TrainState, Contributions, Any]]:
    """Jitted `(state, batch, advance, used) -> (state, metrics, outputs)`; `state` is donated.

    `advance` (static) says whether this update ends a training step. `used` (an int32 array, not
    static) is how many micro-batches there is something in, the first ones, see
    `micro_batch_rows`; the others are not computed, and their outputs are 0. Where it is 0 the
    parameters stay as they are, whatever the optimizer's momentum. Metrics gain `grad_norm`,
    before clipping, and `learning_rate`, which is only shown: training step -> rate. Only
    parameters whose "/"-joined path is `trained` get a gradient and move; None means all.
    """

    @partial(jax.jit, donate_argnums=0, static_argnames="advance")
    def update(state: TrainState, batch: Any, advance: bool = True, used: jax.Array | None = None):
        params, frozen = split_trained(state.params, trained)
        around = objective if trained is None else partial(_join_frozen, objective, frozen)
        grads, metrics, outputs = _gradients(around, params, batch, micro_batches, used)
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to int32 counts
            steps, opt_state = optimizer.update(grads, state.opt_state, params)
            if used is not None:
                steps = jax.tree.map(lambda leaf: leaf * (used > 0), steps)
            shown = {
                "grad_norm": global_norm(grads),
                "learning_rate": learning_rate(state.step),
            }
        params = optax.apply_updates(params, steps)
        state = replace(
            state,
            step=state.step + (1 if advance else 0),
            params=params if trained is None else tree.join(params, frozen),
            opt_state=opt_state,
        )
        return state, {**metrics, **shown}, outputs

    return update


def _join_frozen(objective: Objective, frozen: Params, params: Params, rows: Any):
    return objective(tree.join(params, frozen), rows)


def micro_batch_rows(num_rows: int, micro_batches: int) -> Int[np.ndarray, "B"]:
    """Return the rows of a batch in the order of its micro-batches, one after the other."""
    return np.arange(num_rows).reshape(-1, micro_batches).T.ravel()


def _gradients(
    objective: Objective,
    params: Params,
    batch: Any,
    micro_batches: int,
    used: jax.Array | None,
):
    """Summed gradients, metrics and row-joined outputs over `micro_batches` slices of the rows.

    The number of slices that are `used` is a value, not a shape: it compiles nothing anew.
    """
    differentiate = jax.value_and_grad(objective, has_aux=True)

    def contributions(rows: Any):
        (loss, (metrics, outputs)), grads = differentiate(params, rows)
        return (grads, {**metrics, "loss": loss}), outputs

    if micro_batches == 1 and used is None:
        (grads, metrics), outputs = contributions(batch)
        return grads, metrics, outputs

    def accumulate(number: jax.Array, carry: Any):
        total, joined = carry
        rows = jax.tree.map(lambda leaf: _slice(leaf, number), slices)
        added, outputs = contributions(rows)
        joined = jax.tree.map(
            lambda whole, part: jax.lax.dynamic_update_index_in_dim(whole, part, number, 0),
            joined,
            outputs,
        )
        return jax.tree.map(jnp.add, total, added), joined

    slices = jax.tree.map(partial(_split_rows, parts=micro_batches), batch)
    shapes, output_shapes = jax.eval_shape(
        contributions, jax.tree.map(lambda leaf: leaf[0], slices)
    )
    total = jax.tree.map(jnp.zeros_like, shapes)
    joined = jax.tree.map(lambda o: jnp.zeros((micro_batches, *o.shape), o.dtype), output_shapes)
    count = micro_batches if used is None else used
    (grads, metrics), joined = jax.lax.fori_loop(0, count, accumulate, (total, joined))
    return grads, metrics, jax.tree.map(_join_rows, joined)


def _slice(leaf: jax.Array, number: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False)


def _split_rows(leaf: jax.Array, parts: int) -> jax.Array:
    """[B, ...] -> [parts, B / parts, ...], row i to slice i % parts: every slice stays spread over
    the devices that hold the rows (`micro_batch_rows`). Scalars are repeated."""
    if leaf.ndim == 0:
        return jnp.broadcast_to(leaf, (parts,))
    return leaf.reshape(leaf.shape[0] // parts, parts, *leaf.shape[1:]).swapaxes(0, 1)


def _join_rows(leaf: jax.Array) -> jax.Array:
    """Undo `_split_rows`."""
    return leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:])
