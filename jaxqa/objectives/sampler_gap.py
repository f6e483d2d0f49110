"""How far the trainer's log-probabilities lie from the sampler's, for the same tokens.

Both are those of the same policy, so any gap comes from rounding: other shapes, kernels, dtypes.
Where it is not small, the first update's ratio of 1 is not what the tokens were drawn with.
"""

import jax
import jax.numpy as jnp

from jaxqa.metrics import states
from jaxqa.typing import Array, Bool, Float


@jax.jit
def sampler_gap(
    log_probs: Float[Array, "B G T"],
    sampler_log_probs: Float[Array, "B G T"],
    mask: Bool[Array, "B G T"],
) -> dict[str, jax.Array | states.Mean]:
    """Return metrics of `log_probs`, the trainer's before its first update on these tokens.

    sampler_gap: mean absolute difference, nats per token. sampler_gap_max: the largest.
    sampler_kl: the k3 estimate of KL(sampler || trainer), exp(d) - 1 - d with d the trainer's
    minus the sampler's, mean per token. Masked positions may hold anything.
    """
    gap = jnp.where(mask, log_probs - sampler_log_probs, 0.0).astype(jnp.float32)
    return {
        "sampler_gap": states.masked_mean(jnp.abs(gap), mask),
        "sampler_gap_max": jnp.abs(gap).max(),
        "sampler_kl": states.masked_mean(jnp.expm1(gap) - gap, mask),
    }
