"""Image to the square that the image tower sees, on the host; pixels stay uint8.

CLIP: the shorter side to the tower's size with Pillow's bicubic filter, then the centre. SigLIP:
both sides to the tower's size, whatever the shape. Both equal HF's Pillow image processors
exactly; the tower itself normalises.
"""

import numpy as np
from PIL import Image

from jaxqa.errors import UserError
from jaxqa.models.clip.config import ClipConfig
from jaxqa.typing import UInt8

MAX_ASPECT_RATIO = 200
"""Beyond it the shorter side is enlarged so much that memory, not the image, decides."""


def prepare_image(
    image: UInt8[np.ndarray, "h w 3"], config: ClipConfig, *, name: str = "image"
) -> UInt8[np.ndarray, "side side 3"]:
    """Resize (and crop, for CLIP) RGB pixels; the result is a new array.

    Raises:
        UserError: one side is more than 200 times the other; the message begins with `name`.
    """
    height, width, _ = image.shape
    side = config.vision.image_size
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise UserError(
            f"{name}: the image is {width} x {height} pixels, an aspect ratio over "
            f"{MAX_ASPECT_RATIO}; crop it or leave it out"
        )
    if config.is_siglip:
        rows, columns = side, side
    elif width <= height:
        rows, columns = int(side * height / width), side
    else:
        rows, columns = side, int(side * width / height)
    resized = Image.fromarray(image).resize((columns, rows), Image.Resampling.BICUBIC)
    top, left = (rows - side) // 2, (columns - side) // 2
    return np.array(resized.crop((left, top, left + side, top + side)))
