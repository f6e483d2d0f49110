"""Bucketed k-means against scikit-learn's in every bucket, and its documented rules."""

import jax.numpy as jnp
import numpy as np
import pytest
from distill_fixtures import SCORES
from sklearn.cluster import KMeans

from jaxqa.distill.kmeans import (
    ClusterConfig,
    allocate,
    bucket_of,
    cluster,
    lloyd,
    start_centroids,
)
from jaxqa.errors import UserError


def draw(count, width=6, seed=0):
    rng = np.random.default_rng(seed)
    scores = np.clip(rng.normal(3, 0.8, count), 1, 5)
    points = rng.standard_normal((count, width)) + scores[:, None]
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32), scores


def run(points, scores, buckets, centroids, seed=0):
    return cluster(
        points,
        scores,
        score_range=SCORES,
        config=ClusterConfig(buckets=buckets, centroids=centroids),
        seed=seed,
    )


@pytest.mark.parametrize("seed", range(3))
def test_every_bucket_equals_scikit_learns_from_the_same_start(seed):
    points, scores = draw(120, seed=seed)
    bucket = bucket_of(scores, SCORES, 5)
    counts = allocate(np.bincount(bucket, minlength=5), 24)
    owner = np.repeat(np.arange(5), counts)
    start = start_centroids(jnp.asarray(points), bucket, counts, seed=seed)
    found, assignment = lloyd(jnp.asarray(points), jnp.asarray(bucket), start, jnp.asarray(owner))
    found, assignment = np.asarray(found), np.asarray(assignment)
    np.testing.assert_array_equal(owner[assignment], bucket)
    for b in np.flatnonzero(counts):
        inside, own = bucket == b, owner == b
        expected = KMeans(counts[b], init=np.asarray(start)[own], n_init=1, tol=0).fit(
            points[inside]
        )
        np.testing.assert_allclose(found[own], expected.cluster_centers_, atol=1e-5)
        first = np.flatnonzero(own)[0]
        np.testing.assert_array_equal(assignment[inside] - first, expected.labels_)


def test_inertia_is_as_good_as_scikit_learns_own_start():
    points, scores = draw(120)
    ours, theirs = [], []
    for seed in range(5):
        found = run(points, scores, 1, 12, seed)
        ours.append(np.square(points - found.centroids[found.assignment]).sum())
        theirs.append(KMeans(12, n_init=1, random_state=seed).fit(points).inertia_)
    assert np.mean(ours) < 1.1 * np.mean(theirs)


def test_centroids_and_scores_are_means_of_their_members():
    points, scores = draw(120, seed=4)
    found = run(points, scores, 5, 24)
    assert len(found.centroids) == 24 and found.members.sum() == 120
    for k in range(24):
        inside = found.assignment == k
        assert inside.sum() == found.members[k]
        np.testing.assert_allclose(found.centroids[k], points[inside].mean(0), atol=1e-6)
        assert found.scores[k] == pytest.approx(scores[inside].mean(), rel=1e-6)
        assert set(bucket_of(scores[inside], SCORES, 5)) == {found.buckets[k]}


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    points, scores = draw(120, seed=2)
    first, again, other = (run(points, scores, 5, 24, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.centroids, again.centroids)
    np.testing.assert_array_equal(first.assignment, again.assignment)
    assert not np.array_equal(first.centroids, other.centroids)


@pytest.mark.parametrize(
    ("score", "bucket"),
    [(1.0, 0), (1.99, 0), (2.0, 1), (3.0, 2), (4.999, 3), (5.0, 3), (0.9, 0), (5.1, 3)],
)
def test_buckets_cut_the_range_evenly(score, bucket):
    assert bucket_of(np.array([score]), SCORES, 4)[0] == bucket


@pytest.mark.parametrize(
    ("members", "centroids", "expected"),
    [
        ([3, 0, 5], 2, [1, 0, 1]),
        ([3, 0, 5], 3, [1, 0, 2]),
        ([4, 0, 4], 3, [2, 0, 1]),  # a tie: the lower bucket
        ([1, 1, 6], 5, [1, 1, 3]),
        ([2, 1], 3, [2, 1]),  # never more centroids than members
        ([9], 4, [4]),
    ],
)
def test_allocation_follows_the_rule(members, centroids, expected):
    np.testing.assert_array_equal(allocate(np.array(members), centroids), expected)


def test_allocation_spends_everything_it_may():
    rng = np.random.default_rng(0)
    for _ in range(20):
        members = rng.integers(0, 9, 12)
        total = int(rng.integers((members > 0).sum(), members.sum() + 1))
        given = allocate(members, total)
        assert given.sum() == total and (given <= members).all()
        assert ((given > 0) == (members > 0)).all()


def test_empty_clusters_take_the_farthest_image():
    """A start far from everything: both of its centroids would stay empty."""
    points = np.array([[0.0], [0.1], [1.0], [5.0]], np.float32)
    start = jnp.asarray([[0.0], [90.0], [91.0]], jnp.float32)
    bucket, owner = jnp.zeros(4, jnp.int32), jnp.zeros(3, jnp.int32)
    _, assignment = lloyd(jnp.asarray(points), bucket, start, owner)
    assert len(set(np.asarray(assignment).tolist())) == 3
    assert assignment[0] == assignment[1]


def test_equal_images_leave_fewer_centroids():
    points = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    scores = np.repeat([1.2, 3.1, 4.9], 4)
    found = run(points, scores, 3, 6)
    assert len(found.centroids) == 3
    np.testing.assert_array_equal(found.members, [4, 4, 4])
    np.testing.assert_allclose(found.scores, [1.2, 3.1, 4.9], rtol=1e-6)
    np.testing.assert_array_equal(found.assignment, np.repeat([0, 1, 2], 4))


def test_as_many_centroids_as_images():
    points, scores = draw(9)
    found = run(points, scores, 2, 9)
    np.testing.assert_array_equal(np.sort(found.members), np.ones(9))
    np.testing.assert_allclose(found.centroids[found.assignment], points, atol=1e-6)


def test_fewer_images_than_centroids_are_refused():
    points, scores = draw(7)
    with pytest.raises(UserError, match="7 images cannot make 8 basis vectors"):
        run(points, scores, 4, 8)


@pytest.mark.parametrize("sizes", [(0, 5), (6, 5)])
def test_bad_configs_are_refused(sizes):
    with pytest.raises(ValueError, match="at least as many centroids"):
        ClusterConfig(buckets=sizes[0], centroids=sizes[1])
