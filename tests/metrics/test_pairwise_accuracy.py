"""Pairwise accuracy with ties, against a loop over all pairs and thresholds."""

import itertools
import math

import numpy as np
import pytest

from jaxqa.metrics.pairwise_accuracy import pairwise_accuracy


def naive(x, y):
    pairs = list(itertools.combinations(range(len(x)), 2))
    best = (-1.0, math.inf)
    for threshold in sorted({0.0, *(abs(x[i] - x[j]) for i, j in pairs)}):
        right = 0
        for i, j in pairs:
            order = 0 if abs(x[i] - x[j]) <= threshold else np.sign(x[i] - x[j])
            right += order == np.sign(y[i] - y[j])
        if right / len(pairs) > best[0]:
            best = (right / len(pairs), threshold)
    return best


@pytest.mark.parametrize("seed", range(6))
def test_is_the_best_share_over_all_thresholds(seed):
    random = np.random.default_rng(seed)
    labels = random.integers(1, 6, 30) / (1 + seed % 2)
    scores = labels + random.normal(0, 0.8, 30)
    if seed > 3:
        scores = np.round(scores)  # exact ties among the scores
    found = pairwise_accuracy(scores, labels)
    value, threshold = naive(scores, labels)
    assert found.value == pytest.approx(value, abs=1e-15) and found.threshold == threshold


def test_by_hand():
    # Pairs: (a, b) tie and lie 0.1 apart; (a, c) and (b, c) rise by 0.4 and 0.5.
    found = pairwise_accuracy(np.array([0.1, 0.0, 0.5]), np.array([1.0, 1.0, 2.0]))
    assert found.value == 1 and found.threshold == pytest.approx(0.1)
    assert pairwise_accuracy(np.array([0.1, 0.0, 0.5]), np.array([1, 2, 3])).value == 2 / 3
    assert pairwise_accuracy(np.array([3, 2, 1.0]), np.array([1, 2, 3])).value == 0
    assert pairwise_accuracy(np.ones(4), np.ones(4)).value == 1  # all tie, and rightly


@pytest.mark.parametrize("scores", [[], [1.0], [1.0, math.nan], [1.0, math.inf]])
def test_is_undefined_without_two_finite_scores(scores):
    assert math.isnan(pairwise_accuracy(np.array(scores), np.arange(len(scores))).value)
