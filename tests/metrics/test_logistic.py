"""Logistic mappings against independent fits of the published formulas."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError
from scipy.optimize import least_squares

from jaxqa.metrics import correlations, logistic


def pairs(seed: int, *, low: float = 1.0, high: float = 5.0, size: int = 211):
    random = np.random.default_rng(seed)
    x = random.uniform(low, high, size)
    middle, width = (low + high) / 2, (high - low) / 8
    y = 20 + 60 / (1 + np.exp(-(x - middle) / width)) + random.normal(0, 4, size)
    return x, y


def written_out(form, x, b):
    """The formulas as the evaluators print them, in plain NumPy."""
    if form == "logistic5":
        return b[0] * (0.5 - 1.0 / (1 + np.exp(b[1] * (x - b[2])))) + b[3] * x + b[4]
    width = abs(b[3]) if form == "logistic4_abs" else b[3]
    return (b[0] - b[1]) / (1 + np.exp(-(x - b[2]) / width)) + b[1]


@pytest.mark.parametrize("form", list(logistic.FORMS))
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fits_agree_with_an_independent_least_squares(form, seed):
    x, y = pairs(seed)
    ours = logistic.fit(x, y, form)
    assert ours.error is None
    start = [10, 0, y.mean(), 0.1, 0.1] if form == "logistic5" else None
    start = start or [y.max(), y.min(), x.mean(), x.std() / 4]
    with np.errstate(over="ignore"):
        reference = least_squares(
            lambda b: written_out(form, x, b) - y, start, method="lm", max_nfev=20000
        )
        expected = written_out(form, x, reference.x)
    # Equal sums of squares, not only equal parameters: several parameter sets draw one curve.
    assert np.square(ours.apply(x) - y).sum() <= reference.cost * 2 * (1 + 1e-6)
    np.testing.assert_allclose(ours.apply(x), expected, atol=2e-2)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (1.0, 5.0), (0.0, 100.0)])
def test_a_noiseless_curve_is_found_whatever_the_scale(low, high):
    x = np.linspace(low, high, 57)
    y = logistic.four_parameters(x, 83.0, 12.0, low + 0.4 * (high - low), (high - low) / 9)
    for form in ("logistic4", "logistic4_abs"):
        np.testing.assert_allclose(logistic.fit(x, y, form).apply(x), y, atol=1e-5)


def test_mapping_raises_the_linear_correlation_of_a_bent_relation():
    x, y = pairs(3)
    bent = np.exp(x)
    mapped = logistic.fit(bent, y, "logistic4").apply(bent)
    assert correlations.plcc(mapped, y) > correlations.plcc(bent, y) + 0.02


@pytest.mark.parametrize("form", list(logistic.FORMS))
@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([], [], "need at least"),
        ([1.0, 2.0], [1.0, 2.0], "need at least"),
        ([3.0] * 9, list(range(9)), "all predictions are the same"),
        (list(range(9)), [3.0] * 9, "all labels are the same"),
        ([float("nan"), *range(8)], list(range(9)), "not finite"),
    ],
)
def test_what_the_data_do_not_determine_is_said_and_maps_to_nan(form, x, y, reason):
    x, y = np.array(x, np.float64), np.array(y, np.float64)
    fit = logistic.fit(x, y, form)
    assert fit.error is not None and reason in fit.error
    assert np.isnan(fit.apply(x)).all()


def test_a_fit_that_does_not_converge_says_so(monkeypatch):
    monkeypatch.setattr(logistic, "MAX_EVALUATIONS", 3)
    fit = logistic.fit(*pairs(0), "logistic4")
    assert fit.error is not None and "did not converge in 3" in fit.error


def test_lengths_must_agree():
    with pytest.raises((ValueError, TypeCheckError)):
        logistic.fit(np.zeros(3), np.zeros(2), "logistic4")
