"""How a token is chosen from logits: temperature, truncation, and one draw per row.

Every truncation here keeps the tokens whose logit reaches a threshold, so no vocabulary is ever
sorted: thresholds are found by bisection over the bit patterns of the floats, 32 passes over the
logits for the exact value.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxqa.sampling.config import SamplingConfig
from jaxqa.typing import Array, Bool, Float, Int


def choose(
    logits: Float[Array, "B G V"], uniforms: Float[Array, "B G 2"], config: SamplingConfig
) -> tuple[Int[Array, "B G"], Float[Array, "B G"], Float[Array, "B G"]]:
    """Choose one token per row; return tokens, their log-probabilities, the rows' entropies.

    Log-probability and entropy are those of softmax(logits / temperature), in float32, before
    truncation; greedy takes the best token and reports at temperature 1. A row's token depends on
    the row and its two uniforms only.
    """
    if config.temperature > 0:
        logits = logits / config.temperature
    shifted = logits - logits.max(-1, keepdims=True)
    weights = jnp.exp(shifted)
    total = weights.sum(-1)
    log_total = jnp.log(total)
    # One dot, not a product and its sum: XLA's CPU adds up the latter ten times as slowly (0.10.2).
    entropies = log_total - jnp.vecdot(weights, shifted, precision="highest") / total
    if config.temperature == 0:
        tokens = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    else:
        keep = keep_mask(logits, top_k=config.top_k, top_p=config.top_p, min_p=config.min_p)
        tokens = draw(jnp.where(keep, weights, 0.0), uniforms)
    log_probs = jnp.take_along_axis(shifted, tokens[..., None], axis=-1)[..., 0] - log_total
    return tokens, log_probs, entropies


def keep_mask(
    logits: Float[Array, "*N V"], *, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> Bool[Array, "*N V"]:
    """Tokens that survive top-k, then top-p, then min-p; True = keep.

    `logits` are already divided by the temperature: the order is Hugging Face's
    (`TemperatureLogitsWarper`, `TopKLogitsWarper`, `TopPLogitsWarper`, `MinPLogitsWarper`), and
    each step sees the distribution that the step before it renormalised. Tokens that tie with the
    last one kept are kept too. The best token is always kept.

    Args:
      logits: float32.
      top_k: keep the k best; 0 keeps all.
      top_p: keep a token if all better ones together have probability below it, in (0, 1];
        1 keeps all.
      min_p: keep tokens with at least `min_p` times the probability of the best; 0 keeps all.
    """
    best = logits.max(-1, keepdims=True)
    keep = jnp.ones(logits.shape, bool)
    if 0 < top_k < logits.shape[-1]:
        keep = _keep_top_k(logits, top_k)
    if top_p < 1:
        keep = _keep_top_p(logits, jnp.where(keep, jnp.exp(logits - best), 0.0), top_p)
    if min_p > 0:
        keep &= logits >= best + math.log(min_p)
    return keep


def _keep_top_k(logits: Array, top_k: int) -> Array:
    order = _ordered_integers(logits)

    def enough(threshold: Array) -> Array:
        return (order >= threshold).sum(-1, keepdims=True) >= top_k

    return order >= _last_true(enough, logits)


def _keep_top_p(logits: Array, weights: Array, top_p: float) -> Array:
    order = _ordered_integers(logits)
    mass = top_p * weights.sum(-1, keepdims=True)

    def reaches(threshold: Array) -> Array:
        better = jnp.where(order > threshold, weights, 0.0)
        return better.sum(-1, keepdims=True) >= mass

    return (order > _last_true(reaches, logits)) & (weights > 0)


def _ordered_integers(values: Array) -> Array:
    """Map float32 to int32 in the same order (-0.0 just below 0.0)."""
    bits = jax.lax.bitcast_convert_type(values, jnp.int32)
    return jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)


def _last_true(predicate: Callable[[Array], Array], like: Array) -> Array:
    """Find, per row of `like`, the largest int32 for which a predicate is true.

    The predicate, [..., 1] to [..., 1], turns false once as its argument grows; where it is never
    true, the answer is the smallest int32.
    """
    start = jnp.full((*like.shape[:-1], 1), jnp.iinfo(jnp.int32).min, jnp.int32)

    def halve(index: Array, found: Array) -> Array:
        # Bit 31 comes first: added to the smallest int32 it wraps to 0, the middle of the range.
        trial = found + jax.lax.shift_left(jnp.int32(1), jnp.int32(31) - index)
        return jnp.where(predicate(trial), trial, found)

    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(32), halve, start)


def draw(weights: Float[Array, "*N V"], uniforms: Float[Array, "*N 2"]) -> Int[Array, "*N"]:
    """Draw one index per row with probability proportional to its weight.

    The inverse of the cumulative distribution, in two levels: the first uniform picks a block of
    about sqrt(V) neighbouring tokens by the blocks' sums, the second a token within the block.
    This needs one pass over the weights and two random numbers per row, where Gumbel-max needs V.
    No running sum is longer than sqrt(V), so with 152,000 tokens every probability is right to
    about 1e-6 (float32 Gumbel noise, which ends at 16.6, is no better). A token of weight 0 is
    never drawn.

    Args:
      weights: float32, not negative, at least one positive per row; need not sum to 1.
      uniforms: float32 in [0, 1).
    """
    *rows, vocabulary = weights.shape
    width = math.isqrt(vocabulary - 1) + 1
    padding = [(0, 0)] * len(rows) + [(0, -vocabulary % width)]
    blocks = jnp.pad(weights, padding).reshape(*rows, -1, width)
    block = _invert(blocks.sum(-1), uniforms[..., 0])
    inside = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]
    return block * width + _invert(inside, uniforms[..., 1])


def _invert(weights: Array, uniform: Array) -> Array:
    """First index of positive weight whose running sum exceeds `uniform` times the total."""
    # A parallel running sum is not exactly monotonic in floating point; leaving out zero weights
    # and taking the maximum as the total guarantee that an index exists and has a positive weight.
    running = jnp.where(weights > 0, jnp.cumsum(weights, axis=-1), 0.0)
    target = uniform * running.max(-1)
    return jnp.argmax(running > target[..., None], axis=-1).astype(jnp.int32)
