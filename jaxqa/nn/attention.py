"""Attention over one or several segments of keys, with one softmax over all of them.

Queries of a group stand as [B K G T R H]: key-value head first, then the G completions of a
prompt, their tokens, and the R query heads that share the key-value head. In this order the rows
that meet the prompt's keys (G T R) and those that meet a completion's own keys (T R) are both
contiguous, so every product is a plain batched matrix product without a transpose.

A backend computes it: `xla` here, the others in `streamed_attention.py` and `fused_attention.py`.
`auto` is `xla` where the scores of the call are few, and `chunked` where they are many.
A single token of decoding is always `xla`: its scores are few, and the prompt's keys must be read
once for the whole group.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxqa import sharding
from jaxqa.nn import fused_attention
from jaxqa.nn.attention_backends import Backend
from jaxqa.nn.scores import mix, scores
from jaxqa.nn.streamed_attention import BLOCK, merge, streamed
from jaxqa.typing import Array, Float

MOST_SCORES = 2**29
"""Scores of one call on one device, 2 GiB in float32, up to which `auto` holds them all.

One image of 1,024 x 768 pixels has 1.2 GiB in Qwen2.5-VL's whole-image layers: an update that reads
one image at a time stays plain, a rollout that reads several does not.
"""


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


class Slots(NamedTuple):
    """Keys and values of a group's tokens so far, with room for those that follow.

    Attributes:
        key: [B K G C H], or [B*K*G C H].
        value: as `key`.
        step: int32 scalar, the slot of the token that is being read.
    """

    key: Array
    value: Array
    step: Array

    def write(self, own: tuple[Float[Array, "B K G 1 H"], Float[Array, "B K G 1 H"]]) -> "Slots":
        """Put the token's own pair into its slot."""

        def put(slots: Array, token: Array) -> Array:
            token = token.reshape(*slots.shape[:-2], 1, slots.shape[-1])
            return lax.dynamic_update_slice_in_dim(slots, token, self.step, axis=-2)

        return self._replace(key=put(self.key, own[0]), value=put(self.value, own[1]))

    def seen(self) -> Segment:
        """Every token up to the one that is being read."""
        mask = jnp.arange(self.key.shape[-2], dtype=self.step.dtype) <= self.step
        return Segment(self.key, self.value, mask)


def attend(
    query: Float[Array, "*B Q H"], segment: Segment, *, backend: Backend = "xla"
) -> Float[Array, "*B Q H"]:
    """Attend to a single segment; the softmax is computed in float32.

    Backends other than `xla` and `chunked` want [B Z N Y H] and a mask [B Z 1 _ Y].
    """
    shape = (*query.shape[:-1], segment.key.shape[-2])
    backend = _by_size(backend, shape, sharding.BATCH_AXES, None, "tensor")
    if backend == "chunked" and segment.key.shape[-2] > BLOCK:
        part = streamed(query, segment.key, segment.value, mask=segment.mask)
        return part.mixed.astype(query.dtype)
    if backend in fused_attention.KERNELS:
        return fused_attention.fused_blocks(backend, query, *segment)
    logits = scores(query, segment.key, segment.mask)
    weights = jnp.exp(logits - lax.stop_gradient(logits.max(-1, keepdims=True)))
    mixed = mix(weights, segment.value) / weights.sum(-1, keepdims=True)
    return mixed.astype(query.dtype)


def grouped_attention(
    query: Float[Array, "B K G T R H"],
    own: tuple[Float[Array, "B K G T H"], Float[Array, "B K G T H"]] | None,
    *,
    shared: Segment | None = None,
    past: Segment | None = None,
    backend: Backend = "xla",
) -> Float[Array, "B K G T R H"]:
    """Attend causally to `own` keys and values, and to earlier segments, under one softmax.

    Args:
        query: queries of T tokens in each of G completions.
        own: keys and values of the same T tokens; None where `past` holds them, T = 1.
        shared: the prompt, [B K S H], the same for the G completions; mask [B S].
        past: earlier tokens of each completion, [B K G C H] or [B*K*G C H]; mask [C]; always
            computed by `xla`.
        backend: what computes it.
    """
    if past is None and own is not None:
        keys = own[0].shape[3] + (shared.key.shape[2] if shared else 0)
        backend = _by_size(backend, (*query.shape[:-1], keys), sharding.BATCH_AXES, "tensor")
        if backend == "chunked":
            return _streamed_group(query, own, shared)
        if backend in fused_attention.KERNELS:
            return fused_attention.fused_group(backend, query, own, shared)
    batch, heads, groups, tokens, repeats, width = query.shape
    rows = query.reshape(batch, heads, groups, tokens * repeats, width)
    all_rows = query.reshape(batch, heads, groups * tokens * repeats, width)
    separate = []  # keys and values that each completion has for itself
    if own is not None:
        causal = np.repeat(np.tri(tokens, dtype=bool), repeats, axis=0)
        separate.append(Segment(*own, jnp.asarray(causal)))
    if past is not None:
        separate.append(past._replace(mask=past.mask[None, :]))
    logits = [_own_scores(rows, segment) for segment in separate]
    if shared is not None:
        seen = scores(all_rows, shared.key, shared.mask[:, None, None, :])
        logits.append(seen.reshape(*rows.shape[:-1], -1))
    peaks = [part.max(-1, keepdims=True) for part in logits]
    peak = lax.stop_gradient(jnp.max(jnp.concatenate(peaks, -1), -1, keepdims=True))
    weights = [jnp.exp(part - peak) for part in logits]
    total = functools.reduce(jnp.add, (part.sum(-1, keepdims=True) for part in weights))
    mixed = [_own_mix(part, segment) for part, segment in zip(weights, separate, strict=False)]
    if shared is not None:
        flat = weights[-1].reshape(batch, heads, groups * tokens * repeats, -1)
        mixed.append(mix(flat, shared.value).reshape(rows.shape))
    return (functools.reduce(jnp.add, mixed) / total).astype(query.dtype).reshape(query.shape)


def _by_size(
    backend: Backend, shape: tuple[int, ...], *axes: str | tuple[str, ...] | None
) -> Backend:
    """What `auto` means for scores of a shape that lie on the mesh as `axes` say."""
    if backend != "auto":
        return backend
    return "chunked" if sharding.local_size(shape, *axes) > MOST_SCORES else "xla"


def _own_scores(rows: Float[Array, "B K G Q H"], segment: Segment) -> Float[Array, "B K G Q S"]:
    """Scores of keys that stand as [B K G S H], or with the first three axes as one."""
    lead = segment.key.shape[:-2]
    mask = segment.mask.reshape(*(1 for _ in lead), *segment.mask.shape)
    found = scores(rows.reshape(*lead, *rows.shape[-2:]), segment.key, mask)
    return found.reshape(*rows.shape[:-1], -1)


def _own_mix(weights: Float[Array, "B K G Q S"], segment: Segment) -> Float[Array, "B K G Q H"]:
    """Sums of values that stand as those keys."""
    lead = segment.value.shape[:-2]
    mixed = mix(weights.reshape(*lead, *weights.shape[-2:]), segment.value)
    return mixed.reshape(*weights.shape[:-1], -1)


def _streamed_group(
    query: Float[Array, "B K G T R H"],
    own: tuple[Float[Array, "B K G T H"], Float[Array, "B K G T H"]],
    shared: Segment | None,
) -> Float[Array, "B K G T R H"]:
    batch, heads, groups, tokens, repeats, width = query.shape
    rows = query.reshape(batch, heads, groups, tokens * repeats, width)
    parts = [streamed(rows, *own, repeats=repeats)]
    if shared is not None:
        all_rows = query.reshape(batch, heads, groups * tokens * repeats, width)
        seen = streamed(all_rows, shared.key, shared.value, mask=shared.mask[:, None, None, :])
        shapes = (rows.shape, rows.shape[:-1])
        parts.append(type(seen)(*(x.reshape(s) for x, s in zip(seen, shapes, strict=True))))
    return merge(parts).astype(query.dtype).reshape(query.shape)
