"""Image files to RGB arrays: bounded, validated, one documented rule per kind of file.

| file                              | what `decode` returns                                        |
|-----------------------------------|--------------------------------------------------------------|
| EXIF or TIFF orientation          | upright pixels; unreadable EXIF counts as none               |
| grey, 1-bit, palette              | the same colours as RGB                                      |
| alpha, transparent palette entry  | composited on white (HF `convert_to_rgb`)                    |
| CMYK, YCbCr, LAB                  | Pillow's plain conversion, no embedded ICC profile           |
| 16-bit grey                       | scaled to 8 bits, rounded to nearest; never clipped          |
| 16 bits per colour channel        | Pillow's reading: the high byte of each channel              |
| animation, several pages          | the first frame                                              |
| 32-bit integer, float             | UserError: brightness has no defined range                   |
| truncated, corrupt, no image      | UserError                                                    |
| more bytes or pixels than allowed | UserError, before the pixels are unpacked                    |
"""

import contextlib
import dataclasses
import io
import os
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, TiffImagePlugin

from jaxqa.data.stored import StoredImage
from jaxqa.errors import UserError
from jaxqa.typing import Shaped, UInt8

# Only decoders of plain raster formats: others start external programs (EPS) or have no pixels.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")

# What Pillow's decoders raise on damaged files (ImportError: on ones that this build cannot read).
_DAMAGE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    AssertionError,
    ImportError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

ImageSource = bytes | str | os.PathLike[str] | StoredImage

EncodedFile = io.BytesIO | io.BufferedReader

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """What `decode` accepts.

    Attributes:
        max_bytes: Largest encoded file.
        max_pixels: Largest width times height. Pillow's own limit (the default here) holds as
            well; to go beyond it, raise `PIL.Image.MAX_IMAGE_PIXELS` too.
    """

    max_bytes: int = 256 * 2**20
    max_pixels: int = 178_956_970

    def __post_init__(self):
        if self.max_bytes < 1 or self.max_pixels < 1:
            raise ValueError(
                f"max_bytes={self.max_bytes}, max_pixels={self.max_pixels}: expected at least 1"
            )


DEFAULT_LIMITS = DecodeLimits()


def decode(
    source: ImageSource,
    *,
    name: str | None = None,
    limits: DecodeLimits = DEFAULT_LIMITS,
) -> UInt8[np.ndarray, "h w 3"]:
    """RGB pixels of an image file or of its bytes, by the rules of the module's table.

    Args:
        source: Encoded bytes, the path of a regular file, or a record of a prepared data set.
        name: What error messages call the image; the path by default.
        limits: Bounds on file size and pixel count.

    Raises:
        UserError: for every file that gives no image; the message begins with the name.
    """
    return np.array(open_rgb(source, name=name, limits=limits))


def open_rgb(
    source: ImageSource,
    *,
    name: str | None = None,
    limits: DecodeLimits = DEFAULT_LIMITS,
) -> Image.Image:
    """What `decode` gives, still Pillow's: to be resized without a copy to NumPy and back."""
    name = _name(source) if name is None else name
    file = io.BytesIO(_read(source, name, limits))
    with _opened(file, name, limits) as image:
        image.load()
        return _upright(_to_rgb(image), _orientation(image))


def read_size(
    source: ImageSource,
    *,
    name: str | None = None,
    limits: DecodeLimits = DEFAULT_LIMITS,
) -> tuple[int, int]:
    """Height and width that `decode` will return, from the file's header alone.

    Raises:
        UserError: no image, or one over the limits; a damaged body goes unnoticed.
    """
    name = _name(source) if name is None else name
    with _open_bytes(source, name) as file:
        if file.seek(0, os.SEEK_END) > limits.max_bytes:
            raise _too_large(name, limits)
        file.seek(0)
        with _opened(file, name, limits) as image:
            width, height = image.size
            turned = image.format != "TIFF" and _orientation(image) >= 5  # Pillow turns TIFFs
    return (width, height) if turned else (height, width)


def _name(source: ImageSource) -> str:
    if isinstance(source, StoredImage):
        return str(source)
    return f"<{len(source)} bytes>" if isinstance(source, bytes) else os.fspath(source)


def from_pillow(
    image: Image.Image, *, name: str, limits: DecodeLimits = DEFAULT_LIMITS
) -> UInt8[np.ndarray, "h w 3"]:
    """RGB pixels of a Pillow image, by the same rules.

    Raises:
        UserError: its pixels have no defined range, cannot be loaded, or are too many.
    """
    with _explained(name):
        _check_pixel_count(image.size, limits)
        image.load()
        return np.array(_upright(_to_rgb(image), _orientation(image)))


@contextlib.contextmanager
def _opened(file: EncodedFile, name: str, limits: DecodeLimits) -> Iterator[Image.Image]:
    """The image in `file`, within the limits; damage found inside the block is a UserError."""
    with _explained(name), Image.open(file, formats=_available_formats()) as image:
        _check_pixel_count(image.size, limits)
        yield image


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Damage that Pillow finds inside the block is a UserError."""
    with _QUIET:  # Pillow warns of what is decided here: bombs, odd EXIF
        try:
            yield
        except Image.UnidentifiedImageError as error:
            raise UserError(f"{name}: no image found; {_expected()}") from error
        except _DAMAGE as error:
            detail = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{name}: cannot decode the image: {detail}; {_expected()}") from error


class _Quiet:
    """No warnings inside; several threads at a time, unlike `warnings.catch_warnings`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._caught = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *failure: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._caught.__exit__(None, None, None)


_QUIET = _Quiet()


def _read(source: ImageSource, name: str, limits: DecodeLimits) -> bytes:
    """The encoded bytes, never more than the limit."""
    with _open_bytes(source, name) as file:
        encoded = file.read(limits.max_bytes + 1)
    if not encoded:
        raise UserError(f"{name}: the image file is empty; {_expected()}")
    if len(encoded) > limits.max_bytes:
        raise _too_large(name, limits)
    return encoded


@contextlib.contextmanager
def _open_bytes(source: ImageSource, name: str) -> Iterator[EncodedFile]:
    """The encoded bytes as a file; whatever goes wrong in opening or reading is a UserError."""
    if isinstance(source, StoredImage):
        source = source.read_bytes()
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    try:
        if not stat.S_ISREG(os.stat(source).st_mode):  # a pipe would block, a device never end
            raise UserError(f"{name}: not a regular file; give the path of an image file")
        with open(source, "rb") as file:
            yield file
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL character
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name}: cannot read the image file: {reason}") from error


def _too_large(name: str, limits: DecodeLimits) -> UserError:
    return UserError(
        f"{name}: the image file is larger than the limit of {limits.max_bytes} bytes; "
        "make it smaller or raise max_bytes"
    )


def _available_formats() -> tuple[str, ...]:
    """The formats that this Pillow can open (AVIF and JPEG 2000 are optional in it)."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _expected() -> str:
    return f"expected a complete file in one of these formats: {', '.join(_available_formats())}"


def _check_pixel_count(size: tuple[int, int], limits: DecodeLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise ValueError(
            f"{width} x {height} pixels are more than the limit of {limits.max_pixels} "
            "(make it smaller or raise max_pixels)"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB; ValueError for modes without a defined brightness range."""
    if image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if image.mode == "I" and image.format == "PPM":  # Pillow has scaled these to 0..65535
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no defined range; save 8 or 16 bits")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _eight_bits(image: Image.Image) -> Shaped[np.ndarray, "h w"]:
    """Grey values of more than 8 bits, scaled to 0..255; a transparent value becomes white."""
    values = np.asarray(image).astype(np.int64)
    highest = 65535
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # 12-bit files are not scaled by Pillow
        highest = 2 ** int(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]) - 1
    scaled = ((values * 255 + highest // 2) // highest).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        scaled[values == transparent] = 255
    return scaled


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8. Read after loading: Pillow has then turned TIFFs itself."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except _DAMAGE:  # broken metadata do not make the pixels unreadable
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)
