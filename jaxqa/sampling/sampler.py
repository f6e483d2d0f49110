"""Completions for a batch of prompts, in one jitted call per shape."""

import dataclasses
import functools
import typing
from typing import Any

import jax
import jax.numpy as jnp

from jaxqa.sampling import keys as keys_lib
from jaxqa.sampling import methods
from jaxqa.sampling.config import SamplingConfig
from jaxqa.typing import Array, Key, Params

__all__ = ["Decoder", "Rollout", "Sampler", "SamplingConfig"]


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


@typing.runtime_checkable
class Decoder(typing.Protocol):
    """What the sampler needs from a model; `Qwen2_5_VL` has it."""

    def prefill(self, params: Params, prompts: Any) -> Any:
        """Encode B prompts; the result has `last_hidden` [B D] and `mask` [B S]."""
        ...

    def init_cache(self, prefix: Any, *, num_samples: int, length: int) -> Any:
        """Make room for `length` tokens of `num_samples` completions per prompt."""
        ...

    def decode(
        self, params: Params, prefix: Any, cache: Any, token_ids: Array, step: Array
    ) -> tuple[Array, Any]:
        """Process completion token number `step` [B G]; return its hidden [B G D] and the cache."""
        ...

    def head(self, params: Params) -> Array:
        """Return the output embedding [V D]."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
    """Samples completions: `sampler(params, prompts, keys)`.

    Hashable: equal samplers share their compiled programs, one for each shape of the prompts.
    Prompts are encoded once, their keys and values kept once per group; decoding ends as soon as
    every completion has stopped. A prompt row without a single real token is padding: its
    completions are empty (mask False everywhere) and nothing waits for them.

    Attributes:
      model: a `Decoder`, frozen and hashable.
      config: how to sample.
      stop_token_ids: a completion ends with the first of these; empty: at `max_new_tokens` only.
      pad_token_id: fills what comes after the stop token.
    """

    model: Decoder
    config: SamplingConfig
    stop_token_ids: tuple[int, ...]
    pad_token_id: int

    def __call__(self, params: Params, prompts: Any, keys: Key[Array, "B G"]) -> Rollout:
        """Sample G completions for each of B prompts.

        A completion depends on its prompt and its key, not on its neighbours or its place.

        Args:
          params: of the model.
          prompts: what `model.prefill` takes, B rows.
          keys: one per completion, from `sample_keys`.
        """
        if keys.shape[1] != self.config.num_samples:
            raise ValueError(
                f"got keys for {keys.shape[1]} completions per prompt, expected num_samples = "
                f"{self.config.num_samples}; make them with sample_keys(..., num_samples)"
            )
        return _sample(self, params, prompts, keys)


@functools.partial(jax.jit, static_argnums=0)
def _sample(sampler: Sampler, params: Params, prompts: Any, keys: Array) -> Rollout:
    model, config = sampler.model, sampler.config
    prefix = model.prefill(params, prompts)
    # Once, not at every step:
    head = model.head(params).astype(prefix.last_hidden.dtype)
    uniforms = keys_lib.token_uniforms(keys, config.max_new_tokens)

    def extend(rollout: Rollout, hidden: Array, active: Array) -> tuple[Rollout, Array, Array]:
        """Append the token that `hidden` ([B G D], or [B 1 D] for all of a group) predicts."""
        step = rollout.num_steps
        logits = jnp.einsum("bgd,vd->bgv", hidden, head, preferred_element_type=jnp.float32)
        logits = jnp.broadcast_to(logits, (*keys.shape, logits.shape[-1]))
        drawn = jax.lax.dynamic_index_in_dim(uniforms, step, axis=2, keepdims=False)
        chosen, log_probs, entropies = methods.choose(logits, drawn, config)
        tokens = jnp.where(active, chosen, sampler.pad_token_id)
        rollout = Rollout(
            token_ids=_write(rollout.token_ids, tokens, step),
            mask=_write(rollout.mask, active, step),
            log_probs=_write(rollout.log_probs, jnp.where(active, log_probs, 0.0), step),
            entropies=_write(rollout.entropies, jnp.where(active, entropies, 0.0), step),
            length=rollout.length + active.astype(jnp.int32),
            num_steps=step + 1,
        )
        return rollout, tokens, active & ~_is_any_of(tokens, sampler.stop_token_ids)

    def unfinished(state: tuple[Rollout, Array, Array, Any]) -> Array:
        rollout, _, active, _ = state
        return (rollout.num_steps < config.max_new_tokens) & active.any()

    def advance(state: tuple[Rollout, Array, Array, Any]) -> tuple[Rollout, Array, Array, Any]:
        rollout, tokens, active, cache = state
        hidden, cache = model.decode(params, prefix, cache, tokens, rollout.num_steps - 1)
        return *extend(rollout, hidden, active), cache

    empty = _empty_rollout(keys.shape, config.max_new_tokens, sampler.pad_token_id)
    real = jnp.broadcast_to(prefix.mask.any(-1)[:, None], keys.shape)
    cache = model.init_cache(prefix, num_samples=config.num_samples, length=config.max_new_tokens)
    # The first token needs no decoding: it follows from the prompt alone.
    first = extend(empty, prefix.last_hidden[:, None], real)
    return jax.lax.while_loop(unfinished, advance, (*first, cache))[0]


def _empty_rollout(rows: tuple[int, ...], length: int, pad_token_id: int) -> Rollout:
    shape = (*rows, length)
    return Rollout(
        token_ids=jnp.full(shape, pad_token_id, jnp.int32),
        mask=jnp.zeros(shape, bool),
        log_probs=jnp.zeros(shape, jnp.float32),
        entropies=jnp.zeros(shape, jnp.float32),
        length=jnp.zeros(rows, jnp.int32),
        num_steps=jnp.int32(0),
    )


def _write(buffer: Array, column: Array, step: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(buffer, column, step, axis=-1)


def _is_any_of(tokens: Array, token_ids: tuple[int, ...]) -> Array:
    return (tokens[..., None] == jnp.array(token_ids, jnp.int32)[None, None]).any(-1)
