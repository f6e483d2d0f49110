import math

import numpy as np
import pytest
from jaxtyping import TypeCheckError
from scipy import stats

from jaxqa.metrics import correlations

CORRELATIONS = (correlations.plcc, correlations.srcc, correlations.krcc)
ERRORS = (correlations.rmse, correlations.mae)


def _scores(seed: int, *, size: int, ties: bool):
    rng = np.random.default_rng(seed)
    labels = rng.uniform(1, 5, size)
    predictions = 0.5 * labels + rng.normal(0, 0.7, size)
    return (np.round(predictions * 2) / 2, np.round(labels)) if ties else (predictions, labels)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [5, 97])
@pytest.mark.parametrize("ties", [False, True])
def test_correlations_equal_scipy(seed: int, size: int, ties: bool):
    predictions, labels = _scores(seed, size=size, ties=ties)
    references = (stats.pearsonr, stats.spearmanr, stats.kendalltau)
    for ours, reference in zip(CORRELATIONS, references, strict=True):
        expected = reference(predictions, labels).statistic
        np.testing.assert_allclose(ours(predictions, labels), expected, rtol=1e-12)


def test_tied_predictions_share_their_average_rank():
    # Ranks 1.5, 1.5, 3, 4 against 1, 2, 3, 4.
    expected = np.corrcoef([1.5, 1.5, 3, 4], [1, 2, 3, 4])[0, 1]
    found = correlations.srcc(np.array([2.0, 2.0, 5.0, 9.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_errors_by_hand():
    predictions, labels = np.array([1.0, 2.0, 4.0]), np.array([1.0, 4.0, 3.0])
    np.testing.assert_allclose(correlations.mae(predictions, labels), 1.0)
    np.testing.assert_allclose(correlations.rmse(predictions, labels), math.sqrt(5 / 3))


def test_float32_integers_and_extreme_scales_are_computed_in_float64():
    labels = np.arange(1, 6, dtype=np.int32)
    for scale in (1e-200, 1.0, 1e200):
        np.testing.assert_allclose(correlations.plcc(labels * scale, labels), 1.0, rtol=1e-12)
    shifted = labels.astype(np.float32) + np.float32(4096)
    np.testing.assert_allclose(correlations.plcc(-shifted, labels), -1.0, rtol=1e-12)


@pytest.mark.parametrize("function", CORRELATIONS)
def test_correlation_of_a_constant_or_of_one_image_is_nan(function):
    varied = np.array([1.0, 2.0, 3.0])
    constant = np.full(3, 0.1)  # the mean of these is not exactly 0.1
    assert math.isnan(function(constant, varied))
    assert math.isnan(function(varied, constant))
    assert math.isnan(function(varied[:1], varied[:1]))
    assert math.isnan(function(varied[:0], varied[:0]))


@pytest.mark.parametrize("function", CORRELATIONS + ERRORS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_values_are_never_hidden(function, bad: float):
    good = np.array([1.0, 2.0, 3.0])
    assert math.isnan(function(np.array([1.0, bad, 2.0]), good))
    assert math.isnan(function(good, np.array([1.0, bad, 2.0])))


@pytest.mark.parametrize("function", ERRORS)
def test_error_without_images_is_nan(function):
    assert math.isnan(function(np.array([]), np.array([])))


@pytest.mark.parametrize("function", CORRELATIONS + ERRORS)
def test_unequal_lengths_are_refused(function):
    with pytest.raises((ValueError, TypeCheckError)):
        function(np.zeros(3), np.zeros(2))
