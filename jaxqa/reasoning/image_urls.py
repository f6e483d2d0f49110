"""Images as the `data:` URLs that chat endpoints take."""

import base64
import io
import math

from PIL import Image

from jaxqa.data import images as images_lib
from jaxqa.data.records import ImageSource
from jaxqa.data.stored import StoredImage
from jaxqa.errors import UserError

SENT_AS_THEY_ARE = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
"""Formats that every endpoint reads; others are sent as PNG."""


def sendable(image: ImageSource, *, max_pixels: int = 0) -> tuple[str, bytes]:
    """Media type and bytes to send.

    The file itself where possible. Anything else is decoded and sent as PNG, never as JPEG, whose
    artefacts would become part of what is judged.

    Args:
      image: where its encoded bytes are.
      max_pixels: larger images are reduced to this many pixels; 0 for no limit.

    Raises:
      UserError: there is no readable image.
    """
    name = "the image" if isinstance(image, bytes) else str(image)
    pixels = images_lib.decode(image, name=name)  # upright, and refused here if damaged
    data = _read(image)
    small = not max_pixels or pixels.shape[0] * pixels.shape[1] <= max_pixels
    with Image.open(io.BytesIO(data)) as opened:
        kind = SENT_AS_THEY_ARE.get(opened.format or "")
        upright = opened.getexif().get(0x0112, 1) == 1  # not every server turns images
        plain = kind is not None and upright and getattr(opened, "n_frames", 1) == 1
    if plain and small:
        return str(kind), data
    picture = Image.fromarray(pixels)
    if not small:
        scale = math.sqrt(max_pixels / (picture.width * picture.height))
        size = (max(1, int(picture.width * scale)), max(1, int(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "image/png", buffer.getvalue()


def data_url(media_type: str, data: bytes) -> str:
    """`data:image/png;base64,...`."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def _read(image: ImageSource) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, StoredImage):
        return image.read_bytes()
    try:
        return image.read_bytes()
    except OSError as error:
        raise UserError(f"{image}: {error.strerror}") from error
