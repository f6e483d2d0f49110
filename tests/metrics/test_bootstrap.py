"""Bootstrap intervals and tests against loops, SciPy and simulation."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError
from scipy import stats

from jaxqa.metrics import bootstrap, correlations
from jaxqa.metrics.dependent_correlations import williams


def pairs(seed: int, *, size: int = 53, noise: float = 0.8):
    random = np.random.default_rng(seed)
    labels = random.uniform(1, 5, size)
    return np.round(labels + random.normal(0, noise, size), 1), labels


@pytest.mark.parametrize("name", list(bootstrap.ROW_METRICS))
def test_rows_equal_the_metric_of_each_row(name):
    random = np.random.default_rng(1)
    x, y = random.integers(0, 6, (7, 19)).astype(float), random.uniform(0, 5, (7, 19))
    x[2] = 3.0  # constant: a correlation is undefined
    expected = [getattr(correlations, name)(a, b) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(bootstrap.ROW_METRICS[name](x, y), expected, rtol=1e-10)


@pytest.mark.parametrize("name", list(bootstrap.ROW_METRICS))
def test_intervals_equal_a_naive_loop(name):
    x, y = pairs(0)
    found = bootstrap.confidence_interval(bootstrap.ROW_METRICS[name], x, y, count=200, seed=5)
    (rows,) = bootstrap.resamples(len(x), 200, 5)
    values = [getattr(correlations, name)(x[row], y[row]) for row in rows]
    np.testing.assert_allclose([found.low, found.high], np.percentile(values, [2.5, 97.5]))


def test_intervals_agree_with_scipy_and_come_from_the_seed():
    x, y = pairs(1, size=150)
    ours = bootstrap.confidence_interval(bootstrap.plcc_rows, x, y, count=2000)
    theirs = stats.bootstrap(
        (x, y),
        lambda a, b: stats.pearsonr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    np.testing.assert_allclose([ours.low, ours.high], theirs, atol=0.01)
    assert bootstrap.confidence_interval(bootstrap.plcc_rows, x, y, count=2000) == ours
    assert bootstrap.confidence_interval(bootstrap.plcc_rows, x, y, count=2000, seed=1) != ours


def test_blocks_bound_memory_and_change_no_resample(monkeypatch):
    whole = np.concatenate(list(bootstrap.resamples(11, 40, 3)))
    monkeypatch.setattr(bootstrap, "_CHUNK_VALUES", 80)
    blocks = list(bootstrap.resamples(11, 40, 3))
    assert len(blocks) == 6
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    random, rho, held = np.random.default_rng(0), 0.7, 0
    for seed in range(200):
        x, y = random.multivariate_normal([0, 0], [[1, rho], [rho, 1]], 60).T
        found = bootstrap.confidence_interval(bootstrap.plcc_rows, x, y, count=300, seed=seed)
        held += found.low <= rho <= found.high
    assert 0.88 <= held / 200 <= 0.98


def test_degenerate_input_has_nan_bounds():
    for x in ([], [1.0], [2.0, 2.0, 2.0], [1.0, np.nan, 3.0]):
        x = np.array(x, np.float64)
        y = np.arange(len(x), dtype=np.float64)
        found = bootstrap.confidence_interval(bootstrap.srcc_rows, x, y, count=50)
        assert np.isnan([found.low, found.high]).all()
        test = bootstrap.paired_test(bootstrap.srcc_rows, x, x, y, count=50)
        assert np.isnan([test.low, test.high, test.p_value]).all()
    # Two images: half of the resamples hold both, the rest have no value.
    two = bootstrap.confidence_interval(
        bootstrap.plcc_rows, np.array([1.0, 2.0]), np.array([3.0, 4.0]), count=2001
    )
    assert np.isnan(two.low) or (two.low, two.high) == (1.0, 1.0)


def test_equal_models_do_not_differ_and_a_much_better_one_does():
    x, y = pairs(2, size=120)
    same = bootstrap.paired_test(bootstrap.srcc_rows, x, x, y, count=300)
    assert same.difference == 0 and same.p_value == 1.0
    worse = x + np.random.default_rng(0).normal(0, 3, len(x))
    test = bootstrap.paired_test(bootstrap.srcc_rows, x, worse, y, count=300)
    assert test.difference > 0.3 and test.low > 0 and test.p_value == pytest.approx(2 / 301)
    swapped = bootstrap.paired_test(bootstrap.srcc_rows, worse, x, y, count=300)
    assert swapped.difference == -test.difference and swapped.p_value == test.p_value


def test_tests_reject_true_equality_about_as_often_as_they_say():
    random, bootstrapped, parametric = np.random.default_rng(4), 0, 0
    cov = [[1, 0.6, 0.6], [0.6, 1, 0.5], [0.6, 0.5, 1]]
    for seed in range(300):
        y, a, b = random.multivariate_normal([0, 0, 0], cov, 80).T
        bootstrapped += (
            bootstrap.paired_test(bootstrap.plcc_rows, a, b, y, count=200, seed=seed).p_value < 0.05
        )
        r = [correlations.plcc(*two) for two in ((a, y), (b, y), (a, b))]
        parametric += williams(*r, 80)[1] < 0.05
    assert 0.02 <= bootstrapped / 300 <= 0.10
    assert 0.02 <= parametric / 300 <= 0.09


def test_williams_by_hand():
    # n=103, r12=.4, r13=.5, r23=.1 put into the published formula, digit by digit.
    t, p = williams(0.5, 0.4, 0.1, 103)
    determinant = 1 - 0.25 - 0.16 - 0.01 + 2 * 0.5 * 0.4 * 0.1
    expected = 0.1 * np.sqrt(102 * 1.1 / (2 * (102 / 100) * determinant + (0.9**2 / 4) * 0.9**3))
    assert t == pytest.approx(expected) and p == pytest.approx(2 * stats.t.sf(expected, 100))
    assert williams(0.4, 0.5, 0.1, 103)[0] == pytest.approx(-t)


@pytest.mark.parametrize(
    "arguments",
    [(0.5, 0.4, 0.1, 3), (np.nan, 0.4, 0.1, 50), (0.5, 0.5, 1.0, 50), (0.5, 0.4, 1.1, 50)],
)
def test_williams_without_a_value_is_nan(arguments):
    assert np.isnan(williams(*arguments)).all()


def test_wrong_lengths_and_levels_are_refused():
    with pytest.raises((ValueError, TypeCheckError)):
        bootstrap.confidence_interval(bootstrap.plcc_rows, np.zeros((2, 2)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="level is 95"):
        bootstrap.confidence_interval(
            bootstrap.plcc_rows, np.arange(4.0), np.arange(4.0), level=95.0
        )
