"""Preprocessing against Hugging Face's own processor (its Pillow class: no torchvision needed)."""

import numpy as np
import pytest
from PIL import Image

from jaxqa.errors import UserError
from jaxqa.models.qwen2_5_vl import config as model_config
from jaxqa.models.qwen2_5_vl import preprocess

VISION = model_config.PRESETS["tiny"].vision


@pytest.fixture(scope="module")
def hf():
    return pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")


def _pixels(height, width, seed=0):
    """Smooth colours with noise on top, so that bicubic overshoot and clipping occur."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    waves = 127 + 127 * np.sin(rows / 9.0 + columns / 5.0)
    noisy = waves[..., None] + rng.normal(0, 60, (height, width, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _limits(rng):
    low = int(rng.integers(1, 400_000))
    return low, low + int(rng.integers(0, 13_000_000) * rng.random() ** 3)


@pytest.mark.torch
@pytest.mark.parametrize("seed", range(4))
def test_smart_resize_equals_hf_on_random_sizes(hf, seed):
    rng = np.random.default_rng(seed)
    for _ in range(3000):
        height = int(np.exp(rng.uniform(0, np.log(30_000))))
        ratio = np.exp(rng.uniform(-np.log(230), np.log(230)))
        width = max(1, int(height * ratio))
        factor = int(rng.choice([14, 28, 32, 56]))
        low, high = _limits(rng)
        arguments = dict(factor=factor, min_pixels=low, max_pixels=high)
        try:
            expected = hf.smart_resize(height, width, **arguments)
        except ValueError:
            with pytest.raises(UserError, match="aspect ratio over 200"):
                preprocess.smart_resize(height, width, **arguments)
            continue
        assert preprocess.smart_resize(height, width, **arguments) == expected


@pytest.mark.parametrize(
    ("height", "width", "limits", "expected"),
    [
        (1, 1, (3136, 12_845_056), (56, 56)),  # a single pixel is enlarged to the minimum
        (42, 70, (1, 10**7), (56, 56)),  # halves go to the even multiple: 1.5 -> 2, 2.5 -> 2
        (10, 2000, (3136, 12_845_056), (28, 812)),  # ratio of exactly 200; HF shrinks it
        (150, 30_000, (3136, 200_704), (28, 6328)),
        (1000, 1000, (1, 1), (28, 28)),  # no side below one merged token
    ],
)
def test_smart_resize_known_cases(height, width, limits, expected):
    low, high = limits
    found = preprocess.smart_resize(height, width, min_pixels=low, max_pixels=high)
    assert found == expected


def test_smart_resize_refuses_empty_images():
    with pytest.raises(ValueError, match="at least one pixel"):
        preprocess.smart_resize(0, 5, min_pixels=1, max_pixels=100)


@pytest.mark.parametrize("shape", [(1, 201), (30_000, 1), (1, 30_000)])
def test_too_long_images_are_refused_by_name(shape):
    image = np.zeros((*shape, 3), np.uint8)
    with pytest.raises(UserError, match=r"^strip\.png: aspect ratio over 200: .*\d+ x \d+ pixels"):
        preprocess.resize_image(image, preprocess.ImageConfig(), name="strip.png")


def _hf_processor(hf, config):
    return hf.Qwen2VLImageProcessorPil(
        size={"shortest_edge": config.min_pixels, "longest_edge": config.max_pixels}
    )


def _hf_levels(processor, image):
    """HF's patches, un-normalised back to levels: float [patches, 3, 2, 14, 14], and the grid."""
    features = processor(images=[image], input_data_format="channels_last")
    patches = features["pixel_values"].astype(np.float64).reshape(-1, 3, 2, 14, 14)
    mean = np.array(VISION.image_mean).reshape(3, 1, 1, 1)
    std = np.array(VISION.image_std).reshape(3, 1, 1, 1)
    return (patches * std + mean) * 255, features["image_grid_thw"][0].tolist()


_SHAPES = [
    (1, 1),
    (3, 3),
    (3, 500),
    (1, 190),
    (28, 28),
    (27, 43),
    (112, 112),
    (97, 301),
    (640, 427),
    (512, 512),
    (75, 9000),
]


@pytest.mark.torch
@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("limits", [(3136, 150_528), (50_176, 50_176)])
def test_pixels_and_patch_order_equal_hf(hf, shape, limits):
    config = preprocess.ImageConfig(min_pixels=limits[0], max_pixels=limits[1])
    image = _pixels(*shape, seed=sum(shape))
    resized = preprocess.resize_image(image, config)
    patches = preprocess.patchify(resized, VISION)
    expected, grid = _hf_levels(_hf_processor(hf, config), image)
    assert grid == [1, resized.shape[0] // 14, resized.shape[1] // 14]
    np.testing.assert_array_equal(expected[:, :, 0], expected[:, :, 1])
    found = patches.reshape(-1, 3, 14, 14)
    np.testing.assert_allclose(found, expected[:, :, 0], atol=1e-3)  # levels: 1/255 is 1.0 here


@pytest.mark.torch
def test_random_images_equal_hf(hf):
    rng = np.random.default_rng(7)
    for seed in range(25):
        height, width = (int(size) for size in np.exp(rng.uniform(1.5, 6.2, 2)))
        low = int(rng.integers(784, 60_000))
        config = preprocess.ImageConfig(min_pixels=low, max_pixels=low + int(rng.integers(200_000)))
        image = _pixels(height, width, seed)
        patches = preprocess.patchify(preprocess.resize_image(image, config), VISION)
        expected, _ = _hf_levels(_hf_processor(hf, config), image)
        np.testing.assert_allclose(
            patches.reshape(-1, 3, 14, 14), expected[:, :, 0], atol=1e-3, err_msg=f"seed {seed}"
        )


@pytest.mark.parametrize("grid", [(2, 2), (2, 6), (4, 2), (6, 10)])
def test_patchify_equals_the_plain_loop(grid):
    image = _pixels(grid[0] * 14, grid[1] * 14, seed=grid[1])
    expected = []
    for unit_row in range(0, grid[0], 2):
        for unit_column in range(0, grid[1], 2):
            for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
                top, left = (unit_row + row) * 14, (unit_column + column) * 14
                patch = image[top : top + 14, left : left + 14]
                expected.append(np.moveaxis(patch, -1, 0).ravel())
    found = preprocess.patchify(image, VISION)
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, np.array(expected))


def test_patchify_refuses_sides_that_are_no_multiple():
    with pytest.raises(ValueError, match="30 x 28 pixels: expected multiples of 28"):
        preprocess.patchify(np.zeros((28, 30, 3), np.uint8), VISION)


@pytest.mark.parametrize("limits", [(0, 10), (-1, 10), (11, 10)])
def test_pixel_limits_are_checked(limits):
    with pytest.raises(ValueError, match="0 < min_pixels <= max_pixels"):
        preprocess.ImageConfig(min_pixels=limits[0], max_pixels=limits[1])


def test_resize_returns_a_writable_copy():
    image = _pixels(56, 56)
    resized = preprocess.resize_image(image, preprocess.ImageConfig())
    np.testing.assert_array_equal(resized, image)
    resized[:] = 0
    assert image.any()


def test_pillows_images_give_the_pixels_of_arrays():
    """And channels lie one after another, so that patches are cut from them in one copy."""
    for height, width in ((75, 90), (56, 140), (40, 33)):
        image = _pixels(height, width)
        config = preprocess.ImageConfig(max_pixels=20_000)
        found = preprocess.resize_image(Image.fromarray(image), config)
        np.testing.assert_array_equal(found, preprocess.resize_image(image, config))
        size = (found.shape[1], found.shape[0])
        plain = np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(found, plain)
        assert found.transpose(2, 0, 1).flags.c_contiguous
