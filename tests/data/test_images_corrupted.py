"""Random damage: reading gives an array or a UserError, never anything else."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxqa.data import images
from jaxqa.errors import UserError

_LIMITS = images.DecodeLimits(max_pixels=2_000_000)
_KINDS = ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "JPEG2000", "AVIF")


def _originals(kind):
    """Small files of one format that exercise its metadata and modes."""
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (12, 18, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    modes = {
        "JPEG": ("RGB", "L", "CMYK"),
        "PNG": ("RGBA", "P", "I;16", "1"),
        "GIF": ("P",),
        "TIFF": ("RGBA", "I;16", "LAB"),
        "WEBP": ("RGBA",),
        "PPM": ("RGB", "L"),
    }
    for mode in modes.get(kind, ("RGB",)):
        grey = mode.startswith("I;16")
        image = Image.fromarray(np.asarray(photo)[..., 0].astype(np.uint16) * 257) if grey else None
        image = image or photo.convert("RGB" if mode == "LAB" else mode)
        options = {} if kind in ("GIF", "BMP", "PPM", "JPEG2000") else {"exif": exif}
        if kind == "TIFF" and mode == "RGBA":
            options["compression"] = "tiff_adobe_deflate"
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        yield buffer.getvalue()


def _mutate(encoded, rng):
    """Overwritten, removed, doubled or swapped bytes, biased towards the header."""
    damaged = bytearray(encoded)
    for _ in range(int(rng.integers(1, 6))):
        place = int(len(damaged) * rng.random() ** 2)
        length = int(rng.integers(1, 9))
        action = rng.integers(5)
        if action == 0:
            damaged[place : place + 1] = bytes([int(rng.integers(256))])
        elif action == 1:
            damaged[place : place + length] = rng.bytes(length)
        elif action == 2:
            del damaged[place : place + length]
        elif action == 3:
            damaged[place:place] = damaged[place : place + length]
        else:
            damaged[place : place + length] = bytes([int(rng.choice([0, 255]))]) * length
    return bytes(damaged)


@pytest.mark.parametrize("kind", _KINDS)
def test_damaged_files_never_surprise(kind, capfd):
    if kind not in images._available_formats():
        pytest.skip(f"this Pillow has no {kind}")
    rng = np.random.default_rng(_KINDS.index(kind))
    outcomes = {"array": 0, "error": 0}
    for encoded in _originals(kind):
        for _ in range(150):
            damaged = _mutate(encoded, rng)
            try:
                size = images.read_size(damaged, name="damaged", limits=_LIMITS)
                decoded = images.decode(damaged, name="damaged", limits=_LIMITS)
            except UserError as error:
                assert str(error).startswith("damaged: ") and "\n" not in str(error)
                outcomes["error"] += 1
            else:
                assert decoded.dtype == np.uint8 and decoded.shape == (*size, 3)
                outcomes["array"] += 1
    capfd.readouterr()  # libtiff reports to stderr by itself
    assert outcomes["error"] > 20, outcomes  # the damage was real
