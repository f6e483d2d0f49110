import math

import numpy as np
import pytest

from jaxqa.data import distortions, pseudo_mos, scenes
from jaxqa.data.reference_crops import scene_crop


@pytest.fixture(scope="module")
def crops():
    rng = np.random.default_rng(0)
    found = [scene for scene in scenes.packaged_scenes() if scene.kind == "photograph"]
    return [scene_crop(scenes.load_scene(scene), 112, rng) for scene in found[:6]]


def _naive_gradient(plane):
    height, width = plane.shape
    padded = np.pad(plane, 1, mode="symmetric")
    result = np.empty_like(plane)
    for y in range(height):
        for x in range(width):
            near = padded[y : y + 3, x : x + 3]
            vertical = (near[2] - near[0]).sum() / 3
            horizontal = (near[:, 2] - near[:, 0]).sum() / 3
            result[y, x] = math.hypot(vertical, horizontal)
    return result


def _naive_similarity(first, second):
    constant = 170 / 255**2
    a, b = _naive_gradient(first), _naive_gradient(second)
    return (2 * a * b + constant) / (a**2 + b**2 + constant), np.maximum(a, b)


@pytest.mark.parametrize("shape", [(12, 16), (13, 17)])
def test_metrics_follow_their_definition(shape):
    rng = np.random.default_rng(shape[0])
    first, second = rng.random((2, *shape)).astype(np.float32)
    similarity, weight = _naive_similarity(first, second)
    expected = (similarity * weight).sum() / weight.sum()
    assert pseudo_mos.edge_similarity(first, second) == pytest.approx(expected, rel=1e-4)
    even = np.s_[: shape[0] // 2 * 2, : shape[1] // 2 * 2]
    corners = [np.s_[row::2, column::2] for row in (0, 1) for column in (0, 1)]
    halves = [sum(plane[even][corner] for corner in corners) / 4 for plane in (first, second)]
    expected = _naive_similarity(*halves)[0].std()
    assert pseudo_mos.gradient_deviation(first, second) == pytest.approx(expected, rel=1e-3)


def test_equal_pictures_are_excellent(crops):
    for picture in [*crops, np.full((28, 28, 3), 90, np.uint8)]:
        label = pseudo_mos.pseudo_mos(picture, picture.copy())
        assert label.score == pytest.approx(5) and label.variance == pytest.approx(0)


@pytest.mark.parametrize("name", list(distortions.DISTORTIONS))
def test_labels_fall_with_every_level(crops, name):
    rng = np.random.default_rng(1)
    scores = np.array(
        [
            [
                pseudo_mos.pseudo_mos(crop, distortions.distort(crop, name, level, rng=rng)).score
                for level in range(1, 6)
            ]
            for crop in crops
        ]
    )
    assert ((scores >= 1) & (scores <= 5)).all()
    means = scores.mean(0)
    assert (np.diff(means) < -0.1).all()
    assert means[0] > 3.5 and means[-1] < 2.6
    if name != "motion_blur":  # every level draws its own direction
        assert (np.diff(scores, axis=1) < 0.05).all()  # in each scene too


def test_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        pseudo_mos.pseudo_mos(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8))
