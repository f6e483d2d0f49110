"""Attention in one fused kernel of a library: backends `cudnn` and `tokamax`.

A kernel gets all keys of a query in one call, the prompt's joined with the completion's own, under
one mask. Two calls merged by their log-sum-exps would read the prompt once per group, but neither
library can be trusted with that: the gradient of the log-sum-exp is dropped without a word by JAX's
cuDNN rule (`_dot_product_attention_bwd_rule` reads the first cotangent only), its value is rounded
to the dtype of the output, and tokamax does not return it.
"""

import importlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from jaxqa.typing import Array, Bool, Float

Kernel = Callable[..., Array]
"""`(query [B T N H], key and value [B S K H], mask [B 1 T S] or None, causal) -> [B T N H]`."""


def fused_group(
    backend: str,
    query: Float[Array, "B K G T R H"],
    own: tuple[Float[Array, "B K G T H"], Float[Array, "B K G T H"]],
    shared: tuple[Float[Array, "B K S H"], Float[Array, "B K S H"], Bool[Array, "B S"]] | None,
) -> Float[Array, "B K G T R H"]:
    """Attend causally to `own` and to the prompt's keys and values, if there is one."""
    batch, heads, groups, tokens, repeats, width = query.shape
    rows = batch * groups
    flat_query = query.transpose(0, 2, 3, 1, 4, 5).reshape(rows, tokens, heads * repeats, width)
    pair = [part.transpose(0, 2, 3, 1, 4).reshape(rows, tokens, heads, width) for part in own]
    mask = None
    if shared is not None:
        length = shared[0].shape[2]
        for index in range(2):
            prompt = jnp.broadcast_to(
                shared[index].swapaxes(1, 2)[:, None], (batch, groups, length, heads, width)
            )
            pair[index] = jnp.concatenate([prompt.reshape(rows, *prompt.shape[2:]), pair[index]], 1)
        seen = jnp.broadcast_to(shared[2][:, None, None], (batch, groups, tokens, length))
        causal = jnp.broadcast_to(np.tri(tokens, dtype=bool)[None], (rows, tokens, tokens))
        mask = jnp.concatenate([seen.reshape(rows, tokens, length), causal], -1)[:, None]
    mixed = KERNELS[backend](flat_query, pair[0], pair[1], mask, shared is None)
    mixed = mixed.reshape(batch, groups, tokens, heads, repeats, width)
    return mixed.transpose(0, 3, 1, 2, 4, 5)


def fused_blocks(
    backend: str,
    query: Float[Array, "B Z N Y H"],
    key: Float[Array, "B Z N Y H"],
    value: Float[Array, "B Z N Y H"],
    mask: Bool[Array, "B Z 1 _ Y"],
) -> Float[Array, "B Z N Y H"]:
    """Attend inside each of Z blocks."""
    batch, blocks, heads, length, width = query.shape
    rows = batch * blocks
    flat = [part.swapaxes(2, 3).reshape(rows, length, heads, width) for part in (query, key, value)]
    mask = jnp.broadcast_to(mask, (batch, blocks, 1, length, length))
    mixed = KERNELS[backend](*flat, mask.reshape(rows, 1, length, length), False)
    return mixed.reshape(batch, blocks, length, heads, width).swapaxes(2, 3)


def cudnn(query: Array, key: Array, value: Array, mask: Array | None, causal: bool) -> Array:
    """cuDNN's flash attention, through JAX. Refuses what it cannot do with an error of its own."""
    return _even(
        lambda q, k, v, m: jax.nn.dot_product_attention(
            q, k, v, mask=m, is_causal=causal, implementation="cudnn"
        ),
        query,
        key,
        value,
        mask,
    )


def _even(
    kernel: Callable[[Array, Array, Array, Array | None], Array],
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
) -> Array:
    """Call `kernel` on even lengths: JAX refuses odd ones, with a mask or without.

    Nobody sees what is added: by the mask, or because it comes last where attention is causal.
    """
    tokens = query.shape[1]

    def pad(x: Array, *axes: int) -> Array:
        return jnp.pad(x, [(0, x.shape[a] % 2 if a in axes else 0) for a in range(x.ndim)])

    if mask is not None:
        mask = pad(mask, 2, 3)
    return kernel(pad(query, 1), pad(key, 1), pad(value, 1), mask)[:, :tokens]


def tokamax(query: Array, key: Array, value: Array, mask: Array | None, causal: bool) -> Array:
    """Whichever of tokamax's kernels the device has: Mosaic, Triton or XLA."""
    # Not a dependency: `attention_backends.choose` has looked for it.
    library = importlib.import_module("tokamax")
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # or tokamax takes the command line for its own
    return library.dot_product_attention(query, key, value, mask=mask, is_causal=causal)


KERNELS: dict[str, Kernel] = {"cudnn": cudnn, "tokamax": tokamax}
