"""The two products of attention, in one precision for every backend written here."""

import jax.numpy as jnp

from jaxqa.typing import Array, Bool, Float

_MASKED = -1e30  # finite: a query that sees no key at all gets a mean, not a NaN


def scores(
    query: Float[Array, "*B Q H"], key: Float[Array, "*B S H"], mask: Bool[Array, "..."]
) -> Float[Array, "*B Q S"]:
    """Return scaled float32 scores, very low where `mask` is False."""
    products = jnp.einsum("...qh,...sh->...qs", query, key, preferred_element_type=jnp.float32)
    # Added, not selected: nothing of the size of the scores is kept for the backward pass.
    return products * query.shape[-1] ** -0.5 + jnp.where(mask, 0.0, _MASKED)


def mix(weights: Float[Array, "*B Q S"], value: Float[Array, "*B S H"]) -> Float[Array, "*B Q H"]:
    """Return the weighted sums of values, accumulated in float32."""
    return jnp.einsum(
        "...qs,...sh->...qh", weights.astype(value.dtype), value, preferred_element_type=jnp.float32
    )
