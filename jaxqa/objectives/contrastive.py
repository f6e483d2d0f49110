"""Losses that pull each image's embedding to its own text's and away from the batch's others.

All are over the whole batch that they are given: rows of images may be spread over devices (the
logits are then spread the same way, and only the texts' embeddings are gathered), and the result
is that of one device.
"""

import math

import jax
import jax.numpy as jnp

from jaxqa.typing import Array, Float

MAX_LOG_SCALE = math.log(100.0)
"""Largest log scale of the logits; CLIP was trained with this bound (arXiv 2103.00020, 2.5)."""

Metrics = dict[str, Array]


def similarities(
    images: Float[Array, "B E"], texts: Float[Array, "C E"], log_scale: Float[Array, "..."]
) -> Float[Array, "B C"]:
    """Return scaled cosines of unit embeddings; the scale stops at `MAX_LOG_SCALE`."""
    scale = jnp.exp(jnp.minimum(log_scale.astype(jnp.float32).reshape(1, 1), MAX_LOG_SCALE))
    return scale * jnp.einsum("be,ce->bc", images, texts, preferred_element_type=jnp.float32)


def symmetric_loss(
    images: Float[Array, "B E"], texts: Float[Array, "B E"], *, log_scale: Float[Array, "..."]
) -> tuple[Float[Array, ""], Metrics]:
    """CLIP's loss: cross-entropy of image to text and of text to image, half each.

    Args:
        images: unit embeddings of the images.
        texts: unit embeddings of their texts, in the same order.
        log_scale: log of the inverse temperature, one number.

    Returns:
        The mean over the batch, and "accuracy": how often an image's own text is the nearest.
    """
    logits = similarities(images, texts, log_scale)
    own = jnp.diagonal(logits)
    to_text = jax.nn.logsumexp(logits, axis=1) - own
    to_image = jax.nn.logsumexp(logits, axis=0) - own
    return 0.5 * (to_text.mean() + to_image.mean()), {"accuracy": _accuracy(logits)}


def sigmoid_loss(
    images: Float[Array, "B E"],
    texts: Float[Array, "B E"],
    *,
    log_scale: Float[Array, "..."],
    bias: Float[Array, "..."],
) -> tuple[Float[Array, ""], Metrics]:
    """SigLIP's loss: each pair on its own is told to be one or not (arXiv 2303.15343, 3.2).

    Args:
        images: unit embeddings of the images.
        texts: unit embeddings of their texts, in the same order.
        log_scale: log of the inverse temperature, one number.
        bias: added to the logits, one number.

    Returns:
        The sum over texts, mean over images, and "accuracy" as in `symmetric_loss`.
    """
    cosines = similarities(images, texts, log_scale)
    logits = cosines + bias.astype(jnp.float32).reshape(1, 1)
    sign = 2 * jnp.eye(*logits.shape, dtype=jnp.float32) - 1
    loss = -jax.nn.log_sigmoid(sign * logits).sum(axis=1).mean()
    return loss, {"accuracy": _accuracy(logits)}


def _accuracy(logits: Float[Array, "B B"]) -> Float[Array, ""]:
    nearest = jnp.argmax(logits, axis=1)
    return jnp.mean((nearest == jnp.arange(len(logits), dtype=nearest.dtype)).astype(jnp.float32))
