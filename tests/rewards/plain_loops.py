"""Ranking rewards in plain Python, pair by pair in float64: the truth that tests compare with."""

import math
import statistics
from collections.abc import Sequence

Rows = Sequence[Sequence[float]]


def pair_rewards(
    scores: Rows,
    valid: Sequence[Sequence[bool]],
    labels: Sequence[float],
    places: Sequence[object],
    *,
    link: str = "probit",
    variance: str = "bessel",
    epsilon: float = 1e-6,
    tie: float = 0.5,
    temperature: float = 0.0,
    distance: float = 0.0,
    gain: str = "fidelity",
    gain_epsilon: float = 1e-6,
    unit: float = 1.0,
    least: int = 2,
) -> list[list[float]]:
    """Rewards of each completion against the images that share its `places` entry."""
    read = [
        [score / unit for score, good in zip(row, goods, strict=True) if good]
        for row, goods in zip(scores, valid, strict=True)
    ]
    able = [
        len(row) >= least and math.isfinite(label) for row, label in zip(read, labels, strict=True)
    ]
    mean = [statistics.fmean(row) if row else 0.0 for row in read]
    spread = [_variance(row, variance) for row in read]

    def earned(i: int, k: int) -> float:
        others = [j for j in range(len(labels)) if j != i and able[j] and places[j] == places[i]]
        if not (able[i] and valid[i][k] and others):
            return 0.0
        total = weight = 0.0
        nearest = min(abs(labels[i] - labels[j]) for j in others)
        for j in others:
            z = (scores[i][k] / unit - mean[j]) / math.sqrt(spread[i] + spread[j] + epsilon)
            apart = (labels[i] - labels[j]) / unit
            wanted = _sigmoid(apart / temperature) if temperature else _sign(apart, tie)
            share = math.exp((nearest / unit - abs(apart)) / distance) if distance else 1.0
            total += share * _gain(gain, _link(z, link), _link(-z, link), wanted, gain_epsilon)
            weight += share
        return total / weight

    return [[earned(i, k) for k in range(len(scores[i]))] for i in range(len(labels))]


def _variance(row: list[float], kind: str) -> float:
    if len(row) < 2 or kind == "none":
        return 0.0
    return statistics.variance(row) if kind == "bessel" else statistics.pvariance(row)


def _link(z: float, kind: str) -> float:
    return math.erfc(-z / math.sqrt(2)) / 2 if kind == "probit" else _sigmoid(z)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def _sign(difference: float, tie: float) -> float:
    return tie if difference == 0 else float(difference > 0)


def _gain(kind: str, win: float, loss: float, wanted: float, epsilon: float) -> float:
    if kind == "fidelity":
        return math.sqrt(win * wanted + epsilon) + math.sqrt(loss * (1 - wanted) + epsilon)
    win, loss = (min(max(p, epsilon), 1 - epsilon) for p in (win, loss))
    return 1 + (wanted * math.log(win) + (1 - wanted) * math.log(loss)) / -math.log(epsilon)
