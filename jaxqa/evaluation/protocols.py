"""Ways of turning scores and labels into figures, as the field's evaluators do it; by name.

Whatever the protocol, an image without a score is left out and counted, never made up.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxqa.errors import UserError
from jaxqa.evaluation import tatar_quirks
from jaxqa.metrics import bootstrap, logistic
from jaxqa.metrics.pairwise_accuracy import pairwise_accuracy
from jaxqa.typing import Float

Vector = Float[np.ndarray, "N"]

METRICS = ("plcc", "srcc", "krcc", "rmse", "mae")
HIGHER_IS_BETTER = {"plcc": True, "srcc": True, "krcc": True, "rmse": False, "mae": False}

PAIRWISE, ELEMENTS, FINAL = "pairwise_accuracy", "element_accuracy", "final"
EXTRAS = (PAIRWISE, ELEMENTS, FINAL)
"""Figures of single benchmarks, without intervals; higher is better."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """One way of computing the figures.

    Attributes:
      name: on the command line and in tables.
      summary: what it does, for the table's caption.
      mapping: form of `logistic.FORMS` that maps scores to labels first; None maps nothing.
      mapped: metrics that are computed from the mapped scores, the others from the raw ones.
      rescale: (answers, labels, task, dataset) -> scores and labels on a scale of its own; None
        takes scores and labels as they are.
      ranks: ranks of rows of numbers, which SRCC correlates; None for shared ranks of ties.
      absolute: correlations lose their sign.
      extras: those of `EXTRAS` that it has besides `METRICS`.
    """

    name: str
    summary: str
    mapping: str | None = None
    mapped: tuple[str, ...] = ()
    rescale: Callable[[Vector, Vector, str, str], tuple[Vector, Vector]] | None = None
    ranks: Callable[[np.ndarray], np.ndarray] | None = None
    absolute: bool = False
    extras: tuple[str, ...] = ()


_PROTOCOLS = (
    Protocol(
        name="raw",
        summary="scores as they are on the labels' scale, no mapping; ties share their rank",
    ),
    Protocol(
        name="deqa",
        summary="DeQA-Score: 4-parameter logistic before PLCC and SRCC",
        mapping="logistic4",
        mapped=("plcc", "srcc"),
    ),
    Protocol(
        name="pyiqa",
        summary="pyiqa's benchmark: no mapping, correlations without their sign",
        absolute=True,
    ),
    Protocol(
        name="vqeg",
        summary="5-parameter logistic before PLCC, RMSE and MAE; ranks of the raw scores",
        mapping="logistic5",
        mapped=("plcc", "rmse", "mae"),
    ),
    Protocol(
        name="evalmuse",
        summary="EvalMuse-40K's challenge: 4-parameter logistic with |b4| before PLCC only; final "
        "is a quarter of SRCC and of PLCC and half of the element accuracy",
        mapping="logistic4_abs",
        mapped=("plcc",),
        extras=(ELEMENTS, FINAL),
    ),
    Protocol(
        name="genai_bench",
        summary="GenAI-Bench (t2v_metrics): no mapping; pairwise accuracy over all pairs of "
        "images, ties by the threshold that suits a scorer best",
        extras=(PAIRWISE,),
    ),
    Protocol(
        name="tatar",
        summary="TATAR's script: both sides moved to 0..100 by their values, ranks without ties",
        rescale=tatar_quirks.rescale,
        ranks=tatar_quirks.ranks,
    ),
)
PROTOCOLS: Mapping[str, Protocol] = {protocol.name: protocol for protocol in _PROTOCOLS}


def get_protocol(name: str) -> Protocol:
    """The preset called `name`; UserError lists them."""
    if name not in PROTOCOLS:
        raise UserError(f"unknown protocol {name!r}; expected one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """Scored images of one data set and one model.

    Attributes:
      values: scores in the labels' range and direction.
      labels: the truth.
      answers: the numbers that the model wrote, on its prompt's scale; what `rescale` reads.
      task: what the label rates.
      dataset: its name in the registry.
      has_label_scale: whether `values` are on the labels' scale, so that errors mean something.
    """

    values: np.ndarray
    labels: np.ndarray
    answers: np.ndarray
    task: str = "quality"
    dataset: str = ""
    has_label_scale: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """A metric and its confidence interval; None where there is no value."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a protocol computes each metric from.

    Attributes:
      pairs: metric -> (predictions, labels); metrics that mean nothing here are missing.
      note: why a mapping was not fitted, or None.
    """

    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]
    note: str | None = None


def prepare(protocol: Protocol, scores: Scores) -> Prepared:
    """Map and rescale as the protocol says."""
    values, labels = scores.values, scores.labels
    has_scale, note = scores.has_label_scale, None
    if protocol.rescale is not None:
        has_scale = True
        values, labels = protocol.rescale(scores.answers, labels, scores.task, scores.dataset)
    mapped = values
    if protocol.mapping is not None:
        fit = logistic.fit(values, labels, protocol.mapping)
        mapped, note = fit.apply(values), fit.error
    pairs = {}
    for metric in METRICS:
        if metric in protocol.mapped:
            pairs[metric] = (mapped, labels)
        elif has_scale or HIGHER_IS_BETTER[metric]:
            pairs[metric] = (values, labels)
    return Prepared(pairs=pairs, note=note)


def row_metric(protocol: Protocol, metric: str) -> bootstrap.RowMetric:
    """The metric over rows of resampled images, as the protocol computes it."""
    base = bootstrap.ROW_METRICS[metric]
    if protocol.ranks is not None and metric == "srcc":
        base = functools.partial(_correlate_ranks, protocol.ranks)
    if protocol.absolute and HIGHER_IS_BETTER[metric]:
        return lambda x, y: np.abs(base(x, y))
    return base


def figures(
    protocol: Protocol,
    prepared: Prepared,
    *,
    metrics: Sequence[str] = METRICS,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Figure]:
    """Metric -> figure. A fitted mapping is held fixed while images are resampled.

    Degenerate input (no images, one, constant or non-finite scores) gives figures without a value.
    """
    found = {}
    for metric in metrics:
        if metric not in prepared.pairs:
            found[metric] = Figure(value=None)
            continue
        x, y = prepared.pairs[metric]
        compute = row_metric(protocol, metric)
        value = _number(compute(x[None], y[None])[0]) if len(x) else None
        low = high = None
        if value is not None and resamples:
            interval = bootstrap.confidence_interval(
                compute, x, y, count=resamples, level=level, seed=seed
            )
            low, high = _number(interval.low), _number(interval.high)
        found[metric] = Figure(value=value, low=low, high=high)
    return found


def extra_figures(
    protocol: Protocol,
    scores: Scores,
    found: Mapping[str, Figure],
    elements: Sequence[tuple[float, float]],
) -> dict[str, Figure]:
    """The protocol's extras.

    EvalMuse's elements are the parts of a text (objects, colours, ...) that a picture shows or not.
    One is right where score and mean of the raters lie on the same side of 0.5; the accuracy counts
    elements, not images. A scorer that says nothing about elements has no final score.

    Args:
      protocol: names them.
      scores: as for `prepare`.
      found: the protocol's other figures.
      elements: score and truth of every element that has both, over all images.
    """
    extras: dict[str, Figure] = {}
    if PAIRWISE in protocol.extras:
        value = pairwise_accuracy(scores.values, scores.labels).value
        extras[PAIRWISE] = Figure(value=_number(value))
    if ELEMENTS in protocol.extras:
        right = [(score >= 0.5) == (truth >= 0.5) for score, truth in elements]
        accuracy = sum(right) / len(right) if right else None
        parts = (found["srcc"].value, found["plcc"].value, accuracy)
        extras[ELEMENTS] = Figure(value=accuracy)
        extras[FINAL] = Figure(value=_final(*parts))
    return extras


def _final(srcc: float | None, plcc: float | None, accuracy: float | None) -> float | None:
    """NTIRE 2025, track 1 (alignment): the weights of the challenge."""
    if srcc is None or plcc is None or accuracy is None:
        return None
    return 0.25 * srcc + 0.25 * plcc + 0.5 * accuracy


def _correlate_ranks(
    ranks: Callable[[np.ndarray], np.ndarray], x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    return bootstrap.plcc_rows(ranks(x), ranks(y))


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
