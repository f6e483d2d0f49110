"""k-means inside score buckets: all buckets in one jitted call, deterministic by seed.

Rules where a paper is silent:
- The range of scores is cut into buckets of equal width; the highest score is in the last one.
- Every bucket with members gets one centroid; an empty bucket gets none. The other centroids go,
  one by one, to the bucket with the most members per centroid it has, the lower one on a tie;
  no bucket gets more centroids than members.
- Starting centroids are drawn inside each bucket as k-means++ does; then Lloyd's iterations.
- A cluster that loses its members takes the member of its bucket that is farthest from its own
  centroid. Where that cannot help (equal embeddings), it is dropped: there are fewer centroids.
- A centroid and its score are the means of its members, summed in float64.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxqa.distill.triplets import ScoreRange
from jaxqa.errors import UserError
from jaxqa.typing import Array, Float, Int

MAX_ITERATIONS = 300
"""As in scikit-learn; Lloyd's iterations end by themselves long before."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """How embeddings become basis vectors.

    Attributes:
        buckets: cuts of the score range; 1 is plain k-means over all images.
        centroids: basis vectors in all.
    """

    buckets: int = 240
    centroids: int = 250

    def __post_init__(self):
        if self.buckets < 1 or self.centroids < self.buckets:
            raise ValueError(
                f"buckets={self.buckets}, centroids={self.centroids}: expected at least one bucket "
                "and at least as many centroids"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clusters:
    """What clustering found, bucket by bucket.

    Attributes:
        centroids: float32 [K M].
        scores: float32 [K], mean score of each centroid's members.
        buckets: int [K], the bucket of each centroid.
        members: int [K], images of each centroid.
        assignment: int [N], the centroid of each image.
    """

    centroids: np.ndarray
    scores: np.ndarray
    buckets: np.ndarray
    members: np.ndarray
    assignment: np.ndarray


def bucket_of(
    scores: Float[np.ndarray, " N"], score_range: ScoreRange, buckets: int
) -> Int[np.ndarray, " N"]:
    """The bucket of each score, from 0."""
    share = (scores.astype(np.float64) - score_range.low) / (score_range.high - score_range.low)
    return np.clip(np.floor(share * buckets), 0, buckets - 1).astype(np.int64)


def allocate(members: Int[np.ndarray, " N"], centroids: int) -> Int[np.ndarray, " N"]:
    """Centroids of each bucket, from its number of members; see the module's rules.

    Raises:
        UserError: fewer members than centroids.
    """
    if members.sum() < centroids:
        raise UserError(
            f"{members.sum()} images cannot make {centroids} basis vectors; use more images or "
            "fewer centroids"
        )
    given = (members > 0).astype(np.int64)
    for _ in range(centroids - int(given.sum())):
        crowd = np.where(given < members, members / np.maximum(given, 1), -1.0)
        given[crowd.argmax()] += 1
    return given


def cluster(
    embeddings: Float[np.ndarray, "N M"],
    scores: Float[np.ndarray, " N"],
    *,
    score_range: ScoreRange,
    config: ClusterConfig,
    seed: int,
) -> Clusters:
    """Cluster embeddings inside the buckets of their scores.

    Raises:
        UserError: fewer images than centroids.
    """
    bucket = bucket_of(scores, score_range, config.buckets)
    counts = allocate(np.bincount(bucket, minlength=config.buckets), config.centroids)
    owner = np.repeat(np.arange(config.buckets), counts)  # bucket of each centroid
    points = jnp.asarray(embeddings, jnp.float32)
    start = start_centroids(points, bucket, counts, seed=seed)
    _, assignment = lloyd(points, jnp.asarray(bucket), start, jnp.asarray(owner))
    return _summarise(embeddings, scores, np.asarray(assignment), owner)


def start_centroids(
    points: Float[Array, "N M"],
    bucket: Int[np.ndarray, " N"],
    counts: Int[np.ndarray, " B"],
    *,
    seed: int,
) -> Float[Array, "K M"]:
    """k-means++ in every bucket at once: bucket by bucket, `counts` rows each."""
    # Draw number j of every bucket; buckets that want fewer ignore the rest. A power of two of
    # rounds, so that few numbers of them are compiled.
    rounds = 1 << (int(counts.max()) - 1).bit_length()
    drawn = _plus_plus(
        points,
        jnp.asarray(bucket, jnp.int32),
        jax.random.key(seed),
        buckets=len(counts),
        rounds=rounds,
    )
    number = np.concatenate([np.arange(count) for count in counts])
    return points[np.asarray(drawn)[number, np.repeat(np.arange(len(counts)), counts)]]


@functools.partial(jax.jit, static_argnames=("buckets", "rounds"))
def _plus_plus(
    points: Float[Array, "N M"],
    bucket: Int[Array, " N"],
    key: Array,
    *,
    buckets: int,
    rounds: int,
) -> Int[Array, "rounds B"]:
    """Rows drawn in each round and bucket, with a chance that grows with the squared distance."""

    def draw(distance: Array, number: Array) -> tuple[Array, Array]:
        # The largest of log-weight + Gumbel noise in each bucket is a draw by weight.
        noise = jax.random.gumbel(jax.random.fold_in(key, number), distance.shape)
        rank = jnp.log(jnp.maximum(distance, 1e-30)) + noise
        best = jax.ops.segment_max(rank, bucket, num_segments=buckets)
        rows = jnp.arange(len(rank), dtype=jnp.int32)
        is_best = rank == best[bucket]
        chosen = jnp.where(is_best, rows, len(rank) - 1)
        chosen = jax.ops.segment_min(chosen, bucket, num_segments=buckets)
        chosen = jnp.minimum(chosen, len(rank) - 1)  # of empty buckets: any row
        squares = jnp.sum(jnp.square(points - points[chosen[bucket]]), axis=1)
        return jnp.minimum(distance, squares), chosen

    # Before the first draw all are as good: the constant is larger than any distance.
    first = jnp.full((points.shape[0],), 1e30, jnp.float32)
    return jax.lax.scan(draw, first, jnp.arange(rounds))[1]


@jax.jit
def lloyd(
    points: Float[Array, "N M"],
    bucket: Int[Array, " N"],
    centroids: Float[Array, "K M"],
    owner: Int[Array, " K"],
) -> tuple[Float[Array, "K M"], Int[Array, " N"]]:
    """Lloyd's iterations of all buckets until no image changes its centroid.

    Returns:
        Centroids, and the centroid of each image, in its own bucket.
    """
    count = centroids.shape[0]
    foreign = bucket[:, None] != owner[None, :]

    def assign(centroids: Array) -> tuple[Array, Array]:
        products = jnp.matmul(points, centroids.T, precision="highest")
        squares = jnp.sum(jnp.square(points), axis=1, keepdims=True)
        squares = squares - 2 * products + jnp.sum(jnp.square(centroids), axis=1)[None]
        squares = jnp.where(foreign, jnp.inf, squares)
        nearest = jnp.argmin(squares, axis=1)
        return nearest, jnp.take_along_axis(squares, nearest[:, None], axis=1)[:, 0]

    def move(centroids: Array, nearest: Array, squares: Array) -> Array:
        own = jax.nn.one_hot(nearest, count, dtype=jnp.float32)
        members = own.sum(axis=0)
        sums = jnp.matmul(own.T, points, precision="highest")
        means = sums / jnp.maximum(members, 1)[:, None]
        return _fill_empty(means, members, squares)

    def _fill_empty(means: Array, members: Array, squares: Array) -> Array:
        """One empty centroid of each bucket takes the bucket's farthest image."""
        distance = jnp.where(foreign.T, -jnp.inf, squares[None])  # [K N]
        farthest = points[jnp.argmax(distance, axis=1)]
        numbers = jnp.arange(count, dtype=jnp.int32)
        empty = members == 0
        before = (owner[:, None] == owner[None, :]) & (numbers[None, :] < numbers[:, None])
        first = empty & ~jnp.any(before & empty[None, :], axis=1)
        return jnp.where(first[:, None], farthest, means)

    def unsettled(state: tuple) -> Array:
        _, nearest, _, last, step = state
        return jnp.any(nearest != last) & (step < MAX_ITERATIONS)

    def iterate(state: tuple) -> tuple:
        centroids, nearest, squares, _, step = state
        centroids = move(centroids, nearest, squares)
        return (centroids, *assign(centroids), nearest, step + 1)

    state = (centroids, *assign(centroids), jnp.full(bucket.shape, -1, jnp.int32), 0)
    centroids, nearest, *_ = jax.lax.while_loop(unsettled, iterate, state)
    return centroids, nearest


def _summarise(
    embeddings: np.ndarray, scores: np.ndarray, assignment: np.ndarray, owner: np.ndarray
) -> Clusters:
    """Means of the members, in float64; centroids without members are dropped."""
    members = np.bincount(assignment, minlength=len(owner))
    sums = np.zeros((len(owner), embeddings.shape[1]))
    np.add.at(sums, assignment, embeddings.astype(np.float64))
    score_sums = np.bincount(assignment, weights=scores.astype(np.float64), minlength=len(owner))
    kept = members > 0
    return Clusters(
        centroids=(sums[kept] / members[kept, None]).astype(np.float32),
        scores=(score_sums[kept] / members[kept]).astype(np.float32),
        buckets=owner[kept],
        members=members[kept],
        assignment=(np.cumsum(kept) - 1)[assignment],
    )
