"""Layers of one shape, stored with a leading [L] axis and run by `lax.scan`."""

from collections.abc import Callable
from typing import Any, Literal

import jax
from flax import nnx
from jax import lax

Remat = Literal["none", "full", "attention", "dots", "offload"]
"""What the backward pass of a layer finds, and what it computes again from the layer's input.

- none: everything is kept.
- dots: results of products with weights are kept; norms, activations and attention are computed
  again.
- attention: queries, keys, values and attention's result are kept, a sixth of what `dots` keeps in
  the 7B model; the feed-forward is computed again.
- offload: as `attention`, but kept in the host's memory.
- full: nothing is kept.
"""

KEPT_NAMES = ("query", "key", "value", "mixed")
"""Names (`jax.ad_checkpoint.checkpoint_name`) that layers give to what `attention` keeps."""

_SHALLOW = 2

_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "attention": jax.checkpoint_policies.save_only_these_names(*KEPT_NAMES),
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=list(KEPT_NAMES),
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


def stack_layers(build: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs) -> nnx.Module:
    """Build `count` differently drawn layers as one module whose arrays have a leading axis."""
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    keys = jax.random.split(rngs.params(), count)
    stacked = jax.vmap(lambda key: nnx.split(build(nnx.Rngs(params=key)))[1])(keys)
    return nnx.merge(graphdef, stacked)


def each_layer(layers: nnx.Module) -> list[Any]:
    """Stacked layers one by one, each with arrays of its own."""
    graphdef, stacked = nnx.split(layers)
    count = jax.tree.leaves(stacked)[0].shape[0]

    def layer(number: int) -> nnx.Module:
        return nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[number], stacked))

    return [layer(number) for number in range(count)]


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

    `remat` says what the backward pass computes again. `unroll` lets a stack of two layers or
    fewer run without a loop, which is faster where gradients are taken.
    """
    graphdef, stacked = nnx.split(layers)

    def apply(carry: Any, item: Any) -> tuple[Any, Any]:
        state, layer_input = item
        return step(nnx.merge(graphdef, state), carry, layer_input)

    if remat != "none":
        # prevent_cse: the body of a scan, so CSE cannot undo it.
        apply = jax.checkpoint(apply, policy=_POLICIES[remat], prevent_cse=False)
    # A loop stacks what the backward pass needs, which costs more than compiling a layer twice.
    shallow = jax.tree.leaves(stacked)[0].shape[0] <= _SHALLOW
    return lax.scan(apply, carry, (stacked, inputs), unroll=unroll and shallow and remat == "none")
