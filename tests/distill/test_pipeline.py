"""From embeddings and labels to a scorer: every switch counts, every shortage is told early."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distill_fixtures import CLIP, SCORES, draw_params, make_triplets

from jaxqa import sharding
from jaxqa.distill.basis import BasisConfig
from jaxqa.distill.embedding import embed_images
from jaxqa.distill.kmeans import ClusterConfig
from jaxqa.distill.pipeline import DistillConfig, agreement, distill, labels_of
from jaxqa.distill.pixels import prepare
from jaxqa.errors import UserError
from jaxqa.models.clip.model import Clip, unit

TRIPLETS = make_triplets(60)
BASE = {
    "dimensions": 8,
    "clusters": ClusterConfig(buckets=6, centroids=10),
    "basis": BasisConfig(fit=False, clip=False),
}


@pytest.fixture(scope="module")
def tower():
    model = Clip(config=CLIP.image_only())
    return model, draw_params(CLIP.image_only())


@pytest.fixture(scope="module")
def embeddings(tower):
    images = [triplet.image for triplet in TRIPLETS]
    mesh = sharding.make_mesh(sharding.MeshConfig())
    counts = []
    found = embed_images(*tower, images, size=16, workers=2, mesh=mesh, advance=counts.append)
    assert counts == [16, 32, 48, 60]
    return found


def run(embeddings, **change):
    config = DistillConfig(**BASE | change)
    labels = labels_of(TRIPLETS)
    return distill(embeddings, labels, score_range=SCORES, config=config, seed=0)


def answers(found, embeddings):
    return np.asarray(found.basis(jnp.asarray(embeddings)))


def test_embeddings_are_those_of_the_tower(tower, embeddings):
    pixels = np.stack([prepare(t.image, CLIP) for t in TRIPLETS[:16]])
    model, params = tower
    expected = jax.jit(lambda x: unit(model.image_embeddings(params, x)))(pixels)
    np.testing.assert_allclose(embeddings[:16], expected, atol=1e-6)


def test_a_bad_image_stops_the_embedding(tower):
    mesh = sharding.make_mesh(sharding.MeshConfig())
    with pytest.raises(UserError, match="<3 bytes>"):
        embed_images(*tower, [TRIPLETS[0].image, b"bad"], size=16, workers=1, mesh=mesh)


def test_the_distilled_scorer_learns(embeddings):
    start = run(embeddings)
    found = run(embeddings, basis=BasisConfig(steps=150, learning_rate=0.1, temperature=0.1))
    before, after = (
        agreement(answers(each, embeddings), labels_of(TRIPLETS)) for each in (start, found)
    )
    assert found.losses[-1] < 0.6 * found.losses[0]
    assert after["plcc"] > before["plcc"] + 0.02
    assert after["srcc"] > before["srcc"] and after["mae"] < 0.8 * before["mae"]


@pytest.mark.parametrize(
    "change",
    [
        {"dimensions": None},
        {"centre": True},
        {"clusters": ClusterConfig(buckets=1, centroids=10)},
        {"basis": BasisConfig(fit=False, clip=False, temperature=0.2)},
        {"basis": BasisConfig(fit=False, clip=False, calibrate=True)},
    ],
    ids=str,
)
def test_every_switch_counts(embeddings, change):
    usual, other = run(embeddings), run(embeddings, **change)
    assert not np.allclose(answers(usual, embeddings), answers(other, embeddings), atol=1e-3)


def test_plain_clusters_are_more_concentrated_than_bucketed_ones(embeddings):
    bucketed = run(embeddings).clusters.scores
    plain = run(embeddings, clusters=ClusterConfig(buckets=1, centroids=10)).clusters.scores
    assert np.ptp(plain) < np.ptp(bucketed)


def test_the_same_seed_gives_the_same_basis(embeddings):
    first, second = run(embeddings), run(embeddings)
    for a, b in zip(
        jax.tree.leaves(first.basis.params), jax.tree.leaves(second.basis.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dimensions": 21}, "expected at most the embeddings' 20"),
        ({"clusters": ClusterConfig(centroids=250)}, "60 labelled images, and clusters.centroids"),
    ],
)
def test_shortages_are_told(embeddings, change, message):
    with pytest.raises(UserError, match=message):
        run(embeddings, **change)


def test_fewer_images_than_dimensions_are_told():
    with pytest.raises(UserError, match="7 labelled images, and dimensions is 8"):
        DistillConfig(**BASE).check(7, 20)
    with pytest.raises(ValueError, match="dimensions is 0"):
        DistillConfig(dimensions=0)
