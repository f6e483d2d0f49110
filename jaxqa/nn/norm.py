"""Root-mean-square and layer normalisation."""

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


class LayerNorm(nnx.Module):
    """Shift and scale the last axis to zero mean and unit variance, in float32."""

    def __init__(self, features: int, *, epsilon: float, dtype: jnp.dtype):
        self.weight = nnx.Param(jnp.ones((features,), dtype))
        self.bias = nnx.Param(jnp.zeros((features,), dtype))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Normalise the last axis, in the dtype of `x`."""
        x32 = x.astype(jnp.float32)
        centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        scale = lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + self.epsilon)
        shape = (1,) * (x.ndim - 1) + (-1,)
        weight, bias = (p[...].astype(jnp.float32).reshape(shape) for p in (self.weight, self.bias))
        return (centred * scale * weight + bias).astype(x.dtype)
