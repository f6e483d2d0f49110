"""Starting filters for a small vision tower's patch embedding: a whitened DCT.

A pretrained tower comes with filters for every frequency. A random one does not: photographs have
most of their energy at low frequencies, so random filters all see brightness, and the traces of
blur, noise and compression are lost in the first norm. Cosine bases whose gain rises with
frequency, as the amplitude of photographs falls (Field 1987), give every band the same weight.
"""

from collections.abc import Sequence

import numpy as np

from jaxqa.models.qwen2_5_vl.config import VisionConfig

_LUMA = (0.299, 0.587, 0.114)
_CHROMA = ((-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))

_MEAN_GAIN = 0.3
_LUMA_GAIN = 1.5
_CHROMA_GAIN = 2.25


def patch_filters(config: VisionConfig) -> np.ndarray:
    """Filters [C D], float32, for normalised pixels in the order (channel, row, column).

    Three quarters of the D filters see luma, one eighth each colour difference (Cb, Cr). In each
    group the lowest frequencies are all there and the higher ones evenly thinned out. Responses to
    photographs have deviations near 1. For a tower whose kernel is [2 C D], one slice per frame of
    a still image, give each slice half.
    """
    if config.in_channels != 3:
        raise ValueError(f"patch filters need 3 colour channels, found {config.in_channels}")
    chroma = config.hidden_size // 8
    luma = config.hidden_size - 2 * chroma
    planes = [(_LUMA, luma, luma // 4, _LUMA_GAIN)]
    planes += [(weights, chroma, min(chroma, 6), _CHROMA_GAIN) for weights in _CHROMA]
    columns = [
        _opponent_filter(weights, basis, config)
        for weights, count, lowest, gain in planes
        for basis in _cosine_bases(config.patch_size, count, lowest=lowest, gain=gain)
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _cosine_bases(size: int, count: int, *, lowest: int, gain: float) -> list[np.ndarray]:
    """`count` two-dimensional DCT-II bases [size size], the `lowest` first, gain times radius."""
    if count > size**2:
        raise ValueError(f"a {size} px patch has {size**2} cosine bases, found {count} wanted")
    rows = np.arange(size)
    table = np.cos(np.pi * (rows[None, :] + 0.5) * rows[:, None] / size) * np.sqrt(2 / size)
    table[0] /= np.sqrt(2)
    order = sorted(
        ((np.hypot(u, v), u, v) for u in range(size) for v in range(size)),
        key=lambda entry: entry,
    )
    step = (len(order) - lowest) / max(count - lowest, 1)
    chosen = order[:lowest] + [order[lowest + int((i + 0.5) * step)] for i in range(count - lowest)]
    return [
        np.outer(table[u], table[v]) * (gain * radius if radius else _MEAN_GAIN * gain / _LUMA_GAIN)
        for radius, u, v in chosen
    ]


def _opponent_filter(
    weights: Sequence[float], basis: np.ndarray, config: VisionConfig
) -> np.ndarray:
    """A spatial basis on a weighted sum of channels, [C], undoing the per-channel scaling."""
    channels = np.asarray(weights) * np.asarray(config.image_std)
    return (channels[:, None, None] * basis).reshape(-1)
