"""Root-mean-square normalisation."""

import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxqa.typing import Array, Float


class RMSNorm(nnx.Module):
    """Scale the last axis to unit root mean square, in float32; HF `Qwen2_5_VLRMSNorm`."""

    def __init__(self, features: int, *, epsilon: float, dtype: jnp.dtype):
        self.weight = nnx.Param(jnp.ones((features,), dtype))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Normalise the last axis, in the dtype of `x`."""
        # Squares of bfloat16 activations lose too many digits.
        x32 = x.astype(jnp.float32)
        scale = lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.epsilon)
        weight = self.weight[...].astype(jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))
        return (x32 * scale * weight).astype(x.dtype)
