import jax
import jax.numpy as jnp
import numpy as np

from jaxqa.metrics import states


def test_merged_parts_equal_the_whole():
    rng = np.random.default_rng(0)
    values = rng.uniform(1, 2, size=(7, 5)).astype(np.float32)
    mask = rng.uniform(size=(7, 5)) < 0.4
    parts = [
        states.masked_mean(jnp.asarray(values[rows]), jnp.asarray(mask[rows]))
        for rows in (slice(0, 1), slice(1, 6), slice(6, 7))
    ]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    np.testing.assert_allclose(merged.compute(), values[mask].mean(), rtol=1e-6)
    summed = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    np.testing.assert_array_equal(summed.compute(), merged.compute())


def test_values_outside_the_mask_may_be_nan():
    mean = states.masked_mean(jnp.array([1.0, jnp.nan]), jnp.array([True, False]))
    assert float(mean.compute()) == 1.0


def test_nothing_counted_is_nan():
    assert np.isnan(states.masked_mean(jnp.ones(3), jnp.zeros(3, bool)).compute())
