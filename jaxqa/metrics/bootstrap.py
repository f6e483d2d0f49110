"""Percentile bootstrap over images: confidence intervals, and two models on the same images.

Resamples come from a seed and the number of images alone, so models that are compared see the same
ones. A resample without a value (all its scores alike) is left out; where more than half are, the
interval is nan.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from scipy import stats

from jaxqa.metrics import correlations
from jaxqa.typing import Float, Int, Shaped

Vector = Shaped[np.ndarray, "N"]
Rows = Float[np.ndarray, "R N"]
RowMetric = Callable[[np.ndarray, np.ndarray], np.ndarray]

_CHUNK_VALUES = 4_000_000  # of a block of resamples, to bound memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """An interval that holds the value with the given confidence; nan where undefined."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Whether two models differ on the same images.

    Attributes:
      difference: first minus second, of the whole set.
      low, high: its interval.
      p_value: two-sided, of no difference; nan where undefined.
    """

    difference: float
    low: float
    high: float
    p_value: float


def plcc_rows(predictions: Rows, labels: Rows) -> Float[np.ndarray, "R"]:
    """Pearson's correlation of each row; nan where a side is constant."""
    x = predictions - predictions.mean(-1, keepdims=True)
    y = labels - labels.mean(-1, keepdims=True)
    product = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    constant = (np.ptp(predictions, axis=-1) == 0) | (np.ptp(labels, axis=-1) == 0)
    product[constant] = np.nan
    return np.clip((x * y).sum(-1) / product, -1.0, 1.0)


def srcc_rows(predictions: Rows, labels: Rows) -> Float[np.ndarray, "R"]:
    """Spearman's correlation of each row, ties sharing their average rank."""
    return plcc_rows(stats.rankdata(predictions, axis=-1), stats.rankdata(labels, axis=-1))


def krcc_rows(predictions: Rows, labels: Rows) -> Float[np.ndarray, "R"]:
    """Kendall's tau-b of each row."""
    rows = zip(predictions, labels, strict=True)
    return np.array([correlations.krcc(x, y) for x, y in rows], np.float64)


def rmse_rows(predictions: Rows, labels: Rows) -> Float[np.ndarray, "R"]:
    """Root mean squared error of each row."""
    return np.sqrt(np.square(predictions - labels).mean(-1))


def mae_rows(predictions: Rows, labels: Rows) -> Float[np.ndarray, "R"]:
    """Mean absolute error of each row."""
    return np.abs(predictions - labels).mean(-1)


ROW_METRICS: Mapping[str, RowMetric] = {
    "plcc": plcc_rows,
    "srcc": srcc_rows,
    "krcc": krcc_rows,
    "rmse": rmse_rows,
    "mae": mae_rows,
}


def resamples(images: int, count: int, seed: int) -> Iterator[Int[np.ndarray, "R N"]]:
    """Blocks of `count` rows of image numbers, drawn with replacement."""
    generator = np.random.default_rng([seed, images])
    rows = max(1, _CHUNK_VALUES // max(images, 1))
    for start in range(0, count, rows):
        yield generator.integers(0, images, (min(rows, count - start), images))


def confidence_interval(
    metric: RowMetric,
    predictions: Vector,
    labels: Vector,
    *,
    count: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a metric over resampled images; nan for fewer than two images."""
    x, y = _checked(predictions, labels)
    values = _values(metric, x, y, count=count, seed=seed)
    return Interval(**_bounds(values, level))


def paired_test(
    metric: RowMetric,
    first: Vector,
    second: Vector,
    labels: Vector,
    *,
    count: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedTest:
    """Paired bootstrap test of two models' predictions for the same images.

    The p-value is twice the smaller share of resamples on either side of no difference, both
    counted with one more resample than drawn, so it is never 0.
    """
    x, y = _checked(first, labels)
    other, _ = _checked(second, labels)
    differences = _values(metric, x, y, count=count, seed=seed)
    differences = differences - _values(metric, other, y, count=count, seed=seed)
    whole = (
        metric(x[None], y[None]) - metric(other[None], y[None]) if len(x) else np.array([np.nan])
    )
    bounds, known = _bounds(differences, level), differences[np.isfinite(differences)]
    tails = (known <= 0).sum(), (known >= 0).sum()
    p_value = min(1.0, 2 * (1 + min(tails)) / (1 + len(known)))
    undefined = np.isnan(bounds["low"]) or not np.isfinite(whole[0])
    return PairedTest(
        difference=float(whole[0]), p_value=float("nan") if undefined else p_value, **bounds
    )


def _checked(predictions: Vector, labels: Vector) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(predictions, np.float64), np.asarray(labels, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"shapes {x.shape} and {y.shape}, expected two vectors of one length")
    return x, y


def _values(
    metric: RowMetric, x: np.ndarray, y: np.ndarray, *, count: int, seed: int
) -> np.ndarray:
    """The metric of each resample; nan everywhere if there is no finite value to be had."""
    if len(x) < 2 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return np.full(count, np.nan)
    blocks = resamples(len(x), count, seed)
    return np.concatenate([metric(x[rows], y[rows]) for rows in blocks])


def _bounds(values: np.ndarray, level: float) -> dict[str, float]:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected a confidence between 0 and 1")
    known = values[np.isfinite(values)]
    if 2 * len(known) < len(values) or not len(known):
        return {"low": float("nan"), "high": float("nan")}
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return {"low": float(low), "high": float(high)}
