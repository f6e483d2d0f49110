"""One optimizer update: gradients over micro-batches, clip, step."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxqa import tree
from jaxqa.train.micro_batches import over_micro_batches
from jaxqa.train.optimizer import global_norm
from jaxqa.train.state import TrainState, split_trained
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
    trained: Callable[[str], bool] | None = None,
    accumulator: str = "float32",
    places: TrainState | None = None,
) -> Callable[..., tuple[TrainState, Contributions, Any]]:
    """Jitted `(state, batch, advance, used) -> (state, metrics, outputs)`; `state` is donated.

    `advance` (static) says whether this update ends a training step. Of the micro-batches only
    the first `used` are computed (an int32 array, not static; None for all), see `micro_batches`;
    where it is 0 the parameters stay as they are, whatever the optimizer's momentum. Metrics gain
    `grad_norm`, before clipping, and `learning_rate`, which is only shown: training step -> rate.
    Only parameters whose "/"-joined path is `trained` get a gradient and move; None means all.
    `accumulator` is the dtype in which the gradients of micro-batches are added up. `places` are
    the shardings of the state: the new one lies where the old one did, so that its memory can be
    used again, and each gradient lies where its parameter does; None leaves that to the compiler.
    """
    lie_there = _constraint(places, trained)

    @partial(
        jax.jit,
        donate_argnums=0,
        static_argnames="advance",
        out_shardings=None if places is None else (places, None, None),
    )
    def update(state: TrainState, batch: Any, advance: bool = True, used: jax.Array | None = None):
        params, frozen = split_trained(state.params, trained)
        around = objective if trained is None else partial(_join_frozen, objective, frozen)
        grads, metrics, outputs = _gradients(
            around, params, batch, micro_batches, used, jnp.dtype(accumulator), lie_there
        )
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


def _constraint(
    places: TrainState | None, trained: Callable[[str], bool] | None
) -> Callable[[Params], Params]:
    """What asks that a tree like the trained parameters lies where they do."""
    if places is None:
        return lambda grads: grads
    part, _ = split_trained(places.params, trained)
    return partial(jax.lax.with_sharding_constraint, shardings=part)


def _join_frozen(objective: Objective, frozen: Params, params: Params, rows: Any):
    return objective(tree.join(params, frozen), rows)


def _gradients(
    objective: Objective,
    params: Params,
    batch: Any,
    micro_batches: int,
    used: jax.Array | None,
    accumulator: jnp.dtype,
    lie_there: Callable[[Params], Params],
):
    """Gradients, metrics and outputs of the whole batch."""
    differentiate = jax.value_and_grad(objective, has_aux=True)

    def contributions(rows: Any):
        (loss, (metrics, outputs)), grads = differentiate(params, rows)
        grads = lie_there(jax.tree.map(lambda leaf: leaf.astype(accumulator), grads))
        return (grads, {**metrics, "loss": loss}), outputs

    (grads, metrics), outputs = over_micro_batches(
        contributions, batch, micro_batches=micro_batches, used=used
    )
    # The optimizer computes in the parameters' dtype; the cast becomes part of its first step.
    grads = jax.tree.map(lambda grad, param: grad.astype(param.dtype), grads, params)
    return grads, metrics, outputs
