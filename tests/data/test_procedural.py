import numpy as np
import pytest

from jaxqa.data import procedural


@pytest.mark.parametrize("name", list(procedural.MAKERS))
@pytest.mark.parametrize("size", [63, 112])
def test_makers_draw_different_pictures_with_content(name, size):
    make = procedural.MAKERS[name]
    first, second = (make(size, np.random.default_rng(seed), ()) for seed in (0, 1))
    assert first.shape == second.shape == (size, size, 3)
    assert np.isfinite(first).all()
    assert np.clip(first, 0, 1).std() > 0.02
    assert np.abs(first - second).mean() > 0.02


def test_scenes_are_fixed_by_their_seed():
    name, picture = procedural.procedural_scene(64, np.random.default_rng(7))
    again, same = procedural.procedural_scene(64, np.random.default_rng(7))
    assert name == again and picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, same)


def test_surfaces_lend_their_texture():
    bright = np.full((50, 80, 3), 255, np.uint8)
    plain, lit = (
        [procedural.dead_leaves(64, np.random.default_rng(seed), s).mean() for seed in range(8)]
        for s in ((), [bright])
    )
    assert np.mean(lit) > np.mean(plain) + 0.05


def test_every_maker_is_drawn():
    rng = np.random.default_rng(0)
    drawn = {procedural.procedural_scene(32, rng)[0] for _ in range(100)}
    assert drawn == set(procedural.MAKERS)


@pytest.mark.parametrize("exponent", [0.6, 1.0, 1.5])
def test_spectral_field_has_the_asked_slope(exponent):
    size, power = 128, 0.0
    for seed in range(12):
        field = procedural.spectral_field(size, np.random.default_rng(seed), exponent=exponent)
        power = power + np.abs(np.fft.fft2(field)) ** 2
    frequency = np.fft.fftfreq(size)
    radius = np.hypot(frequency[:, None], frequency[None, :])
    band = (radius > 0.05) & (radius < 0.3)
    slope = np.polyfit(np.log(radius[band]), np.log(power[band]), 1)[0]
    assert slope == pytest.approx(-2 * exponent, abs=0.25)
    assert field.mean() == pytest.approx(0, abs=1e-3) and field.std() == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("seed", range(3))
def test_colourise_keeps_the_order_of_brightness_ends(seed):
    ramp = np.linspace(0, 1, 16, dtype=np.float32)[None].repeat(2, 0)
    coloured = procedural.colourise(ramp, np.random.default_rng(seed))
    assert coloured.shape == (2, 16, 3)
    assert coloured[0, -1].mean() > coloured[0, 0].mean()
    assert coloured.min() >= 0 and coloured.max() <= 1
