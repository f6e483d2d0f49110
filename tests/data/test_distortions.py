import numpy as np
import pytest
from scipy import ndimage

from jaxqa.data import distortions, scenes


@pytest.fixture(scope="module")
def photograph():
    scene = next(scene for scene in scenes.packaged_scenes() if scene.name == "coffee")
    return scenes.load_scene(scene)[100:212, 150:262].copy()


def _distort(picture, name, level, seed=0):
    return distortions.distort(picture, name, level, rng=np.random.default_rng(seed))


def _error(picture, distorted):
    return float(((picture.astype(float) - distorted) ** 2).mean())


@pytest.mark.parametrize("name", list(distortions.DISTORTIONS))
def test_every_level_does_more_harm(photograph, name):
    original = photograph.copy()
    errors = [_error(photograph, _distort(photograph, name, level)) for level in range(1, 6)]
    assert errors[0] > 0
    assert all(low < high for low, high in zip(errors, errors[1:], strict=False))
    np.testing.assert_array_equal(photograph, original)  # the input is left alone


@pytest.mark.parametrize("name", list(distortions.DISTORTIONS))
@pytest.mark.parametrize("shape", [(31, 57, 3), (5, 3, 3), (1, 1, 3)])
def test_any_shape_is_kept_and_the_seed_fixes_the_result(name, shape):
    picture = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    for level in (1, 5):
        first = _distort(picture, name, level)
        assert first.shape == shape and first.dtype == np.uint8
        np.testing.assert_array_equal(first, _distort(picture, name, level))


def test_only_noise_and_motion_depend_on_the_seed(photograph):
    random = {
        name
        for name in distortions.DISTORTIONS
        if (_distort(photograph, name, 3, 0) != _distort(photograph, name, 3, 1)).any()
    }
    assert random == {"noise", "motion_blur"}


@pytest.mark.parametrize("level", range(1, 6))
def test_noise_has_the_stated_deviation(level):
    grey = np.full((128, 128, 3), 128, np.uint8)
    sigma = distortions.NOISE_SIGMA[level - 1]
    noisy = _distort(grey, "noise", level).astype(float)
    middle_half = np.subtract(*np.percentile(noisy, [75, 25]))  # untouched by clipping at 0 and 255
    assert middle_half / 1.349 == pytest.approx(sigma, rel=0.05)


@pytest.mark.parametrize("level", range(1, 6))
def test_quantisation_keeps_the_stated_number_of_values(level):
    ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2)
    values = np.unique(_distort(ramp, "colour_quantisation", level))
    assert len(values) == distortions.QUANTISATION_LEVELS[level - 1]
    assert values[0] == 0 and values[-1] == 255


@pytest.mark.parametrize("level", range(1, 6))
def test_pixelation_blocks_are_their_mean(photograph, level):
    block = distortions.PIXEL_BLOCK[level - 1]
    result = _distort(photograph, "pixelation", level)
    for row, column in [(0, 0), (block, 2 * block), (3 * block, block)]:
        where = np.s_[row : row + block, column : column + block]
        mean = photograph[where].reshape(-1, 3).mean(0)
        assert (result[where] == result[row, column]).all()
        np.testing.assert_allclose(result[row, column], mean, atol=0.5001)


def test_darkening_scales_the_mean(photograph):
    for level, gain in enumerate(distortions.DARKENING_GAIN, 1):
        ratio = _distort(photograph, "darkening", level).mean() / photograph.mean()
        assert ratio == pytest.approx(gain, rel=0.02)


def test_gaussian_blur_spreads_a_point_by_sigma():
    point = np.zeros((61, 61, 3), np.uint8)
    point[28:33, 28:33] = 255
    for level, sigma in enumerate(distortions.BLUR_SIGMA, 1):
        spread = _distort(point, "gaussian_blur", level)[..., 0].astype(float)
        offsets = np.arange(61) - 30
        variance = (spread.sum(0) * offsets**2).sum() / spread.sum()
        assert variance == pytest.approx(2 + sigma**2, rel=0.12)  # 2: variance of the square


@pytest.mark.parametrize("seed", range(4))
def test_motion_blur_acts_along_one_line(seed):
    rng = np.random.default_rng(9)
    texture = rng.integers(0, 256, (96, 96, 1), dtype=np.uint8).repeat(3, 2)
    blurred = _distort(texture, "motion_blur", 5, seed)[..., 0].astype(float)
    rows, columns = (ndimage.sobel(blurred[20:76, 20:76], axis) for axis in (0, 1))
    tensor = np.cov(np.stack([rows.ravel(), columns.ravel()]))
    weak, strong = np.linalg.eigvalsh(tensor)
    assert strong > 4 * weak


@pytest.mark.parametrize("name, level", [("blur", 1), ("jpeg", 0), ("jpeg", 6)])
def test_unknown_distortions_are_refused(name, level):
    with pytest.raises(ValueError, match="distortion"):
        _distort(np.zeros((8, 8, 3), np.uint8), name, level)
