"""A checksum of parameters, computed where they are."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxqa import tree
from jaxqa.typing import Params

_WORDS = {2: jnp.uint16, 4: jnp.uint32}


def checksum(params: Params) -> dict[str, int]:
    """By path: the bits of each leaf as numbers, each times its place, summed modulo 2 ** 32.

    Sums of integers come out the same in any order, so the mesh and the device do not matter.
    """
    return {path: int(_sum(leaf)) for path, leaf in tree.flatten(params).items()}


@jax.jit
def _sum(leaf: jax.Array) -> jax.Array:
    words = jax.lax.bitcast_convert_type(leaf, _WORDS[leaf.dtype.itemsize]).astype(jnp.uint32)
    for axis in range(leaf.ndim):
        place = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        words = words * (2 * place + np.uint32(2 * axis + 1))  # odd: no bit is lost
    return words.sum(dtype=jnp.uint32)
