import jax
import jax.numpy as jnp
import numpy as np

from jaxqa.objectives.sampler_gap import sampler_gap


def compute(log_probs, sampler_log_probs, mask):
    metrics = jax.device_get(sampler_gap(log_probs, sampler_log_probs, mask))
    return {
        name: float(value if name.endswith("max") else value.compute())
        for name, value in metrics.items()
    }


def test_means_and_maximum_are_over_real_tokens():
    rng = np.random.default_rng(0)
    sampler = -rng.exponential(size=(2, 3, 5)).astype(np.float32)
    gap = rng.normal(size=sampler.shape).astype(np.float32) * 0.1
    mask = rng.random(sampler.shape) < 0.6
    trainer = np.where(mask, sampler + gap, np.nan)
    found = compute(jnp.asarray(trainer), jnp.asarray(sampler), jnp.asarray(mask))
    real = gap[mask].astype(float)
    assert np.isclose(found["sampler_gap"], np.abs(real).mean(), rtol=1e-5)
    assert np.isclose(found["sampler_gap_max"], np.abs(real).max(), rtol=1e-5)
    assert np.isclose(found["sampler_kl"], (np.exp(real) - 1 - real).mean(), rtol=1e-3)


def test_k3_estimates_the_divergence():
    rng = np.random.default_rng(1)
    drawn_with, trained = (rng.dirichlet(np.ones(6)) for _ in range(2))
    tokens = rng.choice(6, size=(1, 1, 200_000), p=drawn_with)
    logs = [np.log(p)[tokens].astype(np.float32) for p in (trained, drawn_with)]
    found = compute(*map(jnp.asarray, logs), jnp.ones(tokens.shape, bool))
    expected = (drawn_with * np.log(drawn_with / trained)).sum()
    assert np.isclose(found["sampler_kl"], expected, rtol=0.05)
