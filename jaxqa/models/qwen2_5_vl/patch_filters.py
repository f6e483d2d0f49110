"""A starting point for a small vision tower: whitened cosine filters, and channels that stay on.

A pretrained tower comes with filters for every frequency. A random one does not: photographs have
most of their energy at low frequencies, so random filters all see brightness, and the traces of
blur, noise and compression are lost in the first norm. Cosine bases whose gain rises with
frequency, as the amplitude of photographs falls (Field 1987), give every band the same weight.

The tower's norms take away the scale of a patch, and with it how strong a contrast is. Beside
channels of a constant size the scale survives them; the patch embedding has no bias to make such
channels, so it leaves some of them at zero and the first block's attention sets them.
"""

import math
from collections.abc import Sequence

import numpy as np

from jaxqa.models.qwen2_5_vl.config import VisionConfig

NUM_CONSTANTS = 4
"""Channels, the last ones, that the filters leave at zero."""

_LUMA = (0.299, 0.587, 0.114)
_CHROMA = ((-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))

_LUMA_GAIN = 1.5
_CHROMA_GAIN = 2.25
_MEAN_RADIUS = 0.2  # stands for the radius 0 of the mean, which a gain by radius would remove
_ALL_BELOW = 4.0  # radius up to which every frequency is kept
_KEPT_SHARE = 0.625  # of a group's filters; the rest must reach up to the highest frequencies


def patch_filters(config: VisionConfig) -> np.ndarray:
    """Filters [C D], float32, for normalised pixels in the order (channel, row, column).

    About three quarters of the D filters see luma, one eighth each colour difference (Cb, Cr), the
    last `NUM_CONSTANTS` nothing. Each group keeps the frequencies along rows or columns alone,
    which carry the edges of blocks, and the low ones; of the others it takes every n-th.
    Responses to photographs have deviations near 1. For a tower whose kernel is [2 C D], one slice
    per frame of a still image, give each slice half.
    """
    if config.in_channels != 3:
        raise ValueError(f"patch filters need 3 colour channels, found {config.in_channels}")
    chroma = config.hidden_size // 8
    luma = config.hidden_size - 2 * chroma - NUM_CONSTANTS
    if luma < 1:
        raise ValueError(f"patch filters need a width of 8 or more, found {config.hidden_size}")
    planes = [(_LUMA, luma, _LUMA_GAIN), *((plane, chroma, _CHROMA_GAIN) for plane in _CHROMA)]
    columns = [
        _opponent_filter(weights, basis, config)
        for weights, count, gain in planes
        for basis in _cosine_bases(config.patch_size, count, gain=gain)
    ]
    columns += [np.zeros(config.patch_values)] * NUM_CONSTANTS
    return np.stack(columns, axis=1).astype(np.float32)


def constant_channels(config: VisionConfig) -> np.ndarray:
    """Bias [D], float32, of the first block's attention output: 1 in the constant channels."""
    bias = np.zeros(config.hidden_size, np.float32)
    bias[-NUM_CONSTANTS:] = 1.0
    return bias


def _cosine_bases(size: int, count: int, *, gain: float) -> list[np.ndarray]:
    """`count` two-dimensional DCT-II bases [size size], times `gain` times their radius."""
    if count > size**2:
        raise ValueError(f"a {size} px patch has {size**2} cosine bases, found {count} wanted")
    steps = np.arange(size)
    table = np.cos(np.pi * (steps[None, :] + 0.5) * steps[:, None] / size) * np.sqrt(2 / size)
    table[0] /= np.sqrt(2)
    return [
        np.outer(table[row], table[column]) * gain * (np.hypot(row, column) or _MEAN_RADIUS)
        for row, column in _frequencies(size, count)
    ]


def _frequencies(size: int, count: int) -> list[tuple[int, int]]:
    """`count` frequencies (row, column): some that are always kept, then every n-th other."""
    order = sorted(np.ndindex(size, size), key=lambda frequency: (np.hypot(*frequency), frequency))
    kept = [f for f in order if 0 in f or np.hypot(*f) < _ALL_BELOW]
    kept = kept[: math.ceil(count * _KEPT_SHARE)]
    others = [f for f in order if f not in kept]
    missing = count - len(kept)
    return kept + [others[int((i + 0.5) * len(others) / missing)] for i in range(missing)]


def _opponent_filter(
    weights: Sequence[float], basis: np.ndarray, config: VisionConfig
) -> np.ndarray:
    """A spatial basis on a weighted sum of channels, [C], undoing the per-channel scaling."""
    channels = np.asarray(weights) * np.asarray(config.image_std)
    return (channels[:, None, None] * basis).reshape(-1)
