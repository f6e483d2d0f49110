import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from jaxqa.objectives.advantages import (
    AdvantageConfig,
    FilterConfig,
    group_advantages,
    informative_groups,
)


def _expected(rewards: np.ndarray, *, scale: str, epsilon: float) -> np.ndarray:
    rewards = rewards.astype(np.float64)
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    if scale == "none":
        return centred
    ddof = 1 if scale == "bessel" else 0
    return centred / (rewards.std(axis=1, ddof=ddof, keepdims=True) + epsilon)


@pytest.mark.parametrize("scale", ["bessel", "population", "none"])
@pytest.mark.parametrize(("rows", "group_size"), [(1, 2), (3, 8), (5, 16)])
@pytest.mark.parametrize("epsilon", [1e-4, 0.1])
def test_advantages_equal_numpy(scale, rows: int, group_size: int, epsilon: float):
    rewards = np.random.default_rng(group_size).uniform(0, 2, (rows, group_size)).astype(np.float32)
    config = AdvantageConfig(scale=scale, epsilon=epsilon)
    found = group_advantages(jnp.asarray(rewards), config)
    expected = _expected(rewards, scale=scale, epsilon=epsilon)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_by_hand():
    # Mean 1, deviation with G - 1: sqrt((1 + 1 + 0) / 2) = 1.
    found = group_advantages(jnp.array([[0.0, 2.0, 1.0]]), AdvantageConfig())
    np.testing.assert_allclose(found, [[-1 / 1.0001, 1 / 1.0001, 0]], rtol=1e-6)


@pytest.mark.parametrize("scale", ["bessel", "population", "none"])
@pytest.mark.parametrize("group_size", [1, 3, 7])
def test_equal_rewards_give_exactly_zero(scale, group_size: int):
    # In float32 the mean of three times 0.1 is not 0.1.
    rewards = jnp.repeat(jnp.array([[0.1], [1.7], [0.0]]), group_size, axis=1)
    found = group_advantages(rewards, AdvantageConfig(scale=scale))
    np.testing.assert_array_equal(found, np.zeros((3, group_size)))


def test_groups_do_not_mix_and_order_within_is_kept():
    rewards = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 6)), jnp.float32)
    config = AdvantageConfig()
    whole = np.asarray(group_advantages(rewards, config))
    np.testing.assert_array_equal(group_advantages(rewards[2:3], config), whole[2:3])
    order = np.array([3, 0, 5, 1, 4, 2])
    np.testing.assert_allclose(group_advantages(rewards[:, order], config), whole[:, order], 1e-4)


def test_unparsed_completions_count_with_zero():
    found = np.asarray(group_advantages(jnp.array([[1.0, 1.0, 0.0, 1.0]]), AdvantageConfig()))
    assert found[0, 2] < 0 < found[0, 0]


@pytest.mark.parametrize("wrong", [{"scale": "std"}, {"epsilon": 0.0}, {"epsilon": float("nan")}])
def test_wrong_config_is_refused(wrong):
    with pytest.raises((ValueError, TypeCheckError), match=next(iter(wrong))):
        AdvantageConfig(**wrong)


@pytest.mark.parametrize(("deviation", "ddof"), [("bessel", 1), ("population", 0)])
@pytest.mark.parametrize("seed", range(3))
def test_groups_stay_whose_rewards_deviate_by_more(deviation, ddof: int, seed: int):
    rng = np.random.default_rng(seed)
    spreads = np.array([0, 1e-4, 1e-3, 2e-3, 0.05, 0.2, 1])[:, None]
    rewards = (0.7 + spreads * rng.normal(size=(7, 5))).astype(np.float32)
    stds = rewards.astype(np.float64).std(axis=1, ddof=ddof)
    for tau in (0.0, 0.001, 0.1):
        config = FilterConfig(tau=tau, deviation=deviation)
        expected = stds > tau
        assert expected.any() and not expected.all()
        np.testing.assert_array_equal(informative_groups(jnp.asarray(rewards), config), expected)


def test_a_group_of_equals_never_stays_and_the_threshold_itself_is_too_little():
    # In float32 the mean of three times 0.1 is not 0.1.
    equals = jnp.full((2, 3), 0.1)
    assert not informative_groups(equals, FilterConfig(tau=0.0)).any()
    rewards = jnp.array([[0.0, 2.0, 1.0]])  # deviation exactly 1
    assert not informative_groups(rewards, FilterConfig(tau=1.0)).any()
    assert informative_groups(rewards, FilterConfig(tau=0.999)).all()
    # The same with G would be sqrt(2 / 3).
    population = FilterConfig(tau=0.9, deviation="population")
    assert not informative_groups(rewards, population).any()


def test_without_a_threshold_every_group_stays():
    assert informative_groups(jnp.full((4, 3), 0.1), FilterConfig()).all()
    assert not informative_groups(jnp.ones((4, 1)), FilterConfig(tau=0.001)).any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"tau": -0.1},
        {"tau": float("inf")},
        {"deviation": "none"},
        {"resample_rounds": -1},
        {"resample_rounds": 2},
    ],
)
def test_wrong_filter_is_refused(wrong):
    with pytest.raises((ValueError, TypeCheckError), match=next(iter(wrong))):
        FilterConfig(**wrong)
