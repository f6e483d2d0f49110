"""What is sent of an image: the file where possible, else the same pixels as PNG."""

import base64
import io

import numpy as np
import pytest
from chat_server import png
from PIL import Image

from jaxqa.data import images
from jaxqa.errors import UserError
from jaxqa.reasoning.image_urls import data_url, sendable

TURNED = Image.Exif()
TURNED[0x0112] = 6


def encoded(format: str, mode: str = "RGB", *, size=(40, 30), **options) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("format", "kind"), [("PNG", "png"), ("JPEG", "jpeg"), ("WEBP", "webp")])
def test_common_files_are_sent_as_they_are(format, kind, tmp_path):
    data = encoded(format)
    assert sendable(data) == (f"image/{kind}", data)
    path = tmp_path / "picture"
    path.write_bytes(data)
    assert sendable(path, max_pixels=40 * 30) == (f"image/{kind}", data)


@pytest.mark.parametrize(
    "data",
    [
        encoded("BMP"),
        encoded("TIFF"),
        encoded("GIF", "P"),
        encoded("JPEG", exif=TURNED),
    ],
)
def test_other_files_become_png_with_the_pixels_that_training_sees(data):
    kind, sent = sendable(data)
    assert kind == "image/png" and sent != data
    assert (np.array(Image.open(io.BytesIO(sent))) == images.decode(data)).all()


@pytest.mark.parametrize("size", [(40, 30), (4000, 1), (333, 77)])
def test_large_images_are_reduced(size):
    kind, sent = sendable(encoded("JPEG", size=size), max_pixels=500)
    made = Image.open(io.BytesIO(sent))
    assert kind == "image/png" and made.format == "PNG"
    assert made.width * made.height <= max(500, max(made.size))
    assert made.width >= 1 and made.height >= 1
    if min(size) > 1:
        assert made.width / made.height == pytest.approx(size[0] / size[1], rel=0.1)


def test_unreadable_images(tmp_path):
    with pytest.raises(UserError, match="no image found"):
        sendable(b"rubbish")
    with pytest.raises(UserError, match="gone.png"):
        sendable(tmp_path / "gone.png")
    with pytest.raises(UserError):
        sendable(png()[:60])


def test_urls():
    head, content = data_url("image/png", b"\0\1\xff").split(",")
    assert head == "data:image/png;base64" and base64.b64decode(content) == b"\0\1\xff"
