"""The distilled scorer: same bits in any company, gradients, embeddings, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distill_fixtures import CLIP, SIGLIP, encode, make_artifact, make_triplets

from jaxqa import sharding
from jaxqa.distill.pixels import prepare
from jaxqa.distill.resize import resize_pixels
from jaxqa.distill.scorer import RaliScorer
from jaxqa.errors import UserError
from jaxqa.models.clip.preprocess import prepare_image

IMAGES = [triplet.image for triplet in make_triplets(21)]


@pytest.fixture(scope="module")
def scorer():
    return RaliScorer(make_artifact(), block_size=8, workers=2)


def scores(scorer, images):
    found = list(scorer.score(images))
    assert all(answer.error is None for answer in found)
    return np.array([answer.score for answer in found])


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_the_same_bits_in_any_order_and_company(scorer, seed):
    expected = scores(scorer, IMAGES)
    assert len(set(expected)) == len(IMAGES)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(IMAGES))[: 21 - 4 * seed]
    np.testing.assert_array_equal(scores(scorer, (IMAGES[i] for i in order)), expected[order])
    one = int(order[0])
    np.testing.assert_array_equal(scores(scorer, [IMAGES[one]]), expected[[one]])


def test_scores_equal_the_plain_formula(scorer):
    pixels = np.stack([prepare(image, CLIP) for image in IMAGES[:8]])
    model, params = scorer.model, scorer.params
    embeddings = np.asarray(jax.jit(model.embeddings)(params, pixels), np.float64)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-6)
    basis = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["basis"])
    projected = (embeddings - basis["mean"]) @ basis["components"]
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    vectors = basis["vectors"] / np.linalg.norm(basis["vectors"], axis=1, keepdims=True)
    weights = np.exp(projected @ vectors.T / 0.7)
    expected = 0.9 * (weights @ basis["scores"]) / weights.sum(1) + 0.2
    np.testing.assert_allclose(scores(scorer, IMAGES[:8]), expected, rtol=1e-5)


def test_cached_embeddings_give_the_same_scores(scorer):
    embedded = np.concatenate([rows for rows, _ in scorer.embed(IMAGES)])
    assert embedded.shape == (21, 20)
    np.testing.assert_allclose(scorer.score_embeddings(embedded), scores(scorer, IMAGES), rtol=1e-5)
    assert scorer.score_embeddings(np.zeros((0, 20), np.float32)).shape == (0,)
    shuffled = scorer.score_embeddings(embedded[::-1])[::-1]
    np.testing.assert_array_equal(shuffled, scorer.score_embeddings(embedded))


def test_many_devices_score_as_one(scorer):
    mesh = sharding.make_mesh(sharding.MeshConfig(data=8))
    spread = RaliScorer(make_artifact(), block_size=8, workers=2, mesh=mesh)
    np.testing.assert_allclose(scores(spread, IMAGES), scores(scorer, IMAGES), rtol=1e-5)
    with pytest.raises(UserError, match="block_size is 4; expected a multiple of the 8"):
        RaliScorer(make_artifact(), block_size=4, mesh=mesh)


def test_bad_images_have_errors_and_no_score(scorer, tmp_path):
    (tmp_path / "bad.jpg").write_text("no image")
    found = list(scorer.score([IMAGES[0], tmp_path / "bad.jpg", IMAGES[1]]))
    assert [answer.score is None for answer in found] == [False, True, False]
    assert "bad.jpg" in found[1].error
    np.testing.assert_array_equal([found[0].score, found[2].score], scores(scorer, IMAGES[:2]))
    assert list(scorer.score([])) == []


def test_a_score_that_is_no_number_is_an_error(scorer):
    damaged = make_artifact()
    damaged.encoder["visual_projection"]["kernel"][:] = np.nan
    broken = RaliScorer(damaged, block_size=8, workers=1)
    (found,) = broken.score(IMAGES[:1])
    assert found.score is None and "not a number" in found.error


def test_answers_stay_in_the_range_where_the_mapping_clips(scorer):
    clipped = RaliScorer(make_artifact(clip=True), block_size=8)
    free = scores(scorer, IMAGES)
    assert free.min() < 1 or free.max() > 5
    np.testing.assert_array_equal(scores(clipped, IMAGES), np.clip(free, 1, 5))


def test_the_gradient_of_pixels_equals_finite_differences(scorer):
    rng = np.random.default_rng(0)
    pixels = rng.uniform(20, 235, (2, 24, 20, 3)).astype(np.float32)
    score = jax.jit(scorer.score_pixels)
    grads = np.asarray(
        jax.jit(jax.grad(lambda x: scorer.score_pixels(x).sum()))(jnp.asarray(pixels)), np.float64
    )
    for seed in range(3):  # a random direction, turned towards the gradient so that it is felt
        direction = np.random.default_rng(seed).standard_normal(pixels.shape)
        direction = direction / np.linalg.norm(direction) + grads / np.linalg.norm(grads)
        ends = [
            np.asarray(score(jnp.asarray(pixels + sign * direction, jnp.float32)), np.float64)
            for sign in (1, -1)
        ]
        slope = (ends[0] - ends[1]).sum() / 2
        assert slope == pytest.approx((grads * direction).sum(), rel=1e-2)


def test_pixels_and_files_score_alike(scorer):
    pixels = np.stack([prepare(image, CLIP) for image in IMAGES[:3]])
    found = jax.jit(scorer.score_pixels)(jnp.asarray(pixels, jnp.float32))
    np.testing.assert_allclose(found, scores(scorer, IMAGES[:3]), rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "size"), [(CLIP, (60, 40)), (CLIP, (33, 90)), (CLIP, (7, 9)), (SIGLIP, (33, 90))]
)
def test_the_device_resizes_as_the_host_does(config, size):
    rng = np.random.default_rng(1)
    small = rng.integers(0, 256, (size[0] // 3 + 1, size[1] // 3 + 1, 3)).astype(np.uint8)
    image = np.kron(small, np.ones((3, 3, 1), np.uint8))[: size[0], : size[1]]
    found = resize_pixels(jnp.asarray(image, jnp.float32)[None], config)[0]
    expected = prepare_image(image, config)
    gap = np.abs(np.clip(found, 0, 255) - expected)
    assert gap.max() <= 1.6 and gap.mean() < 0.5  # Pillow rounds after each of two passes


def test_bfloat16_scores_are_close(scorer):
    rough = RaliScorer(make_artifact(), block_size=8, compute_dtype="bfloat16")
    gap = np.abs(scores(rough, IMAGES) - scores(scorer, IMAGES))
    assert 0 < gap.max() < 0.1 * np.ptp(scores(scorer, IMAGES)) + 0.3


@pytest.mark.parametrize("options", [{"block_size": 0}, {"workers": 0}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match="expected at least 1 each"):
        RaliScorer(make_artifact(), **options)


def test_encoded_images_of_any_size(scorer):
    sizes = [(16, 16), (200, 31), (9, 300), (1, 1)]
    images = [encode(np.full((*size, 3), 90, np.uint8)) for size in sizes[:3]]
    found = scores(scorer, images)
    np.testing.assert_allclose(found, found[0], rtol=1e-6)  # one colour is one colour
