"""Every kind of file that `images.decode` documents, made here with Pillow or byte by byte."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxqa.data import images
from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl import preprocess


def _photo(height=24, width=40):
    """RGB pixels without any symmetry, smooth enough for JPEG."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [rows * 200 // height, columns * 200 // width, 120 + 40 * np.sin(rows / 6.0)]
    return np.stack(channels, -1).astype(np.uint8)


def _encode(image, kind, **options):
    buffer = io.BytesIO()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width, height, bit_depth, colour_type, rows, extra=b""):
    """A PNG written by hand: the header, extra chunks, and unfiltered rows of bytes."""
    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    start = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + extra
    return start + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("place", ["bytes", "path", "str"])
def test_lossless_files_keep_every_pixel(tmp_path, kind, place):
    encoded = _encode(_photo(), kind)
    path = tmp_path / "picture"
    path.write_bytes(encoded)
    source = {"bytes": encoded, "path": path, "str": str(path)}[place]
    decoded = images.decode(source)
    np.testing.assert_array_equal(decoded, _photo())
    assert decoded.dtype == np.uint8 and decoded.flags.writeable


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "JPEG2000", "AVIF"])
def test_lossy_files_come_close(kind):
    if kind not in images._available_formats():
        pytest.skip(f"this Pillow has no {kind}")
    decoded = images.decode(_encode(_photo(48, 80), kind, quality=95))
    assert np.abs(decoded.astype(int) - _photo(48, 80)).mean() < 12


_ORIENTED = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.transpose(1, 0, 2),
    6: np.rot90,  # stored a quarter turn to the left of upright: a viewer turns it to the right
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(kind, orientation):
    stored = np.ascontiguousarray(_ORIENTED[orientation](_photo()))
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = _encode(stored, kind, exif=exif)
    np.testing.assert_array_equal(images.decode(encoded), _photo())
    assert images.read_size(encoded) == (24, 40)


def test_rotated_jpeg_from_a_camera_stands_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = _encode(np.ascontiguousarray(np.rot90(_photo(48, 80))), "JPEG", exif=exif)
    decoded = images.decode(encoded)
    assert decoded.shape == (*images.read_size(encoded), 3) == (48, 80, 3)
    assert np.abs(decoded.astype(int) - _photo(48, 80)).mean() < 12


def test_unreadable_exif_counts_as_none():
    encoded = _encode(_photo(), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xffgarbage")
    np.testing.assert_array_equal(images.decode(encoded), _photo())


def test_cmyk_jpeg_becomes_rgb():
    cmyk = Image.fromarray(_photo(48, 80)).convert("CMYK")
    decoded = images.decode(_encode(cmyk, "JPEG", quality=95))
    assert np.abs(decoded.astype(int) - _photo(48, 80)).mean() < 12


def test_16_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], np.uint16)
    encoded = _png(8, 1, 16, 0, [values.astype(">u2").tobytes()])
    expected = np.rint(values / 257.0).astype(np.uint8)
    assert images.decode(encoded)[0, :, 0].tolist() == expected[0].tolist()
    for kind in ("TIFF", "PNG", "PPM"):
        decoded = images.decode(_encode(Image.fromarray(values), kind))
        for channel in range(3):
            np.testing.assert_array_equal(decoded[..., channel], expected, err_msg=kind)


def test_12_bit_tiff_uses_its_own_range():
    packed = bytes([0xFF, 0xF8, 0x00])  # 4095, 2048
    entries = [(256, 3, 1, 2), (257, 3, 1, 1), (258, 3, 1, 12), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 3, 1, 1), (279, 4, 1, 3)]
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", *entry) for entry in entries) + struct.pack("<I", 0)
    encoded = b"II*\0" + struct.pack("<I", 12) + packed + b"\0" + directory
    assert images.decode(encoded)[0, :, 0].tolist() == [255, 128]


def test_16_bit_colour_keeps_the_high_byte():
    row = np.array([[1000, 40_000, 65_535]], ">u2").tobytes()
    assert images.decode(_png(1, 1, 16, 2, [row]))[0, 0].tolist() == [3, 156, 255]


def test_alpha_is_composited_on_white():
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 0] = 200
    pixels[0, :, 3] = [255, 0, 51]  # opaque, invisible, one fifth
    assert images.decode(_encode(pixels, "PNG"))[0].tolist() == [
        [200, 0, 0],
        [255, 255, 255],
        [244, 204, 204],
    ]


def test_transparent_colours_become_white():
    grey = Image.fromarray(np.array([[0, 100]], np.uint8))
    assert images.decode(_encode(grey, "PNG", transparency=100))[0, :, 0].tolist() == [0, 255]
    deep = np.array([[0, 25_700]], ">u2").tobytes()
    encoded = _png(2, 1, 16, 0, [deep], _chunk(b"tRNS", struct.pack(">H", 25_700)))
    assert images.decode(encoded)[0, :, 0].tolist() == [0, 255]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    plain = images.decode(_encode(palette, "PNG"))
    assert plain[0].tolist() == [[10, 20, 30], [40, 50, 60]]
    half = images.decode(_encode(palette, "PNG", transparency=b"\xff\x00"))
    assert half[0].tolist() == [[10, 20, 30], [255, 255, 255]]


@pytest.mark.torch
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_eight_bit_modes_equal_hf(mode):
    transforms = pytest.importorskip("transformers.image_transforms")
    image = Image.fromarray(_photo())
    if mode in ("LA", "RGBA", "PA"):
        image.putalpha(Image.fromarray(_photo()[..., 0]))
    image = image.convert(mode)
    encoded = _encode(image, "TIFF" if mode in ("CMYK", "YCbCr", "PA") else "PNG")
    with Image.open(io.BytesIO(encoded)) as reopened:
        expected = transforms.convert_to_rgb(reopened, return_numpy=True)
    np.testing.assert_array_equal(images.decode(encoded), expected)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_give_their_first_frame(kind):
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    encoded = _encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(encoded)) as animation:
        assert getattr(animation, "n_frames", 1) == 3
    decoded = images.decode(encoded)
    assert decoded.shape == (20, 30, 3)
    assert np.unique(decoded.reshape(-1, 3), axis=0).tolist() == [[255, 0, 0]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
@pytest.mark.parametrize("part", [0.3, 0.7])
def test_truncated_files_are_named(tmp_path, kind, part):
    encoded = _encode(_photo(96, 160), kind)
    path = tmp_path / "broken.img"
    path.write_bytes(encoded[: int(len(encoded) * part)])
    with pytest.raises(UserError, match=r"broken\.img: cannot decode|broken\.img: no image"):
        images.decode(path)


@pytest.mark.parametrize(
    "content",
    [b"this is text", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"],
)
def test_files_that_are_no_images(content):
    with pytest.raises(UserError, match=r"^upload 7: .*expected a complete file") as caught:
        images.decode(content, name="upload 7")
    assert "\n" not in str(caught.value) and "BytesIO" not in str(caught.value)


@pytest.mark.parametrize("read", [images.decode, images.read_size])
def test_paths_without_a_readable_file(tmp_path, read):
    with pytest.raises(UserError, match=r"gone\.png: cannot read the image file: No such file"):
        read(tmp_path / "gone.png")
    with pytest.raises(UserError, match="not a regular file"):
        read(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=r"pipe\.png: not a regular file"):
        read(tmp_path / "pipe.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(UserError, match=r"empty\.png: (the image file is empty|no image found)"):
        read(tmp_path / "empty.png")
    with pytest.raises(UserError, match="cannot read the image file: .*null"):
        read("a\0b.png")


@pytest.mark.parametrize("read", [images.decode, images.read_size])
def test_byte_limit(tmp_path, read):
    encoded = _encode(_photo(), "PNG")
    path = tmp_path / "big.png"
    path.write_bytes(encoded)
    exact = images.DecodeLimits(max_bytes=len(encoded))
    assert images.decode(path, limits=exact).shape == (24, 40, 3)
    assert images.read_size(path, limits=exact) == (24, 40)
    for source in (path, encoded):
        with pytest.raises(UserError, match="larger than the limit of"):
            read(source, limits=images.DecodeLimits(max_bytes=len(encoded) - 1))


@pytest.mark.parametrize("read", [images.decode, images.read_size])
def test_pixel_limit_stops_before_unpacking(read):
    limits = images.DecodeLimits(max_pixels=24 * 40 - 1)
    with pytest.raises(UserError, match="40 x 24 pixels are more than the limit of 959"):
        read(_encode(_photo(), "PNG"), limits=limits)


@pytest.mark.parametrize("side", [13_378, 60_000])
def test_bombs_are_refused(side):
    encoded = _png(side, side, 8, 2, [])  # claims up to 10 GB of pixels and holds none
    with pytest.raises(UserError, match="bomb.png: cannot decode the image: .*limit of 178956970"):
        images.decode(encoded, name="bomb.png")


def test_large_images_below_the_limit_raise_no_warning():
    encoded = _png(9_500, 9_500, 1, 0, [])  # Pillow warns from 89 million pixels on
    with pytest.raises(UserError, match="truncated"):
        images.decode(encoded)


@pytest.mark.parametrize("limits", [{"max_bytes": 0}, {"max_pixels": 0}])
def test_limits_are_checked(limits):
    with pytest.raises(ValueError, match="expected at least 1"):
        images.DecodeLimits(**limits)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_range_are_refused(mode):
    image = Image.new(mode, (4, 4))
    with pytest.raises(UserError, match=f"pixels of mode {mode} have no defined range"):
        images.decode(_encode(image, "TIFF"))


def test_one_pixel_and_very_wide_images_end_in_an_upscale_or_one_error():
    config = preprocess.ImageConfig(max_pixels=200_704)
    pixel = images.decode(_encode(np.full((1, 1, 3), 77, np.uint8), "PNG"))
    resized = preprocess.resize_image(pixel, config)
    assert resized.shape == (56, 56, 3) and (resized == 77).all()
    panorama = images.decode(_encode(np.zeros((160, 30_000, 3), np.uint8), "PNG"))
    assert preprocess.resize_image(panorama, config).shape == (28, 6132, 3)
    strip = images.decode(_encode(np.zeros((8, 30_000, 3), np.uint8), "PNG"))
    with pytest.raises(UserError, match=r"^strip\.png: aspect ratio over 200"):
        preprocess.resize_image(strip, config, name="strip.png")
