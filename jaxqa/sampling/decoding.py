"""One stretch of decoding: tokens `start` to `stop` of every completion, or until all have ended.

The cache is in the loop's carry, so every step writes it in place. Its length is the stretch's
`stop`: early tokens do not pay for slots that only a later stretch fills.
"""

import dataclasses
import functools
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxqa.sampling import keys as keys_lib
from jaxqa.sampling import methods
from jaxqa.typing import Array, Params

if TYPE_CHECKING:
    from jaxqa.sampling.sampler import Sampler


_MOST_TRANSPOSED = 64 * 2**20
"""Numbers of a head, 256 MiB in float32: as many as `Qwen2_5_VL.most_unstacked` weights."""


# Transformations put shapes, shardings and strings into the fields, so they are not type-checked.
@jax.tree_util.register_dataclass
@typing.no_type_check
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollout:
    """Sampled completions.

    Log-probabilities and entropies are those of softmax(logits / temperature) before any
    truncation (at temperature 1 when greedy), as the trainer computes them; 0 where masked.

    Attributes:
      token_ids: int32 [B G T], the pad token after the stop token.
      mask: bool [B G T], True up to and including the stop token.
      log_probs: float32 [B G T], of the sampled tokens.
      entropies: float32 [B G T], in nats.
      length: int32 [B G], number of tokens, the stop token included.
      num_steps: int32 scalar, tokens computed per row before every completion had stopped.
    """

    token_ids: jax.Array
    mask: jax.Array
    log_probs: jax.Array
    entropies: jax.Array
    length: jax.Array
    num_steps: jax.Array


@jax.tree_util.register_dataclass
@typing.no_type_check
@dataclasses.dataclass(frozen=True, kw_only=True)
class Places:
    """Where completions stand while they are decoded: g places in each of B rows.

    Attributes:
      keys: [B g], of the completions.
      tokens: int32 [B g], each completion's last token.
      active: bool [B g], False where a completion has ended or nobody stands.
      origin: int32 [B g], which completion stands here, counted through [B G], and B G where
        nobody does; None while all stand in their own places.
    """

    keys: jax.Array
    tokens: jax.Array
    active: jax.Array
    origin: jax.Array | None


@jax.tree_util.register_dataclass
@typing.no_type_check
@dataclasses.dataclass(frozen=True, kw_only=True)
class _Columns:
    """What a stretch adds to a rollout, in the order of the places: [B g stop - start]."""

    token_ids: jax.Array
    mask: jax.Array
    log_probs: jax.Array
    entropies: jax.Array


State = tuple[Rollout, Places, Any]
"""What lies between two stretches: what is written, where, and the model's cache."""


def begin(sampler: "Sampler", params: Params, prefix: Any, keys: Array) -> State:
    """Decode the first stretch; the first token follows from the prompt alone."""
    config = sampler.config
    active = jnp.broadcast_to(prefix.mask.any(-1)[:, None], keys.shape)
    pads = jnp.full(keys.shape, sampler.pad_token_id, jnp.int32)
    places = Places(keys=keys, tokens=pads, active=active, origin=None)
    shape = (*keys.shape, config.max_new_tokens)
    empty = Rollout(
        token_ids=jnp.full(shape, sampler.pad_token_id, jnp.int32),
        mask=jnp.zeros(shape, bool),
        log_probs=jnp.zeros(shape, jnp.float32),
        entropies=jnp.zeros(shape, jnp.float32),
        length=jnp.zeros(keys.shape, jnp.int32),
        num_steps=jnp.int32(0),
    )
    stop = sampler.stops[0]
    cache = sampler.model.init_cache(prefix, num_samples=keys.shape[1], length=stop)
    return proceed(sampler, params, prefix, (empty, places, cache), start=0, stop=stop)


def proceed(
    sampler: "Sampler", params: Params, prefix: Any, state: State, *, start: int, stop: int
) -> State:
    """Decode tokens `start` to `stop`; the cache must have room for `stop` tokens."""
    rollout, places, cache = state
    # Once, not at every step:
    decode = sampler.model.decoder(params, prefix)
    logits_of = _output_layer(sampler.model.head(params).astype(prefix.last_hidden.dtype))
    uniforms = keys_lib.token_uniforms(places.keys, stop - start, start=start)

    def extend(columns: _Columns, places: Places, hidden: Array, step: Array):
        """Append the token that `hidden` ([B g D], or [B 1 D] for all of a row) predicts."""
        active, column = places.active, step - start
        logits = logits_of(hidden)
        logits = jnp.broadcast_to(logits, (*active.shape, logits.shape[-1]))
        drawn = jax.lax.dynamic_index_in_dim(uniforms, column, axis=2, keepdims=False)
        chosen, log_probs, entropies = methods.choose(logits, drawn, sampler.config)
        tokens = jnp.where(active, chosen, sampler.pad_token_id)
        columns = _Columns(
            token_ids=_write(columns.token_ids, tokens, column),
            mask=_write(columns.mask, active, column),
            log_probs=_write(columns.log_probs, jnp.where(active, log_probs, 0.0), column),
            entropies=_write(columns.entropies, jnp.where(active, entropies, 0.0), column),
        )
        active &= ~_is_any_of(tokens, sampler.stop_token_ids)
        return columns, dataclasses.replace(places, tokens=tokens, active=active)

    def unfinished(state: tuple[_Columns, Places, Any, Array]) -> Array:
        _, places, _, step = state
        return (step < stop) & places.active.any()

    def advance(state: tuple[_Columns, Places, Any, Array]):
        columns, places, cache, step = state
        hidden, cache = decode(cache, places.tokens, step - 1)
        return *extend(columns, places, hidden, step), cache, step + 1

    shape = (*places.active.shape, stop - start)
    columns = _Columns(
        token_ids=jnp.full(shape, sampler.pad_token_id, jnp.int32),
        mask=jnp.zeros(shape, bool),
        log_probs=jnp.zeros(shape, jnp.float32),
        entropies=jnp.zeros(shape, jnp.float32),
    )
    step = jnp.int32(start)
    if start == 0:
        columns, places = extend(columns, places, prefix.last_hidden[:, None], step)
        step = step + 1
    columns, places, carried, step = jax.lax.while_loop(
        unfinished, advance, (columns, places, cache.flat(), step)
    )
    cache = jax.tree.map(lambda leaf, like: leaf.reshape(like.shape), carried, cache)
    return _joined(rollout, columns, places.origin, start, step), places, cache


def _joined(
    rollout: Rollout, columns: _Columns, origin: Array | None, start: int, step: Array
) -> Rollout:
    """The rollout with a stretch's columns in the rows of their completions."""

    def put(buffer: Array, part: Array) -> Array:
        if origin is None:
            return jax.lax.dynamic_update_slice_in_dim(buffer, part, start, axis=2)
        flat = buffer.reshape(-1, buffer.shape[2])
        rows = part.reshape(-1, part.shape[2])
        stop = start + part.shape[2]
        # B G, where nobody stands, is no row: dropped.
        return flat.at[origin.reshape(-1), start:stop].set(rows, mode="drop").reshape(buffer.shape)

    buffers = {
        field.name: put(getattr(rollout, field.name), getattr(columns, field.name))
        for field in dataclasses.fields(columns)
    }
    length = buffers["mask"].sum(-1, dtype=jnp.int32)
    return Rollout(**buffers, length=length, num_steps=step)


def _output_layer(head: Array) -> Callable[[Array], Array]:
    """Return what maps hidden states [B g D] to float32 logits [B g V] by the head [V D].

    A small head is transposed, once: by such a matrix a CPU multiplies faster (5 to 8 % of all
    decoding, jax 0.10.2). Of a large one there is no second copy.
    """
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    if head.size > _MOST_TRANSPOSED:
        return lambda hidden: product("bgd,vd->bgv", hidden, head)
    columns = head.T
    return lambda hidden: product("bgd,dv->bgv", hidden, columns)


def _write(buffer: Array, column: Array, step: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(buffer, column, step, axis=-1)


def _is_any_of(tokens: Array, token_ids: tuple[int, ...]) -> Array:
    return (tokens[..., None] == jnp.array(token_ids, jnp.int32)[None, None]).any(-1)
