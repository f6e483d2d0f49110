"""What a training step reads and writes."""

import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

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
    step = sharding.replicate(np.zeros((), np.int32), mesh)
    return TrainState(step=step, params=params, opt_state=opt_state)


def abstract_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    trained: Callable[[str], bool] | None = None,
) -> TrainState:
    """Shapes and places of what `create_state` makes; so may `params` be."""
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), params
    )
    part, _ = split_trained(params, trained)
    opt_state = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        jax.eval_shape(optimizer.init, part),
        _moment_shardings(part, optimizer),
    )
    whole = sharding.replicated(jax.tree.leaves(params)[0].sharding.mesh)
    step: Any = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
    return TrainState(step=step, params=params, opt_state=opt_state)


def split_trained(params: Params, trained: Callable[[str], bool] | None) -> tuple[Params, Params]:
    """Parameters that are trained, and those that are not."""
    return (params, {}) if trained is None else tree.split(params, trained)


def _moment_shardings(params: Params, optimizer: optax.GradientTransformation) -> Any:
    """Placement of each optimizer leaf: that of the parameter it belongs to, else replicated.

    A leaf belongs to the parameter with whose path its own ends. One that lacks an axis of it
    (Adafactor's means over rows or columns) is placed as the axes that are left.
    """
    mesh = jax.tree.leaves(params)[0].sharding.mesh
    owners = tree.flatten(params)

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        names = [jax.tree_util.keystr((key,), simple=True) for key in path]
        tails = ("/".join(names[start:]) for start in range(len(names)))
        owner = next((owners[tail] for tail in tails if tail in owners), None)
        if owner is None or not isinstance(owner.sharding, NamedSharding):
            return sharding.replicated(mesh)
        spec = [*owner.sharding.spec, *[None] * (owner.ndim - len(owner.sharding.spec))]
        axis = _reduced_axis(names, owner.shape) if owner.ndim > 1 else 0
        if leaf.shape == (*owner.shape[:axis], *owner.shape[axis + 1 :]):
            spec.pop(axis)
        elif leaf.shape != owner.shape:
            return sharding.replicated(mesh)
        return NamedSharding(mesh, PartitionSpec(*spec))

    abstract = jax.eval_shape(optimizer.init, params)
    return jax.tree_util.tree_map_with_path(place, abstract)


def _reduced_axis(names: Sequence[str], shape: tuple[int, ...]) -> int:
    """The axis that optax took the mean over: the largest for `v_row`, the next for `v_col`."""
    return int(np.argsort(shape)[-1 if "v_row" in names else -2])
