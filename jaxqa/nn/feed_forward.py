"""Gated feed-forward layer."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxqa.nn.linear import Linear
from jaxqa.typing import Array, Float


class GatedFeedForward(nnx.Module):
    """down(silu(gate(x)) * up(x)); HF `Qwen2_5_VLMLP`."""

    def __init__(
        self,
        features: int,
        hidden_features: int,
        *,
        use_bias: bool,
        stddev: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        options = {"use_bias": use_bias, "stddev": stddev, "dtype": dtype, "rngs": rngs}
        self.gate_proj = Linear(features, hidden_features, **options)
        self.up_proj = Linear(features, hidden_features, **options)
        self.down_proj = Linear(hidden_features, features, **options)

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """Apply to the last axis."""
        return self.down_proj(jax.nn.silu(self.gate_proj(x)) * self.up_proj(x))
