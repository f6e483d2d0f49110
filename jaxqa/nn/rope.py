"""Rotary position embeddings: rotations from positions, applied to queries and keys."""

import jax.numpy as jnp
import numpy as np

from jaxqa.typing import Array, Float, Int

Rotation = tuple[Array, Array]
"""Cosines and sines, float32, of one angle per pair of features."""


def inverse_frequencies(features: int, theta: float) -> Float[np.ndarray, " A"]:
    """Return the `features / 2` angular speeds theta^(-2i/features), as HF computes them."""
    exponents = np.arange(0, features, 2, dtype=np.float32) / np.float32(features)
    return (1.0 / np.float32(theta) ** exponents).astype(np.float32)


def axial_rotation(positions: Int[Array, "*B 2"], *, head_dim: int, theta: float) -> Rotation:
    """Return [*B head_dim/2] rotations: half the pairs turn with the row, half with the column.

    HF `Qwen2_5_VLVisionRotaryEmbedding`.
    """
    speeds = jnp.asarray(inverse_frequencies(head_dim // 2, theta))
    angles = positions.astype(jnp.float32)[..., None] * speeds.reshape(
        (1,) * positions.ndim + (-1,)
    )
    angles = angles.reshape(*positions.shape[:-1], head_dim // 2)
    return jnp.cos(angles), jnp.sin(angles)


def multimodal_rotation(
    positions: Int[Array, "B 3 S"], *, head_dim: int, theta: float, sections: tuple[int, int, int]
) -> Rotation:
    """Return M-RoPE rotations [B S head_dim/2]: each section of pairs follows its own axis.

    HF `Qwen2_5_VLRotaryEmbedding`.
    """
    speeds = jnp.asarray(inverse_frequencies(head_dim, theta))
    axis = np.repeat(np.arange(3), sections)
    followed = positions.astype(jnp.float32)[:, axis, :].swapaxes(1, 2)  # [B S head_dim/2]
    angles = followed * speeds[None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def text_rotation(positions: Int[Array, "B T"], *, head_dim: int, theta: float) -> Rotation:
    """Return rotations [B T head_dim/2] of tokens whose three M-RoPE positions are equal."""
    speeds = jnp.asarray(inverse_frequencies(head_dim, theta))
    angles = positions.astype(jnp.float32)[..., None] * speeds[None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[Array, "... H"], rotation: Rotation) -> Float[Array, "... H"]:
    """Turn each pair (i, i + H/2) of `x`, in float32; HF `apply_rotary_pos_emb`.

    The rotation has the rank of `x` and broadcasts against it.
    """
    cos, sin = rotation
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
