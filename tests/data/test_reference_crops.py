import numpy as np
import pytest

from jaxqa.data import reference_crops
from jaxqa.data.pseudo_mos import luma


@pytest.mark.parametrize("shape", [(300, 451, 3), (90, 400, 3), (112, 112, 3)])
def test_crops_have_the_asked_size(shape):
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    crop = reference_crops.scene_crop(picture, 112, np.random.default_rng(0))
    assert crop.shape == (112, 112, 3) and crop.dtype == np.uint8


def test_busy_places_are_preferred():
    picture = np.full((400, 1600, 3), 128, np.uint8)
    picture[:, 800:] = np.random.default_rng(0).integers(0, 256, (400, 800, 1), dtype=np.uint8)
    deviations = [
        reference_crops.scene_crop(picture, 56, np.random.default_rng(seed)).std()
        for seed in range(40)
    ]
    assert np.mean(np.array(deviations) > 5) > 0.85  # one try in two would give a flat crop


@pytest.mark.parametrize("seed", range(4))
def test_augmented_crops_keep_shape_and_vary(seed):
    crop = np.random.default_rng(9).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    first = reference_crops.augment(crop, np.random.default_rng(seed))
    second = reference_crops.augment(crop, np.random.default_rng(seed + 100))
    assert first.shape == crop.shape and first.dtype == np.uint8
    assert (first != second).any()


@pytest.mark.parametrize("low, high", [(0, 255), (100, 180), (3, 60)])
def test_exposed_crops_use_the_range(low, high):
    ramp = np.linspace(low, high, 56 * 56).reshape(56, 56, 1).repeat(3, 2)
    exposed = luma(reference_crops.expose(np.rint(ramp).astype(np.uint8)))
    assert np.percentile(exposed, 1) < 0.06
    assert np.percentile(exposed, 99) > 0.94


@pytest.mark.parametrize("power", [0.4, 1.0, 2.5])
def test_dark_and_light_crops_get_one_mean(power):
    ramp = np.linspace(0, 1, 56 * 56).reshape(56, 56, 1).repeat(3, 2) ** power
    exposed = luma(reference_crops.expose(np.rint(ramp * 255).astype(np.uint8)))
    assert exposed.mean() == pytest.approx(reference_crops.MEAN_LUMA, abs=0.02)


def test_flat_crops_are_not_blown_up():
    flat = np.full((28, 28, 3), 200, np.uint8)
    flat[3, 3] = 202
    assert reference_crops.expose(flat).std() < 5
