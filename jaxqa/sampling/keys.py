"""Random keys that name a sample, not its place in a batch."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxqa import sharding
from jaxqa.typing import Array, Float, Int, Key

IMPLEMENTATION = "threefry2x32"
"""Named, so that a user's `jax_default_prng_impl` cannot change what a seed means."""


def sample_keys(
    seed: int,
    stage: str,
    step: int,
    example_ids: Int[np.ndarray, "_"],
    num_samples: int,
    *,
    mesh: Mesh | None = None,
) -> Key[Array, "B G"]:
    """Keys of `num_samples` completions for each example.

    A key is a function of (seed, stage, step, example id, completion index) alone: shuffling,
    splitting or sharding the batch moves keys, and changes none. Completion index g has the same
    key whatever `num_samples` is.

    Args:
      seed: of the run, in [0, 2**32).
      stage: name of the stage; its CRC-32 is folded in.
      step: of the stage, in [0, 2**32).
      example_ids: any int64; all 64 bits count.
      num_samples: completions per example, G.
      mesh: devices that share the rows; `example_ids` are then those of this process's rows. None
        leaves all on the default device.
    """
    for name, value in (("seed", seed), ("step", step)):
        if not 0 <= value < 2**32:
            raise ValueError(f"{name} is {value}; expected an integer in [0, 2**32)")
    words = example_ids.astype(np.int64).view(np.uint64)
    high = (words >> np.uint64(32)).astype(np.uint32)
    low = (words & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    run = np.array([seed, zlib.crc32(stage.encode()), step], np.uint32)
    # Explicit transfers, which the training loop's transfer guard allows.
    if mesh is None:
        return _derive(*jax.device_put((run, high, low)), num_samples)
    rows = sharding.shard_rows((high, low), mesh)
    return _derive(sharding.replicate(run, mesh), *rows, num_samples)


@functools.partial(jax.jit, static_argnames="num_samples")
def _derive(run: Array, high: Array, low: Array, num_samples: int) -> Array:
    key = jax.random.key(run[0], impl=IMPLEMENTATION)
    for part in (run[1], run[2]):
        key = jax.random.fold_in(key, part)

    def of_completion(high: Array, low: Array, index: Array) -> Array:
        example = jax.random.fold_in(jax.random.fold_in(key, high), low)
        return jax.random.fold_in(example, index)

    # One flat axis, here and below: nested vmaps take several times as long to compile.
    shape = (high.shape[0], num_samples)
    indices = jnp.tile(jnp.arange(num_samples, dtype=jnp.uint32), shape[0])
    flat = jax.vmap(of_completion)(
        jnp.repeat(high, num_samples), jnp.repeat(low, num_samples), indices
    )
    return flat.reshape(shape)


def token_uniforms(
    keys: Key[Array, "B G"], length: int, *, start: int = 0
) -> Float[Array, "B G T 2"]:
    """Two uniforms in [0, 1) for each of `length` tokens from token `start` on.

    Token t of a completion draws with fold_in(key, t), so they do not depend on `length` and
    `start`, and can be made at once before decoding.
    """

    def of_token(key: Array, index: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(key, index), (2,), jnp.float32)

    flat = jnp.repeat(keys.reshape(-1), length)
    indices = jnp.tile(jnp.arange(start, start + length, dtype=jnp.uint32), keys.size)
    return jax.vmap(of_token)(flat, indices).reshape(*keys.shape, length, 2)
