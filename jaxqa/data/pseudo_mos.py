"""Synthetic opinion scores: full-reference metrics on a picture and its undistorted original.

No person ever judged these pictures. The number stands in for a mean opinion score so that the
demo has a label that depends on what can be seen; it is called synthetic wherever it appears.
Both metrics compare gradients, so what counts is how much of the picture's structure an artefact
hides or invents, and not how light or colourful the scene is.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

WORST_GRADIENT_DEVIATION = 0.30
"""GMSD that earns the lowest score; severe pixelation of a photograph reaches it."""

WORST_EDGE_SIMILARITY = 0.30
"""Edge similarity that earns the lowest score."""

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_CONSTANT = 170 / 255**2  # GMSD's c of 170 for grey values 0..255, for values in 0..1


@dataclass(frozen=True, kw_only=True)
class PseudoMOS:
    """A synthetic label: score 1 (bad) to 5 (excellent) and the variance among its metrics."""

    score: float
    variance: float


def pseudo_mos(reference: np.ndarray, distorted: np.ndarray) -> PseudoMOS:
    """Score uint8 [H W 3] `distorted` against its original: 5 for equal pictures, at least 1.

    The mean of two metrics, each mapped linearly onto 1..5: GMSD, and the similarity of gradients
    averaged over edges. Their variance takes the place of the variance among raters.
    """
    if reference.shape != distorted.shape or reference.ndim != 3 or reference.shape[2] != 3:
        raise ValueError(
            f"expected two pictures of one shape [H W 3], found {reference.shape} and "
            f"{distorted.shape}"
        )
    first, second = luma(reference), luma(distorted)
    deviation = gradient_deviation(first, second) / WORST_GRADIENT_DEVIATION
    similarity = (edge_similarity(first, second) - WORST_EDGE_SIMILARITY) / (
        1 - WORST_EDGE_SIMILARITY
    )
    scores = 1 + 4 * np.clip([1 - deviation, similarity], 0.0, 1.0)
    return PseudoMOS(score=float(scores.mean()), variance=float(scores.var()))


def luma(image: np.ndarray) -> np.ndarray:
    """Rec. 601 luma in 0..1, [H W], of uint8 [H W 3]."""
    return image.astype(np.float32) @ _LUMA / 255.0


def gradient_deviation(reference: np.ndarray, distorted: np.ndarray) -> float:
    """GMSD (Xue et al. 2014) of two luma planes in 0..1: 0 for equal planes, about 0.35 at worst.

    Prewitt gradients at half resolution, as the paper has it.
    """
    first, second = _gradient(_half(reference)), _gradient(_half(distorted))
    return float(_similarity(first, second).std())


def edge_similarity(reference: np.ndarray, distorted: np.ndarray) -> float:
    """Gradient similarity of two luma planes in 0..1, weighted by the larger gradient.

    1 for equal planes (also for equal flat ones); flat regions do not count.
    """
    first, second = _gradient(reference), _gradient(distorted)
    weight = np.maximum(first, second)
    total = float(weight.sum())
    if total == 0.0:
        return 1.0
    return float((_similarity(first, second) * weight).sum() / total)


def _gradient(plane: np.ndarray) -> np.ndarray:
    return np.hypot(ndimage.prewitt(plane, 0), ndimage.prewitt(plane, 1)) / 3


def _half(plane: np.ndarray) -> np.ndarray:
    height, width = plane.shape[0] // 2 * 2, plane.shape[1] // 2 * 2
    even = plane[:height, :width]
    return even.reshape(height // 2, 2, width // 2, 2).mean((1, 3))


def _similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (2 * first * second + _CONSTANT) / (first**2 + second**2 + _CONSTANT)
