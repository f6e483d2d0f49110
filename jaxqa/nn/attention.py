"""Attention over one or several segments of keys, with one softmax over all of them.

Queries of a group stand as [B K G T R H]: key-value head first, then the G completions of a
prompt, their tokens, and the R query heads that share the key-value head. In this order the rows
that meet the prompt's keys (G T R) and those that meet a completion's own keys (T R) are both
contiguous, so every product is a plain batched matrix product without a transpose.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxqa.typing import Array, Bool, Float

_MASKED = -1e30  # finite: a query that sees no key at all gets a mean, not a NaN


class Segment(NamedTuple):
    """Keys and values with who may see them.

    Attributes:
        key: [*B S H].
        value: [*B S H].
        mask: bool, True where seen; broadcasts against the scores [*B Q S].
    """

    key: Array
    value: Array
    mask: Array


def scores(
    query: Float[Array, "*B Q H"], key: Float[Array, "*B S H"], mask: Bool[Array, "..."]
) -> Float[Array, "*B Q S"]:
    """Return scaled float32 scores, very low where `mask` is False."""
    products = jnp.einsum("...qh,...sh->...qs", query, key, preferred_element_type=jnp.float32)
    # Added, not selected: nothing of the size of the scores is kept for the backward pass.
    return products * query.shape[-1] ** -0.5 + jnp.where(mask, 0.0, _MASKED)


def mix(weights: Float[Array, "*B Q S"], value: Float[Array, "*B S H"]) -> Float[Array, "*B Q H"]:
    """Return the weighted sums of values, accumulated in float32."""
    return jnp.einsum(
        "...qs,...sh->...qh", weights.astype(value.dtype), value, preferred_element_type=jnp.float32
    )


def attend(query: Float[Array, "*B Q H"], segment: Segment) -> Float[Array, "*B Q H"]:
    """Attend to a single segment; the softmax is computed in float32."""
    logits = scores(query, segment.key, segment.mask)
    weights = jnp.exp(logits - lax.stop_gradient(logits.max(-1, keepdims=True)))
    mixed = mix(weights, segment.value) / weights.sum(-1, keepdims=True)
    return mixed.astype(query.dtype)


def grouped_attention(
    query: Float[Array, "B K G T R H"],
    own: tuple[Float[Array, "B K G T H"], Float[Array, "B K G T H"]],
    *,
    shared: Segment | None = None,
    past: Segment | None = None,
) -> Float[Array, "B K G T R H"]:
    """Attend causally to `own` keys and values, and to earlier segments, under one softmax.

    Args:
        query: queries of T tokens in each of G completions.
        own: keys and values of the same T tokens.
        shared: the prompt, [B K S H], the same for the G completions; mask [B S].
        past: earlier tokens of each completion, [B K G C H]; mask [C].
    """
    batch, heads, groups, tokens, repeats, width = query.shape
    rows = query.reshape(batch, heads, groups, tokens * repeats, width)
    all_rows = query.reshape(batch, heads, groups * tokens * repeats, width)
    causal = np.repeat(np.tri(tokens, dtype=bool), repeats, axis=0)[None, None, None]
    logits = [scores(rows, own[0], jnp.asarray(causal))]
    if past is not None:
        logits.append(scores(rows, past.key, past.mask[None, None, None, None, :]))
    if shared is not None:
        seen = scores(all_rows, shared.key, shared.mask[:, None, None, :])
        logits.append(seen.reshape(*rows.shape[:-1], -1))
    peaks = [part.max(-1, keepdims=True) for part in logits]
    peak = lax.stop_gradient(jnp.max(jnp.concatenate(peaks, -1), -1, keepdims=True))
    weights = [jnp.exp(part - peak) for part in logits]
    total = sum(
        (part.sum(-1, keepdims=True) for part in weights[1:]), weights[0].sum(-1, keepdims=True)
    )
    mixed = mix(weights[0], own[1])
    if past is not None:
        mixed = mixed + mix(weights[1], past.value)
    if shared is not None:
        flat = weights[-1].reshape(batch, heads, groups * tokens * repeats, -1)
        mixed = mixed + mix(flat, shared.value).reshape(mixed.shape)
    return (mixed / total).astype(query.dtype).reshape(query.shape)
