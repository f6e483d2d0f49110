"""The loop on a bigram model, whose next-token logits are a row of a table.

The real model is in test_generation.py.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxqa.sampling import keys as keys_lib
from jaxqa.sampling.sampler import DecodeStep, Rollout, Sampler, SamplingConfig

TRACES: list[tuple[int, ...]] = []
"""Shape of the prompts at each compilation of `prefill`."""


DECODES: list[tuple[int, ...]] = []
"""Rows, places in each and length of the cache at each compilation of `decode`."""


class Prefix(NamedTuple):
    last_hidden: jax.Array
    mask: jax.Array

    def take(self, rows: jax.Array) -> "Prefix":
        return jax.tree.map(functools.partial(take_rows, rows=rows), self)


class Cache(NamedTuple):
    """The tokens themselves, [B G T]."""

    tokens: jax.Array

    def grow(self, length: int) -> "Cache":
        missing = length - self.tokens.shape[2]
        return Cache(jnp.pad(self.tokens, [(0, 0), (0, 0), (0, missing)], constant_values=-1))

    def flat(self) -> "Cache":
        return self

    def take(self, sources: jax.Array) -> "Cache":
        flat = self.tokens.reshape(-1, self.tokens.shape[2])
        taken = take_rows(flat, rows=sources.reshape(len(sources), -1))
        return Cache(taken.reshape(-1, sources.shape[2], flat.shape[1]))


def take_rows(leaf: jax.Array, rows: jax.Array) -> jax.Array:
    """Rows [D b] of each of D blocks."""
    size = leaf.shape[0] // rows.shape[0]
    starts = size * jnp.arange(rows.shape[0], dtype=jnp.int32)
    return leaf[(rows + starts[:, None]).ravel()]


@dataclasses.dataclass(frozen=True)
class Bigram:
    """Hidden state = the last token, one-hot; the head's rows are the logits' columns.

    With `memory`, the token that many places before it is added: the model has a past.
    """

    vocabulary: int
    memory: int = 0

    def prefill(self, params: Any, prompts: Any) -> Prefix:
        TRACES.append(prompts["token_ids"].shape)
        last = prompts["mask"].sum(-1) - 1
        tokens = jnp.take_along_axis(prompts["token_ids"], last[:, None], axis=1)[:, 0]
        return Prefix(jax.nn.one_hot(tokens, self.vocabulary), prompts["mask"])

    def init_cache(self, prefix: Prefix, *, num_samples: int, length: int) -> Cache:
        return Cache(jnp.full((prefix.mask.shape[0], num_samples, length), -1, jnp.int32))

    def decoder(self, params: Any, prefix: Prefix) -> DecodeStep:
        return functools.partial(self._decode, prefix)

    def _decode(
        self, prefix: Prefix, cache: Cache, token_ids: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Cache]:
        DECODES.append(cache.tokens.shape)
        cache = Cache(jax.lax.dynamic_update_index_in_dim(cache.tokens, token_ids, step, axis=2))

        def hidden(step: jax.Array) -> jax.Array:
            token = jax.lax.dynamic_index_in_dim(cache.tokens, step, axis=2, keepdims=False)
            return jax.nn.one_hot(token, self.vocabulary)

        found = hidden(step)
        if self.memory:
            found += hidden(jnp.maximum(step - self.memory, 0)) + prefix.last_hidden[:, None]
        return found, cache

    def head(self, params: Any) -> jax.Array:
        return params["table"].T


VOCABULARY, PAD, STOPS = 12, 0, (3, 7)
PARAMS = {"table": np.random.default_rng(0).normal(size=(VOCABULARY,) * 2).astype(np.float32) * 2}
SAMPLER = Sampler(
    model=Bigram(VOCABULARY),
    config=SamplingConfig(num_samples=4, max_new_tokens=9, temperature=0.8),
    stop_token_ids=STOPS,
    pad_token_id=PAD,
)


def make_prompts(rows: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, length + 1, size=rows)
    mask = np.arange(length) < lengths[:, None]
    return {"token_ids": np.where(mask, rng.integers(0, 12, size=(rows, length)), 0), "mask": mask}


def sample(sampler: Sampler, prompts: dict, ids: np.ndarray, params: dict = PARAMS) -> Rollout:
    keys = keys_lib.sample_keys(1, "grpo", 2, ids, sampler.config.num_samples)
    return jax.device_get(sampler(params, prompts, keys))


def test_rollout_is_consistent_with_the_table():
    prompts = make_prompts(6, 5)
    rollout = sample(SAMPLER, prompts, np.arange(6))
    last = prompts["token_ids"][np.arange(6), prompts["mask"].sum(1) - 1]
    previous = np.concatenate(
        [np.tile(last[:, None, None], (1, 4, 1)), rollout.token_ids[..., :-1]], axis=-1
    )
    expected = scipy.special.log_softmax(PARAMS["table"][previous].astype(float) / 0.8, axis=-1)
    picked = np.take_along_axis(expected, rollout.token_ids[..., None], -1)[..., 0]
    mask = rollout.mask
    np.testing.assert_allclose(rollout.log_probs, np.where(mask, picked, 0), atol=1e-5)
    entropies = -(np.exp(expected) * expected).sum(-1)
    np.testing.assert_allclose(rollout.entropies, np.where(mask, entropies, 0), atol=1e-5)


def test_a_completion_ends_with_its_first_stop_token():
    rollout = sample(SAMPLER, make_prompts(6, 5), np.arange(100, 106))
    endings = set()
    for tokens, mask, length in zip(
        rollout.token_ids.reshape(-1, 9),
        rollout.mask.reshape(-1, 9),
        rollout.length.ravel(),
        strict=True,
    ):
        stops = np.flatnonzero(np.isin(tokens[mask], STOPS))
        expected = stops[0] + 1 if stops.size else 9
        assert mask.sum() == length == expected
        assert mask[:length].all()
        assert (tokens[length:] == PAD).all()
        endings.add(int(tokens[length - 1]) if stops.size else None)
    assert endings == {3, 7, None}


def test_no_stop_tokens_means_full_length():
    rollout = sample(
        dataclasses.replace(SAMPLER, stop_token_ids=()), make_prompts(3, 2), np.arange(3)
    )
    assert rollout.mask.all()


def test_tokens_do_not_depend_on_place_batch_or_neighbours():
    prompts, ids = make_prompts(6, 5), np.array([5, 9, 2**40, -1, 0, 77])
    whole = sample(SAMPLER, prompts, ids)
    order = np.random.default_rng(3).permutation(6)
    shuffled = sample(SAMPLER, jax.tree.map(lambda x: x[order], prompts), ids[order])
    np.testing.assert_array_equal(shuffled.token_ids, whole.token_ids[order])
    for rows in (slice(0, 2), slice(2, 6)):
        part = sample(SAMPLER, jax.tree.map(lambda x, rows=rows: x[rows], prompts), ids[rows])
        np.testing.assert_array_equal(part.token_ids, whole.token_ids[rows])
        np.testing.assert_allclose(part.log_probs, whole.log_probs[rows], rtol=1e-5)
    fewer = dataclasses.replace(SAMPLER, config=dataclasses.replace(SAMPLER.config, num_samples=2))
    np.testing.assert_array_equal(sample(fewer, prompts, ids).token_ids, whole.token_ids[:, :2])


def test_the_loop_ends_when_every_completion_has_stopped():
    table = np.full((VOCABULARY,) * 2, -30.0, np.float32)
    table[np.arange(VOCABULARY), (np.arange(VOCABULARY) + 1) % VOCABULARY] = 30.0  # n -> n + 1
    prompts = make_prompts(6, 5)
    prompts["token_ids"][:] = np.array([1, 0, 4, 1, 0, 4])[:, None]
    rollout = sample(SAMPLER, prompts, np.arange(6), {"table": table})
    np.testing.assert_array_equal(rollout.length, [[2] * 4, [3] * 4, [3] * 4] * 2)
    assert rollout.num_steps == 3
    np.testing.assert_array_equal(rollout.token_ids[2, 0], [5, 6, 7, 0, 0, 0, 0, 0, 0])


def test_padding_rows_are_empty_and_nobody_waits_for_them():
    prompts = make_prompts(6, 5)
    prompts["mask"][1] = False
    table = np.zeros((VOCABULARY,) * 2, np.float32)
    table[:, 7] = 60.0
    rollout = sample(SAMPLER, prompts, np.arange(6), {"table": table})
    np.testing.assert_array_equal(rollout.length, [[1] * 4, [0] * 4, *[[1] * 4] * 4])
    assert rollout.num_steps == 1


def test_one_token_and_greedy():
    config = SamplingConfig(num_samples=1, max_new_tokens=1, temperature=0.0)
    prompts = make_prompts(5, 3)
    rollout = sample(dataclasses.replace(SAMPLER, config=config), prompts, np.arange(5))
    last = prompts["token_ids"][np.arange(5), prompts["mask"].sum(1) - 1]
    np.testing.assert_array_equal(rollout.token_ids[:, 0, 0], PARAMS["table"][last].argmax(-1))


def test_fifty_ragged_batches_compile_once_per_bucket():
    rng = np.random.default_rng(8)
    sampler = dataclasses.replace(SAMPLER, pad_token_id=1)  # a program nobody has compiled yet
    buckets, before = (4, 8, 16), len(TRACES)
    for step in range(50):
        longest = rng.integers(1, 17)
        bucket = next(size for size in buckets if size >= longest)
        prompts = make_prompts(3, bucket, seed=step)
        prompts["mask"][:, longest:] = False
        fresh = dataclasses.replace(sampler)  # equal, but another object
        sample(fresh, prompts, rng.integers(0, 10**12, size=3))
    assert len(TRACES) - before == len(buckets)


def test_keys_for_another_group_size():
    keys = keys_lib.sample_keys(0, "sft", 0, np.arange(2), 3)
    with pytest.raises(ValueError, match="3 completions per prompt, expected num_samples = 4"):
        SAMPLER(PARAMS, make_prompts(2, 3), keys)


# Growing caches and completions that leave. Here a completion depends on its whole past, and ends
# with probability 0.1 or so at each token.

LOOSE = {"table": PARAMS["table"] * 0.3}
LOOSE["table"][:, 3] = 0.14
LONG = Sampler(
    model=Bigram(VOCABULARY, memory=5),
    config=SamplingConfig(num_samples=4, max_new_tokens=40, temperature=0.9),
    stop_token_ids=(3,),
    pad_token_id=PAD,
    cache_lengths=(40,),
)
GROWN = dataclasses.replace(LONG, cache_lengths=(6, 14, 64))


@pytest.fixture(scope="module")
def ragged() -> tuple[dict, np.ndarray, Rollout]:
    """Prompts, one of them padding, their ids, and completions of very different lengths."""
    prompts, ids = make_prompts(8, 5, seed=4), np.arange(8)
    prompts["mask"][5] = False
    return prompts, ids, sample(LONG, prompts, ids, LOOSE)


def test_a_growing_cache_changes_nothing(ragged):
    prompts, ids, expected = ragged
    assert expected.length[5].max() == 0 and np.median(expected.length) < 14 < expected.num_steps
    assert GROWN.stops == (6, 14, 40) and LONG.stops == (40,)
    del DECODES[:]
    assert_equal(sample(GROWN, prompts, ids, LOOSE), expected)
    assert DECODES == [(8, 4, 6), (8, 4, 14), (8, 4, 40)]


def test_completions_that_leave_change_nothing(ragged):
    prompts, ids, expected = ragged
    del DECODES[:]
    for blocks in (1, 2):
        sampler = dataclasses.replace(GROWN, row_blocks=blocks)
        assert_equal(sample(sampler, prompts, ids, LOOSE), expected)
    assert DECODES[0] == (8, 4, 6) and {width for _, width, _ in DECODES} >= {2, 4}
    # Batches whose completions end anywhere: one program per stretch and width at most.
    rng = np.random.default_rng(2)
    del DECODES[:]
    for step in range(12):
        table = LOOSE["table"].copy()
        table[:, 3] += rng.uniform(-2, 2)
        prompts = make_prompts(8, 5, seed=step)
        sample(sampler, prompts, rng.integers(0, 99, 8), {"table": table})
    assert len(DECODES) == len(set(DECODES)) <= 2 * 3


def test_the_longer_caches_are_never_made_once_all_have_ended():
    table = np.zeros((VOCABULARY,) * 2, np.float32)
    table[:, 3] = 60.0
    del DECODES[:]
    sampler = dataclasses.replace(GROWN, row_blocks=2, pad_token_id=2)
    rollout = sample(sampler, make_prompts(8, 5), np.arange(8), {"table": table})
    assert DECODES == [(8, 4, 6)] and rollout.num_steps == 1
    assert (rollout.length == 1).all()


def test_blocks_must_divide_the_rows():
    sampler = dataclasses.replace(GROWN, row_blocks=3)
    with pytest.raises(ValueError, match="8 prompts do not divide into 3 blocks"):
        sample(sampler, make_prompts(8, 5), np.arange(8))
    with pytest.raises(ValueError, match="increasing"):
        dataclasses.replace(GROWN, cache_lengths=(8, 4))


def assert_equal(found: Rollout, expected: Rollout) -> None:
    """To the last bit."""
    for field in dataclasses.fields(Rollout):
        name = field.name
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
