"""Adam whose moments are stored in bfloat16: 4 bytes per parameter in place of 8."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxqa.typing import Array, Float, UInt

_SEED = 0x5EED
"""Of the rounding; the step makes it another at each update, and nothing else does."""

_FACTORS = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F)
"""Odd and unrelated, one for each axis."""


def scale_by_bfloat16_adam(
    *, beta1: float, beta2: float, epsilon: float
) -> optax.GradientTransformation:
    """`optax.scale_by_adam` in float32, whose moments m and v are bfloat16 between the steps.

    m is rounded to the nearest: it moves by a tenth at each step. v moves by a thousandth at most
    (`beta2` 0.999) while neighbouring bfloat16 numbers are 0.4 to 0.8 % apart: rounded to the
    nearest it would never come down again after large gradients. So it is rounded up or down at
    random, in proportion, with bits that depend on the step and on the place in the tree alone; a
    resumed run draws the same.
    """

    def init(params: Any) -> optax.ScaleByAdamState:
        def zeros() -> Any:
            return jax.tree.map(lambda leaf: jnp.zeros_like(leaf, jnp.bfloat16), params)

        return optax.ScaleByAdamState(count=jnp.zeros((), jnp.int32), mu=zeros(), nu=zeros())

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, optax.ScaleByAdamState]:
        del params
        count = state.count + 1
        step = count.astype(jnp.float32)
        correction1, correction2 = 1 - beta1**step, 1 - beta2**step
        leaves, structure = jax.tree.flatten(updates)
        key = jax.random.fold_in(jax.random.key(_SEED), count)
        seeds = jax.random.bits(key, (len(leaves),), jnp.uint32)
        steps, mu, nu = [], [], []
        moments = zip(jax.tree.leaves(state.mu), jax.tree.leaves(state.nu), strict=True)
        for grad, (old_m, old_v), seed in zip(leaves, moments, seeds, strict=True):
            g = grad.astype(jnp.float32)
            m = beta1 * old_m.astype(jnp.float32) + (1 - beta1) * g
            v = beta2 * old_v.astype(jnp.float32) + (1 - beta2) * jnp.square(g)
            steps.append(m / correction1 / (jnp.sqrt(v / correction2) + epsilon))
            mu.append(m.astype(jnp.bfloat16))
            nu.append(round_at_random(v, seed))
        steps, mu, nu = (jax.tree.unflatten(structure, part) for part in (steps, mu, nu))
        return steps, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)


def round_at_random(x: Float[Array, "..."], seed: UInt[Array, ""]) -> Float[Array, "..."]:
    """float32 -> one of the two nearest bfloat16, each as likely as it is near: x on average."""
    # A bfloat16 is the upper half of a float32: a random lower half carries in proportion.
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + (_noise(x.shape, seed) >> 16)
    kept = bits & jnp.uint32(0xFFFF0000)
    return jax.lax.bitcast_convert_type(kept, jnp.float32).astype(jnp.bfloat16)


def _noise(shape: tuple[int, ...], seed: UInt[Array, ""]) -> UInt[Array, "..."]:
    """Random uint32 from each element's place: MurmurHash3's last steps, on a seeded count.

    `jax.random.bits` would hold several arrays of this shape in memory on a GPU, where it is a
    kernel of its own; this is arithmetic that the compiler joins with the rounding.
    """
    h = jnp.broadcast_to(seed, shape)
    for axis, factor in zip(range(len(shape)), itertools.cycle(_FACTORS)):
        h = h + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(factor)
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)
