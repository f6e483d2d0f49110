"""Token embedding table."""

import jax.numpy as jnp
from flax import nnx

from jaxqa.nn.linear import draw
from jaxqa.sharding import BATCH_AXES, constrain, is_split
from jaxqa.typing import Array, Float, Int


class Embedding(nnx.Module):
    """Rows of a [V D] table, looked up by token id; ids must lie inside the table."""

    def __init__(
        self, vocab_size: int, features: int, *, stddev: float, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        shape = (vocab_size, features)
        self.embedding = nnx.Param(draw(rngs, shape, stddev=stddev, dtype=dtype))

    def __call__(self, token_ids: Int[Array, "..."], *, dtype: jnp.dtype) -> Float[Array, "... D"]:
        """Look up rows and return them as `dtype`."""
        # Rows are cast after the lookup: the whole table is never copied.
        if not is_split("data", "fsdp"):
            return jnp.take(self.embedding[...], token_ids, axis=0, mode="clip").astype(dtype)
        # Each device looks up its columns for the rows of all that share its place along `data`,
        # then they exchange columns for rows. Left to itself, XLA puts the rows of all together.
        ids = constrain(token_ids, "data")
        found = jnp.take(self.embedding[...], ids, axis=0, mode="clip").astype(dtype)
        columns = constrain(found, "data", *(None,) * (found.ndim - 2), "fsdp")
        return constrain(columns, BATCH_AXES, *(None,) * (found.ndim - 1))
