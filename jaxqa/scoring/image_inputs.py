"""Images in any form that a program has them in: paths, bytes, PIL, arrays, URLs."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from jaxqa.data import images as images_lib
from jaxqa.data.images import DEFAULT_LIMITS, DecodeLimits
from jaxqa.errors import UserError
from jaxqa.scoring import urls
from jaxqa.scoring.urls import UrlPolicy
from jaxqa.typing import Shaped, UInt8

ImageInput = Any
"""A path, a URL, encoded bytes, a PIL image, or an array: height, width[, channels], uint8 or
floats from 0 to 1. Arrays of any library that NumPy can read will do."""

Pixels = np.ndarray
Load = Callable[[], Pixels]

_ROUNDING = 1e-3
"""How far floats may lie outside of 0 to 1: the error of resizing in half precision."""


def as_images(images: ImageInput | Iterable[ImageInput]) -> Iterator[ImageInput]:
    """Iterate over images; one alone is one of one.

    An array of four axes is a batch of images, height and width before channels.
    """
    if isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image):
        return iter([images])
    if getattr(images, "ndim", 4) <= 3:
        return iter([images])
    if not hasattr(images, "__iter__"):
        raise UserError(
            f"images is a {type(images).__name__}; expected paths, bytes, PIL images or arrays"
        )
    return iter(images)


def name_of(image: ImageInput, otherwise: str) -> str:
    """What messages call an image: its path or URL, if it has one."""
    return os.fsdecode(image) if isinstance(image, str | os.PathLike) else otherwise


def loader(
    image: ImageInput,
    *,
    name: str,
    url_policy: UrlPolicy | None = None,
    limits: DecodeLimits = DEFAULT_LIMITS,
) -> Load:
    """What gives an image's pixels, RGB of any size; it raises UserError where there are none.

    Pictures in memory are copied now, so that the caller may change them; files and URLs are read
    when asked, in whatever thread.

    Args:
      image: see `ImageInput`.
      name: what messages call it.
      url_policy: what may be fetched; None refuses URLs.
      limits: on encoded images and on pixels.
    """
    try:
        if isinstance(image, Image.Image):
            return _known(images_lib.from_pillow(image, name=name, limits=limits))
        if isinstance(image, bytes | bytearray | memoryview):
            data = bytes(image)
            return lambda: images_lib.decode(data, name=name, limits=limits)
        if isinstance(image, str) and urls.is_url(image):
            return lambda: _download(image, name, url_policy, limits)
        if isinstance(image, str | os.PathLike):
            return lambda: images_lib.decode(os.fspath(image), name=name, limits=limits)
        if hasattr(image, "__array__"):
            return _known(pixels_of_array(np.asarray(image), name=name, limits=limits))
        raise UserError(
            f"{name} is a {type(image).__name__}; expected a path, bytes, a PIL image or an array"
        )
    except UserError as error:
        return _failing(str(error))


def pixels_of_array(
    array: Shaped[np.ndarray, "..."], *, name: str, limits: DecodeLimits = DEFAULT_LIMITS
) -> UInt8[np.ndarray, "h w 3"]:
    """RGB pixels of an array: height, width and 1, 3 or 4 channels, the fourth being opacity.

    Raises:
      UserError: another shape or type, too many pixels, or floats outside of 0 to 1.
    """
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        hint = "; move the channels to the end" if array.ndim == 3 and len(array) in (1, 3) else ""
        raise UserError(
            f"{name} is an array of shape {array.shape}; expected height, width and 1, 3 or 4 "
            f"channels{hint}"
        )
    if array.shape[0] * array.shape[1] > limits.max_pixels:
        raise UserError(f"{name} has more pixels than the limit of {limits.max_pixels}")
    values = _bytes_of(array, name)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[values.shape[2]]
    picture = Image.fromarray(values.squeeze(2) if mode == "L" else values, mode)
    return images_lib.from_pillow(picture, name=name, limits=limits)


def _bytes_of(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating) and array.dtype.name != "bfloat16":
        raise UserError(
            f"{name} is an array of {array.dtype}; expected uint8, or floats from 0 to 1"
        )
    values = array.astype(np.float32)
    low, high = values.min(), values.max()
    if not (-_ROUNDING <= low and high <= 1 + _ROUNDING):  # also true of nan
        raise UserError(
            f"{name} is an array of {array.dtype} with values from {low:g} to {high:g}; expected "
            "values from 0 to 1"
        )
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def _download(
    url: str, name: str, policy: UrlPolicy | None, limits: DecodeLimits
) -> UInt8[np.ndarray, "h w 3"]:
    if policy is None:
        raise UserError(f"{name}: URLs are not fetched unless allow_urls is set")
    return images_lib.decode(urls.fetch(url, policy), name=name, limits=limits)


def _known(pixels: Pixels) -> Load:
    return lambda: pixels


def _failing(message: str) -> Load:
    def fail() -> Pixels:
        raise UserError(message)

    return fail
