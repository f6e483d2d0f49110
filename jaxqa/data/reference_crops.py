"""From a scene to a reference picture: sharp, busy, well exposed crops.

A distortion can be seen without the original only where the original had something to lose. So
scenes are shrunk (which makes them sharp and takes their own compression away), busy crops are
preferred, and every crop is exposed alike: it uses the whole range of brightness, with its mean in
the middle.
"""

import numpy as np
from PIL import Image

from jaxqa.data.pseudo_mos import luma

SHRINK = (1.5, 2.6)
"""How many scene pixels make one pixel of a crop, drawn uniformly."""

BUSY = 20 / 255
"""Mean luma gradient that ends the search for a busier crop."""

TRIES = 8

MEAN_LUMA = 0.5
"""Mean luma of an exposed crop."""


def scene_crop(picture: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Cut a random square of uint8 [H W 3], shrink it to [size size 3] and expose it.

    The first of `TRIES` squares that is busy, or else the busiest one.
    """
    image = Image.fromarray(picture)
    best, best_activity = picture, -1.0
    for _ in range(TRIES):
        side = min(size * rng.uniform(*SHRINK), *image.size)
        left = rng.uniform(0, image.width - side)
        top = rng.uniform(0, image.height - side)
        box = (left, top, left + side, top + side)
        crop = expose(np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=box)))
        activity = _activity(crop)
        if activity > best_activity:
            best, best_activity = crop, activity
        if activity > BUSY:
            break
    return best


def _activity(crop: np.ndarray) -> float:
    plane = luma(crop)
    return float(np.hypot(np.diff(plane, axis=0)[:, :-1], np.diff(plane, axis=1)[:-1]).mean())


def augment(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flip, transpose, permute channels, change gamma and saturation of uint8 [H W 3]."""
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    if rng.random() < 0.5:
        crop = crop[::-1]
    if rng.random() < 0.5:
        crop = crop.transpose(1, 0, 2)
    crop = crop[..., rng.permutation(3)]
    values = (crop.astype(np.float32) / 255.0) ** np.exp(rng.uniform(-0.15, 0.15))
    grey = values.mean(-1, keepdims=True)
    values = grey + (values - grey) * rng.uniform(0.4, 1.3)
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def expose(crop: np.ndarray) -> np.ndarray:
    """Stretch the 1st to 99th percentile of luma to 0.03..0.97, then bring its mean to 0.5.

    The mean is moved by a power between 0.4 and 2.5; nearly flat crops are stretched less.
    """
    values = crop.astype(np.float32) / 255.0
    low, high = np.percentile(luma(crop), [1, 99])
    stretched = np.clip((values - low) / max(high - low, 0.1) * 0.94 + 0.03, 0.0, 1.0)
    powers = np.geomspace(0.4, 2.5, 12)
    plane = stretched @ np.array([0.299, 0.587, 0.114], np.float32)
    means = [float((plane**power).mean()) for power in powers]  # falls as the power rises
    power = np.interp(-MEAN_LUMA, -np.array(means), powers)
    return np.rint(stretched**power * 255).astype(np.uint8)
