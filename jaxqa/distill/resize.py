"""Pixels of any size to what an image tower sees, on the device and differentiable."""

import jax
import jax.numpy as jnp

from jaxqa.models.clip.config import ClipConfig
from jaxqa.typing import Array, Float


def resize_pixels(
    pixels: Float[Array, "B h w 3"], config: ClipConfig
) -> Float[Array, "B side side 3"]:
    """Resize (and crop, for CLIP) as `models.clip.preprocess` does, without rounding to bytes.

    The same bicubic kernel, smoothing where it shrinks as Pillow does: columns first, then rows,
    each time kept within 0..255.
    """
    side = config.vision.image_size
    height, width = pixels.shape[1:3]
    if (height, width) == (side, side):
        return pixels
    if config.is_siglip:
        rows, columns = side, side
    elif width <= height:
        rows, columns = int(side * height / width), side
    else:
        rows, columns = side, int(side * width / height)
    count = pixels.shape[0]
    resized = pixels
    for shape in ((count, height, columns, 3), (count, rows, columns, 3)):
        resized = jnp.clip(jax.image.resize(resized, shape, "cubic", antialias=True), 0, 255)
    top, left = (rows - side) // 2, (columns - side) // 2
    return resized[:, top : top + side, left : left + side]
