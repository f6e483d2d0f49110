import fractions
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from jaxqa.objectives.entropy_gate import GateConfig, high_entropy_tokens

SHAPES = [(1, 1, 1), (3, 2, 5), (4, 3, 7), (1, 1, 11), (8, 4, 33)]


@functools.partial(jax.jit, static_argnames="rho")
def _gate(entropies, mask, rho: float):
    return high_entropy_tokens(entropies, mask, rho=rho)


def _rollout(seed: int, shape, *, levels: int = 0):
    rng = np.random.default_rng(seed)
    entropies = rng.exponential(size=shape)
    if levels:
        entropies = np.floor(entropies * levels) / levels  # many equal ones, zeros among them
    mask = np.arange(shape[-1]) < rng.integers(0, shape[-1] + 1, shape[:-1])[..., None]
    mask.flat[0] = True
    return np.where(mask, entropies, np.nan).astype(np.float32), mask


@pytest.mark.parametrize("rho", [0.2, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("levels", [0, 3])
def test_the_gate_is_numpys_quantile_of_the_flat_list(shape, rho: float, levels: int):
    entropies, mask = _rollout(len(shape) + shape[-1], shape, levels=levels)
    gate = np.asarray(_gate(entropies, mask, rho))
    flat = entropies[mask]
    threshold = np.quantile(flat.astype(np.float64), 1 - rho)
    np.testing.assert_array_equal(gate[mask], flat >= threshold)
    assert not gate[~mask].any() and gate.any()


@pytest.mark.parametrize("count", [1, 2, 5, 6, 31, 2_999_996])
@pytest.mark.parametrize("rho", [0.2, 0.3, 0.0001, 0.1234])
def test_the_rank_is_exact_for_any_number_of_tokens(count: int, rho: float):
    # The entropy of token i is i, so what passes tells the rank.
    entropies = jnp.arange(count, dtype=jnp.float32).reshape(1, 1, -1)
    gate = np.asarray(_gate(entropies, jnp.ones(entropies.shape, bool), rho))
    exact = (count - 1) * (1 - fractions.Fraction(str(rho)))
    rank = -(-exact.numerator // exact.denominator)
    assert gate.sum() == count - rank and gate[0, 0, rank:].all()


def test_equal_entropies_all_pass():
    entropies, mask = jnp.full((2, 3, 4), 0.7), jnp.ones((2, 3, 4), bool)
    assert _gate(entropies, mask, 0.2).all()
    assert _gate(jnp.zeros((2, 3, 4)), mask, 0.2).all()


def test_nothing_passes_where_there_is_nothing():
    entropies = jnp.full((2, 3, 4), jnp.nan)
    assert not _gate(entropies, jnp.zeros((2, 3, 4), bool), 0.2).any()


def test_the_quantile_is_of_the_batch_and_not_of_a_completion():
    entropies = jnp.array([[[5.0, 6.0, 7.0], [0.1, 0.2, 0.3]]])
    gate = _gate(entropies, jnp.ones((1, 2, 3), bool), 0.5)
    assert gate[0, 0].all() and not gate[0, 1].any()


@pytest.mark.parametrize(
    "wrong", [{"source": "model"}, {"rho": 0.0}, {"rho": 1.1}, {"rho": float("nan")}]
)
def test_wrong_gate_is_refused(wrong):
    with pytest.raises((ValueError, TypeCheckError), match=next(iter(wrong))):
        GateConfig(**wrong)
