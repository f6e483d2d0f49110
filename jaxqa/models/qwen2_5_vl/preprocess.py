"""Image to patches on the host: size rule, bicubic resize, patch order (HF: Qwen2VLImageProcessor).

Pixels stay uint8 until they reach the device, where the vision tower normalises them.
"""

import dataclasses
import math

import numpy as np
from PIL import Image

from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl.config import VisionConfig
from jaxqa.typing import UInt8

MAX_ASPECT_RATIO = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """How many pixels an image may have after resizing.

    Attributes:
        min_pixels: Smaller images are enlarged to at least this many pixels.
        max_pixels: Larger images are reduced to at most this many pixels. The default is that of
            the published Qwen2.5-VL checkpoints; training usually wants far fewer.
    """

    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 16384

    def __post_init__(self):
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(
                f"min_pixels={self.min_pixels}, max_pixels={self.max_pixels}: "
                "expected 0 < min_pixels <= max_pixels"
            )


def smart_resize(
    height: int, width: int, *, factor: int = 28, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Size to which an image is resized: multiples of `factor` near the original shape.

    Equals HF `smart_resize`, its half-to-even rounding included. A very long image can end
    above `max_pixels`, because no side goes below `factor`.

    Raises:
        UserError: one side is more than 200 times the other.
        ValueError: a side is not positive.
    """
    if height < 1 or width < 1:
        raise ValueError(f"height={height}, width={width}: expected at least one pixel each")
    ratio = max(height, width) / min(height, width)
    if ratio > MAX_ASPECT_RATIO:
        raise UserError(
            f"aspect ratio over {MAX_ASPECT_RATIO}: the image is {width} x {height} pixels "
            f"(ratio {ratio:.0f}); crop it or leave it out"
        )
    rows = round(height / factor) * factor
    columns = round(width / factor) * factor
    if rows * columns > max_pixels:
        shrink = math.sqrt((height * width) / max_pixels)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return rows, columns


def resize_image(
    image: UInt8[np.ndarray, "h w 3"] | Image.Image,
    config: ImageConfig,
    *,
    factor: int = 28,
    name: str = "image",
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Resize RGB pixels to the size of `smart_resize` with Pillow's bicubic filter.

    Equals the resize step of HF `Qwen2VLImageProcessorPil` exactly (the torchvision class of HF
    may differ by one level). `factor` is `VisionConfig.merged_size`. The result is a new array
    whose channels lie in memory one after another, as patches want them.

    Raises:
        UserError: aspect ratio over 200; the message begins with `name`.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    try:
        rows, columns = smart_resize(
            picture.height,
            picture.width,
            factor=factor,
            min_pixels=config.min_pixels,
            max_pixels=config.max_pixels,
        )
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    resized = picture.resize((columns, rows), Image.Resampling.BICUBIC)
    return np.stack([np.asarray(channel) for channel in resized.split()]).transpose(1, 2, 0)


def patchify(
    image: UInt8[np.ndarray, "h w 3"], config: VisionConfig
) -> UInt8[np.ndarray, "patches values"]:
    """Cut a resized image into patches: [grid_h * grid_w, 3 * patch_size ** 2].

    Rows come in HF's merge order: merge squares row by row, and inside a square its patches row
    by row. Values are ordered (channel, row, column): one temporal frame of HF's (channel, time,
    row, column), whose two frames are equal for a still image.

    Raises:
        ValueError: a side is not a multiple of `config.merged_size`.
    """
    patch, merge = config.patch_size, config.spatial_merge_size
    height, width, channels = image.shape
    factor = config.merged_size
    if height % factor or width % factor:
        raise ValueError(
            f"image is {width} x {height} pixels: expected multiples of {factor}; "
            "resize it with resize_image first"
        )
    grid = image.reshape(
        height // factor, merge, patch, width // factor, merge, patch, channels
    )  # [unit_row, merge_row, row, unit_column, merge_column, column, channel]
    ordered = grid.transpose(0, 3, 1, 4, 6, 2, 5)
    return ordered.reshape(-1, channels * patch * patch)
