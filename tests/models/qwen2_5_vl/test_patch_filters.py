import dataclasses

import numpy as np
import pytest

from jaxqa.data import scenes
from jaxqa.models.qwen2_5_vl.config import VisionConfig
from jaxqa.models.qwen2_5_vl.patch_filters import NUM_CONSTANTS, constant_channels, patch_filters

CONFIG = VisionConfig(
    depth=1, hidden_size=96, intermediate_size=8, num_heads=4, out_hidden_size=16,
    fullatt_block_indexes=(),
)  # fmt: skip


def _patches(picture):
    height, width = (side // 14 * 14 for side in picture.shape[:2])
    blocks = picture[:height, :width].reshape(height // 14, 14, width // 14, 14, 3)
    return blocks.transpose(0, 2, 4, 1, 3).reshape(-1, 588).astype(np.float64) / 255


def _normalise(patches):
    mean, std = (np.repeat(values, 196) for values in (CONFIG.image_mean, CONFIG.image_std))
    return (patches - mean) / std


@pytest.mark.parametrize("width", [16, 32, 96, 128, 256])
def test_filters_are_independent(width):
    filters = patch_filters(dataclasses.replace(CONFIG, hidden_size=width))
    assert filters.shape == (588, width) and filters.dtype == np.float32
    assert np.linalg.matrix_rank(filters) == width - NUM_CONSTANTS
    constants = constant_channels(dataclasses.replace(CONFIG, hidden_size=width))
    np.testing.assert_array_equal((filters == 0).all(0), constants == 1)


def test_responses_to_photographs_are_balanced():
    found = [scene for scene in scenes.packaged_scenes() if scene.kind == "photograph"]
    patches = np.concatenate([_patches(scenes.load_scene(scene)[::2, ::2]) for scene in found])
    deviations = (_normalise(patches) @ patch_filters(CONFIG)).std(0)[:-NUM_CONSTANTS]
    assert deviations.max() / deviations.min() < 12
    assert 0.3 < np.median(deviations) < 3


def test_luma_filters_are_the_cosine_transform():
    from scipy.fft import dctn

    rng = np.random.default_rng(0)
    pixels = rng.random((3, 14, 14))
    response = _normalise(pixels.reshape(1, -1))[0] @ patch_filters(CONFIG)
    grey = 0.299 * pixels[0] + 0.587 * pixels[1] + 0.114 * pixels[2]
    spectrum = dctn(grey, norm="ortho")
    first = [(0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1), (2, 2)]
    for index, (row, column) in enumerate(first, 1):
        expected = spectrum[row, column] * 1.5 * np.hypot(row, column)
        assert response[index] == pytest.approx(expected, rel=1e-4)


def test_grey_pictures_leave_chroma_filters_silent():
    grey = np.repeat(np.random.default_rng(1).random((5, 1, 196)), 3, axis=1).reshape(5, 588)
    difference = _normalise(grey[1:]) - _normalise(grey[:1])  # the mean colour drops out
    response = difference @ patch_filters(CONFIG)
    assert np.abs(response[:, 68:]).max() < 1e-2
    assert np.abs(response[:, :68]).max() > 0.5


def test_every_frequency_along_one_axis_has_a_filter():
    rows = np.zeros((14, 1, 3, 14, 14))
    steps = np.arange(14)
    for number in range(14):
        rows[number] = np.cos(np.pi * (steps + 0.5) * number / 14)[None, None, None, :]
    for pixels in (rows, rows.swapaxes(-1, -2)):
        response = pixels.reshape(14, 588) @ patch_filters(CONFIG)
        assert np.linalg.matrix_rank(response[:, :68], tol=1e-3) == 14


@pytest.mark.parametrize("width", [4, 1024])
def test_impossible_widths_are_refused(width):
    with pytest.raises(ValueError, match="found"):
        patch_filters(dataclasses.replace(CONFIG, hidden_size=width, num_heads=1))


def test_other_channel_counts_are_refused():
    config = dataclasses.replace(CONFIG, in_channels=1, image_mean=(0.5,), image_std=(0.5,))
    with pytest.raises(ValueError, match="3 colour channels"):
        patch_filters(config)
