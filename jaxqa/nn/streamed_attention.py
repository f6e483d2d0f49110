"""Attention that reads keys in blocks and never holds all scores; backend `chunked`.

The softmax is kept as a running maximum and sum, as in FlashAttention (arXiv 2205.14135), in plain
XLA operations. The backward pass recomputes each block's scores from the log-sum-exp. Both results
have gradients, so parts of one softmax can be merged by their log-sum-exps (`merge`).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxqa.nn.scores import mix, scores
from jaxqa.typing import Array, Bool, Float

BLOCK = 512
"""Keys at a time."""


class Part(NamedTuple):
    """Attention to some of the keys.

    Attributes:
        mixed: float32 [*B Q H], weighted mean of their values.
        log_sum: float32 [*B Q], log of the sum of their exponentiated scores.
    """

    mixed: jax.Array
    log_sum: jax.Array


def streamed(
    query: Float[Array, "*B Q H"],
    key: Float[Array, "*B S H"],
    value: Float[Array, "*B S H"],
    *,
    mask: Bool[Array, "..."] | None = None,
    repeats: int = 0,
    block: int = BLOCK,
) -> Part:
    """Attend to `key` in blocks.

    Args:
        query: queries.
        key: keys.
        value: values.
        mask: True where a key is seen; broadcasts against the scores [*B Q S].
        repeats: with R > 0, query i is one of token i // R and sees the keys up to its own.
        block: keys at a time.
    """
    layout = _Layout(key.shape[-2], min(block, key.shape[-2]), repeats)
    if mask is not None:
        mask = mask.reshape((1,) * (query.ndim - mask.ndim) + mask.shape)
    both: Any = _streamed(layout, query, key, value, mask)
    return Part(*both)


def merge(parts: list[Part]) -> Float[Array, "*B Q H"]:
    """Join attention to disjoint sets of keys under one softmax; float32."""
    log_sums = jnp.stack([part.log_sum for part in parts])
    weights = jax.nn.softmax(log_sums, axis=0)[..., None]
    return sum(
        (weight * part.mixed for weight, part in zip(weights[1:], parts[1:], strict=True)),
        weights[0] * parts[0].mixed,
    )


class _Layout(NamedTuple):
    """Static facts of one call."""

    length: int
    block: int
    repeats: int

    @property
    def num_blocks(self) -> int:
        return -(-self.length // self.block)


def _split(layout: _Layout, x: jax.Array, axis: int) -> jax.Array:
    """Blocks of keys as a new first axis; the last is filled up with zeros, or False."""
    axis %= x.ndim
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, layout.num_blocks * layout.block - layout.length)
    shape = (*x.shape[:axis], layout.num_blocks, layout.block, *x.shape[axis + 1 :])
    return jnp.moveaxis(jnp.pad(x, padding).reshape(shape), axis, 0)


def _join(layout: _Layout, blocks: jax.Array) -> jax.Array:
    """Undo `_split` along the last axis but one."""
    x = jnp.moveaxis(blocks, 0, -3)
    x = x.reshape(*x.shape[:-3], -1, x.shape[-1])
    return x[..., : layout.length, :]


class _Block(NamedTuple):
    """Some keys and values, what is known of who sees them, and the place of the first."""

    key: jax.Array
    value: jax.Array
    mask: jax.Array | None
    start: jax.Array


def _blocks(layout: _Layout, key: jax.Array, value: jax.Array, mask: jax.Array | None) -> _Block:
    if mask is not None and mask.shape[-1] == 1:
        mask = jnp.broadcast_to(mask, (*mask.shape[:-1], layout.length))
    return _Block(
        key=_split(layout, key, -2),
        value=_split(layout, value, -2),
        mask=None if mask is None else _split(layout, mask, -1),
        start=jnp.arange(layout.num_blocks, dtype=jnp.int32) * layout.block,
    )


def _block_scores(layout: _Layout, query: jax.Array, block: _Block) -> jax.Array:
    """Scores [*B Q block], very low where a key is not seen or is not there."""
    shape = (1,) * (query.ndim - 2)
    columns = block.start + jnp.arange(layout.block, dtype=jnp.int32)
    seen = (columns < layout.length).reshape(*shape, 1, -1)
    if layout.repeats:
        tokens = np.arange(query.shape[-2], dtype=np.int32) // np.int32(layout.repeats)
        causal = columns[None, :] <= jnp.asarray(tokens)[:, None]
        seen = seen & causal.reshape(*shape, *causal.shape)
    if block.mask is not None:
        seen = seen & block.mask
    return scores(query, block.key, seen)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _streamed(
    layout: _Layout, query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None
) -> Any:
    return _forward(layout, query, key, value, mask)[0]


def _forward(
    layout: _Layout, query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None
):
    def add(carry: tuple[jax.Array, jax.Array, jax.Array], block: _Block):
        peak, total, mixed = carry
        logits = _block_scores(layout, query, block)
        higher = jnp.maximum(peak, logits.max(-1))
        weights = jnp.exp(logits - higher[..., None])
        scale = jnp.exp(peak - higher)
        total = scale * total + weights.sum(-1)
        return (higher, total, scale[..., None] * mixed + mix(weights, block.value)), None

    rows = query.shape[:-1]
    start = (
        jnp.full(rows, -jnp.inf, jnp.float32),
        jnp.zeros(rows, jnp.float32),
        jnp.zeros(query.shape, jnp.float32),
    )
    (peak, total, mixed), _ = lax.scan(add, start, _blocks(layout, key, value, mask))
    mixed, log_sum = mixed / total[..., None], peak + jnp.log(total)
    return (mixed, log_sum), (query, key, value, mask, mixed, log_sum)


def _backward(layout: _Layout, residuals: tuple, cotangents: tuple[jax.Array, jax.Array]):
    query, key, value, mask, mixed, log_sum = residuals
    d_mixed, d_log_sum = cotangents
    # d score = p (d mixed . value - d mixed . mixed + d log_sum)
    offset = d_log_sum - (d_mixed * mixed).sum(-1)
    d_mixed = d_mixed.astype(value.dtype)
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def add(d_query: jax.Array, block: _Block):
        weights = jnp.exp(_block_scores(layout, query, block) - log_sum[..., None])
        slope = product("...qh,...sh->...qs", d_mixed, block.value) + offset[..., None]
        d_scores = (weights * slope * query.shape[-1] ** -0.5).astype(query.dtype)
        d_value = product("...qs,...qh->...sh", weights.astype(value.dtype), d_mixed)
        d_key = product("...qs,...qh->...sh", d_scores, query)
        d_query = d_query + product("...qs,...sh->...qh", d_scores, block.key)
        return d_query, (d_key.astype(key.dtype), d_value.astype(value.dtype))

    start = jnp.zeros(query.shape, jnp.float32)
    d_query, parts = lax.scan(add, start, _blocks(layout, key, value, mask))
    d_key, d_value = (_join(layout, part) for part in parts)
    return d_query.astype(query.dtype), d_key, d_value, None


_streamed.defvjp(_forward, _backward)
