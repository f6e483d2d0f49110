"""Completions for a batch of prompts.

Decoding goes in stretches, each with a longer cache. They are the branches of one compiled
program, or, where completions that have ended leave, programs of their own.
"""

import dataclasses
import functools
import typing
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from jaxqa import sharding
from jaxqa.sampling import compaction, decoding
from jaxqa.sampling.config import SamplingConfig
from jaxqa.sampling.decoding import Places, Rollout, State
from jaxqa.typing import Array, Key, Params

__all__ = ["Decoder", "Rollout", "Sampler", "SamplingConfig"]


CACHE_LENGTHS = tuple(64 * 2**doubling for doubling in range(8))


DecodeStep = Callable[[Any, Array, Array], tuple[Array, Any]]
"""`(cache, token_ids [B G], step) -> (hidden [B G D], cache)` for completion token `step`."""


@typing.runtime_checkable
class Decoder(typing.Protocol):
    """What the sampler needs from a model; `Qwen2_5_VL` has it."""

    def prefill(self, params: Params, prompts: Any) -> Any:
        """Encode B prompts.

        The result has `last_hidden` [B D], `mask` [B S] and `take`, see `Prefix`.
        """
        ...

    def init_cache(self, prefix: Any, *, num_samples: int, length: int) -> Any:
        """Make room for `length` tokens of `num_samples` completions per prompt.

        The result has `grow`, `take` and `flat`, see `Cache`.
        """
        ...

    def decoder(self, params: Params, prefix: Any) -> DecodeStep:
        """Prepare for decoding after these prompts, once for many tokens."""
        ...

    def head(self, params: Params) -> Array:
        """Return the output embedding [V D]."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
    """Samples completions: `sampler(params, prompts, keys)`.

    Hashable: equal samplers share their compiled programs, one for each shape of the prompts, or
    with `row_blocks` one for the first stretch and one for each of the later ones and each of up
    to 3 widths that occur. Prompts are encoded once, their keys and values kept once per group;
    decoding ends as soon as every completion has stopped. A prompt row without a single real
    token is padding: its completions are empty (mask False everywhere) and nothing waits for them.

    Attributes:
      model: a `Decoder`, frozen and hashable.
      config: how to sample.
      stop_token_ids: a completion ends with the first of these; empty: at `max_new_tokens` only.
      pad_token_id: fills what comes after the stop token.
      cache_lengths: where the cache grows, increasing; those from `max_new_tokens` on do not
        count. What is sampled does not depend on them.
      row_blocks: at the end of a stretch completions that have ended leave their places, inside
        so many blocks of rows (as many as there are devices that share the rows); 0: they stay,
        and then a completion is computed in the same shapes whatever its neighbours do, so that
        it is the same to the last bit.
      mesh: the one on which prompts and parameters lie, if it has several devices.
    """

    model: Decoder
    config: SamplingConfig
    stop_token_ids: tuple[int, ...]
    pad_token_id: int
    cache_lengths: tuple[int, ...] = CACHE_LENGTHS
    row_blocks: int = 0
    mesh: Mesh | None = None

    def __post_init__(self):
        lengths = self.cache_lengths
        if list(lengths) != sorted(set(lengths)) or min(lengths, default=1) < 1:
            raise ValueError(f"cache_lengths is {lengths}; expected increasing numbers above 0")
        if self.row_blocks < 0:
            raise ValueError(f"row_blocks is {self.row_blocks}; expected 0 (off) or more")

    @property
    def stops(self) -> tuple[int, ...]:
        """Where the stretches end."""
        longest = self.config.max_new_tokens
        return (*(length for length in self.cache_lengths if length < longest), longest)

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
        if self.row_blocks and len(self.stops) > 1:
            return _sample_compacting(self, params, prompts, keys)
        return _sample(self, params, prompts, keys)

    def lower(self, params: Params, prompts: Any, keys: Any) -> jax.stages.Lowered:
        """The whole of prefill and decoding lowered, not run; all may be `jax.ShapeDtypeStruct`s.

        With `row_blocks` a call runs the same in pieces: `lower_first`, `lower_last`.
        """
        return _sample.lower(self, params, prompts, keys)

    def lower_first(self, params: Params, prompts: Any, keys: Any) -> jax.stages.Lowered:
        """Prefill and the first stretch, as a call with `row_blocks` runs them."""
        return _begin.lower(self, params, prompts, keys)

    def lower_last(
        self, params: Params, first: jax.stages.Lowered
    ) -> tuple[jax.stages.Lowered, tuple[Rollout, Any]]:
        """The last stretch where nobody has left, which is when it takes most.

        Args:
          params: as of `first`.
          first: from `lower_first`; compiled to learn where its results lie, which takes as long
            as compiling it does.

        Returns:
          It, and the rollout and the cache that it is given for good, as `jax.ShapeDtypeStruct`s.
        """
        prefix, (rollout, places, cache), _ = _results(first)
        number, width = len(self.stops) - 1, self.config.num_samples
        room = _make_room.lower(self, number, width, prefix, places, cache)
        prefix, places, cache = _results(room)
        state = rollout, places, cache
        return _proceed.lower(self, number, params, prefix, state), (rollout, cache)


@functools.partial(jax.jit, static_argnums=0)
def _sample(sampler: Sampler, params: Params, prompts: Any, keys: Array) -> Rollout:
    """All stretches in one program; a later one is a branch not taken once all have ended."""
    with sharding.on_mesh(sampler.mesh):
        return _stretches(sampler, params, prompts, keys)


def _stretches(sampler: Sampler, params: Params, prompts: Any, keys: Array) -> Rollout:
    prefix = sampler.model.prefill(params, prompts)
    state = decoding.begin(sampler, params, prefix, keys)

    def go_on(state: State, number: int) -> Rollout:
        if number == len(sampler.stops):
            return state[0]

        def longer(state: State) -> Rollout:
            start, stop = sampler.stops[number - 1 : number + 1]
            rollout, places, cache = state
            state = (rollout, places, cache.grow(stop))
            state = decoding.proceed(sampler, params, prefix, state, start=start, stop=stop)
            return go_on(state, number + 1)

        return jax.lax.cond(state[1].active.any(), longer, lambda state: state[0], state)

    return go_on(state, 1)


def _sample_compacting(sampler: Sampler, params: Params, prompts: Any, keys: Array) -> Rollout:
    """One program per stretch and width; the host looks in between how many go on."""
    rows, num_samples = keys.shape
    if rows % sampler.row_blocks:
        raise ValueError(f"{rows} prompts do not divide into {sampler.row_blocks} blocks of rows")
    prefix, state, needed = _begin(sampler, params, prompts, keys)
    width = num_samples
    for number in range(1, len(sampler.stops)):
        counts = jax.device_get(needed)
        if not counts[0]:
            break
        room = rows // sampler.row_blocks
        fitting = zip(compaction.widths(num_samples), counts, strict=True)
        width = min(width, *(width for width, count in fitting if count <= room))
        rollout, places, cache = state
        del state  # or the shorter cache would lie beside the longer one for the whole stretch
        prefix, places, cache = _make_room(sampler, number, width, prefix, places, cache)
        state, needed = _proceed(sampler, number, params, prefix, (rollout, places, cache))
    return state[0]


@functools.partial(jax.jit, static_argnums=0)
def _begin(
    sampler: Sampler, params: Params, prompts: Any, keys: Array
) -> tuple[Any, State, tuple[Array, ...]]:
    with sharding.on_mesh(sampler.mesh):
        prefix = sampler.model.prefill(params, prompts)
        state = decoding.begin(sampler, params, prefix, keys)
    return prefix, state, _rows_needed(sampler, state[1])


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _make_room(
    sampler: Sampler, number: int, width: int, prefix: Any, places: Places, cache: Any
) -> tuple[Any, Places, Any]:
    """What stretch `number` starts from. Without the model, so cheap to compile."""
    if width < places.active.shape[1]:
        prefix, places, cache = compaction.compact(
            prefix,
            places,
            cache,
            num_samples=sampler.config.num_samples,
            blocks=sampler.row_blocks,
            width=width,
        )
    return prefix, places, cache.grow(sampler.stops[number])


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=4)
def _proceed(
    sampler: Sampler, number: int, params: Params, prefix: Any, state: State
) -> tuple[State, tuple[Array, ...]]:
    start, stop = sampler.stops[number - 1 : number + 1]
    with sharding.on_mesh(sampler.mesh):
        state = decoding.proceed(sampler, params, prefix, state, start=start, stop=stop)
    return state, _rows_needed(sampler, state[1])


def _results(lowered: jax.stages.Lowered) -> Any:
    """What a program returns, as `jax.ShapeDtypeStruct`s that lie where the compiler puts it."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        lowered.out_info,
        lowered.compile().output_shardings,
    )


def _rows_needed(sampler: Sampler, places: Places) -> tuple[Array, ...]:
    return compaction.rows_needed(places, sampler.config.num_samples, sampler.row_blocks)
