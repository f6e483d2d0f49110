"""The score basis: an embedding's cosines to K vectors become weights of K scores.

score = map(sum_i softmax_i(cos(components^T (embedding - mean), vectors_i) / temperature) scores_i)

With temperature 1, as the RALI paper writes it, cosines between -1 and 1 make weights that differ
by at most e^2. A fitted basis then needs scores far outside the range of labels to spread its
answers, which is why the range is a matter of the output mapping, not of the scores.
"""

import dataclasses
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxqa.distill.kmeans import Clusters
from jaxqa.distill.pca import Pca
from jaxqa.distill.triplets import ScoreRange
from jaxqa.errors import UserError
from jaxqa.models.clip.model import unit
from jaxqa.typing import Array, Float, Params

Loss = Literal["squared", "absolute"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BasisConfig:
    """How the basis is fitted to labels.

    Attributes:
        fit: whether it is; otherwise it stays what clustering made.
        fit_projection: whether the projection is fitted too.
        temperature: divides the cosines.
        loss: squared or absolute difference of score and label.
        learning_rate: of Adam, at the start; it falls to 0 along a cosine.
        steps: optimizer steps.
        batch_size: images of a step; 0 for all of them.
        calibrate: whether the output mapping's line is fitted to the labels (least squares) at
            the end; otherwise it is the identity.
        clip: whether answers outside the range become its ends.
    """

    fit: bool = True
    fit_projection: bool = False
    temperature: float = 1.0
    loss: Loss = "squared"
    learning_rate: float = 3e-2
    steps: int = 2000
    batch_size: int = 0
    calibrate: bool = False
    clip: bool = True

    def __post_init__(self):
        for name in ("temperature", "learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; expected a positive number")
        if self.steps < 1 or self.batch_size < 0:
            raise ValueError(
                f"steps={self.steps}, batch_size={self.batch_size}: expected at least 1 and 0"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputMapping:
    """From the weighted sum to the answer: `slope * sum + intercept`, clipped or not.

    Attributes:
        low: lowest answer of the range.
        high: highest answer of the range.
        slope: factor.
        intercept: addend.
        clip: whether answers outside the range become its ends.
    """

    low: float
    high: float
    slope: float = 1.0
    intercept: float = 0.0
    clip: bool = True

    def __post_init__(self):
        ScoreRange(low=self.low, high=self.high)
        if not (math.isfinite(self.slope) and math.isfinite(self.intercept)):
            raise ValueError(
                f"slope={self.slope}, intercept={self.intercept}: expected finite numbers"
            )

    def __call__(self, sums: Float[Array, "..."]) -> Float[Array, "..."]:
        """Map weighted sums to answers."""
        answers = self.slope * sums + self.intercept
        return jnp.clip(answers, self.low, self.high) if self.clip else answers


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreBasis:
    """A fitted basis.

    Attributes:
        params: float32 "mean" [D], "components" [D M], "vectors" [K M], "scores" [K].
        temperature: divides the cosines.
        mapping: from weighted sums to answers.
    """

    params: Params
    temperature: float
    mapping: OutputMapping

    def __call__(self, embeddings: Float[Array, "N E"]) -> Float[Array, " N"]:
        """Answers of unit embeddings."""
        return self.mapping(weighted_sums(self.params, embeddings, temperature=self.temperature))


def start_params(pca: Pca, clusters: Clusters) -> Params:
    """The basis that clustering made, bit for bit."""
    return {
        "mean": pca.mean,
        "components": pca.components,
        "vectors": clusters.centroids,
        "scores": clusters.scores,
    }


def weighted_sums(
    params: Params, embeddings: Float[Array, "N E"], *, temperature: float
) -> Float[Array, " N"]:
    """Sum of the basis scores by the softmax of cosines, before the output mapping; float32."""
    params = jax.tree.map(jnp.asarray, params)
    # Float32 products on every device: they cost nothing beside the image tower.
    dot = functools.partial(jnp.matmul, precision="highest")
    centred = embeddings.astype(jnp.float32) - params["mean"][None]
    cosines = dot(unit(dot(centred, params["components"])), unit(params["vectors"]).T)
    return dot(jax.nn.softmax(cosines / temperature, axis=-1), params["scores"])


def fit_basis(
    params: Params,
    embeddings: Float[np.ndarray, "N E"],
    labels: Float[np.ndarray, " N"],
    *,
    score_range: ScoreRange,
    config: BasisConfig,
    seed: int = 0,
) -> tuple[ScoreBasis, Float[np.ndarray, " steps"]]:
    """Fit a basis to labels, starting from `params`.

    Returns:
        The basis, and the loss before each step (empty without fitting).

    Raises:
        UserError: the loss was not finite.
    """
    arrays = jnp.asarray(embeddings, jnp.float32), jnp.asarray(labels, jnp.float32)
    losses = np.zeros(0, np.float32)
    params = jax.tree.map(jnp.asarray, params)
    if config.fit:
        params, found = _descend(params, *arrays, jax.random.key(seed), config=config)
        losses = np.asarray(found)
        if not np.isfinite(losses).all():
            raise UserError(
                f"the basis' loss was {losses[~np.isfinite(losses)][0]} at step "
                f"{int((~np.isfinite(losses)).argmax())}; lower learning_rate"
            )
    mapping = OutputMapping(low=score_range.low, high=score_range.high, clip=config.clip)
    if config.calibrate:
        sums = np.asarray(weighted_sums(params, arrays[0], temperature=config.temperature))
        slope, intercept = _line(sums, labels)
        mapping = dataclasses.replace(mapping, slope=slope, intercept=intercept)
    return ScoreBasis(params=params, temperature=config.temperature, mapping=mapping), losses


@functools.partial(jax.jit, static_argnames="config")
def _descend(
    params: Params,
    embeddings: Float[Array, "N E"],
    labels: Float[Array, " N"],
    key: Array,
    *,
    config: BasisConfig,
) -> tuple[Params, Float[Array, " steps"]]:
    """Adam on vectors and scores (and the projection), all steps in one loop."""
    trained = (
        ("components", "vectors", "scores") if config.fit_projection else ("vectors", "scores")
    )
    fixed = {name: leaf for name, leaf in params.items() if name not in trained}
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))
    count = embeddings.shape[0]
    size = min(config.batch_size, count) or count

    def loss(part: Params, rows: Array) -> Array:
        found = weighted_sums(part | fixed, embeddings[rows], temperature=config.temperature)
        gaps = found - labels[rows]
        return jnp.mean(jnp.abs(gaps) if config.loss == "absolute" else jnp.square(gaps))

    def step(carry: tuple, number: Array) -> tuple[tuple, Array]:
        part, state = carry
        rows = jnp.arange(count)
        if size < count:
            epoch, place = number // (count // size), number % (count // size)
            order = jax.random.permutation(jax.random.fold_in(key, epoch), count)
            rows = jax.lax.dynamic_slice_in_dim(order, place * size, size)
        value, grads = jax.value_and_grad(loss)(part, rows)
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to int32 counts
            updates, state = optimizer.update(grads, state, part)
        return (optax.apply_updates(part, updates), state), value

    part = {name: params[name] for name in trained}
    start = (part, optimizer.init(part))
    (part, _), losses = jax.lax.scan(step, start, jnp.arange(config.steps))
    return part | fixed, losses


def _line(sums: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Least-squares slope and intercept, in float64; slope 1 where the sums are all the same."""
    x, y = sums.astype(np.float64), labels.astype(np.float64)
    spread = np.square(x - x.mean()).sum()
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / spread) if spread > 0 else 1.0
    return slope, float(y.mean() - slope * x.mean())
