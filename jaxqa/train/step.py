"""One optimizer update: gradients over micro-batches, clip, step."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxqa.train.optimizer import global_norm
from jaxqa.train.state import TrainState
from jaxqa.typing import Params

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
) -> Callable[..., tuple[TrainState, Contributions, Any]]:
    """Jitted `(state, batch, advance) -> (state, metrics, outputs)`; `state` is donated.

    `advance` (static) says whether this update ends a training step. Metrics gain `grad_norm`,
    before clipping, and `learning_rate`, which is only shown: training step -> rate.
    """

    @partial(jax.jit, donate_argnums=0, static_argnames="advance")
    def update(state: TrainState, batch: Any, advance: bool = True):
        grads, metrics, outputs = _gradients(objective, state.params, batch, micro_batches)
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to int32 counts
            steps, opt_state = optimizer.update(grads, state.opt_state, state.params)
            shown = {
                "grad_norm": global_norm(grads),
                "learning_rate": learning_rate(state.step),
            }
        state = replace(
            state,
            step=state.step + (1 if advance else 0),
            params=optax.apply_updates(state.params, steps),
            opt_state=opt_state,
        )
        return state, {**metrics, **shown}, outputs

    return update


def _gradients(objective: Objective, params: Params, batch: Any, micro_batches: int):
    """Summed gradients, metrics and row-joined outputs over `micro_batches` slices of the rows."""
    differentiate = jax.value_and_grad(objective, has_aux=True)

    def contributions(rows: Any):
        (loss, (metrics, outputs)), grads = differentiate(params, rows)
        return (grads, {**metrics, "loss": loss}), outputs

    if micro_batches == 1:
        (grads, metrics), outputs = contributions(batch)
        return grads, metrics, outputs

    def accumulate(total: Any, rows: Any):
        added, outputs = contributions(rows)
        return jax.tree.map(jnp.add, total, added), outputs

    slices = jax.tree.map(partial(_split_rows, parts=micro_batches), batch)
    first = jax.tree.map(lambda leaf: leaf[0], slices)
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(contributions, first)[0])
    (grads, metrics), outputs = jax.lax.scan(accumulate, zeros, slices)
    return grads, metrics, jax.tree.map(_join_rows, outputs)


def _split_rows(leaf: jax.Array, parts: int) -> jax.Array:
    """[B, ...] -> [parts, B / parts, ...], row i to slice i % parts: every slice stays spread over
    the devices that hold the rows. Scalars are repeated."""
    if leaf.ndim == 0:
        return jnp.broadcast_to(leaf, (parts,))
    return leaf.reshape(leaf.shape[0] // parts, parts, *leaf.shape[1:]).swapaxes(0, 1)


def _join_rows(leaf: jax.Array) -> jax.Array:
    """Undo `_split_rows`."""
    return leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:])
