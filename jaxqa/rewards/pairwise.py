"""Rewards for ranking images as their labels do: one core, of which the published ones are options.

Completion k of image i is compared with every other image j of its pool and task:

    z = (q_ik - mean_j) / sqrt(v_i + v_j + variance_epsilon)      p = link(z)
    reward = mean over j of gain(p, wanted), in which wanted is what the labels say of i against j

`mean` and `v` are over the scores that could be read.
"""

import dataclasses
import functools
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxqa.rewards.answers import Answers, Targets, scorable
from jaxqa.typing import Array, Bool, Float

Link = Literal["probit", "logistic"]
Variance = Literal["bessel", "population", "none"]
Ties = Literal["half", "win"]
Gain = Literal["fidelity", "cross_entropy"]

# Scores and labels beyond this are taken as this: float32 can still square and add them.
_LARGEST = 1e15


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairwiseRule:
    """What a pair of images earns.

    Attributes:
      label_range: differences of scores and labels are divided by it; the other options are in
        this unit (`variance_epsilon` in its square).
      link: from standardised difference to probability: Phi or the logistic function.
      variance: of an image's scores: over n - 1, over n, or taken as 0.
      variance_epsilon: added to the variances; with "none" the square of a temperature.
      ties: what equal labels want: probability a half, or a win of both.
      label_temperature: what different labels want: at 0 a win of the higher, above 0 the
        probability sigmoid(label difference / label_temperature), for equal labels too.
      distance_scale: a pair weighs exp(-|label difference| / distance_scale); at 0 all the same.
      gain: from the two probabilities to a reward, see `fidelity` and `cross_entropy`.
      gain_epsilon: of that function.
      min_scores: an image with fewer readable scores forms no pairs.
    """

    label_range: float = 1.0
    link: Link = "probit"
    variance: Variance = "bessel"
    variance_epsilon: float = 1e-6
    ties: Ties = "half"
    label_temperature: float = 0.0
    distance_scale: float = 0.0
    gain: Gain = "fidelity"
    gain_epsilon: float = 1e-6
    min_scores: int = 2

    def __post_init__(self):
        if not 1e-6 <= self.label_range <= 1e15:
            raise ValueError(
                f"label_range is {self.label_range}, expected a number from 1e-6 to 1e15"
            )
        # The bound keeps differences of `_LARGEST`, so divided, finite.
        if not 1e-30 <= self.variance_epsilon < math.inf:
            raise ValueError(
                f"variance_epsilon is {self.variance_epsilon}, expected a finite number above 1e-30"
            )
        for name in ("label_temperature", "distance_scale"):
            value = getattr(self, name)
            if not (value == 0 or 1e-15 <= value < math.inf):
                raise ValueError(f"{name} is {value}, expected 0 or a finite number above 1e-15")
        lowest = 1e-30 if self.gain == "cross_entropy" else 0.0
        if not lowest <= self.gain_epsilon < 0.5:
            raise ValueError(
                f"gain_epsilon is {self.gain_epsilon}, expected a number of at least {lowest} "
                f"and below 0.5 for {self.gain}"
            )
        if self.min_scores < 1:
            raise ValueError(f"min_scores is {self.min_scores}, expected at least 1")


class ScoreStatistics(NamedTuple):
    """Mean and variance of each image's readable scores.

    The mean is kept as `base + offset`, so that the difference of nearly equal scores is exact.

    Attributes:
      base: float32 [N], one of the scores.
      offset: float32 [N], mean minus base.
      variance: float32 [N], 0 for fewer than two scores.
    """

    base: jax.Array
    offset: jax.Array
    variance: jax.Array


@functools.partial(jax.jit, static_argnames="rule")
def pairwise(answers: Answers, targets: Targets, rule: PairwiseRule) -> Float[Array, "N G"]:
    """Return each completion's reward against the other images of its pool and task.

    A completion without a score earns 0 and is left out of mean and variance. A row without a
    label or without a partner earns 0, see `pair_mask`.
    """
    readable = scorable(answers, targets)
    scores = jnp.where(readable, jnp.clip(answers.score, -_LARGEST, _LARGEST), 0.0)
    statistics = score_statistics(scores, readable, rule.variance)
    variances = statistics.variance / rule.label_range**2
    spread = jnp.sqrt(variances[:, None] + variances[None, :] + rule.variance_epsilon)  # [N N]
    difference = _label_difference(targets, rule)
    wanted = preference(difference, rule)
    pairs = pair_mask(answers, targets, min_scores=rule.min_scores)
    weights = pair_weights(jnp.abs(difference), pairs, rule)

    def earned(completion: jax.Array) -> jax.Array:  # one of each image [N] against all [N N]
        # Subtract first: nearly equal scores differ exactly, their shares of the range would not.
        above = completion[:, None] - statistics.base[None, :] - statistics.offset[None, :]
        win, loss = probabilities(above / (rule.label_range * spread), rule.link)
        gain = _GAINS[rule.gain](win, loss, wanted, rule.gain_epsilon)
        return jnp.sum(gain * weights, axis=1)

    # One completion after another: [N N G] at once is slower and takes more memory.
    rewards = jax.lax.map(earned, scores.T).T
    return jnp.where(readable & pairs.any(axis=1)[:, None], rewards, 0.0)


def can_pair(answers: Answers, targets: Targets, *, min_scores: int = 2) -> Bool[Array, " N"]:
    """Rows with a label and enough readable scores to be compared."""
    return scorable(answers, targets).sum(axis=1) >= min_scores


def pair_mask(answers: Answers, targets: Targets, *, min_scores: int = 2) -> Bool[Array, "N N"]:
    """Which rows are compared: two of one pool and one task that both can be."""
    able = can_pair(answers, targets, min_scores=min_scores)
    pool, task = targets.pool, targets.task
    together = (pool[:, None] == pool[None, :]) & (task[:, None] == task[None, :])
    others = ~jnp.eye(able.shape[0], dtype=bool)
    return together & others & able[:, None] & able[None, :]


def score_statistics(
    scores: Float[Array, "N G"], readable: Bool[Array, "N G"], variance: Variance
) -> ScoreStatistics:
    """Mean and variance of each row's readable scores."""
    first = jnp.argmax(readable, axis=1, keepdims=True)
    base = jnp.take_along_axis(scores, first, axis=1)  # [N 1]
    count = readable.sum(axis=1).astype(jnp.float32)
    relative = jnp.where(readable, scores - base, 0.0)
    offset = relative.sum(axis=1) / jnp.maximum(count, 1.0)
    squares = jnp.where(readable, jnp.square(relative - offset[:, None]), 0.0).sum(axis=1)
    freedom = {"bessel": count - 1.0, "population": count, "none": jnp.full_like(count, jnp.inf)}
    spread = squares / jnp.maximum(freedom[variance], 1.0)
    return ScoreStatistics(base[:, 0], offset, spread)


def probabilities(z: jax.Array, link: Link) -> tuple[jax.Array, jax.Array]:
    """(p, 1 - p) of standardised differences, the smaller one with full precision."""
    size = jnp.abs(z)
    if link == "probit":
        tail = 0.5 * jax.lax.erfc(size * math.sqrt(0.5))
    else:
        tail = jax.nn.sigmoid(-size)
    positive = z > 0
    return jnp.where(positive, 1 - tail, tail), jnp.where(positive, tail, 1 - tail)


def preference(difference: jax.Array, rule: PairwiseRule) -> jax.Array:
    """The wanted probability that the first image wins, of its label minus the other's."""
    if rule.label_temperature:
        return jax.nn.sigmoid(difference / rule.label_temperature)
    tie = 0.5 if rule.ties == "half" else 1.0
    return jnp.where(difference > 0, 1.0, jnp.where(difference < 0, 0.0, tie))


def pair_weights(distance: jax.Array, pairs: jax.Array, rule: PairwiseRule) -> jax.Array:
    """Weights of each row's pairs, which sum to 1; all 0 in a row without pairs."""
    if rule.distance_scale:
        # Relative to the nearest partner: however far all are, their weights do not vanish.
        nearest = jnp.min(distance, axis=1, keepdims=True, where=pairs, initial=jnp.inf)
        weights = jnp.where(pairs, jnp.exp((nearest - distance) / rule.distance_scale), 0.0)
    else:
        weights = jnp.asarray(pairs, jnp.float32)
    return weights / jnp.maximum(weights.sum(axis=1, keepdims=True), 1.0)


def fidelity(win: jax.Array, loss: jax.Array, wanted: jax.Array, epsilon: float) -> jax.Array:
    """sqrt(p g + epsilon) + sqrt((1 - p) (1 - g) + epsilon): largest where p equals g."""
    won = jnp.sqrt(win * wanted + epsilon)
    return won + jnp.sqrt(loss * (1 - wanted) + epsilon)


def cross_entropy(win: jax.Array, loss: jax.Array, wanted: jax.Array, epsilon: float) -> jax.Array:
    """1 minus the cross-entropy as a share of the largest, probabilities kept off 0 by epsilon."""
    surprise = wanted * _surprise(win, epsilon) + (1 - wanted) * _surprise(loss, epsilon)
    return jnp.maximum(1 - surprise / -math.log(epsilon), 0.0)


def _surprise(probability: jax.Array, epsilon: float) -> jax.Array:
    return -jnp.log(jnp.clip(probability, epsilon, 1 - epsilon))


_GAINS = {"fidelity": fidelity, "cross_entropy": cross_entropy}


def _label_difference(targets: Targets, rule: PairwiseRule) -> jax.Array:
    """Label of each row minus that of each other, finite, in units of the label range."""
    labels = jnp.nan_to_num(targets.score, nan=0.0, posinf=0.0, neginf=0.0)
    labels = jnp.clip(labels, -_LARGEST, _LARGEST)
    return (labels[:, None] - labels[None, :]) / rule.label_range
