"""One softmax over several segments, against plain attention over repeated, joined keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxqa.nn.attention import Segment, attend, grouped_attention


def plain_attention(query, key, value, mask):
    """Query [Q H], key and value [S H], mask [Q S], in float64."""
    logits = np.where(mask, query @ key.T / np.sqrt(query.shape[-1]), -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ value


def draw(rng, *shape):
    return 2 * rng.standard_normal(shape)


def test_attend_matches_plain_attention():
    rng = np.random.default_rng(0)
    query, key, value = draw(rng, 3, 4, 6), draw(rng, 3, 5, 6), draw(rng, 3, 5, 6)
    mask = rng.uniform(size=(3, 1, 5)) < 0.6
    mask[..., 0] = True
    segment = Segment(jnp.float32(key), jnp.float32(value), jnp.asarray(mask))
    found = attend(jnp.float32(query), segment)
    for row in range(3):
        wanted = plain_attention(query[row], key[row], value[row], np.tile(mask[row], (4, 1)))
        np.testing.assert_allclose(found[row], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("with_past", [False, True])
@pytest.mark.parametrize("with_shared", [False, True])
@pytest.mark.parametrize("tokens", [1, 3])
def test_groups_match_plain_attention(with_past, with_shared, tokens):
    rng = np.random.default_rng(1)
    b, k, g, r, h, s, c = 2, 2, 3, 2, 4, 5, 4
    query = draw(rng, b, k, g, tokens, r, h)
    own = draw(rng, 2, b, k, g, tokens, h)
    shared, past = draw(rng, 2, b, k, s, h), draw(rng, 2, b, k, g, c, h)
    shared_mask = np.array([[True] * 5, [True] * 2 + [False] * 3])
    past_mask = np.array([True, True, False, False])
    found = grouped_attention(
        jnp.float32(query),
        (jnp.float32(own[0]), jnp.float32(own[1])),
        shared=Segment(*jnp.float32(shared), jnp.asarray(shared_mask)) if with_shared else None,
        past=Segment(*jnp.float32(past), jnp.asarray(past_mask)) if with_past else None,
    )
    for i, j, n, head in np.ndindex(b, k, g, r):
        keys, values, masks = [own[0][i, j, n]], [own[1][i, j, n]], [np.tri(tokens, dtype=bool)]
        if with_shared:
            keys, values = [*keys, shared[0][i, j]], [*values, shared[1][i, j]]
            masks.append(np.tile(shared_mask[i], (tokens, 1)))
        if with_past:
            keys, values = [*keys, past[0][i, j, n]], [*values, past[1][i, j, n]]
            masks.append(np.tile(past_mask, (tokens, 1)))
        wanted = plain_attention(
            query[i, j, n, :, head],
            np.concatenate(keys),
            np.concatenate(values),
            np.concatenate(masks, axis=1),
        )
        np.testing.assert_allclose(found[i, j, n, :, head], wanted, rtol=1e-5, atol=1e-6)


def test_large_scores_neither_overflow_nor_vanish():
    key = jnp.float32([[0.0, 0.0], [3e4, 0.0]])
    value = jnp.float32([[1.0, 2.0], [3.0, 4.0]])
    query = jnp.float32([[3e4, 0.0], [-3e4, 0.0]])
    segment = Segment(key, value, jnp.ones((2, 2), bool))
    np.testing.assert_array_equal(attend(query, segment), [[3.0, 4.0], [1.0, 2.0]])
    grads = jax.grad(lambda q: attend(q, segment).sum())(query)
    assert np.isfinite(grads).all()


def test_bfloat16_queries_are_scored_in_float32():
    rng = np.random.default_rng(2)
    query, key, value = (jnp.asarray(draw(rng, 1, 64, 32), jnp.bfloat16) for _ in range(3))
    mask = jnp.ones((1, 1, 64), bool)
    found = attend(query, Segment(key, value, mask))
    assert found.dtype == jnp.bfloat16
    wanted = attend(*(jnp.float32(query),), Segment(jnp.float32(key), jnp.float32(value), mask))
    assert float(jnp.abs(found.astype(jnp.float32) - wanted).max()) < 0.05
