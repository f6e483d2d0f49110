import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxqa.sampling import keys as keys_lib
from jaxqa.sampling import methods
from jaxqa.sampling.config import SamplingConfig


def uniforms(rows: int, samples: int = 1) -> jax.Array:
    keys = keys_lib.sample_keys(5, "test", 0, np.arange(rows), samples)
    return keys_lib.token_uniforms(keys, 1)[:, :, 0]


choose = jax.jit(methods.choose, static_argnames="config")


@pytest.mark.torch
@pytest.mark.parametrize("temperature", [0.7, 1.6])
@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 1},
        {"top_k": 17},
        {"top_k": 1000},
        {"top_p": 0.05},
        {"top_p": 0.9},
        {"min_p": 0.1},
        {"min_p": 1.0},
        {"top_k": 40, "top_p": 0.8},
        {"top_k": 90, "top_p": 0.95, "min_p": 0.05},
    ],
    ids=str,
)
def test_truncation_equals_hugging_face(options: dict, temperature: float):
    import torch
    from transformers.generation import logits_process as hf

    rng = np.random.default_rng(int(temperature * 10))
    logits = rng.normal(size=(6, 301)).astype(np.float32) * np.float32([[0.1, 1, 3, 10, 30, 2]]).T
    logits[5] -= 50.0
    warpers = {"top_k": hf.TopKLogitsWarper, "top_p": hf.TopPLogitsWarper}
    warpers |= {"min_p": hf.MinPLogitsWarper}
    warped = hf.TemperatureLogitsWarper(temperature)(None, torch.from_numpy(logits))
    scaled = warped.numpy()
    for name, value in options.items():
        warped = warpers[name](value)(None, warped)
    actual = jax.jit(functools.partial(methods.keep_mask, **options))(jnp.asarray(scaled))
    np.testing.assert_array_equal(actual, np.isfinite(warped.numpy()))


def test_ties_with_the_last_kept_token_are_kept():
    logits = np.float32([[1, 3, 1, 2, 1, -4]])
    mask = methods.keep_mask(jnp.asarray(logits), top_k=3)
    np.testing.assert_array_equal(mask, [[True, True, True, True, True, False]])
    mask = methods.keep_mask(jnp.zeros((1, 4)), top_p=0.3)
    np.testing.assert_array_equal(mask, np.ones((1, 4), bool))


@pytest.mark.parametrize("temperature", [0.6, 2.5])
def test_log_probs_and_entropies_are_those_before_truncation(temperature: float):
    logits = np.random.default_rng(1).normal(size=(3, 4, 77)).astype(np.float32) * 4
    config = SamplingConfig(temperature=temperature, top_k=3, top_p=0.7, min_p=0.2)
    tokens, log_probs, entropies = choose(logits, uniforms(3, 4), config)
    expected = scipy.special.log_softmax(logits.astype(np.float64) / temperature, axis=-1)
    picked = np.take_along_axis(expected, np.asarray(tokens)[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(log_probs, picked, rtol=1e-5, atol=1e-5)
    entropy = -(np.exp(expected) * expected).sum(-1)
    np.testing.assert_allclose(entropies, entropy, rtol=1e-5, atol=1e-5)
    best_three = np.argsort(-logits, axis=-1)[..., :3]
    assert (best_three == np.asarray(tokens)[..., None]).any(-1).all()


def test_greedy_takes_the_best_and_reports_at_temperature_one():
    logits = np.random.default_rng(2).normal(size=(2, 3, 50)).astype(np.float32)
    tokens, log_probs, _ = choose(logits, uniforms(2, 3), SamplingConfig(temperature=0.0))
    np.testing.assert_array_equal(tokens, logits.argmax(-1))
    expected = scipy.special.log_softmax(logits, axis=-1).max(-1)
    np.testing.assert_allclose(log_probs, expected, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_samples_follow_the_softmax(temperature: float):
    rows, vocabulary = 40_000, 23
    logits = np.random.default_rng(3).normal(size=vocabulary).astype(np.float32) * 2
    tiled = jnp.broadcast_to(logits, (rows, 1, vocabulary))
    tokens, _, _ = choose(tiled, uniforms(rows), SamplingConfig(temperature=temperature))
    counts = np.bincount(np.asarray(tokens).ravel(), minlength=vocabulary)
    expected = scipy.special.softmax(logits / temperature) * rows
    assert scipy.stats.chisquare(counts, expected, sum_check=False).pvalue > 1e-3


def test_truncated_samples_follow_the_renormalised_softmax():
    rows = 40_000
    logits = np.float32([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])
    tiled = jnp.broadcast_to(logits, (rows, 1, 6))
    tokens, _, _ = choose(tiled, uniforms(rows), SamplingConfig(top_k=5, top_p=0.9))
    counts = np.bincount(np.asarray(tokens).ravel(), minlength=6)
    assert counts[4:].sum() == 0
    expected = scipy.special.softmax(logits[:4]) * rows
    assert scipy.stats.chisquare(counts[:4], expected, sum_check=False).pvalue > 1e-3


@pytest.mark.parametrize("spread", [0.0, 4.0])
def test_draws_from_a_large_vocabulary_follow_the_weights(spread: float):
    vocabulary, number = 151_936, 40_000
    rng = np.random.default_rng(4)
    weights = np.exp(spread * rng.normal(size=vocabulary)).astype(np.float32)
    pairs = jax.random.uniform(jax.random.key(0), (number, 2))
    tokens = jax.jit(jax.vmap(methods.draw, (None, 0)))(weights, pairs)
    bins = rng.integers(0, 50, size=vocabulary)  # a random partition mixes blocks and places
    counts = np.bincount(bins[np.asarray(tokens)], minlength=50)
    shares = np.bincount(bins, weights=weights.astype(np.float64), minlength=50)
    expected = shares / shares.sum() * number
    assert scipy.stats.chisquare(counts, expected, sum_check=False).pvalue > 1e-3


@pytest.mark.parametrize("vocabulary", [1, 2, 5, 16, 17, 1000])
def test_draw_inverts_the_cumulative_distribution(vocabulary: int):
    """Each token owns a rectangle of the unit square whose area is its probability."""
    rng = np.random.default_rng(vocabulary)
    weights = rng.exponential(size=vocabulary) * (rng.random(vocabulary) < 0.7)
    weights[rng.integers(vocabulary)] = 1.0
    width = math.isqrt(vocabulary - 1) + 1
    padded = np.append(weights, np.zeros(-vocabulary % width)).reshape(-1, width)
    pairs = rng.random((200, 2))
    expected = []
    for first, second in pairs:
        sums = np.cumsum(padded.sum(1))
        block = np.searchsorted(sums, first * sums[-1], side="right")
        inside = np.cumsum(padded[block])
        expected.append(block * width + np.searchsorted(inside, second * inside[-1], side="right"))
    tiled = jnp.tile(weights.astype(np.float32), (200, 1))
    actual = methods.draw(tiled, jnp.asarray(pairs, jnp.float32))
    np.testing.assert_array_equal(actual, expected)


def test_extreme_uniforms_never_draw_a_token_of_weight_zero():
    rng = np.random.default_rng(6)
    weights = rng.exponential(size=(500, 90)).astype(np.float32) ** 8
    weights *= rng.random((500, 90)) < 0.1
    weights[np.arange(500), rng.integers(90, size=500)] = 1e-20
    for extreme in (0.0, np.nextafter(np.float32(1), np.float32(0))):
        tokens = methods.draw(jnp.asarray(weights), jnp.full((500, 2), extreme, jnp.float32))
        assert (np.take_along_axis(weights, np.asarray(tokens)[:, None], 1) > 0).all()


@pytest.mark.parametrize(
    "bad",
    [
        {"num_samples": 0},
        {"max_new_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("inf")},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": 1.5},
    ],
    ids=str,
)
def test_options_out_of_range(bad: dict):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} is .*; expected"):
        SamplingConfig(**bad)
