"""Layers of one shape, stored with a leading [L] axis and run by `lax.scan`."""

from collections.abc import Callable
from typing import Any, Literal

import jax
from flax import nnx
from jax import lax

Remat = Literal["none", "full"]

_SHALLOW = 2


def stack_layers(build: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs) -> nnx.Module:
    """Build `count` differently drawn layers as one module whose arrays have a leading axis."""
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    keys = jax.random.split(rngs.params(), count)
    stacked = jax.vmap(lambda key: nnx.split(build(nnx.Rngs(params=key)))[1])(keys)
    return nnx.merge(graphdef, stacked)


def scan_layers(
    layers: nnx.Module,
    step: Callable[[Any, Any, Any], tuple[Any, Any]],
    carry: Any,
    inputs: Any = None,
    *,
    remat: Remat = "none",
    unroll: bool = True,
) -> tuple[Any, Any]:
    """Run `step(layer, carry, input) -> (carry, output)` over stacked layers.

    With `remat="full"` the backward pass recomputes each layer from its carry. `unroll` lets a
    stack of two layers or fewer run without a loop, which is faster where gradients are taken.
    """
    graphdef, stacked = nnx.split(layers)

    def apply(carry: Any, item: Any) -> tuple[Any, Any]:
        state, layer_input = item
        return step(nnx.merge(graphdef, state), carry, layer_input)

    if remat == "full":
        apply = jax.checkpoint(apply, prevent_cse=False)  # a scan body: CSE cannot undo it
    # A loop stacks what the backward pass needs, which costs more than compiling a layer twice.
    shallow = jax.tree.leaves(stacked)[0].shape[0] <= _SHALLOW
    return lax.scan(apply, carry, (stacked, inputs), unroll=unroll and shallow and remat == "none")
