"""What a training step reads and writes."""

import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxqa import sharding, tree
from jaxqa.typing import Params


# Transformations put shapes, shardings and None into the fields, so they are not type-checked.
@jax.tree_util.register_dataclass
@typing.no_type_check
@dataclass(frozen=True, kw_only=True)
class TrainState:
    """The whole of a stage's training state: a pytree, donated to each step.

    Attributes:
      step: int32 [], training steps done.
      params: float32 master parameters.
      opt_state: optax state, of the parameters that are trained.
    """

    step: jax.Array
    params: Params
    opt_state: Any


def create_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    trained: Callable[[str], bool] | None = None,
) -> TrainState:
    """State at step 0; the optimizer's moments take the parameters' placement.

    Parameters whose "/"-joined path is not `trained` (None: all are) get no moments.
    """
    part, _ = split_trained(params, trained)
    opt_state = jax.jit(optimizer.init, out_shardings=_moment_shardings(part, optimizer))(part)
    mesh = jax.tree.leaves(params)[0].sharding.mesh
    step = jax.device_put(jnp.zeros((), jnp.int32), sharding.replicated(mesh))
    return TrainState(step=step, params=params, opt_state=opt_state)


def split_trained(params: Params, trained: Callable[[str], bool] | None) -> tuple[Params, Params]:
    """Parameters that are trained, and those that are not."""
    return (params, {}) if trained is None else tree.split(params, trained)


def _moment_shardings(params: Params, optimizer: optax.GradientTransformation) -> Any:
    """Placement of each optimizer leaf: that of the parameter it belongs to, else replicated."""
    mesh = jax.tree.leaves(params)[0].sharding.mesh
    placements = jax.tree.map(lambda leaf: leaf.sharding, params)
    abstract = jax.eval_shape(optimizer.init, params)
    return optax.tree_map_params(
        optimizer,
        lambda _, placement: placement,
        abstract,
        placements,
        transform_non_params=lambda _: sharding.replicated(mesh),
    )
