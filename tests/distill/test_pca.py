"""Components against scikit-learn's, whole and in a stream."""

import numpy as np
import pytest
from sklearn.decomposition import PCA, TruncatedSVD

from jaxqa.distill.pca import fit_pca
from jaxqa.errors import UserError


def draw(count, width, seed=0, offset=0.0):
    rng = np.random.default_rng(seed)
    scales = np.geomspace(1, 0.05, width)
    rotation = np.linalg.qr(rng.standard_normal((width, width)))[0]
    return ((rng.standard_normal((count, width)) * scales) @ rotation + offset).astype(np.float32)


def test_centred_equals_scikit_learns():
    x = draw(90, 20, offset=3.0)
    pca = fit_pca([x], dimensions=7, centre=True)
    expected = PCA(7, svd_solver="full").fit(x.astype(np.float64))
    np.testing.assert_allclose(pca.mean, expected.mean_, rtol=1e-6)
    signs = np.sign(np.sum(pca.components * expected.components_.T, axis=0))
    np.testing.assert_allclose(pca.components * signs, expected.components_.T, atol=2e-6)
    np.testing.assert_allclose(pca.variances * 90 / 89, expected.explained_variance_, rtol=1e-6)
    found = pca.project(x) * signs
    np.testing.assert_allclose(found, expected.transform(x), atol=2e-5)


def test_without_centring_equals_a_singular_value_decomposition():
    x = draw(60, 12, offset=0.4)
    pca = fit_pca([x], dimensions=5)
    assert not pca.mean.any()
    expected = TruncatedSVD(5, algorithm="arpack").fit(x.astype(np.float64))
    overlap = np.abs(np.sum(pca.components * expected.components_.T, axis=0))
    np.testing.assert_allclose(overlap, 1, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("centre", [False, True])
def test_a_stream_equals_the_whole(seed, centre):
    x = draw(101, 15, seed=seed, offset=0.1)
    whole = fit_pca([x], dimensions=9, centre=centre)
    cuts = np.sort(np.random.default_rng(seed).integers(0, 101, 6))
    stream = fit_pca(iter(np.split(x, cuts)), dimensions=9, centre=centre)
    np.testing.assert_allclose(stream.components, whole.components, atol=1e-6)
    np.testing.assert_allclose(stream.variances, whole.variances, rtol=1e-9)


def test_signs_are_fixed_and_columns_orthonormal():
    for seed in range(5):
        components = fit_pca([draw(50, 8, seed=seed)], dimensions=8).components
        largest = np.abs(components).argmax(axis=0)
        assert (components[largest, np.arange(8)] > 0).all()
        np.testing.assert_allclose(components.T @ components, np.eye(8), atol=1e-6)


def test_no_reduction_keeps_the_embeddings():
    x = draw(4, 6, offset=1.0)
    np.testing.assert_array_equal(fit_pca([x], dimensions=None).project(x), x)
    centred = fit_pca([x], dimensions=None, centre=True)
    np.testing.assert_allclose(centred.project(x), x - x.mean(0), atol=1e-6)


def test_as_many_dimensions_as_images():
    x = draw(6, 9)
    assert fit_pca([x], dimensions=6).components.shape == (9, 6)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (draw(5, 9), {"dimensions": 6}, "5 images give at most 5 components"),
        (draw(50, 9), {"dimensions": 10}, "expected from 1 to the embeddings' 9"),
        (draw(50, 9), {"dimensions": 0}, "expected from 1"),
        (np.ones((50, 9), np.float32), {"dimensions": 2}, "differ in 1 dimensions only"),
        (draw(6, 9), {"dimensions": 6, "centre": True}, "differ in 5 dimensions only"),
        (np.zeros((0, 9), np.float32), {"dimensions": 2}, "no embeddings"),
        (np.full((5, 3), np.nan, np.float32), {"dimensions": 2}, "not finite"),
    ],
)
def test_bad_sets_are_refused(x, options, message):
    with pytest.raises(UserError, match=message):
        fit_pca([x], **options)


def test_no_chunks_are_refused():
    with pytest.raises(UserError, match="no embeddings"):
        fit_pca([], dimensions=2)
