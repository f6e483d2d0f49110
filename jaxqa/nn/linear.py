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


def matmul(x: Float[Array, "B D"], kernel: Float[Array, "D F"]) -> Float[Array, "B F"]:
    """`x @ kernel` in the dtype of `x`; the gradient of `kernel` comes in the kernel's own."""
    return x @ kernel if x.dtype == kernel.dtype else _cast_matmul(x, kernel)


@jax.custom_vjp
def _cast_matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel.astype(x.dtype)


# Left to itself, the backward pass of a scan over layers keeps every layer's cast kernel: a whole
# copy of the model. It is told to keep the kernel as it came, which is in memory anyway.
def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # Not `_cast_matmul` itself: a rematerialisation policy must see the product.
    return x @ kernel.astype(x.dtype), (x, kernel)


def _backward(kept: tuple[jax.Array, jax.Array], slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    d_kernel = jnp.matmul(x.T, slope, preferred_element_type=jnp.float32)
    return slope @ kernel.astype(x.dtype).T, d_kernel.astype(kernel.dtype)


_cast_matmul.defvjp(_forward, _backward)


class Linear(nnx.Module):
    """`x @ kernel + bias` over the last axis, in the dtype of `x`.

    `kernel` is [in out], the transpose of torch's `weight`. `nn/lora.py` may add an adapter to it.
    """

    lora_a: nnx.Param
    lora_b: nnx.Param
    lora_scale: float | None = None

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
        y = matmul(rows, jnp.asarray(self.kernel[...]))  # outside a jit it may be NumPy's
        if self.lora_scale is not None:
            y = y + self.lora_scale * matmul(matmul(rows, self.lora_a[...]), self.lora_b[...])
        if self.use_bias:
            y = y + self.bias[...].astype(x.dtype)[None]
        return constrain_rows(y).reshape(*x.shape[:-1], -1)
