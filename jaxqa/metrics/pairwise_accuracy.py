"""How often two images are put into the right order, ties included (GenAI-Bench's measure).

Deutsch, Foster, Freitag: Ties matter, EMNLP 2023: of all pairs of images, the share for which
scores and labels agree on first, second or tie. Scores hardly ever tie exactly, so two that differ
by no more than a threshold count as a tie; the threshold is the one under which the share is
highest. GenAI-Bench (t2v_metrics) takes it over all pairs of images, whatever their prompts.
"""

import dataclasses

import numpy as np

from jaxqa.typing import Float, Shaped


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairwiseAccuracy:
    """The share of pairs that are right, in [0, 1], and the threshold of ties; nan if undefined."""

    value: float
    threshold: float


def pairwise_accuracy(
    predictions: Shaped[np.ndarray, "N"], labels: Shaped[np.ndarray, "N"]
) -> PairwiseAccuracy:
    """Best share of right pairs over all thresholds; among equal ones the lowest threshold.

    Undefined for fewer than two images and for values that are not finite.

    Raises:
      ValueError: two vectors of different lengths.
    """
    x, y = np.asarray(predictions, np.float64), np.asarray(labels, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"shapes {x.shape} and {y.shape}, expected two vectors of one length")
    if len(x) < 2 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return PairwiseAccuracy(value=float("nan"), threshold=float("nan"))
    tied, ordered = _gaps(x, y)
    # A higher threshold is worth it only where it takes in another pair whose labels tie.
    thresholds = np.unique(np.append(tied, 0.0))
    right = np.searchsorted(tied, thresholds, side="right")
    right = right + len(ordered) - np.searchsorted(ordered, thresholds, side="right")
    best = int(right.argmax())
    pairs = len(x) * (len(x) - 1) // 2
    return PairwiseAccuracy(value=right[best] / pairs, threshold=float(thresholds[best]))


def _gaps(
    x: Float[np.ndarray, "N"], y: Float[np.ndarray, "N"]
) -> tuple[Float[np.ndarray, "A"], Float[np.ndarray, "B"]]:
    """How far apart the scores are, sorted: of pairs with equal labels, and of those in order."""
    tied, ordered = [], []
    for place in range(len(x) - 1):
        gap, step = x[place + 1 :] - x[place], y[place + 1 :] - y[place]
        tied.append(np.abs(gap[step == 0]))
        ordered.append(np.abs(gap[gap * step > 0]))
    return np.sort(np.concatenate(tied)), np.sort(np.concatenate(ordered))
