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

Aggregation = Literal["sequence_mean", "token_mean"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrpoConfig:
    """The policy loss.

    Attributes:
      clip_low: the ratio is clipped below at 1 - clip_low, in (0, 1].
      clip_high: the ratio is clipped above at 1 + clip_high, above 0.
      beta: weight of the KL penalty; 0 means no reference is needed.
      aggregation: mean over each completion's tokens, then over completions ("sequence_mean"), or
        one mean over all tokens of the rollout batch ("token_mean").
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    beta: float = 0.0
    aggregation: Aggregation = "sequence_mean"

    def __post_init__(self) -> None:
        if not 0 < self.clip_low <= 1:
            raise ValueError(f"clip_low is {self.clip_low}, expected a number in (0, 1]")
        if not (self.clip_high > 0 and math.isfinite(self.clip_high)):
            raise ValueError(f"clip_high is {self.clip_high}, expected a finite number above 0")
        if not (self.beta >= 0 and math.isfinite(self.beta)):
            raise ValueError(f"beta is {self.beta}, expected a finite number of at least 0")
        if self.aggregation not in get_args(Aggregation):
            raise ValueError(
                f"aggregation is {self.aggregation!r}, expected one of {get_args(Aggregation)}"
            )


def loss_normalizer(mask: Bool[Array, "B G T"], config: GrpoConfig) -> Float[Array, ""]:
    """Return what the loss over the rollout batch `mask` is divided by, as a float32 scalar.

    The number of completions that have a token ("sequence_mean") or of tokens ("token_mean").
    Compute it on the whole rollout batch and hand it to every micro-batch.
    """
    if config.aggregation == "sequence_mean":
        return mask.any(axis=-1).sum(dtype=jnp.float32)
    return mask.sum(dtype=jnp.float32)


def grpo_loss(
    log_probs: Float[Array, "B G T"],
    old_log_probs: Float[Array, "B G T"] | None,
    ref_log_probs: Float[Array, "B G T"] | None,
    advantages: Float[Array, "B G"],
    mask: Bool[Array, "B G T"],
    config: GrpoConfig,
    *,
    normalizer: Float[Array, ""],
    entropies: Float[Array, "B G T"] | None = None,
) -> tuple[Float[Array, ""], dict[str, states.Mean]]:
    """Return the loss (float32 scalar) and metrics that merge exactly over micro-batches.

    Without `old_log_probs` (the first update after a rollout) the ratio is exactly 1 and only its
    gradient remains. `normalizer` is `loss_normalizer` of the whole rollout batch: the losses of
    its micro-batches add up to the loss of the batch. Only `log_probs` receives a gradient. Masked
    positions may hold anything. Metrics: policy_loss, clip_fraction, ratio, completion_length; kl
    with a reference; entropy with `entropies`.
    """
    if config.beta > 0 and ref_log_probs is None:
        raise ValueError(f"beta is {config.beta}, which needs ref_log_probs; they are None")
    log_probs = jnp.where(mask, log_probs.astype(jnp.float32), 0.0)
    old_log_probs = log_probs if old_log_probs is None else old_log_probs
    ratio = jnp.exp(log_probs - _constant(old_log_probs, mask))
    policy, clipped = _clipped_policy_loss(ratio, jax.lax.stop_gradient(advantages), config)
    per_token = {"policy_loss": policy}
    if ref_log_probs is not None:
        gap = _constant(ref_log_probs, mask) - log_probs
        per_token["kl"] = jnp.expm1(gap) - gap
    sums = {name: _aggregate(values, mask, config) for name, values in per_token.items()}

    loss = sums["policy_loss"] / normalizer
    if config.beta > 0:
        loss += config.beta * sums["kl"] / normalizer
    weight = loss_normalizer(mask, config)
    metrics = {name: states.Mean(total=total, weight=weight) for name, total in sums.items()}
    metrics |= _token_metrics(ratio, clipped, entropies, mask)
    return loss, jax.lax.stop_gradient(metrics)


def _constant(log_probs: jax.Array, mask: jax.Array) -> jax.Array:
    """The values without their gradient, and 0 where masked, so that no pad can overflow."""
    return jax.lax.stop_gradient(jnp.where(mask, log_probs.astype(jnp.float32), 0.0))


def _clipped_policy_loss(
    ratio: jax.Array, advantages: jax.Array, config: GrpoConfig
) -> tuple[jax.Array, jax.Array]:
    """The policy loss of each token, and where the clip cut off its gradient, [B G T]."""
    advantages = advantages.astype(jnp.float32)[..., None]
    unclipped = ratio * advantages
    clipped = jnp.clip(ratio, 1 - config.clip_low, 1 + config.clip_high) * advantages
    return -jnp.minimum(unclipped, clipped), clipped < unclipped


def _aggregate(values: jax.Array, mask: jax.Array, config: GrpoConfig) -> jax.Array:
    """The sum that `loss_normalizer` turns into a mean."""
    values = jnp.where(mask, values, 0.0)
    if config.aggregation == "sequence_mean":
        lengths = mask.sum(axis=-1, dtype=jnp.float32)
        return (values.sum(axis=-1) / jnp.maximum(lengths, 1.0)).sum()
    return values.sum()


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
