"""Affine maps whose parameters keep their own dtype and are cast where they are used."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxqa.sharding import constrain_rows
from jaxqa.typing import Array, Float


def draw(
    rngs: nnx.Rngs, shape: tuple[int, ...], *, stddev: float, dtype: jnp.dtype
) -> Float[Array, "..."]:
    """Draw a normal matrix in float32 and store it as `dtype`."""
    return (stddev * jax.random.normal(rngs.params(), shape, jnp.float32)).astype(dtype)


class Linear(nnx.Module):
    """`x @ kernel + bias` over the last axis, in the dtype of `x`.

    `kernel` is [in out], the transpose of torch's `weight`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool,
        stddev: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        shape = (in_features, out_features)
        self.kernel = nnx.Param(draw(rngs, shape, stddev=stddev, dtype=dtype))
        self.use_bias = use_bias
        if use_bias:
            self.bias = nnx.Param(jnp.zeros((out_features,), dtype))

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """Map the last axis."""
        rows = constrain_rows(x.reshape(-1, x.shape[-1]))
        y = rows @ self.kernel[...].astype(x.dtype)
        if self.use_bias:
            y = y + self.bias[...].astype(x.dtype)[None]
        return constrain_rows(y).reshape(*x.shape[:-1], -1)
