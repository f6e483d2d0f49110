"""Supervised fine-tuning: cross-entropy of given completions."""

import jax
import jax.numpy as jnp

from jaxqa.typing import Array, Bool, Float


def sft_loss(
    log_probs: Float[Array, "B G T"], mask: Bool[Array, "B G T"]
) -> tuple[Float[Array, ""], jax.Array]:
    """Return (negative log-likelihood summed over the masked tokens, number of those tokens).

    Both are float32 scalars; the stop token belongs in the mask. Divide by the token count of the
    whole batch, and the losses of micro-batches add up to the loss of the batch.
    """
    kept = jnp.where(mask, log_probs.astype(jnp.float32), 0.0)
    return -kept.sum(), mask.sum(dtype=jnp.float32)
