"""Group-relative policy optimisation: the clipped policy loss with a KL penalty (k3 estimator).

Per token, with ratio r = exp(log pi - log pi_old) and advantage A of its completion:

    -min(r A, clip(r, 1 - low, 1 + high) A) + beta (exp(ref - log pi) - (ref - log pi) - 1)
"""

import dataclasses
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxqa.metrics import states
from jaxqa.typing import Array, Bool, Float

Aggregation = Literal["sequence_mean", "token_mean", "dr_grpo"]
RatioLevel = Literal["token", "sequence"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrpoConfig:
    """The policy loss.

    Attributes:
      ratio_level: a ratio of its own for each token ("token"), or for each completion the
        geometric mean of them ("sequence": GSPO).
      clip_low: a token's ratio is clipped below at 1 - clip_low, in (0, 1].
      clip_high: a token's ratio is clipped above at 1 + clip_high, above 0; DAPO's clip-higher is
        a clip_high above clip_low.
      sequence_clip_low, sequence_clip_high: the same for a completion's ratio, which stays much
        nearer to 1; the defaults are GSPO's.
      beta: weight of the KL penalty; 0 means no reference is needed.
      aggregation: how tokens become one number. "sequence_mean": mean over each completion's
        tokens, then over completions (GRPO, and all published systems). "token_mean": one mean
        over all tokens of the rollout batch (DAPO). "dr_grpo": sum over each completion's tokens
        over the longest possible length, then mean over completions, so that no completion's
        tokens weigh less for being many (Dr. GRPO).
    """

    ratio_level: RatioLevel = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    sequence_clip_low: float = 3e-4
    sequence_clip_high: float = 4e-4
    beta: float = 0.0
    aggregation: Aggregation = "sequence_mean"

    def __post_init__(self) -> None:
        for name in ("clip_low", "sequence_clip_low"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a number in (0, 1]")
        for name in ("clip_high", "sequence_clip_high"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, expected a finite number above 0"
                )
        if not (self.beta >= 0 and math.isfinite(self.beta)):
            raise ValueError(f"beta is {self.beta}, expected a finite number of at least 0")
        for name, choices in (("aggregation", Aggregation), ("ratio_level", RatioLevel)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, expected one of {get_args(choices)}"
                )

    @property
    def ratio_range(self) -> tuple[float, float]:
        """Least and largest ratio that still has a gradient on its far side."""
        if self.ratio_level == "token":
            return 1 - self.clip_low, 1 + self.clip_high
        return 1 - self.sequence_clip_low, 1 + self.sequence_clip_high


def loss_normalizer(
    mask: Bool[Array, "B G T"], config: GrpoConfig, *, max_length: int
) -> Float[Array, ""]:
    """Return what the loss over the rollout batch `mask` is divided by, as a float32 scalar.

    The number of completions that have a token ("sequence_mean"), that times `max_length`
    ("dr_grpo"), or the number of tokens ("token_mean"); 1 where there are none. Compute it on the
    whole rollout batch and hand it to every micro-batch.

    Args:
      max_length: tokens of the longest completion that could have been sampled, which `mask` may
        have been cut below.
    """
    if config.aggregation == "token_mean":
        count = mask.sum(dtype=jnp.float32)
    else:
        count = mask.any(axis=-1).sum(dtype=jnp.float32)
    return jnp.maximum(count, 1.0) * (max_length if config.aggregation == "dr_grpo" else 1)


def grpo_loss(
    log_probs: Float[Array, "B G T"],
    old_log_probs: Float[Array, "B G T"] | None,
    ref_log_probs: Float[Array, "B G T"] | None,
    advantages: Float[Array, "B G"],
    mask: Bool[Array, "B G T"],
    config: GrpoConfig,
    *,
    normalizer: Float[Array, ""],
    gate: Bool[Array, "B G T"] | None = None,
    entropies: Float[Array, "B G T"] | None = None,
) -> tuple[Float[Array, ""], dict[str, jax.Array | states.Mean]]:
    """Return the loss (float32 scalar) and metrics that add up exactly over micro-batches.

    Without `old_log_probs` (the first update after a rollout) the ratio is exactly 1 and only its
    gradient remains. `normalizer` is `loss_normalizer` of the whole rollout batch: the losses of
    its micro-batches add up to the loss of the batch. Where `gate` is False a token has no policy
    loss, but still its KL penalty and its place in the normaliser. Only `log_probs` receives a
    gradient. Masked positions may hold anything.

    Metrics: policy_loss (its part of the loss) and, as means over tokens, clip_fraction and ratio;
    completion_length; kl with a reference; gate_fraction with a gate; entropy with `entropies`.
    """
    if config.beta > 0 and ref_log_probs is None:
        raise ValueError(f"beta is {config.beta}, which needs ref_log_probs; they are None")
    log_probs = jnp.where(mask, log_probs.astype(jnp.float32), 0.0)
    old_log_probs = log_probs if old_log_probs is None else old_log_probs
    ratio = _ratio(log_probs, _constant(old_log_probs, mask), mask, config)
    policy, clipped = _clipped_policy_loss(ratio, jax.lax.stop_gradient(advantages), config)
    counted = mask if gate is None else mask & gate
    loss = _aggregate(policy, counted, mask, config) / normalizer
    metrics: dict[str, jax.Array | states.Mean] = {"policy_loss": loss}
    if ref_log_probs is not None:
        gap = _constant(ref_log_probs, mask) - log_probs
        kl = jnp.expm1(gap) - gap
        metrics["kl"] = states.masked_mean(kl, mask)
        if config.beta > 0:
            loss += config.beta * _aggregate(kl, mask, mask, config) / normalizer
    if gate is not None:
        metrics["gate_fraction"] = states.masked_mean(gate.astype(jnp.float32), mask)
    metrics |= _token_metrics(ratio, clipped, entropies, mask)
    return loss, jax.lax.stop_gradient(metrics)


def _constant(log_probs: jax.Array, mask: jax.Array) -> jax.Array:
    """The values without their gradient, and 0 where masked, so that no pad can overflow."""
    return jax.lax.stop_gradient(jnp.where(mask, log_probs.astype(jnp.float32), 0.0))


def _ratio(
    log_probs: jax.Array, old_log_probs: jax.Array, mask: jax.Array, config: GrpoConfig
) -> jax.Array:
    """Ratio at each token, [B G T]; both log-probabilities are 0 where masked.

    At "sequence" level all tokens of a completion have its ratio, each with the gradient of its
    own log-probability. With one advantage per completion the sum over tokens has the gradient of
    the completion's ratio, and a gate can still tell tokens apart.
    """
    log_ratio = log_probs - old_log_probs
    if config.ratio_level == "token":
        return jnp.exp(log_ratio)
    lengths = mask.sum(axis=-1, keepdims=True, dtype=jnp.float32)
    mean = log_ratio.sum(axis=-1, keepdims=True) / jnp.maximum(lengths, 1.0)
    unit = jnp.exp(log_probs - jax.lax.stop_gradient(log_probs))
    return jax.lax.stop_gradient(jnp.exp(mean)) * unit


def _clipped_policy_loss(
    ratio: jax.Array, advantages: jax.Array, config: GrpoConfig
) -> tuple[jax.Array, jax.Array]:
    """The policy loss of each token, and where the clip cut off its gradient, [B G T]."""
    advantages = advantages.astype(jnp.float32)[..., None]
    unclipped = ratio * advantages
    clipped = jnp.clip(ratio, *config.ratio_range) * advantages
    return -jnp.minimum(unclipped, clipped), clipped < unclipped


def _aggregate(
    values: jax.Array, counted: jax.Array, mask: jax.Array, config: GrpoConfig
) -> jax.Array:
    """The sum over `counted` tokens that `loss_normalizer` of `mask` turns into a mean."""
    sums = jnp.where(counted, values, 0.0).sum(axis=-1)
    if config.aggregation == "sequence_mean":
        sums /= jnp.maximum(mask.sum(axis=-1, dtype=jnp.float32), 1.0)
    return sums.sum()


def _token_metrics(
    ratio: jax.Array, clipped: jax.Array, entropies: jax.Array | None, mask: jax.Array
) -> dict[str, states.Mean]:
    lengths = mask.sum(axis=-1, dtype=jnp.float32)
    metrics = {
        "ratio": states.masked_mean(ratio, mask),
        "clip_fraction": states.masked_mean(clipped.astype(jnp.float32), mask),
        "completion_length": states.masked_mean(lengths, lengths > 0),
    }
    if entropies is not None:
        metrics["entropy"] = states.masked_mean(entropies, mask)
    return metrics
