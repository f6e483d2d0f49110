"""Agreement of predicted scores with labels, in float64 on the host.

Predictions come first, labels second. Images without a prediction are left out by the caller, who
also counts them: a nan or infinity among the values makes the result nan. So do fewer than two
images and, for the correlations, values that are all the same.
"""

import numpy as np
from scipy import stats

from jaxqa.typing import Float, Shaped

Vector = Shaped[np.ndarray, "N"]


def plcc(predictions: Vector, labels: Vector) -> float:
    """Return Pearson's linear correlation of the raw values, in [-1, 1]."""
    predictions, labels = _pair(predictions, labels)
    return _pearson(predictions, labels) if _comparable(predictions, labels) else float("nan")


def srcc(predictions: Vector, labels: Vector) -> float:
    """Return Spearman's rank correlation, ties sharing their average rank, in [-1, 1]."""
    predictions, labels = _pair(predictions, labels)
    if not _comparable(predictions, labels):
        return float("nan")
    return _pearson(stats.rankdata(predictions), stats.rankdata(labels))


def krcc(predictions: Vector, labels: Vector) -> float:
    """Return Kendall's tau-b, which allows for ties, in [-1, 1]."""
    predictions, labels = _pair(predictions, labels)
    if not _comparable(predictions, labels):
        return float("nan")
    tau, _ = np.asarray(stats.kendalltau(predictions, labels), np.float64)
    return float(tau)


def rmse(predictions: Vector, labels: Vector) -> float:
    """Return the root of the mean squared error, in units of the labels; nan if there are none."""
    predictions, labels = _pair(predictions, labels)
    return float(np.sqrt(_mean(np.square(predictions - labels))))


def mae(predictions: Vector, labels: Vector) -> float:
    """Return the mean absolute error, in units of the labels; nan if there are none."""
    predictions, labels = _pair(predictions, labels)
    return _mean(np.abs(predictions - labels))


def _pair(
    predictions: Vector, labels: Vector
) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    predictions, labels = np.asarray(predictions, np.float64), np.asarray(labels, np.float64)
    if predictions.ndim != 1 or predictions.shape != labels.shape:
        raise ValueError(
            f"predictions have shape {predictions.shape} and labels {labels.shape}, expected two "
            "vectors of one length"
        )
    return predictions, labels


def _comparable(predictions: np.ndarray, labels: np.ndarray) -> bool:
    """Whether a correlation is defined: finite values, at least two different ones on each side."""
    return all(np.isfinite(v).all() and len(np.unique(v)) > 1 for v in (predictions, labels))


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    x, y = x / np.abs(x).max(), y / np.abs(y).max()  # so that no square leaves float64's range
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    return float(np.clip(x @ y, -1.0, 1.0))


def _mean(values: np.ndarray) -> float:
    finite = len(values) > 0 and np.isfinite(values).all()
    return float(values.mean()) if finite else float("nan")
